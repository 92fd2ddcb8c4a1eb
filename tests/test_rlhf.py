"""Reward model, PPO and online DPO: each part against arithmetic, each loop on a task it must solve."""

import math

import pytest
import torch
from tiny import PAIRS, counts_words, one_sentence, says_sorry, tiny_model, tiny_tokenizer

from toylib import fingerprint
from toylib.labs import ppo as rlhf
from toylib.labs.online_dpo import online_dpo, ranked_pairs
from toylib.labs.ppo import advantages, clipped_loss, packed, rollout, token_rewards, train_ppo
from toylib.labs.reward_model import (
    ScalarModel,
    brief_scorer,
    checked_scores,
    reply_scores,
    reward_accuracy,
    scorer_of,
    train_reward_model,
)
from toylib.logps import token_logps
from toylib.preferences import read_file
from toylib.replies import Replies, sample_replies
from toylib.train import optimizer_step

LN2 = math.log(2)
TOKENIZER = tiny_tokenizer()
PROMPTS = [pair["prompt"] for pair in PAIRS]
SETTINGS = {"steps": 2, "batch_size": 4, "minibatch_size": 2, "max_new_tokens": 6}


def even_model(**changes):
    """A tiny model that has tried everything: its next token is nearly uniform."""
    return tiny_model(initializer_range=0.05, **changes)


def share(policy):
    replies = sample_replies(policy, TOKENIZER, PROMPTS * 50, max_new_tokens=3, seed=9)
    return sum(says_sorry(None, replies)) / len(replies.texts)


# ---- the reward model ----


def test_the_reward_models_first_loss_is_ln2_and_it_learns_the_pairs():
    model = tiny_model()
    before = fingerprint(model)
    reward_model, history = train_reward_model(model, TOKENIZER, PAIRS, learning_rate=1e-2, steps=40, batch_size=4)
    assert history["loss"].iloc[0] == pytest.approx(LN2, abs=1e-6) and history["accuracy"].iloc[0] == 0
    assert history["loss"].iloc[-1] < 0.1 and reward_accuracy(reward_model, TOKENIZER, PAIRS) == 1
    assert fingerprint(model) == before and all(parameter.grad is None for parameter in model.parameters())
    flipped = [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in PAIRS]
    assert reward_accuracy(reward_model, TOKENIZER, flipped) == 0


def test_a_replys_score_is_the_number_at_its_last_token_whatever_the_padding():
    torch.manual_seed(0)
    reward_model = ScalarModel(tiny_model())
    torch.nn.init.normal_(reward_model.head.weight)
    replies = sample_replies(tiny_model(), TOKENIZER, PROMPTS, max_new_tokens=6, seed=1)
    left, right = (reply_scores(reward_model, *one[1:]) for one in (replies, packed(replies)))
    for i, (ids, mask) in enumerate(zip(replies.input_ids, replies.attention_mask, strict=True)):
        alone = ids[mask.bool()][None]
        last = reward_model(alone, torch.ones_like(alone))[0, -1]
        assert left[i].item() == pytest.approx(last.item(), abs=1e-4)
        assert right[i].item() == pytest.approx(last.item(), abs=1e-4)


def test_the_brief_scorer_takes_its_price_off_the_judges_score_for_every_word(root):
    row = read_file(root / "data" / "support" / "train.jsonl")[0]
    texts = [row["chosen"], row["chosen"] + " Zebra zebra."]
    empty = torch.zeros(2, 0)
    kind, broken = brief_scorer({row["prompt"]: row["intent"]}, 1 / 40)(
        [row["prompt"]] * 2, Replies(texts, empty, empty, empty)
    )
    assert kind == pytest.approx(1 - len(row["chosen"].split()) / 40)
    assert broken == pytest.approx(-(len(row["chosen"].split()) + 2) / 40)


@pytest.mark.parametrize("scores", [[1.0], [[1.0], [2.0]], [1.0, math.nan], [1.0, math.inf]])
def test_a_scorer_that_gives_no_finite_number_for_each_reply_is_refused(scores):
    with pytest.raises(ValueError, match="2 finite numbers") as caught:
        checked_scores(lambda prompts, replies: scores, ["a", "b"], None)
    one_sentence(caught)


# ---- the parts of PPO ----


def slow_advantages(rewards, values, discount, gae_lambda):
    """The sum of discounted δ, written out for one reply."""
    steps, values = len(rewards), [*values, 0.0]
    deltas = [rewards[t] + discount * values[t + 1] - values[t] for t in range(steps)]
    return [sum((discount * gae_lambda) ** k * deltas[t + k] for k in range(steps - t)) for t in range(steps)]


