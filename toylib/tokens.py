"""From pairs of texts to tensors: render, tokenise, cut to length, put side by side in a batch.

The token ids are those of TRL 1.16 (`DPOTrainer`, `tokenize_fn`). Prompt and reply are tokenised as one text, and the
reply begins where the ids of that text part from the ids of the prompt alone, in the earlier of the two replies. A token
that spans the boundary therefore belongs to the reply. We differ from TRL on purpose in five places:

- There is one BOS, also where a text brings one along and the tokenizer would add another.
- There is one end. A reply that closes itself, by EOS or by its chat template's end of turn, gets no other one, and
  whitespace after it is dropped. Any other reply gets an EOS. Closing tokens that the tokenizer adds are left out.
- A prompt that is too long is cut from its left, behind its BOS. TRL cuts the end of the sequence.
- Two replies of equal tokens, replies that repeat the prompt and replies that end in another role's turn are errors.
- A prompt without a token is a BOS, or an error where the tokenizer has none.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from toylib.preferences import FIELDS, row_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MIN_PROMPT = 8  # tokens
Rows = list[dict[str, Any]]  # tokenised pairs: `prompt`, `chosen`, `rejected` and `number`


def tokenize_pairs(pairs: Iterable, tokenizer: PreTrainedTokenizerBase, max_length: int | None = 1024) -> Rows:
    """Return the token ids of each pair: a list of dicts with `prompt`, `chosen`, `rejected` and `number` (from 1).

    `pairs` are as from `load_preferences`, or a stream of such rows. `tools` and `chat_template_kwargs` of a row go to
    the chat template. A prompt that leaves the longer reply too little of `max_length` tokens (None: no limit) is cut
    from its left. The pair is dropped if less than half of its prompt and fewer than `MIN_PROMPT` tokens would be left.
    Both are counted and printed. Raises `ValueError`, naming the row, for a pair that cannot be tokenised (if `pairs` has
    an attribute `on_bad = "drop"`, it is dropped and counted), if no pair is left, or if the tokenizer has no EOS.
    """
    from toylib.engine.arguments import check_counts, check_row, check_tokenizer
    from toylib.engine.notices import print_dropped, progress_bar
    from toylib.engine.rendering import plain_text_note, print_what_was_cut, template_marks

    check_tokenizer(tokenizer, needs_eos=True)
    check_counts(max_length=1 if max_length is None else max_length)
    rows, kept, refused, systems, number, opening = [], [], [], 0, 0, None
    before_reply, end_of_turn = template_marks(tokenizer)
    for number, pair in enumerate(progress_bar(pairs, "tokenise", delay=5), start=1):
        try:
            check_row(pair)
            if opening is None:
                plain_text_note(pair["prompt"], before_reply)
                text = "" if isinstance(pair["prompt"], list) else "{prompt}{chosen}".format(**pair)
                opening = _opening(text, tokenizer) if text else []
            prompt, chosen, rejected = _token_ids(pair, tokenizer, opening, end_of_turn)
        except ValueError as problem:
            if getattr(pairs, "on_bad", "error") == "error":
                raise ValueError(f"{row_name(pairs, number - 1)}: {problem}") from None
            refused.append(str(problem))
            continue
        room = len(prompt) if max_length is None else max_length - max(len(chosen), len(rejected))
        if room < max(1, min(MIN_PROMPT, (len(prompt) + 1) // 2)):
            continue
        if len(prompt) > room:
            bos = prompt[:1] if prompt[0] == tokenizer.bos_token_id and room > 1 else []
            prompt = bos + prompt[len(prompt) - room + len(bos) :]
            kept.append(room)
            systems += not isinstance(pair["prompt"], str) and pair["prompt"][0]["role"] in ("system", "developer")
        rows.append({"number": number, "prompt": prompt, "chosen": chosen, "rejected": rejected})
    print_what_was_cut(kept, systems, number - len(rows) - len(refused), number, max_length, MIN_PROMPT)
    print_dropped(getattr(pairs, "source_name", "the pairs"), refused)
    if not rows:
        raise ValueError(f"no pair fits max_length={max_length}, or every other one was dropped as a bad row")
    return rows


def prompt_ids(prompt: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of a prompt, a text or a list of messages, as `tokenize_pairs` makes them where nothing is cut."""
    from toylib.engine.rendering import render

    if not isinstance(prompt, str):
        return _ids(render(prompt, tokenizer, add_generation_prompt=True), tokenizer)
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return _ids(prompt, tokenizer, _opening(prompt, tokenizer)) or bos


def pad_id(tokenizer: PreTrainedTokenizerBase, vocabulary_size: int) -> int:
    """Return the id to pad with: the tokenizer's, or EOS where the model has no embedding for that. No loss reads it."""
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has no pad token: set tokenizer.pad_token")
    return tokenizer.pad_token_id if tokenizer.pad_token_id < vocabulary_size else tokenizer.eos_token_id


