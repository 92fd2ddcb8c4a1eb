"""The settings that `relatives.py` tries for each method of notebook 08, and the best of them."""

from __future__ import annotations

import functools
import math

import results

from toylib.labs.verdicts import best_setting

BUDGET = 7  # settings per method, each measured at three steps: as many measurements as notebook 07 spends
RATES = (1e-4, 3e-4, 1e-3)
BETAS = {"sft": None, "dpo": 0.1, "ipo": 0.1, "dpo_norm": 2.0, "apo_zero": 0.1, "rpo": 0.1, "dpo_positive": 0.1}
BETAS |= {"orpo": 0.1, "simpo": 2.0, "kto": 0.1}  # method -> the β that its tuning begins with


def settings_of(method, rate, beta) -> dict:
    """Return the keywords of `train_relative` for a rate and a β. SimPO's γ is β/2."""
    settings = {"learning_rate": rate} | ({} if beta is None else {"beta": beta})
    return settings | ({"gamma": beta / 2} if method == "simpo" else {})


def next_setting(method, wins) -> tuple[float, float | None] | None:
    """Return the rate and β to try next, or None when the budget is spent.

    `wins` has the settings tried so far, in their order: (rate, β) → best win rate over the steps. First come three
    rates and one more, then three times and a third of the β, and at last another β if the best one is on an edge,
    else another rate. Without a β all are rates.
    """
    beta, count = BETAS[method], len(wins)
    if count == BUDGET:
        return None
    if count < len(RATES):
        return RATES[count], beta
    rate, best_beta = max(wins, key=wins.get)  # of equals, the one tried first
    at_rate = {tried: win for (other, tried), win in wins.items() if other == rate}
    if beta is not None and count in (4, 5):
        return rate, rounded(beta * 3 if count == 4 else beta / 3)
    if len(at_rate) > 1 and best_beta in (min(at_rate), max(at_rate)):
        return rate, next_value(at_rate)
    return next_value({other: win for (other, tried), win in wins.items() if tried == best_beta}), best_beta


def next_value(wins) -> float:
    """Return what to try after the values of `wins`: beyond them if the best is on an edge, else beside the best."""
    values = sorted(wins)
    best_value = max(wins, key=wins.get)
    if best_value in (values[0], values[-1]):
        return rounded(best_value / 3 if best_value == values[0] else best_value * 3)
    at = values.index(best_value)
    return rounded(math.sqrt(best_value * max(values[at - 1], values[at + 1], key=wins.get)))


def rounded(value) -> float:
    """Return the value with two digits, as tables have it."""
    return float(f"{value:.2g}")


def tried(rows, method) -> dict[tuple, float]:
    """Return (rate, β) → best win rate over the steps, for a method's rows in a table, in their order."""
    wins = {}
    for row in rows:
        if row["method"] == method:
            key = (row["learning_rate"], None if BETAS[method] is None else row["beta"])
            wins[key] = max(row["win"], wins.get(key, 0))
    return wins


@functools.cache
def best(method):
    """Return the `(settings, step)` with the highest win rate on the `dev` prompts; of equals, those measured first."""
    settings, step = best_setting(results.load("relatives_tuning"), method)
    return settings_of(method, settings["learning_rate"], settings.get("beta")), step
