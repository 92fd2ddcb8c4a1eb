"""Score every pair by the reference, once, and cache the log-probs: a second run over the same pairs starts at once."""

from __future__ import annotations

import contextlib
import hashlib
import json

import torch
from accelerate.utils import gather_object

from toylib.engine.checkpoints import adapters
from toylib.engine.disk_cache import load_tensors, save_tensors
from toylib.engine.notices import progress_bar
from toylib.engine.prefix_sharing import pair_logps, row_length
from toylib.reference import fingerprint

LAYOUT = 1  # raise it when the same pairs would be scored differently, so that older files are not used


def add_reference_logps(reference, mark, sets, collate_inputs, pad_token_id, accelerator, size) -> None:
    """Give every tokenised pair of every set its `ref_logps` (chosen, rejected; nats), from the cache or anew.

    Each of `sets`, lists of rows by name, is scored and cached by itself, so the held-out pairs change no digit of the
    training pairs' log-probs. `mark` is from `reference_mark`, and the rest is as for `reference_logps`.
    """
    how = {"layout": collate_inputs.__name__, "precision": accelerator.mixed_precision, "dtype": str(reference.dtype)}
    how |= {"device": accelerator.device.type, "attention": reference.config._attn_implementation}
    for name, rows in sets.items():
        key = cache_key(mark, rows, **how)
        logps = load_cached(key, len(rows))
        if not all(gather_object([logps is not None])):  # every process has it, or all of them score their share
            logps = reference_logps(reference, rows, collate_inputs, pad_token_id, accelerator, size)
            bad = [rows[i]["number"] for i in (~logps.isfinite().all(dim=1)).nonzero().flatten().tolist()[:10]]
            if bad:
                raise ValueError(
                    f"the reference gives log-probs that are not finite, in {name} rows {bad}: its weights are damaged"
                )
            if accelerator.is_main_process:
                save_tensors(key, {"logps": logps}, "reference log-probs")
        for row, pair in zip(rows, logps.tolist(), strict=True):
            row["ref_logps"] = pair


@torch.no_grad()
def reference_logps(reference, rows, collate_inputs, pad_token_id, accelerator, size):
    """Return the reference's log-probs of tokenised pairs, `(count, 2)` in float64 on the CPU: chosen, rejected, in nats.

    `collate_inputs` (`collate_rows` or `tokens.collate`) puts `size` pairs at a time into one batch. It is scored in the
    precision of `accelerator`, which is the policy's. Several processes score a share each.
    """
    order = sorted(range(len(rows)), key=lambda i: row_length(rows[i]))
    parts = [order[i : i + size] for i in range(0, len(rows), size)][
        accelerator.process_index :: accelerator.num_processes
    ]
    scored = []
    silent = len(parts) < 20 or not accelerator.is_main_process
    for part in progress_bar(parts, "reference log-probs", disable=silent):
        batch = collate_inputs([rows[i] for i in part], pad_token_id, accelerator.device)
        with accelerator.autocast():
            chosen, rejected = pair_logps(reference, batch)
        scored += zip(part, chosen.tolist(), rejected.tolist(), strict=True)
    logps = torch.empty(len(rows), 2, dtype=torch.float64)
    for i, *pair in gather_object(scored):
        logps[i] = torch.tensor(pair, dtype=torch.float64)
    return logps


@contextlib.contextmanager
def placed_on(model, device):
    """Hold `model` on `device`, then put it back. A model that `device_map` has spread over several devices stays."""
    before = next(model.parameters()).device
    spread = len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1
    moved = not spread and before not in (torch.device(device), torch.device("meta"))
    if moved:
        model.to(device)
    try:
        yield
    finally:
        if moved:
            model.to(before)


def reference_mark(reference) -> str:
    """Return a fingerprint of what the reference computes: weights, adapters, class and configuration (rope, windows, …).

    It does not depend on a LoRA adapter that adds nothing yet, so a resumed run may draw that adapter anew. Raises
    `ValueError` for weights that are offloaded.
    """
    if any(parameter.is_meta for parameter in reference.parameters()):
        raise ValueError(
            "the reference has weights that are offloaded, which cannot be told from another's: load it onto the CPU "
            "or onto GPUs, without offload"
        )
    config = reference.config.to_dict()
    irrelevant = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "generation_config")
    config = {k: v for k, v in config.items() if k not in irrelevant and not k.endswith("_token_id")}
    parts = [fingerprint(reference, without=idle_adapters(reference)), type(reference).__name__, config]
    if hasattr(reference, "peft_config"):
        parts += [adapters(reference), str(reference.active_adapter)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def idle_adapters(model) -> list[str]:
    """Return the names of the LoRA matrices whose partner is zero, so that their product adds nothing."""
    tensors, idle = model.state_dict(), []
    for name in tensors:
        partner = name.replace("lora_A.", "lora_B.").replace("lora_embedding_B.", "lora_embedding_A.")
        if partner != name and partner in tensors and not tensors[partner].any():
            idle.append(name)
    return idle


def cache_key(reference: str, rows, **how) -> str:
    """Return 64 hex digits over the reference's fingerprint, the token ids of every pair, and `how` they are scored.

    Token ids stand for the data, the tokenizer, its chat template, the end-of-sequence policy and the cut at once.
    `how` is whatever else changes a digit: precision, layout, attention, device.
    """
    digest = hashlib.sha256(json.dumps([LAYOUT, reference, sorted(how.items())]).encode())
    for row in rows:
        digest.update(json.dumps([row["prompt"], row["chosen"], row["rejected"]]).encode())
    return digest.hexdigest()


def load_cached(key: str, count: int):
    """Return the log-probs saved under `key`, `(count, 2)` in float64: chosen, rejected. None if none can be trusted."""
    found = load_tensors(key, "reference log-probs")
    logps = found[0].get("logps") if found else None
    return logps if logps is not None and logps.shape == (count, 2) and logps.isfinite().all() else None
