"""The runs of notebook 05: `python data/sweep.py` (about 60 minutes on one core) writes data/results/beta_*.csv.

Eight β, five seeds, 160 steps of 12 pairs each, long enough that β matters. Replies are measured on 144 held-out
prompts, twelve of each intent. Runs that the tables already have are skipped, so it can be stopped and started again.
`python data/sweep.py 0 2` runs seeds 0 and 2 only.
"""

from __future__ import annotations

import sys
import time

import results

from toylib import plots
from toylib.evaluation.held_out import HeldOut, held_out_prompts
from toylib.labs.sweep import RESULTS, TABLES, load_sweep, seed_means, sweep_beta
from toylib.models import load_model
from toylib.plots import sweep as plots_sweep
from toylib.preferences import load_preferences, load_prompts
from toylib.widgets.beta_lab import STATIC

BETAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SEEDS = (0, 1, 2, 3, 4)
STEPS = 160
MEASURED_AT = (10, 20, 40, 80, 100, 120, 140, 160)
PROMPTS = 144  # twelve of each intent, drawn by `draw_prompts`
SHOWN = (3, 23, 42, 80, 118)  # of the hand-written prompts; the worked example comes first
SHIPPED_EVERY = 5  # the curves are shipped for every fifth step and the first five


def run_betas(betas=BETAS, seeds=SEEDS):
    """Train and measure every β and seed that the tables do not have yet, and add their rows. Curves are thinned."""
    model, tokenizer = load_model("support-lm", device="cpu")
    prompts, intents = held_out_prompts(count=PROMPTS)
    written = load_prompts("test")["prompt"]
    held_out = HeldOut(model, tokenizer, prompts, intents)
    for seed in seeds:
        for beta in betas:
            if (beta, seed) in results.done("beta_replies", ("beta", "seed")):
                continue
            started = time.monotonic()
            sweep = sweep_beta(
                held_out,
                load_preferences("support"),
                [beta],
                shown=["Customer: My order is late.\nAgent:", *(written[i] for i in SHOWN)],
                eval_pairs=load_preferences("support", "test").select(range(60)),
                steps=STEPS,
                measured_at=MEASURED_AT,
                seeds=[seed],
            )
            if sweep.quality["step"].max() < STEPS:
                raise SystemExit("interrupted: this run was not written")
            step, on_held_out = sweep.curves["step"], sweep.curves["heldout_margin"].notna()
            kept = (step <= SHIPPED_EVERY) | (step % SHIPPED_EVERY == 0) | on_held_out
            for table, frame in zip(TABLES, sweep._replace(curves=sweep.curves[kept]), strict=True):
                results.append(f"beta_{table}", frame)
            print(f"β = {beta:g}, seed {seed}: {time.monotonic() - started:.0f} s", flush=True)


def draw_lab():
    """Write the picture of the README, which notebook 05 shows where nothing runs."""
    sweep = load_sweep("beta")
    picture = plots.png(plots_sweep.lab_grid(sweep.curves, seed_means(sweep.quality), STATIC))
    (RESULTS / "beta_lab.png").write_bytes(picture)


if __name__ == "__main__":
    run_betas(seeds=[int(seed) for seed in sys.argv[1:]] or SEEDS)
    draw_lab()
