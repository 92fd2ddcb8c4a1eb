"""A sweep over β: one policy for each β and seed, trained alike and measured on the way. Shown in notebook 05."""

from __future__ import annotations

from typing import NamedTuple

import pandas

from toylib.evaluation.held_out import HeldOut
from toylib.evaluation.paired import win_interval, wins_of
from toylib.plots.training import in_nats
from toylib.preferences import DATA
from toylib.replies import sample_replies
from toylib.train import train_dpo

RESULTS = DATA / "results"
TABLES = ("curves", "quality", "replies")


class Sweep(NamedTuple):
    """The three tables of a sweep. Each has the columns `beta`, `seed` and `step` besides its own.

    - `curves`, measured on each step's batch before its update: mean log-ratios `chosen` and `rejected` (nats), their
      difference `margin` (Δ), `loss`, `accuracy`. At some steps `heldout_margin` and `heldout_accuracy` are the same
      for held-out pairs after the update.
    - `quality`: the columns of `HeldOut.marked` for the policy after that step, with `win` over the untrained replies.
    - `replies`: `prompt` and `reply` at the last step.
    """

    curves: pandas.DataFrame
    quality: pandas.DataFrame
    replies: pandas.DataFrame


def sweep_beta(
    held_out: HeldOut,
    pairs,
    betas,
    *,
    shown=(),
    eval_pairs=None,
    steps=120,
    batch_size=12,
    learning_rate=1e-4,
    measured_at=(),
    seeds=(0,),
) -> Sweep:
    """Train one policy for each of `betas` and `seeds` by `train_dpo`, and measure it after the steps `measured_at`.

    The model is that of `held_out`, which measures quality on its prompts: at step 0 (the model itself), at
    `measured_at` and after the last step. Runs of one seed see the same batches in the same order, so only β differs.
    Replies to `shown` are kept. An interrupt keeps the runs that are complete.
    """
    tables = {name: [] for name in TABLES}
    runs = [(seed, beta) for seed in seeds for beta in betas]
    how = {"learning_rate": learning_rate, "steps": steps, "batch_size": batch_size, "eval_pairs": eval_pairs}
    try:
        for number, (seed, beta) in enumerate(runs, start=1):
            print(f"run {number} of {len(runs)}: β = {beta:g}, seed {seed}")
            how |= {"beta": beta, "seed": seed}
            for name, rows in zip(TABLES, _one_run(held_out, pairs, how, measured_at, list(shown)), strict=True):
                tables[name] += rows
    except KeyboardInterrupt:
        if not tables["curves"]:
            raise
        print(f"\ninterrupted: the sweep has its first {len(tables['curves'])} of {len(runs)} runs")
    return Sweep(pandas.concat(tables["curves"]), *(pandas.DataFrame(tables[name]) for name in TABLES[1:]))


def _one_run(held_out, pairs, how, measured_at, shown):
    """Train one policy by `train_dpo` with the settings `how`. Return its rows for each of `TABLES`.

    Raises `KeyboardInterrupt` if training was interrupted: a sweep has no half runs.
    """
    model, tokenizer, steps = held_out.model, held_out.tokenizer, how["steps"]
    where = {"beta": how["beta"], "seed": how["seed"]}
    quality = [where | {"step": 0} | held_out.marked(model, how["seed"])]

    def on_step(step, metrics, policy):
        if step in measured_at or step == steps:
            quality.append(where | {"step": step} | held_out.marked(policy, how["seed"]))

    policy, history = train_dpo(model, tokenizer, pairs, on_step=on_step, **how)
    if len(history) < steps:
        raise KeyboardInterrupt
    curves = pandas.DataFrame(in_nats(history, how["beta"])).reset_index()
    texts = sample_replies(policy, tokenizer, shown, seed=3 + how["seed"]).texts if shown else []
    replies = [where | {"step": steps, "prompt": prompt, "reply": t} for prompt, t in zip(shown, texts, strict=True)]
    return [curves.assign(**where)[[*where, *curves.columns]]], quality, replies


def seed_means(quality) -> pandas.DataFrame:
    """Average a sweep's `quality` over seeds: one row per β and step.

    `win_low` and `win_high` become the 95 % interval of the win rate over prompts and seeds.
    """
    rows = []
    for (beta, step), runs in quality.groupby(["beta", "step"]):
        row = {"beta": beta, "step": step}
        row |= runs.drop(columns=["beta", "step", "seed"]).mean(numeric_only=True).to_dict()
        interval = win_interval({i: wins_of(text) for i, text in enumerate(runs["wins"])})
        rows.append(row | {"win": interval.mean, "win_low": interval.low, "win_high": interval.high})
    return pandas.DataFrame(rows)


def load_sweep(name="beta") -> Sweep:
    """Load the shipped sweep `name` from data/results/. data/README.md says how each was made."""
    paths = {table: RESULTS / f"{name}_{table}.csv" for table in TABLES}
    return Sweep(*(pandas.read_csv(path, keep_default_na=table != "replies") for table, path in paths.items()))
