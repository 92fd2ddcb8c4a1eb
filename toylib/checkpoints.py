"""Checkpoints that can be trusted: sealed when whole, checked before they are resumed, kept until the next is sealed.

The Trainer writes a checkpoint file by file into its final folder, so a run killed in the middle leaves one that looks
like any other. A seal, written last, tells them apart: the size and checksum of every file, and what run it belongs to.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from pathlib import Path

import torch
from transformers import Trainer, TrainerState
from transformers.trainer_utils import TrainOutput

SEAL = "toylib.json"


class SafeTrainer(Trainer):
    """A Trainer whose `identity` (JSON values by name) is sealed into its checkpoints, and that stops at a bad number."""

    identity: dict

    def train(self, resume_from_checkpoint=None, **kwargs):
        """`Trainer.train`. `resume_from_checkpoint=True` takes the newest checkpoint that is whole and of this run."""
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
                    f"{problem}; the update before it broke the weights: lower the rate, resume"
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
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
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


def seal(folder, run: dict) -> None:
    """Mark the checkpoint in `folder` as whole and as one of the run that `run` describes (JSON values by name)."""
    folder = Path(folder)
    files = {str(path.relative_to(folder)): _checksum(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    unfinished = folder / f"{SEAL}.unfinished"
    unfinished.write_text(json.dumps({"run": run, "files": files}, indent=1), encoding="utf-8")
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
    for name, value in run.items():
        if theirs.get(name) != value:
            return f"it belongs to another run: its {name} is {theirs.get(name)!r}, here it is {value!r}"
    for name, checksum in files.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if _checksum(folder / name) != checksum:
            return f"{name} is damaged: it is not what was written"
    return None


def find_checkpoint(output_dir, wanted, run: dict) -> str:
    """The checkpoint to resume: the folder `wanted`, or, for True, the newest whole one in `output_dir`.

    Raises `ValueError` if the wanted one cannot be resumed, naming what is wrong and the newest that can be.
    """
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    folders = sorted(folders, key=lambda path: -int(path.name.split("-")[1]))
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
    raise ValueError(f"no checkpoint to resume in {output_dir}" + "".join(f"; {line}" for line in problems))


def _checksum(path) -> list[int]:
    """Size and CRC-32: enough against accidents, and several times quicker than a cryptographic hash."""
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return [path.stat().st_size, crc]
