"""The long comparisons of notebook 07: DPO, PPO, GRPO and online DPO, over settings and seeds.

    python data/rlhf_runs.py              every part, in this order (about four and a half hours on one core)
    python data/rlhf_runs.py tuning       one part: tuning, quality, noise, hacking, verifiable, composite, stricter

Each part writes data/results/rlhf_<part>.csv, one row per measurement, and skips the runs that the table has, so that it
can be stopped and started again. `tuning` measures on `dev` prompts only, with a seed of its own. The others take the
best settings of `tuning` and measure on the hand-written test prompts and the held-out phrasings.
"""

from __future__ import annotations

import functools
import random

import results
import rlhf_search as search
from rlhf_training import MODEL, PROMPTS, TOKENIZER, Composite, flip, relabel, shipped, train

from toylib.evaluation.held_out import HeldOut, held_out_prompts
from toylib.evaluation.judge import find_slots
from toylib.labs.online_dpo import ranked_pairs
from toylib.labs.reward_model import brief_scorer, order_scorer, quotes_order
from toylib.labs.verdicts import best_setting, on_an_edge
from toylib.preferences import DATA, read_file

SEEDS = (0, 1, 2, 3, 4)
TUNING_SEED = 9  # of no other run
REPLIES = 640  # sampled in one run of PPO, GRPO or online DPO
SETTINGS_EACH = 7  # that `tuning` measures for each method
TUNED_CHECKPOINTS = (30, 60, 90, 120)  # where `tune_dpo` measures
GOAL_CHECKPOINTS = (*TUNED_CHECKPOINTS, 180, 240)  # with the composite score, where DPO goes on rising for longer
CHECKPOINTS = (10, 15, 20)  # of the on-policy methods: REPLIES end at 20
QUARTERS = (5, 10, 15, 20)


def checkpoints(method, settings):
    """Return the three steps at which `tuning` measures. DPO takes the longer, the lower its rate."""
    if method != "dpo":
        return CHECKPOINTS
    rate = settings["learning_rate"]
    return (60, 90, 120) if rate < 1e-4 else (30, 60, 90) if rate == 1e-4 else (15, 30, 45)


def tuning():
    """Measure equally many settings of every method, each at three checkpoints, on 120 `dev` prompts."""
    held_out, table = shipped("dev", count=120), results.Table("rlhf_tuning")
    for count in range(SETTINGS_EACH):
        for method in search.METHODS:
            if len(search.measured(method)) <= count:
                settings = search.next_settings(method)
                how = (method, settings, held_out, TUNING_SEED, checkpoints(method, settings))
                table.run({"method": method, **settings}, functools.partial(train, *how))
    for method in search.METHODS:
        edges = on_an_edge(results.load("rlhf_tuning"), method, search.ENDS)
        print(method, best(method), "on an edge:", edges)


def best(method):
    """Return the best `(settings, step)` of `tuning`."""
    return best_setting(results.load("rlhf_tuning"), method)


def path_to(step, quarters=(1, 2, 3, 4)):
    """Return checkpoints at quarters of the way to `step`."""
    return [max(1, round(step * quarter / 4)) for quarter in quarters]


def quality():
    """Measure every method at its best setting, with all seeds, at four checkpoints, on 144 held-out prompts."""
    held_out, table = shipped(count=144), results.Table("rlhf_quality")
    for seed in SEEDS:
        for method in search.METHODS:
            settings, step = best(method)
            steps = path_to(step) if method == "dpo" else sorted({7, *QUARTERS})  # PPO is near KL 2 at step 7
            how = (method, settings, held_out, seed, steps)
            table.run({"method": method, "seed": seed}, functools.partial(train, *how))


def noise():
    """Measure every method on pairs with 40 % of the labels flipped, at the settings for clean pairs.

    PPO runs on the reward model of its best setting and on one that was trained until it fits the noise. DPO, robust
    DPO, which is told the share, and DPO on pairs that PPO's reward model labelled anew are also tuned, on noisy pairs.
    """
    held_out, table = shipped(count=144), results.Table("rlhf_noise")
    runs = [("dpo", "dpo", {}), ("ppo", "ppo", {}), ("ppo, overfitted reward model", "ppo", {"reward_steps": 104})]
    for seed in SEEDS:
        for label, method, changes in [*runs, ("online_dpo", "online_dpo", {}), ("grpo", "grpo", {})]:
            settings, step = best(method)
            steps = path_to(step, (2, 4, 6)) if method == "dpo" else path_to(step, (1, 2, 4))
            how = (method, settings | changes, held_out, seed, steps)
            table.run({"method": label, "seed": seed}, functools.partial(train, *how, flipped=0.4))
    relabelled = functools.partial(relabel, steps=best("ppo")[0]["reward_steps"])
    robust = {"loss_type": "robust", "label_smoothing": 0.4}
    tuned = {"dpo, tuned": (flip, {}), "dpo, robust": (flip, robust), "dpo, relabelled": (relabelled, {})}
    for label, (labels, loss) in tuned.items():
        given = {"flipped": 0.4, "labels": labels}
        chosen, last = tune_dpo(table, label, "win", loss, shipped("dev", count=72), **given)
        for seed in SEEDS:
            how = ("dpo", chosen | loss, held_out, seed, path_to(last))
            table.run({"method": label, "seed": seed}, functools.partial(train, *how, **given))


