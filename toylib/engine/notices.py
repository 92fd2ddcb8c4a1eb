"""What the engine tells its user while it works: messages once, progress where somebody watches."""

from __future__ import annotations

import logging
import os
import sys

from tqdm import tqdm


def log_once(message: str) -> None:
    """Log `message` as a warning of the logger "toylib", in the main process only."""
    if int(os.environ.get("RANK", "0")) == 0:
        logging.getLogger("toylib").warning(message)


def progress_bar(items, label: str, *, delay: float = 0, disable: bool = False):
    """Return `items` with a progress line around them that is gone when done, shown after `delay` seconds.

    A terminal gets it on stderr, and a file gets none. In a notebook it is a line of text on stdout, because a widget
    would be dead wherever the notebook is opened without a kernel.
    """
    notebook = "ipykernel" in sys.modules
    stream = sys.stdout if notebook else sys.stderr
    hidden = disable or not (notebook or stream.isatty())
    return tqdm(items, label, leave=False, file=stream, ncols=80, delay=delay, disable=hidden)