@pytest.mark.parametrize("discount, gae_lambda", [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (1.0, 0.0)])
def test_advantages_equal_the_sum_written_out(discount, gae_lambda):
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 5, 9, generator=generator, dtype=torch.float64)
    mask = torch.zeros(5, 9, dtype=torch.float64)
    spans = [(2, 9), (2, 3), (0, 5), (4, 8), (8, 9)]
    for row, (start, end) in enumerate(spans):
        mask[row, start:end] = 1
    gains, returns = advantages(rewards, values * mask, mask, discount, gae_lambda)
    assert (gains[mask == 0] == 0).all() and (returns[mask == 0] == 0).all()
    for row, (start, end) in enumerate(spans):
        slow = slow_advantages(rewards[row, start:end].tolist(), values[row, start:end].tolist(), discount, gae_lambda)
        assert gains[row, start:end].tolist() == pytest.approx(slow)
        assert returns[row, start:end].tolist() == pytest.approx(
            [a + v for a, v in zip(slow, values[row, start:end].tolist(), strict=True)]
        )


def test_with_lambda_one_and_no_discount_returns_are_what_is_still_to_come():
    rewards, mask = torch.tensor([[-1.0, -2.0, 5.0]]), torch.ones(1, 3)
    _, returns = advantages(rewards, torch.tensor([[0.3, -0.7, 0.1]]), mask, 1.0, 1.0)
    assert returns[0].tolist() == pytest.approx([2.0, 3.0, 5.0])


@pytest.mark.parametrize(
    "ratio, advantage, loss, moves",
    [
        (1.0, 2.0, -2.0, True),
        (1.1, 2.0, -2.2, True),
        (1.5, 2.0, -2.4, False),  # far enough up: nothing more to gain
        (0.5, 2.0, -1.0, True),  # below, and the advantage says up: no clip
        (0.5, -2.0, 1.6, False),  # far enough down
        (1.5, -2.0, 3.0, True),  # above, and the advantage says down: no clip
    ],
)
def test_clipping_on_numbers_by_hand(ratio, advantage, loss, moves):
    logps = torch.tensor([[math.log(ratio) - 3.0, 7.0]], requires_grad=True)
    got, ratios = clipped_loss(
        logps, torch.tensor([[-3.0, 0.0]]), torch.tensor([[advantage, 9.0]]), torch.tensor([[1.0, 0]])
    )
    got.backward()
    assert got.item() == pytest.approx(loss, abs=1e-5) and ratios[0, 0].item() == pytest.approx(ratio)
    assert (logps.grad[0, 0].item() != 0) is moves and logps.grad[0, 1].item() == 0


def test_the_score_comes_at_the_last_token_and_the_price_of_kl_at_each():
    mask = torch.tensor([[0.0, 1, 1, 0], [0, 1, 1, 1]])
    logps, ref_logps = torch.tensor([[9.0, -1, -2, 9]] * 2), torch.tensor([[0.0, -1.5, -1, 0]] * 2)
    seen = rlhf.Rollout(None, None, logps, ref_logps, None, mask)
    rewards = token_rewards(seen, torch.tensor([10.0, 20.0]), 0.1)
    assert rewards[0].tolist() == pytest.approx([0, -0.05, 10.1, 0])
    assert rewards[1].tolist() == pytest.approx([0, -0.05, 0.1, 20 - 0.9])


def test_packed_replies_have_the_same_tokens_and_log_probs():
    replies = sample_replies(tiny_model(), TOKENIZER, PROMPTS, max_new_tokens=6, seed=1)
    small = packed(replies)
    assert small.attention_mask[:, 0].all() and small.attention_mask[:, -1].any() and small.texts == replies.texts
    totals = [
        (token_logps(tiny_model(), *one[1:3]) * one.completion_mask[:, 1:]).sum(dim=1) for one in (replies, small)
    ]
    assert torch.allclose(*totals, atol=1e-4)


def test_the_first_rollout_is_the_references_own():
    model = tiny_model()
    seen = rollout(
        model, tiny_model(), TOKENIZER, PROMPTS, counts_words, value_model=ScalarModel(model), max_new_tokens=6, seed=0
    )
    assert torch.equal(seen.logps, seen.ref_logps) and not seen.values.any()
    assert torch.equal(seen.mask.sum(dim=1), seen.replies.completion_mask.sum(dim=1).float())


# ---- the loops ----


def test_at_the_first_step_the_ratio_is_one_and_kl_zero_and_later_neither():
    _, history = train_ppo(tiny_model(), TOKENIZER, PROMPTS, counts_words, learning_rate=1e-2, **SETTINGS)
    assert history["kl"].iloc[0] == 0 and history["ratio"].iloc[0] < 1e-4
    assert history["kl"].iloc[1] != 0 and history["ratio"].iloc[1] < 1e-4
    assert history["tokens"].is_monotonic_increasing and list(history.index) == [1, 2]


