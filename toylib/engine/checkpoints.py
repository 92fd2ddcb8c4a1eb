"""Checkpoints that can be trusted: sealed when whole, checked before they are resumed, kept until the next is sealed.

The Trainer writes a checkpoint file by file into its final folder, so a run killed in the middle leaves one that looks
like any other. A seal, written last, tells them apart: the size and checksum of every file, and what run it belongs to.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import zlib
from pathlib import Path
from textwrap import shorten

import torch
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import SchedulerType, TrainOutput

SEAL = "toylib.json"
UPDATE = ("learning_rate", "optim", "optim_args", "optim_target_modules", "weight_decay", "max_grad_norm")
UPDATE += ("adam_beta1", "adam_beta2", "adam_epsilon", "lr_scheduler_kwargs", "neftune_noise_alpha")
UPDATE += ("train_sampling_strategy", "dataloader_drop_last")  # which pairs it is made of
ENDLESS = ("constant", "constant_with_warmup", "inverse_sqrt")  # schedules that do not look at the number of updates
ADDRESSES = ("base_model_name_or_path", "revision", "peft_version", "auto_mapping", "inference_mode")  # not settings


class SafeTrainer(Trainer):
    """A Trainer whose `identity` (JSON values by name) is sealed into its checkpoints, and that stops at a bad number.

    The identity is whatever an update depends on. How often it saves, logs and evaluates, on what and where to, the
    split of a batch into steps and processes, and gradient checkpointing are not in it and may differ at a resume.
    """

    def __init__(self, model, args, optimizers=(None, None), **kwargs):
        super().__init__(model=model, args=args, optimizers=optimizers, **kwargs)
        self.add_callback(AsOftenAsAskedNow())
        self.given = given_rule(*optimizers)
        self.identity = {"mixed_precision": self.accelerator.mixed_precision, "dtype": str(model.dtype)}
        self.identity |= adapters(model)
        self.identity["number of trained weights"] = sum(p.numel() for p in model.parameters() if p.requires_grad)

    def train(self, resume_from_checkpoint=None, **kwargs):
        """`Trainer.train`. `resume_from_checkpoint=True` takes the newest checkpoint that is whole and of this run.

        To go on for more updates than planned is the same run only under a schedule that does not end (`ENDLESS`).
        """
        self.identity |= update_rule(self.args, planned_updates(self.args, len(self.train_dataset))) | self.given
        if resume_from_checkpoint:
            resume_from_checkpoint = find_checkpoint(self.args.output_dir, resume_from_checkpoint, self.identity)
            state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / "trainer_state.json"))
            if 0 < self.args.max_steps <= state.global_step:  # it is done: the Trainer would take one step more
                self._load_from_checkpoint(resume_from_checkpoint)
                self.state = state
                return TrainOutput(state.global_step, float("nan"), {})
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)
        except FloatingPointError as problem:
            if self.args.world_size > 1:  # the other processes are not here to save with
                raise
            if not has_finite_weights(self.model):
                raise FloatingPointError(
                    f"{problem}; the update before it broke the weights: start anew with a lower learning_rate "
                    "(a resumed run keeps the rate it began with)"
                ) from None
            kept = Path(self.args.output_dir) / "last-finite"
            self.save_model(str(kept))
            raise FloatingPointError(f"{problem}; the weights before that step are in {kept}") from None

    def _get_grad_norm(self, model, grad_norm=None):
        """The Trainer's, which it asks for right before each update: the place to keep a bad one from the weights."""
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if self.accelerator.scaler is None and not torch.isfinite(torch.as_tensor(grad_norm)):  # a scaler skips such
            raise FloatingPointError(f"the gradient is not finite at step {self.state.global_step + 1}")
        return grad_norm

    def _save_checkpoint(self, model, trial):
        """As the Trainer does, but sealed when whole, and nothing older is deleted before that."""
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        if not has_finite_weights(self.model):
            raise FloatingPointError(f"the weights are not finite after step {self.state.global_step}")
        if self.args.should_save:
            shutil.rmtree(folder, ignore_errors=True)  # what an earlier run left there, whole or not
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
            self.args.save_total_limit = limit
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                torch.save(self.args, folder / TRAINING_ARGS_NAME)  # the Trainer's was written without the limit
                seal(folder, self.identity)
        except Exception as problem:  # whatever the writers raise when a disk is full, and each has its own
            shutil.rmtree(folder, ignore_errors=True)
            raise OSError(
                f"{folder} could not be saved ({problem}); the checkpoints before it are untouched"
            ) from problem
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            drop_oldest(folder.parent, limit, {str(folder), str(self.state.best_model_checkpoint)})


class AsOftenAsAskedNow(TrainerCallback):
    """A resumed run saves, logs and evaluates as its own arguments say; the Trainer does as the checkpoint's said."""

    def on_train_begin(self, args, state, control, **kwargs):
        state.compute_steps(args, state.max_steps)


def planned_updates(args, count) -> int:
    """The number of updates that `args` plan on `count` pairs, as the Trainer finds it."""
    if args.max_steps > 0:
        return args.max_steps
    size = args.train_batch_size * args.world_size
    steps = count // size if args.dataloader_drop_last else math.ceil(count / size)
    return math.ceil(args.num_train_epochs * max(1, math.ceil(steps / args.gradient_accumulation_steps)))


