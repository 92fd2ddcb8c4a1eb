"""Check code that a reader wrote from memory, and name what is wrong with it. Notebook 10."""

from __future__ import annotations

import copy
import time
from types import SimpleNamespace

import torch
import torch.nn.functional as F

from toylib.logps import sequence_logps

OPEN = "not answered yet"
PARTS = {  # what belongs into the drill until this minute
    15: "the seven lines on paper",
    35: "the two functions",
    45: "three must-know cards, aloud",
    60: "three cards of the group Debug it, aloud",
}


class Drill:
    """Time the 60-minute drill, and check its two functions on one batch.

    Args:
        policy, reference: two models that differ a little.
        batch: from `collate`, the chosen replies before the rejected ones.
    """

    def __init__(self, policy, reference, batch):
        self.policy, self.reference, self.batch = policy, reference, batch
        self.start()

    def start(self) -> None:
        """Start the clock, or start it again."""
        self.started = time.monotonic()
        print(f"{max(PARTS)} minutes. The clock is running: {PARTS[min(PARTS)]} first.")

    def check(self, my_sequence_logps, my_dpo_loss) -> None:
        """Print a verdict on each function. Once one of them is written, print the minute and what belongs there too."""
        verdicts = [
            check_sequence_logps(my_sequence_logps, self.policy, self.batch),
            check_dpo_loss(my_dpo_loss, self.policy, self.reference, self.batch),
        ]
        print(f"my_sequence_logps: {verdicts[0]}\nmy_dpo_loss:       {verdicts[1]}")
        if verdicts != [OPEN, OPEN]:
            print(self.clock())

    def clock(self) -> str:
        """Return the minute of the drill, and which part belongs there."""
        minute = (time.monotonic() - self.started) / 60
        part = next((part for end, part in PARTS.items() if minute < end), "time is up: count your points")
        return f"minute {int(minute) + 1} of {max(PARTS)}: {part}"


def check_sequence_logps(answer, model, batch) -> str:
    """Check `answer(model, **batch)`, which should return the log-prob of each row's reply, of shape (rows,).

    `batch` is from `collate`: `input_ids`, `attention_mask` and `completion_mask`, padded on the right. Returns one
    sentence: "✓ right", or what is wrong.
    """
    given = _asked(lambda: answer(model, **batch))
    if isinstance(given, str):
        return given
    verdict = _named(given, sequence_logps(model, **batch), _wrong_logps(model, **batch))
    if verdict.startswith("✓") and not given.requires_grad:
        return "right numbers, but without a gradient: the policy could not learn from them"
    return _overflows(answer, model, batch) if verdict.startswith("✓") else verdict


def check_dpo_loss(answer, policy, reference, batch, beta=0.3) -> str:
    """Check `answer(policy, reference, batch, beta)`, which should return the mean DPO loss of a batch.

    `batch` is from `collate`. Its first half has the chosen replies and its second half the rejected ones. The reference
    that `answer` gets is *not* frozen, because we check whether it gets a gradient. Returns one sentence: "✓ right", or
    what is wrong.
    """
    policy, reference = copy.deepcopy(policy), copy.deepcopy(reference).requires_grad_(True)
    given = _asked(lambda: answer(policy, reference, batch, beta))
    if isinstance(given, str):
        return given
    with torch.no_grad():
        four, means = (
            [sequence_logps(m, **batch, average=a).chunk(2) for m in (policy, reference)] for a in (False, True)
        )
    (chosen, rejected), (ref_chosen, ref_rejected) = four
    delta = (chosen - ref_chosen) - (rejected - ref_rejected)
    verdict = _named(given, -F.logsigmoid(beta * delta).mean(), _wrong_losses(four, means, beta))
    if not verdict.startswith("✓"):
        return verdict
    if not given.requires_grad:
        return "the right number, but without a gradient: nothing could be learned from it"
    given.backward()
    if any(p.grad is not None for p in reference.parameters()):
        return "the right number, but the reference gets a gradient: score it under torch.no_grad()"
    return _saturates(answer, policy, reference, batch, delta)


@torch.no_grad()
def _overflows(answer, model, batch) -> str:
    """Return "✓ right", or that the log of a softmax underflows where the logits are large."""

    def loud(*args, **kwargs):
        return SimpleNamespace(logits=1000 * model(*args, **kwargs).logits)

    try:
        safe = bool(answer(loud, **batch).isfinite().all())
    except Exception:  # noqa: BLE001 (the answer uses more of a model than its logits; that is fine)
        safe = True
    return "✓ right" if safe else "right here, but log(softmax) is −inf for unlikely tokens: use log_softmax"


@torch.no_grad()
def _saturates(answer, policy, reference, batch, delta) -> str:
    """Return "✓ right", or that the log of a sigmoid overflows where a pair is far wrong: |βΔ| = 1000 there."""
    beta = -1000 / float(delta[delta.abs().argmax()])
    given, right = answer(policy, reference, batch, beta), -F.logsigmoid(beta * delta).mean()
    if torch.isfinite(given) and torch.allclose(given.float(), right, rtol=1e-3):
        return "✓ right"
    return "right here, but log(σ(z)) is −inf once z is below about −100: use logsigmoid, which takes both in one step"


