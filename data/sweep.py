"""The runs of notebook 05: `python data/sweep.py` (about 35 minutes on 2 cores) writes data/results/.

`beta_*.csv`: eight β, three seeds, 160 steps of 12 pairs each, long enough that β matters. `length.csv`: log-probs summed
and averaged, on pairs whose chosen reply is always the longer one and on pairs balanced in length. Replies are measured
on all held-out prompts.
"""

from __future__ import annotations

import copy
import tempfile

import pandas
import results
from transformers import TrainingArguments

from toylib import plots
from toylib.engine.trainer import DPOTrainer
from toylib.evaluation.held_out import HeldOut, held_out_prompts
from toylib.labs.sweep import RESULTS, TABLES, Sweep, load_sweep, sweep_beta
from toylib.models import load_model
from toylib.plots import sweep as plots_sweep
from toylib.preferences import load_preferences, load_prompts
from toylib.widgets.beta_lab import STATIC

BETAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SEEDS = (0, 1, 2)
STEPS = 160
MEASURED_AT = (10, 20, 40, 80, 100, 120, 140, 160)
PROMPTS = 144  # twelve of each intent, drawn by `draw_prompts`
SHOWN = (3, 23, 42, 80, 118)  # of the hand-written prompts; the worked example comes first
SHIPPED_EVERY = 5  # the curves are shipped for every fifth step and the first five
LENGTH_STEPS = 40


def run_betas(betas=BETAS, seeds=SEEDS) -> Sweep:
    """Return the sweep over β, with the curves thinned to what is shipped."""
    model, tokenizer = load_model("support-lm", device="cpu")
    prompts, intents = held_out_prompts(count=PROMPTS)
    written = load_prompts("test")["prompt"]
    sweep = sweep_beta(
        model,
        tokenizer,
        load_preferences("support"),
        betas,
        prompts=prompts,
        intents=intents,
        shown=["Customer: My order is late.\nAgent:", *(written[i] for i in SHOWN)],
        eval_pairs=load_preferences("support", "test").select(range(60)),
        steps=STEPS,
        measured_at=MEASURED_AT,
        seeds=seeds,
    )
    step, held_out = sweep.curves["step"], sweep.curves["heldout_margin"].notna()
    return sweep._replace(curves=sweep.curves[(step <= SHIPPED_EVERY) | (step % SHIPPED_EVERY == 0) | held_out])


def run_lengths(seeds=SEEDS, beta=0.1) -> pandas.DataFrame:
    """Return `report` of policies by sum or mean on confounded or balanced pairs, and of the untrained model ("none").

    The mean's β is the sum's times the mean reply length of the pairs, so that both losses start with equally large gradients.
    """
    model, tokenizer = load_model("support-lm", device="cpu")
    held_out, rows = HeldOut(model, tokenizer, *held_out_prompts()), []
    for seed in seeds:
        rows.append({"pairs": "none", "log_probs": "none", "beta": 0.0, "seed": seed, **held_out(model, seed)})
        for split in ("confounded", "balanced"):
            pairs = load_preferences("templated", split)
            replies = [*pairs["chosen"], *pairs["rejected"]]
            tokens = sum(len(ids) + 1 for ids in tokenizer(replies)["input_ids"]) / len(replies)  # and the end token
            for log_probs, scale in (("sum", 1.0), ("mean", tokens)):
                policy = train_lengths(model, tokenizer, pairs, beta * scale, seed, log_probs == "mean")
                where = {"pairs": split, "log_probs": log_probs, "beta": beta * scale, "seed": seed}
                rows.append(where | held_out(policy, seed))
                print(rows[-1])
    return pandas.DataFrame(rows)


def train_lengths(model, tokenizer, pairs, beta, seed, average_logps):
    """Train a copy of `model` by `DPOTrainer` with log-probs summed or averaged per reply. Return the policy."""
    policy = copy.deepcopy(model)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            max_steps=LENGTH_STEPS,
            per_device_train_batch_size=12,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            seed=seed,
            use_cpu=True,
            disable_tqdm=True,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
        )
        trainer = DPOTrainer(
            policy, settings, pairs, processing_class=tokenizer, beta=beta, average_logps=average_logps
        )
        trainer.train()
    return policy.eval()


def draw_lab():
    """Write the picture of the README, which notebook 05 shows where nothing runs."""
    sweep = load_sweep("beta")
    picture = plots.png(plots_sweep.lab_grid(sweep.curves, sweep.quality, STATIC))
    (RESULTS / "beta_lab.png").write_bytes(picture)


if __name__ == "__main__":
    swept = run_betas()
    if swept.quality.groupby(["beta", "seed"]).ngroups < len(BETAS) * len(SEEDS):
        raise SystemExit("interrupted: nothing was written")
    for table, frame in zip(TABLES, swept, strict=True):
        results.save(f"beta_{table}", frame)
    draw_lab()
    results.save("length", run_lengths())
