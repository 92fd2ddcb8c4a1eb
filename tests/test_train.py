"""The training loop: what it changes and what it must not, what it records, and how it ends."""

import copy

import pytest
import torch
from datasets import Dataset
from tiny import PAIRS, experts, one_sentence, tiny_model, tiny_tokenizer

from toylib import fingerprint, frozen_copy, sequence_logps, train_dpo
from toylib import train as train_module
from toylib.loss import LossSettings
from toylib.tokens import collate, tokenize_pairs

METRICS = ["loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"]
METRICS += ["logps/chosen", "logps/rejected"]
LN2 = 0.6931471805599453
TOKENIZER = tiny_tokenizer()


def train(model=None, **settings):
    settings = {"steps": 4, "batch_size": 3, "learning_rate": 1e-2} | settings
    return train_dpo(model or tiny_model(), TOKENIZER, Dataset.from_list(PAIRS), **settings)


def mean_margin(policy, reference):
    batch = collate(tokenize_pairs(PAIRS, TOKENIZER), 0)
    chosen, rejected = (sequence_logps(policy, **batch) - sequence_logps(reference, **batch)).chunk(2)
    return (chosen - rejected).mean().item()


def test_the_model_is_left_untouched_and_the_policy_learns():
    model = tiny_model().train()
    model.lm_head.weight.requires_grad_(False)
    before = fingerprint(model)
    policy, history = train(model, steps=20)
    assert fingerprint(model) == before and model.training and not model.lm_head.weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert fingerprint(policy) != before
    assert mean_margin(policy, model) > 1 and history["loss"].iloc[-1] < history["loss"].iloc[0] - 0.1


def test_the_reference_is_untouched_after_every_step(monkeypatch):
    made, seen = [], []
    monkeypatch.setattr(train_module, "frozen_copy", lambda model: made.append(frozen_copy(model)) or made[-1])
    model = tiny_model()
    train(model, on_step=lambda step, metrics, policy: seen.append((fingerprint(made[0]), fingerprint(policy))))
    assert [reference for reference, _ in seen] == [fingerprint(model)] * 4
    assert len({policy for _, policy in seen}) == 4


def test_a_given_reference_is_used_and_left_untouched():
    reference = tiny_model(seed=5)
    before = fingerprint(reference)
    _, history = train(ref_model=reference)
    assert fingerprint(reference) == before and all(p.grad is None for p in reference.parameters())
    assert abs(history["loss"].iloc[0] - LN2) > 1e-3


@pytest.mark.parametrize("loss_type", ["sigmoid", "robust"])
def test_step_one_loss_is_ln2_even_with_dropout_configured(loss_type):
    model = tiny_model(attention_dropout=0.5).train()
    _, history = train(model, steps=1, loss_type=loss_type, label_smoothing=0.1)
    assert history["loss"].iloc[0] == pytest.approx(LN2, abs=1e-6)
    assert history["rewards/margins"].iloc[0] == pytest.approx(0, abs=1e-5)


def test_the_same_seed_gives_the_same_history_and_policy_and_another_does_not():
    (first, one), (again, two), (other, three) = train(seed=1), train(seed=1), train(seed=2)
    assert one.equals(two) and fingerprint(first) == fingerprint(again)
    assert not one.equals(three) and fingerprint(first) != fingerprint(other)


