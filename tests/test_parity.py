"""Our loss, log-probs and trainer against TRL 1.16's: one pair at a time, and over a whole run, on the same models."""

import random

import pytest
import torch
from datasets import Dataset
from tiny import PAIRS, WORDS, experts, tiny_model, tiny_tokenizer
from transformers import TrainingArguments

from toylib import DPOTrainer, dpo_loss, sequence_logps
from toylib.engine.trainer import METRICS
from toylib.labs import relatives
from toylib.loss import LossSettings
from toylib.tokens import collate, tokenize_pairs

trl = pytest.importorskip("trl", reason="trl is not installed, so there is nothing to compare with")


def gentle_model(seed):
    """Log-probs of a few nats a token, so that fp32 holds the sixth decimal of the loss."""
    return tiny_model(seed, initializer_range=0.25)


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """TRL's trainer for a loss type: on CPU, in fp32, with the reference given apart."""

    def trainer(loss_type, beta, label_smoothing):
        settings = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "max_length": None}
        settings |= {"loss_type": [loss_type], "beta": beta, "label_smoothing": label_smoothing, "report_to": "none"}
        arguments = trl.DPOConfig(output_dir=str(tmp_path_factory.mktemp("trl")), disable_tqdm=True, **settings)
        return trl.DPOTrainer(
            model=gentle_model(0),
            ref_model=gentle_model(1),
            args=arguments,
            train_dataset=Dataset.from_list(PAIRS),
            processing_class=tiny_tokenizer(),
        )

    return trainer


@pytest.mark.parametrize(
    ("loss_type", "beta", "label_smoothing"),
    [("sigmoid", 0.1, 0.0), ("sigmoid", 1.0, 0.0), ("robust", 0.1, 0.2), ("hinge", 0.1, 0.0), ("ipo", 0.1, 0.0)]
    + [("apo_zero", 0.1, 0.0), ("apo_down", 0.1, 0.0)],
)
def test_loss_of_each_pair_equals_trl(build, loss_type, beta, label_smoothing):
    trainer, tokenizer = build(loss_type, beta, label_smoothing), tiny_tokenizer()
    rows = tokenize_pairs(PAIRS, tokenizer)
    for row, feature in zip(rows, trainer.train_dataset, strict=True):
        batch = trainer.data_collator([feature])
        ours = collate([row], tokenizer.pad_token_id)
        for name, tensor in ours.items():
            assert torch.equal(batch[name].long(), tensor), name
        with torch.no_grad():
            theirs = trainer.compute_loss(trainer.model, batch)
            average = loss_type == "ipo"  # TRL divides by the length there; the original code does not, nor do we
            policy, reference = (
                sequence_logps(model, **ours, average=average).chunk(2) for model in (gentle_model(0), gentle_model(1))
            )
        loss = dpo_loss(*policy, *reference, beta, loss_type, label_smoothing).losses
        assert loss.item() == pytest.approx(theirs.item(), rel=1e-6, abs=1e-6)
        assert abs(loss.item() - 0.6931) > 1e-3


def test_metrics_of_a_batch_equal_trl_and_carry_its_names(build):
    from toylib.train import batch_loss

    trainer, tokenizer = build("sigmoid", 0.1, 0.0), tiny_tokenizer()
    trainer.model.eval()
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
    theirs = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    batch = collate(tokenize_pairs(PAIRS, tokenizer), tokenizer.pad_token_id)
    settings = {"beta": 0.1, "loss_type": "sigmoid", "label_smoothing": 0.0}
    ours, metrics = batch_loss(gentle_model(0), gentle_model(1), batch, LossSettings(**settings))
    assert ours.item() == pytest.approx(loss.item(), abs=1e-6) and metrics.pop("loss") == pytest.approx(ours.item())
    assert metrics == pytest.approx({name: theirs[name] for name in metrics}, abs=1e-5)


