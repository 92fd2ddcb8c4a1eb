"""Read the tables of data/rlhf_runs.py: the best settings, and the paired differences behind notebook 07's verdicts."""

from __future__ import annotations

import itertools

from toylib.evaluation.comparisons import Difference
from toylib.evaluation.paired import compare, verdict, win_interval, wins_at_kl, wins_at_step

COUNTS = ("reward_steps", "epochs", "group_size")
SETTINGS = ("learning_rate", "beta", "kl_coefficient", *COUNTS)


def best_setting(table, method) -> tuple[dict, int]:
    """Return the `(settings, step)` of a method with the highest `win`; of equals, those measured first.

    `table` has `method`, `step`, `win` and some of `SETTINGS`. Settings that the method does not have are left out.
    """
    row = table[table["method"] == method].sort_values("win", kind="stable", ascending=False).iloc[0]
    chosen = row[[name for name in SETTINGS if name in table]].dropna()
    return {name: int(value) if name in COUNTS else float(value) for name, value in chosen.items()}, int(row["step"])


def on_an_edge(table, method, ends=()) -> list[str]:
    """Return the settings in which the best value is the lowest or the highest that was tried, DPO's steps included.

    Settings of which a single value was tried do not count, and neither do `ends`. Those are the `(setting, value)`
    beyond which nothing is possible, such as a KL coefficient of 0.
    """
    rows, (settings, step) = table[table["method"] == method], best_setting(table, method)
    found = []
    for name, value in settings.items():
        if value in (rows[name].min(), rows[name].max()) and rows[name].nunique() > 1 and (name, value) not in ends:
            found.append(name)
    run = rows[(rows[list(settings)] == list(settings.values())).all(axis=1)]
    if method == "dpo" and step in (run["step"].min(), run["step"].max()):
        found.append("step")
    return found


def wins_by_method(table, steps, kl=None) -> dict[str, dict]:
    """Return method → seed → wins `(prompts,)`: at the step that `steps` has for each method, or where it reached `kl`.

    Methods of `steps` without a run that reached `kl` are left out.
    """
    found = {}
    for method, step in steps.items():
        runs = table[table["method"] == method]
        wins = wins_at_step(runs, step) if kl is None else wins_at_kl(runs, kl)
        if wins:
            found[method] = wins
    return found


def differences(wins, pairs) -> dict[tuple[str, str], Difference]:
    """Return (a, b) → the paired difference in win rate, a − b, for each of `pairs` that `wins` has."""
    return {(a, b): compare(wins[a], wins[b]) for a, b in pairs if a in wins and b in wins}


def all_pairs(methods) -> list[tuple[str, str]]:
    """Return every pair of methods, in their order."""
    return list(itertools.combinations(methods, 2))


def sentences(found, labels) -> list[str]:
    """Return the verdict on each of `differences`, with the names that `labels` has for the methods."""
    return [verdict(difference, labels[a], labels[b]) for (a, b), difference in found.items()]


def ahead(found, first, second) -> bool:
    """Return whether `first` is ahead of `second`: the interval of their difference lies on its side of 0."""
    if (first, second) in found:
        return found[first, second].low > 0
    return found[second, first].high < 0


def rates(wins, labels):
    """Return a DataFrame with the win rate of each method, its 95 % interval, and the number of seeds and prompts.

    `wins` is from `wins_by_method`, and `labels` maps a method to its name in the table.
    """
    import pandas

    rows = {}
    for method, by_seed in wins.items():
        mean, low, high = win_interval(by_seed)
        prompts = len(next(iter(by_seed.values())))
        rows[labels[method]] = {"win rate": mean, "low": low, "high": high, "seeds": len(by_seed), "prompts": prompts}
    return pandas.DataFrame.from_dict(rows, orient="index")