def _asked(call):
    """Return the tensor that `call` returns, or a sentence if there is nothing to check."""
    try:
        given = call()
    except NotImplementedError:
        return OPEN
    if given is None:
        return OPEN
    return given if isinstance(given, torch.Tensor) else f"a tensor is wanted, and this is a {type(given).__name__}"


def _named(given, right, wrong) -> str:
    """Return "✓ right", or the description of the mistake in `wrong` (description → its result) that gives this result."""
    value = given.detach()
    if not value.isfinite().all():
        return "nan or inf: use log_softmax and logsigmoid, which do not overflow"
    matching = [description for description, other in {"✓ right": right, **wrong}.items() if _close(value, other)]
    if matching:
        return matching[0]
    if value.shape != right.shape:
        return f"the shape is {tuple(value.shape)} and should be {tuple(right.shape)}"
    return f"none of the usual slips: {value.flatten()[0]:.4f}, and it should be {right.flatten()[0]:.4f}"


def _close(value, other):
    return value.shape == other.shape and torch.allclose(value.double(), other.double(), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def _wrong_logps(model, input_ids, attention_mask, completion_mask) -> dict[str, torch.Tensor]:
    """Return what the usual mistakes give for a batch, by their description."""
    logits = model(input_ids=input_ids, attention_mask=attention_mask).logits
    logps, ids, mask, read = logits.log_softmax(-1), input_ids[:, 1:], completion_mask[:, 1:], attention_mask[:, 1:]

    def total(rows, ids, mask):
        return (rows.gather(2, ids.unsqueeze(2)).squeeze(2) * mask).sum(1)

    rows, beyond = logps[:, :-1], torch.clamp(1 - read + mask, max=1)
    right = total(rows, ids, mask)
    return {
        "the shift is missing: row t of the logits predicts token t + 1": total(logps, input_ids, completion_mask),
        "the shift goes the wrong way: row t − 1 predicts token t": total(
            logps[:, 1:], input_ids[:, :-1], completion_mask[:, :-1]
        ),
        "a mean where the sum belongs: divided by the reply's length, it is another loss": right / mask.sum(1),
        "a mean over the whole row, where the sum over the reply belongs": right / mask.shape[1],
        "the prompt is counted: mask with completion_mask, not attention_mask": total(rows, ids, read),
        "prompt and padding are counted: the mask is not used": total(rows, ids, torch.ones_like(mask)),
        "the padding is counted: the mask must end with the reply": total(rows, ids, beyond),
        "the mask is one token off: shift it together with the tokens": total(rows, ids, completion_mask[:, :-1]),
        "the softmax runs over the positions: dim=-1 is the vocabulary": total(
            logits.log_softmax(1)[:, :-1], ids, mask
        ),
        "there is no log-softmax: these are logits": total(logits[:, :-1], ids, mask),
        "these are probabilities added up: take their logarithms": total(rows.exp(), ids, mask),
        "the sign is turned: a log-prob is at most 0": -right,
        "summed over the batch too: one number for each row is wanted": right.sum(),
    }


def _wrong_losses(four, means, beta) -> dict[str, torch.Tensor]:
    """Return what the usual mistakes give as loss, by their description, from sums and means of the four log-probs."""
    (chosen, rejected), (ref_chosen, ref_rejected) = four
    up, down = chosen - ref_chosen, rejected - ref_rejected
    (mean_chosen, mean_rejected), (mean_ref_chosen, mean_ref_rejected) = means
    delta, loss = up - down, lambda z: -F.logsigmoid(z)
    reference_plus = (chosen + ref_chosen) - (rejected + ref_rejected)
    of_means = (mean_chosen - mean_ref_chosen) - (mean_rejected - mean_ref_rejected)
    per_pair = {
        "the sign of Δ is wrong: chosen minus rejected, policy minus reference": loss(-beta * delta),
        "the minus is missing: the loss is −log σ": -loss(beta * delta),
        "β stands on the policy's side only: it multiplies the whole Δ": loss(
            beta * (chosen - rejected) - (ref_chosen - ref_rejected)
        ),
        "β stands on the chosen side only: it multiplies the whole Δ": loss(beta * up - down),
        "β stands on the rejected side only: it multiplies the whole Δ": loss(up - beta * down),
        "β is missing": loss(delta),
        "β divides: it multiplies Δ": loss(delta / beta),
        "the reference is missing: Δ is of log-ratios": loss(beta * (chosen - rejected)),
        "the reference is added: a log-ratio is policy minus reference": loss(beta * reference_plus),
        "token means where sums belong": loss(beta * of_means),
        "the logarithm is missing: −log σ, not 1 − σ": torch.sigmoid(-beta * delta),
        "the logarithm is missing: −log σ, not −σ": -torch.sigmoid(beta * delta),
        "Δ is always 0: both log-probs come from one model": loss(0 * delta),
    }
    right = loss(beta * delta)
    summed = {"summed over the pairs: take the mean": right.sum(), "one loss per pair: take the mean": right}
    return {description: losses.mean() for description, losses in per_pair.items()} | summed
