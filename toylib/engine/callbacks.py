"""Callbacks of `DPOTrainer`: progress in a notebook and on the command line, a stop on a signal, a failure on purpose."""

from __future__ import annotations

import signal
import sys
import time

import torch
from transformers import PrinterCallback, TrainerCallback

from toylib.train import print_progress


class NotebookProgress(TrainerCallback):
    """Print one line that overwrites itself, and pass each logged step on to `on_step(step, metrics, policy)`.

    `on_step` is one as for `train_dpo` (`widgets.training.watch_training`). It needs `logging_steps=1`.
    """

    def __init__(self, on_step=None):
        self.on_step = on_step

    def on_train_begin(self, args, state, control, **kwargs):
        self.first_step, self.started = state.global_step, time.monotonic()  # a resumed run does not start at 0

    def on_log(self, args, state, control, logs=None, model=None, **kwargs):
        if "loss" not in logs:
            return
        if self.on_step is not None:
            self.on_step(state.global_step, dict(logs), model)
        print_progress(state.global_step, state.max_steps, logs, self.started, self.first_step)


def short_metrics(logs, prefix="") -> list[str]:
    """Return loss, margins and accuracy of a log entry as short texts, those that it has. `prefix` is "" or "eval_"."""
    names = {"loss": "loss", "rewards/margins": "margins", "rewards/accuracies": "accuracy"}
    return [f"{short} {logs[prefix + name]:.4g}" for name, short in names.items() if prefix + name in logs]


class TerminalProgress(TrainerCallback):
    """Print one line per log entry to standard error, with the seconds left. Nothing is overwritten."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.first_step, self.started = state.global_step, time.monotonic()

    def on_log(self, args, state, control, logs=None, **kwargs):
        prefix = "" if "loss" in logs else "eval_"
        parts = short_metrics(logs, prefix)
        if not parts or not state.is_world_process_zero:
            return
        seconds = time.monotonic() - self.started if hasattr(self, "started") else 0
        done, left = state.global_step - getattr(self, "first_step", 0), state.max_steps - state.global_step
        if seconds and done and left > 0:
            parts.append(f"{seconds / done * left:.0f} s left")
        kind = "held out" if prefix else "training"
        print(f"step {state.global_step}/{state.max_steps}  {kind}  {'  '.join(parts)}", file=sys.stderr, flush=True)


class StopOnSignal(TrainerCallback):
    """Save a checkpoint and end the run at the next update after Ctrl-C or SIGTERM; `received` is then the signal.

    A second signal does what it does without this callback. Several processes stop together, whichever got the signal.
    """

    received = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.handlers = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(self, number, frame):
        self.received = number
        self.restore()
        print("\nstopping after this update; a checkpoint is saved first", file=sys.stderr, flush=True)

    def restore(self):
        while getattr(self, "handlers", None):
            signal.signal(*self.handlers.popitem())

    def on_step_end(self, args, state, control, **kwargs):
        if args.world_size > 1:
            flag = torch.tensor(int(self.received or 0), device=args.device)
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            self.received = flag.item() or None
        if self.received:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        self.restore()


class FailAtStep(TrainerCallback):
    """End the run at a step as a lost runtime would: with an error, in the middle of the plan, without tidying up."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise ConnectionError(f"the runtime is gone, at step {self.step} of {state.max_steps}")


def watch(trainer, on_step=None):
    """Replace the Trainer's own printing in a notebook by `NotebookProgress`. Return the trainer."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(NotebookProgress(on_step))
    return trainer


def print_to_terminal(trainer):
    """Replace the Trainer's own printing on the command line by `TerminalProgress`, unless it shows bars."""
    if trainer.args.disable_tqdm:
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(TerminalProgress())
