"""What the live curves of a training run cost it."""

from __future__ import annotations

import contextlib
import io
import time

from toylib import load_preferences, train_dpo
from toylib.widgets.training import watch_training


def drawing_share(model, tokenizer, steps=40, batch_size=24):
    """Return a row: the seconds of a training run, without the sampling that KL takes, and the share its curves take."""
    spent = []

    def on_step(step, metrics, policy):
        started = time.perf_counter()
        draw(step, metrics, policy)
        spent.append(time.perf_counter() - started)

    with contextlib.redirect_stdout(io.StringIO()):
        started = time.perf_counter()
        draw = watch_training(beta=0.1, steps=steps)
        spent.append(time.perf_counter() - started)
        train_dpo(model, tokenizer, load_preferences("support"), steps=steps, batch_size=batch_size, on_step=on_step)
        whole = time.perf_counter() - started
    share = sum(spent) / whole
    print(
        f"curves of a training run of {steps} steps: {sum(spent):.2f} s of {whole:.1f} s, {100 * share:.1f}%",
        flush=True,
    )
    return {"steps": steps, "run, seconds": whole, "curves, seconds": sum(spent), "curves, share": share}
