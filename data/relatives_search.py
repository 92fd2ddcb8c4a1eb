"""The settings that `relatives.py` tries for each method of notebook 08, and the best of them."""

from __future__ import annotations

import functools
import math

import results

RATES = (1e-4, 3e-4, 1e-3)
BETAS = {"sft": None, "dpo": 0.1, "ipo": 0.1, "dpo_norm": 2.0, "apo_zero": 0.1, "rpo": 0.1, "dpo_positive": 0.1}
BETAS |= {"orpo": 0.1, "simpo": 2.0, "kto": 0.1}  # method -> the β that its tuning begins with


def settings_of(method, rate, beta) -> dict:
    """Return the keywords of `train_relative` for a rate and a β. SimPO's γ is β/2."""
    settings = {"learning_rate": rate} | ({} if beta is None else {"beta": beta})
    return settings | ({"gamma": beta / 2} if method == "simpo" else {})


def best_rates(rows, method) -> list[float]:
    """Return the rates that were tried for a method, the one with the highest win rate first."""
    wins = {}
    for row in rows:
        if row["method"] == method:
            wins[row["learning_rate"]] = max(row["win"], wins.get(row["learning_rate"], 0))
    return sorted(wins, key=wins.get, reverse=True)


def next_rate(rates) -> float:
    """Return the rate to try after `rates`, best first: outside them if the best is on an edge, or between the two best."""
    if rates[0] == min(rates):
        return rates[0] / 3
    return rates[0] * 3 if rates[0] == max(rates) else math.sqrt(rates[0] * rates[1])


@functools.cache
def best(method):
    """Return the `(settings, step)` with the highest win rate on the `dev` prompts; of equals, the later step."""
    table = results.load("relatives_tuning")
    row = table[table["method"] == method].sort_values(["win", "step"]).iloc[-1]
    beta = None if BETAS[method] is None else float(row["beta"])
    return settings_of(method, float(row["learning_rate"]), beta), int(row["step"])
