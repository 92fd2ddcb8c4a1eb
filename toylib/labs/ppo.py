"""PPO from a scorer: rollouts, a value model and clipped updates. Shown in notebook 07.

The recipe is that of Ouyang et al. 2022 (arXiv 2203.02155), on models small enough to watch. `toylib.labs.reward_model`
explains scorers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from toylib.engine.arguments import check_counts
from toylib.labs.loops import check_prompts, sampling_loop, trainable_copy
from toylib.labs.reward_model import ScalarModel, checked_scores
from toylib.logps import padded_right, token_logps
from toylib.reference import frozen_copy
from toylib.replies import Replies, sample_replies
from toylib.train import batches, optimizer_step


class Rollout(NamedTuple):
    """Replies sampled from the policy and what was measured on them. Tensors are `(replies, length − 1)`, as `token_logps`."""

    replies: Replies
    scores: Tensor  # (replies,)
    logps: Tensor
    ref_logps: Tensor
    values: Tensor
    mask: Tensor  # 1 on the tokens of the reply


@torch.no_grad()
def rollout(policy, reference, tokenizer, prompts, scorer, *, value_model=None, max_new_tokens=64, seed=0) -> Rollout:
    """Sample a reply to each prompt at temperature 1, and score it with scorer, policy, reference and value model.

    Without a value model the values are 0.
    """
    replies = packed(sample_replies(policy, tokenizer, prompts, max_new_tokens=max_new_tokens, seed=seed))
    ids, attention = replies.input_ids, replies.attention_mask
    logps, ref_logps = (token_logps(one, ids, attention) for one in (policy, reference))
    mask = replies.completion_mask[:, 1:].float()
    values = torch.zeros_like(mask) if value_model is None else value_model(ids, attention)[:, :-1] * mask
    return Rollout(replies, checked_scores(scorer, prompts, replies), logps, ref_logps, values, mask)


def packed(replies: Replies) -> Replies:
    """Return the same replies with all padding on the right, and without columns that are padding everywhere."""
    attention_mask, *others = padded_right(replies.attention_mask, replies.input_ids, replies.completion_mask)
    width = int(attention_mask.sum(dim=1).max())
    input_ids, completion_mask = others
    return Replies(replies.texts, *(t[:, :width] for t in (input_ids, attention_mask, completion_mask)))


def token_rewards(sampled: Rollout, scores, kl_coefficient) -> Tensor:
    """Return the reward of each token: −kl_coefficient · log-ratio, plus the score at a reply's last token.

    `scores` is `(replies,)`, the result `(replies, length − 1)` (Ouyang et al. 2022, eq. 2).
    """
    rewards = -kl_coefficient * (sampled.logps - sampled.ref_logps) * sampled.mask
    places = torch.arange(sampled.mask.shape[1], device=sampled.mask.device)
    last = (sampled.mask * places).argmax(dim=1, keepdim=True)
    return rewards.scatter_add(1, last, scores.unsqueeze(1))


def advantages(rewards, values, mask, discount=1.0, gae_lambda=0.95) -> tuple[Tensor, Tensor]:
    """Return `(advantages, returns)`, each `(replies, length)`, by generalised advantage estimation over each reply.

    A_t = δ_t + γλ·A_{t+1} with δ_t = r_t + γ·V_{t+1} − V_t, and 0 after the last token (Schulman et al. 2016,
    arXiv 1506.02438, eq. 16). Returns are A + V, the value model's targets. Both are 0 where `mask` is.
    """
    result, later = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(later)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + discount * next_value - values[:, t]
        later = (delta + discount * gae_lambda * later) * mask[:, t]
        result[:, t], next_value = later, values[:, t] * mask[:, t]
    return result, (result + values) * mask


def clipped_loss(logps, old_logps, advantages, mask, clip=0.2) -> tuple[Tensor, Tensor]:
    """Return PPO's `(loss, ratio)`: −mean of `clipped_objective` over the tokens in `mask`, a scalar, and the ratio."""
    objective, ratio = clipped_objective(logps, old_logps, advantages, clip)
    return -masked_mean(objective, mask), ratio.detach()


def clipped_objective(logps, old_logps, advantages, clip=0.2) -> tuple[Tensor, Tensor]:
    """Return min(ratio·A, clip(ratio, 1 ± `clip`)·A) of each token, and ratio = πθ(token) / π_old(token).

    Both are `(replies, length)` (Schulman et al. 2017, arXiv 1707.06347, eq. 7).
    """
    ratio = (logps - old_logps).exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages), ratio


def masked_mean(values, mask) -> Tensor:
    """Return the mean of `values` where `mask` is 1, a scalar."""
    return (values * mask).sum() / mask.sum()


@dataclass(frozen=True, kw_only=True)
class RolloutSettings:
    """What decides a run on sampled replies. Raises `ValueError`, naming the setting, for values that cannot be used.

    `learning_rate` is the policy's. `clip` bounds |ratio − 1|. Each of `steps` rollouts has `batch_size` replies and is
    used `epochs` times, in minibatches of `minibatch_size` replies.
    """

    kl_coefficient: float
    learning_rate: float = 3e-4
    clip: float = 0.2
    steps: int = 20
    batch_size: int = 32
    epochs: int = 2
    minibatch_size: int = 32
    max_new_tokens: int = 64
    seed: int = 0

    def __post_init__(self):
        counts = ("steps", "batch_size", "epochs", "minibatch_size", "max_new_tokens")
        check_counts(**{name: getattr(self, name) for name in counts})
        if not (math.isfinite(self.kl_coefficient) and self.kl_coefficient >= 0):
            raise ValueError(f"kl_coefficient must be a number of at least 0, got {self.kl_coefficient!r}")
        if not 0 < self.clip < 1:
            raise ValueError(f"clip must be between 0 and 1, got {self.clip!r}")