# The engine: DPOTrainer against TRL's, on the same rows in the same order.

LOSSES = [("sigmoid", 0.1, 0.0), ("sigmoid", 1.0, 0.0), ("robust", 0.1, 0.2), ("hinge", 0.1, 0.0), ("ipo", 0.1, 0.0)]
LOSSES += [("apo_zero", 0.1, 0.0), ("apo_down", 0.1, 0.0), ("sigmoid_norm", 2.0, 0.0)]


def long_pairs(count, words=120):
    rng = random.Random(0)

    def text(low, high):
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))

    return [
        {"prompt": text(4, 60), "chosen": " " + text(20, words), "rejected": " " + text(20, words)}
        for _ in range(count)
    ]


@pytest.fixture
def both(tmp_path, monkeypatch):
    """TRL's trainer and ours on the same pairs, settings and two models; one step of each is one batch of the same rows."""
    monkeypatch.setenv("TOYLIB_CACHE", str(tmp_path / "cache"))

    def trainers(
        pairs,
        loss_type="sigmoid",
        beta=0.1,
        label_smoothing=0.0,
        ref_seed=1,
        padded=True,
        model=gentle_model,
        **settings,
    ):
        tokenizers = [tiny_tokenizer(), tiny_tokenizer()]
        if not padded:
            for tokenizer in tokenizers:
                tokenizer.pad_token = None
        common = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1, "save_strategy": "no"}
        common |= {"per_device_train_batch_size": 2, "train_sampling_strategy": "sequential", "max_grad_norm": 1.0}
        common |= {"bf16": False, "gradient_checkpointing": False, "learning_rate": 2e-4} | settings
        loss = {"beta": beta, "label_smoothing": label_smoothing}
        theirs = trl.DPOTrainer(
            model=model(0),
            ref_model=model(ref_seed),
            args=trl.DPOConfig(
                output_dir=str(tmp_path / "trl"), max_length=None, loss_type=[loss_type], **loss, **common
            ),
            train_dataset=Dataset.from_list(pairs),
            processing_class=tokenizers[0],
        )
        ours = DPOTrainer(
            model(0),
            TrainingArguments(output_dir=str(tmp_path / "ours"), **common),
            Dataset.from_list(pairs),
            processing_class=tokenizers[1],
            ref_model=model(ref_seed),
            loss_type=loss_type,
            average_logps=loss_type == "ipo",
            **loss,
        )
        return theirs, ours

    return trainers


@pytest.mark.parametrize(("pairs", "room"), [(PAIRS, 3e-6), (long_pairs(6), 1e-5)], ids=["short", "long"])
@pytest.mark.parametrize(("loss_type", "beta", "label_smoothing"), LOSSES)
def test_the_engine_gives_trls_loss_and_gradient_for_each_pair(both, pairs, room, loss_type, beta, label_smoothing):
    theirs, ours = both(pairs, loss_type, beta, label_smoothing)
    for feature, row in zip(theirs.train_dataset, ours.train_dataset, strict=True):
        losses, gradients = [], []
        for trainer, batch in ((theirs, theirs.data_collator([feature])), (ours, ours.data_collator([row]))):
            trainer.model.zero_grad()
            loss = trainer.compute_loss(trainer.model, batch)
            loss.backward()
            losses.append(loss.item())
            gradients.append(torch.cat([p.grad.reshape(-1) for p in trainer.model.parameters()]))
        assert losses[1] == pytest.approx(losses[0], rel=room, abs=room)
        assert (gradients[1] - gradients[0]).norm() <= 5e-5 * gradients[0].norm()


