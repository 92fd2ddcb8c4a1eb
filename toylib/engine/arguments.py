"""Arguments that no function can use, each refused in one sentence before anything is done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral

import torch

from toylib.preferences import FIELDS


def check_counts(**counts) -> None:
    """Raise `ValueError`, naming the first of `counts` that is not a whole number of at least 1."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_loaded(**models) -> None:
    """Raise `ValueError`, naming the first of `models` that is not a loaded one."""
    for name, model in models.items():
        if not isinstance(model, torch.nn.Module):
            raise ValueError(f"{name} must be a loaded model, got {model!r}: load it with toylib.load_model")


def check_tokenizer(tokenizer, name="tokenizer", needs_eos=False) -> None:
    """Raise `ValueError`, naming the argument, unless `tokenizer` is a loaded one, with an EOS where that is needed."""
    if tokenizer is None:
        raise ValueError(f"{name} is missing: pass the model's tokenizer")
    if not hasattr(tokenizer, "eos_token_id"):
        raise ValueError(f"{name} must be the model's loaded tokenizer, got {type(tokenizer).__name__}")
    if needs_eos and tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-sequence token: set tokenizer.eos_token")


def check_sampling(model, tokenizer, prompts, temperature, max_new_tokens) -> None:
    """Raise `TypeError` for a single prompt, which has to be in a list, and `ValueError` for anything else unusable."""
    check_loaded(model=model)
    check_tokenizer(tokenizer)
    check_counts(max_new_tokens=max_new_tokens)
    if isinstance(prompts, (str, dict)):
        raise TypeError("prompts must be a list of prompts: put a single one into a list, [prompt]")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be a number from 0 on, got {temperature!r}")


def check_row(pair) -> None:
    """Raise `ValueError` unless `pair` is a row with all fields of a preference pair."""
    if not isinstance(pair, Mapping):
        raise ValueError(f"a pair must be a dict with {', '.join(FIELDS)}, got {type(pair).__name__}")
    problem = lacking_fields(pair)
    if problem:
        raise ValueError(problem)


def lacking_fields(pair) -> str:
    """Return which fields of a preference pair the row `pair` lacks, what it has, and the remedy; "" if it has all."""
    missing = [field for field in FIELDS if field not in pair]
    if not missing:
        return ""
    has = f"no {' and no '.join(missing)}, only {', '.join(map(str, pair))}"
    return f"{has}: bring it into the standard form with toylib.load_preferences"
