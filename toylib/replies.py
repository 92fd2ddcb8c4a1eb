"""Let a model answer, and measure how far it has moved from its reference. Shown in notebook 04."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from toylib.logps import vocabulary_logps

# Said one by one, as `generate` takes what it is not told from the model's own generation_config.
NOTHING_CUT = {"top_k": 0, "top_p": 1.0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
NOTHING_SHIFTED = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_new_tokens": 0, "num_beams": 1}


class Replies(NamedTuple):
    """Sampled replies: their texts, and the tensors that `sequence_logps` takes, each `(replies, length)`."""

    texts: list[str]
    input_ids: Tensor
    attention_mask: Tensor
    completion_mask: Tensor


@torch.no_grad()
def sample_replies(model, tokenizer, prompts, *, temperature=1.0, max_new_tokens=80, seed=0) -> Replies:
    """One reply to each prompt, sampled at `temperature` (0 takes the likeliest token each time).

    Nothing is cut from the distribution (top-k, top-p, min-p and their kin are off) or shifted in it (no repetition
    penalty), also where the model's own settings say so: at temperature 1 the replies are samples of π itself. (Lists
    of tokens that a model's settings suppress or bias are left as they are.)
    A reply ends with the end-of-sequence token, or after `max_new_tokens`. The texts keep their leading space; the
    order is that of the prompts. The same seed gives the same replies; the global random state is left as it was.
    """
    encoded = tokenizer(list(prompts), return_tensors="pt", padding=True, padding_side="left").to(model.device)
    how = {"do_sample": False}
    if temperature > 0:
        how = {"do_sample": True, "temperature": temperature, **NOTHING_CUT}
        if getattr(model.generation_config, "min_p", None):
            how["min_p"] = 0.0  # not always: it sorts the vocabulary at every token
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        input_ids = model.generate(
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **NOTHING_SHIFTED,
            **how,
        )
    prompt_length = encoded["input_ids"].shape[1]
    completion_mask = torch.zeros_like(input_ids)
    ended = (input_ids[:, prompt_length:] == tokenizer.eos_token_id).long()
    completion_mask[:, prompt_length:] = (ended.cumsum(dim=1) - ended == 0).long()  # up to and with the first EOS
    attention_mask = completion_mask.clone()
    attention_mask[:, :prompt_length] = encoded["attention_mask"]
    texts = [
        tokenizer.decode(ids[mask.bool()], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for ids, mask in zip(input_ids, completion_mask, strict=True)
    ]
    return Replies(texts, input_ids, attention_mask, completion_mask)


@torch.no_grad()
def kl_to_reference(policy, reference, replies: Replies, batch_size=64) -> tuple[float, float]:
    """`(KL, standard error)`: KL(πθ ‖ πref) in nats per reply, from replies sampled by the policy at temperature 1.

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