def hacking():
    """Measure PPO at its best setting without the KL term. With it, it is the run of `quality`."""
    held_out, table = shipped(count=144), results.Table("rlhf_hacking")
    settings, _ = best("ppo")
    for seed in SEEDS:
        how = ("ppo", settings | {"kl_coefficient": 0.0}, held_out, seed, QUARTERS)
        table.run({"method": "ppo, no KL term", "seed": seed}, functools.partial(train, *how))


class Quotes(HeldOut):
    """`HeldOut` with `exact`, the share of replies that quote the prompt's order number and no other.

    `quoted` has a letter per prompt, w where the reply does and l where it does not, and `wins` is that of `HeldOut`.
    """

    def marked(self, policy, seed=0):
        row, texts, _ = self.marked_replies(policy, seed)
        exact = [bool(one) for one in map(quotes_order, self.prompts, texts)]
        return row | {"exact": sum(exact) / len(exact), "quoted": "".join("lw"[one] for one in exact)}


def verifiable():
    """Measure GRPO on a reward that needs no model: 1 where the reply quotes the prompt's order number and no other."""
    pairs = [one for one in zip(*held_out_prompts(), strict=True) if "order" in dict(find_slots(one[0]))]
    held_out, table = Quotes(MODEL, TOKENIZER, *zip(*pairs, strict=True)), results.Table("rlhf_verifiable")
    asked = [prompt for prompt in PROMPTS if "order" in dict(find_slots(prompt))]
    settings, _ = best("grpo")
    for seed in SEEDS:
        table.run({"method": "untrained", "seed": seed}, lambda seed=seed: [{"step": 0} | held_out.marked(MODEL, seed)])
        how = ("grpo", settings, held_out, seed, QUARTERS)
        run = functools.partial(train, *how, scorer=order_scorer, prompts=asked)
        table.run({"method": "grpo", "seed": seed}, run)


def composite():
    """Measure ways to kind, right and short replies, where a word costs 1/40: nearly all style pairs fit this goal."""
    brief("rlhf_composite", 1 / 40)


def stricter():
    """Measure the same where a word costs 1/20: three in four style pairs fit this goal."""
    brief("rlhf_stricter", 1 / 20)


def brief(name, per_word):
    """Measure ways to `brief_score`, with 640 sampled replies each.

    DPO's rate and β are chosen for this goal, on `dev` prompts, on pairs that the untrained model sampled and the score
    ranked. The others keep their settings, DPO on the style pairs among them.
    """
    intent_of = {pair["prompt"]: pair["intent"] for pair in read_file(DATA / "support" / "train.jsonl")}
    scorer, table = brief_scorer(intent_of, per_word), results.Table(name)

    @functools.lru_cache(maxsize=1)
    def ranked(_, seed):
        asked = random.Random(seed).sample(PROMPTS, REPLIES // 2)
        return ranked_pairs(MODEL, TOKENIZER, asked, scorer, seed=seed)[0]

    dev = Composite(per_word, "dev", count=72)
    chosen, last = tune_dpo(table, "dpo", "composite", {}, dev, GOAL_CHECKPOINTS, labels=ranked)
    held_out = Composite(per_word, count=144)
    for seed in SEEDS:
        how = ("dpo", chosen, held_out, seed, (last,))
        table.run({"method": "dpo", "seed": seed}, functools.partial(train, *how, labels=ranked))
        for method in search.METHODS:
            settings, step = best(method)
            how, label = (method, settings, held_out, seed, (step,)), "style pairs" if method == "dpo" else method
            table.run({"method": label, "seed": seed}, functools.partial(train, *how, scorer=scorer))


def tune_dpo(table, label, goal, loss, dev, steps=TUNED_CHECKPOINTS, **given):
    """Tune DPO by the column `goal`: from its best setting on, until no neighbour is better. Return `(settings, step)`.

    Each setting is measured with `dev` at `steps`. `loss` are settings of the loss that stay, and `given` says to
    `train` which pairs to take.
    """
    names = list(search.LADDERS["dpo"])
    near = [tuple(best("dpo")[0].values())]
    while near:
        for values in near:
            settings = dict(zip(names, values, strict=True))
            how = ("dpo", settings | loss, dev, TUNING_SEED, steps)
            labels = {"method": f"{label}, tuning", "seed": TUNING_SEED, **settings}
            table.run(labels, functools.partial(train, *how, **given))
        tried = [row for row in table.rows if row["method"] == f"{label}, tuning"]
        chosen = max(tried, key=lambda row: round(row[goal], 4))  # as the table has it; the first of equals
        seen = {tuple(row[name] for name in names) for row in tried}
        near = [values for values in search.neighbours("dpo", [chosen[name] for name in names]) if values not in seen]
    return {name: chosen[name] for name in names}, int(chosen["step"])


PARTS = {one.__name__: one for one in (tuning, quality, noise, hacking, verifiable, composite, stricter)}

if __name__ == "__main__":
    results.run_parts(PARTS, __file__)
