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
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

SEAL = "toylib.json"


class SafeTrainer(Trainer):
    """A Trainer whose `identity` (JSON values by name) is sealed into its checkpoints, and that stops at a bad number."""

    identity: dict

    def __init__(self, *args, callbacks=None, **kwargs):
        super().__init__(*args, callbacks=[*(callbacks or []), StopAtBadGradient()], **kwargs)

    def train(self, resume_from_checkpoint=None, **kwargs):
        """`Trainer.train`. `resume_from_checkpoint=True` takes the newest checkpoint that is whole and of this run."""
        if resume_from_checkpoint:
            resume_from_checkpoint = find_checkpoint(self.args.output_dir, resume_from_checkpoint, self.identity)
        self._seen = None  # what an interrupted run had not logged yet
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)
        except FloatingPointError as problem:
            if self.args.world_size > 1:  # the other processes are not here to save with
                raise
            kept = Path(self.args.output_dir) / "last-finite"
            self.save_model(str(kept))
            raise FloatingPointError(f"{problem}; the weights before that step are in {kept}") from None

    def _save_checkpoint(self, model, trial):
        """As the Trainer does, but sealed when whole, and nothing older is deleted before that."""
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        unseal(folder)
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
            rotate_checkpoints(str(folder.parent), limit, self.state.best_model_checkpoint, use_mtime=False)


class StopAtBadGradient(TrainerCallback):
    """Stop before a gradient that is not finite reaches the weights. fp16 is left alone: its scaler skips such steps."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        if not args.fp16 and gradients and not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            raise FloatingPointError(f"the gradient is not finite at step {state.global_step + 1}")


def seal(folder, run: dict) -> None:
    """Mark the checkpoint in `folder` as whole and as one of the run that `run` describes (JSON values by name)."""
    folder = Path(folder)
    files = {str(path.relative_to(folder)): _checksum(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    unfinished = folder / f"{SEAL}.unfinished"
    unfinished.write_text(json.dumps({"run": run, "files": files}, indent=1), encoding="utf-8")
    os.replace(unfinished, folder / SEAL)


def unseal(folder) -> None:
    """Take the seal off, before the folder is written to again."""
    (Path(folder) / SEAL).unlink(missing_ok=True)


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
