"""A content-addressed cache of tensors in `$TOYLIB_CACHE`, or `~/.cache/toylib`: a second run starts at once.

The name of a file is the hash of everything its numbers depend on, and the file carries that name and a hash of its
numbers. Entries with a wrong key or checksum are computed anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path

import torch

from toylib.engine.notices import log_once

DAY = 24 * 60 * 60  # seconds after which an unfinished file is what a killed run left behind


def cache_folder() -> Path:
    """Return `$TOYLIB_CACHE`, or `~/.cache/toylib`. Raises `OSError` if neither is set and there is no home folder."""
    try:
        return Path(os.environ.get("TOYLIB_CACHE") or Path.home() / ".cache" / "toylib")
    except RuntimeError as problem:  # pathlib's word for a missing HOME
        raise OSError(f"no home folder for the cache ({problem}): set TOYLIB_CACHE") from None


def load_tensors(key: str, what: str) -> tuple[dict[str, torch.Tensor], dict[str, str]] | None:
    """Return `(tensors, notes)` as saved under `key` (64 hex digits). None if there is nothing that can be trusted."""
    from safetensors import SafetensorError, safe_open

    try:
        path = cache_folder() / f"{key[:32]}.safetensors"
        if not path.is_file():
            return None
        with safe_open(path, framework="pt") as file:
            names, notes = file.keys(), dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, KeyError) as problem:
        log_once(f"a damaged cache of {what}, computed anew ({problem})")
        return None
    if notes.pop("key", None) != key or notes.pop("sha256", None) != _hash(tensors):
        log_once(f"{path.name}: a cache of {what} that does not fit its own mark, computed anew")
        return None
    return tensors, notes


def save_tensors(key: str, tensors: dict[str, torch.Tensor], what: str, **notes: str) -> None:
    """Save tensors and notes under `key`, whole or not at all. A full disk is logged and does not stop the run."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    unfinished = None
    try:
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # prompts are the user's own
        remove_unfinished(folder)
        unfinished = folder / f"{key[:32]}.{os.getpid()}"
        save_file(tensors, unfinished, metadata={"key": key, "sha256": _hash(tensors), **notes})
        os.replace(unfinished, folder / f"{key[:32]}.safetensors")
    except (OSError, SafetensorError) as problem:
        log_once(f"{what} were not cached: {problem}")
    finally:
        if unfinished is not None:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Delete the unfinished files in `folder` that a killed run left there more than a day ago."""
    for path in folder.iterdir():
        if path.suffix[1:].isdigit() and time.time() - path.stat().st_mtime > DAY:
            path.unlink(missing_ok=True)


def _hash(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
