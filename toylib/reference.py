"""The reference: a frozen copy of the policy as it was, and proof that it stays so."""

from __future__ import annotations

import copy
import hashlib

import torch


def frozen_copy(model):
    """A copy of `model` in eval mode that takes no gradient and shares no storage with it.

    Weight tying inside the model, dtype and device are kept. Of a PEFT model, the copy is the base without adapters.
    """
    if hasattr(model, "unload") and hasattr(model, "peft_config"):
        copied = copy.deepcopy(model).unload()
    else:
        copied = copy.deepcopy(model)
    return copied.eval().requires_grad_(False)


def fingerprint(model, without=()) -> str:
    """A short SHA-256 (16 hex digits) over the sorted names, shapes, dtypes and bytes of a model's tensors.

    The same after saving and loading and on any device; another as soon as one bit of one weight changes. Names that
    contain a string of `without` are left out, such as a PEFT model's adapters ("lora_").
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if any(part in name for part in without):
            continue
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def shares_storage(model, other) -> bool:
    """Whether any parameter of `other` lives in the same memory as one of `model`: a reference like that moves along."""
    held = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return any(parameter.untyped_storage().data_ptr() in held for parameter in other.parameters())


def check_reference(model, ref_model) -> None:
    """`ValueError` if `ref_model` (None: one will be made) shares weights with `model`."""
    if ref_model is not None and shares_storage(model, ref_model):
        raise ValueError("ref_model shares weights with the model: pass frozen_copy(model), or leave it out")
