"""What the training loops of the labs share: checks, the copy to train, an end by interrupt, the history as a table."""

from __future__ import annotations

import contextlib
import copy

import torch

from toylib.train import slices


def check_counts(**counts) -> None:
    """Raise `ValueError`, naming the first count that is not a whole number of at least 1."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def trainable_copy(model):
    """Return a copy of `model` in eval mode (no dropout), in which the same parameters require a gradient.

    Raises `ValueError` if none does, because nothing would be trained.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("no parameter of the model requires a gradient: call model.requires_grad_(True) first")
    return copy.deepcopy(model).eval()


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
