"""Best-of-n: sample several replies and keep the one that a scorer likes most. No training. Shown in notebook 08."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from toylib.engine.arguments import check_counts
from toylib.labs.reward_model import checked_scores
from toylib.replies import sample_replies


def scored_samples(model, tokenizer, prompts, scorer, count, seed=0) -> tuple[list[list[str]], Tensor]:
    """Sample `count` replies to each prompt at temperature 1 and score them. Return `(texts, scores)`.

    `texts` has a list of replies for each prompt, and `scores` is `(prompts, count)`.
    """
    check_counts(count=count)
    rounds = [sample_replies(model, tokenizer, prompts, seed=100_000 * seed + k) for k in range(count)]
    scores = torch.stack([checked_scores(scorer, prompts, replies) for replies in rounds], dim=1)
    return [list(texts) for texts in zip(*(replies.texts for replies in rounds), strict=True)], scores


def best_of(texts, scores, n) -> list[str]:
    """Return for each prompt the reply with the highest score among its first `n`, from `scored_samples`."""
    return [replies[int(row[:n].argmax())] for replies, row in zip(texts, scores, strict=True)]


def best_of_n_kl(n: int) -> float:
    """Return log n − (n − 1)/n, the upper bound of KL(best-of-n ‖ π) in nats (Beirami et al. 2024, arXiv 2401.01879)."""
    return math.log(n) - (n - 1) / n
