"""This engine against TRL's DPOTrainer: seconds a step, tokens a second, peak memory, and what a whole epoch costs.

`python3 lab.py bench engine` (about 25 minutes on 2 cores; `--quick` 4). All contestants stand in one process, with the
same weights and the same pairs, and take turns; what is printed are medians over the rounds with their range, and the
ratio to ours. TRL's settings: its default (bf16 autocast, gradient checkpointing), without checkpointing in fp32, and
its best, with the reference computed once and batches grouped by length as ours are, in fp32 and in bf16.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["TOYLIB_CACHE"] = tempfile.mkdtemp()  # nothing is taken from an earlier run

import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback, TrainingArguments

from toylib import DPOTrainer

SMOL = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
SHAPES = {
    "support": {
        "vocab_size": 1408,
        "hidden_size": 96,
        "intermediate_size": 288,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    },
    "3M": {
        "vocab_size": 4096,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
    },
    "SmolLM2, 6 layers": {"vocab_size": 49152, "num_hidden_layers": 6, **SMOL},
    "SmolLM2-135M": {"vocab_size": 49152, "num_hidden_layers": 30, **SMOL},
}
MIXES = {  # shortest and longest prompt, shortest and longest reply, in tokens
    "long prompts": (200, 300, 16, 48),
    "mixed": (64, 256, 16, 128),
    "long replies": (32, 64, 100, 200),
}
FP32 = {"bf16": False, "gradient_checkpointing": False}
ONCE = {"precompute_ref_log_probs": True, "train_sampling_strategy": "group_by_length"}
CONTESTANTS = {  # (whose trainer, its settings)
    "TRL default": (trl, {}),
    "TRL fp32": (trl, FP32),
    "TRL best fp32": (trl, FP32 | ONCE),
    "TRL best bf16": (trl, {"bf16": True, "gradient_checkpointing": False} | ONCE),
    "ours fp32": (None, {}),
    "ours bf16": (None, {"bf16": True}),
}


def word_tokenizer(size):
    """Words w0, w1, … as tokens 2, 3, …; so that both trainers, which want text, see exactly the tokens meant."""
    core = Tokenizer(
        models.WordLevel({"<pad>": 0, "<eos>": 1} | {f"w{i}": i + 2 for i in range(size - 2)}, unk_token="<pad>")
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")


def random_pairs(count, mix, vocabulary, seed=0):
    rng = random.Random(seed)
    low, high, short, long = MIXES[mix] if isinstance(mix, str) else mix

    def text(shortest, longest):
        return " ".join(f"w{rng.randrange(vocabulary - 2)}" for _ in range(rng.randint(shortest, longest)))

    return [
        {"prompt": text(low, high), "chosen": " " + text(short, long), "rejected": " " + text(short, long)}
        for _ in range(count)
    ]


def new_model(shape):
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[shape] if isinstance(shape, str) else shape, max_position_embeddings=2048)
    config.tie_word_embeddings, config.pad_token_id, config.eos_token_id, config.bos_token_id = True, 0, 1, None
    return LlamaForCausalLM(config)


class Clock(TrainerCallback):
    """Seconds from the first step's start to the last one's end."""

    def synchronize(self):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_train_begin(self, *args, **kwargs):
        self.started = None

    def on_step_begin(self, *args, **kwargs):
        self.started = self.started or self.synchronize()

    def on_step_end(self, *args, **kwargs):
        self.seconds = self.synchronize() - self.started


def build(name, shape, pairs, batch, device):
    """A trainer and its clock; what it prints while it is made is swallowed."""
    whose, settings = CONTESTANTS[name]
    model, clock = new_model(shape), Clock()
    common = {"output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": batch, "num_train_epochs": 1}
    common |= {
        "learning_rate": 1e-6,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 10,
    }
    common |= {"use_cpu": device == "cpu"} | settings
    data = {"train_dataset": Dataset.from_list(pairs), "processing_class": word_tokenizer(model.config.vocab_size)}
    with contextlib.redirect_stdout(io.StringIO()):
        if whose is trl:
            trainer = trl.DPOTrainer(
                model=model, args=trl.DPOConfig(max_length=None, **common), callbacks=[clock], **data
            )
        else:
            trainer = DPOTrainer(model, TrainingArguments(**common), max_length=2048, callbacks=[clock], **data)
    return trainer, clock


def epoch(trainer):
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()


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


def peak_memory(name, shape, mix, batch, device):
    """Megabytes above what the imports take, of a fresh process that trains one epoch of three steps."""
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    epoch(build(name, shape, random_pairs(3 * batch, mix, SHAPES[shape]["vocab_size"]), batch, device)[0])
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale - before) / 2**20


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
    parser.add_argument("--only", choices=("steps", "epoch", "memory", "growth"), help="one part of it")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(peak_memory(*json.loads(options.memory_of)))
        return
    rounds, device = (1 if options.quick else options.rounds), options.device
    print(
        f"torch {torch.__version__}, trl {trl.__version__}, {device}",
        torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads",
    )
    parts = [options.only] if options.only else ["steps", "epoch", "memory", "growth"]
    if "steps" in parts:
        for shape in ["3M"] if options.quick else ["3M", "support"]:
            for mix in ["mixed"] if options.quick else MIXES:
                race(shape, mix, list(CONTESTANTS), 4, 32, rounds, device)
        if not options.quick:
            race(
                "SmolLM2-135M", "mixed", ["TRL default", "TRL fp32", "TRL best fp32", "ours fp32"], 1, 3, rounds, device
            )
    if "epoch" in parts:
        whole_epoch("3M", "mixed", ["TRL fp32", "TRL best fp32", "ours fp32"], 4, 64, rounds, device)
    if "memory" in parts and not options.quick:
        memory_table("SmolLM2, 6 layers", "mixed", ["TRL default", "TRL fp32", "TRL best fp32", "ours fp32"], 4, device)
    if "growth" in parts and not options.quick:
        growth(device, rounds)


if __name__ == "__main__":
    main()
