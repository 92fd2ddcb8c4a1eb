"""Compare two methods on the same prompts and seeds: at a step, or at equal KL to the reference.

A *run* is one policy's training: rows with `seed`, `step`, `kl` (nats per reply) and `wins`, a letter per prompt. Tables
of many runs come from the scripts in data/ (`HeldOut.marked` makes a row).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from toylib.evaluation.comparisons import Difference, paired_difference


def wins_text(scores, baseline_scores) -> str:
    """Return a letter per prompt: w where the score is above the baseline's, t where they tie, l where it is below."""
    return "".join("ltw"[1 + (a > b) - (a < b)] for a, b in zip(scores, baseline_scores, strict=True))


def wins_of(text: str) -> Tensor:
    """Return the wins behind the letters of `wins_text`, `(prompts,)`: 1 for a win, ½ for a tie, 0 for a loss."""
    return torch.tensor(["ltw".index(letter) / 2 for letter in text], dtype=torch.float64)


def wins_at_step(table, step: int | None = None) -> dict[int, Tensor]:
    """Return seed → wins `(prompts,)` of one method's runs at `step`, by default at the last one."""
    return {seed: wins_of(text) for seed, text in texts_at_step(table, "wins", step).items()}


def scores_text(scores) -> str:
    """Return scores, one per prompt, as text with four digits."""
    return " ".join(f"{score:.4g}" for score in scores)


def scores_at_step(table, step: int | None = None) -> dict[int, Tensor]:
    """Return seed → scores `(prompts,)` of one method's runs, from the `scores` at `step`, by default at the last one."""
    texts = texts_at_step(table, "scores", step).items()
    return {seed: torch.tensor([float(one) for one in text.split()], dtype=torch.float64) for seed, text in texts}


def texts_at_step(table, column: str, step: int | None = None) -> dict[int, str]:
    """Return seed → what `column` has in one method's runs at `step`, by default at the last one."""
    rows = table[table["step"] == (table["step"].max() if step is None else step)]
    return {int(seed): text for seed, text in zip(rows["seed"], rows[column], strict=True)}


def wins_at_kl(table, kl: float) -> dict[int, Tensor]:
    """Return seed → wins `(prompts,)` where each run of one method first reached `kl` nats. Every run starts with ties."""
    return column_at_kl(table.assign(wins=table["wins"].map(wins_of)), kl, "wins", start=0.5)


def column_at_kl(table, kl: float, column: str, start: float) -> dict[int, Any]:
    """Return seed → the number or tensor in `column` where each run of one method first reached `kl` nats.

    Every run starts at KL 0 with `start`. Between two checkpoints, values are on a straight line over √KL, as win rates
    nearly are in measured runs (Gao et al. 2023, arXiv 2210.10760): a line over KL would favour the run with more
    checkpoints. A run that never reached `kl` is left out.
    """
    found = {}
    for seed, run in table.groupby("seed"):
        run = run[run["step"] > 0].sort_values("step")
        points = [(0.0, start), *zip(run["kl"], run[column], strict=True)]
        for (before, left), (after, right) in itertools.pairwise(points):
            if before <= kl <= after:
                roots = [math.sqrt(value) for value in (before, kl, after)]
                share = (roots[1] - roots[0]) / (roots[2] - roots[0]) if after > before else 0.0
                found[int(seed)] = left + share * (right - left)
                break
    return found


def compare(wins_a: dict[int, Tensor], wins_b: dict[int, Tensor]) -> Difference:
    """Return the paired difference in win rate or score, a minus b, over the seeds that both have, with its 95 % interval.

    Raises `ValueError` if they share no seed.
    """
    seeds = sorted(wins_a.keys() & wins_b.keys())
    if not seeds:
        raise ValueError(f"no seed is in both: one has {sorted(wins_a)}, the other {sorted(wins_b)}")
    return paired_difference(*(torch.stack([wins[seed] for seed in seeds]) for wins in (wins_a, wins_b)))


def win_interval(wins: dict[int, Tensor]) -> Difference:
    """Return the win rate over all seeds and prompts, with its 95 % interval over both."""
    stacked = torch.stack([wins[seed] for seed in sorted(wins)])
    return paired_difference(stacked, torch.zeros_like(stacked))


def verdict(difference: Difference, first: str, second: str) -> str:
    """Return what a paired difference says, as a sentence: who is ahead by how much, or that neither is."""
    mean, low, high = difference
    if low <= 0 <= high:
        mean, low, high = (round(value, 3) + 0.0 for value in difference)  # + 0.0 takes the sign off a zero
        return f"We cannot separate {first} and {second}: {mean:+.3f} [{low:+.3f}, {high:+.3f}]."
    ahead, behind = (first, second) if mean > 0 else (second, first)
    low, high = sorted((abs(low), abs(high)))
    return f"{ahead} is ahead of {behind} by {abs(mean):.3f} [{low:.3f}, {high:.3f}]."
