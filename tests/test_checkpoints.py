"""Checkpoints: the same run after a kill, clear refusals, and nothing lost on the way."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import PAIRS, one_sentence, tiny_model
from trainers import MORE, logged, make_fixture, own_cache, weights  # noqa: F401 (pytest uses the fixtures)
from transformers import TrainerCallback

from toylib.engine.checkpoints import planned_updates


def test_a_new_run_in_an_old_folder_keeps_its_own_checkpoints(make, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}
    settings["lr_scheduler_type"] = "constant"  # so that a step too many would show
    make(**settings, max_steps=8).train()
    make(**settings, max_steps=5, beta=0.5).train()
    assert sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*")) == [
        "checkpoint-4",
        "checkpoint-5",
        *("checkpoint-7", "checkpoint-8"),  # the earlier run's are not the new run's to delete
    ]
    again = make(**settings, max_steps=5, beta=0.5)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 5  # it was done, and is not trained a step further


def test_weights_that_broke_are_never_saved(make, tmp_path):
    trainer = make(learning_rate=1e39, save_strategy="steps", save_steps=1)
    with pytest.raises(FloatingPointError) as caught:
        trainer.train()
    assert "not finite" in one_sentence(caught)
    assert "start anew with a lower learning_rate (a resumed run keeps the rate it began with)" in one_sentence(caught)
    assert not list((tmp_path / "out").glob("*/model.safetensors"))


@pytest.fixture
def saved(make, tmp_path):
    """A finished run of eight steps over two epochs and a half, a checkpoint at every one; its losses and weights."""
    trainer = make(save_strategy="steps", save_steps=1, max_steps=8, gradient_accumulation_steps=2)
    trainer.train()
    return trainer, tmp_path / "out"


@pytest.mark.parametrize("step", [1, 3, 4, 7])
def test_a_resumed_run_ends_in_the_same_weights_bit_for_bit(saved, make, step, tmp_path):
    trainer, out = saved
    copied = tmp_path / "resumed"
    shutil.copytree(out / f"checkpoint-{step}", copied / f"checkpoint-{step}")
    again = make(output=copied, save_strategy="steps", save_steps=1, max_steps=8, gradient_accumulation_steps=2)
    again.train(resume_from_checkpoint=True)
    assert torch.equal(weights(again.model), weights(trainer.model))
    assert logged(again)[-1] == logged(trainer)[-1]


def spoil_checkpoint(folder, how):
    weights = folder / "model.safetensors"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "one bit flipped":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif how == "without its optimizer":
        (folder / "optimizer.pt").unlink()
    elif how == "cut off before its seal":
        (folder / "toylib.json").unlink()
    elif how == "seal damaged":
        (folder / "toylib.json").write_text("{")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("truncated", "model.safetensors is damaged"),
        ("one bit flipped", "model.safetensors is damaged"),
        ("without its optimizer", "optimizer.pt is missing"),
        ("cut off before its seal", "cut off while being written, or made by another program"),
        ("seal damaged", "cut off while being written, or made by another program"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_is_used(saved, make, how, said, caplog):
    trainer, out = saved
    spoil_checkpoint(out / "checkpoint-8", how)
    again = make(max_steps=8, gradient_accumulation_steps=2)
    with pytest.raises(ValueError) as caught:
        again.train(resume_from_checkpoint=str(out / "checkpoint-8"))
    assert said in one_sentence(caught) and f"{out / 'checkpoint-7'} is whole" in one_sentence(caught)
    again.train(resume_from_checkpoint=True)
    assert f"passed over {out / 'checkpoint-8'}: " in caplog.text
    assert torch.equal(weights(again.model), weights(trainer.model))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"beta": 0.5}, "its beta is 0.1, here it is 0.5"),
        ({"pairs": PAIRS}, "its pairs is"),
        ({"model": tiny_model(7)}, "its reference is"),
        ({"loss_type": "ipo"}, "its loss_type is 'sigmoid'"),
        ({"seed": 1}, "its seed is 42, here it is 1"),
        ({"per_device_train_batch_size": 4}, "its pairs an update is 4, here it is 8"),
        ({"train_sampling_strategy": "sequential"}, "its train_sampling_strategy is 'random', here it is 'sequential'"),
        ({"learning_rate": 2e-3}, "its learning_rate is 0.001, here it is 0.002"),
        ({"weight_decay": 0.1}, "its weight_decay is 0.0, here it is 0.1"),
        ({"adam_beta2": 0.99}, "its adam_beta2 is 0.999, here it is 0.99"),
        ({"max_grad_norm": 0.5}, "its max_grad_norm is 1.0, here it is 0.5"),
        ({"optim": "sgd"}, "here it is 'sgd'"),
        ({"optimizers": (torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1e-3), None)}, "its learning_rate is 0.001"),
        ({"lr_scheduler_type": "cosine"}, "here it is 'cosine, 0 updates of warm-up, 8 updates in all'"),
        ({"warmup_steps": 2}, "here it is 'linear, 2 updates of warm-up, 8 updates in all'"),
        ({"max_steps": 9}, "its schedule is 'linear, 0 updates of warm-up, 8 updates in all'"),
        ({"bf16": True}, "its mixed_precision is 'no', here it is 'bf16'"),
        ({"model": tiny_model(0, dtype=torch.float64)}, "its dtype is 'torch.float32', here it is 'torch.float64'"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_run_is_refused(saved, make, change, said):
    other = make(**{"model": tiny_model(0), "gradient_accumulation_steps": 2, "max_steps": 8, **change})
    with pytest.raises(ValueError) as caught:
        other.train(resume_from_checkpoint=str(saved[1] / "checkpoint-8"))
    assert "it belongs to another run" in one_sentence(caught) and said in one_sentence(caught)


def test_what_changes_no_update_may_differ_at_a_resume(saved, make):
    trainer, out = saved
    changes = {"save_strategy": "steps", "save_steps": 3, "save_total_limit": 1, "logging_steps": 2, "eval_steps": 2}
    changes |= {"eval_strategy": "steps", "eval_pairs": PAIRS, "output": out / "other"}
    again = make(max_steps=8, gradient_accumulation_steps=2, **changes)
    again.train(str(out / "checkpoint-3"))
    assert torch.equal(weights(again.model), weights(trainer.model)) and len(logged(again, "eval_loss")) == 3
    assert sorted(path.name for path in (out / "other").iterdir()) == ["checkpoint-8"]
    # Only roundings differ where four pairs are one step and not two, and where activations are computed twice.
    split = make(max_steps=8, per_device_train_batch_size=4, gradient_checkpointing=True)
    split.train(str(out / "checkpoint-3"))
    assert torch.allclose(weights(split.model), weights(trainer.model), atol=1e-5)


@pytest.mark.parametrize(("first", "longer"), [({"max_steps": 4}, {"max_steps": 9}), ({}, {"num_train_epochs": 2})])
@pytest.mark.parametrize("schedule", ["constant", "constant_with_warmup", "cosine"])
def test_a_run_goes_on_for_longer_only_under_a_schedule_without_end(make, tmp_path, schedule, first, longer):
    settings = {"lr_scheduler_type": schedule, "warmup_steps": 3, "save_strategy": "steps", "save_steps": 2}
    settings |= {"max_steps": -1, "num_train_epochs": 1}
    make(**settings | first).train()
    again = make(**settings | longer)
    if schedule == "cosine":
        with pytest.raises(ValueError) as caught:
            again.train(resume_from_checkpoint=True)
        assert "its schedule is 'cosine" in one_sentence(caught) and "nor can the" in one_sentence(caught)
        return
    again.train(resume_from_checkpoint=True)
    straight = make(**settings | longer, output=tmp_path / "straight")
    straight.train()
    assert torch.equal(weights(again.model), weights(straight.model))
    assert again.state.global_step == straight.state.global_step > 6


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("more", [{}, {"dataloader_drop_last": True}, {"num_train_epochs": 0.4}, {"max_steps": 7}])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_planned_updates_are_the_trainers(make, size, more, accumulation):
    settings = {"max_steps": -1, "per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
    trainer = make(**settings | more)
    *_, planned = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    assert planned_updates(trainer.args, len(MORE)) == planned


def test_an_optimizer_and_a_schedule_made_outside_are_part_of_the_run(make):
    def run(rate, save="no", **resume):
        model = tiny_model(0)
        optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        trainer = make(model, optimizers=(optimizer, schedule), save_strategy=save, save_steps=2)
        trainer.train(**resume)
        return trainer

    whole = run(0.01, save="steps")
    again = run(0.01, resume_from_checkpoint=str(whole.args.output_dir) + "/checkpoint-4")
    assert torch.equal(weights(again.model), weights(whole.model))
    whole.train(resume_from_checkpoint=True)  # its optimizer has moved on, and is still the one it was given
    with pytest.raises(ValueError) as caught:
        run(0.02, resume_from_checkpoint=True)
    assert "its learning_rate is [0.01], here it is [0.02]" in one_sentence(caught)


def test_a_resumed_lora_run_ends_in_the_same_weights_and_other_adapters_are_refused(make, tmp_path):
    peft = pytest.importorskip("peft")

    def trainer(**changes):
        torch.manual_seed(0)
        settings = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1}
        adapted = peft.get_peft_model(tiny_model(0), peft.LoraConfig(**settings | changes))
        return make(adapted, learning_rate=3e-2, save_strategy="steps", save_steps=2)

    whole = trainer()
    whole.train()
    shutil.rmtree(tmp_path / "out" / "checkpoint-6")
    again = trainer()
    again.train(resume_from_checkpoint=True)
    assert torch.equal(weights(again.model), weights(whole.model))
    for change, said in (
        ({"r": 4}, "its default adapter's r is 2, here it is 4"),
        ({"lora_alpha": 8}, "its default adapter's lora_alpha is 4, here it is 8"),
        ({"target_modules": ["q_proj"]}, "default adapter's target_modules is ['q_proj', 'v_proj'], here it is ['q_proj']"),
        ({"use_rslora": True}, "default adapter's use_rslora is None, here it is True"),
    ):  # fmt: skip
        with pytest.raises(ValueError) as caught:
            trainer(**change).train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
        assert said in one_sentence(caught)
    with pytest.raises(ValueError) as caught:  # the base is the same, the seed, the pairs: and it is another run
        make(learning_rate=3e-2).train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert "it belongs to another run" in one_sentence(caught)


def test_with_nothing_to_resume_it_says_so(make):
    with pytest.raises(ValueError) as caught:
        make().train(resume_from_checkpoint=True)
    assert "no checkpoint to resume" in one_sentence(caught)


def test_a_disk_that_fills_up_while_saving_leaves_the_last_checkpoint(make, tmp_path, monkeypatch):
    trainer = make(save_strategy="steps", save_steps=2, save_total_limit=1)
    write = type(trainer)._save_optimizer_and_scheduler

    def full(self, folder):
        if "checkpoint-4" in folder:
            Path(folder, "optimizer.pt").write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(self, folder)

    monkeypatch.setattr(type(trainer), "_save_optimizer_and_scheduler", full)
    with pytest.raises(OSError, match="checkpoint-4 could not be saved .*No space left on device") as caught:
        trainer.train()
    assert "the checkpoints before it are untouched" in one_sentence(caught)
    assert sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*")) == ["checkpoint-2"]
    monkeypatch.undo()
    whole = make(save_strategy="steps", save_steps=2)
    whole.train(resume_from_checkpoint=True)
    assert whole.state.global_step == 6


def test_only_as_many_checkpoints_are_kept_as_asked_for_and_they_know_it(make, tmp_path):
    make(save_strategy="steps", save_steps=1, save_total_limit=2).train()
    kept = torch.load(tmp_path / "out" / "checkpoint-6" / "training_args.bin", weights_only=False)
    assert kept.save_total_limit == 2
    assert sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*")) == ["checkpoint-5", "checkpoint-6"]


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from datasets import Dataset
from transformers import TrainerCallback, TrainingArguments
from tiny import PAIRS, tiny_model, tiny_tokenizer
from toylib import DPOTrainer
import toylib.engine.checkpoints as checkpoints

where, step = sys.argv[2], int(sys.argv[3])
class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if where == "training" and state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
sealed = checkpoints.seal
def seal(folder, run, **more):
    if where == "saving" and folder.name == f"checkpoint-{{step}}":
        os.kill(os.getpid(), signal.SIGKILL)
    sealed(folder, run, **more)
checkpoints.seal = seal
arguments = TrainingArguments(output_dir=sys.argv[1], use_cpu=True, per_device_train_batch_size=2, learning_rate=1e-3,
    max_steps=9, save_steps=2, save_total_limit=1, report_to="none", disable_tqdm=True)
trainer = DPOTrainer(tiny_model(0), arguments, Dataset.from_list(PAIRS * 2), processing_class=tiny_tokenizer(), callbacks=[Kill()])
trainer.train(resume_from_checkpoint=where == "resume" or None)
trainer.save_model(sys.argv[1] + "/end")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "step"), [("training", 3), ("training", 5), ("training", 8), ("saving", 4), ("saving", 6)]
)
def test_kill_minus_nine_then_resume_gives_the_same_weights(tmp_path, where, step):
    script = tmp_path / "run.py"
    script.write_text(KILLED.format(tests=str(Path(__file__).parent)))

    def run(folder, *how):
        command = [sys.executable, str(script), str(tmp_path / folder), *map(str, how)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=120)

    assert run("whole", "none", 0).returncode == 0
    assert run("killed", where, step).returncode == -9
    resumed = run("killed", "resume", 0)
    assert resumed.returncode == 0, resumed.stderr
    ends = [(tmp_path / folder / "end" / "model.safetensors").read_bytes() for folder in ("whole", "killed")]
    assert ends[0] == ends[1]


def test_every_file_is_on_the_disk_before_the_seal_and_nothing_is_deleted_before_that(make, tmp_path, monkeypatch):
    """A power cut loses what was not synced: so the order is files and folders, the seal, its folder, then deletion."""
    events, names = [], {}
    opened, synced, replaced, removed = os.open, os.fsync, os.replace, shutil.rmtree

    def watched_open(path, *rest, **more):
        handle = opened(path, *rest, **more)
        names[handle] = Path(path)
        return handle

    def watched_removal(path, *rest, **more):
        if Path(path).is_dir():
            events.append(("deleted", Path(path).name))
        removed(path, *rest, **more)

    monkeypatch.setattr("toylib.engine.checkpoint_seals.os.open", watched_open)
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append(("synced", names[handle].name)), synced(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(("renamed", Path(b).name)), replaced(a, b)))
    monkeypatch.setattr("toylib.engine.checkpoint_seals.shutil.rmtree", watched_removal)
    make(save_strategy="steps", save_steps=2, max_steps=4, save_total_limit=1).train()
    deletion = events.index(("deleted", "checkpoint-2"))
    seal_at = [i for i, event in enumerate(events) if event == ("renamed", "toylib.json")][1]
    inside = {("synced", path.name) for path in (tmp_path / "out" / "checkpoint-4").iterdir()} - {
        ("synced", "toylib.json")
    }
    first = events.index(("renamed", "toylib.json"))
    assert len(inside) >= 6 and inside <= set(events[first:seal_at])
    assert {("synced", "checkpoint-4"), ("synced", "out")} <= set(events[seal_at:deletion])


def test_a_rerun_neither_deletes_nor_replaces_the_checkpoints_of_the_earlier_run(make, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 1, "max_steps": 4}
    make(**settings).train()
    before = (tmp_path / "out" / "checkpoint-4" / "model.safetensors").read_bytes()
    make(**settings, beta=0.5).train()
    aside = tmp_path / "out" / "checkpoint-4-of-an-earlier-run"
    assert (aside / "model.safetensors").read_bytes() == before
    first = make(**settings, output=tmp_path / "elsewhere")
    first.train(resume_from_checkpoint=str(aside))
    assert first.state.global_step == 4


def test_two_runs_in_one_folder_are_refused(make, tmp_path):
    class Second(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 2:
                with pytest.raises(ValueError, match="another run is writing to") as caught:
                    make().train()
                self.caught = one_sentence(caught)

    second = Second()
    make(callbacks=[second]).train()
    assert "wait for its end, or choose another folder" in second.caught
    assert not (tmp_path / "out" / ".toylib.lock").exists()
    make().train()  # the lock is gone with the run


def test_a_finished_best_model_run_is_resumed_to_its_best_model(make, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 4}
    settings |= {"eval_pairs": PAIRS, "load_best_model_at_end": True, "metric_for_best_model": "eval_logps/chosen"}
    settings |= {"greater_is_better": False, "learning_rate": 3e-2}  # gets higher from some step on
    whole = make(**settings)
    whole.train()
    last = type(whole.model).from_pretrained(tmp_path / "out" / "checkpoint-4")
    best = type(whole.model).from_pretrained(whole.state.best_model_checkpoint)
    assert not torch.equal(weights(best), weights(last))
    again = make(**settings)
    again.train(resume_from_checkpoint=True)
    assert torch.equal(weights(again.model), weights(best)) and torch.equal(weights(whole.model), weights(best))


def test_a_checkpoint_without_its_optimizer_is_not_resumed(make, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 1}
    make(**settings, save_only_model=True).train()
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-6"]
    with pytest.raises(ValueError) as caught:
        make(**settings).train(resume_from_checkpoint=True)
    assert "it was saved without its optimizer (save_only_model)" in one_sentence(caught)


def test_a_seal_of_a_newer_format_is_refused_and_an_older_one_read(saved, make):
    seal = saved[1] / "checkpoint-8" / "toylib.json"
    mark = json.loads(seal.read_text())
    assert mark["format"] == 2
    seal.write_text(json.dumps(mark | {"format": 3}))
    again = make(max_steps=8, gradient_accumulation_steps=2)
    with pytest.raises(ValueError) as caught:
        again.train(resume_from_checkpoint=str(saved[1] / "checkpoint-8"))
    assert "a newer version of toylib sealed it (format 3" in one_sentence(caught)
    seal.write_text(json.dumps({name: mark[name] for name in ("run", "files")}))
    again.train(resume_from_checkpoint=str(saved[1] / "checkpoint-8"))
    assert again.state.global_step == 8


def test_the_first_log_entry_after_a_resume_is_that_of_the_whole_run(make, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 3, "logging_steps": 4, "max_steps": 8}
    whole = make(**settings)
    whole.train()
    shutil.rmtree(tmp_path / "out" / "checkpoint-8")
    shutil.rmtree(tmp_path / "out" / "checkpoint-6")
    again = make(**settings)
    again.train(resume_from_checkpoint=True)
    assert logged(again) == logged(whole) and logged(again, "logps/chosen") == logged(whole, "logps/chosen")


def test_weights_that_are_not_finite_are_not_saved_as_a_result(make, tmp_path):
    trainer = make()
    next(trainer.model.parameters()).data[0] = float("nan")
    with pytest.raises(FloatingPointError) as caught:
        trainer.save_model()
    assert "the weights are not finite" in one_sentence(caught)
    assert not (tmp_path / "out" / "model.safetensors").exists()
