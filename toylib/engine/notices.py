"""What the engine tells its user while it works: one process speaks for all, progress shows where somebody watches."""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter

from tqdm import tqdm


def log_once(message: str) -> None:
    """Log `message` as a warning of the logger "toylib", in the main process only."""
    if is_first_process():
        logging.getLogger("toylib").warning(message)


def print_line(text: str) -> None:
    """Print `text` as one line, in the main process only. Characters that do not show are escaped."""
    if is_first_process():
        print(visible(text))


def visible(text: str) -> str:
    """Return `text` with the characters escaped that do not show, such as lone surrogates and terminal codes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def print_dropped(name: str, reasons) -> None:
    """Print how many rows of the data set `name` were dropped as bad. `reasons` are their reasons, or a count of each."""
    for reason, count in Counter(reasons).items():
        print_line(f"{name}: dropped {count} row{'s' if count > 1 else ''}: {reason}")


def is_first_process() -> bool:
    """Return whether this process is the only one, or the first of those that `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"


def progress_bar(items, label: str, *, delay: float = 0, disable: bool = False):
    """Return `items` with a progress line around them that is gone when done, shown after `delay` seconds.

    A terminal gets it on stderr, and a file gets none. In a notebook it is a line of text on stdout, because a widget
    would be dead wherever the notebook is opened without a kernel.
    """
    notebook = "ipykernel" in sys.modules
    stream = sys.stdout if notebook else sys.stderr
    hidden = disable or not (notebook or stream.isatty())
    return tqdm(items, label, leave=False, file=stream, ncols=80, delay=delay, disable=hidden)
