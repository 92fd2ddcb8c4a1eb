"""GRPO: PPO's clipped update without a value model. Shown in notebook 07.

Each prompt gets a group of replies, and a reply is better or worse than its group (Shao et al. 2024, arXiv 2402.03300).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from toylib.engine.arguments import check_counts
from toylib.labs.loops import check_prompts, sampling_loop, trainable_copy
from toylib.labs.ppo import RolloutSettings, clipped_objective, ratio_metrics, rollout, rollout_metrics
from toylib.logps import token_logps
from toylib.reference import frozen_copy
from toylib.train import batches, optimizer_step


def group_advantages(scores, group_size) -> Tensor:
    """Return (score − mean of its group) / (standard deviation of its group + 1e-4), `(replies,)`.

    `scores` is `(replies,)`, group after group. In a group that agrees, every advantage is 0 (Shao et al. 2024, §4.1.2).
    """
    groups = scores.view(-1, group_size)
    spread = groups.std(dim=1, keepdim=True)
    return ((groups - groups.mean(dim=1, keepdim=True)) / (spread + 1e-4)).flatten()


def kl_estimate(logps, ref_logps) -> Tensor:
    """Return r − log r − 1 of each token, r = πref / πθ: at least 0, with mean KL(πθ ‖ πref) over tokens of πθ.

    It is called k3 (Schulman 2020, "Approximating KL divergence"). All tensors are `(replies, length)`.
    """
    log_ratio = ref_logps - logps
    return log_ratio.exp() - log_ratio - 1


def grpo_loss(logps, old_logps, ref_logps, advantages, mask, *, clip=0.2, kl_coefficient=0.04) -> tuple[Tensor, Tensor]:
    """Return GRPO's `(loss, ratio)`: −(clipped objective − kl_coefficient · KL), a mean over tokens, then over replies.

    `advantages` is `(replies,)`, the other tensors `(replies, length)` (Shao et al. 2024, eq. 3). It is TRL's
    `loss_type="grpo"` with `beta=kl_coefficient`.
    """
    objective, ratio = clipped_objective(logps, old_logps, advantages.unsqueeze(1), clip)
    per_token = kl_coefficient * kl_estimate(logps, ref_logps) - objective
    per_reply = (per_token * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    return per_reply.mean(), ratio.detach()


@dataclass(frozen=True, kw_only=True)
class GRPOSettings(RolloutSettings):
    """What decides a run of `train_grpo`, with `RolloutSettings`. Raises `ValueError` as that does.

    `kl_coefficient` weighs the KL estimate against advantages of spread 1. Each prompt of a rollout gets `group_size`
    replies.
    """

    kl_coefficient: float = 0.04
    group_size: int = 4

    def __post_init__(self):
        check_counts(group_size=self.group_size)
        super().__post_init__()
        if self.group_size < 2 or self.batch_size % self.group_size:
            raise ValueError(
                f"group_size must be at least 2 and divide batch_size {self.batch_size}, got {self.group_size}"
            )


def train_grpo(model, tokenizer, prompts, scorer, *, on_step=None, on_replies=None, **settings):
    """Train a copy of `model` by GRPO against `scorer`. Return `(policy, history)`; `model` is left untouched.

    `settings` are those of `GRPOSettings`. Three models are in use: policy, reference and whatever `scorer` holds.
    `history` is as `train_ppo`'s, without the value model's loss and with `agreed`, the share of groups whose scores
    are all equal. Callbacks, interrupts and errors are as in `train_ppo`.
    """
    settings = GRPOSettings(**settings)
    check_prompts(prompts)
    policy, reference = trainable_copy(model), frozen_copy(model)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=settings.learning_rate, weight_decay=0.0)

    def take_step(step, asked, sampling_seed):
        how = {"max_new_tokens": settings.max_new_tokens, "seed": sampling_seed}
        sampled = rollout(policy, reference, tokenizer, asked, scorer, **how)
        return sampled.replies, learn_from_groups(sampled, policy, optimizer, settings, step)

    loop = {"steps": settings.steps, "batch_size": settings.batch_size // settings.group_size, "seed": settings.seed}
    loop |= {"on_step": on_step, "on_replies": on_replies, "name": "GRPO", "groups": settings.group_size}
    return policy, sampling_loop(take_step, policy, prompts, **loop)


def learn_from_groups(sampled, policy, optimizer, settings, step) -> dict[str, float]:
    """Update the policy on one rollout, in minibatches drawn by `step`. Return the step's metrics."""
    advantage, count = group_advantages(sampled.scores, settings.group_size), len(sampled.scores)
    updates, measured = math.ceil(settings.epochs * count / settings.minibatch_size), []
    for rows in batches(count, settings.minibatch_size, updates, seed=step):
        ids, attention = (tensor[rows] for tensor in (sampled.replies.input_ids, sampled.replies.attention_mask))
        old, ref, mask = (tensor[rows] for tensor in (sampled.logps, sampled.ref_logps, sampled.mask))
        weights = {"clip": settings.clip, "kl_coefficient": settings.kl_coefficient}
        loss, ratio = grpo_loss(token_logps(policy, ids, attention), old, ref, advantage[rows], mask, **weights)
        optimizer_step(loss, optimizer, policy, f"step {step}")
        measured.append(ratio_metrics(ratio, mask, settings.clip))
    agreed = (advantage.view(-1, settings.group_size) == 0).all(dim=1).float().mean().item()
    return rollout_metrics(sampled, measured) | {"agreed": agreed}