def test_dropout_in_the_model_changes_neither():
    model = tiny_model(attention_dropout=0.5).train()
    _, history = train_ppo(model, TOKENIZER, PROMPTS, counts_words, **SETTINGS)
    assert history["kl"].iloc[0] == 0 and history["ratio"].iloc[0] < 1e-4 and model.training


@pytest.mark.parametrize("run", [train_ppo, online_dpo])
def test_the_model_passed_in_is_left_untouched_and_a_seed_gives_the_same_run(run):
    model, settings = tiny_model(), {"steps": 2, "batch_size": 4, "max_new_tokens": 40, "learning_rate": 1e-2}
    before, state = fingerprint(model), torch.random.get_rng_state()
    policies = [run(model, TOKENIZER, PROMPTS, counts_words, seed=seed, **settings)[0] for seed in (1, 1, 2)]
    assert fingerprint(model) == before and all(parameter.grad is None for parameter in model.parameters())
    prints = [fingerprint(policy) for policy in policies]
    assert prints[0] == prints[1] and len({before, *prints}) == 3
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.slow
def test_ppo_solves_a_bandit():
    model = even_model()
    how = {"learning_rate": 1e-2, "value_learning_rate": 1e-2, "kl_coefficient": 0.0, "max_new_tokens": 3}
    policy, history = train_ppo(model, TOKENIZER, PROMPTS, says_sorry, steps=25, batch_size=64, **how)
    assert share(model) < 0.15 and share(policy) > 0.9
    assert history["score"].iloc[-3:].mean() > 0.9


@pytest.mark.slow
def test_a_kl_term_holds_ppo_back():
    how = {"learning_rate": 1e-2, "steps": 15, "batch_size": 64, "max_new_tokens": 3}
    free, held = (
        train_ppo(even_model(), TOKENIZER, PROMPTS, says_sorry, kl_coefficient=kl, **how)[1] for kl in (0.0, 5.0)
    )
    assert held["kl"].iloc[-3:].mean() < 0.5 * free["kl"].iloc[-3:].mean()


@pytest.mark.slow
def test_online_dpo_solves_the_bandit_too():
    model = even_model()
    how = {"learning_rate": 1e-2, "max_new_tokens": 60, "beta": 0.1}  # long enough that most replies end by themselves
    policy, history = online_dpo(model, TOKENIZER, PROMPTS, says_sorry, steps=100, batch_size=64, **how)
    assert share(model) < 0.15 and share(policy) > 0.6
    assert history["loss"].iloc[0] == pytest.approx(LN2, abs=1e-5) and (history["pairs"] <= 64).all()


def test_pairs_are_ranked_by_the_scorer_and_ties_make_none():
    pairs, replies = ranked_pairs(tiny_model(), TOKENIZER, PROMPTS * 8, counts_words, max_new_tokens=40, seed=0)
    assert len(replies.texts) == 64 and 0 < len(pairs) < 32
    for pair in pairs:
        chosen, rejected = (
            counts_words(None, Replies([pair[side]], None, None, None))[0] for side in ("chosen", "rejected")
        )
        assert chosen > rejected
    none, _ = ranked_pairs(tiny_model(), TOKENIZER, PROMPTS, lambda prompts, replies: [1.0] * len(prompts))
    assert none == []


def test_a_reply_that_was_cut_off_is_in_no_pair():
    pairs, replies = ranked_pairs(tiny_model(), TOKENIZER, PROMPTS * 8, counts_words, max_new_tokens=6, seed=0)
    ended = [TOKENIZER.eos_token_id in ids[mask.bool()] for ids, mask in zip(*replies[1::2], strict=True)]
    whole = {text for text, end in zip(replies.texts, ended, strict=True) if end}
    assert 0 < sum(ended) < 64 and {pair[side] for pair in pairs for side in ("chosen", "rejected")} <= whole


def test_a_step_without_a_pair_changes_nothing():
    model = tiny_model()
    how = {"steps": 2, "batch_size": 4, "max_new_tokens": 6}
    policy, history = online_dpo(model, TOKENIZER, PROMPTS, lambda prompts, replies: [0.0] * len(prompts), **how)
    assert fingerprint(policy) == fingerprint(model) and history["loss"].isna().all() and not history["pairs"].any()


@pytest.mark.parametrize(
    "change, said",
    [
        ({"kl_coefficient": -1}, "kl_coefficient"),
        ({"kl_coefficient": math.nan}, "kl_coefficient"),
        ({"clip": 0}, "clip"),
        ({"steps": 0}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"epochs": 1.5}, "epochs"),
        ({"steps": True}, "steps"),
        ({"max_new_tokens": 6.0}, "max_new_tokens"),
        ({"minibatch_size": 0}, "minibatch_size"),
        ({"prompts": []}, "prompts"),
        ({"prompts": "Customer:"}, "prompts"),
        ({"scorer": lambda prompts, replies: [math.nan] * len(prompts)}, "finite"),
    ],
)
def test_what_ppo_cannot_use_is_refused_in_one_sentence(change, said):
    given = {"prompts": PROMPTS, "scorer": counts_words} | SETTINGS | change
    with pytest.raises(ValueError, match=said) as caught:
        train_ppo(tiny_model(), TOKENIZER, **given)
    one_sentence(caught)


