"""The reference: a frozen copy of the policy as it was, and a fingerprint that shows whether it changed."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable

import torch
from torch import nn


def frozen_copy(model: nn.Module) -> nn.Module:
    """Return a copy of `model` in eval mode that takes no gradient and shares no storage with it.

    The copy computes what `model` computes now, a PEFT model's adapters included. Weight tying inside the model, dtype
    and device are kept.
    """
    return copy.deepcopy(model).eval().requires_grad_(False)


def fingerprint(model: nn.Module, without: Iterable[str] = ()) -> str:
    """Return a short SHA-256 (16 hex digits) over the sorted names, shapes, dtypes and bytes of a model's tensors.

    It stays the same after saving and loading and on any device, and changes with any bit of any weight. Names that
    contain a string of `without` are left out.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if any(part in name for part in without):
            continue
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def shares_storage(model: nn.Module, other: nn.Module) -> bool:
    """Return whether a parameter of `other` lives in the same memory as one of `model`, and so moves along with it."""
    held = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return any(parameter.untyped_storage().data_ptr() in held for parameter in other.parameters())


def check_reference(model: nn.Module, ref_model: nn.Module | None) -> None:
    """Raise `ValueError` if `ref_model` shares weights with `model`. None is fine, because a copy will be made."""
    if ref_model is not None and shares_storage(model, ref_model):
        raise ValueError("ref_model shares weights with the model: pass frozen_copy(model), or leave it out")
