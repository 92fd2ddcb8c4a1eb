"""Runs of the GPU day as processes of their own, by `python -m toylib`: one that is killed, and two on one card.

Started with RANK in its environment, this file is `python -m toylib` as one of two processes on the same card.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

from peers import CANNOT_RUN, in_one_line

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
FSDP |= {"FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}


def options_of(day, output, batch, steps, save, *more):
    """Return the options of a run of `steps` updates, `batch` pairs each, on the day's model."""
    options = ["--model", day.model, "--data", "support", "--batch-size", batch, "--max-steps", steps]
    options += ["--save-steps", save, "--save-total-limit", 1, "--learning-rate", 1e-5, "--logging-steps", 1]
    return [*map(str, options), "--output", str(output), *more]


def alone(day, *options):
    """Return the command of one process."""
    return [sys.executable, "-m", "toylib", *options, *(["--cpu"] if day.tiny else [])]


def run(output, *commands, seconds=150, environments=({},)):
    """Run commands side by side to their end. Raises `RuntimeError` with what the first to fail said last.

    As soon as one fails, the others, which may wait for it, are killed. So are all when `seconds` are over.
    """
    logs = [output.with_name(f"{output.name}-{number}.log") for number in range(len(commands))]
    processes = []
    for command, log, environment in zip(commands, logs, environments, strict=True):
        with log.open("w") as said:
            started = subprocess.Popen(command, stdout=said, stderr=said, env=os.environ | environment)
            processes.append(started)
    until = time.monotonic() + seconds
    while any(process.poll() is None for process in processes):
        late = time.monotonic() > until
        if late or any(process.poll() for process in processes):
            time.sleep(0 if late else 3)  # the others may have something to say, too
            break
        time.sleep(0.05)
    codes = [process.poll() for process in processes]
    for process in processes:
        process.kill()
        process.wait()
    for code, log in zip(codes, logs, strict=True):
        if code:
            raise RuntimeError(said_last(log))
    if None in codes:
        raise RuntimeError(f"not at its end after {seconds} s: {said_last(logs[0])}")


def said_last(log):
    """Return the last error in a log, or its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")] or [line for line in lines if "Error: " in line]
    return (errors or lines or ["it said nothing"])[-1][:400]


def losses(output):
    """Return the losses of all updates, from the newest checkpoint of a finished run."""
    newest = max(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    history = json.loads((newest / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def weights_apart(one, other):
    """Return the largest difference between the weights of two finished runs."""
    from safetensors.torch import load_file

    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    return max((first[name].float() - second[name].float()).abs().max().item() for name in first)


def killed(words, output, step):
    """Start a run, and kill it by signal 9 as soon as the folder of the checkpoint of `step` exists."""
    log = output.with_suffix(".log")
    with log.open("w") as said:
        process = subprocess.Popen(words, stdout=said, stderr=said)
        while process.poll() is None and not (output / f"checkpoint-{step}").is_dir():
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise RuntimeError(f"the run ended before it could be killed: {log.read_text().splitlines()[-1:]}")


def resume(day):
    """Kill a run while it saves, resume it, and compare it with the whole run, and that with its own repetition."""
    kinds = ("fp32",) if day.tiny else ("bf16", "fp16")
    steps, save, batch = (6, 2, 4) if day.tiny else (24, 8, 16)
    rows = []
    for kind in kinds:
        home, row = fresh(day.work / "runs" / f"killed-{kind}"), {"precision": kind, "updates": steps}
        try:
            repeated = ("whole", "again") if kind == "bf16" else ("whole",)
            for name in repeated:
                options = options_of(day, home / name, batch, steps, save, "--precision", kind)
                run(home / name, alone(day, *options))
            options = options_of(day, home / "killed", batch, steps, save, "--precision", kind)
            killed(alone(day, *options), home / "killed", 2 * save)
            run(home / "killed", alone(day, *options, "--resume"))
            row |= {"killed at update": 2 * save}
            row |= {"largest gap of a weight, resumed": weights_apart(home / "whole", home / "killed")}
            if "again" in repeated:
                row |= {"largest gap of a weight, run again": weights_apart(home / "whole", home / "again")}
            both = losses(home / "whole"), losses(home / "killed")
            row |= {"largest gap of a loss": max(abs(a - b) for a, b in zip(*both, strict=True))}
        except CANNOT_RUN as problem:
            row |= {"problem": in_one_line(problem)}
        rows.append(row)
        shutil.rmtree(home, ignore_errors=True)
    return day.result({"killed and resumed": rows})


def fresh(folder):
    """Return `folder`, made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def two_processes(day):
    """Let two processes share one card, each way that might work, and compare losses with one process at twice the batch."""
    steps, batch = (4, 2) if day.tiny else (10, 8)
    home, seconds = fresh(day.work / "runs" / "two"), 150 if day.tiny else 70  # what cannot work tends to hang
    run(home / "one", alone(day, *options_of(day, home / "one", 2 * batch, steps, steps)), seconds=seconds)
    of_one = losses(home / "one")
    rows = []
    for how, backend in [("FSDP", "gloo")] if day.tiny else [("FSDP", "nccl"), ("FSDP", "gloo"), ("DDP", "gloo")]:
        row, output, started = {"way": how, "backend": backend}, home / f"{how}-{backend}", time.perf_counter()
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        # Accelerate gives each local process a card of its own, so both are told that they are the first.
        shared = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        shared |= {"TOYLIB_BENCH_BACKEND": backend} | (FSDP if how == "FSDP" else {})
        command = [sys.executable, __file__, *options_of(day, output, batch, steps, steps)]
        try:
            ranks = [shared | {"RANK": rank} for rank in ("0", "1")]
            run(output, command, command, seconds=seconds, environments=ranks)
            gaps = [abs(a - b) for a, b in zip(of_one, losses(output), strict=True)]
            row |= {"seconds": time.perf_counter() - started, "first loss": of_one[0], "last loss": of_one[-1]}
            row |= {"largest gap of a loss to one process": max(gaps)}
        except CANNOT_RUN as problem:
            row |= {"problem": in_one_line(problem)}
        rows.append(row)
    shutil.rmtree(home, ignore_errors=True)
    return day.result({"two processes on one card": rows})


def both_on_one_card():
    """Run `python -m toylib` as one of two processes that share the first card, or the CPU of a rehearsal.

    Accelerate shards on GPUs only, so on the CPU it is told that these are GPUs.
    """
    import accelerate.state
    import torch
    from accelerate.utils import DistributedType

    from toylib.engine.cli import main

    backend = os.environ["TOYLIB_BENCH_BACKEND"]
    if not torch.cuda.is_available():
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    accelerate.state.PartialState._prepare_backend = lambda *_: (backend, DistributedType.MULTI_GPU)
    return main()


if __name__ == "__main__":
    raise SystemExit(both_on_one_card())
