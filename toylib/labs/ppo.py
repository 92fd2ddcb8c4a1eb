"""What DPO does without: rollouts, a value model, PPO's clipped updates. And online DPO beside it. Notebook 07.

The recipe is that of Ouyang et al. 2022 (arXiv 2203.02155), on models small enough to watch. Scorers are explained in
`toylib.labs.reward_model`.
"""

from __future__ import annotations

import copy
import math
import time
from typing import NamedTuple

import torch
from torch import Tensor

from toylib.labs.reward_model import ScalarModel, score
from toylib.logps import padded_right, token_logps
from toylib.reference import frozen_copy
from toylib.replies import Replies, sample_replies
from toylib.train import batches, optimizer_step, progress_line


class Rollout(NamedTuple):
    """Replies of the policy as it was, and what was measured on them; tensors `(replies, length − 1)` as `token_logps`."""

    replies: Replies
    scores: Tensor  # (replies,)
    logps: Tensor
    ref_logps: Tensor
    values: Tensor
    mask: Tensor  # 1 on the tokens of the reply


@torch.no_grad()
def rollout(policy, reference, value_model, tokenizer, prompts, scorer, *, max_new_tokens=64, seed=0) -> Rollout:
    """Let the policy answer `prompts` at temperature 1, and everybody look at the answers."""
    replies = packed(sample_replies(policy, tokenizer, prompts, max_new_tokens=max_new_tokens, seed=seed))
    ids, attention = replies.input_ids, replies.attention_mask
    logps, ref_logps = (token_logps(one, ids, attention) for one in (policy, reference))
    values, mask = value_model(ids, attention)[:, :-1], replies.completion_mask[:, 1:].float()
    return Rollout(replies, score(scorer, prompts, replies), logps, ref_logps, values * mask, mask)


def packed(replies: Replies) -> Replies:
    """The same replies with all padding on the right and no column that is padding everywhere: less to compute."""
    attention_mask, *others = padded_right(replies.attention_mask, replies.input_ids, replies.completion_mask)
    width = int(attention_mask.sum(dim=1).max())
    input_ids, completion_mask = others
    return Replies(replies.texts, *(t[:, :width] for t in (input_ids, attention_mask, completion_mask)))


def token_rewards(seen: Rollout, scores, kl_coefficient) -> Tensor:
    """The reward of each token: −kl_coefficient · log-ratio, and at the last one the score too (Ouyang et al., eq. 2)."""
    rewards = -kl_coefficient * (seen.logps - seen.ref_logps) * seen.mask
    is_last = seen.mask * (seen.mask.flip(1).cumsum(dim=1).flip(1) == 1)
    return rewards + is_last * scores.unsqueeze(1)


def advantages(rewards, values, mask, discount=1.0, gae_lambda=0.95) -> tuple[Tensor, Tensor]:
    """`(advantages, returns)`, `(replies, length)`: generalised advantage estimation over the tokens of each reply.

    A_t = δ_t + γλ·A_{t+1}, δ_t = r_t + γ·V_{t+1} − V_t, nothing after the last token (Schulman et al. 2016,
    arXiv 1506.02438, eq. 16). Returns are A + V, what the value model is to predict. Both are 0 where `mask` is.
    """
    result, later = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(later)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + discount * next_value - values[:, t]
        later = (delta + discount * gae_lambda * later) * mask[:, t]
        result[:, t], next_value = later, values[:, t] * mask[:, t]
    return result, (result + values) * mask


def clipped_loss(logps, old_logps, advantages, mask, clip=0.2) -> tuple[Tensor, Tensor]:
    """`(loss, ratio)`: PPO's −mean of min(ratio·A, clip(ratio, 1 ± `clip`)·A) over tokens (Schulman 2017, eq. 7).

    ratio = πθ(token) / π_old(token); the loss is a scalar, the ratio `(replies, length)` (arXiv 1707.06347).
    """
    ratio = (logps - old_logps).exp()
    objective = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -masked_mean(objective, mask), ratio.detach()


def masked_mean(values, mask) -> Tensor:
    return (values * mask).sum() / mask.sum()


