"""This engine against TRL's DPOTrainer: seconds a step, tokens a second, peak memory, and what a whole epoch costs.

`python3 lab.py bench engine` (about 30 minutes on 2 cores; `--quick` 6; on a GPU `--device cuda`). All contestants have
the same weights and the same pairs. What is printed are medians over the rounds with their range, and the ratio to
ours. TRL's settings are its default (bf16 autocast, gradient checkpointing), fp32 without checkpointing, and its best,
in fp32 and in bf16. At its best it computes the reference once and groups batches by length, as ours does.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import trl
from growth import growth, ladder
from peers import CANNOT_RUN, CONTESTANTS, MIXES, SHAPES, build, epoch, in_one_line, random_pairs, spread, unfused
from profiles import busy_seconds, events_of, matmul_share

from toylib.labs.memory import has_bf16_units

ON_A_CARD = {"3M": (8, 64, 5), "SmolLM2-135M": (8, 48, 5), "1B": (4, 16, 3)}  # pairs a step, pairs, rounds


def race(shape, mix, names, batch, count, rounds, device):
    """Time the steps of `names` on one shape and mix. Print a table and return its rows.

    On a CPU, which other processes use too, all contestants stand in memory and take turns. On a card, whose speed is
    steady, they come one after the other, so that each one's peak memory is its own.
    """
    pairs = random_pairs(count, mix, SHAPES[shape]["vocab_size"])
    tokens = sum(len(text.split()) for pair in pairs for text in pair.values())
    groups = [[name] for name in names] if device == "cuda" else [names]
    rows = [row for group in groups for row in heats(group, shape, pairs, batch, rounds, device)]
    medians = {row["contestant"]: row["seconds a step"] for row in rows if "problem" not in row}
    for row in rows:
        if "problem" not in row:
            row["tokens/s"] = tokens * batch / count / row["seconds a step"]
            row |= {
                f"/ {ours}": row["seconds a step"] / medians[ours]
                for ours in ("ours fp32", "ours bf16")
                if ours in medians
            }
    print(f"\n{shape}, {mix}: {count} pairs, {batch} a step, {rounds} rounds, {device}")
    print_race(rows)
    return rows


def heats(names, shape, pairs, batch, rounds, device):
    """Return a row for each of `names`, which take turns. What cannot run has a "problem" instead of times."""
    entrants, times, problems = {}, {name: [] for name in names}, {}
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if device == "cuda" else 0
    for turn in range(rounds + 1):  # the first round warms up
        for name in [name for name in names if name not in problems]:
            try:
                with unfused(name):
                    entrants[name] = entrants.get(name) or build(name, shape, pairs, batch, device)
                    epoch(entrants[name][0])
            except CANNOT_RUN as problem:
                problems[name] = in_one_line(problem)
                entrants.pop(name, None)
                continue
            if turn:
                times[name].append(entrants[name][1].seconds / (len(pairs) / batch))
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20 if device == "cuda" else None
    rows = []
    for name in names:
        row = {"contestant": name}
        if name in problems:
            row["problem"] = problems[name]
        else:
            row |= {"seconds a step": statistics.median(times[name]), "lowest": min(times[name])}
            row |= {"highest": max(times[name])} | ({"peak MB": peak} if peak else {})
            if device == "cuda" or name.startswith("ours"):
                row |= shares(name, entrants[name][0], row["seconds a step"] * len(pairs) / batch, device)
        rows.append(row)
    entrants.clear()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return rows


def shares(name, trainer, seconds, device):
    """Return which share of an epoch's computing is matrix products and, on a card, how much of `seconds` it is busy."""
    try:
        with unfused(name):
            events = events_of(trainer)
        busy = {"card busy": busy_seconds(events) / seconds} if device == "cuda" else {}
        return {"matrix products": matmul_share(events)} | busy
    except CANNOT_RUN as problem:  # some machines do not let the profiler look at the card
        return {"profiler": in_one_line(problem)}


def print_race(rows):
    columns = ("/ ours fp32", "/ ours bf16", "peak MB", "matrix products", "card busy")
    print(f"{'':29s}{'seconds a step (median [range])':>34s}{'tokens/s':>10s}" + "".join(f"{c:>17s}" for c in columns))
    for row in rows:
        if "problem" in row:
            print(f"{row['contestant']:29s}{row['problem']}")
            continue
        said = f"{row['contestant']:29s}{spread([row['lowest'], row['seconds a step'], row['highest']]):>34s}"
        said += f"{row['tokens/s']:10.0f}"
        for column in columns:
            form = "{:.2f}x" if column.startswith("/") else "{:.0f}" if column == "peak MB" else "{:.0%}"
            said += f"{form.format(row[column]) if column in row else '':>17s}"
        print(said.rstrip(), flush=True)


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


def peak_memory(name, shape, mix, batch):
    """Megabytes above what the imports take, of a fresh process that trains one epoch of three steps on the CPU."""
    build(name, "support", random_pairs(2, "mixed", 1408), 2, "cpu")  # whatever is imported late
    before = highest_so_far()
    epoch(build(name, shape, random_pairs(3 * batch, mix, SHAPES[shape]["vocab_size"]), batch, "cpu")[0])
    return highest_so_far() - before


def memory_table(shape, mix, names, batch):
    print(f"\npeak memory above the imports, a fresh process each: {shape}, {mix}, {batch} pairs a step, cpu")
    found = {}
    for name in names:
        job = json.dumps([name, shape, mix, batch])
        done = subprocess.run(
            [sys.executable, __file__, "--memory-of", job], check=True, capture_output=True, text=True
        )
        found[name] = float(done.stdout.split()[-1])
        print(f"{name:16s}{found[name]:8.0f} MB", flush=True)
    for name in names:
        if not name.startswith("ours"):
            print(f"ours fp32 takes {found['ours fp32'] / found[name]:.2f} of {name}")


def steps_on_cpu(rounds, quick):
    in_fp32, in_bf16 = (["TRL fp32", "TRL best fp32", "ours fp32"], ["TRL default", "TRL best bf16", "ours bf16"])
    for shape in ["3M"] if quick else ["3M", "support"]:
        for mix in ["mixed"] if quick else MIXES:
            race(shape, mix, in_fp32, 4, 32, rounds, "cpu")
    emulated = not has_bf16_units()  # tens of seconds a step
    race("3M", "mixed", in_bf16, 4, 8 if emulated else 32, rounds, "cpu")
    if not quick:
        names = in_fp32 if emulated else ["TRL default", *in_fp32]  # its default is bf16
        race("SmolLM2-135M", "mixed", names, 1, 3, rounds, "cpu")


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
    if "steps" in parts and device == "cpu":
        steps_on_cpu(rounds, options.quick)
    if "steps" in parts and device == "cuda":
        for shape, (batch, count, turns) in list(ON_A_CARD.items())[: 1 if options.quick else None]:
            race(shape, "mixed", list(CONTESTANTS), batch, count, turns, device)
    if "ladder" in parts:
        ladder(device, rounds)
    if "epoch" in parts:
        whole_epoch("3M", "mixed", ["TRL fp32", "TRL best fp32", "ours fp32"], 4, 64, rounds, device)
    if "memory" in parts and not options.quick and device == "cpu":  # on a card, each race has its peak
        memory_table("SmolLM2, 6 layers", "mixed", ["TRL default", "TRL fp32", "TRL best fp32", "ours fp32"], 4)
    if "growth" in parts and not options.quick:
        growth(device, rounds)


if __name__ == "__main__":
    main()
