"""Compare replies to the same prompts, with intervals."""

from __future__ import annotations

import math

import torch


def win_rate(scores, baseline_scores, z=1.96) -> tuple[float, float, float]:
    """`(rate, low, high)`: how often a reply beats the baseline's on the same prompt, a tie counting ½, with its interval.

    Both are equally long sequences of scores. The interval is rate ± z standard errors of the mean (95 % for 1.96),
    which takes prompts as independent.
    """
    ours, theirs = (torch.as_tensor(list(values), dtype=torch.float64) for values in (scores, baseline_scores))
    if ours.shape != theirs.shape or len(ours) < 2:
        raise ValueError(f"need two equally long lists of at least two scores, got {len(ours)} and {len(theirs)}")
    wins = (ours > theirs).double() + 0.5 * (ours == theirs).double()
    rate, error = wins.mean().item(), wins.std().item() / math.sqrt(len(wins))
    return rate, rate - z * error, rate + z * error
