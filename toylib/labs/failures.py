"""A DPO loop with pluggable scoring and reference functions, and deliberately broken versions of both. For notebook 06.

`score(model, rows)` returns the log-probs of the chosen and of the rejected replies, two tensors of shape
`(len(rows),)`, in nats. `reference(policy, rows)` returns the same two for the reference. `rows` are tokenised pairs
(`tokenize_pairs`).
"""

from __future__ import annotations

from dataclasses import asdict

import torch

from toylib.engine.arguments import check_counts
from toylib.engine.prefix_sharing import collate_rows, row_logps
from toylib.labs.loops import end_on_interrupt, history_table, pair_accuracy, trainable_copy
from toylib.logps import sequence_logps, token_logps
from toylib.loss import LossSettings, dpo_loss
from toylib.tokens import collate
from toylib.train import METRICS, batches, metrics_table, optimizer_step, slices

PAD = 0  # fills the rows of a batch; correct code never looks at it
SIDES = ("chosen", "rejected")


def right_score(model, rows):
    """Return log π(reply | prompt) of both replies, in nats, with the prompt computed once per pair (prefix sharing).

    The values are those of `sequence_logps`, up to rounding.
    """
    return row_logps(model, **collate_rows(rows, PAD, model.device))


def cached_reference(model, rows, score=right_score, batch_size=48):
    """Return a `reference(policy, rows)` that looks up what `model` gave when it scored `rows` here, once.

    It finds a reply by its pair's number and its tokens, so it also answers for pairs with swapped labels. It raises
    `KeyError` for a reply that was not scored.
    """
    known = {}
    with torch.no_grad():
        for part in slices(rows, batch_size):
            for side, logps in zip(SIDES, score(model, part), strict=True):
                known |= {(row["number"], *row[side]): logp for row, logp in zip(part, logps, strict=True)}

    def reference(policy, rows):
        return [torch.stack([known[row["number"], *row[side]] for row in rows]) for side in SIDES]

    return reference


def rescoring_reference(model, score=right_score):
    """Return a `reference(policy, rows)` that scores each batch anew with the frozen `model`."""

    @torch.no_grad()
    def reference(policy, rows):
        return score(model, rows)

    return reference


def run_dpo(
    model,
    rows,
    reference,
    *,
    score=right_score,
    beta=0.5,
    learning_rate=1e-4,
    steps=80,
    batch_size=12,
    seed=0,
    loss_type="sigmoid",
    label_smoothing=0.0,
    dropout=0.0,
    on_step=None,
):
    """Run the loop of `train_dpo` with `score` and `reference` (see above) as arguments. Return `(policy, history)`.

    A copy of `model` is trained, in exactly the weights that require a gradient. `history` and `on_step(step, metrics,
    policy)` are those of `train_dpo`, and `gradient` is the gradient's norm before it is clipped to 1. A `dropout`
    above 0 leaves attention dropout on. Raises `ValueError` for settings that cannot be used and `FloatingPointError`,
    naming the step, for a loss that is not finite. An interrupt keeps what was trained.
    """
    check_counts(steps=steps, batch_size=batch_size)
    settings = asdict(LossSettings(beta, loss_type, label_smoothing))
    policy, history = trainable_copy(model), []
    if dropout:
        leave_dropout_on(policy, dropout)
        torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, weight_decay=0.0)
    with end_on_interrupt(history, steps):
        for step, indices in enumerate(batches(len(rows), batch_size, steps, seed), start=1):
            batch = [rows[i] for i in indices]
            logps = score(policy, batch)
            losses, *rewards = dpo_loss(*logps, *reference(policy, batch), **settings)
            metrics = metrics_table(losses, *rewards, *logps).mean(dim=0).tolist()
            metrics = dict(zip(("loss", *METRICS), metrics, strict=True))
            metrics["gradient"] = optimizer_step(losses.mean(), optimizer, policy, f"step {step}, rows {indices}")
            if on_step is not None:
                on_step(step, metrics, policy)
            history.append({"step": step, **metrics})
    return policy.eval(), history_table(history)


def implicit_accuracy(policy, reference, rows, score=right_score, batch_size=48) -> float:
    """Return the share of pairs whose chosen reply has the higher implicit reward (Δ > 0), from 0 to 1.

    `policy` and `reference` are models.
    """

    def log_ratios(part):
        ours, theirs = (torch.stack(score(model, part)) for model in (policy, reference))
        return ours - theirs

    return pair_accuracy(log_ratios, rows, batch_size)


# ---- references that are not one ----


@torch.no_grad()
def own_reference(policy, rows):
    """Return the policy's own scores under `no_grad`, as with `ref_model = model` in practice."""
    return right_score(policy, rows)


def own_reference_with_gradient(policy, rows):
    """Return the policy's own scores, with gradient. No trainer does this: Δ is 0 and so is the gradient."""
    return right_score(policy, rows)


# ---- scores that are not the reply's ----


def without_shift(model, rows):
    """Return the sums of log-probs with logits at position t scored against token t, which they have already seen."""
    batch = collate(rows, PAD, model.device)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    picked = logits.log_softmax(dim=-1).gather(2, batch["input_ids"].unsqueeze(2)).squeeze(2)
    return (picked * batch["completion_mask"]).sum(dim=1).chunk(2)


def prompt_counted(model, rows, average=False):
    """Return sums (or means) of log-probs over prompt and reply: every token but the first, which nothing predicts."""
    batch = collate(rows, PAD, model.device)
    batch["completion_mask"] = batch["attention_mask"].clone()
    batch["completion_mask"][:, 0] = 0
    return sequence_logps(model, **batch, average=average).chunk(2)


def pads_counted(model, rows):
    """Return sums of log-probs in which the padding after a shorter reply is scored too."""
    batch = collate(rows, PAD, model.device)
    logps = token_logps(model, batch["input_ids"], batch["attention_mask"])
    counted = batch["completion_mask"].cumsum(dim=1)[:, 1:] > 0
    return torch.where(counted, logps, 0.0).sum(dim=1).chunk(2)


def mean_score(model, rows):
    """Return log-probs per token instead of per reply. This is another loss, and it is not wrong in itself."""
    sums = right_score(model, rows)
    return [total / total.new_tensor([len(row[side]) for row in rows]) for total, side in zip(sums, SIDES, strict=True)]


def leave_dropout_on(model, share) -> None:
    """Set `model` to train mode with attention dropout `share`, so that each pass over a reply gives another log-prob."""
    model.train()
    model.config.attention_dropout = share
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = share


# ---- pairs that teach something else ----


def flip_labels(rows, share, seed=0, order=None):
    """Return the rows (or pairs of texts) with chosen and rejected swapped in `share` of them.

    `share` is from 0 to 1. `order` lists indices of rows, and those in its first `share` are flipped, so a larger share
    flips the same rows and more. By default `seed` draws the order.
    """
    if order is None:
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1000 + seed)).tolist()
    flipped = set(order[: round(share * len(rows))])
    return [swap_replies(row) if i in flipped else row for i, row in enumerate(rows)]


def swap_replies(row):
    """Return a row or a pair of texts with chosen and rejected swapped."""
    return row | {"chosen": row["rejected"], "rejected": row["chosen"]}


def without_eos(rows):
    """Return the rows with the last token of each reply, its end-of-sequence token, left out."""
    return [row | {"chosen": row["chosen"][:-1], "rejected": row["rejected"][:-1]} for row in rows]


def longer_chosen(rows):
    """Return the rows with the longer reply as chosen, as a hurried labeller might label them."""
    return [swap_replies(row) if len(row["rejected"]) > len(row["chosen"]) else row for row in rows]
