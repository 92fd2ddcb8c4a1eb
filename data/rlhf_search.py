"""Choose settings for the runs of data/rlhf_runs.py: a walk over ladders of values, on `dev` prompts.

`next_settings` starts from `START`, then tries one value up and one down in each setting of the best so far, which may
move. `open_edges` names the settings whose best value still has no worse one on one of its sides.
"""

from __future__ import annotations

import itertools

import results

TABLE = "rlhf_tuning"
LADDERS = {
    "dpo": {"learning_rate": (1.25e-5, 2.5e-5, 5e-5, 1e-4, 2e-4, 4e-4), "beta": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)},
    "ppo": {
        "learning_rate": (5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3),
        "kl_coefficient": (0.0, 0.02, 0.06, 0.2, 0.6, 2.0),
        "reward_steps": (8, 15, 26, 60, 120),
        "epochs": (1, 2, 4, 8),
    },
    "grpo": {
        "learning_rate": (5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3),
        "kl_coefficient": (0.0, 0.01, 0.04, 0.16, 0.64, 2.56),
        "reward_steps": (8, 15, 26, 60, 120),
        "group_size": (2, 4, 8, 16),
    },
    "online_dpo": {
        "learning_rate": (5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3),
        "beta": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
        "reward_steps": (8, 15, 26, 60, 120),
    },
}
OPEN_BELOW = ("learning_rate", "beta", "reward_steps")  # a lower value than the ladder's first would be possible
START = {
    "dpo": {"learning_rate": 1e-4, "beta": 0.3},
    "ppo": {"learning_rate": 3e-4, "kl_coefficient": 0.2, "reward_steps": 26, "epochs": 2},
    "grpo": {"learning_rate": 3e-4, "kl_coefficient": 0.04, "reward_steps": 26, "group_size": 4},
    "online_dpo": {"learning_rate": 2e-4, "beta": 0.1, "reward_steps": 26},
}
METHODS = tuple(LADDERS)


def measured(method, table=TABLE) -> dict[tuple, float]:
    """Return settings → highest win rate over the checkpoints, in the order measured, from a table of results."""
    if (method,) not in results.done(table, ["method"]):
        return {}
    rows = results.load(table)
    rows, names = rows[rows["method"] == method], list(LADDERS[method])
    return rows.groupby(names, sort=False)["win"].max().to_dict()


def best(method, table=TABLE) -> tuple[dict, int]:
    """Return the `(settings, step)` with the highest win rate; of equals, the first one measured and its first step."""
    rows = results.load(table)
    row = rows[rows["method"] == method].sort_values("win", kind="stable", ascending=False).iloc[0]
    return {name: type(LADDERS[method][name][-1])(row[name]) for name in LADDERS[method]}, int(row["step"])


def neighbours(method, values, distance=1):
    """Yield the settings that differ from `values` by one place on the ladders of `distance` settings."""
    ladders = list(LADDERS[method].values())
    for changed in itertools.combinations(range(len(ladders)), distance):
        for moves in itertools.product((-1, 1), repeat=distance):
            places = [ladder.index(value) for ladder, value in zip(ladders, values, strict=True)]
            for i, move in zip(changed, moves, strict=True):
                places[i] += move
            if all(0 <= place < len(ladder) for place, ladder in zip(places, ladders, strict=True)):
                yield tuple(ladder[place] for place, ladder in zip(places, ladders, strict=True))


def next_settings(method, table=TABLE) -> dict:
    """Return the settings to measure next, none of which has been measured."""
    seen = measured(method, table)
    if not seen:
        return START[method]
    ranked = sorted(seen, key=seen.get, reverse=True)
    for values, distance in itertools.product(ranked, (1, 2)):
        for near in neighbours(method, values, distance):
            if near not in seen:
                return dict(zip(LADDERS[method], near, strict=True))
    raise ValueError(f"all settings of {method} have been measured: extend its ladders")


def open_edges(method, table=TABLE) -> list[str]:
    """Return the settings in which the best value is the lowest or the highest that was tried, its steps included.

    The ends that nothing lies beyond do not count: a KL coefficient of 0, one epoch, a group of two, and the last step
    of the on-policy methods, where the budget of replies ends.
    """
    rows = results.load(table)
    rows, (settings, step) = rows[rows["method"] == method], best(method, table)
    found = []
    for name, value in settings.items():
        lowest = value == rows[name].min() and (name in OPEN_BELOW or value != LADDERS[method][name][0])
        if lowest or value == rows[name].max():
            found.append(name)
    if method == "dpo":
        run = rows[(rows[list(settings)] == list(settings.values())).all(axis=1)]
        found += ["steps"] if step in (run["step"].min(), run["step"].max()) else []
    return found
