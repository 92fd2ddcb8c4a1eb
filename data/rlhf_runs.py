"""The long comparisons of notebook 07: reward model + PPO, online DPO and DPO, over settings and seeds.

    python data/rlhf_runs.py              everything, in this order (about an hour on 2 cores)
    python data/rlhf_runs.py tuning       one part: tuning, quality, hacking, composite, noise, passes

Each part writes data/results/rlhf_<part>.csv, one row per measurement. `tuning` measures on `dev` prompts only. The
others take the best settings of `tuning`, and measure on the hand-written test prompts and the held-out phrasings.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import results

from toylib import load_model, load_preferences, train_dpo
from toylib.evaluation.held_out import HeldOut, held_out_prompts
from toylib.labs.failures import flip_labels
from toylib.labs.online_dpo import online_dpo, ranked_pairs
from toylib.labs.ppo import train_ppo
from toylib.labs.reward_model import brief_scorer, reward_accuracy, scorer_of, train_reward_model
from toylib.loss import LossSettings
from toylib.preferences import DATA, read_file
from toylib.tokens import tokenize_pairs
from toylib.train import evaluate_dpo

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


class Composite(HeldOut):
    """`HeldOut` of shipped prompts, with the composite score in its rows: the judge's, minus 1/40 for every word."""

    def __init__(self, *splits, count=None):
        super().__init__(MODEL, TOKENIZER, *held_out_prompts(*splits, count=count))

    def __call__(self, policy, seed=0):
        row = super().__call__(policy, seed)
        return row | {"composite": row["score"] - row["words"] / 40}


class Recorder:
    """Callbacks of a run: they count replies, and those that no pair has, and measure the policy at the checkpoints."""

    def __init__(self, method, held_out, seed=0, steps=None):
        self.held_out, self.seed, self.steps = held_out, seed, steps or CHECKPOINTS[method]
        self.rows, self.new_replies, self.sampled, self.tokens = [], set(), 0, 0
        self.scores = []  # of PPO: the scorer's mean score in each rollout

    def on_replies(self, step, replies):
        self.sampled += len(replies.texts)
        self.tokens += int(replies.completion_mask.sum())
        self.new_replies |= set(replies.texts) - IN_PAIRS

    def on_step(self, step, metrics, policy):
        self.scores.append(metrics.get("score"))
        if step in self.steps:
            row = {"step": step, "sampled": self.sampled, "tokens": self.tokens}
            self.rows.append(row | {"new_replies": len(self.new_replies)} | self.held_out(policy, self.seed))

    def labelled(self, **labels):
        """Return the rows so far, each with `labels` in front."""
        return [labels | row for row in self.rows]


def train(method, settings, recorder, *, scorer=None, pairs=PAIRS, seed=0):
    """Train by `method` up to the last checkpoint of `recorder`. Return the policy."""
    how = settings | {"steps": max(recorder.steps), "seed": seed, "on_step": recorder.on_step}
    if method == "dpo":
        return train_dpo(MODEL, TOKENIZER, pairs, **how)[0]
    run = train_ppo if method == "ppo" else online_dpo
    return run(MODEL, TOKENIZER, PROMPTS, scorer, on_replies=recorder.on_replies, **how)[0]


def reward_model(pairs=PAIRS, seed=0):
    """Return a reward model trained for one pass over `pairs`."""
    return train_reward_model(MODEL, TOKENIZER, pairs, seed=seed)[0]


def tuning():
    """Measure every method over its grid, seed 0, at several steps, on every second `dev` prompt."""
    held_out, scorer, rows = Composite("dev", count=120), scorer_of(reward_model()), []
    for method, grid in GRIDS.items():
        for settings in grid:
            recorder = Recorder(method, held_out)
            print(f"\n{method} {settings}", flush=True)
            train(method, settings, recorder, scorer=scorer)
            rows += recorder.labelled(method=method, **settings)
            results.save("rlhf_tuning", rows)


def best(method):
    """Return the `(settings, step)` with the highest win rate on the `dev` prompts; of equals, the later step."""
    table = results.load("rlhf_tuning")
    row = table[table["method"] == method].sort_values(["win", "step"]).iloc[-1]
    return {name: float(row[name]) for name in GRIDS[method][0]}, int(row["step"])


def quality():
    """Measure every method at its best setting, with all seeds, at all checkpoints of its grid."""
    held_out, rows = Composite("test", "heldout"), []
    for seed in SEEDS:
        rewards = reward_model(seed=seed)
        for method in GRIDS:
            recorder = Recorder(method, held_out, seed)
            print(f"\n{method}, seed {seed}", flush=True)
            policy = train(method, best(method)[0], recorder, scorer=scorer_of(rewards), seed=seed)
            ranked = accuracies(rewards, policy if method == "dpo" else None)
            rows += recorder.labelled(method=method, seed=seed, **ranked)
            results.save("rlhf_quality", rows)


