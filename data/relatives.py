"""The long comparisons of notebook 08: DPO and its relatives on the same pairs, prompts and seeds.

    python data/relatives.py              every part, in this order (about 75 minutes on one core)
    python data/relatives.py tuning       one part: tuning, quality, samples, kto, pairs, rounds

Each part writes data/results/relatives_<part>.csv (`samples` adds to the table of `quality`), one row per measurement.
It skips the runs that its table has, so that it can be stopped and started again. `tuning` measures on `dev` prompts
only, seven settings per method at three steps each. The others take the best settings of `tuning`, and measure on
hand-written test prompts and held-out phrasings.
"""

from __future__ import annotations

import functools
import random

import results
from relatives_search import BETAS, best, next_setting, settings_of, tried

from toylib import load_model, load_preferences, train_dpo
from toylib.evaluation.held_out import HeldOut, held_out_prompts
from toylib.evaluation.judge import judge
from toylib.evaluation.paired import wins_text
from toylib.labs.best_of_n import best_of, best_of_n_kl, scored_samples
from toylib.labs.online_dpo import ranked_pairs
from toylib.labs.relatives import train_relative
from toylib.labs.reward_model import scorer_of, train_reward_model
from toylib.labs.sweep import load_sweep
from toylib.reference import frozen_copy
from toylib.replies import sample_replies

SEEDS = (0, 1, 2)
MEASURED, BATCH = (20, 40, 60), 12  # steps of every run; 12 pairs are 24 replies
COUNTS = (25, 50, 100, 200, 400)  # pairs; with all 616 of them see `quality`
REPLIES = 640  # sampled in all rounds of one run of `rounds`

MODEL, TOKENIZER = load_model("support-lm", device="cpu")
PAIRS = list(load_preferences("support"))
PROMPTS = sorted({pair["prompt"] for pair in PAIRS})
CUSTOMERS = list(load_sweep().replies["prompt"].unique())  # the six of notebook 05


@functools.cache
def held_out():
    """Return the evaluation on 144 prompts, balanced over intents, that nothing is tuned on."""
    return HeldOut(MODEL, TOKENIZER, *held_out_prompts("test", "heldout", count=144))


@functools.cache
def scorer(seed):
    """Return the scores of a reward model trained for one pass over the pairs."""
    return scorer_of(train_reward_model(MODEL, TOKENIZER, PAIRS, seed=seed)[0])


def run(method, settings, evaluation, seed=0, measured_at=MEASURED, examples=PAIRS, batch_size=BATCH, customers=None):
    """Train by `method` and return the rows measured after the steps `measured_at`.

    `chosen` and `rejected` are mean log-ratios over the last five batches, in nats. `customers` is a step after which
    the replies to the six customers are added as columns.
    """
    rows, ratios = [], []

    def on_step(step, metrics, policy):
        beta = settings.get("beta", 1.0)
        ratios.append([metrics[f"rewards/{side}"] / beta for side in ("chosen", "rejected")])
        if step in measured_at:
            means = [sum(values) / len(values) for values in zip(*ratios[-5:], strict=True)]
            row = {"step": step, "chosen": means[0], "rejected": means[1]}
            rows.append(row | evaluation.marked(policy, seed))
        if step == customers:
            keep_replies(method, sample_replies(policy, TOKENIZER, CUSTOMERS, seed=3).texts)

    how = {"steps": max(measured_at), "batch_size": batch_size, "seed": seed, "on_step": on_step}
    train_relative(MODEL, TOKENIZER, examples, method, **how, **settings)
    return rows


def keep_replies(method, texts):
    """Add a method's replies to the six customers to relatives_replies.csv."""
    results.Table("relatives_replies").run(
        {"method": method}, lambda: [{"prompt": p, "reply": t} for p, t in zip(CUSTOMERS, texts, strict=True)]
    )


# ---- tuning: seven settings per method at three steps, on dev ----


def tuning():
    """Measure each method at the settings that `next_setting` gives, one after the other."""
    table, dev = results.Table("relatives_tuning"), HeldOut(MODEL, TOKENIZER, *held_out_prompts("dev", count=72))
    for method in BETAS:
        while setting := next_setting(method, tried(table.rows, method)):
            rate, beta = setting
            labels = {"method": method, "learning_rate": rate} | ({} if beta is None else {"beta": beta})
            table.run(labels, functools.partial(run, method, settings_of(method, rate, beta), dev))


# ---- the results ----


def quality():
    """Measure every method at its best setting, with all seeds, at four checkpoints."""
    table = results.Table("relatives_quality")
    keep_replies("untrained", sample_replies(MODEL, TOKENIZER, CUSTOMERS, seed=3).texts)
    for seed in SEEDS:
        for method in BETAS:
            settings, step = best(method)
            how = {"measured_at": (10, *MEASURED), "customers": step if seed == 0 else None}
            rows = functools.partial(run, method, settings, held_out(), seed, **how)
            table.run({"method": method, "seed": seed}, rows)


