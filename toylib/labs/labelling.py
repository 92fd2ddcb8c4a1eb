"""Twenty pairs to label, four of them twice, and how far labels agree. For notebook 06.

Labels are a text with a letter per pair: A or B for the better reply, T for a tie.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from toylib.evaluation.judge import judge
from toylib.labs.failures import swap_replies
from toylib.preferences import DATA, read_file

SWAPPED = str.maketrans("AB", "BA")


class Shown(NamedTuple):
    """A pair as it is shown. `first` is where the same pair stood before, with A and B the other way round, or −1."""

    prompt: str
    a: str
    b: str
    intent: str
    first: int = -1

    @property
    def longer(self) -> str:
        """Return the label of the reply with more words."""
        return compare(len(self.a.split()), len(self.b.split()))


def compare(a, b) -> str:
    """Return A, B or T: which of two numbers is the larger."""
    return "T" if a == b else "A" if a > b else "B"


def shown_pairs(repeats=4, seed=0) -> list[Shown]:
    """Return the shipped pairs, and `repeats` of the first half once more, swapped, among the second half.

    data/label_pairs.py drew the pairs from the support model's replies. `seed` draws what is repeated, and where.
    """
    pairs = [Shown(**row) for row in read_file(DATA / "results" / "label_pairs.jsonl")]
    rng, half = random.Random(seed), len(pairs) // 2
    again = [pairs[at]._replace(a=pairs[at].b, b=pairs[at].a, first=at) for at in rng.sample(range(half), repeats)]
    later = pairs[half:] + again
    return pairs[:half] + rng.sample(later, len(later))


def judged_labels(shown) -> str:
    """Return the judge's labels: the reply with the higher score, or a tie."""
    prompts, intents = [pair.prompt for pair in shown], [pair.intent for pair in shown]
    scores_a = judge(prompts, [pair.a for pair in shown], intents)["score"]
    scores_b = judge(prompts, [pair.b for pair in shown], intents)["score"]
    return "".join(map(compare, scores_a, scores_b))


def agreement(shown, labels, judged) -> dict[str, tuple[int, int]]:
    """Return how often, and out of how many, `labels` agree with themselves, with `judged`, and with length.

    `self` is about the repeated pairs, the others about the first showing of each. Ties are left out of `judge`, on
    either side, and of `longer`. Raises `ValueError` unless there is an A, a B or a T per pair.
    """
    check_labels(shown, labels)
    cases = list(zip(shown, labels, judged, strict=True))
    own = [label == labels[pair.first].translate(SWAPPED) for pair, label, _ in cases if pair.first >= 0]
    once = [case for case in cases if case[0].first < 0 and case[1] != "T"]
    judges = [label == other for _, label, other in once if other != "T"]
    longer = [label == pair.longer for pair, label, _ in once]
    return {name: (sum(same), len(same)) for name, same in (("self", own), ("judge", judges), ("longer", longer))}


def labelled_pairs(shown, labels) -> list[dict[str, str]]:
    """Return the preference pairs that `labels` make of what was shown, without the ties. Raises as `agreement` does."""
    check_labels(shown, labels)
    pairs = [{"prompt": pair.prompt, "chosen": pair.a, "rejected": pair.b} for pair in shown]
    return [
        swap_replies(pair) if label == "B" else pair for pair, label in zip(pairs, labels, strict=True) if label != "T"
    ]


def check_labels(shown, labels) -> None:
    """Raise `ValueError` unless `labels` has an A, a B or a T for each pair."""
    if len(labels) != len(shown) or set(labels) - set("ABT"):
        raise ValueError(f"labels are {len(shown)} letters, each A, B or T for a tie; got {labels!r}")
