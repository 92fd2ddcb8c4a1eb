"""The DPO loss and its relatives: four log-probs in, losses and rewards out. There is no model in this file.

Notebook 01 shows the loss by hand, and notebook 03 derives it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LOSS_TYPES = ("sigmoid", "robust", "hinge", "ipo", "apo_zero", "apo_down")


@dataclass(frozen=True)
class LossSettings:
    """What decides a DPO loss: β, its kind, and the share of labels believed to be flipped.

    Raises `ValueError`, naming what was given, for settings that no DPO loss can use.
    """

    beta: float = 0.1
    loss_type: str = "sigmoid"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        beta, smoothing = self.beta, self.label_smoothing
        if isinstance(beta, bool) or not (isinstance(beta, (int, float)) and math.isfinite(beta) and beta > 0):
            raise ValueError(f"beta must be a positive number, got {beta!r}")
        if self.loss_type not in LOSS_TYPES:
            raise ValueError(f"unknown loss_type {self.loss_type!r}: choose one of {', '.join(LOSS_TYPES)}")
        if isinstance(smoothing, bool) or not (isinstance(smoothing, (int, float)) and 0 <= smoothing < 0.5):
            raise ValueError(f"label_smoothing must be in [0, 0.5), got {smoothing!r}")
        if smoothing and self.loss_type not in ("sigmoid", "robust"):
            raise ValueError(f"loss_type {self.loss_type!r} has no label_smoothing, got {smoothing!r}")


class DPOLoss(NamedTuple):
    """The losses and implicit rewards that `dpo_loss` returns, each of shape `(batch,)`."""

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


def dpo_loss(
    policy_chosen_logps: Tensor, policy_rejected_logps: Tensor, ref_chosen_logps: Tensor, ref_rejected_logps: Tensor,
    beta: float = 0.1, loss_type: str = "sigmoid", label_smoothing: float = 0.0,
) -> DPOLoss:  # fmt: skip
    """Return the loss of each preference pair and the implicit reward of each reply.

    Args: the four log-probs are those of whole replies, in nats (sums over tokens), each of shape `(batch,)`. With the
    margin Δ = (policy − reference) of chosen − (policy − reference) of rejected, and z = β·Δ, `loss_type` is one of

    - `sigmoid`: −log σ(z), Rafailov et al. 2023 (arXiv 2305.18290), eq. 7. With `label_smoothing` ε it is cDPO,
      −(1−ε) log σ(z) − ε log σ(−z). ε is the share of labels believed to be flipped.
    - `robust`: [−(1−ε) log σ(z) + ε log σ(−z)] / (1−2ε), Chowdhury et al. 2024 (arXiv 2403.00409). It is unbiased
      under flips of rate ε. For ε > 0 it has no lower bound, so a low value does not mean a good model.
    - `hinge`: max(0, 1 − z), SLiC's margin loss on DPO's rewards (Liu et al. 2023, arXiv 2309.06657).
    - `ipo`: (Δ − 1/(2β))², Azar et al. 2023 (arXiv 2310.12036), eq. 17. It stops pushing once Δ reaches 1/(2β).
    - `apo_zero`: σ(−β·chosen log-ratio) + σ(β·rejected log-ratio), D'Oosterlinck et al. 2024 (arXiv 2408.06266), eq. 7.
      `apo_down`: σ(β·chosen log-ratio) + σ(−z), eq. 8, for chosen replies that are worse than the model's own.

    Returns: `DPOLoss(losses, chosen_rewards, rejected_rewards)`. Rewards are β·(policy − reference), without gradient.

    Raises: `ValueError` for settings that `LossSettings` refuses, and for log-probs of different shapes.
    """
    LossSettings(beta, loss_type, label_smoothing)  # refuses what no loss can use
    given = (policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps)
    if len({logps.shape for logps in given}) > 1:
        shapes = ", ".join(str(tuple(logps.shape)) for logps in given)
        raise ValueError(f"the four log-probs, in the order of the arguments, must have one shape, got {shapes}")
    chosen_logratios = policy_chosen_logps - ref_chosen_logps
    rejected_logratios = policy_rejected_logps - ref_rejected_logps
    delta = chosen_logratios - rejected_logratios
    z = beta * delta
    if loss_type == "sigmoid":
        losses = -(1 - label_smoothing) * F.logsigmoid(z) - label_smoothing * F.logsigmoid(-z)
    elif loss_type == "robust":
        flipped = label_smoothing * F.logsigmoid(-z)
        losses = (flipped - (1 - label_smoothing) * F.logsigmoid(z)) / (1 - 2 * label_smoothing)
    elif loss_type == "hinge":
        losses = torch.relu(1 - z)
    elif loss_type == "ipo":
        losses = (delta - 1 / (2 * beta)) ** 2
    elif loss_type == "apo_zero":
        losses = torch.sigmoid(-beta * chosen_logratios) + torch.sigmoid(beta * rejected_logratios)
    else:
        losses = torch.sigmoid(beta * chosen_logratios) + torch.sigmoid(-z)
    return DPOLoss(losses, beta * chosen_logratios.detach(), beta * rejected_logratios.detach())


def gradient_weight(delta: Tensor, beta: float) -> Tensor:
    """Return the weight of one pair's gradient, |∂loss/∂Δ| = β·σ(−β·Δ) for the `sigmoid` loss, in the shape of Δ.

    It is β/2 for a pair at Δ = 0, goes towards β for a pair that is ranked wrongly, and towards 0 for a pair that is
    ranked right by a wide margin. Source: the gradient of the DPO paper's eq. 7.
    """
    return beta * torch.sigmoid(-beta * delta)