def judged(texts):
    """Return a row of `HeldOut.marked` for replies that no single policy sampled, without their KL."""
    seen = held_out()
    found = judge(seen.prompts, texts, seen.intents)
    row = {name: float(found[name].mean()) for name in ("score", "fluent", "on_topic", "facts", "words")}
    wins = wins_text(found["score"], seen.judged["score"])
    return row | {"win": sum("ltw".index(letter) for letter in wins) / 2 / len(wins), "wins": wins}


def samples():
    """Measure best-of-n by a reward model; `step` is n, and `kl` the upper bound log n − (n − 1)/n."""
    table = results.Table("relatives_quality")

    def rows(seed):
        texts, scores = scored_samples(MODEL, TOKENIZER, held_out().prompts, scorer(seed), 16, seed=7 + seed)
        if seed == 0:
            six = scored_samples(MODEL, TOKENIZER, CUSTOMERS, scorer(0), 16, seed=3)
            keep_replies("best_of_n", best_of(*six, 16))
        return [{"step": n, "kl": best_of_n_kl(n)} | judged(best_of(texts, scores, n)) for n in (2, 4, 8, 16)]

    for seed in SEEDS:
        table.run({"method": "best_of_n", "seed": seed}, functools.partial(rows, seed))


def kto():
    """Measure KTO on single liked and disliked replies, also nine to one, with and without weights against that."""
    table, (settings, step) = results.Table("relatives_kto"), best("kto")
    sides = {"liked": ("chosen", True), "disliked": ("rejected", False)}
    for seed in SEEDS:
        singles = {
            name: [{"prompt": pair["prompt"], "completion": pair[side], "label": label} for pair in PAIRS]
            for name, (side, label) in sides.items()
        }
        few = {name: random.Random(seed).sample(rows, len(rows) // 9) for name, rows in singles.items()}
        ways = {
            "as many of each": (singles["liked"] + singles["disliked"], {}),
            "nine liked to one": (singles["liked"] + few["disliked"], {}),
            "nine liked to one, weighted": (singles["liked"] + few["disliked"], {"undesirable": 9.0}),
            "nine disliked to one": (few["liked"] + singles["disliked"], {}),
            "nine disliked to one, weighted": (few["liked"] + singles["disliked"], {"desirable": 9.0}),
        }
        for name, (examples, weights) in ways.items():
            how = {"measured_at": (step,), "examples": examples, "batch_size": 2 * BATCH}
            rows = functools.partial(run, "kto", settings | weights, held_out(), seed, **how)
            table.run({"method": name, "seed": seed}, rows)


def pairs():
    """Measure DPO and SFT on fewer pairs, for the same number of steps."""
    table = results.Table("relatives_pairs")
    for seed in SEEDS:
        for count in COUNTS:
            some = random.Random(seed).sample(PAIRS, count)
            for method in ("dpo", "sft"):
                settings, step = best(method)
                rows = functools.partial(run, method, settings, held_out(), seed, measured_at=(step,), examples=some)
                table.run({"method": method, "seed": seed, "pairs": count}, rows)


def rounds():
    """Measure DPO in one, two and three rounds of sampled pairs, and SFT on the best of as many samples."""
    table = results.Table("relatives_rounds")
    for seed in SEEDS:
        for count in (1, 2, 3):
            table.run({"method": "dpo", "seed": seed, "rounds": count}, functools.partial(dpo_rounds, count, seed))
        table.run({"method": "sft", "seed": seed, "rounds": 1}, functools.partial(sft_on_best, seed))


def dpo_rounds(count, seed):
    """Train by DPO in rounds: sample pairs from the policy, rank them by the reward model, and train on them."""
    settings, step = best("dpo")
    asked = random.Random(seed).sample(PROMPTS, min(len(PROMPTS), REPLIES // 2))
    policy, reference, used = MODEL, frozen_copy(MODEL), 0
    for number in range(count):
        part = asked[number::count]
        ranked, _ = ranked_pairs(policy, TOKENIZER, part, scorer(seed), seed=1_000 * seed + number)
        how = {"steps": round(step / count), "batch_size": BATCH, "seed": seed, "ref_model": reference}
        policy, used = train_dpo(policy, TOKENIZER, ranked, **how, **settings)[0], used + len(ranked)
    return [{"step": step, "pairs": used} | held_out().marked(policy, seed)]


def sft_on_best(seed):
    """Train by SFT on the best of four replies to a quarter as many prompts (rejection sampling)."""
    settings, step = best("sft")
    asked = random.Random(seed).sample(PROMPTS, REPLIES // 4)
    texts, scores = scored_samples(MODEL, TOKENIZER, asked, scorer(seed), 4, seed=70 + seed)
    chosen, rejected = best_of(texts, scores, 4), best_of(texts, -scores, 4)
    kept = [
        {"prompt": prompt, "chosen": good, "rejected": bad}
        for prompt, good, bad in zip(asked, chosen, rejected, strict=True)
        if good.strip() and good != bad
    ]
    row = run("sft", settings, held_out(), seed, measured_at=(step,), examples=kept)[0]
    return [row | {"pairs": len(kept)}]


PARTS = {one.__name__: one for one in (tuning, quality, samples, kto, pairs, rounds)}

if __name__ == "__main__":
    results.run_parts(PARTS, __file__)
