"""toylib: Direct Preference Optimization, with a core that one reads in an evening.

The core is ten files. Read them in this order: loss, logps, reference, preferences, tokens, models, train, replies, claims.
Five folders use it: `plots` and `widgets` draw, `evaluation` says what replies are worth, `engine` trains your own model
on your own data, and `labs` has what single notebooks need.
Importing it costs no more than importing torch: transformers, datasets and matplotlib load when first used.
"""

import importlib

from toylib.claims import claim
from toylib.logps import sequence_logps
from toylib.loss import dpo_loss
from toylib.models import load_model
from toylib.preferences import load_preferences
from toylib.reference import fingerprint, frozen_copy

LATER = {"train_dpo": "toylib.train", "DPOTrainer": "toylib.engine.trainer"}  # where from, once they are asked for

__all__ = ["DPOTrainer", "claim", "dpo_loss", "fingerprint", "frozen_copy", "load_model", "load_preferences"]
__all__ += ["sequence_logps", "train_dpo"]


def __getattr__(name: str) -> object:
    if name in LATER:
        return getattr(importlib.import_module(LATER[name]), name)
    raise AttributeError(f"module 'toylib' has no attribute {name!r}")
