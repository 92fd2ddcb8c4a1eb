"""Let a model answer, and measure how far it has moved from its reference. Shown in notebook 04."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from toylib.logps import vocabulary_logps
from toylib.tokens import prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# `generate` takes every setting that is not passed from the model's own generation_config, so all of them are passed.
NOTHING_CUT = {"top_k": 0, "top_p": 1.0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
NOTHING_SHIFTED = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_new_tokens": 0, "num_beams": 1}


class Replies(NamedTuple):
    """Sampled replies: their texts, and the tensors that `sequence_logps` takes, each `(replies, length)`."""

    texts: list[str]
    input_ids: Tensor
    attention_mask: Tensor
    completion_mask: Tensor


@torch.no_grad()
def sample_replies(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Iterable[Any], *,
    temperature: float = 1.0, max_new_tokens: int = 80, seed: int = 0,
) -> Replies:  # fmt: skip
    """Sample one reply to each prompt at `temperature` (0 takes the likeliest token each time).

    `prompts` are texts, or lists of messages for the tokenizer's chat template; their ids are those of `tokenize_pairs`.
    No token is cut from the distribution (top-k, top-p, min-p and the like are off) and no penalty shifts it, also where
    the model's own settings ask for it. At temperature 1 the replies are therefore samples of π itself. Lists of tokens
    that a model's settings suppress or bias stay in force. A reply ends with the first end id, the tokenizer's or any
    of `model.generation_config.eos_token_id`, or after `max_new_tokens`. The texts keep their leading space and come in
    the order of the prompts. The same seed gives the same replies; the global random state stays as it was.
    """
    from toylib.engine.arguments import check_sampling

    check_sampling(model, tokenizer, prompts, temperature, max_new_tokens)
    ids, pad = [prompt_ids(prompt, tokenizer) for prompt in prompts], tokenizer.pad_token_id or 0  # never read
    if not (ids and all(ids)):
        raise ValueError("every prompt needs a token, and there must be one prompt at least")
    prompt_length = max(map(len, ids))
    padded = torch.tensor([[pad] * (prompt_length - len(row)) + row for row in ids], device=model.device)
    seen = torch.tensor([[0] * (prompt_length - len(row)) + [1] * len(row) for row in ids], device=model.device)
    ends = end_ids(model, tokenizer)
    how: dict[str, Any] = {"max_new_tokens": max_new_tokens, "pad_token_id": pad, "do_sample": temperature > 0}
    if temperature > 0:
        how |= {"temperature": temperature, **NOTHING_CUT}
        if getattr(model.generation_config, "min_p", None):
            how["min_p"] = 0.0  # not always: it sorts the vocabulary at every token
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        how |= {"eos_token_id": ends or None, **NOTHING_SHIFTED}
        input_ids = model.generate(input_ids=padded, attention_mask=seen, **how)
    ended = torch.isin(input_ids[:, prompt_length:], torch.tensor(ends, device=model.device)).long()
    scored = (ended.cumsum(dim=1) - ended == 0).long()  # up to and with the first end
    completion_mask = torch.cat([torch.zeros_like(seen), scored], dim=1)
    attention_mask = torch.cat([seen, scored], dim=1)
    texts = [_reply_text(tokenizer, row, input_ids[i][completion_mask[i].bool()]) for i, row in enumerate(ids)]
    return Replies(texts, input_ids, attention_mask, completion_mask)


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that end a reply: the tokenizer's EOS, and those that the model's generation config names."""
    own = model.generation_config.eos_token_id
    return sorted({tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None})


def _reply_text(tokenizer: PreTrainedTokenizerBase, prompt: list[int], reply: Tensor) -> str:
    """The text of reply ids as it goes on after the prompt's, with the space between them where there is one."""
    kept = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    before, whole = (tokenizer.decode(ids, **kept) for ids in (prompt, [*prompt, *reply.tolist()]))
    return whole[len(before) :] if whole.startswith(before) else tokenizer.decode(reply, **kept)


@torch.no_grad()
def kl_to_reference(
    policy: PreTrainedModel, reference: PreTrainedModel, replies: Replies, batch_size: int = 64
) -> tuple[float, float]:
    """Return `(KL, standard error)`: KL(πθ ‖ πref) in nats per reply, from the policy's replies at temperature 1.

    KL = E_{y ~ πθ} Σ_t Σ_v πθ(v | y_<t) · [log πθ(v | y_<t) − log πref(v | y_<t)], the sum over t running over the
    scored tokens of each reply. Summing over the whole vocabulary at each step, rather than scoring only the token
    that was drawn, has the same mean, a far smaller variance, and is never negative (Amini et al. 2025,
    arXiv 2504.10637). The standard error is that of the mean over replies.
    """
    per_reply = []
    for ids, mask, scored in zip(*(t.split(batch_size) for t in replies[1:]), strict=True):
        ours, theirs = (vocabulary_logps(model, ids, mask, torch.float64) for model in (policy, reference))
        per_token = (ours.exp() * (ours - theirs)).sum(dim=-1)
        per_reply += torch.where(scored[:, 1:].bool(), per_token, 0.0).sum(dim=1).tolist()
    values = torch.tensor(per_reply, dtype=torch.float64)
    return values.mean().item(), values.std().item() / math.sqrt(len(values))
