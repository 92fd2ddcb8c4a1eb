"""This engine against TRL's DPOTrainer: seconds a step, tokens a second, peak memory, and what a whole epoch costs.

`python3 lab.py bench engine` (about 30 minutes on 2 cores; `--quick` 6). All contestants stand in one process, with the
same weights and the same pairs, and take turns; what is printed are medians over the rounds with their range, and the
ratio to ours. TRL's settings: its default (bf16 autocast, gradient checkpointing), without checkpointing in fp32, and
its best, with the reference computed once and batches grouped by length as ours are, in fp32 and in bf16.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch
import trl
from peers import CONTESTANTS, MIXES, SHAPES, build, epoch, new_model, random_pairs, word_tokenizer

from toylib import dpo_loss, sequence_logps
from toylib.engine.prefix_sharing import collate_rows, row_length, row_logps
from toylib.labs.memory import has_bf16_units
from toylib.tokens import collate, tokenize_pairs


def spread(values):
    return f"{statistics.median(values):8.3f} [{min(values):.3f}, {max(values):.3f}]"


def race(shape, mix, names, batch, count, rounds, device):
    """Step times of `names`, by turns, on one shape and mix: prints a table, returns the medians."""
    pairs = random_pairs(count, mix, SHAPES[shape]["vocab_size"])
    tokens = sum(len(text.split()) for pair in pairs for text in pair.values())
    entrants = {name: build(name, shape, pairs, batch, device) for name in names}
    times = {name: [] for name in names}
    for turn in range(rounds + 1):  # the first round warms up
        for name, (trainer, clock) in entrants.items():
            epoch(trainer)
            if turn:
                times[name].append(clock.seconds / (count / batch))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"\n{shape}, {mix}: {count} pairs, {batch} a step, {rounds} rounds, {device}")
    print(
        f"{'':16s}{'seconds a step (median [range])':>34s}{'tokens/s':>10s}  {'/ ours fp32':>11s}  {'/ ours bf16':>11s}"
    )
    for name, values in times.items():
        ratios = "".join(
            f"{medians[name] / medians[ours]:11.2f}x " if ours in medians else " " * 13
            for ours in ("ours fp32", "ours bf16")
        )
        print(f"{name:16s}{spread(values):>34s}{tokens * batch / count / medians[name]:10.0f} {ratios}", flush=True)
    ours = next(name for name in names if name.startswith("ours"))
    print(f"share of our step spent in matrix products: {matmul_share(entrants[ours][0]):.0%}", flush=True)
    return medians


def matmul_share(trainer):
    on_gpu = trainer.args.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        epoch(trainer)
    time_of = (lambda e: e.self_device_time_total) if on_gpu else (lambda e: e.self_cpu_time_total)
    events = profile.key_averages()
    products = ("aten::mm", "aten::addmm", "aten::bmm", "gemm", "cutlass", "nvjet")
    return sum(time_of(e) for e in events if any(p in e.key for p in products)) / sum(map(time_of, events))


def ladder(device, rounds, count=32, batch=4):
    """The way from the loop to read (`train_dpo`) to the engine, one step at a time, each with its own ratio."""
    pairs = random_pairs(count, "mixed", SHAPES["3M"]["vocab_size"])
    rows = tokenize_pairs(pairs, word_tokenizer(SHAPES["3M"]["vocab_size"]), 2048)
    policy, reference = new_model("3M").to(device), new_model("3M").to(device).requires_grad_(False)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6)

    def everywhere(inputs):  # the shared row with logits at every position, and the reply's picked afterwards
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch("toylib.engine.prefix_sharing.head_on", lambda *_: contextlib.nullcontext()))
            scored = inputs["branch"] > 0
            pick = policy.register_forward_hook(
                lambda _, __, out: setattr(out, "logits", out.logits[scored].unsqueeze(0))
            )
            stack.callback(pick.remove)
            return row_logps(policy, **inputs)

    def textbook(inputs):
        return sequence_logps(policy, **inputs).chunk(2)

    def with_reference(inputs):
        with torch.no_grad():
            sequence_logps(reference, **inputs)
        return textbook(inputs)

    def engine(inputs):
        return row_logps(policy, **inputs)

    by_length = sorted(rows, key=row_length)
    steps = {
        "two sequences, reference at every step": (with_reference, collate, rows),
        "the reference's log-probs once": (textbook, collate, rows),
        "the prompt once for both replies": (everywhere, collate_rows, rows),
        "output head on reply tokens only": (engine, collate_rows, rows),
        "rows of like length together": (engine, collate_rows, by_length),
    }
    times = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, (score, side_by_side, order) in steps.items():
            started = time.perf_counter()
            for start in range(0, count, batch):
                chosen, rejected = score(side_by_side(order[start : start + batch], 0, device))
                zeros = torch.zeros_like(chosen)
                optimizer.zero_grad()
                dpo_loss(chosen, rejected, zeros, zeros).losses.mean().backward()
                optimizer.step()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:
                times[name].append((time.perf_counter() - started) / (count / batch))
    print(f"\nfrom the loop to the engine, 3M, mixed, {batch} pairs a step, {rounds} rounds, fp32, {device}")
    print(f"{'':40s}{'seconds a step (median [range])':>34s}   this step  all so far")
    first = before = statistics.median(times[next(iter(steps))])
    for name, values in times.items():
        now = statistics.median(values)
        print(f"{name:40s}{spread(values):>34s}{before / now:10.2f}x {first / now:10.2f}x", flush=True)
        before = now


def whole_epoch(shape, mix, names, batch, count, rounds, device):
    """From nothing to trained: the trainer's making, reference pass included, and one epoch."""
    pairs = random_pairs(count, mix, SHAPES[shape]["vocab_size"])
    times = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            os.environ["TOYLIB_CACHE"] = tempfile.mkdtemp()
            started = time.perf_counter()
            epoch(build(name, shape, pairs, batch, device)[0])
            times[name].append(time.perf_counter() - started)
    print(f"\na whole epoch, reference pass included, {shape}, {mix}: {count} pairs, {batch} a step, {rounds} rounds")
    best = statistics.median(times["ours fp32"])
    for name, values in times.items():
        print(f"{name:16s}{spread(values)} s  {statistics.median(values) / best:6.2f}x ours", flush=True)


