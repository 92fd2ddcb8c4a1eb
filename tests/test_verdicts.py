"""What notebook 07 reads off its tables, on tables made by hand, and what its witness sees of a run."""

import math

import pandas
import pytest
from tiny import PAIRS, tiny_model, tiny_tokenizer

from toylib import train_dpo
from toylib.labs.grpo import train_grpo
from toylib.labs.ppo import PPOSettings, train_ppo
from toylib.labs.reward_model import scorer_of, train_reward_model
from toylib.labs.verdicts import (
    ahead,
    all_pairs,
    best_setting,
    differences,
    on_an_edge,
    rates,
    sentences,
    wins_by_method,
)
from toylib.labs.witness import Witness, choices

TOKENIZER = tiny_tokenizer()
PROMPTS = [pair["prompt"] for pair in PAIRS]


def tuning(wins, rates=(1e-4, 2e-4, 3e-4)):
    rows = [
        {"method": "dpo", "learning_rate": rate, "beta": 0.3, "epochs": math.nan, "step": step, "win": win}
        for rate, of_rate in zip(rates, wins, strict=True)
        for step, win in zip((10, 20, 30), of_rate, strict=True)
    ]
    return pandas.DataFrame(rows)


def test_the_best_setting_is_the_first_of_equals_and_has_only_what_the_method_has():
    table = tuning([(0.6, 0.7, 0.6), (0.6, 0.8, 0.8), (0.8, 0.5, 0.4)])
    assert best_setting(table, "dpo") == ({"learning_rate": 2e-4, "beta": 0.3}, 20)


def test_a_best_setting_between_worse_ones_is_on_no_edge():
    inside = tuning([(0.6, 0.7, 0.6), (0.6, 0.8, 0.7), (0.6, 0.5, 0.4)])
    assert on_an_edge(inside, "dpo") == []
    lowest = tuning([(0.6, 0.7, 0.9), (0.6, 0.8, 0.7), (0.6, 0.5, 0.4)])
    assert on_an_edge(lowest, "dpo") == ["learning_rate", "step"]
    assert on_an_edge(lowest, "dpo", ends=[("learning_rate", 1e-4)]) == ["step"]


RUNS = pandas.DataFrame(
    [
        {"method": method, "seed": seed, "step": step, "kl": 2.0 * step, "wins": letters}
        for method, letters in (("ppo", "wwwwwwwwwwwwwwwl"), ("dpo", "llllllllllllllll"), ("grpo", "wwwwwwwwwwwwwwwl"))
        for seed in (0, 1)
        for step in (1, 2)
        if not (method == "grpo" and step == 2)
    ]
)


def test_verdicts_are_paired_differences_over_seeds_and_prompts():
    wins = wins_by_method(RUNS, {"dpo": 2, "ppo": 1})
    found = differences(wins, all_pairs(wins))
    assert list(found) == [("dpo", "ppo")] and found["dpo", "ppo"].mean == pytest.approx(-15 / 16)
    assert ahead(found, "ppo", "dpo") and not ahead(found, "dpo", "ppo")
    assert sentences(found, {"dpo": "DPO", "ppo": "PPO"})[0].startswith("PPO is ahead of DPO by 0.938")
    table = rates(wins, {"dpo": "DPO", "ppo": "PPO"})
    assert table.loc["PPO", "win rate"] == pytest.approx(15 / 16) and table.loc[
        "DPO", ["seeds", "prompts"]
    ].tolist() == [2, 16]


def test_a_method_that_never_reached_a_kl_is_left_out_there():
    assert set(wins_by_method(RUNS, dict.fromkeys(("dpo", "ppo", "grpo"), 1), kl=3.0)) == {"dpo", "ppo"}


def test_the_witness_counts_models_replies_and_updates():
    reward_model, _ = train_reward_model(tiny_model(), TOKENIZER, PAIRS, steps=1, batch_size=2)
    how, model = {"steps": 2, "batch_size": 4, "max_new_tokens": 6}, tiny_model()
    seen = Witness(model, hired=[reward_model], known=[PAIRS[0]["chosen"]])
    seen.watch(train_ppo, TOKENIZER, PROMPTS, scorer_of(reward_model), epochs=2, minibatch_size=4, **how)
    assert list(seen.held["role"]) == ["policy", "reference", "reward model", "value model"]
    assert seen.replies == 8 and seen.updates == 2 * 2 * 2 and len(seen.new) <= 8 and seen.tokens > 8
    trained = seen.held.set_index("role")["Adam's states"]
    assert trained["policy"] > 0 < trained["value model"] and trained["reference"] == 0
    seen = Witness(model, hired=[reward_model])
    seen.watch(train_grpo, TOKENIZER, PROMPTS, scorer_of(reward_model), **how)
    assert list(seen.held["role"]) == ["policy", "reference", "reward model"]
    seen = Witness(model)
    seen.watch(train_dpo, TOKENIZER, PAIRS, steps=2, batch_size=2)
    assert list(seen.held["role"]) == ["policy", "reference"] and seen.replies == 0 and seen.updates == 2


def test_the_choices_of_a_method_are_its_keyword_arguments():
    assert choices(train_dpo) == ["beta", "learning_rate", "steps", "batch_size", "loss_type", "label_smoothing"]
    assert "kl_coefficient" in choices(PPOSettings) and "seed" not in choices(PPOSettings)
