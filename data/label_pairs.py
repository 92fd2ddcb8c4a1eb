"""Draw the sixteen pairs that readers of notebook 06 label: `python data/label_pairs.py`, about a minute on one core.

The support model answers `dev` prompts six times at temperature 1. Of the pairs of two different replies to a prompt,
six are drawn on which the judge prefers the longer reply, six on which it prefers the shorter one, and four good ones
that it cannot separate. So neither length nor the judge decides by itself. No prompt comes twice, and no intent more
than twice. Writes data/results/label_pairs.jsonl.
"""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

from toylib import load_model
from toylib.evaluation.held_out import held_out_prompts
from toylib.evaluation.judge import judge
from toylib.replies import sample_replies

FILE = Path(__file__).parent / "results" / "label_pairs.jsonl"
SAMPLES, PROMPTS = 6, 144
WANTED = {"shorter": 6, "equal": 4, "longer": 6}  # the rarest first


def kind_of(first, second):
    """Return which of two judged replies the judge prefers: "longer", "shorter", "equal", or "" for a pair not to show."""
    if first["words"] == second["words"] or max(first["score"], second["score"]) < 0.25:
        return ""
    if first["score"] == second["score"]:
        return "equal" if first["score"] == 1 else ""
    return "longer" if (first["score"] > second["score"]) == (first["words"] > second["words"]) else "shorter"


def main():
    model, tokenizer = load_model("support-lm", device="cpu")
    prompts, intents = held_out_prompts("dev", count=PROMPTS)
    texts = [sample_replies(model, tokenizer, prompts, seed=seed).texts for seed in range(SAMPLES)]
    scores = [judge(prompts, replies, intents).to_dict("records") for replies in texts]
    rng, pairs, kinds = random.Random(0), [], {kind: [] for kind in WANTED}
    for at, (a, b) in itertools.product(range(len(prompts)), itertools.permutations(range(SAMPLES), 2)):
        kind = kind_of(scores[a][at], scores[b][at])
        if kind:
            row = {"prompt": prompts[at], "intent": intents[at], "a": texts[a][at], "b": texts[b][at]}
            kinds[kind].append(row)
    for kind, count in WANTED.items():
        for row in rng.sample(kinds[kind], len(kinds[kind])):
            intents_so_far = [pair["intent"] for pair in pairs]
            if count and intents_so_far.count(row["intent"]) < 2 and row["prompt"] not in [p["prompt"] for p in pairs]:
                pairs.append(row)
                count -= 1
    rng.shuffle(pairs)
    FILE.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")


if __name__ == "__main__":
    main()
