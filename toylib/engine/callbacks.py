"""Watch a `DPOTrainer` at work, in a notebook: a line with the time left, live curves, and a plug to pull on purpose."""

from __future__ import annotations

import time

from transformers import PrinterCallback, TrainerCallback

from toylib.train import print_progress


class Watch(TrainerCallback):
    """Prints one line that overwrites itself, and passes each logged step on to `on_step(step, metrics, policy)`.

    `on_step` is one as for `train_dpo` (`widgets.watch_training`). Wants `logging_steps=1`.
    """

    def __init__(self, on_step=None):
        self.on_step = on_step

    def on_train_begin(self, args, state, control, **kwargs):
        self.first, self.started = state.global_step, time.monotonic()

    def on_log(self, args, state, control, logs=None, model=None, **kwargs):
        if "loss" not in logs:
            return
        if self.on_step is not None:
            self.on_step(state.global_step, dict(logs), model)
        pace = (time.monotonic() - self.started) / (state.global_step - self.first)  # a resumed run did not start at 0
        print_progress(state.global_step, state.max_steps, logs, time.monotonic() - pace * state.global_step)


class PullThePlug(TrainerCallback):
    """Ends the run at a step as a lost runtime would: with an error, in the middle of the plan, nothing tidied up."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise ConnectionError(f"the runtime is gone, at step {self.step} of {state.max_steps}")


def watch(trainer, on_step=None):
    """Put a `Watch` in the place of the Trainer's own printing; returns the trainer."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Watch(on_step))
    return trainer