def hacking():
    """Measure PPO at a high rate with and without its KL term: the reward model's mean score and the judge's."""
    held_out, rows = Composite("test", "heldout", count=144), []
    for seed in SEEDS:
        scorer = scorer_of(reward_model(seed=seed))
        for kl in (0.2, 0.0):
            recorder = Recorder("ppo", held_out, seed, steps=(5, 10, 15))
            print(f"\nkl_coefficient {kl}, seed {seed}", flush=True)
            train("ppo", {"kl_coefficient": kl, "learning_rate": 1e-3}, recorder, scorer=scorer, seed=seed)
            scores = recorder.scores
            for row in recorder.labelled(kl_coefficient=kl, seed=seed):
                rows.append(row | {"reward_model_score": scores[row["step"] - 1], "score_at_start": scores[0]})
            results.save("rlhf_hacking", rows)


def composite():
    """Measure four ways to a score that asks for kind, right and short replies, with equally many sampled replies.

    DPO on the style pairs is the run of `quality`, read from its table.
    """
    held_out, scorer = Composite("test", "heldout"), brief_scorer(INTENT_OF)
    before = results.load("rlhf_quality")
    style = before[(before["method"] == "dpo") & (before["step"] == best("dpo")[1])]
    rows = [{"method": "untrained", "seed": 0} | held_out(MODEL)]
    rows += style.assign(method="dpo, style pairs").to_dict("records")
    for seed in SEEDS:
        asked = [PROMPTS[(i + REPLIES // 2 * seed) % len(PROMPTS)] for i in range(REPLIES // 2)]
        ranked, _ = ranked_pairs(MODEL, TOKENIZER, asked, scorer, seed=seed)
        for name, method in (("dpo, ranked pairs", "dpo"), ("online dpo", "online_dpo"), ("ppo", "ppo")):
            settings, step = best(method)
            recorder = Recorder(method, held_out, seed, steps=(step,))
            print(f"\n{name}, seed {seed}", flush=True)
            train(method, settings, recorder, scorer=scorer, pairs=ranked, seed=seed)
            rows += recorder.labelled(method=name, seed=seed)
            results.save("rlhf_composite", rows)


def flip(pairs, share, seed):
    """Return the pairs with `share` of the labels flipped, drawn by Python's generator as for the shipped tables."""
    order = random.Random(seed).sample(range(len(pairs)), round(share * len(pairs)))
    return flip_labels(pairs, share, order=order)


def accuracies(rewards=None, policy=None):
    """Return the share of clean held-out pairs ranked right by the reward model, and by the policy's implicit reward."""
    clean, table = list(load_preferences("support", "test")), {}
    if rewards is not None:
        table["reward_model_accuracy"] = reward_accuracy(rewards, TOKENIZER, clean)
    if policy is not None:
        measured = evaluate_dpo(policy, MODEL, TOKENIZER, tokenize_pairs(clean, TOKENIZER), LossSettings())
        table["implicit_accuracy"] = measured["eval_rewards/accuracies"]
    return table


def noise():
    """Measure all methods on the same noisy pairs, and how the reward model and the implicit reward rank clean pairs."""
    held_out, rows = Composite("test", "heldout", count=144), []
    for share in (0.4, 0.3, 0.0):
        for seed in SEEDS:
            rows += noisy_runs(held_out, share, seed, [*GRIDS, *(["robust dpo"] if share else [])])
            results.save("rlhf_noise", rows)


def noisy_runs(held_out, share, seed, methods):
    """Return the rows of `noise` for one share and seed. Robust DPO gets the true share; its other settings are DPO's."""
    pairs, rows = flip(PAIRS, share, seed), []
    rewards = reward_model(pairs, seed)
    for name in methods:
        method = name.removeprefix("robust ")
        settings, step = best(method)
        if name != method:
            settings |= {"loss_type": "robust", "label_smoothing": share}
        recorder = Recorder(method, held_out, seed, steps=(step,))
        print(f"\n{share:.0%} flipped, {name}, seed {seed}", flush=True)
        policy = train(method, settings, recorder, scorer=scorer_of(rewards), pairs=pairs, seed=seed)
        ranked = accuracies(rewards, policy if method == "dpo" else None)
        rows += recorder.labelled(flipped=share, method=name, seed=seed, **ranked)
    return rows


def passes():
    """Measure how each reward ranks clean pairs after one pass over the noisiest pairs, and after DPO's steps.

    DPO runs at its own learning rate and at the reward model's.
    """
    held_out, rows = Composite("test", "heldout", count=144), []
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
                    rows.append(row | held_out(policy, seed))

            print(f"\nDPO at {rate:g}, seed {seed}", flush=True)
            how = tuned | {"learning_rate": rate, "steps": last, "seed": seed, "on_step": on_step}
            train_dpo(MODEL, TOKENIZER, pairs, **how)
        results.save("rlhf_passes", rows)


PARTS = {one.__name__: one for one in (tuning, quality, hacking, composite, noise, passes)}

if __name__ == "__main__":
    asked = sys.argv[1:] or list(PARTS)
    if set(asked) - set(PARTS):
        sys.exit(f"{Path(__file__).name} knows the parts {', '.join(PARTS)}; got {' '.join(asked)}")
    for part in asked:
        began = time.monotonic()
        PARTS[part]()
        print(f"\n{part}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
