"""The long experiments of notebook 06, three seeds each: `python data/flips.py`, about 25 minutes on 2 cores.

Writes data/results/flips.csv (labels flipped, and what is said to help) and data/results/failures.csv (the other
exhibits). Runs that are in the files already are not done again: stop it and start it as you like. `python
data/flips.py 0 2` does seeds 0 and 2 only.
"""

import csv
import math
import sys
import time
from pathlib import Path

from toylib import frozen_copy, load_model, load_preferences
from toylib.evaluation.held_out import report
from toylib.evaluation.judge import judge
from toylib.labs.failures import (
    flip_labels,
    implicit_accuracy,
    longer_chosen,
    mean_score,
    pads_counted,
    right_score,
    run_dpo,
    score_beside,
    score_once,
    synced_reference,
    without_eos,
    without_shift,
)
from toylib.preferences import load_prompts
from toylib.replies import sample_replies
from toylib.tokens import tokenize_pairs

RESULTS = Path(__file__).parent / "results"
CHECKPOINTS = (20, 40, 80)  # and the last step
SEEN = ("kl", "kl_error", "score", "fluent", "on_topic", "facts", "words", "win", "win_low", "win_high")
METHODS = {
    "plain": lambda share: {},
    "cDPO": lambda share: {"label_smoothing": share},
    "robust": lambda share: {"loss_type": "robust", "label_smoothing": share},
    "IPO": lambda share: {"loss_type": "ipo", "beta": 0.1},
    "higher β": lambda share: {"beta": 2.0},
}


def main(seeds):
    model, tokenizer = load_model("support-lm", device="cpu")
    bench = Bench(frozen_copy(model), tokenizer)
    for seed in seeds:
        for name, share in flip_runs():
            bench.run("flips", name, seed, share, METHODS[name](share), flip_labels(bench.rows["support"], share, seed))
        for name, (pairs, settings) in failure_runs(bench).items():
            bench.run("failures", name, seed, 0.0, settings, pairs)


def flip_runs():
    """`(method, share flipped)` of each run; ε is the true share."""
    yield from (("plain", share) for share in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5))
    yield from ((name, 0.3) for name in ("cDPO", "robust", "IPO", "higher β"))


def failure_runs(bench):
    """The other exhibits: name → (pairs, what is changed in `run_dpo`)."""
    support, confounded, balanced = (bench.rows[name] for name in ("support", "confounded", "balanced"))
    by_mean = {"score": mean_score, "beta": 0.5 * 16}
    beside = {"reference": score_beside(bench.model, pads_counted)}
    return {
        "brief is good": (bench.brief_good, {}),
        "long is chosen": (longer_chosen(bench.brief_good), {}),
        "right": (support, {"steps": 120}),
        "β too low": (support, {"beta": 0.02, "steps": 120}),
        "synced": (support, {"reference": synced_reference, "steps": 120}),
        "no shift": (support, {"score": without_shift, "steps": 40}),
        "pads counted": (support, {"score": pads_counted, "steps": 20} | beside),
        "rate too high": (support, {"learning_rate": 1e-3, "steps": 40}),
        "confounded, no EOS": (without_eos(confounded), {}),
        "confounded, sum": (confounded, {}),
        "confounded, mean": (confounded, by_mean),
        "balanced, sum": (balanced, {}),
        "balanced, mean": (balanced, by_mean),
    }


class Bench:
    """What all runs share: model, pairs, held-out prompts, and the untrained model's replies to them."""

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer
        sets = {"support": ("support", "train"), "clean": ("support", "test")}
        sets |= {name: ("templated", name) for name in ("confounded", "balanced")}
        self.rows = {name: tokenize_pairs(load_preferences(*where), tokenizer) for name, where in sets.items()}
        tables = [load_prompts(split) for split in ("test", "heldout")]
        self.prompts, self.intents = (
            [value for table in tables for value in table[column]][::4] for column in ("prompt", "intent")
        )
        self.support = score_once(model, self.rows["support"])
        replies = sample_replies(model, tokenizer, self.prompts, seed=100)
        self.baseline = judge(self.prompts, replies.texts, self.intents)["score"]
        self.rows["balanced"], kept_back = self.rows["balanced"][:360], self.rows["balanced"][360:]
        self.brief_good, self.short_good = (
            [row for row in rows if len(row["chosen"]) < len(row["rejected"])]
            for rows in (self.rows["balanced"], kept_back)
        )

    def run(self, file, name, seed, share, settings, rows):
        """Train one policy and write a line for it at each checkpoint, unless the lines are there."""
        path = RESULTS / f"{file}.csv"
        if (name, share, seed) in done(path):
            return
        started, lines = time.monotonic(), []
        score = settings.get("score", right_score)
        if "reference" not in settings:
            ours = file == "flips"  # the same replies, turned round: no need to score them again
            settings = settings | {"reference": self.support if ours else score_once(self.model, rows, score)}

        def on_step(step, policy):
            if step in (*CHECKPOINTS, settings.get("steps")):
                row, _ = report(
                    policy, self.model, self.tokenizer, self.prompts, self.intents, self.baseline, seed=200 + seed
                )
                where = {"run": name, "flipped": share, "seed": seed, "step": step}
                lines.append(where | {column: row[column] for column in SEEN})

        policy, history = run_dpo(self.model, rows, seed=seed, on_step=on_step, **settings)
        for line in lines:
            last = history.loc[line["step"] - 9 : line["step"], ["loss", "accuracy", "chosen", "rejected"]]
            line |= last.mean().to_dict() | {"clean": math.nan, "short_good": math.nan}
        lines[-1] |= self.held_out_accuracies(policy, mean_score if score is mean_score else right_score)
        append(path, lines)
        print(f"{file}: {name}, {share:.0%} flipped, seed {seed}: {time.monotonic() - started:.0f} s", flush=True)

    def held_out_accuracies(self, policy, score):
        """Of the implicit reward, on pairs that no run trains on: clean ones, and brief-good against long-bad."""
        sets = {"clean": self.rows["clean"], "short_good": self.short_good}
        return {name: implicit_accuracy(policy, self.model, rows, score) for name, rows in sets.items()}


def done(path):
    if not path.is_file():
        return set()
    with path.open(encoding="utf-8") as file:
        return {(line["run"], float(line["flipped"]), int(line["seed"])) for line in csv.DictReader(file)}


def append(path, lines):
    path.parent.mkdir(exist_ok=True)
    new = not path.is_file()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in line.items()} for line in lines)


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2])
