"""From a model's logits to the log-prob of a reply: shift, pick, mask, sum. Shown in notebook 02."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def position_ids(model: nn.Module, attention_mask: Tensor) -> Tensor:
    """Return the position of every token as `model` counts them, `(batch, length)`: padding takes none.

    Positions start at 0, or at `padding_idx + 1` in RoBERTa and its kin, whose position table says so.
    """
    start = 0
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            start = module.padding_idx + 1
    return (attention_mask.cumsum(dim=1) - 1).clamp(min=0) + start


def vocabulary_logps(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, precision: torch.dtype = torch.float32
) -> Tensor:
    """Return log p(v | everything before it) for every token v of the vocabulary, `(batch, length − 1, vocabulary)`, in nats.

    Row t holds the predictions for `input_ids[:, t + 1]`. That is the shift: logits at position t predict token t + 1.
    The softmax is taken in `precision` (float64 for a float64 model).
    """
    places = position_ids(model, attention_mask)
    outputs = model(input_ids=input_ids, attention_mask=attention_mask, position_ids=places, use_cache=False)
    logits = outputs.logits[:, :-1]
    return logits.to(torch.promote_types(logits.dtype, precision)).log_softmax(dim=-1)


def token_logps(model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return log p(token | everything before it) for every token but the first, `(batch, length − 1)`, in nats.

    `input_ids` and `attention_mask` are `(batch, length)`, padded on either side. Column t belongs to
    `input_ids[:, t + 1]`. Values at padding are finite and mean nothing.
    """
    logps = vocabulary_logps(model, input_ids, attention_mask)
    return logps.gather(2, input_ids[:, 1:].unsqueeze(2)).squeeze(2)


def padded_right(attention_mask: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Return the mask and the other `(batch, length)` tensors with all padding moved to the right, order kept."""
    order = attention_mask.int().argsort(dim=1, descending=True, stable=True)
    return tuple(tensor.gather(1, order) for tensor in (attention_mask, *others))


def sequence_logps(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, completion_mask: Tensor, average: bool = False
) -> Tensor:
    """Return log π(reply | prompt) of each row, in nats, shape `(batch,)`: the textbook way, one sequence per row.

    All three inputs are `(batch, length)`. `completion_mask` is aligned with `input_ids`. It is 1 on the tokens to score,
    which are the reply and its end-of-sequence token, and 0 on prompt and padding. The shift is done inside. Any padding
    side gives the same result. `average=True` divides by the number of scored tokens, which is another loss with another
    β (notebook 02). The caller decides about gradients and about train or eval mode.

    Raises: `ValueError` for shapes that differ, for a row with nothing to score, and for a scored token that is padding
    or has nothing before it to be predicted from.
    """
    shapes = [tuple(t.shape) for t in (input_ids, attention_mask, completion_mask)]
    if len(set(shapes)) > 1 or input_ids.dim() != 2:
        raise ValueError(f"input_ids, attention_mask and completion_mask must have one shape (batch, length): {shapes}")
    scored = completion_mask.bool()
    predictable = attention_mask.bool() & (attention_mask.cumsum(dim=1) > 1)
    for problem, rows in (
        ("has no token to score: completion_mask is 0 everywhere", ~scored.any(dim=1)),
        ("scores padding, or a first token that nothing predicts", (scored & ~predictable).any(dim=1)),
    ):
        if rows.any():
            raise ValueError(f"row {int(rows.nonzero()[0])} {problem}")

    # Padding goes to the right, where no token can look back at it. A row that begins with padding has nothing to attend
    # to, and eager attention in float64 makes NaN of that.
    attention_mask, input_ids, scored = padded_right(attention_mask, input_ids, scored)
    logps = token_logps(model, input_ids, attention_mask)
    scored = scored[:, 1:]
    totals = torch.where(scored, logps, torch.zeros_like(logps)).sum(dim=1)
    return totals / scored.sum(dim=1) if average else totals
