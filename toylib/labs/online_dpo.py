"""Online DPO: the policy samples its own pairs while it trains. Shown in notebook 07."""

from __future__ import annotations

import math
import time

import torch

from toylib.labs.loops import check_counts, end_on_interrupt, history_table, trainable_copy
from toylib.labs.ppo import check_prompts
from toylib.labs.reward_model import checked_scores
from toylib.loss import LossSettings
from toylib.reference import frozen_copy
from toylib.replies import end_ids, sample_replies
from toylib.tokens import collate, tokenize_pairs
from toylib.train import batch_loss, batches, optimizer_step, progress_line


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
    2402.04792). `history` is as `train_dpo`'s, with the number of `pairs` and of sampled `tokens`; the callbacks,
    interrupts and errors are as in `train_ppo`.
    """
    settings = LossSettings(beta)
    check_counts(steps=steps, batch_size=batch_size, max_new_tokens=max_new_tokens)
    check_prompts(prompts)
    policy, reference = trainable_copy(model), frozen_copy(model)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, weight_decay=0.0)
    history, started = [], time.monotonic()
    with end_on_interrupt(history, steps):
        for step, indices in enumerate(batches(len(prompts), batch_size, steps, seed), start=1):
            how = {"max_new_tokens": max_new_tokens, "seed": 100_000 * seed + step}
            pairs, replies = ranked_pairs(policy, tokenizer, [prompts[i] for i in indices], scorer, **how)
            if on_replies is not None:
                on_replies(step, replies)
            metrics = {"loss": math.nan}
            if pairs:
                batch = collate(tokenize_pairs(pairs, tokenizer), tokenizer.pad_token_id, policy.device)
                loss, metrics = batch_loss(policy, reference, batch, settings)
                optimizer_step(loss, optimizer, policy, f"step {step}")
            metrics |= {"pairs": len(pairs), "tokens": int(replies.completion_mask.sum())}
            if on_step is not None:
                on_step(step, metrics, policy)
            history.append({"step": step, **metrics})
            progress_line(f"online DPO step {step}/{steps}  loss {metrics['loss']:.3f}", step, steps, started)
    return policy, history_table(history)
