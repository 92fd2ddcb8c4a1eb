"""How our step came to be what it is, and how it grows: a ladder from the loop to read to the engine, and growth tables."""

from __future__ import annotations

import contextlib
import statistics
import time
from unittest import mock

import torch
from peers import SHAPES, build, epoch, new_model, random_pairs, spread, word_tokenizer

from toylib import dpo_loss, sequence_logps
from toylib.engine.prefix_sharing import collate_rows, row_length, row_logps
from toylib.tokens import collate, tokenize_pairs

BASE = {"prompt": 128, "reply": 64, "vocabulary": 4096, "pairs": 4}
FACTORS = {"prompt": (1, 2, 4), "reply": (1, 2, 4), "vocabulary": (1, 4, 12), "pairs": (1, 2, 4)}


def ladder(device, rounds, count=32, batch=4, shape="3M"):
    """The way from the loop to read (`train_dpo`) to the engine, one step at a time, each with its own ratio.

    Prints a table and returns its rows.
    """
    pairs = random_pairs(count, "mixed", SHAPES[shape]["vocab_size"])
    rows = tokenize_pairs(pairs, word_tokenizer(SHAPES[shape]["vocab_size"]), 2048)
    policy, reference = new_model(shape, device), new_model(shape, device).requires_grad_(False)
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
    print(f"\nfrom the loop to the engine, {shape}, mixed, {batch} pairs a step, {rounds} rounds, fp32, {device}")
    print(f"{'':40s}{'seconds a step (median [range])':>34s}   this step  all so far")
    first = before = statistics.median(times[next(iter(steps))])
    found = []
    for name, values in times.items():
        now = statistics.median(values)
        found.append({"step": name, "seconds a step": now, "this step": before / now, "all so far": first / now})
        print(f"{name:40s}{spread(values):>34s}{before / now:10.2f}x {first / now:10.2f}x", flush=True)
        before = now
    return found


def growth(device, rounds, shape="3M", name="ours fp32", base=None):
    """Our step time as one thing grows and the rest stays: prompt, reply, vocabulary, pairs.

    Prints a table and returns its cells as rows.
    """
    base, rows = base or BASE, []
    print(f"\nhow our step grows, {shape} shape, from {base}; seconds a step, {name}, {device}")
    for what, factors in FACTORS.items():
        found = []
        for factor in factors:
            at = base | {what: base[what] * factor}
            lengths = (at["prompt"], at["prompt"], at["reply"], at["reply"])
            pairs = random_pairs(4 * at["pairs"], lengths, at["vocabulary"])
            sized = SHAPES[shape] | {"vocab_size": at["vocabulary"]}
            trainer, clock = build(name, sized, pairs, at["pairs"], device)
            times = []
            for _ in range(rounds + 1):
                epoch(trainer)
                times.append(clock.seconds / 4)
            found.append((at[what], statistics.median(times[1:])))
        found = [
            {"grows": what, "to": to, "seconds a step": seconds, "times": seconds / found[0][1]}
            for to, seconds in found
        ]
        cells = [f"{row['to']}: {row['seconds a step']:.3f} ({row['times']:.2f}x)" for row in found]
        print(f"{what:12s}{'   '.join(cells)}", flush=True)
        rows += found
    return rows
