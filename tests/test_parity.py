"""Our loss and log-probs against TRL 1.16's trainer, one pair at a time, on the same two models."""

import pytest
import torch
from datasets import Dataset
from tiny import PAIRS, tiny_model, tiny_tokenizer

from toylib import dpo_loss, sequence_logps
from toylib.preferences import collate, tokenize_pairs

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
    [("sigmoid", 0.1, 0.0), ("sigmoid", 1.0, 0.0), ("robust", 0.1, 0.2), ("hinge", 0.1, 0.0), ("ipo", 0.1, 0.0)],
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
    ours, metrics = batch_loss(gentle_model(0), gentle_model(1), batch, **settings)
    assert ours.item() == pytest.approx(loss.item(), abs=1e-6) and metrics.pop("loss") == pytest.approx(ours.item())
    assert metrics == pytest.approx({name: theirs[name] for name in metrics}, abs=1e-5)
