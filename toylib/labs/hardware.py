"""Choose precision and batch size for the machine at hand, and a run's folder that outlives a lost Colab runtime."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import traceback
from pathlib import Path
from typing import NamedTuple

import torch

from toylib.engine.checkpoint_seals import SEAL, checkpoints_in
from toylib.labs.memory import Shape, has_bf16_units, ledger, peak, shape_of
from toylib.models import load_model
from toylib.preferences import DATA, first_line

SMOL = "HuggingFaceTB/SmolLM2-135M-Instruct"
DRIVE = Path("/content/drive/MyDrive")  # where Colab mounts the reader's Google Drive
VOLTA = (7, 0)  # the first generation with fp16 units; Volta and Turing (the T4) have none for bf16


class Card(NamedTuple):
    """A CUDA card: its name, compute capability (major, minor), and memory in bytes."""

    name: str
    capability: tuple[int, int]
    memory: int


class Precision(NamedTuple):
    """A precision (fp32, fp16 or bf16): its name, its `TrainingArguments`, its name in the memory ledger, and the reason."""

    name: str
    arguments: dict
    ledger: str
    reason: str


class Fit(NamedTuple):
    """Pairs per step and steps per update that fit into memory, the ledger's peak in bytes, and the reason."""

    pairs: int
    accumulation: int
    peak: int
    reason: str


def find_card() -> Card | None:
    """Return the first CUDA card, or None."""
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return Card(properties.name, (properties.major, properties.minor), properties.total_memory)


def choose_precision(card: Card | None, wanted="auto") -> Precision:
    """Return the precision for `card` (None: the CPU), or the `wanted` one ("fp32", "fp16", "bf16") if the card has it.

    16 bits are always autocast over fp32 weights (Micikevicius et al. 2018, arXiv 1710.03740), because an update of 1e-6
    added to a 16-bit weight is rounded away. Raises `ValueError` for a precision that is unknown or that this machine
    does not have.
    """
    if wanted not in ("auto", "fp32", "fp16", "bf16"):
        raise ValueError(f"precision is auto, fp32, fp16 or bf16, got {wanted!r}")
    if card is None:
        best, reason = "fp32", "no GPU, and few CPUs are quick in 16 bits"
    elif has_bf16_units(card.capability):
        best, reason = "bf16", f"the {card.name} has bf16 units: the range of fp32, so no loss scaling is needed"
    elif card.capability >= VOLTA:
        best = "fp16"
        reason = (
            f"the {card.name} has fp16 units and none for bf16: fp16 autocast, with the loss scaled, over fp32 weights"
        )
    else:
        best, reason = "fp32", f"the {card.name} is older than 16-bit matrix units"
    if wanted not in ("auto", best):
        able = {"fp32"} | ({"fp16"} if best != "fp32" else set()) | {best}
        if wanted not in able:
            raise ValueError(f"{wanted} does not fit this machine ({reason}): choose auto or {best}")
        best, reason = wanted, "as you asked"
    flags = {} if best == "fp32" else {best: True}
    return Precision(best, flags, "fp32" if best == "fp32" else "autocast", reason)


