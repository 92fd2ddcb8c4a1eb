"""The long comparisons of notebook 07: reward model + PPO, online DPO and DPO, over settings and seeds.

    python data/rlhf_runs.py              everything, in this order (about an hour on 2 cores)
    python data/rlhf_runs.py tuning       one part: tuning, quality, hacking, composite, noise, passes

Each part writes data/results/rlhf_<part>.csv, one row a measurement. `tuning` looks at `dev` prompts only; the others
take the settings that won there, and report on the hand-written test prompts and the held-out phrasings.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pandas

from toylib import load_model, load_preferences, train_dpo
from toylib.evaluation.held_out import report
from toylib.evaluation.judge import judge
from toylib.labs.failures import turned_round
from toylib.labs.online_dpo import online_dpo, ranked_pairs
from toylib.labs.ppo import train_ppo
from toylib.labs.reward_model import brief_scorer, reward_accuracy, scorer_of, train_reward_model
from toylib.loss import LossSettings
from toylib.preferences import DATA, load_prompts, read_file
from toylib.replies import sample_replies
from toylib.tokens import tokenize_pairs
from toylib.train import evaluate_dpo

RESULTS = DATA / "results"
SEEDS = (0, 1, 2)
ONE_PASS = 26  # steps of 24 pairs, the reward model's
REPLIES = 640  # sampled in one run of PPO or of online DPO
GRIDS = {
    "ppo": [{"kl_coefficient": kl, "learning_rate": lr} for lr in (1e-4, 3e-4, 1e-3) for kl in (0.05, 0.2)],
    "dpo": [{"beta": beta, "learning_rate": lr} for lr in (1e-4, 3e-4, 1e-3) for beta in (0.05, 0.3)],
    "online_dpo": [{"beta": beta, "learning_rate": lr} for lr in (1e-4, 3e-4, 1e-3) for beta in (0.1,)],
}
CHECKPOINTS = {"ppo": (5, 10, 15, 20), "online_dpo": (5, 10, 15, 20), "dpo": (10, 20, 40, 60)}

MODEL, TOKENIZER = load_model("support-lm", device="cpu")
PAIRS = list(load_preferences("support"))
PROMPTS = sorted({pair["prompt"] for pair in PAIRS})
INTENT_OF = {pair["prompt"]: pair["intent"] for pair in read_file(DATA / "support" / "train.jsonl")}
IN_PAIRS = {pair[side] for pair in PAIRS for side in ("chosen", "rejected")}


class Judged:
    """What a policy does on some prompts, as `report`'s row; the untrained model's replies are sampled once."""

    def __init__(self, *splits, every=1):
        rows = [row for split in splits for row in load_prompts(split)][::every]
        self.prompts, self.intents = [row["prompt"] for row in rows], [row["intent"] for row in rows]
        texts = sample_replies(MODEL, TOKENIZER, self.prompts, seed=100).texts
        self.baseline = judge(self.prompts, texts, self.intents)["score"]

    def __call__(self, policy, seed=0):
        row, _ = report(policy, MODEL, TOKENIZER, self.prompts, self.intents, self.baseline, seed=200 + seed)
        row["composite"] = row["score"] - row["words"] / 40
        return row


class Watch:
    """Called after each step: counts what was sampled and what of it was new, and reports at the checkpoints."""

    def __init__(self, method, judged, seed=0, steps=None):
        self.judged, self.seed, self.steps = judged, seed, steps or CHECKPOINTS[method]
        self.rows, self.seen, self.sampled, self.tokens = [], set(), 0, 0

    def __call__(self, step, metrics, policy, replies=None):
        if replies is not None:
            self.sampled += len(replies.texts)
            self.tokens += int(replies.completion_mask.sum())
            self.seen |= set(replies.texts) - IN_PAIRS
        if step in self.steps:
            row = {"step": step, "sampled": self.sampled, "tokens": self.tokens}
            self.rows.append(row | {"new_replies": len(self.seen)} | self.judged(policy, self.seed))


def train(method, settings, watch, *, scorer=None, pairs=PAIRS, seed=0):
    """One run of `method` up to the last checkpoint of `watch`; the policy."""
    how = settings | {"steps": max(watch.steps), "seed": seed, "on_step": watch}
    if method == "dpo":
        return train_dpo(MODEL, TOKENIZER, pairs, **how)[0]
    run = train_ppo if method == "ppo" else online_dpo
    return run(MODEL, TOKENIZER, PROMPTS, scorer, **how)[0]


def rows_of(watch, **labels):
    return [labels | row for row in watch.rows]


def reward_model(pairs=PAIRS, seed=0):
    return train_reward_model(MODEL, TOKENIZER, pairs, seed=seed)[0]


def tuning():
    """Every method over its grid, seed 0, at several steps, on every second `dev` prompt."""
    judged, scorer, rows = Judged("dev", every=2), scorer_of(reward_model()), []
    for method, grid in GRIDS.items():
        for settings in grid:
            watch = Watch(method, judged)
            print(f"\n{method} {settings}", flush=True)
            train(method, settings, watch, scorer=scorer)
            rows += rows_of(watch, method=method, **settings)
            save("tuning", rows)


def best(method):
    """`(settings, step)` with the highest win rate on the `dev` prompts; of equals, the later step."""
    table = pandas.read_csv(RESULTS / "rlhf_tuning.csv")
    row = table[table["method"] == method].sort_values(["win", "step"]).iloc[-1]
    return {name: float(row[name]) for name in GRIDS[method][0]}, int(row["step"])


def quality():
    """Every method at its best setting: all seeds, all checkpoints up to the last one of its grid."""
    judged, rows = Judged("test", "heldout"), []
    for seed in SEEDS:
        rewards = reward_model(seed=seed)
        for method in GRIDS:
            watch = Watch(method, judged, seed)
            print(f"\n{method}, seed {seed}", flush=True)
            policy = train(method, best(method)[0], watch, scorer=scorer_of(rewards), seed=seed)
            ranked = accuracies(rewards, policy if method == "dpo" else None)
            rows += rows_of(watch, method=method, seed=seed, **ranked)
            save("quality", rows)


def hacking():
    """PPO at a high rate with its KL term and without: the reward model's mean score beside the judge's."""
    judged, rows = Judged("test", "heldout", every=3), []
    for seed in SEEDS:
        scorer = scorer_of(reward_model(seed=seed))
        for kl in (0.2, 0.0):
            watch = Watch("ppo", judged, seed, steps=(5, 10, 15))
            scores = []
            print(f"\nkl_coefficient {kl}, seed {seed}", flush=True)

            def on_step(step, metrics, policy, replies, watch=watch, scores=scores):
                scores.append(metrics["score"])
                watch(step, metrics, policy, replies)

            how = {"kl_coefficient": kl, "learning_rate": 1e-3, "steps": 15, "seed": seed}
            train_ppo(MODEL, TOKENIZER, PROMPTS, scorer, on_step=on_step, **how)
            for row in rows_of(watch, kl_coefficient=kl, seed=seed):
                rows.append(row | {"reward_model_score": scores[row["step"] - 1], "score_at_start": scores[0]})
            save("hacking", rows)


def composite():
    """A scalar that the style pairs oppose: kind, right and brief. Four ways, as many sampled replies each.

    DPO on the style pairs is the very run of `quality`, read from there.
    """
    judged, scorer = Judged("test", "heldout"), brief_scorer(INTENT_OF)
    before = pandas.read_csv(RESULTS / "rlhf_quality.csv")
    style = before[(before["method"] == "dpo") & (before["step"] == best("dpo")[1])]
    rows = [{"method": "untrained", "seed": 0} | judged(MODEL)]
    rows += style.assign(method="dpo, style pairs").to_dict("records")
    for seed in SEEDS:
        asked = [PROMPTS[(i + REPLIES // 2 * seed) % len(PROMPTS)] for i in range(REPLIES // 2)]
        ranked, _ = ranked_pairs(MODEL, TOKENIZER, asked, scorer, seed=seed)
        for name, method in (("dpo, ranked pairs", "dpo"), ("online dpo", "online_dpo"), ("ppo", "ppo")):
            settings, step = best(method)
            watch = Watch(method, judged, seed, steps=(step,))
            print(f"\n{name}, seed {seed}", flush=True)
            train(method, settings, watch, scorer=scorer, pairs=ranked, seed=seed)
            rows += rows_of(watch, method=name, seed=seed)
            save("composite", rows)


def flip(pairs, share, seed):
    """The pairs with chosen and rejected swapped in `share` of them, drawn by `seed`."""
    flipped = set(random.Random(seed).sample(range(len(pairs)), round(share * len(pairs))))
    return [turned_round(pair) if i in flipped else pair for i, pair in enumerate(pairs)]


def accuracies(rewards=None, policy=None):
    """The share of clean held-out pairs ranked right by the reward model, and by the implicit reward of `policy`."""
    clean, table = list(load_preferences("support", "test")), {}
    if rewards is not None:
        table["reward_model_accuracy"] = reward_accuracy(rewards, TOKENIZER, clean)
    if policy is not None:
        measured = evaluate_dpo(policy, MODEL, TOKENIZER, tokenize_pairs(clean, TOKENIZER), LossSettings())
        table["implicit_accuracy"] = measured["eval_rewards/accuracies"]
    return table


def noise():
    """All of them from the same noisy pairs; and how each reward, the model's and the implicit one, ranks clean pairs."""
    judged, rows = Judged("test", "heldout", every=2), []
    for share in (0.4, 0.3, 0.0):
        for seed in SEEDS:
            rows += noisy_runs(judged, share, seed, [*GRIDS, *(["robust dpo"] if share else [])])
            save("noise", rows)