def highest_so_far():
    """Megabytes this process has held at most. Not `ru_maxrss` where it can be helped: that is the parent's at birth."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text()).group(1)) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def peak_memory(name, shape, mix, batch, device):
    """Megabytes above what the imports take, of a fresh process that trains one epoch of three steps."""
    build(name, "support", random_pairs(2, "mixed", 1408), 2, device)  # whatever is imported late
    before = highest_so_far()
    epoch(build(name, shape, random_pairs(3 * batch, mix, SHAPES[shape]["vocab_size"]), batch, device)[0])
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else highest_so_far() - before


def memory_table(shape, mix, names, batch, device):
    print(f"\npeak memory above the imports, a fresh process each: {shape}, {mix}, {batch} pairs a step, {device}")
    found = {}
    for name in names:
        job = json.dumps([name, shape, mix, batch, device])
        done = subprocess.run(
            [sys.executable, __file__, "--memory-of", job], check=True, capture_output=True, text=True
        )
        found[name] = float(done.stdout.split()[-1])
        print(f"{name:16s}{found[name]:8.0f} MB", flush=True)
    for name in names:
        if not name.startswith("ours"):
            print(f"ours fp32 takes {found['ours fp32'] / found[name]:.2f} of {name}")


def growth(device, rounds):
    """Our step time as one thing grows and the rest stays: prompt, reply, vocabulary, pairs."""
    base = {"prompt": 128, "reply": 64, "vocabulary": 4096, "pairs": 4}
    print(f"\nhow our step grows, 3M shape, from {base}; seconds a step, fp32, {device}")
    for what, values in {
        "prompt": (128, 256, 512),
        "reply": (64, 128, 256),
        "vocabulary": (4096, 16384, 49152),
        "pairs": (4, 8, 16),
    }.items():
        found = []
        for value in values:
            at = base | {what: value}
            shape = SHAPES["3M"] | {"vocab_size": at["vocabulary"]}
            pairs = random_pairs(
                4 * at["pairs"], (at["prompt"], at["prompt"], at["reply"], at["reply"]), at["vocabulary"]
            )
            trainer, clock = build("ours fp32", shape, pairs, at["pairs"], device)
            times = []
            for _ in range(rounds + 1):
                epoch(trainer)
                times.append(clock.seconds / 4)
            found.append(statistics.median(times[1:]))
        cells = "   ".join(
            f"{value}: {seconds:.3f} ({seconds / found[0]:.2f}x)" for value, seconds in zip(values, found, strict=True)
        )
        print(f"{what:12s}{cells}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--quick", action="store_true", help="the 3M shape only, one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("steps", "ladder", "epoch", "memory", "growth"), help="one part of it")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(peak_memory(*json.loads(options.memory_of)))
        return
    rounds, device = (1 if options.quick else options.rounds), options.device
    cpu = f"{torch.get_num_threads()} threads, {'with' if has_bf16_units() else 'without'} bf16 units"
    print(
        f"torch {torch.__version__}, trl {trl.__version__}, {device}",
        torch.cuda.get_device_name() if device == "cuda" else cpu,
    )
    parts = [options.only] if options.only else ["steps", "ladder", "epoch", "memory", "growth"]
    if "steps" in parts:
        in_fp32, in_bf16 = ([n for n in CONTESTANTS if n.endswith("fp32") == fp32] for fp32 in (True, False))
        for shape in ["3M"] if options.quick else ["3M", "support"]:
            for mix in ["mixed"] if options.quick else MIXES:
                race(shape, mix, in_fp32, 4, 32, rounds, device)
        emulated = device == "cpu" and not has_bf16_units()  # tens of seconds a step
        race("3M", "mixed", in_bf16, 4, 8 if emulated else 32, rounds, device)
        if not options.quick:
            names = in_fp32 if emulated else ["TRL default", *in_fp32]  # its default is bf16
            race("SmolLM2-135M", "mixed", names, 1, 3, rounds, device)
    if "ladder" in parts:
        ladder(device, rounds)
    if "epoch" in parts:
        whole_epoch("3M", "mixed", ["TRL fp32", "TRL best fp32", "ours fp32"], 4, 64, rounds, device)
    if "memory" in parts and not options.quick:
        memory_table("SmolLM2, 6 layers", "mixed", ["TRL default", "TRL fp32", "TRL best fp32", "ours fp32"], 4, device)
    if "growth" in parts and not options.quick:
        growth(device, rounds)


if __name__ == "__main__":
    main()
