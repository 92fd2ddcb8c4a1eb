"""One place for what the engine tells its user while it works."""

from __future__ import annotations

import logging
import os


def log_once(message: str) -> None:
    """Log `message` as a warning of the logger "toylib", in the main process only."""
    if int(os.environ.get("RANK", "0")) == 0:
        logging.getLogger("toylib").warning(message)