def test_the_global_random_state_neither_matters_nor_moves():
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    _, one = train(seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(8)
    assert one.equals(train(seed=1)[1])


def test_history_has_one_row_a_step_and_trl_names():
    _, history = train(steps=5)
    assert list(history.columns) == METRICS
    assert history.index.name == "step" and list(history.index) == [1, 2, 3, 4, 5]
    assert history.notna().all().all()
    difference = history["rewards/chosen"] - history["rewards/rejected"] - history["rewards/margins"]
    assert difference.abs().max() < 1e-5


def test_eval_pairs_give_eval_columns_at_about_ten_places_and_the_last():
    _, history = train(steps=25, eval_pairs=Dataset.from_list(PAIRS[:3]))
    measured = history[[f"eval_{name}" for name in METRICS]].dropna()
    assert 10 <= len(measured) <= 13 and measured.index[-1] == 25


def test_eval_averages_over_pairs_whatever_the_batch_size():
    rows, (policy, _) = tokenize_pairs(PAIRS, TOKENIZER), train()
    arguments = (policy, tiny_model(), TOKENIZER, rows, LossSettings())
    whole, parts = (train_module.evaluate_dpo(*arguments, batch_size=size) for size in (4, 3))
    assert whole == pytest.approx(parts, rel=1e-5)
    assert whole["eval_rewards/margins"] == pytest.approx(0.1 * mean_margin(policy, tiny_model()), rel=1e-4)


def test_what_on_step_puts_into_the_metrics_joins_the_history():
    def on_step(step, metrics, policy):
        metrics["kl"] = step / 2

    assert list(train(on_step=on_step)[1]["kl"]) == [0.5, 1.0, 1.5, 2.0]


def test_batches_of_nothing_are_refused_and_not_waited_for():
    with pytest.raises(ValueError, match="no rows"):
        next(train_module.batches(0, 4, 2, seed=0))


@pytest.mark.parametrize("when", [1, 3])
def test_an_interrupt_keeps_policy_and_history(when, capsys):
    def stop(step, metrics, policy):
        if step == when:
            raise KeyboardInterrupt

    policy, history = train(on_step=stop)
    assert list(history.index) == list(range(1, when)) and history.index.name == "step"
    assert f"interrupted after {when - 1} of 4 steps" in capsys.readouterr().out
    assert fingerprint(policy) != fingerprint(tiny_model())
    assert all(parameter.isfinite().all() for parameter in policy.parameters())


def test_a_reference_that_shares_weights_is_refused_before_anything_is_trained():
    model = tiny_model()
    tied = copy.deepcopy(model)
    tied.model.embed_tokens.weight = tied.lm_head.weight = model.lm_head.weight
    for reference in (model, tied):
        with pytest.raises(ValueError) as caught:
            train(model, ref_model=reference, on_step=lambda *_: pytest.fail("a step was taken"))
        assert "shares weights" in one_sentence(caught)


def test_a_loss_that_is_not_finite_stops_training_and_names_the_step():
    def poison(step, metrics, policy):
        if step == 2:
            policy.model.norm.weight.data[0] = torch.nan

    with pytest.raises(FloatingPointError) as caught:
        train(on_step=poison)
    assert "nan at step 3" in one_sentence(caught)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"beta": beta}, f"beta must be a positive number, got {beta}") for beta in (0, -1, float("nan"))]
    + [({"loss_type": "ppo"}, "unknown loss_type 'ppo'"), ({"label_smoothing": 0.5}, "label_smoothing must be")]
    + [
        ({"loss_type": "ipo", "label_smoothing": 0.1}, "'ipo' has no label_smoothing"),
        ({"steps": -1}, "steps must be a whole number of at least 0, got -1"),
    ]
    + [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": -2}, "batch_size must be a whole number of at least 1, got -2"),
    ]
    + [({"learning_rate": rate}, f"nvalid learning rate: {rate}") for rate in (-1.0, float("nan"))],
)
def test_settings_that_cannot_train_are_refused_before_the_first_step(settings, said):
    with pytest.raises(ValueError) as caught:
        train(**settings, on_step=lambda *_: pytest.fail("a step was taken"))
    assert said in one_sentence(caught)


def test_no_steps_give_a_copy_and_an_empty_history():
    policy, history = train(steps=0)
    assert fingerprint(policy) == fingerprint(tiny_model()) and history.empty and history.index.name == "step"


def test_a_tokenizer_without_pad_is_refused():
    with pytest.raises(ValueError) as caught:
        train_dpo(tiny_model(), tiny_tokenizer(pad=None), PAIRS, steps=1)
    assert "no pad token" in one_sentence(caught)


def test_every_step_starts_from_a_gradient_of_zero():
    gradients = []

    def look(step, metrics, policy):
        gradients.append(policy.lm_head.weight.grad.clone())

    train(batch_size=4, learning_rate=0.0, beta=0.001, on_step=look)  # nothing moves, and nothing is clipped
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-3, atol=1e-6)


