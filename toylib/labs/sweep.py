"""A sweep over β: one policy for each β and seed, trained alike, measured on the way. What notebook 05 drags through."""

from __future__ import annotations

from typing import NamedTuple

import pandas

from toylib.evaluation.held_out import report
from toylib.evaluation.judge import judge
from toylib.preferences import DATA
from toylib.replies import sample_replies
from toylib.train import train_dpo

RESULTS = DATA / "results"
TABLES = ("curves", "quality", "replies")


class Sweep(NamedTuple):
    """Three tables, each with the columns `beta`, `seed` and `step` beside its own.

    `curves`: what was measured on each step's batch before its update: mean log-ratios `chosen` and `rejected` (nats),
    their difference `margin` (Δ), `loss`, `accuracy`; `heldout_margin` and `heldout_accuracy`, the same of held-out
    pairs after the update, at some steps.
    `quality`: `report`'s columns for the policy after that step, and `win` over the untrained model's replies.
    `replies`: `prompt` and `reply`, at the last step.
    """

    curves: pandas.DataFrame
    quality: pandas.DataFrame
    replies: pandas.DataFrame


def sweep_beta(
    model,
    tokenizer,
    pairs,
    betas,
    *,
    prompts,
    intents,
    shown=(),
    eval_pairs=None,
    steps=120,
    batch_size=12,
    learning_rate=1e-4,
    measured_at=(),
    seeds=(0,),
) -> Sweep:
    """Train one policy for each of `betas` and `seeds` by `train_dpo`, and measure it after the steps `measured_at`.

    Every run starts from `model` and meets the same batches in the same order, so that β alone differs. `prompts` and
    `intents` are what quality is measured on, always after the last step too; `shown` are prompts whose replies are
    kept. Untrained replies (the baseline of `win`), and each seed's, are sampled with the same random numbers in every
    run. `step` 0 in `quality` is `model` itself. Prints which run it is at. An interrupt keeps the runs that are whole.
    """
    baseline = judge(prompts, sample_replies(model, tokenizer, prompts, seed=100).texts, intents)["score"]
    tables = {name: [] for name in TABLES}
    runs = [(seed, beta) for seed in seeds for beta in betas]
    how = {"learning_rate": learning_rate, "steps": steps, "batch_size": batch_size, "eval_pairs": eval_pairs}

    def one_run(beta, seed):
        where, measured = {"beta": beta, "seed": seed}, []

        def measure(step, policy):
            row, _ = report(policy, model, tokenizer, prompts, intents, baseline, seed=200 + seed)
            measured.append(where | {"step": step} | row)

        def on_step(step, metrics, policy):
            if step in measured_at or step == steps:
                measure(step, policy)

        measure(0, model)
        policy, history = train_dpo(model, tokenizer, pairs, beta=beta, seed=seed, on_step=on_step, **how)
        if len(history) < steps:
            raise KeyboardInterrupt  # `train_dpo` kept what it had; half a run is none of a sweep's
        curves = curves_of(history, beta).reset_index()
        texts = sample_replies(policy, tokenizer, shown, seed=3 + seed).texts if shown else []
        replies = [
            where | {"step": steps, "prompt": prompt, "reply": t} for prompt, t in zip(shown, texts, strict=True)
        ]
        return [curves.assign(**where)[[*where, *curves.columns]]], measured, replies

    try:
        for number, (seed, beta) in enumerate(runs, start=1):
            print(f"run {number} of {len(runs)}: β = {beta:g}, seed {seed}")
            for name, rows in zip(TABLES, one_run(beta, seed), strict=True):
                tables[name] += rows
    except KeyboardInterrupt:
        if not tables["curves"]:
            raise
        print(f"\ninterrupted: the sweep has its first {len(tables['curves'])} of {len(runs)} runs")
    return Sweep(pandas.concat(tables["curves"]), *(pandas.DataFrame(tables[name]) for name in TABLES[1:]))


def curves_of(history, beta) -> pandas.DataFrame:
    """`train_dpo`'s history in log-ratios (nats) instead of rewards, which carry β and so cannot be compared across β."""
    columns = {name: history[f"rewards/{name}"] / beta for name in ("chosen", "rejected")}
    columns |= {"margin": history["rewards/margins"] / beta, "loss": history["loss"]}
    columns |= {"accuracy": history["rewards/accuracies"]}
    if "eval_rewards/margins" in history:
        columns |= {"heldout_margin": history["eval_rewards/margins"] / beta}
        columns |= {"heldout_accuracy": history["eval_rewards/accuracies"]}
    return pandas.DataFrame(columns)


def load_sweep(name="beta") -> Sweep:
    """A sweep that was run before, from data/results/ (how each was made: data/README.md)."""
    return Sweep(
        *(pandas.read_csv(RESULTS / f"{name}_{table}.csv", keep_default_na=table != "replies") for table in TABLES)
    )


def save_sweep(sweep: Sweep, name: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    for table, frame in zip(TABLES, sweep, strict=True):
        frame.to_csv(RESULTS / f"{name}_{table}.csv", index=False, float_format="%.4g")
