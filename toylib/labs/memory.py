"""The memory ledger: what one DPO step holds in memory, predicted from a model's configuration and measured, in bytes.

A step holds weights, gradients and Adam's moments (Kingma & Ba 2015, arXiv 1412.6980), the reference's weights if it
stays in memory, activations and logits. All but the last two follow from counting parameters (Rajbhandari et al. 2020,
ZeRO, arXiv 1910.02054, section 3). Activations are counted tensor by tensor, as Korthikanti et al. 2022 (arXiv
2205.05198, section 4) do for GPT, here for the Llama layer as transformers runs it, with fused (sdpa) attention.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from toylib.engine.prefix_sharing import pair_logps, row_length
from toylib.loss import dpo_loss

WEIGHT = {"fp32": 4, "autocast": 4, "bf16": 2}  # bytes per weight; autocast computes in 16 bits over fp32 weights
WAYS = ("two models", "reference once", "LoRA")
AMPERE = (8, 0)  # compute capability of the first generation of cards with bf16 units
# Bytes that a layer keeps for the backward pass, per token and per unit of hidden size, of attention width (heads × their
# size) and of MLP width. In fp32, both norms keep their input, the normalised values and their output (2·3·4 bytes of
# hidden size). Attention keeps query, key, value (repeated to all heads) and output (4·4 of attention width). The MLP
# keeps the gate before and after its SiLU, the up-projection and their product (4·4 of MLP width).
# With autocast, norms stay in fp32, 2·2·4, and each of the five matrices that read a norm casts its input, 5·2. In bf16
# norms compute in fp32 internally, 2·(4 + 2 + 2). With LoRA the norms' weights are frozen, so the normalised values are
# not kept. PEFT keeps adapters of bf16 weights in fp32, so each matrix's input is cast to 4 bytes.
ACTIVATION_BYTES = {
    ("fp32", "full"): (24, 16, 16),
    ("autocast", "full"): (26, 8, 8),
    ("bf16", "full"): (16, 8, 8),
    ("fp32", "LoRA"): (16, 16, 16),
    ("autocast", "LoRA"): (18, 8, 8),
    ("bf16", "LoRA"): (28, 12, 10),
}


class Shape(NamedTuple):
    """Hold the sizes of a model that the ledger needs."""

    parameters: int  # with a tied output head counted once
    matrices: int  # weights that autocast copies into 16 bits: those of all linear layers, output head included
    layers: int
    hidden: int
    attention: int  # heads × size of a head
    heads: int
    inner: int  # width of the MLP
    vocabulary: int
    adapted: int  # inputs and outputs of the matrices in the layers: a LoRA adapter of rank r has r · adapted weights


def shape_of(model) -> Shape:
    """Return the `Shape` of a model or of a configuration, which is built on the meta device without using memory."""
    if not isinstance(model, torch.nn.Module):
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(model)
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Shape(
        parameters=sum(p.numel() for p in model.parameters()),
        matrices=sum(module.weight.numel() for module in linear),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        attention=size * config.num_attention_heads,
        heads=config.num_attention_heads,
        inner=config.intermediate_size,
        vocabulary=config.vocab_size,
        adapted=sum(module.in_features + module.out_features for module in linear if module is not head),
    )


def ledger(
    model, pairs, length, scored, precision="fp32", way="reference once", rank=16, split=False
) -> dict[str, int]:
    """Return the bytes of one training step of `DPOTrainer` by part. `peak` adds them up.

    `model` is a `Shape`, a configuration or a model of the Llama family (Llama, SmolLM2, Mistral, Qwen2). A step has
    `pairs` shared-prompt rows of `length` tokens, padding included, of which `scored` belong to replies (see `sizes`).
    `precision` is "fp32", "autocast" (bf16 or fp16 over fp32 weights) or "bf16" (weights, gradients and Adam too). `way`
    is "two models", "reference once" (scored before training) or "LoRA" (the same, and only adapters of `rank` in every
    layer's matrices are trained). With `split` an update has several steps, and gradients stay in memory in between.
    """
    if precision not in WEIGHT or way not in WAYS:
        known = f"precision is one of {', '.join(WEIGHT)}, way one of {', '.join(WAYS)}"
        raise ValueError(f"{known}; got {precision!r}, {way!r}")
    shape = model if isinstance(model, Shape) else shape_of(model)
    weight, lora = WEIGHT[precision], way == "LoRA"
    trained = rank * shape.adapted if lora else shape.parameters
    of_trained = trained * (4 if lora else weight)
    return {
        "weights": weight * shape.parameters + (of_trained if lora else 0),
        "reference": weight * shape.parameters if way == "two models" else 0,
        "Adam": 2 * of_trained,
        "waiting gradients": of_trained if split else 0,
        "gradients": 0 if split else of_trained,
        "activations": activations(shape, pairs, length, precision, lora, rank),
        "logits": 12 * int(pairs * scored) * shape.vocabulary,
    }


def activations(shape, rows, length, precision, lora=False, rank=16) -> int:
    """Return the bytes kept for the backward pass of `rows` rows of `length` tokens, without logits."""
    per = ACTIVATION_BYTES[precision, "LoRA" if lora else "full"]
    token = sum(a * b for a, b in zip(per, (shape.hidden, shape.attention, shape.inner), strict=True))
    token += 4 * shape.heads + 8  # attention's log-sum-exp, and one number of each norm
    token += 7 * rank * (2 if precision == "autocast" else 4) if lora else 0
    last = per[0] // 2 * shape.hidden  # the norm after the last layer, and what the head reads of it
    masks = {"fp32": 4, "bf16": 2, "autocast": 2 * shape.layers + 4}[precision]  # autocast casts it in every layer
    copies = 2 * shape.matrices if precision == "autocast" else 0  # 16-bit copies of the matrices
    return rows * length * (shape.layers * token + last) + masks * rows * length**2 + copies


def peak(parts) -> int:
    """Return the most bytes that a step holds at once, from a `ledger`.

    The backward pass frees activations layer by layer while it makes gradients, so the larger of both counts.
    """
    always = parts["weights"] + parts["reference"] + parts["Adam"] + parts["waiting gradients"]
    return always + max(parts["activations"] + parts["logits"], parts["gradients"])


def sizes(rows) -> tuple[int, int]:
    """Return `(length, scored)` for a `ledger`: the longest row of tokenised pairs and the most reply tokens of a pair."""
    return max(map(row_length, rows)), max(len(row["chosen"]) + len(row["rejected"]) for row in rows)


def weights_only(parameters, models, bytes_each=2) -> int:
    """Return the usual back-of-the-envelope sum: the bytes of the weights of `models` models, and nothing else."""
    return parameters * models * bytes_each


def measure_step(model, batch, precision="fp32", beta=0.1, split=False) -> dict[str, int]:
    """Measure what a `ledger` predicts, by two updates of AdamW at rate 0 on one batch (`collate_rows`). Return bytes.

    "kept" is what autograd keeps: activations, and the one of three sets of logits that outlives the forward pass.
    "peak" is of the second update. With `split` an update uses the batch twice. Weights do not change. Raises
    `FloatingPointError` if a loss or gradient is not finite.
    """
    device = next(model.parameters()).device
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0, fused=device.type == "cuda")  # the Trainer's there

    def step():
        optimizer.zero_grad()
        for _ in range(2 if split else 1):
            with kept_for_backward(model) as kept, autocast(precision, device):
                chosen, rejected = pair_logps(model, batch)
            loss = dpo_loss(chosen, rejected, chosen.detach(), rejected.detach(), beta).losses.mean()
            loss.backward()
            numbers = [loss.detach(), *(p.grad.sum() for p in trained if p.grad is not None)]
            if not all(map(torch.isfinite, numbers)):  # even at rate 0, NaN would reach the weights
                raise FloatingPointError(
                    f"loss or gradient not finite in {precision}: the weights are left as they were"
                )
        optimizer.step()
        return sum(kept.values())

    try:
        kept = step()
        return {
            "weights": _bytes(model.parameters()),
            "gradients": _bytes(p.grad for p in trained if p.grad is not None),
            "Adam": _bytes(_moments(optimizer)),
            "kept": kept,
            "peak": peak_of(step, model, optimizer),
        }
    finally:
        optimizer.zero_grad()


def has_bf16_units(capability=None) -> bool:
    """Return whether a CUDA card of this compute capability (major, minor) has bf16 units, or the CPU (None) has."""
    return torch.cpu._is_avx512_bf16_supported() if capability is None else capability >= AMPERE


def autocast(precision, device):
    """Return the context for `precision` on `device`. "autocast" is in bf16, or in fp16 on a card without bf16 units."""
    if precision != "autocast":
        return contextlib.nullcontext()
    fp16 = device.type == "cuda" and not has_bf16_units(torch.cuda.get_device_capability(device))
    return torch.autocast(device.type, torch.float16 if fp16 else torch.bfloat16)


def peak_of(step, model, optimizer) -> int:
    """Return the most bytes that tensors hold at once during `step()`, including those of `model` and `optimizer`."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device)
    with Counted([*model.parameters(), *_moments(optimizer)]) as counted:
        step()
    return counted.most


class Counted(TorchDispatchMode):
    """Count the bytes of tensors while the context is open. `now` is held at present, `most` was held at once."""

    def __init__(self, held):
        super().__init__()
        self.now = self.most = _bytes(held)
        self.storages = {id(t.untyped_storage()) for t in held}
        self.held = held  # keeps their ids from being used again

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and id(storage) not in self.storages:
                self.storages.add(id(storage))
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, id(storage), storage.nbytes())
        return made

    def _gone(self, storage, size):
        self.storages.discard(storage)
        self.now -= size


@contextlib.contextmanager
def kept_for_backward(model):
    """Yield a dict, storage → bytes, that collects what autograd keeps for the backward pass except the model's weights."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield kept


def _moments(optimizer) -> list[torch.Tensor]:
    return [tensor for state in optimizer.state.values() for tensor in state.values() if tensor.dim()]


def _bytes(tensors) -> int:
    """Return the bytes of the storages of these tensors, each counted once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
