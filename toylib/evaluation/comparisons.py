"""Compare scores of replies to the same prompts, with intervals."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch


class Difference(NamedTuple):
    """A mean difference and its 95 % interval."""

    mean: float
    low: float
    high: float


def win_rate(scores, baseline_scores, z=1.96) -> tuple[float, float, float]:
    """Return `(rate, low, high)`: how often a reply beats the baseline's on the same prompt, a tie counting ½.

    Both are equally long sequences of scores. The interval is rate ± z standard errors of the mean (95 % for 1.96) and
    takes prompts as independent. Raises `ValueError` for lists of other lengths or of fewer than two scores.
    """
    ours, theirs = (torch.as_tensor(list(values), dtype=torch.float64) for values in (scores, baseline_scores))
    if ours.shape != theirs.shape or len(ours) < 2:
        raise ValueError(f"need two equally long lists of at least two scores, got {len(ours)} and {len(theirs)}")
    wins = _wins(ours, theirs)
    rate, error = wins.mean().item(), wins.std().item() / math.sqrt(len(wins))
    return rate, rate - z * error, rate + z * error


def paired_difference(scores_a, scores_b, *, draws=10_000, seed=0) -> Difference:
    """Return the mean of `scores_a − scores_b` with a 95 % bootstrap interval over prompts and seeds.

    Both are `(seeds, prompts)` arrays of finite numbers, or `(prompts,)` for a single seed: entries at the same place
    have the same seed and prompt. Each of the `draws` takes as many seeds and as many prompts as there are, with
    replacement and independently (the pigeonhole bootstrap; Owen 2007, Annals of Applied Statistics 1), and the interval is from the
    2.5th to the 97.5th percentile of their means. `seed` is that of the draws. With few seeds the interval is too
    narrow where seeds differ much, and a single seed says nothing about other seeds.

    Raises `ValueError` for arrays of different shapes, with fewer than two prompts, or with values that are not finite.
    """
    ours, theirs = (torch.as_tensor(scores, dtype=torch.float64) for scores in (scores_a, scores_b))
    if ours.shape != theirs.shape or ours.dim() not in (1, 2) or ours.shape[-1] < 2 or not ours.numel():
        shapes = f"{tuple(ours.shape)} and {tuple(theirs.shape)}"
        raise ValueError(f"need two arrays (seeds, prompts) of one shape with at least two prompts, got {shapes}")
    difference = (ours - theirs).reshape(-1, ours.shape[-1])
    if not torch.isfinite(difference).all():
        raise ValueError("scores_a and scores_b must be finite numbers")
    generator = torch.Generator().manual_seed(seed)
    of_seeds, of_prompts = (_shares_drawn(count, draws, generator) for count in difference.shape)
    means = (of_seeds @ difference * of_prompts).sum(dim=1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Difference(difference.mean().item(), low, high)


def length_controlled_win_rate(scores, baseline_scores, words, baseline_words, *, draws=1000, seed=0) -> Difference:
    """Return the win rate that a logistic regression predicts for replies as long as the baseline's, and its interval.

    log-odds of a win = a + b · (difference in words), with b·d in units of d's standard deviation; the win rate at equal
    length is σ(a) (Dubois et al. 2024, arXiv 2404.04475, who have further terms). All arguments are equally long
    sequences, a tie counts ½, and the 95 % interval is a bootstrap over prompts. Where nearly all replies are longer
    than the baseline's, the value is an extrapolation. Raises `ValueError` for lists of different lengths.
    """
    lists = [
        torch.as_tensor(list(values), dtype=torch.float64)
        for values in (scores, baseline_scores, words, baseline_words)
    ]
    if len({len(values) for values in lists}) > 1 or len(lists[0]) < 2:
        raise ValueError(
            f"need four equally long lists of at least two numbers, got {[len(values) for values in lists]}"
        )
    ours, theirs, longer = lists[0], lists[1], lists[2] - lists[3]
    wins = _wins(ours, theirs)
    inputs = torch.stack((torch.ones_like(longer), longer / longer.std().clamp(min=1e-9)), dim=1)
    drawn = _shares_drawn(len(wins), draws, torch.Generator().manual_seed(seed))
    weights = torch.cat((torch.full((1, len(wins)), 1 / len(wins), dtype=torch.float64), drawn))
    weights, ridge = weights * len(wins), torch.eye(2, dtype=torch.float64)  # keeps a separable case finite
    found = torch.zeros(len(weights), 2, dtype=torch.float64)
    for _ in range(30):  # Newton's method, all draws at once
        chance = torch.sigmoid(found @ inputs.T)
        slope = (weights * (wins - chance)) @ inputs - 0.1 * found
        curve = torch.einsum("dn,ni,nj->dij", weights * chance * (1 - chance), inputs, inputs) + 0.1 * ridge
        found = found + torch.linalg.solve(curve, slope)
    rates = torch.sigmoid(found[:, 0])
    low, high = rates[1:].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Difference(rates[0].item(), low, high)


def _wins(ours, theirs) -> torch.Tensor:
    """Return 1 where a score is above the other, ½ where they tie, and 0 where it is below."""
    return (ours > theirs).double() + 0.5 * (ours == theirs).double()


def _shares_drawn(count, draws, generator) -> torch.Tensor:
    """Draw `count` of `count` things with replacement, `draws` times. Return each one's share, `(draws, count)`."""
    drawn = torch.randint(count, (draws, count), generator=generator)
    share = torch.full((draws, count), 1 / count, dtype=torch.float64)
    return torch.zeros_like(share).scatter_add_(1, drawn, share)
