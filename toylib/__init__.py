"""toylib: Direct Preference Optimization, small enough to read in an evening.

Read in this order: loss, logps, reference, preferences, models, train; then replies, judge, plots, widgets, claims.
Importing it costs no more than importing torch: transformers, datasets and matplotlib load when first used.
"""

from toylib.claims import claim
from toylib.logps import sequence_logps
from toylib.loss import dpo_loss
from toylib.models import load_model
from toylib.preferences import load_preferences
from toylib.reference import fingerprint, frozen_copy
from toylib.train import train_dpo

__all__ = [
    "claim",
    "dpo_loss",
    "fingerprint",
    "frozen_copy",
    "load_model",
    "load_preferences",
    "sequence_logps",
    "train_dpo",
]
