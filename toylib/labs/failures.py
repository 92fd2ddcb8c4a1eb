"""DPO with its doors left open: a loop that scores as it is told, and the ways of telling it wrong. Shown in notebook 06.

`score(model, rows)` gives the log-probs of chosen and rejected replies, two tensors of shape `(len(rows),)`, in nats.
`reference(policy, rows)` gives the same two for the reference. `rows` are tokenised pairs (`tokenize_pairs`).
"""

from __future__ import annotations

import copy
import itertools

import torch

from toylib.engine.prefix_sharing import collate_rows, row_logps
from toylib.logps import sequence_logps, token_logps
from toylib.loss import dpo_loss
from toylib.tokens import collate
from toylib.train import batches

PAD = 0  # what fills rows up: the right code never looks at it


def right_score(model, rows):
    """log π(reply | prompt), both replies behind one copy of the prompt: `sequence_logps`, two and a half times faster."""
    return row_logps(model, **collate_rows(rows, PAD, model.device))


def score_once(model, rows, score=right_score, batch_size=48):
    """A frozen reference: `rows` scored by `model` once, now; the result is a `reference(policy, rows)` that looks up.

    It knows each reply by its pair's number and its tokens, so it also answers for pairs that were turned round, and
    raises `KeyError` for a reply that it has not scored.
    """
    known = {}
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            for name, logps in zip(("chosen", "rejected"), score(model, part), strict=True):
                known |= {(row["number"], *row[name]): logp for row, logp in zip(part, logps, strict=True)}

    def reference(policy, rows):
        return [torch.stack([known[row["number"], *row[name]] for row in rows]) for name in ("chosen", "rejected")]

    return reference


def score_beside(model, score=right_score):
    """A frozen reference that is scored anew, in the very batch that the policy is scored in."""
    return torch.no_grad()(lambda policy, rows: score(model, rows))


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
    """The loop of notebook 04 with `score` and `reference` (see above) as arguments; returns `(policy, history)`.

    `history` is a DataFrame indexed by step: `loss`, `accuracy`, mean log-ratios `chosen` and `rejected` and their
    difference `margin` in nats, and `gradient`, the norm before it is clipped to 1; all of that step's batch, before
    its update. `dropout` above 0 leaves attention dropout on in the policy. `on_step(step, policy)` follows each update.
    """
    import pandas

    policy, history = copy.deepcopy(model).requires_grad_(True), []
    if dropout:
        leave_dropout_on(policy, dropout)
        torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, weight_decay=0.0)
    for step, indices in enumerate(batches(len(rows), batch_size, steps, seed), start=1):
        batch = [rows[i] for i in indices]
        chosen, rejected = score(policy, batch)
        ref_chosen, ref_rejected = reference(policy, batch)
        loss = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta, loss_type, label_smoothing).losses.mean()
        optimizer.zero_grad()
        loss.backward()
        gradient = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0).item()
        optimizer.step()
        ratios = torch.stack((chosen - ref_chosen, rejected - ref_rejected)).detach()
        line = {"step": step, "loss": loss.item(), "gradient": gradient}
        line |= {"accuracy": (ratios[0] > ratios[1]).float().mean().item()}
        line |= dict(zip(("chosen", "rejected"), ratios.mean(dim=1).tolist(), strict=True))
        history.append(line | {"margin": line["chosen"] - line["rejected"]})
        if on_step is not None:
            on_step(step, policy)
    return policy.eval(), pandas.DataFrame(history).set_index("step")


@torch.no_grad()
def implicit_accuracy(policy, reference, rows, score=right_score, batch_size=48) -> float:
    """The share of pairs whose chosen reply has the higher implicit reward, that is Δ > 0, as from 0 to 1."""
    right = 0
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        ours, theirs = (torch.stack(score(model, part)) for model in (policy, reference))
        right += ((ours - theirs)[0] > (ours - theirs)[1]).sum().item()
    return right / len(rows)


# ---- references that are not one ----


def tied_reference(policy, rows):
    """The policy itself, gradient and all: `ref_model = model`."""
    return right_score(policy, rows)


@torch.no_grad()
def synced_reference(policy, rows):
    """The policy as it is now, without gradient: a copy that is taken anew at every step."""
    return right_score(policy, rows)


# ---- scores that are not the reply's ----


def without_shift(model, rows):
    """Logits at position t against token t, which they have already seen."""
    batch = collate(rows, PAD, model.device)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    picked = logits.log_softmax(dim=-1).gather(2, batch["input_ids"].unsqueeze(2)).squeeze(2)
    return (picked * batch["completion_mask"]).sum(dim=1).chunk(2)


def prompt_counted(model, rows, average=False):
    """The prompt mask forgotten: every token but the first, which nothing predicts, is scored. Sums or means."""
    batch = collate(rows, PAD, model.device)
    batch["completion_mask"] = batch["attention_mask"].clone()
    batch["completion_mask"][:, 0] = 0
    return sequence_logps(model, **batch, average=average).chunk(2)


def pads_counted(model, rows):
    """The mask ends with the longest row of the batch, not with the reply: what stands in the padding is scored too."""
    batch = collate(rows, PAD, model.device)
    logps = token_logps(model, batch["input_ids"], batch["attention_mask"])
    counted = batch["completion_mask"].cumsum(dim=1)[:, 1:] > 0
    return torch.where(counted, logps, 0.0).sum(dim=1).chunk(2)


def mean_score(model, rows):
    """Log-prob a token instead of a reply: another loss, and not wrong in itself."""
    sums = right_score(model, rows)
    return [
        s / s.new_tensor([len(row[name]) for row in rows]) for s, name in zip(sums, ("chosen", "rejected"), strict=True)
    ]


def leave_dropout_on(model, share) -> None:
    """Train mode with attention dropout, in place: each pass over the same reply gives another log-prob."""
    model.train()
    model.config.attention_dropout = share
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = share


# ---- pairs that teach something else ----


def flip_labels(rows, share, seed=0):
    """Chosen and rejected swapped in `share` of the rows, drawn by `seed`; a larger share flips the same rows and more."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1000 + seed)).tolist()
    flipped = set(order[: round(share * len(rows))])
    return [turned_round(row) if i in flipped else row for i, row in enumerate(rows)]


def turned_round(row):
    return row | {"chosen": row["rejected"], "rejected": row["chosen"]}


def without_eos(rows):
    """The end-of-sequence token left out of what is scored."""
    return [row | {"chosen": row["chosen"][:-1], "rejected": row["rejected"][:-1]} for row in rows]


def longer_chosen(rows):
    """A labeller in a hurry, who takes the longer of two replies for the better one."""
    return [turned_round(row) if len(row["rejected"]) > len(row["chosen"]) else row for row in rows]


# ---- comparing ----


def at_equal_kl(run, kl: float, column: str) -> float:
    """What `column` was when the run's KL first reached `kl`: a straight line between the two checkpoints around it.

    `run` is a DataFrame with the columns `step`, `kl` and `column`, one line a checkpoint. NaN if the run began beyond
    `kl` or never came there: nothing is guessed.
    """
    run = run.sort_values("step")
    points = list(zip(run["kl"], run[column], strict=True))
    for (before, value_before), (after, value_after) in itertools.pairwise(points):
        if before <= kl <= after:
            share = (kl - before) / (after - before) if after > before else 0.0
            return value_before + share * (value_after - value_before)
    return float("nan")