def fit_batch(model, length, scored, memory, precision="fp32", update=16, share=0.5, way="reference once") -> Fit:
    """Return the largest equal steps of an `update` of pairs whose predicted peak is at most `share` of `memory`.

    The update is the same on every card, so the run is too; only the number of pairs held at once differs. `length` and
    `scored` are the largest in the data (`memory.sizes`). The rest of the memory is for CUDA itself, for sampling and
    for fragmentation. Raises `ValueError` if one pair does not fit.
    """
    limit, model = share * memory, model if isinstance(model, Shape) else shape_of(model)
    splits = [n for n in range(1, update + 1) if update % n == 0]
    held = {n: peak(ledger(model, n, length, scored, precision, way, split=n < update)) for n in splits}
    pairs = max((n for n, size in held.items() if size <= limit), default=0)
    if not pairs:
        raise ValueError(
            f"one pair of this model and length takes {held[1] / 1e9:.1f} GB, and {limit / 1e9:.1f} GB are to be used: "
            "take a smaller model, a lower max_length, or LoRA"
        )
    reason = f"predicted peak {held[pairs] / 1e9:.2f} GB of {memory / 1e9:.1f} GB, at most {share:.0%} of it to be used"
    return Fit(pairs, update // pairs, held[pairs], reason)


def memory_at_hand(card: Card | None) -> int:
    """Return the bytes of memory of the card, or of the machine (8 GB if the system does not say)."""
    if card:
        return card.memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 8 * 10**9


def load_for_machine(name, card):
    """Return `(name, model, tokenizer)` by `load_model`. With an empty `name`, choose by the machine and print why.

    The choice is SmolLM2-135M-Instruct where there are a GPU and the hub, and the shipped support model elsewhere. A
    given name is never replaced. Raises `ValueError` if it cannot be loaded.
    """
    if name:
        return name, *load_model(name)
    if card is None:
        print(
            "no GPU: the shipped support model, small, through the same cells (in Colab: Runtime, Change runtime type)"
        )
        return "support-lm", *load_model("support-lm")
    try:
        return SMOL, *load_model(SMOL)
    except ValueError as problem:
        print(f"{problem}\nso the shipped support model takes its place")
        return "support-lm", *load_model("support-lm")


def settings_hash(settings: dict) -> str:
    """Return 12 hex digits over settings (JSON values by name). Their order does not matter."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def run_folder(settings: dict, base="runs", drive=DRIVE) -> Path:
    """Return the folder for a run with exactly these settings: on Google Drive if that is mounted, otherwise in `base`."""
    home = Path(drive) / "dpo-notebooks" if Path(drive).is_dir() else Path(base)
    return home / settings_hash(settings)


def resume_point(folder, resume: bool):
    """Return what to pass to `train(resume_from_checkpoint=…)`: True if `resume` and there is a sealed checkpoint, else None.

    It prints what it found. Without `resume` a run starts from the beginning, whatever the folder holds.
    """
    steps = [step for step, path in checkpoints_in(folder) if (path / SEAL).is_file()]
    if not steps:
        print("no checkpoint of these settings: the run starts at step 0" if resume else "a new run")
    elif not resume:
        print(f"a new run (there is a checkpoint of these settings at step {steps[0]}: RESUME = True goes on from it)")
    else:
        print(f"going on from step {steps[0]}, if that checkpoint is whole")
    return True if resume and steps else None


@contextlib.contextmanager
def memory_advice(pairs):
    """Turn `OutOfMemoryError` into a `MemoryError` that says what to change. `pairs` is the number of pairs in a step."""
    try:
        yield
    except torch.OutOfMemoryError as problem:
        traceback.clear_frames(problem.__traceback__)  # its frames hold tensors that the next try needs the memory of
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        change = f"lower PAIRS_AT_ONCE from {pairs} to {pairs // 2}" if pairs > 1 else "lower MAX_LENGTH"
        raise MemoryError(
            f"the GPU has too little memory for {pairs} pairs at once: {change}, or restart the runtime if other models "
            f"still fill it ({first_line(problem, 120)})"
        ) from None


def gpu_results(folder=DATA / "results" / "gpu") -> dict:
    """Return the tables that `python3 lab.py gpu` has left in `folder`, as DataFrames by title; {} if there are none.

    A table's `attrs` hold what it was "measured" on (card, versions, date) and the step's other "facts", such as ratios.
    Raises `ValueError` for what a rehearsal on a CPU has left.
    """
    import pandas

    tables = {}
    for path in sorted(Path(folder).glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["rehearsal"]:
            raise ValueError(f"{path} is of a rehearsal on a CPU: run `python3 lab.py gpu` where there is a GPU")
        versions = (f"{name} {version}" for name, version in result["versions"].items() if version)
        about = {"measured": f"{result['card']['name']}; {', '.join(versions)}; {result['date']}"}
        for title, rows in result.get("tables", {}).items():
            tables[title] = pandas.DataFrame(rows)
            tables[title].attrs |= about | {"facts": result["facts"]}
    return tables