@dataclass(frozen=True, kw_only=True)
class PPOSettings(RolloutSettings):
    """What decides a run of `train_ppo`, with `RolloutSettings`.

    `kl_coefficient` is in standard deviations of the first rollout's scores per nat. `discount` and `gae_lambda` are γ
    and λ of `advantages`.
    """

    kl_coefficient: float = 0.05
    value_learning_rate: float = 1e-3
    discount: float = 1.0
    gae_lambda: float = 0.95


def train_ppo(model, tokenizer, prompts, scorer, *, on_step=None, on_replies=None, **settings):
    """Train a copy of `model` by PPO against `scorer`. Return `(policy, history)`; `model` is left untouched.

    `settings` are those of `PPOSettings`. Scores are standardised by those of the first rollout, which is the
    reference's own, and advantages in each rollout. Weights train that require a gradient in `model`. Four models are
    in use: policy, reference, value model and whatever `scorer` holds.

    `history` is a DataFrame indexed by step: `score` (raw) and `kl` (nats per reply, from the sampled tokens) of the
    rollout, before any update; `ratio`, the largest |ratio − 1| of the first minibatch; `clipped`, the share of tokens
    outside the clip range; `value_loss`; `tokens`, generated so far. `on_replies(step, replies)` is called after each
    rollout and `on_step(step, metrics, policy)` after each step, as in `train_dpo`. An interrupt keeps what was trained.

    Raises `ValueError` for settings that cannot be used and for a scorer that does not give one finite number per
    reply; `FloatingPointError` when a loss is not finite.
    """
    settings = PPOSettings(**settings)
    check_prompts(prompts)
    policy, reference, value_model = trainable_copy(model), frozen_copy(model), ScalarModel(model)
    groups = ((policy, settings.learning_rate), (value_model, settings.value_learning_rate))
    optimizers = [torch.optim.AdamW(one.parameters(), lr=rate, weight_decay=0.0) for one, rate in groups]
    scale = []

    def take_step(step, asked, sampling_seed):
        how = {"max_new_tokens": settings.max_new_tokens, "seed": sampling_seed}
        sampled = rollout(policy, reference, tokenizer, asked, scorer, value_model=value_model, **how)
        if not scale:
            scale.extend((sampled.scores.mean(), sampled.scores.std(correction=0).clamp(min=1e-6)))
        return sampled.replies, learn_from(sampled, policy, value_model, optimizers, scale, settings, step)

    loop = {name: getattr(settings, name) for name in ("steps", "batch_size", "seed")}
    loop |= {"on_step": on_step, "on_replies": on_replies, "name": "PPO"}
    return policy, sampling_loop(take_step, policy, prompts, **loop)


def learn_from(sampled: Rollout, policy, value_model, optimizers, scale, settings, step) -> dict[str, float]:
    """Update policy and value model on one rollout, in minibatches drawn by `step`. Return the step's metrics.

    `scale` is the mean and standard deviation by which scores are standardised.
    """
    rewards = token_rewards(sampled, (sampled.scores - scale[0]) / scale[1], settings.kl_coefficient)
    advantage, returns = advantages(rewards, sampled.values, sampled.mask, settings.discount, settings.gae_lambda)
    advantage = (advantage - masked_mean(advantage, sampled.mask)) * sampled.mask
    advantage = advantage / masked_mean(advantage.square(), sampled.mask).sqrt().clamp(min=1e-6)
    count = len(sampled.scores)
    updates = math.ceil(settings.epochs * count / settings.minibatch_size)
    measured = [
        update(policy, value_model, optimizers, sampled, advantage, returns, rows, settings.clip)
        for rows in batches(count, settings.minibatch_size, updates, seed=step)
    ]
    return rollout_metrics(sampled, measured)


def rollout_metrics(sampled: Rollout, measured) -> dict[str, float]:
    """Return a step's metrics: of the rollout, the first `ratio` of `measured`, and the means of its other columns.

    `measured` has a dict per update. `kl` is in nats per reply, estimated from the sampled tokens.
    """
    kl = ((sampled.logps - sampled.ref_logps) * sampled.mask).sum(dim=1).mean().item()
    means = {name: sum(one[name] for one in measured) / len(measured) for name in measured[0]}
    return means | {"score": sampled.scores.mean().item(), "kl": kl, "ratio": measured[0]["ratio"]}


def ratio_metrics(ratio, mask, clip) -> dict[str, float]:
    """Return the largest |ratio − 1| of the tokens and the share of them outside the clip range."""
    off = (ratio - 1).abs() * mask
    return {"ratio": off.max().item(), "clipped": masked_mean((off > clip).float(), mask).item()}


def update(policy, value_model, optimizers, sampled, advantage, returns, rows, clip) -> dict[str, float]:
    """Make one optimizer step of policy and value model on some rows of a rollout. Return what it measured."""
    replies = sampled.replies
    ids, attention, mask = (t[rows] for t in (replies.input_ids, replies.attention_mask, sampled.mask))
    logps = token_logps(policy, ids, attention)
    loss, ratio = clipped_loss(logps, sampled.logps[rows], advantage[rows], mask, clip)
    values = value_model(ids, attention)[:, :-1]
    value_loss = 0.5 * masked_mean((values - returns[rows]).square(), mask)
    optimizer_step(loss, optimizers[0], policy, "policy's loss")
    optimizer_step(value_loss, optimizers[1], value_model, "value model's loss")
    return ratio_metrics(ratio, mask, clip) | {"value_loss": value_loss.item()}