def update_rule(args, updates) -> dict:
    """What an update does, by name: optimizer, rate, clipping, schedule over the planned `updates`."""
    kind, warmup = SchedulerType(args.lr_scheduler_type).value, args.get_warmup_steps(updates)
    schedule = kind if kind == "constant" else f"{kind}, {warmup} updates of warm-up"
    schedule += "" if kind in ENDLESS else f", {updates} updates in all"
    return {name: getattr(args, name, None) for name in UPDATE} | {"schedule": schedule}


def given_rule(optimizer, scheduler) -> dict:
    """As `update_rule`, of an optimizer and a schedule that were made outside; {} if there is none.

    Such a schedule cannot be read, so its class stands for it: that it goes on as it began is the caller's to see to.
    """
    rule = {}
    if optimizer is not None:
        groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        rule |= {"optim": type(optimizer).__name__, "optim_args": str(groups)}
        rule |= {"learning_rate": [group.get("initial_lr", group["lr"]) for group in groups]}
    if scheduler is not None:
        rule |= {"schedule": type(scheduler).__name__}
    return rule


def adapters(model) -> dict:
    """The configuration of a PEFT model's adapters by name, addresses and unset values aside; {} of any other model."""
    found = {}
    for name, config in getattr(model, "peft_config", {}).items():
        values = {k: v for k, v in config.to_dict().items() if v and k not in ADDRESSES}
        values |= {k: sorted(map(str, v)) for k, v in values.items() if isinstance(v, set)}
        found |= {
            f"{name} adapter's {k}": v if isinstance(v, (str, int, float, list)) else str(v) for k, v in values.items()
        }
    return found


def seal(folder, run: dict) -> None:
    """Mark the checkpoint in `folder` as whole and as one of the run that `run` describes (JSON values by name)."""
    folder = Path(folder)
    files = {str(path.relative_to(folder)): _checksum(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    unfinished = folder / f"{SEAL}.unfinished"
    unfinished.write_text(json.dumps({"run": run, "files": files}, indent=1, default=str), encoding="utf-8")
    os.replace(unfinished, folder / SEAL)


def drop_oldest(output_dir, limit, keep) -> None:
    """Delete all but the `limit` checkpoints that were written last, whatever their step; never those in `keep`.

    The Trainer's own rotation goes by step where clocks are coarse, and so would delete a new run's first checkpoints
    in a folder with an older, longer run's.
    """
    folders = sorted(Path(output_dir).glob("checkpoint-*"), key=lambda path: path.stat().st_mtime_ns)
    for folder in folders[: max(0, len(folders) - limit)] if limit else []:
        if str(folder) not in keep:
            shutil.rmtree(folder, ignore_errors=True)


def has_finite_weights(model) -> bool:
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def flaw(folder, run: dict) -> str | None:
    """Why the checkpoint in `folder` cannot go on as the run that `run` describes, in one clause; None if it can."""
    folder = Path(folder)
    if not folder.is_dir():
        return "there is no such folder"
    try:
        mark = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        theirs, files = dict(mark["run"]), dict(mark["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"it has no readable {SEAL}: it was cut off while being written, or made by another program"
    run = json.loads(json.dumps(run, default=str))
    for name in [*run, *(name for name in theirs if name not in run)]:
        if theirs.get(name) != run.get(name):
            here, there = (shorten(repr(values.get(name)), 100, placeholder=" …") for values in (run, theirs))
            return f"it belongs to another run: its {name} is {there}, here it is {here}"
    for name, checksum in files.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if _checksum(folder / name) != checksum:
            return f"{name} is damaged: it is not what was written"
    return None


def checkpoints_in(folder) -> list[tuple[int, Path]]:
    """`(step, path)` of each checkpoint in `folder`, whole or not, the newest first."""
    found = [path for path in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(((int(path.name.split("-")[1]), path) for path in found), reverse=True)


def find_checkpoint(output_dir, wanted, run: dict) -> str:
    """The checkpoint to resume: the folder `wanted`, or, for True, the newest whole one in `output_dir`.

    Raises `ValueError` if the wanted one cannot be resumed, naming what is wrong and the newest that can be.
    """
    folders = [path for _, path in checkpoints_in(output_dir)]
    if wanted is not True:
        problem = flaw(wanted, run)
        if problem is None:
            return str(wanted)
        whole = next((path for path in folders if path != Path(wanted) and flaw(path, run) is None), None)
        advice = f"{whole} is whole, resume from there" if whole else "no other checkpoint there is whole"
        raise ValueError(f"cannot resume from {wanted}: {problem}; {advice}")
    problems = []
    for path in folders:
        problem = flaw(path, run)
        if problem is None:
            for line in problems:
                print(f"passed over {line}")
            return str(path)
        problems.append(f"{path}: {problem}")
    newest = f": {problems[0]}" if problems else ""
    older = f"; nor can the {len(problems) - 1} older be resumed" if len(problems) > 1 else ""
    raise ValueError(f"no checkpoint to resume in {output_dir}{newest}{older}")


def _checksum(path) -> list[int]:
    """Size and CRC-32: enough against accidents, and several times quicker than a cryptographic hash."""
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return [path.stat().st_size, crc]