@pytest.mark.parametrize(("loss_type", "beta", "label_smoothing"), LOSSES)
def test_a_whole_run_logs_trls_losses_and_metrics(both, loss_type, beta, label_smoothing):
    logs = []
    for trainer in both(PAIRS + long_pairs(4, 30), loss_type, beta, label_smoothing, ref_seed=0, num_train_epochs=3):
        trainer.train()
        logs.append([entry for entry in trainer.state.log_history if "loss" in entry])
    theirs, ours = logs
    assert len(ours) == len(theirs) == 12
    for step, (a, b) in enumerate(zip(theirs, ours, strict=True)):
        for name in ("loss", "grad_norm", *METRICS):
            if step > 0 or name != "rewards/accuracies":  # at step 0 a margin is a rounding error around 0, of any sign
                room = 1e-5 if name == "loss" else 1e-3
                assert b[name] == pytest.approx(a[name], rel=room, abs=room), (step, name)
    assert abs(ours[-1]["loss"] - ours[0]["loss"]) > 0.01


def test_a_mixture_of_experts_gets_trls_loss_with_its_routers_loss(both):
    theirs, ours = both(PAIRS + long_pairs(2, 30), model=lambda seed: experts(seed, router_jitter_noise=0.0))
    results = []
    for trainer in (theirs, ours):
        loss = trainer.compute_loss(trainer.model.train(), trainer.data_collator(list(trainer.train_dataset)))
        loss.backward()
        gradient = torch.cat([p.grad.reshape(-1) for p in trainer.model.parameters()])
        results.append((loss.item(), gradient))
    (loss, gradient), (our_loss, our_gradient) = results
    assert our_loss == pytest.approx(loss, abs=1e-5) and loss > 0.693 + 0.5
    assert (our_gradient - gradient).norm() <= 5e-5 * gradient.norm()


def test_without_a_pad_token_eos_pads_and_is_still_scored_as_in_trl(both):
    theirs, ours = both(PAIRS + long_pairs(2, 30), padded=False)
    eos = tiny_tokenizer().eos_token_id
    assert ours.pad_token_id == eos != tiny_tokenizer().pad_token_id
    assert all(row[reply][-1] == eos for row in ours.train_dataset for reply in ("chosen", "rejected"))

    def loss(trainer, rows):
        with torch.no_grad():
            return trainer.compute_loss(trainer.model.eval(), trainer.data_collator(list(rows))).item()

    with_pad = both(PAIRS + long_pairs(2, 30))[1]
    expected = loss(theirs, theirs.train_dataset)
    assert loss(ours, ours.train_dataset) == pytest.approx(expected, abs=1e-5)
    assert loss(with_pad, with_pad.train_dataset) == pytest.approx(expected, abs=1e-5)
    without_eos = [row | {"chosen": row["chosen"][:-1]} for row in ours.train_dataset]
    assert abs(loss(ours, without_eos) - expected) > 1e-3


def test_cdpo_is_the_original_formula_since_trls_sigmoid_ignores_smoothing(both):
    theirs, ours = both(PAIRS, "sigmoid", 0.5, 0.2)
    batch = ours.data_collator(ours.train_dataset)
    with torch.no_grad():
        _, table = ours.compute_loss(ours.model, batch, return_outputs=True)
        plain = theirs.compute_loss(theirs.model, theirs.data_collator(list(theirs.train_dataset)))
    margins = table[:, 1] - table[:, 2]
    original = -torch.nn.functional.logsigmoid(margins) * (1 - 0.2) - torch.nn.functional.logsigmoid(-margins) * 0.2
    assert table[:, 0].tolist() == pytest.approx(original.tolist(), abs=1e-6)
    assert plain.item() == pytest.approx(-torch.nn.functional.logsigmoid(margins).mean().item(), abs=1e-5)


# The relatives of notebook 08: the same batch through TRL's trainers.


def trl_settings(tmp_path):
    settings = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none"}
    return settings | {"output_dir": str(tmp_path / "trl"), "disable_tqdm": True}