def train_ppo(
    model,
    tokenizer,
    prompts,
    scorer,
    *,
    kl_coefficient=0.05,
    learning_rate=3e-4,
    value_learning_rate=1e-3,
    clip=0.2,
    discount=1.0,
    gae_lambda=0.95,
    steps=20,
    batch_size=32,
    epochs=2,
    minibatch_size=32,
    max_new_tokens=64,
    seed=0,
    on_step=None,
):
    """Train a copy of `model` by PPO against `scorer`; returns `(policy, history)`. `model` is left untouched.

    Each of the `steps` samples `batch_size` replies and goes over them `epochs` times in minibatches. Scores are
    standardised by those of the first rollout, which is the reference's own: `kl_coefficient` is in such standard
    deviations a nat. Advantages are standardised in each rollout. Four models are at work: policy, reference, value
    model and whatever `scorer` holds.

    `history` is a DataFrame indexed by step: `score` (raw) and `kl` (nats a reply, from the sampled tokens) of the
    rollout, before any update; `ratio`, the largest |ratio − 1| of the first minibatch; `clipped`, the share of
    tokens outside the clip range; `value_loss`; `tokens`, generated so far. `on_step(step, metrics, policy, replies)`
    is called after each step. Raises `ValueError` for settings that cannot be used and for a scorer that gives anything
    but one finite number a reply; `FloatingPointError` when a loss is not finite.
    """
    import pandas

    check_run(prompts, steps, batch_size, kl_coefficient, clip, epochs, minibatch_size)
    policy, reference = copy.deepcopy(model).requires_grad_(True).eval(), frozen_copy(model)
    value_model = ScalarModel(model)
    groups = ((policy, learning_rate), (value_model, value_learning_rate))
    optimizers = [torch.optim.AdamW(one.parameters(), lr=rate, weight_decay=0.0) for one, rate in groups]
    history, tokens, started = [], 0, time.monotonic()
    for step, indices in enumerate(batches(len(prompts), batch_size, steps, seed), start=1):
        asked = [prompts[i] for i in indices]
        how = {"max_new_tokens": max_new_tokens, "seed": 100_000 * seed + step}
        seen = rollout(policy, reference, value_model, tokenizer, asked, scorer, **how)
        if step == 1:
            center, spread = seen.scores.mean(), seen.scores.std(correction=0).clamp(min=1e-6)
        rewards = token_rewards(seen, (seen.scores - center) / spread, kl_coefficient)
        advantage, returns = advantages(rewards, seen.values, seen.mask, discount, gae_lambda)
        advantage = (advantage - masked_mean(advantage, seen.mask)) * seen.mask
        advantage = advantage / masked_mean(advantage.square(), seen.mask).sqrt().clamp(min=1e-6)
        done = []
        for rows in batches(len(asked), minibatch_size, math.ceil(epochs * len(asked) / minibatch_size), seed=step):
            done.append(update(policy, value_model, optimizers, seen, advantage, returns, rows, clip))
        tokens += int(seen.mask.sum())
        kl = ((seen.logps - seen.ref_logps) * seen.mask).sum(dim=1).mean().item()
        metrics = {"score": seen.scores.mean().item(), "kl": kl, "ratio": done[0]["ratio"]}
        metrics |= {name: sum(one[name] for one in done) / len(done) for name in ("clipped", "value_loss")}
        metrics["tokens"] = tokens
        if on_step is not None:
            on_step(step, metrics, policy, seen.replies)
        history.append({"step": step, **metrics})
        said = f"score {metrics['score']:+.2f}  KL {kl:.2f}"
        progress_line(f"PPO step {step}/{steps}  {said}", step, steps, started)
    return policy, pandas.DataFrame(history).set_index("step")


def update(policy, value_model, optimizers, seen, advantage, returns, rows, clip):
    """One optimizer step of policy and value model on the rows of a rollout; what it measured, as floats."""
    ids, attention, mask = (t[rows] for t in (seen.replies.input_ids, seen.replies.attention_mask, seen.mask))
    logps = token_logps(policy, ids, attention)
    loss, ratio = clipped_loss(logps, seen.logps[rows], advantage[rows], mask, clip)
    values = value_model(ids, attention)[:, :-1]
    value_loss = 0.5 * masked_mean((values - returns[rows]).square(), mask)
    optimizer_step(loss, optimizers[0], policy, "policy's loss")
    optimizer_step(value_loss, optimizers[1], value_model, "value model's loss")
    off = (ratio - 1).abs() * mask
    return {
        "ratio": off.max().item(),
        "clipped": masked_mean((off > clip).float(), mask).item(),
        "value_loss": value_loss.item(),
    }


def check_run(prompts, steps, batch_size, kl_coefficient=0.0, clip=0.2, epochs=1, minibatch_size=1):
    """`ValueError`, in one sentence, for a run that cannot be."""
    counts = {"steps": steps, "batch_size": batch_size, "epochs": epochs, "minibatch_size": minibatch_size}
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    if not len(prompts) or isinstance(prompts, str):
        raise ValueError("prompts must be a list with at least one prompt")
    if not (math.isfinite(kl_coefficient) and kl_coefficient >= 0):
        raise ValueError(f"kl_coefficient must be a number of at least 0, got {kl_coefficient!r}")
    if not 0 < clip < 1:
        raise ValueError(f"clip must be between 0 and 1, got {clip!r}")
