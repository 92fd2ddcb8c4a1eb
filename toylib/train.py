"""DPO, the loop to read. Shown in notebook 04. The command line, `python -m toylib`, trains with `engine.trainer`."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from toylib.logps import sequence_logps
from toylib.loss import LossSettings, dpo_loss
from toylib.reference import frozen_copy
from toylib.tokens import Rows, collate, pad_id, tokenize_pairs

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

METRICS: tuple[str, ...] = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
METRICS += ("logps/chosen", "logps/rejected")  # logged with the loss, under TRL's names


def train_dpo(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Iterable, *, beta: float = 0.1,
    learning_rate: float = 1e-4, steps: int = 40, batch_size: int = 24, loss_type: str = "sigmoid",
    label_smoothing: float = 0.0, ref_model: PreTrainedModel | None = None, eval_pairs: Iterable | None = None,
    seed: int = 0, on_step: Callable[[int, dict[str, float], PreTrainedModel], object] | None = None,
) -> tuple[PreTrainedModel, pandas.DataFrame]:  # fmt: skip
    """Train a copy of `model` on preference pairs and return `(policy, history)`. `model` itself is left untouched.

    `pairs` and `eval_pairs` are as from `load_preferences`. The reference is `ref_model`, or `model` as it is given,
    adapters included. Weights that require no gradient, such as a LoRA model's base, are not trained. AdamW runs at a
    constant `learning_rate`, with the gradient norm clipped to 1, without dropout and without a router's auxiliary loss;
    `seed` draws the batches. The default rate suits the shipped model of 0.6M parameters, and 1e-6 to 5e-6 one of 100M.

    `history` is a DataFrame by step (1, 2, …) with TRL's column names, measured on each step's batch before its update.
    With `eval_pairs`, `eval_` columns are measured after the update, ten times or more. `on_step(step, metrics, policy)`
    is called after each update, and what it puts into `metrics` joins the history. An interrupt (Ctrl-C) ends early.
    Raises `ValueError` for what cannot be used, and `FloatingPointError`, naming the step, for what is not finite.
    """
    import pandas

    from toylib.engine.checks import check_loop

    settings = LossSettings(beta, loss_type, label_smoothing)
    rows = tokenize_pairs(pairs, tokenizer)
    eval_rows = tokenize_pairs(eval_pairs, tokenizer) if eval_pairs is not None else None
    check_loop(model, ref_model, {"train": rows, "eval": eval_rows or []})
    reference = frozen_copy(model) if ref_model is None else ref_model.eval()
    policy = copy.deepcopy(model).eval()  # eval mode: no dropout, so the first loss is ln 2
    optimizer = torch.optim.AdamW(trained_weights(policy), lr=learning_rate, weight_decay=0.0)
    history, started, pad = [], time.monotonic(), pad_id(tokenizer, model.config.get_text_config().vocab_size)
    try:
        for step, indices in enumerate(batches(len(rows), batch_size, steps, seed), start=1):
            batch = collate([rows[i] for i in indices], pad, policy.device)
            loss, metrics = batch_loss(policy, reference, batch, settings)
            optimizer_step(loss, optimizer, policy, f"step {step}, pairs {indices}")
            if eval_rows and (step % max(1, steps // 10) == 0 or step == steps):
                metrics |= evaluate_dpo(policy, reference, tokenizer, eval_rows, settings, batch_size)
            if on_step is not None:
                on_step(step, metrics, policy)
            history.append({"step": step, **metrics})
            print_progress(step, steps, metrics, started)
    except KeyboardInterrupt:
        print(f"\ninterrupted after {len(history)} of {steps} steps; policy and history are usable")
    return policy, pandas.DataFrame(history, columns=None if history else ["step"]).set_index("step")


def trained_weights(model: nn.Module) -> list[torch.nn.Parameter]:
    """Return the parameters of `model` that require a gradient. Raises `ValueError` if there are none."""
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not weights:
        raise ValueError("no weight of the model requires a gradient: call model.requires_grad_(True) to train it")
    return weights


def optimizer_step(loss: Tensor, optimizer: torch.optim.Optimizer, model: nn.Module, where: str) -> float:
    """Make one update with the gradient norm clipped to 1. Return the norm before clipping.

    Raises `FloatingPointError`, naming `where`, if the loss or the gradient is not finite, in which case the weights
    are unchanged, or if a weight is not finite after the update.
    """
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss.item()} at {where}: lower the rate")
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
    if not math.isfinite(norm):
        raise FloatingPointError(f"the gradient is not finite at {where}: lower the rate")
    optimizer.step()
    if not has_finite_weights(model):
        raise FloatingPointError(f"the weights are not finite after {where}: lower the rate")
    return norm


def has_finite_weights(model: nn.Module) -> bool:
    """Tell whether every weight of `model` is finite."""
    return all(bool(torch.isfinite(weight).all()) for weight in model.parameters())


def batch_loss(
    policy: PreTrainedModel, reference: PreTrainedModel, batch: dict[str, Any], settings: LossSettings
) -> tuple[Tensor, dict[str, float]]:
    """Return the mean loss of a collated batch, with its gradient, and its metrics as floats under TRL's names.

    `settings` are `LossSettings`. Rewards carry β; log-probs are nats per reply.
    """
    policy_chosen, policy_rejected = sequence_logps(policy, **batch).chunk(2)
    with torch.no_grad():
        ref_chosen, ref_rejected = sequence_logps(reference, **batch).chunk(2)
    losses, chosen, rejected = dpo_loss(policy_chosen, policy_rejected, ref_chosen, ref_rejected, **asdict(settings))
    table = metrics_table(losses, chosen, rejected, policy_chosen, policy_rejected)
    return losses.mean(), dict(zip(("loss", *METRICS), table.mean(dim=0).tolist(), strict=True))


def metrics_table(
    losses: Tensor, chosen_rewards: Tensor, rejected_rewards: Tensor, chosen_logps: Tensor, rejected_logps: Tensor
) -> Tensor:
    """Return what is logged of each pair, without gradient: `(batch, 1 + len(METRICS))`, the loss and then `METRICS`."""
    right = (chosen_rewards > rejected_rewards).to(losses.dtype)
    rewards = (chosen_rewards, rejected_rewards, chosen_rewards - rejected_rewards, right)
    return torch.stack((losses, *rewards, chosen_logps, rejected_logps), dim=1).detach()


@torch.no_grad()
def evaluate_dpo(
    policy: PreTrainedModel, reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Rows,
    settings: LossSettings, batch_size: int = 24,
) -> dict[str, float]:  # fmt: skip
    """Return the metrics of `batch_loss` over tokenised pairs, averaged over pairs, under the names `eval_…`."""
    totals: dict[str, float] = {}
    pad = pad_id(tokenizer, policy.config.get_text_config().vocab_size)
    for part in slices(rows, batch_size):
        _, metrics = batch_loss(policy, reference, collate(part, pad, policy.device), settings)
        for name, value in metrics.items():
            totals[name] = totals.get(name, 0.0) + value * len(part)
    return {f"eval_{name}": total / len(rows) for name, total in totals.items()}


def slices(rows: list[Any], size: int) -> Iterator[list[Any]]:
    """Yield `rows` in their order, `size` at a time."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def batches(count: int, batch_size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """Yield `steps` lists of indices below `count`. Each index comes once, in an order drawn by `seed`, before any repeats."""
    for name, value, least in (("steps", steps, 0), ("batch_size", batch_size, 1)):
        if not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if steps and count < 1:
        raise ValueError("there is nothing to draw batches from: no rows")
    generator = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    for _ in range(steps):
        while len(queue) < batch_size:
            queue += torch.randperm(count, generator=generator).tolist()
        yield queue[:batch_size]
        queue = queue[batch_size:]


def print_progress(step: int, steps: int, metrics: dict[str, float], started: float, first: int = 0) -> None:
    """Print step, loss and accuracy of a DPO run that began after step `first`, with the estimated time remaining."""
    measured = f"loss {metrics['loss']:.3f}  accuracy {metrics['rewards/accuracies']:.2f}"
    progress_line(f"step {step}/{steps}  {measured}", step - first, steps - first, started)


def progress_line(text: str, step: int, steps: int, started: float) -> None:
    """Print `text` in place, with the estimated time remaining. `started` is a `time.monotonic()`."""
    left = (time.monotonic() - started) / step * (steps - step)
    tail = f"  {left:4.0f} s left" if step < steps else " " * 13 + "\n"
    print(f"\r{text}{tail}", end="", flush=True)
