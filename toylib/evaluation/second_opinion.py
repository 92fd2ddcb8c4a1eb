"""A second opinion on replies: a Bradley-Terry model over words that was not fitted to the judge's scores."""

from __future__ import annotations

import itertools
from functools import lru_cache

import torch

from toylib.evaluation.judge import _words
from toylib.preferences import DATA, read_file


def second_opinion(replies) -> list[float]:
    """Return a score per reply, in the order of `replies`, by a Bradley-Terry model over words and word pairs.

    Higher is better, and only differences mean anything: the difference of two scores is the log-odds that the first
    reply is preferred. The model is an L2-regularised logistic regression on which words and word pairs a reply has
    (with slots blanked), fitted once to data/handwritten/train.jsonl, so it has not seen the judge's scores.
    """
    vocabulary, weights = _second_opinion_model()
    return [sum(weights[vocabulary[f]] for f in _features(reply) if f in vocabulary) for reply in replies]


def _features(reply: str) -> set[str]:
    words = _words(reply)
    return {*words, *(" ".join(pair) for pair in itertools.pairwise(words))}


@lru_cache(maxsize=1)
def _second_opinion_model() -> tuple[dict[str, int], list[float]]:
    pairs = read_file(DATA / "handwritten" / "train.jsonl")
    return fit_bradley_terry([(pair["chosen"], pair["rejected"]) for pair in pairs])


def fit_bradley_terry(pairs, strength=0.05) -> tuple[dict[str, int], list[float]]:
    """Fit w by maximum likelihood of σ(w·(features of chosen − features of rejected)). Return `(vocabulary, weights)`.

    `pairs` are `(chosen, rejected)` texts, `vocabulary` maps a feature to its place in `weights`, and `strength` is that
    of the L2 penalty.
    """
    features = [(_features(chosen), _features(rejected)) for chosen, rejected in pairs]
    vocabulary = {f: i for i, f in enumerate(sorted(set().union(*(c | r for c, r in features))))}
    difference = torch.zeros(len(pairs), len(vocabulary), dtype=torch.float64)
    for row, (chosen, rejected) in enumerate(features):
        for f in chosen:
            difference[row, vocabulary[f]] += 1
        for f in rejected:
            difference[row, vocabulary[f]] -= 1
    weights = torch.zeros(len(vocabulary), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = -torch.nn.functional.logsigmoid(difference @ weights).mean() + strength * weights.square().sum() / 2
        value.backward()
        return value

    optimizer.step(loss)
    return vocabulary, weights.detach().tolist()
