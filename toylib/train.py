"""DPO, the loop to read. Shown in notebook 04. (`python -m toylib` is the command line, in `cli`.)"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict

import torch

from toylib.logps import sequence_logps
from toylib.loss import LossSettings, dpo_loss
from toylib.reference import check_reference, frozen_copy
from toylib.tokens import collate, tokenize_pairs

METRICS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
METRICS += ("logps/chosen", "logps/rejected")  # TRL's names, of what is logged beside the loss


def train_dpo(
    model,
    tokenizer,
    pairs,
    *,
    beta=0.1,
    learning_rate=1e-4,
    steps=40,
    batch_size=24,
    loss_type="sigmoid",
    label_smoothing=0.0,
    ref_model=None,
    eval_pairs=None,
    seed=0,
    on_step=None,
):
    """Train a copy of `model` on preference pairs; returns `(policy, history)`. `model` itself is left untouched.

    `pairs` and `eval_pairs` are as from `load_preferences`. The reference is `ref_model`, or a frozen copy of `model`.
    AdamW at a constant `learning_rate`, gradient norm clipped to 1, dropout off, batches drawn by `seed`. The default
    rate suits the shipped model of 0.6M parameters; one of 100M parameters and more wants 1e-6 to 5e-6.

    `history` is a DataFrame indexed by step (1, 2, …), its columns named as in TRL: each row was measured on that
    step's batch before its update. With `eval_pairs` there are `eval_` columns, measured after the update, at ten
    places of the run or more. `on_step(step, metrics, policy)` is called after each update, and what it puts into `metrics`
    joins the history. An interrupt (Ctrl-C, the notebook's stop button) ends training early and keeps what there is.

    Raises `ValueError` for settings that no loss can use, for pairs that cannot be tokenised and for a reference that
    shares weights with the policy; `FloatingPointError`, naming the step, when a loss is not finite.
    """
    import pandas

    settings = LossSettings(beta, loss_type, label_smoothing)
    rows = tokenize_pairs(pairs, tokenizer)
    eval_rows = tokenize_pairs(eval_pairs, tokenizer) if eval_pairs is not None else None
    check_reference(model, ref_model)
    reference = frozen_copy(model) if ref_model is None else ref_model.eval()
    policy = copy.deepcopy(model).requires_grad_(True).eval()  # eval mode: no dropout, so the first loss is ln 2
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, weight_decay=0.0)
    history, started = [], time.monotonic()
    try:
        for step, indices in enumerate(batches(len(rows), batch_size, steps, seed), start=1):
            batch = collate([rows[i] for i in indices], tokenizer.pad_token_id, policy.device)
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


def optimizer_step(loss, optimizer, model, where) -> float:
    """Make one update with the gradient norm clipped to 1. Return the norm before clipping.

    Raises `FloatingPointError`, naming `where`, if the loss or the gradient is not finite. The weights are then unchanged.
    """
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss.item()} at {where}: lower the rate")
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
    if not math.isfinite(norm):
        raise FloatingPointError(f"the gradient is not finite at {where}: lower the rate")
    optimizer.step()
    return norm


def batch_loss(policy, reference, batch, settings):
    """The mean loss of a collated batch, with its gradient, and its metrics as floats under TRL's names.

    `settings` are `LossSettings`. Rewards carry β; log-probs are nats per reply.
    """
    policy_chosen, policy_rejected = sequence_logps(policy, **batch).chunk(2)
    with torch.no_grad():
        ref_chosen, ref_rejected = sequence_logps(reference, **batch).chunk(2)
    losses, chosen, rejected = dpo_loss(policy_chosen, policy_rejected, ref_chosen, ref_rejected, **asdict(settings))
    table = metrics_table(losses, chosen, rejected, policy_chosen, policy_rejected)
    return losses.mean(), dict(zip(("loss", *METRICS), table.mean(dim=0).tolist(), strict=True))


def metrics_table(losses, chosen_rewards, rejected_rewards, chosen_logps, rejected_logps):
    """What is logged of each pair, without gradient: `(batch, 1 + len(METRICS))`, the loss and then `METRICS`."""
    right = (chosen_rewards > rejected_rewards).to(losses.dtype)
    rewards = (chosen_rewards, rejected_rewards, chosen_rewards - rejected_rewards, right)
    return torch.stack((losses, *rewards, chosen_logps, rejected_logps), dim=1).detach()


@torch.no_grad()
def evaluate_dpo(policy, reference, tokenizer, rows, settings, batch_size=24):
    """The metrics of `batch_loss` over tokenised pairs (`tokenize_pairs`), averaged over pairs, named `eval_…`."""
    totals = {}
    for part in slices(rows, batch_size):
        _, metrics = batch_loss(policy, reference, collate(part, tokenizer.pad_token_id, policy.device), settings)
        for name, value in metrics.items():
            totals[name] = totals.get(name, 0.0) + value * len(part)
    return {f"eval_{name}": total / len(rows) for name, total in totals.items()}


def slices(rows, size):
    """Yield `rows` in their order, `size` at a time."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def batches(count, batch_size, steps, seed):
    """`steps` lists of indices below `count`: every index once, in an order drawn by `seed`, before any comes again."""
    if steps < 0 or batch_size < 1:
        raise ValueError(f"steps must be at least 0 and batch_size at least 1, got {steps!r} and {batch_size!r}")
    if steps and count < 1:
        raise ValueError("there is nothing to draw batches from: no rows")
    generator = torch.Generator().manual_seed(seed)
    queue = []
    for _ in range(steps):
        while len(queue) < batch_size:
            queue += torch.randperm(count, generator=generator).tolist()
        yield queue[:batch_size]
        queue = queue[batch_size:]


def print_progress(step, steps, metrics, started, first=0):
    """Print step, loss, accuracy and the seconds left of a run of DPO that began after step `first`."""
    said = f"loss {metrics['loss']:.3f}  accuracy {metrics['rewards/accuracies']:.2f}"
    progress_line(f"step {step}/{steps}  {said}", step - first, steps - first, started)


def progress_line(said, step, steps, started):
    """What is said of a step, on one line that overwrites itself, and the seconds left while there are any."""
    left = (time.monotonic() - started) / step * (steps - step)
    tail = f"  {left:4.0f} s left" if step < steps else " " * 13 + "\n"
    print(f"\r{said}{tail}", end="", flush=True)