def ours_on_pairs(method, **settings):
    """The mean loss of all pairs, as `train_relative` computes it."""
    model, reference = gentle_model(0), gentle_model(1)
    rows, score, layout = relatives.prepared(model, tiny_tokenizer(), PAIRS, method)
    with torch.no_grad():
        scored = score(model, reference, [part for row in rows for part in row], layout)
    return relatives.METHODS[method](scored, **settings).mean().item()


@pytest.mark.parametrize(
    ("loss_types", "weights", "method", "settings"),
    [
        (["sft"], [1.0], "sft", {}),
        (["sigmoid", "sft"], [1.0, 0.7], "rpo", {"beta": 0.3, "alpha": 0.7}),
        (["sigmoid_norm"], [1.0], "dpo_norm", {"beta": 0.3}),
        (["apo_zero"], [1.0], "apo_zero", {"beta": 0.3}),
        (["apo_down"], [1.0], "apo_down", {"beta": 0.3}),
    ],
)
def test_relatives_equal_trls_dpo_loss_types(tmp_path, loss_types, weights, method, settings):
    loss = {"loss_type": loss_types, "loss_weights": weights, "beta": 0.3, "max_length": None}
    trainer = trl.DPOTrainer(
        model=gentle_model(0),
        ref_model=gentle_model(1),
        args=trl.DPOConfig(**loss, **trl_settings(tmp_path)),
        train_dataset=Dataset.from_list(PAIRS),
        processing_class=tiny_tokenizer(),
    )
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
    assert ours_on_pairs(method, **settings) == pytest.approx(theirs.item(), rel=1e-6, abs=1e-6)


def test_kto_equals_trl_with_its_estimate_of_the_kl(tmp_path):
    sides = (("chosen", True), ("rejected", False))
    singles = [{"prompt": p["prompt"], "completion": p[side], "label": label} for side, label in sides for p in PAIRS]
    loss = {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.5, "max_length": None}
    trainer = trl.KTOTrainer(
        model=gentle_model(0),
        ref_model=gentle_model(1),
        args=trl.KTOConfig(per_device_train_batch_size=len(singles), **loss, **trl_settings(tmp_path)),
        train_dataset=Dataset.from_list(singles),
        processing_class=tiny_tokenizer(),
    )
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
    mode = "train" if trainer.model.training else "eval"
    assert trainer._metrics[mode]["kl"][-1] > 0.01
    ours = ours_on_pairs("kto", beta=0.3, desirable=1.5, undesirable=0.5)
    assert ours == pytest.approx(theirs.item(), rel=1e-6, abs=1e-6)


@pytest.fixture
def experimental(tmp_path):
    """TRL's ORPO or CPO trainer on our pairs, and its loss and metrics of all of them."""

    def measured(name, **loss):
        module = pytest.importorskip(f"trl.experimental.{name.lower()}")
        arguments = getattr(module, f"{name}Config")(max_length=128, **loss, **trl_settings(tmp_path))
        trainer = getattr(module, f"{name}Trainer")(
            model=gentle_model(0),
            args=arguments,
            train_dataset=Dataset.from_list(PAIRS),
            processing_class=tiny_tokenizer(),
        )
        trainer.model.eval()
        with torch.no_grad():
            return trainer.get_batch_loss_metrics(trainer.model, trainer.data_collator(list(trainer.train_dataset)))

    return measured


def test_orpo_equals_trl_but_for_its_nll_which_counts_the_prompt(experimental):
    loss, metrics = experimental("ORPO", beta=0.3)
    theirs = loss.item() - metrics["nll_loss"]
    assert ours_on_pairs("orpo", beta=0.3) - ours_on_pairs("sft") == pytest.approx(theirs, rel=1e-6, abs=1e-6)


def test_simpo_equals_trl(experimental):
    loss, _ = experimental("CPO", loss_type="simpo", cpo_alpha=0.0, beta=2.0, simpo_gamma=0.8)
    assert ours_on_pairs("simpo", beta=2.0, gamma=0.8) == pytest.approx(loss.item(), rel=1e-6, abs=1e-6)
