"""What the training loops of the labs share: checks, the copy to train, the loop over sampled replies, the history."""

from __future__ import annotations

import contextlib
import copy
import time

import torch

from toylib.train import batches, progress_line, slices, trained_weights


def check_prompts(prompts) -> None:
    """Raise `ValueError` unless `prompts` is a list with at least one prompt."""
    if isinstance(prompts, str) or not len(prompts):
        raise ValueError("prompts must be a list with at least one prompt")


def trainable_copy(model):
    """Return a copy of `model` in eval mode (no dropout), in which the same parameters require a gradient.

    Raises `ValueError` if none does, because nothing would be trained.
    """
    trained_weights(model)
    return copy.deepcopy(model).eval()


def sampling_loop(
    take_step, policy, prompts, *, name, steps, batch_size, seed, on_step=None, on_replies=None, groups=1
):
    """Call `take_step(step, asked, sampling_seed)` for each step, and return the history as a DataFrame by step.

    `asked` are `batch_size` prompts, each `groups` times in a row. `take_step` samples replies to them, updates the policy and
    returns `(replies, metrics)`. `metrics` gets `tokens`, the number of tokens generated so far. `on_replies(step,
    replies)` and then `on_step(step, metrics, policy)` are called after each step. An interrupt keeps what was trained.
    """
    history, tokens, started = [], 0, time.monotonic()
    with end_on_interrupt(history, steps):
        for step, indices in enumerate(batches(len(prompts), batch_size, steps, seed), start=1):
            asked = [prompts[i] for i in indices for _ in range(groups)]
            replies, metrics = take_step(step, asked, 100_000 * seed + step)
            tokens += int(replies.completion_mask.sum())
            metrics["tokens"] = tokens
            if on_replies is not None:
                on_replies(step, replies)
            if on_step is not None:
                on_step(step, metrics, policy)
            history.append({"step": step, **metrics})
            measured = "  ".join(f"{key} {metrics[key]:.2f}" for key in ("score", "kl", "loss") if key in metrics)
            progress_line(f"{name} step {step}/{steps}  {measured}", step, steps, started)
    return history_table(history)


@contextlib.contextmanager
def end_on_interrupt(history, steps):
    """Let an interrupt (Ctrl-C, the notebook's stop button) end the loop inside, and print how far it came."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\ninterrupted after {len(history)} of {steps} steps; what was trained so far is kept")


def history_table(history):
    """Return a list of dicts, each with a `step`, as a DataFrame indexed by step. An empty list gives no rows."""
    import pandas

    return pandas.DataFrame(history, columns=None if history else ["step"]).set_index("step")


@torch.no_grad()
def pair_accuracy(score_pairs, rows, batch_size=48) -> float:
    """Return the share of tokenised pairs whose chosen reply gets the higher number, from 0 to 1.

    `score_pairs(rows)` returns the numbers of the chosen and of the rejected replies, each of shape `(len(rows),)`.
    """
    scored = (score_pairs(part) for part in slices(rows, batch_size))
    return sum((chosen > rejected).sum().item() for chosen, rejected in scored) / len(rows)