def collate(
    rows: list[dict[str, Any]], pad_token_id: int | None, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Return tokenised pairs as one batch for `sequence_logps`: `batch` rows of chosen, then `batch` of rejected.

    The result is a dict of `input_ids`, `attention_mask` and `completion_mask`, each `(2 · batch, length)`, right-padded.
    """
    if pad_token_id is None:
        raise ValueError("the tokenizer has no pad token: set tokenizer.pad_token")
    sequences = [(row["prompt"], row[reply]) for reply in ("chosen", "rejected") for row in rows]
    shape = (len(sequences), max(len(prompt) + len(reply) for prompt, reply in sequences))
    input_ids = torch.full(shape, pad_token_id)
    attention_mask, completion_mask = torch.zeros(2, *shape, dtype=torch.long)
    for i, (prompt, reply) in enumerate(sequences):
        end = len(prompt) + len(reply)
        input_ids[i, :end] = torch.tensor(prompt + reply)
        attention_mask[i, :end] = 1
        completion_mask[i, len(prompt) : end] = 1
    batch = {"input_ids": input_ids, "attention_mask": attention_mask, "completion_mask": completion_mask}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def render_pair(pair: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return three texts of a pair of message lists: the prompt, the prompt with chosen, the prompt with rejected."""
    from toylib.engine import rendering

    return rendering.render_pair(pair, tokenizer)


def _token_ids(
    pair: dict[str, Any], tokenizer: PreTrainedTokenizerBase, opening: list[int], end_of_turn: str | None
) -> tuple[list[int], ...]:
    """Ids of prompt, chosen and rejected; the replies with one end. `opening` are the ids before every text."""
    prompt, *replies = (pair[field] for field in FIELDS)
    if {type(part) for part in (prompt, *replies)} not in ({str}, {list}):
        raise ValueError("prompt, chosen and rejected must be all text or all messages: use load_preferences")
    if prompt and all(reply[: len(prompt)] == prompt for reply in replies):
        raise ValueError("chosen and rejected both repeat the prompt: leave it out of the replies")
    if isinstance(prompt, str):
        texts = [prompt, *(prompt + reply for reply in replies)]
        if not (prompt or opening or tokenizer.bos_token_id is None):
            opening = [tokenizer.bos_token_id]
    else:
        texts, opening = render_pair(pair, tokenizer), []
    closings = tuple(filter(None, (end_of_turn, tokenizer.eos_token)))
    for i, text in enumerate(texts[1:], start=1):
        if text.rstrip().endswith(closings) or not isinstance(prompt, str):
            texts[i] = text.rstrip()
    alone, *wholes = (_ids(text, tokenizer, opening) for text in texts)
    start = len(os.path.commonprefix([alone, *wholes]))
    if not start:
        raise ValueError("the prompt has no token of its own, and the tokenizer no BOS to stand for it")
    eos, replies = tokenizer.eos_token_id, []
    for ids, text in zip((whole[start:] for whole in wholes), texts[1:], strict=True):
        closed = end_of_turn and text.endswith(end_of_turn)
        replies.append(ids if closed or ids[-1:] == [eos] else ids + [eos])
    if replies[0] == replies[1]:
        raise ValueError("chosen and rejected are the same tokens once rendered and tokenised")
    return alone[:start], *replies


def _opening(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that the tokenizer puts before a text."""
    plain, full = tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer(text)["input_ids"]
    starts = [k for k in range(len(full) - len(plain) + 1) if full[k : k + len(plain)] == plain]
    return full[: starts[0]] if plain else [i for i in full[:1] if i == tokenizer.bos_token_id]


def _ids(text: str, tokenizer: PreTrainedTokenizerBase, opening: list[int] | tuple[int, ...] = ()) -> list[int]:
    """Ids of a text, with the special tokens `opening` once before it and none behind it."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids if ids[: len(opening)] == list(opening) else [*opening, *ids]


def check_fits(model: PreTrainedModel, rows: dict[str, Rows]) -> None:
    """Raise `ValueError` if the model has no embedding for an id in `rows`, lists by split, or too few positions."""
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None) or math.inf
    for split, row in ((split, row) for split, pairs in rows.items() for row in pairs):
        where, highest = f"{split} row {row['number']}", max(max(row[field]) for field in FIELDS)
        length = len(row["prompt"]) + max(len(row["chosen"]), len(row["rejected"]))
        if highest >= config.vocab_size:
            problem = f"{where}: the tokenizer gives id {highest}, but the model knows {config.vocab_size} tokens"
            raise ValueError(f"{problem}: they do not belong together (or the model needs resize_token_embeddings)")
        if length > limit:
            raise ValueError(f"{where} has {length} tokens, more than the model's {limit} positions: lower max_length")
