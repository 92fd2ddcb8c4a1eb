"""Online DPO: the policy makes its own pairs as it learns. Notebook 07."""

from __future__ import annotations

import copy
import math
import time

import torch

from toylib.labs.ppo import check_run
from toylib.labs.reward_model import score
from toylib.loss import LossSettings
from toylib.reference import frozen_copy
from toylib.replies import sample_replies
from toylib.tokens import collate, tokenize_pairs
from toylib.train import batch_loss, batches, optimizer_step, progress_line


def ranked_pairs(model, tokenizer, prompts, scorer, *, max_new_tokens=64, seed=0):
    """`(pairs, replies)`: two sampled replies to each prompt, the one with the higher score chosen.

    No pair comes of a tie, of an empty reply, and of one that `max_new_tokens` cut off: a pair's replies end with the
    end-of-sequence token, and nobody ended this one there.
    """
    twice = list(prompts) * 2
    replies = sample_replies(model, tokenizer, twice, max_new_tokens=max_new_tokens, seed=seed)
    ended = ((replies.input_ids == tokenizer.eos_token_id) & replies.completion_mask.bool()).any(dim=1).tolist()
    usable = [whole and bool(text.strip()) for whole, text in zip(ended, replies.texts, strict=True)]
    scores, count, pairs = score(scorer, twice, replies), len(prompts), []
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
):
    """DPO on pairs that the policy makes itself as it learns (Guo et al. 2024, arXiv 2402.04792): `(policy, history)`.

    Each of the `steps` samples two replies to each of `batch_size` prompts from the current policy, lets `scorer` rank
    them, and takes one step of DPO on them. `history` has TRL's names and `pairs`, how many came of it.
    """
    import pandas

    settings = LossSettings(beta)
    check_run(prompts, steps, batch_size)
    policy, reference = copy.deepcopy(model).requires_grad_(True).eval(), frozen_copy(model)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, weight_decay=0.0)
    history, started = [], time.monotonic()
    for step, indices in enumerate(batches(len(prompts), batch_size, steps, seed), start=1):
        asked = [prompts[i] for i in indices]
        how = {"max_new_tokens": max_new_tokens, "seed": 100_000 * seed + step}
        pairs, replies = ranked_pairs(policy, tokenizer, asked, scorer, **how)
        metrics = {"loss": math.nan}
        if pairs:
            batch = collate(tokenize_pairs(pairs, tokenizer), tokenizer.pad_token_id, policy.device)
            loss, metrics = batch_loss(policy, reference, batch, settings)
            optimizer_step(loss, optimizer, policy, f"step {step}")
        metrics |= {"pairs": len(pairs), "tokens": int(replies.completion_mask.sum())}
        if on_step is not None:
            on_step(step, metrics, policy, replies)
        history.append({"step": step, **metrics})
        progress_line(f"online DPO step {step}/{steps}  loss {metrics['loss']:.3f}", step, steps, started)
    return policy, pandas.DataFrame(history).set_index("step")
