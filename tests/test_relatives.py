"""The relatives of DPO: losses against arithmetic by hand, the loop against `train_dpo`, best-of-n."""

import math

import pytest
import torch
from tiny import PAIRS, one_sentence, tiny_model, tiny_tokenizer

from toylib import train_dpo
from toylib.labs import best_of_n, relatives
from toylib.labs.relatives import METHODS, Scored, train_relative
from toylib.train import METRICS

SINGLES = [
    {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
    for pair in PAIRS
    for side in ("chosen", "rejected")
]


def scored(chosen=-2.1, kl=None):
    """The worked example, its chosen reply of three tokens and its rejected reply of five."""
    values = (chosen, -4.5, -3.0, -3.2)
    tensors = [torch.tensor([value], requires_grad=i < 2) for i, value in enumerate(values)]
    return Scored(*tensors, torch.tensor([3]), torch.tensor([5]), kl)


def train(method="dpo", examples=PAIRS, **how):
    how = {"steps": 4, "batch_size": 2, "learning_rate": 1e-3} | how
    return train_relative(tiny_model(), tiny_tokenizer(), examples, method, **how)


@pytest.mark.parametrize(
    ("method", "settings", "expected"),
    [
        ("sft", {}, 0.7),  # 2.1 / 3
        ("dpo", {}, 0.5892),
        ("dpo_norm", {"beta": 2.0}, 0.2824),  # 2 · (0.9/3 + 1.3/5) = 1.12
        ("rpo", {"alpha": 0.5}, 0.5892 + 0.5 * 0.7),
        ("dpo_positive", {}, 0.5892),  # the chosen reply is likelier than before, so there is no penalty
        ("orpo", {}, 0.7 + 0.1 * 0.5274),  # log odds −0.0137 and −0.3781
        ("simpo", {}, 1.0375),  # 2 · (−0.7 + 0.9) − 1 = −0.6
    ],
)
def test_loss_equals_the_value_worked_by_hand(method, settings, expected):
    assert METHODS[method](scored(), **settings).tolist() == pytest.approx([expected], abs=1e-4)


def test_dpo_positive_adds_the_penalty_where_the_chosen_reply_lost_probability():
    # log-ratios −0.5 and −1.3: z = 0.1 · (0.8 − 5 · 0.5) = −0.17
    assert relatives.dpo_positive(scored(chosen=-3.5), penalty=5.0).item() == pytest.approx(0.7817, abs=1e-4)


def test_kto_scores_each_reply_against_the_estimated_kl():
    losses = relatives.kto(scored(kl=torch.tensor(0.5)), desirable=2.0, undesirable=3.0)
    assert losses.tolist() == pytest.approx([2 * 0.4900, 3 * 0.4551], abs=2e-4)  # z is 0.04 and 0.18


@pytest.mark.parametrize("method", METHODS)
def test_one_step_moves_the_replies_the_way_the_method_wants(method):
    batch = scored(kl=torch.tensor(0.0))
    METHODS[method](batch).sum().backward()
    down = method == "apo_down"
    assert (batch.chosen.grad.item() > 0) == down
    assert batch.rejected.grad is None if method == "sft" else batch.rejected.grad.item() > 0


@pytest.mark.parametrize("method", ["sft", "orpo", "simpo"])
def test_a_reference_free_loss_does_not_depend_on_the_reference(method):
    other = scored()._replace(ref_chosen=torch.tensor([-9.0]), ref_rejected=torch.tensor([-1.0]))
    assert torch.equal(METHODS[method](scored()), METHODS[method](other))


def test_dpo_trains_the_policy_that_train_dpo_trains():
    ours, history = train("dpo", beta=0.3)
    how = {"steps": 4, "batch_size": 2, "learning_rate": 1e-3, "beta": 0.3}
    theirs, table = train_dpo(tiny_model(), tiny_tokenizer(), PAIRS, **how)
    assert list(history.columns) == list(table.columns)
    torch.testing.assert_close(torch.tensor(history.values), torch.tensor(table.values), rtol=1e-3, atol=1e-4)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_a_copy_and_lowers_its_loss(method):
    model = tiny_model()
    before = [parameter.clone() for parameter in model.parameters()]
    seen = []
    policy, history = train_relative(
        model, tiny_tokenizer(), PAIRS, method, steps=15, batch_size=4, learning_rate=3e-3,
        on_step=lambda step, metrics, policy: seen.append((step, set(metrics))),
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), policy.parameters(), strict=True))
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] and history["loss"].notna().all()
    assert seen == [(step, {"loss", *METRICS}) for step in range(1, 16)]


def test_kto_trains_on_single_replies_as_on_the_pairs_they_came_from():
    from_pairs, _ = train("kto", steps=1, batch_size=4)
    alone, history = train("kto", SINGLES, steps=1, batch_size=8)
    for a, b in zip(from_pairs.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-3)
    assert history["loss"].iloc[0] == pytest.approx(0.5, abs=1e-6)


def test_kto_takes_a_batch_of_one_kind():
    liked = [row for row in SINGLES if row["label"]]
    _, history = train("kto", liked)
    assert history["loss"].notna().all() and history["rewards/rejected"].isna().all()


def test_a_model_that_cannot_share_prompts_trains_the_same(monkeypatch):
    shared, _ = train("kto")
    monkeypatch.setattr(relatives, "why_not_shared", lambda *_: "it cannot")
    apart, _ = train("kto")
    for a, b in zip(shared.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "examples", "settings", "said"),
    [
        ("ppo", PAIRS, {}, "unknown method 'ppo'"),
        ("sft", PAIRS, {"beta": 0.1}, "sft has no setting 'beta': it has none"),
        ("simpo", PAIRS, {"alpha": 0.1}, "it has beta, gamma"),
        ("rpo", PAIRS, {"alpha": math.nan}, "alpha must be a number of at least 0"),
        ("dpo", PAIRS, {"beta": 0}, "beta must be a positive number"),
        ("dpo", PAIRS, {"loss_type": "ipo"}, "dpo has no setting 'loss_type'"),
        ("dpo", PAIRS, {"steps": 0}, "steps must be a whole number"),
        ("orpo", SINGLES, {}, "orpo needs pairs"),
        ("kto", SINGLES, {"batch_size": 1}, "kto needs at least two replies"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_named(method, examples, settings, said):
    with pytest.raises(ValueError) as caught:
        train(method, examples, **settings)
    assert said in one_sentence(caught)


def test_an_interrupt_keeps_what_was_trained(capsys):
    def stop(step, metrics, policy):
        if step == 2:
            raise KeyboardInterrupt

    _, history = train("sft", on_step=stop)
    assert len(history) == 1 and "interrupted after 1 of 4 steps" in capsys.readouterr().out


def test_best_of_n_keeps_the_reply_with_the_highest_score():
    def longest(prompts, replies):
        return [float(len(text)) for text in replies.texts]

    prompts = [pair["prompt"] for pair in PAIRS]
    texts, scores = best_of_n.scored_samples(tiny_model(), tiny_tokenizer(), prompts, longest, 4)
    assert scores.shape == (len(prompts), 4) and all(len(replies) == 4 for replies in texts)
    assert best_of_n.best_of(texts, scores, 1) == [replies[0] for replies in texts]
    assert best_of_n.best_of(texts, scores, 4) == [max(replies, key=len) for replies in texts]


@pytest.mark.parametrize(("n", "bound"), [(1, 0.0), (2, 0.1931), (4, 0.6363), (16, 1.8351)])
def test_best_of_n_has_its_known_kl_bound(n, bound):
    assert best_of_n.best_of_n_kl(n) == pytest.approx(bound, abs=1e-4)
