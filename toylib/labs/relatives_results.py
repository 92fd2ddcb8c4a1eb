"""Read the tables of data/relatives.py: the best settings of each relative of DPO, and how it compares. Notebook 08."""

from __future__ import annotations

from typing import NamedTuple

import pandas

from toylib.evaluation.paired import compare, win_interval, wins_at_step
from toylib.labs.verdicts import best_setting, wins_by_method
from toylib.plots.relatives import METHODS
from toylib.preferences import DATA


class Relatives(NamedTuple):
    """The measured runs of DPO's relatives. Each table has a row per measurement, with `wins`, a letter per prompt.

    - `quality`: every method at its best setting, at several steps, notebook 07's methods included. For best-of-n, `step`
      is n and `kl` the upper bound log n − (n − 1)/n.
    - `tuning`: all settings that were tried for them on `dev` prompts.
    - `kto`, `pairs`, `rounds`: KTO on single replies, DPO and SFT on fewer pairs, and DPO in rounds of sampled pairs.
    - `replies`: what each method at its best says to six customers, as `prompt` and `reply`.
    - `best`: method → `(settings, step)`, chosen on `dev` prompts.
    """

    quality: pandas.DataFrame
    tuning: pandas.DataFrame
    kto: pandas.DataFrame
    pairs: pandas.DataFrame
    rounds: pandas.DataFrame
    replies: pandas.DataFrame
    best: dict[str, tuple[dict, int]]

    def at_best(self, method) -> pandas.DataFrame:
        """Return the rows of a method at its best step, one per seed."""
        return self.quality[(self.quality["method"] == method) & (self.quality["step"] == self.best[method][1])]

    def means_at_best(self) -> pandas.DataFrame:
        """Return the mean numbers of every method at its best step, indexed by method."""
        return pandas.DataFrame({name: self.at_best(name).mean(numeric_only=True) for name in self.best}).T

    def against_dpo(self, *kls) -> pandas.DataFrame:
        """Return paired differences in win rate to DPO, at each of `kls` nats and at their best, with 95 % intervals.

        The columns are `method`, `where`, `mean`, `low` and `high`. Best-of-n has no run that reaches a KL.
        """
        steps = {name: step for name, (_, step) in self.best.items()}
        trained = {name: step for name, step in steps.items() if name != "best_of_n"}
        places = {f"at KL {kl:g}": wins_by_method(self.quality, trained, kl) for kl in kls}
        places["each at its best"] = wins_by_method(self.quality, steps)
        found = [
            {"method": name, "where": where, **compare(wins[name], wins["dpo"])._asdict()}
            for where, wins in places.items()
            for name in wins
            if name != "dpo"
        ]
        return pandas.DataFrame(found)


def load_relatives() -> Relatives:
    """Return the shipped tables, in the order of `plots.relatives.METHODS`."""
    parts = ("tuning", "quality", "kto", "pairs", "rounds")
    tables = {part: pandas.read_csv(DATA / "results" / f"relatives_{part}.csv") for part in parts}
    replies = pandas.read_csv(DATA / "results" / "relatives_replies.csv", keep_default_na=False)
    in_07 = {part: pandas.read_csv(DATA / "results" / f"rlhf_{part}.csv") for part in ("tuning", "quality")}
    tuning, quality, others = tables["tuning"], tables.pop("quality"), in_07["quality"]
    others = others[(others["method"] != "dpo") & others["seed"].isin(quality["seed"])]  # 07 has more seeds
    quality = pandas.concat([quality, others], ignore_index=True)
    best = {}
    for method in METHODS:
        if method == "best_of_n":
            best[method] = ({}, int(quality.loc[quality["method"] == method, "step"].max()))
        else:
            best[method] = best_setting(tuning if method in set(tuning["method"]) else in_07["tuning"], method)
    return Relatives(quality=quality, replies=replies, best=best, **tables)


def win_rates(runs) -> dict[str, tuple[float, float, float]]:
    """Return name → win rate and its 95 % interval over seeds and prompts; `runs` maps a name to rows of one step."""
    return {name: tuple(win_interval(wins_at_step(rows))) for name, rows in runs.items()}
