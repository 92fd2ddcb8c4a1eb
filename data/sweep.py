"""The runs that notebook 05 shows: `python data/sweep.py` (about 35 minutes on 2 cores) writes data/results/.

`beta_*.csv`: eight β, three seeds, 160 steps of 12 pairs each, long enough that β matters. `length.csv`: log-probs summed
and averaged, on pairs whose chosen reply is always the longer one and on pairs balanced in length. Replies are measured
on all held-out prompts.
"""

from __future__ import annotations

import copy
import tempfile

import pandas
from transformers import TrainingArguments

from toylib import plots
from toylib.engine.trainer import DPOTrainer
from toylib.evaluation.held_out import report
from toylib.evaluation.judge import judge
from toylib.labs.sweep import RESULTS, Sweep, load_sweep, save_sweep, sweep_beta
from toylib.models import load_model
from toylib.plots import sweep as plots_sweep
from toylib.preferences import load_preferences, load_prompts
from toylib.replies import sample_replies
from toylib.widgets.beta_lab import STATIC

BETAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SEEDS = (0, 1, 2)
STEPS = 160
MEASURED_AT = (10, 20, 40, 80, 160)
SHOWN = (3, 23, 42, 80, 118)  # of the hand-written prompts, beside the worked example's
KEPT_STEPS = 5  # of the curves every fifth step is shipped, and the first ones
LENGTH_STEPS = 40


def held_out_prompts() -> pandas.DataFrame:
    return pandas.concat([load_prompts("test").to_pandas(), load_prompts("heldout").to_pandas()])


def run_betas(betas=BETAS, seeds=SEEDS) -> Sweep:
    model, tokenizer = load_model("support-lm", device="cpu")
    prompts = held_out_prompts()
    written = load_prompts("test")["prompt"]
    sweep = sweep_beta(
        model,
        tokenizer,
        load_preferences("support"),
        betas,
        prompts=list(prompts["prompt"]),
        intents=list(prompts["intent"]),
        shown=["Customer: My order is late.\nAgent:", *(written[i] for i in SHOWN)],
        eval_pairs=load_preferences("support", "test").select(range(60)),
        steps=STEPS,
        measured_at=MEASURED_AT,
        seeds=seeds,
    )
    step, held_out = sweep.curves["step"], sweep.curves["heldout_margin"].notna()
    return sweep._replace(curves=sweep.curves[(step <= KEPT_STEPS) | (step % KEPT_STEPS == 0) | held_out])


def run_lengths(seeds=SEEDS, beta=0.1) -> pandas.DataFrame:
    """Sum or mean, confounded or balanced pairs: `report` of each policy, and of the untrained model as `pairs` "none".

    The mean's β is the sum's times the mean reply length of the pairs, so that both losses start with the same pull.
    """
    model, tokenizer = load_model("support-lm", device="cpu")
    prompts = held_out_prompts()
    asked = (list(prompts["prompt"]), list(prompts["intent"]))
    baseline = judge(asked[0], sample_replies(model, tokenizer, asked[0], seed=100).texts, asked[1])["score"]
    rows = []
    for seed in seeds:
        untrained, _ = report(model, model, tokenizer, *asked, baseline, seed=200 + seed)
        rows.append({"pairs": "none", "log_probs": "none", "beta": 0.0, "seed": seed, **untrained})
        for split in ("confounded", "balanced"):
            pairs = load_preferences("templated", split)
            replies = [*pairs["chosen"], *pairs["rejected"]]
            tokens = sum(len(ids) + 1 for ids in tokenizer(replies)["input_ids"]) / len(replies)  # and the end token
            for log_probs, scale in (("sum", 1.0), ("mean", tokens)):
                policy = train_lengths(model, tokenizer, pairs, beta * scale, seed, log_probs == "mean")
                row, _ = report(policy, model, tokenizer, *asked, baseline, seed=200 + seed)
                rows.append({"pairs": split, "log_probs": log_probs, "beta": beta * scale, "seed": seed, **row})
                print(rows[-1])
    return pandas.DataFrame(rows)


def train_lengths(model, tokenizer, pairs, beta, seed, average_logps):
    """A policy trained by `DPOTrainer` from a copy of `model`, with log-probs summed or averaged over a reply."""
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
    """The picture in the README: what notebook 05 shows where nothing runs."""
    sweep = load_sweep("beta")
    picture = plots.png(plots_sweep.lab_grid(sweep.curves, sweep.quality, STATIC))
    (RESULTS / "beta_lab.png").write_bytes(picture)


if __name__ == "__main__":
    swept = run_betas()
    if swept.quality.groupby(["beta", "seed"]).ngroups < len(BETAS) * len(SEEDS):
        raise SystemExit("interrupted: nothing was written")
    save_sweep(swept, "beta")
    draw_lab()
    run_lengths().to_csv(RESULTS / "length.csv", index=False, float_format="%.4g")
