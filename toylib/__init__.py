"""toylib: Direct Preference Optimization, small enough to read in an evening.

Read in this order: loss, logps, reference, preferences, tokens, models, train; then replies, judge, report, plots, widgets,
claims; then the engine, which is the same thing faster: rows, cache, trainer, checkpoints, cli; then what single
notebooks need: sweep (05), failures (06), reward_model and rlhf (07), memory, hardware, chat, watch (08), interview (09).
Importing it costs no more than importing torch: transformers, datasets and matplotlib load when first used.
"""

import importlib

from toylib.claims import claim
from toylib.logps import sequence_logps
from toylib.loss import dpo_loss
from toylib.models import load_model
from toylib.preferences import load_preferences
from toylib.reference import fingerprint, frozen_copy

LATER = {"train_dpo": "toylib.train", "DPOTrainer": "toylib.trainer"}  # where from, once they are asked for

__all__ = [
    "DPOTrainer",
    "claim",
    "dpo_loss",
    "fingerprint",
    "frozen_copy",
    "load_model",
    "load_preferences",
    "sequence_logps",
    "train_dpo",
]


def __getattr__(name):
    if name in LATER:
        return getattr(importlib.import_module(LATER[name]), name)
    raise AttributeError(f"module 'toylib' has no attribute {name!r}")
