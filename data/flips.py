"""The long experiments of notebook 06: `python data/flips.py`, about 70 minutes on 2 cores.

It writes data/results/flips.csv (flipped labels and their remedies) and data/results/failures.csv (the other failures).
Flipped labels have five seeds, because what the remedies gain is small, and the other failures three. Runs that the
files already have are skipped, so it can be stopped and started again. `python data/flips.py 0 2` runs seeds 0 and 2
only.
"""

import math
import sys
import time

import pandas
import results

from toylib import load_model, load_preferences
from toylib.evaluation.held_out import HeldOut, held_out_prompts
from toylib.labs.failures import (
    cached_reference,
    flip_labels,
    implicit_accuracy,
    longer_chosen,
    mean_score,
    own_reference,
    pads_counted,
    rescoring_reference,
    right_score,
    run_dpo,
    without_eos,
    without_shift,
)
from toylib.plots.training import in_nats
from toylib.tokens import tokenize_pairs

CHECKPOINTS = (10, 20, 40, 80, 120)  # and the last step
FLIP_STEPS = 160  # long enough that runs with flipped labels come as far from the reference as the others
FLIP_SEEDS = (0, 1, 2, 3, 4)
FAILURE_SEEDS = (0, 1, 2)
PROMPTS = 144  # twelve of each intent, drawn by `draw_prompts`
BETA = 0.5  # where a run does not say otherwise
METHODS = {
    "plain": lambda share: {},
    "cDPO": lambda share: {"label_smoothing": share},
    "robust": lambda share: {"loss_type": "robust", "label_smoothing": share},
    "IPO": lambda share: {"loss_type": "ipo", "beta": 0.1},
    "higher β": lambda share: {"beta": 2.0},
}


def main(seeds):
    """Run everything that the tables do not have yet, for these seeds."""
    model, tokenizer = load_model("support-lm", device="cpu")
    experiments = Experiments(model, tokenizer)
    for seed in seeds:
        for name, share in flip_runs():
            rows = flip_labels(experiments.rows["support"], share, seed)
            settings = METHODS[name](share) | {"steps": FLIP_STEPS}
            experiments.run("flips", name, seed, share, settings, rows)
        if seed in FAILURE_SEEDS:
            for name, (rows, settings) in failure_runs(experiments).items():
                experiments.run("failures", name, seed, 0.0, settings, rows)


def flip_runs():
    """Yield `(method, share flipped)` of each run. The remedies are told the true share."""
    yield from (("plain", share) for share in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5))
    yield from ((name, 0.3) for name in ("cDPO", "robust", "IPO", "higher β"))


def failure_runs(experiments):
    """Return the other failures: name → (rows, the settings of `run_dpo` that differ)."""
    support, confounded, balanced = (experiments.rows[name] for name in ("support", "confounded", "balanced"))
    by_mean = {"score": mean_score, "beta": 0.5 * 16}
    rescored = {"reference": rescoring_reference(experiments.model, pads_counted)}
    return {
        "brief is good": (experiments.brief_good, {}),
        "long is chosen": (longer_chosen(experiments.brief_good), {}),
        "right": (support, {"steps": 120}),
        "own reference": (support, {"reference": own_reference, "steps": 120}),
        "no shift": (support, {"score": without_shift, "steps": 40}),
        "pads counted": (support, {"score": pads_counted, "steps": 20} | rescored),
        "confounded, no EOS": (without_eos(confounded), {}),
        "confounded, sum": (confounded, {}),
        "confounded, mean": (confounded, by_mean),
        "balanced, sum": (balanced, {}),
        "balanced, mean": (balanced, by_mean),
    }


class Experiments:
    """What all runs share: the model, tokenised pairs, and the evaluation on held-out prompts."""

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer
        sets = {"support": ("support", "train"), "clean": ("support", "test")}
        sets |= {name: ("templated", name) for name in ("confounded", "balanced")}
        self.rows = {name: tokenize_pairs(load_preferences(*where), tokenizer) for name, where in sets.items()}
        self.held_out = HeldOut(model, tokenizer, *held_out_prompts(count=PROMPTS))
        self.support = cached_reference(model, self.rows["support"])
        self.rows["balanced"], kept_back = self.rows["balanced"][:360], self.rows["balanced"][360:]
        self.brief_good, self.short_good = (
            [row for row in rows if len(row["chosen"]) < len(row["rejected"])]
            for rows in (self.rows["balanced"], kept_back)
        )

    def run(self, file, name, seed, share, settings, rows):
        """Train one policy and write a row for it at each checkpoint, unless the file has them."""
        if (name, share, seed) in results.done(file, ("run", "flipped", "seed")):
            return
        started, lines = time.monotonic(), []
        score = settings.get("score", right_score)
        if "reference" not in settings:
            swapped = file == "flips"  # the same replies with swapped labels were scored already
            settings = settings | {"reference": self.support if swapped else cached_reference(self.model, rows, score)}
        settings = {"beta": BETA} | settings

        def on_step(step, metrics, policy):
            if step in (*CHECKPOINTS, settings.get("steps", 80)):
                where = {"run": name, "flipped": share, "seed": seed, "step": step}
                lines.append(where | self.held_out.marked(policy, seed))

        policy, history = run_dpo(self.model, rows, seed=seed, on_step=on_step, **settings)
        history = pandas.DataFrame(in_nats(history, settings["beta"]))
        for line in lines:
            last = history.loc[line["step"] - 9 : line["step"], ["loss", "accuracy", "chosen", "rejected"]]
            line |= last.mean().to_dict() | {"clean": math.nan, "short_good": math.nan}
        lines[-1] |= self.held_out_accuracies(policy, mean_score if score is mean_score else right_score)
        results.append(file, lines)
        print(f"{file}: {name}, {share:.0%} flipped, seed {seed}: {time.monotonic() - started:.0f} s", flush=True)

    def held_out_accuracies(self, policy, score):
        """Return the implicit accuracy on pairs that no run trains on: clean ones, and short-good against long-bad."""
        sets = {"clean": self.rows["clean"], "short_good": self.short_good}
        return {name: implicit_accuracy(policy, self.model, rows, score) for name, rows in sets.items()}


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or FLIP_SEEDS)
