"""Checkpoints that can be trusted: sealed when whole, checked before they are resumed, kept until the next is sealed.

The Trainer writes a checkpoint file by file into its final folder, so a run that is killed in the middle leaves one that
looks like any other. A seal, written last, tells them apart. It holds the size and checksum of every file, and which run
the checkpoint belongs to.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import zlib
from pathlib import Path
from textwrap import shorten

import filelock

from toylib.engine.notices import log_once

SEAL = "toylib.json"
SEAL_FORMAT = 2  # the version of the seal; 1 had no "format" and no "resumable"
LOCK = ".toylib.lock"
EARLIER = "-of-an-earlier-run"


@contextlib.contextmanager
def locked(output_dir):
    """Keep other runs out of `output_dir` while open. Raises `ValueError` if one is writing there."""
    path = Path(output_dir) / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise ValueError(
            f"another run is writing to {output_dir}: wait for its end, or choose another folder"
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


def seal(folder, run: dict, resumable=True) -> None:
    """Mark the checkpoint in `folder` as whole and as one of the run that `run` describes (JSON values by name).

    Every file and folder is on the disk before the seal is, so a power cut leaves no seal on half a checkpoint.
    `resumable=False` marks one that holds no optimizer (`save_only_model`).
    """
    folder = Path(folder)
    inside = sorted(folder.rglob("*"))
    files = {str(path.relative_to(folder)): _checksum(path) for path in inside if path.is_file()}
    for path in inside:
        to_disk(path)
    unfinished = folder / f"{SEAL}.unfinished"
    mark = {"format": SEAL_FORMAT, "resumable": resumable, "run": run, "files": files}
    unfinished.write_text(json.dumps(mark, indent=1, default=str), encoding="utf-8")
    to_disk(unfinished)
    os.replace(unfinished, folder / SEAL)
    to_disk(folder)
    to_disk(folder.parent)


def to_disk(path) -> None:
    """Have the system write a file or a folder's entries to the disk itself (fsync), where it can."""
    if os.name == "nt" and Path(path).is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_seal(folder) -> dict | None:
    """Return the seal of the checkpoint in `folder`, or None if it has none that can be read."""
    try:
        mark = json.loads((Path(folder) / SEAL).read_text(encoding="utf-8"))
        return {"format": 1, "resumable": True, **mark, "run": dict(mark["run"]), "files": dict(mark["files"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def belongs_to(folder, run: dict) -> bool:
    """Tell whether the checkpoint in `folder` is sealed as one of the run that `run` describes."""
    mark = read_seal(folder)
    return mark is not None and mark["run"] == json.loads(json.dumps(run, default=str))


def set_aside(folder) -> None:
    """Make room for a new checkpoint in `folder`: rename one that is sealed, and delete what was cut off."""
    if read_seal(folder) is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        aside = Path(f"{folder}{EARLIER}")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)


def drop_oldest(output_dir, limit, keep, run: dict) -> None:
    """Delete all but the `limit` checkpoints of `run` that were written last, never those in `keep`.

    The Trainer's own rotation would also delete the checkpoints of an earlier run in the same folder.
    """
    own = [path for _, path in checkpoints_in(output_dir) if belongs_to(path, run)]
    folders = sorted(own, key=lambda path: path.stat().st_mtime_ns)
    for folder in folders[: max(0, len(folders) - limit)] if limit else []:
        if str(folder) not in keep:
            shutil.rmtree(folder, ignore_errors=True)


def flaw(folder, run: dict, to_resume=True) -> str | None:
    """Return why the run that `run` describes cannot continue from `folder`, in one clause, or None if it can.

    `to_resume=False` only asks for weights, so that a checkpoint without an optimizer will do.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return "there is no such folder"
    mark = read_seal(folder)
    if mark is None:
        return f"it has no readable {SEAL}: it was cut off while being written, or made by another program"
    if mark["format"] > SEAL_FORMAT:
        return f"a newer version of toylib sealed it (format {mark['format']}; this one reads up to {SEAL_FORMAT})"
    if to_resume and not mark["resumable"]:
        return "it was saved without its optimizer (save_only_model)"
    theirs, files = mark["run"], mark["files"]
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
    """Return `(step, path)` of each checkpoint in `folder`, whole or not, the newest first."""
    found = [path for path in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(((int(path.name.split("-")[1]), path) for path in found), reverse=True)


def find_checkpoint(output_dir, wanted, run: dict) -> str:
    """Return the checkpoint to resume: the folder `wanted`, or, for True, the newest whole one in `output_dir`.

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
                log_once(f"passed over {line}")
            return str(path)
        problems.append(f"{path}: {problem}")
    newest = f": {problems[0]}" if problems else ""
    older = f"; nor can the {len(problems) - 1} older be resumed" if len(problems) > 1 else ""
    raise ValueError(f"no checkpoint to resume in {output_dir}{newest}{older}")


def _checksum(path) -> list[int]:
    """Return size and CRC-32: enough against accidents, and several times quicker than a cryptographic hash."""
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return [path.stat().st_size, crc]
