"""Runs with something broken, beside the right one: trained, measured on the same prompts, shown. For notebook 06."""

from __future__ import annotations

from typing import NamedTuple

import pandas

from toylib import plots
from toylib.evaluation.paired import Difference, compare, wins_at_kl, wins_at_step
from toylib.labs.failures import run_dpo
from toylib.plots import failures as plots_failures
from toylib.plots.training import in_nats
from toylib.preferences import DATA


class Run(NamedTuple):
    """A trained policy, its log (a DataFrame indexed by step, in nats) and its replies to the held-out prompts."""

    policy: object
    log: pandas.DataFrame
    texts: list[str]


def measured_run(held_out, rows, reference, *, steps=80, measured=(40, 80), beta=0.5, **settings) -> Run:
    """Train by `run_dpo` and measure the policy with `held_out` after the steps `measured`.

    The log has `loss`, `accuracy`, the log-ratios `chosen` and `rejected`, `margin` (nats) and `gradient` of each step,
    and the columns of `report` at the measured steps. `texts` are the replies at the last of these.
    """
    seen, texts = {}, []

    def on_step(step, metrics, policy):
        if step in measured:
            seen[step], texts[:] = held_out.report(policy)

    policy, history = run_dpo(held_out.model, rows, reference, beta=beta, steps=steps, on_step=on_step, **settings)
    return Run(policy, pandas.DataFrame(in_nats(history, beta)).join(pandas.DataFrame(seen).T), texts)


def show_runs(runs, columns, symlog=(), title="") -> None:
    """Draw the logs of `runs`, a dict of label → `Run` with the right one first. The alt text says how each one ends."""
    logs = {label: run.log for label, run in runs.items()}
    ends = "; ".join(
        f"{label}: " + ", ".join(f"{plots_failures.TITLES[name]} {log[name].dropna().iloc[-1]:.2f}" for name in columns)
        for label, log in logs.items()
    )
    lead = f"{title}. " if title else ""
    figure = plots_failures.run_curves(logs, columns, symlog, title)
    plots.show(figure, f"{lead}Curves over the steps. At the end {ends}.")


def outcomes(runs, step, columns=("kl", "win", "win_low", "win_high", "fluent", "words")) -> pandas.DataFrame:
    """Return a row per run of `runs`, a dict of label → `Run`: what was measured after `step`, to two decimals."""
    return pandas.DataFrame({label: run.log.loc[step, list(columns)] for label, run in runs.items()}).T.round(2)


class Study:
    """One of the shipped tables of long runs, data/results/`name`.csv, which `python data/flips.py` makes."""

    def __init__(self, name):
        self.table = pandas.read_csv(DATA / "results" / f"{name}.csv")

    def run(self, run, flipped=0.0) -> pandas.DataFrame:
        """Return the rows of one kind of run, all seeds and checkpoints. Raises `KeyError` if there is none."""
        rows = self.table[(self.table["run"] == run) & (self.table["flipped"] == flipped)]
        if rows.empty:
            raise KeyError(f"no run {run!r} with {flipped:.0%} flipped; there are {sorted(set(self.table['run']))}")
        return rows

    def seeds(self, run, column, step=None, flipped=0.0) -> pandas.Series:
        """Return one value per seed, after `step` or after the last step."""
        rows = self.run(run, flipped)
        return rows[rows["step"] == (step or rows["step"].max())].set_index("seed")[column].sort_index()

    def difference(self, first, second, *, step=None, kl=None) -> Difference:
        """Return the paired difference in win rate of two runs, each `run` or `(run, flipped)`, at a step or a KL."""
        sides = [self.run(*((one,) if isinstance(one, str) else one)) for one in (first, second)]
        return compare(*(wins_at_step(rows, step) if kl is None else wins_at_kl(rows, kl) for rows in sides))