@pytest.mark.parametrize("change, said", [({"beta": 0}, "beta"), ({"steps": 0}, "steps"), ({"prompts": []}, "prompts")])
def test_what_online_dpo_cannot_use_is_refused_in_one_sentence(change, said):
    with pytest.raises(ValueError, match=said) as caught:
        online_dpo(tiny_model(), TOKENIZER, **({"prompts": PROMPTS, "scorer": counts_words} | change))
    one_sentence(caught)


def test_a_loss_that_is_not_finite_stops_before_the_step():
    value_model = ScalarModel(tiny_model())
    before, optimizer = fingerprint(value_model), torch.optim.AdamW(value_model.parameters(), lr=1.0)
    with pytest.raises(FloatingPointError, match="nan") as caught:
        optimizer_step(value_model.head.weight.sum() * math.nan, optimizer, value_model, "step 1")
    one_sentence(caught)
    assert fingerprint(value_model) == before


@pytest.mark.parametrize("run, replies_per_prompt", [(train_ppo, 1), (online_dpo, 2)])
def test_every_reply_reaches_on_replies_and_then_the_step_reaches_on_step(run, replies_per_prompt):
    seen = []
    how = {"steps": 2, "batch_size": 4, "max_new_tokens": 6}
    how |= {"on_step": lambda *given: seen.append(given), "on_replies": lambda *given: seen.append(given)}
    run(tiny_model(), TOKENIZER, PROMPTS, counts_words, **how)
    assert [(step, len(rest)) for step, *rest in seen] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert all(len(replies.texts) == 4 * replies_per_prompt for _, replies in seen[::2])
    assert seen[1][1]["tokens"] == int(seen[0][1].completion_mask.sum())


@pytest.mark.parametrize("run", [train_ppo, online_dpo])
def test_an_interrupted_run_keeps_what_was_trained(run, capsys):
    model = tiny_model()

    def stop(step, metrics, policy):
        if step == 2:
            raise KeyboardInterrupt

    how = {"steps": 3, "batch_size": 4, "max_new_tokens": 40, "learning_rate": 1e-2}
    policy, history = run(model, TOKENIZER, PROMPTS, counts_words, on_step=stop, **how)
    assert list(history.index) == [1] and "after 1 of 3 steps" in capsys.readouterr().out
    assert fingerprint(policy) != fingerprint(model)


def changed_weights(model, policy):
    after = dict(policy.named_parameters())
    return {name for name, weight in model.named_parameters() if not torch.equal(weight, after[name])}


@pytest.mark.parametrize("run", [train_ppo, online_dpo])
def test_only_weights_that_require_a_gradient_in_the_model_are_trained(run):
    model = tiny_model().requires_grad_(False)
    how = {"steps": 2, "batch_size": 4, "max_new_tokens": 40, "learning_rate": 1e-2}
    with pytest.raises(ValueError, match="no weight of the model requires a gradient") as caught:
        run(model, TOKENIZER, PROMPTS, counts_words, **how)
    one_sentence(caught)
    model.model.norm.weight.requires_grad_(True)
    policy, _ = run(model, TOKENIZER, PROMPTS, counts_words, **how)
    assert changed_weights(model, policy) == {"model.norm.weight"}


def test_a_reward_model_trains_what_requires_a_gradient_and_its_head():
    model = tiny_model().requires_grad_(False)
    with pytest.raises(ValueError, match="no weight of the model requires a gradient"):
        train_reward_model(model, TOKENIZER, PAIRS, steps=1)
    model.model.norm.weight.requires_grad_(True)
    reward_model, _ = train_reward_model(model, TOKENIZER, PAIRS, steps=2, batch_size=2)
    assert changed_weights(model.base_model, reward_model.trunk) == {"norm.weight"} and reward_model.head.weight.any()
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1, got 1.5"):
        train_reward_model(model, TOKENIZER, PAIRS, steps=1, batch_size=1.5)


def test_the_reward_model_as_a_scorer_gives_its_numbers_and_no_gradient():
    reward_model, _ = train_reward_model(tiny_model(), TOKENIZER, PAIRS, learning_rate=1e-2, steps=2, batch_size=2)
    replies = sample_replies(tiny_model(), TOKENIZER, PROMPTS, max_new_tokens=6, seed=1)
    scores = scorer_of(reward_model)(PROMPTS, replies)
    assert torch.equal(scores, reply_scores(reward_model, *replies[1:])) and not scores.requires_grad
