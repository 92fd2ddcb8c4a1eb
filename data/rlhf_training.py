"""Train one run of data/rlhf_runs.py, and measure it at checkpoints."""

from __future__ import annotations

import functools
import random

from toylib import load_model, load_preferences, train_dpo
from toylib.evaluation.held_out import HeldOut, held_out_prompts
from toylib.evaluation.judge import brief_score
from toylib.evaluation.paired import scores_text
from toylib.labs.failures import flip_labels, swap_replies
from toylib.labs.grpo import train_grpo
from toylib.labs.online_dpo import online_dpo
from toylib.labs.ppo import train_ppo
from toylib.labs.reward_model import reward_accuracy, scorer_of, train_reward_model
from toylib.loss import LossSettings
from toylib.tokens import tokenize_pairs
from toylib.train import evaluate_dpo

TRAINERS = {"ppo": train_ppo, "grpo": train_grpo, "online_dpo": online_dpo}
MODEL, TOKENIZER = load_model("support-lm", device="cpu")
PAIRS = list(load_preferences("support"))
PROMPTS = sorted({pair["prompt"] for pair in PAIRS})
IN_PAIRS = {pair[side] for pair in PAIRS for side in ("chosen", "rejected")}


def shipped(*splits, count):
    """Return `HeldOut` of `count` shipped prompts."""
    return HeldOut(MODEL, TOKENIZER, *held_out_prompts(*splits, count=count))


class Composite(HeldOut):
    """`shipped` with `brief_score` in its rows: `composite` is its mean and `scores` has it for each prompt, as text."""

    def __init__(self, per_word, *splits, count):
        super().__init__(MODEL, TOKENIZER, *held_out_prompts(*splits, count=count))
        self.per_word = per_word

    def marked(self, policy, seed=0):
        row, _, judged = self.marked_replies(policy, seed)
        goal = brief_score(judged, self.per_word)
        return row | {"composite": goal.mean(), "scores": scores_text(goal)}


class Recorder:
    """Callbacks of a run: they count replies, and those that no pair has, and measure the policy at the checkpoints."""

    def __init__(self, held_out, seed, checkpoints):
        self.held_out, self.seed, self.checkpoints = held_out, seed, sorted(checkpoints)
        self.rows, self.new_replies, self.sampled, self.scores = [], set(), 0, []

    def on_replies(self, step, replies):
        self.sampled += len(replies.texts)
        self.new_replies |= set(replies.texts) - IN_PAIRS

    def on_step(self, step, metrics, policy):
        self.scores.append(metrics.get("score"))
        if step in self.checkpoints:
            row = {"step": step, "sampled": self.sampled, "new_replies": len(self.new_replies)}
            row |= {"scorer": self.scores[-1], "scorer_at_start": self.scores[0]}  # means over a rollout
            self.rows.append(row | self.held_out.marked(policy, self.seed))


@functools.lru_cache(maxsize=4)
def reward_model(seed=0, steps=26, flipped=0.0):
    """Return a reward model trained for `steps` updates on the pairs, a share of them `flipped`."""
    return train_reward_model(MODEL, TOKENIZER, flip(flipped, seed), seed=seed, steps=int(steps))[0]


@functools.lru_cache(maxsize=4)
def flip(share, seed):
    """Return the pairs with `share` of the labels flipped, drawn by Python's generator as for the shipped tables."""
    if not share:
        return PAIRS
    order = random.Random(seed).sample(range(len(PAIRS)), round(share * len(PAIRS)))
    return flip_labels(PAIRS, share, order=order)


@functools.lru_cache(maxsize=4)
def relabel(share, seed, steps):
    """Return the pairs with `share` of the labels flipped, labelled anew by a reward model trained on them."""
    rewards, pairs = reward_model(seed, steps, share), flip(share, seed)
    return [pair if reward_accuracy(rewards, TOKENIZER, [pair]) else swap_replies(pair) for pair in pairs]


def train(method, settings, held_out, seed, checkpoints, *, scorer=None, flipped=0.0, labels=flip, prompts=PROMPTS):
    """Train by `method` up to the last checkpoint. Return the rows measured.

    `settings` are those of `rlhf_search`. DPO trains on the pairs `labels(flipped, seed)`. Without a `scorer`, on-policy
    methods train a reward model for the `reward_steps` among them. The accuracies are on clean held-out pairs: the reward model's, and the implicit reward's.
    """
    recorder, settings = Recorder(held_out, seed, checkpoints), dict(settings)
    settings |= {"steps": max(checkpoints), "seed": seed, "on_step": recorder.on_step}
    if method == "dpo":
        policy, _ = train_dpo(MODEL, TOKENIZER, labels(flipped, seed), **settings)
        return [row | {"accuracy": implicit_accuracy(policy)} for row in recorder.rows]
    steps, ranked = settings.pop("reward_steps"), {}
    if scorer is None:
        rewards = reward_model(seed, steps, flipped)
        scorer, ranked = scorer_of(rewards), {"accuracy": reward_accuracy(rewards, TOKENIZER, clean_pairs())}
    TRAINERS[method](MODEL, TOKENIZER, prompts, scorer, on_replies=recorder.on_replies, **settings)
    return [row | ranked for row in recorder.rows]


def clean_pairs():
    """Return the held-out pairs, whose labels are never flipped."""
    return list(load_preferences("support", "test"))


def implicit_accuracy(policy):
    """Return the share of clean held-out pairs that the policy's implicit reward ranks right."""
    rows = tokenize_pairs(clean_pairs(), TOKENIZER)
    return evaluate_dpo(policy, MODEL, TOKENIZER, rows, LossSettings())["eval_rewards/accuracies"]