def noisy_runs(judged, share, seed, methods):
    """Their lines at one share of flips and one seed. Robust DPO is told the true share; its other settings are DPO's."""
    pairs, rows = flip(PAIRS, share, seed), []
    rewards = reward_model(pairs, seed)
    for name in methods:
        method = name.removeprefix("robust ")
        settings, step = best(method)
        if name != method:
            settings |= {"loss_type": "robust", "label_smoothing": share}
        watch = Watch(method, judged, seed, steps=(step,))
        print(f"\n{share:.0%} flipped, {name}, seed {seed}", flush=True)
        policy = train(method, settings, watch, scorer=scorer_of(rewards), pairs=pairs, seed=seed)
        ranked = accuracies(rewards, policy if method == "dpo" else None)
        rows += rows_of(watch, flipped=share, method=name, seed=seed, **ranked)
    return rows


def passes():
    """At the most noise: how each reward ranks clean pairs after one pass over the noisy ones, and after DPO's steps.

    DPO at its own rate and at the reward model's.
    """
    judged, rows = Judged("test", "heldout", every=2), []
    tuned, last = best("dpo")
    for seed in SEEDS:
        pairs = flip(PAIRS, 0.4, seed)
        for steps in (ONE_PASS, last):
            trained = train_reward_model(MODEL, TOKENIZER, pairs, steps=steps, seed=seed)[0]
            row = {"seed": seed, "reward": "reward model", "learning_rate": 3e-4, "step": steps}
            rows.append(row | {"accuracy": accuracies(trained)["reward_model_accuracy"]})
        for rate in (tuned["learning_rate"], 3e-4):

            def on_step(step, metrics, policy, seed=seed, rate=rate):
                if step in (ONE_PASS, last):
                    row = {"seed": seed, "reward": "DPO's", "learning_rate": rate, "step": step}
                    row |= {"accuracy": accuracies(policy=policy)["implicit_accuracy"]}
                    rows.append(row | judged(policy, seed))

            print(f"\nDPO at {rate:g}, seed {seed}", flush=True)
            how = tuned | {"learning_rate": rate, "steps": last, "seed": seed, "on_step": on_step}
            train_dpo(MODEL, TOKENIZER, pairs, **how)
        save("passes", rows)


def save(part, rows):
    RESULTS.mkdir(exist_ok=True)
    pandas.DataFrame(rows).to_csv(RESULTS / f"rlhf_{part}.csv", index=False, float_format="%.4g")


PARTS = {one.__name__: one for one in (tuning, quality, hacking, composite, noise, passes)}

if __name__ == "__main__":
    asked = sys.argv[1:] or list(PARTS)
    if set(asked) - set(PARTS):
        sys.exit(f"{Path(__file__).name} knows the parts {', '.join(PARTS)}; got {' '.join(asked)}")
    for part in asked:
        began = time.monotonic()
        PARTS[part]()
        print(f"\n{part}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