def test_batches_use_every_index_once_before_any_comes_again():
    drawn = list(train_module.batches(count=7, batch_size=3, steps=14, seed=0))
    assert [len(batch) for batch in drawn] == [3] * 14
    flat = [index for batch in drawn for index in batch]
    epochs = [flat[i : i + 7] for i in range(0, 42, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) > 1


def test_more_steps_than_data_and_a_batch_larger_than_the_data_both_work():
    for settings in ({"steps": 9, "batch_size": 1}, {"steps": 2, "batch_size": 11}):
        assert len(train(**settings)[1]) == settings["steps"]


@pytest.mark.parametrize(("beta", "clips"), [(0.3, True), (0.001, False)])
def test_one_step_equals_an_adamw_step_written_by_hand(beta, clips):
    """First AdamW step: bias correction makes it −rate · g / (|g| + 1e-8), g being the clipped gradient."""
    model = tiny_model(dtype=torch.float64)
    policy, history = train(model, steps=1, batch_size=4, beta=beta, learning_rate=1e-3)
    losses = []
    for pair in PAIRS:
        logps = []
        for reply in (pair["chosen"], pair["rejected"]):
            ids = TOKENIZER(pair["prompt"])["input_ids"], [*TOKENIZER(reply)["input_ids"], 1]
            logits = model(torch.tensor([ids[0] + ids[1]])).logits[0]
            start = len(ids[0]) - 1
            scores = logits[start : start + len(ids[1])].log_softmax(-1)
            logps.append(sum(score[token] for score, token in zip(scores, ids[1], strict=True)))
        delta = (logps[0] - logps[0].detach()) - (logps[1] - logps[1].detach())
        losses.append(torch.log1p(torch.exp(-beta * delta)))
    loss = torch.stack(losses).mean()
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    norm = torch.sqrt(sum(gradient.square().sum() for gradient in gradients))
    assert loss.item() == pytest.approx(history["loss"].iloc[0], abs=1e-9) and (norm > 1) == clips
    for before, gradient, after in zip(model.parameters(), gradients, policy.parameters(), strict=True):
        gradient = gradient / max(1.0, norm.item() + 1e-6)
        expected = before - 1e-3 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(after.detach(), expected.detach(), rtol=0, atol=1e-7)


def test_only_what_requires_a_gradient_is_trained():
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    adapted = peft.get_peft_model(tiny_model(), peft.LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.5))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.1)  # an adapter that has learned something: the reference includes it
    policy, history = train(adapted, steps=3)
    assert history["loss"].iloc[0] == pytest.approx(LN2, abs=1e-6) and history["loss"].iloc[-1] < LN2
    trained = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    for (name, before), after in zip(adapted.named_parameters(), policy.parameters(), strict=True):
        assert torch.equal(before, after) == (name not in trained), name


def test_a_frozen_model_is_refused():
    with pytest.raises(ValueError) as caught:
        train(frozen_copy(tiny_model()))
    assert "no weight of the model requires a gradient" in one_sentence(caught)


def test_token_ids_that_the_model_does_not_know_are_refused_with_their_row():
    with pytest.raises(ValueError) as caught:
        train(tiny_model(vocab_size=20))
    assert "train row" in one_sentence(caught) and "the model knows 20 tokens" in one_sentence(caught)


def test_weights_that_an_update_breaks_are_named_and_never_returned(monkeypatch):
    class Breaks(torch.optim.SGD):
        def step(self):
            self.param_groups[0]["params"][-1].data.fill_(float("inf"))

    monkeypatch.setattr(torch.optim, "AdamW", lambda weights, lr, weight_decay: Breaks(weights, lr))
    with pytest.raises(FloatingPointError) as caught:
        train(steps=1)
    assert "the weights are not finite after step 1" in one_sentence(caught)


def test_a_router_loss_that_the_loop_leaves_out_is_said_once(capsys):
    for model, times in ((experts(), 1), (experts(output_router_logits=False), 0)):
        train_dpo(model, tiny_tokenizer(), PAIRS, steps=2, batch_size=2)
        assert (
            capsys.readouterr().out.count("the router's auxiliary loss is left out here: DPOTrainer adds it") == times
        )


@pytest.mark.parametrize("change", [{"steps": 1.5}, {"steps": "3"}, {"batch_size": 2.5}])
def test_steps_and_batch_sizes_that_are_not_whole_are_refused_by_name(change):
    with pytest.raises(ValueError, match="must be a whole number of at least"):
        train_dpo(tiny_model(), tiny_tokenizer(), PAIRS, **change)
