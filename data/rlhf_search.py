"""Choose settings for the runs of data/rlhf_runs.py: a walk over ladders of values, on `dev` prompts.

`next_settings` starts from `START`, then tries one value up and one down in each setting of the best so far, which may
move.
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
ENDS = (("kl_coefficient", 0.0), ("epochs", 1), ("group_size", 2))  # nothing lies beyond
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
    """Return the settings to measure next: neighbours of the best so far, those with a value never tried first."""
    seen = measured(method, table)
    if not seen:
        return START[method]
    ranked = sorted(seen, key=seen.get, reverse=True)
    tried = [set(values) for values in zip(*seen, strict=True)]
    near = [one for one in neighbours(method, ranked[0]) if one not in seen]
    beyond = [one for one in near if any(value not in had for value, had in zip(one, tried, strict=True))]
    others = (one for distance in (1, 2) for values in ranked for one in neighbours(method, values, distance))
    for values in itertools.chain(beyond, others):
        if values not in seen:
            return dict(zip(LADDERS[method], values, strict=True))
    raise ValueError(f"all settings of {method} have been measured: extend its ladders")
