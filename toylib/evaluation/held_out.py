"""Evaluate policies on held-out prompts, as one row of numbers each, by which notebooks 05 to 07 compare runs."""

from __future__ import annotations

import itertools
import random

from toylib.evaluation.comparisons import win_rate
from toylib.evaluation.judge import judge
from toylib.evaluation.paired import wins_text
from toylib.preferences import load_prompts
from toylib.replies import kl_to_reference, sample_replies

JUDGED = ("score", "fluent", "on_topic", "facts", "words")
UNTRAINED_SEED, POLICY_SEED = 100, 200  # of sampling; a run's own seed is added to the policy's


def report(policy, reference, tokenizer, prompts, intents, baseline=None, *, seed=0):
    """Sample a reply to each prompt at temperature 1 and measure the replies. Return `(row, texts)`, `row` a dict.

    - `kl` and `kl_error`: KL(πθ ‖ πref) in nats per reply, and its standard error;
    - `score`, `fluent`, `on_topic`, `facts`, `words`: means over replies of the columns of `judge`;
    - `win`, `win_low`, `win_high`, with a `baseline` only: the win rate over the baseline and its 95 % interval.

    `prompts` and `intents` are equally long lists, as in `load_prompts`. `baseline` has the scores of other replies to
    the same prompts, in the same order. `seed` is that of the sampling.
    """
    replies = sample_replies(policy, tokenizer, prompts, seed=seed)
    judged = judge(prompts, replies.texts, intents)
    kl, error = kl_to_reference(policy, reference, replies)
    row = {"kl": kl, "kl_error": error} | {name: float(judged[name].mean()) for name in JUDGED}
    if baseline is not None:
        row |= dict(zip(("win", "win_low", "win_high"), win_rate(judged["score"], baseline), strict=True))
    return row, replies.texts


def held_out_prompts(*splits, count=None, seed=0) -> tuple[list[str], list[str]]:
    """Return `(prompts, intents)` of shipped splits, by default `test` and `heldout`.

    With a `count`, `draw_prompts` draws so many of them, balanced over intents. `seed` is that of the draw.
    """
    rows = [row for split in splits or ("test", "heldout") for row in load_prompts(split)]
    return draw_prompts(rows, len(rows) if count is None else count, seed)


def draw_prompts(prompts, count, seed=0) -> tuple[list[str], list[str]]:
    """Draw `count` different prompts, balanced over intents. Return `(prompts, intents)` in the order they were given.

    `prompts` are rows with a `prompt` and an `intent`, as in `load_prompts`. Intents differ by at most one prompt as
    long as there are enough of each. Raises `ValueError` if `count` is not a whole number from 1 to the number of rows.
    """
    rows = list(prompts)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= len(rows):
        raise ValueError(f"count must be a whole number from 1 to {len(rows)}, the number of prompts, got {count!r}")
    rng, by_intent = random.Random(seed), {}
    for place in rng.sample(range(len(rows)), len(rows)):
        by_intent.setdefault(rows[place]["intent"], []).append(place)
    in_turn = itertools.zip_longest(*(by_intent[name] for name in rng.sample(sorted(by_intent), len(by_intent))))
    drawn = sorted([place for turn in in_turn for place in turn if place is not None][:count])
    return [rows[place]["prompt"] for place in drawn], [rows[place]["intent"] for place in drawn]


class HeldOut:
    """Held-out prompts, and the untrained model's replies to them, which are sampled once and are the baseline of `win`.

    Attributes: `prompts`, `intents`, `texts` (the untrained replies) and `judged` (what `judge` says of those).
    """

    def __init__(self, model, tokenizer, prompts, intents):
        self.model, self.tokenizer, self.prompts, self.intents = model, tokenizer, list(prompts), list(intents)
        self.texts = sample_replies(model, tokenizer, self.prompts, seed=UNTRAINED_SEED).texts
        self.judged = judge(self.prompts, self.texts, self.intents)

    def __call__(self, policy, seed=0) -> dict[str, float]:
        """Return the row of `report` for `policy`, with `win` over the untrained model; `seed` is the run's."""
        return self.report(policy, seed)[0]

    def marked(self, policy, seed=0) -> dict:
        """Return the row of `report` with `wins`, a letter per prompt: win, tie or loss of `policy`.

        `paired.wins_of` reads the letters. They are what two runs need to be compared on the same prompts.
        """
        return self.marked_replies(policy, seed)[0]

    def marked_replies(self, policy, seed=0):
        """Return `(row, texts, judged)`: the row of `marked`, the replies, and what `judge` says of each."""
        row, texts = self.report(policy, seed)
        judged = judge(self.prompts, texts, self.intents)
        return row | {"wins": wins_text(judged["score"], self.judged["score"])}, texts, judged

    def report(self, policy, seed=0):
        """Return `(row, texts)` of `report` for `policy`, with `win` over the untrained model; `seed` is the run's."""
        given = (self.prompts, self.intents, self.judged["score"])
        return report(policy, self.model, self.tokenizer, *given, seed=POLICY_SEED + seed)
