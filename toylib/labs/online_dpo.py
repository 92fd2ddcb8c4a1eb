"""Online DPO: the policy samples its own pairs while it trains. Shown in notebook 07."""

from __future__ import annotations

import math

import torch

from toylib.engine.arguments import check_counts
from toylib.labs.loops import check_prompts, sampling_loop, trainable_copy
from toylib.labs.reward_model import checked_scores
from toylib.loss import LossSettings
from toylib.reference import frozen_copy
from toylib.replies import end_ids, sample_replies
from toylib.tokens import collate, tokenize_pairs
from toylib.train import batch_loss, optimizer_step


def ranked_pairs(model, tokenizer, prompts, scorer, *, max_new_tokens=64, seed=0):
    """Sample two replies to each prompt and choose the one with the higher score. Return `(pairs, replies)`.

    A tie gives no pair. Neither does an empty reply, nor one that `max_new_tokens` cut off, because training would add
    an end-of-sequence token that the policy did not sample.
    """
    twice = list(prompts) * 2
    replies = sample_replies(model, tokenizer, twice, max_new_tokens=max_new_tokens, seed=seed)
    ends = torch.tensor(end_ids(model, tokenizer), device=replies.input_ids.device)
    ended = (torch.isin(replies.input_ids, ends) & replies.completion_mask.bool()).any(dim=1).tolist()
    usable = [whole and bool(text.strip()) for whole, text in zip(ended, replies.texts, strict=True)]
    scores, count, pairs = checked_scores(scorer, twice, replies), len(prompts), []
    for i, prompt in enumerate(prompts):
        better, worse = (i, i + count) if scores[i] > scores[i + count] else (i + count, i)
        if scores[better] > scores[worse] and usable[worse] and usable[better]:
            pairs.append({"prompt": prompt, "chosen": replies.texts[better], "rejected": replies.texts[worse]})
    return pairs, replies


def online_dpo(
    model,
    tokenizer,
    prompts,
    scorer,
    *,
    beta=0.1,
    learning_rate=1e-4,
    steps=20,
    batch_size=16,
    max_new_tokens=64,
    seed=0,
    on_step=None,
    on_replies=None,
):
    """Train a copy of `model` by DPO on pairs sampled from it as it trains. Return `(policy, history)`.

    Each of the `steps` takes `ranked_pairs` of `batch_size` prompts and makes one DPO update (Guo et al. 2024, arXiv
    2402.04792). `history` is as `train_dpo`'s, with the number of `pairs` and of the `tokens` sampled so far; the
    callbacks, interrupts and errors are as in `train_ppo`.
    """
    settings = LossSettings(beta)
    check_counts(steps=steps, batch_size=batch_size, max_new_tokens=max_new_tokens)
    check_prompts(prompts)
    policy, reference = trainable_copy(model), frozen_copy(model)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, weight_decay=0.0)

    def take_step(step, asked, sampling_seed):
        how = {"max_new_tokens": max_new_tokens, "seed": sampling_seed}
        pairs, replies = ranked_pairs(policy, tokenizer, asked, scorer, **how)
        metrics = {"loss": math.nan}
        if pairs:
            batch = collate(tokenize_pairs(pairs, tokenizer), tokenizer.pad_token_id, policy.device)
            loss, metrics = batch_loss(policy, reference, batch, settings)
            optimizer_step(loss, optimizer, policy, f"step {step}")
        return replies, metrics | {"pairs": len(pairs)}

    loop = {"steps": steps, "batch_size": batch_size, "seed": seed, "on_step": on_step, "on_replies": on_replies}
    return policy, sampling_loop(take_step, policy, prompts, name="online DPO", **loop)
