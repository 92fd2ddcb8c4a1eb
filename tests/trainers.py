"""Shared by the tests of DPOTrainer: the fixture that makes a tiny trainer, its pairs, and what it has logged."""

import pytest
import torch
from datasets import Dataset
from tiny import PAIRS, tiny_model, tiny_tokenizer
from transformers import TrainingArguments

from toylib import DPOTrainer

MORE = [{**pair, "prompt": pair["prompt"].replace("my", "the")} for pair in PAIRS] + PAIRS * 2


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOYLIB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(name="make")
def make_fixture(tmp_path):
    def trainer(model=None, pairs=MORE, eval_pairs=None, tokenizer=None, output=tmp_path / "out", **settings):
        ours = (
            "ref_model",
            "beta",
            "loss_type",
            "label_smoothing",
            "average_logps",
            "max_length",
            "callbacks",
            "optimizers",
        )
        options = {name: settings.pop(name) for name in ours if name in settings}
        base = {"use_cpu": True, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "logging_steps": 1}
        base |= {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "max_steps": 6}
        return DPOTrainer(
            tiny_model(0) if model is None else model,
            TrainingArguments(output_dir=str(output), **(base | settings)),
            Dataset.from_list(pairs),
            {name: Dataset.from_list(part) for name, part in eval_pairs.items()}
            if isinstance(eval_pairs, dict)
            else eval_pairs and Dataset.from_list(eval_pairs),
            processing_class=tokenizer or tiny_tokenizer(),
            **options,
        )

    return trainer


def logged(trainer, name="loss"):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])
