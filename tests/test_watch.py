"""What is seen of a run, a plug pulled on purpose, and the same end after it."""

import pytest
from datasets import Dataset
from tiny import PAIRS, tiny_model, tiny_tokenizer
from transformers import PrinterCallback, TrainingArguments

from toylib import DPOTrainer, fingerprint
from toylib.engine.callbacks import FailAtStep, watch
from toylib.labs.hardware import resume_point


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setenv("TOYLIB_CACHE", str(tmp_path / "cache"))

    def trainer(folder="run", on_step=None, **settings):
        base = {"use_cpu": True, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "max_steps": 6}
        base |= {"logging_steps": 1, "save_steps": 2, "report_to": "none", "disable_tqdm": True} | settings
        arguments = TrainingArguments(str(tmp_path / folder), **base)
        return watch(
            DPOTrainer(tiny_model(0), arguments, Dataset.from_list(PAIRS), processing_class=tiny_tokenizer()), on_step
        )

    return trainer


def test_every_step_is_one_line_with_the_time_left_and_nothing_else_is_printed(make, capsys):
    trainer = make()
    trainer.train()
    said = capsys.readouterr().out
    assert [line[:9] for line in said.split("\r")[1:]] == [f"step {step}/6 " for step in range(1, 7)]
    assert said.count("s left") == 5 and "{" not in said
    assert not [c for c in trainer.callback_handler.callbacks if isinstance(c, PrinterCallback)]


def test_on_step_gets_the_steps_metrics_and_the_policy_and_may_add_to_its_own_copy(make):
    seen = []

    def on_step(step, metrics, policy):
        metrics["kl"] = 1.0
        seen.append((step, metrics["rewards/margins"], policy))

    trainer = make(on_step=on_step, eval_strategy="no")
    trainer.train()
    assert [step for step, *_ in seen] == [1, 2, 3, 4, 5, 6] and all(policy is trainer.model for *_, policy in seen)
    assert [margin for _, margin, _ in seen] == [
        entry["rewards/margins"] for entry in trainer.state.log_history if "loss" in entry
    ]
    assert not any("kl" in entry for entry in trainer.state.log_history)


def test_a_run_whose_plug_was_pulled_goes_on_and_ends_like_the_whole_one(make, tmp_path, capsys):
    whole, doomed = make("whole"), make("broken")
    whole.train()
    doomed.add_callback(FailAtStep(5))
    with pytest.raises(ConnectionError, match="at step 5 of 6"):
        doomed.train()
    capsys.readouterr()
    resumed = make("broken")
    resumed.train(resume_from_checkpoint=resume_point(tmp_path / "broken", resume=True))
    said = capsys.readouterr().out
    assert "going on from step 4" in said and "step 5/6" in said and "step 4/6" not in said
    assert fingerprint(resumed.model) == fingerprint(whole.model)
    assert [entry["loss"] for entry in resumed.state.log_history if "loss" in entry] == [
        entry["loss"] for entry in whole.state.log_history if "loss" in entry
    ]
