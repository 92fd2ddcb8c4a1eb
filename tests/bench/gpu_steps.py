"""The steps of the GPU day (`gpu_day`), one a process: what each measures, as facts and tables that can be written as JSON.

On a CPU, in a rehearsal, everything is tiny. A step that compares several settings writes down what one of them cannot
do as a "problem" in its row and goes on with the next.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import runpy
import shutil
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TINY = (8, 12, 4, 8)  # a rehearsal's mix of lengths
LAST_REHEARSED = (
    "memory.measure_step("  # in the notebook's last rehearsed cell; the tests run all of it on a CPU anyway
)


class Day(NamedTuple):
    """Where a step runs and writes: "cuda" or "cpu", the folder of results, the folder of everything else."""

    device: str
    folder: Path
    work: Path

    @property
    def tiny(self):
        return self.device == "cpu"

    @property
    def trained(self):
        return self.work / "runs" / "support-135m"

    @property
    def model(self):
        """The model to train: the one of this day, or the shipped one if its training failed."""
        return str(self.trained) if (self.trained / "config.json").is_file() else "support-lm"

    def result(self, tables, **facts):
        """Return what a step hands back: lists of rows by title, and numbers by name."""
        return {"facts": {"device": self.device, "model at hand": Path(self.model).name} | facts, "tables": tables}


def model(day):
    """Train a model of SmolLM2-135M's shape for a part of the small model's steps, and judge its replies."""
    sys.path.insert(0, str(ROOT / "data"))
    import build
    import sft

    from toylib import load_model
    from toylib.evaluation.judge import judge
    from toylib.preferences import load_prompts
    from toylib.replies import sample_replies

    shape = sft.SHAPE | {"num_hidden_layers": 1} if day.tiny else sft.LARGE
    started, unfinished = time.perf_counter(), day.trained.with_name("unfinished")
    loss = build.build_large(unfinished, shape, 0.0005 if day.tiny else 0.3, day.device)
    seconds = time.perf_counter() - started
    shutil.rmtree(day.trained, ignore_errors=True)
    os.replace(unfinished, day.trained)
    trained, tokenizer = load_model(day.trained, device=day.device)
    rows = load_prompts("test")
    prompts, intents = (list(rows[name])[: 4 if day.tiny else None] for name in ("prompt", "intent"))
    seen = judge(prompts, sample_replies(trained, tokenizer, prompts, seed=1).texts, intents)
    row = {"parameters": trained.num_parameters(), "training, seconds": seconds, "last loss": loss}
    row |= {"prompts": len(prompts)} | {name: float(seen[name].mean()) for name in ("fluent", "on_topic", "facts")}
    return day.result({"the model trained here": [row]})


def notebook(day):
    """Execute notebook 09 with the model of this day, and leave it with its outputs in the results."""
    build = runpy.run_path(str(ROOT / "notebooks" / "build.py"))
    (source,) = (ROOT / "notebooks").glob("*_on_a_gpu.ipynb")
    pages, started = build["read"](source), time.perf_counter()
    if day.tiny:
        last = next(at for at, cell in enumerate(pages.cells) if LAST_REHEARSED in cell.source)
        pages.cells = pages.cells[: last + 1]
    elif day.model != "support-lm":
        cell = next(cell for cell in pages.cells if cell.source.startswith('MODEL = ""'))
        cell.source = cell.source.replace('MODEL = ""', f'MODEL = "../runs/{day.trained.name}"', 1)
    (day.work / "notebooks").mkdir(exist_ok=True)
    shutil.copy(source.with_name("bootstrap.py"), day.work / "notebooks")  # by it the set-up cell knows the project
    where, finished = day.work / "notebooks" / source.name, False  # it trains into ../runs
    for old in (day.work / "runs").iterdir():  # an earlier try's checkpoints would be found and spoken of
        if old != day.trained:
            shutil.rmtree(old)
    try:
        build["execute"](pages, where)
        finished = True
    finally:  # what ran before a failure is worth reading too
        import nbformat

        said = f"Executed by `python3 lab.py gpu`: {os.environ['GPU_DAY']}."
        pages.cells.insert(0, nbformat.v4.new_markdown_cell(said, id="gpu-day"))
        build["write"](build["normalised"](pages), day.folder / source.name if finished else where)
    return day.result({}, cells=len(pages.cells) - 1, seconds=time.perf_counter() - started, file=source.name)


def race(shape):
    def step(day):
        """Race our step against TRL's settings. Where TRL's best is less than twice ours, write down profiles of both."""
        import engine
        from peers import CONTESTANTS
        from profiles import profile_of

        batch, count, rounds = (2, 4, 1) if day.tiny else engine.ON_A_CARD[shape]
        raced = "support" if day.tiny else shape
        names = ["TRL best bf16", "ours bf16"] if day.tiny and shape != "SmolLM2-135M" else list(CONTESTANTS)
        rows = engine.race(raced, "mixed", names, batch, count, rounds, day.device)
        tables = {f"a step, {raced}, mixed lengths, {batch} pairs": rows}
        seconds = {row["contestant"]: row["seconds a step"] for row in rows if "problem" not in row}
        ratios = {}
        for kind in ("fp32", "bf16"):
            best, ours = f"TRL best {kind}", f"ours {kind}"
            if best in seconds and ours in seconds:
                ratios[f"TRL's best / ours, {kind}"] = ratio = seconds[best] / seconds[ours]
                if shape == "SmolLM2-135M" and (ratio < 2 or day.tiny):
                    for name in (ours, best):
                        tables[f"where the time of {name} goes"] = profile_of(name, raced, batch, count, day.device)
        return day.result(tables, **ratios)

    return step


def growth(day):
    """Take the way from the loop to the engine, and let prompt, reply, vocabulary and pairs grow."""
    from growth import growth, ladder

    if day.tiny:
        base = {"prompt": 4, "reply": 3, "vocabulary": 64, "pairs": 1}
        climbed = ladder("cpu", 1, count=4, batch=2, shape="support")
        return day.result({"ladder": climbed, "growth": growth("cpu", 1, "support", base=base)})
    tables = {}
    for shape, kind in (("3M", "ours fp32"), ("SmolLM2-135M", "ours bf16")):
        tables[f"from the loop to the engine, {shape}, fp32"] = ladder("cuda", 3, shape=shape)
        tables[f"how our step grows, {shape}, {kind}"] = growth("cuda", 2, shape, kind)
    return day.result(tables)


def memory(day):
    """Compare the ledger's peak with what the card's allocator saw."""
    from gpu_training import peak_of_a_step, peak_of_the_trainer

    shapes = ("support",) if day.tiny else ("SmolLM2-135M", "1B")
    ways, pairs = ("reference once", "LoRA"), (4,) if day.tiny else (4, 16)
    step = [
        peak_of_a_step(shape, kind, way, n, day.device)
        for shape in shapes for way in ways for kind in ("fp32", "autocast", "bf16") for n in pairs
    ]  # fmt: skip
    trainer = [peak_of_the_trainer(shapes[0], kind, way, day) for way in ways for kind in ("fp32", "autocast")]
    return day.result({"a step's peak": step, "DPOTrainer's peak over three updates": trainer})


def curves(day):
    """Measure which share of a run its live curves take, in this process: no browser draws them."""
    from curves import drawing_share

    from toylib import load_model

    steps = 10 if day.tiny else 40
    rows, names = [], ("support-lm",) if day.tiny else dict.fromkeys(("support-lm", day.model))
    for name in names:
        at_once = 8 if day.tiny else 24
        row = drawing_share(*load_model(name, device=day.device), steps, at_once)
        rows.append({"model": Path(name).name, "pairs a step": at_once} | row)
    sys.path.insert(0, str(ROOT / "tests"))
    from browser import CHROMIUM

    page = (
        "Chromium is here: `python3 lab.py bench sliders` watches a page" if CHROMIUM else "not measured: no Chromium"
    )
    return day.result({"live curves": rows}, **{"in a page": page})


def main():
    """Run the step that is named, and leave its answer in the work folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step")
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    day = Day(options.device, options.folder, options.work)
    (day.work / "runs").mkdir(exist_ok=True)
    if day.tiny and options.step not in ("model", "notebook"):
        import peers

        peers.MIXES["mixed"] = TINY
    found = STEPS[options.step](day)
    (day.work / f"{options.step}.answer.json").write_text(json.dumps(rounded(found)), encoding="utf-8")


def rounded(value):
    """Return `value` with floats of four digits, as in data/results, and None where they are not finite."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value


def late(module, name):
    """Return a step of another file of this folder, imported when it runs."""
    return lambda day: getattr(__import__(module), name)(day)


STEPS = {
    "model": model,
    "notebook": notebook,
    "engine-135M": race("SmolLM2-135M"),
    "engine-3M": race("3M"),
    "engine-1B": race("1B"),
    "growth": growth,
    "memory": memory,
    "fp16": late("gpu_training", "fp16"),
    "resume": late("gpu_runs", "resume"),
    "curves": curves,
    "two-processes": late("gpu_runs", "two_processes"),
}


if __name__ == "__main__":
    main()
