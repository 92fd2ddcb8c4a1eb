"""From pairs of texts to tensors: render, tokenise, cut to length, put side by side in a batch."""

from __future__ import annotations

import torch

from toylib.preferences import FIELDS


def tokenize_pairs(pairs, tokenizer, max_length=1024):
    """Token ids of each pair: a list of dicts with `prompt`, `chosen`, `rejected` (lists of ints) and `number` (from 1).

    Prompt and reply are tokenised apart, as they are when the model answers, and each reply ends with the
    end-of-sequence token. A prompt that leaves the longer reply too little of `max_length` is cut from its left; a
    pair with a reply that leaves no room for any prompt is dropped; both are counted and printed, and none left is
    a `ValueError`. So is a tokenizer without an end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-sequence token: set tokenizer.eos_token")
    rows, cut, dropped = [], 0, 0
    for number, pair in enumerate(pairs, start=1):
        prompt, chosen, rejected = _token_ids(pair, tokenizer)
        if not prompt:
            raise ValueError(f"row {number}: the prompt has no token, and the tokenizer no BOS to stand for it")
        room = max_length - max(len(chosen), len(rejected))
        if room < 1:
            dropped += 1
            continue
        cut += len(prompt) > room
        rows.append({"number": number, "prompt": prompt[-room:], "chosen": chosen, "rejected": rejected})
    if cut:
        print(f"{cut} of {len(pairs)} prompts cut from the left to fit max_length={max_length}")
    if dropped:
        print(f"{dropped} of {len(pairs)} pairs dropped: a reply alone is longer than max_length={max_length} allows")
    if not rows:
        raise ValueError(f"no pair fits max_length={max_length}: every chosen or rejected reply alone is too long")
    return rows


def collate(rows, pad_token_id, device="cpu"):
    """A batch of tokenised pairs as tensors for `sequence_logps`: `batch` rows of chosen, then `batch` of rejected.

    Returns a dict of `input_ids`, `attention_mask` and `completion_mask`, each `(2 · batch, length)`, right-padded.
    """
    if pad_token_id is None:
        raise ValueError("the tokenizer has no pad token: set tokenizer.pad_token")
    sequences = [(row["prompt"], row[reply]) for reply in ("chosen", "rejected") for row in rows]
    length = max(len(prompt) + len(reply) for prompt, reply in sequences)
    shape = (len(sequences), length)
    input_ids = torch.full(shape, pad_token_id)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    completion_mask = torch.zeros(shape, dtype=torch.long)
    for i, (prompt, reply) in enumerate(sequences):
        end = len(prompt) + len(reply)
        input_ids[i, :end] = torch.tensor(prompt + reply)
        attention_mask[i, :end] = 1
        completion_mask[i, len(prompt) : end] = 1
    batch = {"input_ids": input_ids, "attention_mask": attention_mask, "completion_mask": completion_mask}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def render_pair(pair, tokenizer) -> list[str]:
    """The texts of prompt, chosen and rejected of a pair of message lists, by the tokenizer's chat template."""
    if not tokenizer.chat_template:
        raise ValueError("the pairs are lists of messages, but the tokenizer has no chat template to render them")
    rendered = [tokenizer.apply_chat_template(pair["prompt"] + pair[name], tokenize=False) for name in FIELDS[1:]]
    prompt = tokenizer.apply_chat_template(pair["prompt"], tokenize=False, add_generation_prompt=True)
    if not all(text.startswith(prompt) for text in rendered):
        raise ValueError("the tokenizer's chat template does not keep the prompt at the start of prompt + reply")
    return [prompt, *(text[len(prompt) :].rstrip("\n") for text in rendered)]


def _token_ids(pair, tokenizer):
    """Ids of prompt, chosen and rejected; the replies with one end-of-sequence token at their end."""
    prompt, *replies = (pair[field] for field in FIELDS)
    if not isinstance(prompt, str):
        prompt, *replies = render_pair(pair, tokenizer)
        prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    else:
        prompt_ids = tokenizer(prompt)["input_ids"]
        if prompt_ids and prompt_ids[-1] == tokenizer.eos_token_id:
            prompt_ids = prompt_ids[:-1]
    if not prompt_ids and tokenizer.bos_token_id is not None:
        prompt_ids = [tokenizer.bos_token_id]
    reply_ids = [tokenizer(reply, add_special_tokens=False)["input_ids"] for reply in replies]
    eos = tokenizer.eos_token_id
    return prompt_ids, *(ids if ids[-1:] == [eos] else ids + [eos] for ids in reply_ids)


def check_vocabulary(model, rows):
    """`ValueError` if a row has a token id that the model has no embedding for: the tokenizer is another model's."""
    size = model.config.get_text_config().vocab_size
    for split, pairs in rows.items():
        for row in pairs:
            highest = max(max(row[field]) for field in ("prompt", "chosen", "rejected"))
            if highest >= size:
                raise ValueError(
                    f"{split} row {row['number']}: the tokenizer gives id {highest}, but the model knows {size} tokens: "
                    "they do not belong together (or the model needs resize_token_embeddings)"
                )
