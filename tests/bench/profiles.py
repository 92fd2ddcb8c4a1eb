"""Where the time of one epoch goes: operators on the CPU, kernels on a card, from torch's profiler."""

from __future__ import annotations

import torch
from peers import CANNOT_RUN, SHAPES, build, epoch, in_one_line, random_pairs, unfused

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "gemm", "cutlass", "nvjet", "xmma")


def events_of(trainer, operators=False):
    """Return the profiler's averages over one epoch of `trainer`. With `operators` a card's kernels are named by torch."""
    profiler = torch.profiler.ProfilerActivity
    on_card = trainer.args.device.type == "cuda"
    activities = [profiler.CUDA] * on_card + [profiler.CPU] * (operators or not on_card)
    with torch.profiler.profile(activities=activities) as profile:
        epoch(trainer)
    return profile.key_averages()


def microseconds(events):
    """Return the time of each event alone: on the card where the profile saw one, else on the CPU."""
    on_card = [event.self_device_time_total for event in events]
    return on_card if any(on_card) else [event.self_cpu_time_total for event in events]


def busy_seconds(events):
    return sum(microseconds(events)) / 1e6


def matmul_share(events):
    times = microseconds(events)
    products = sum(time for event, time in zip(events, times, strict=True) if any(p in event.key for p in PRODUCTS))
    return products / sum(times)


def top_operators(events, count=20):
    """Return the `count` operators that take most, as rows: what, its milliseconds, its share of all, how often.

    A card's kernels are left out, because the operators that start them have their time already.
    """
    events = [event for event in events if event.device_type == torch.profiler.DeviceType.CPU]
    times = microseconds(events)
    longest = sorted(zip(times, events, strict=True), key=lambda pair: -pair[0])[:count]
    return [
        {"operator": event.key[:100], "ms": time / 1000, "share": time / sum(times), "calls": event.count}
        for time, event in longest
    ]


def profile_of(name, shape, batch, count, device):
    """Return the operators that take most in an epoch of the contestant `name`, after one to warm up."""
    try:
        with unfused(name):
            pairs = random_pairs(count, "mixed", SHAPES[shape]["vocab_size"])
            trainer, _ = build(name, shape, pairs, batch, device)
            epoch(trainer)
            return top_operators(events_of(trainer, operators=True))
    except CANNOT_RUN as problem:
        return [{"problem": in_one_line(problem)}]
