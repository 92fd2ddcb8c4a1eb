"""From a model's logits to the log-prob of a reply: shift, pick, mask, sum. Shown in notebook 02."""

from __future__ import annotations

import torch
from torch import Tensor


def token_logps(model, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """log p(token | everything before it) for every token but the first, in nats.

    `input_ids` and `attention_mask` are `(batch, length)`, padded on either side; the result is `(batch, length − 1)`,
    and its column t belongs to `input_ids[:, t + 1]`. That is the shift: logits at position t predict token t + 1.
    The softmax is taken in fp32 (float64 for a float64 model). Values at padding are finite and mean nothing.
    """
    position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    outputs = model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False)
    logits = outputs.logits[:, :-1]
    logits = logits if logits.dtype == torch.float64 else logits.float()
    targets = input_ids[:, 1:]
    return logits.log_softmax(dim=-1).gather(2, targets.unsqueeze(2)).squeeze(2)


def sequence_logps(
    model, input_ids: Tensor, attention_mask: Tensor, completion_mask: Tensor, average: bool = False
) -> Tensor:
    """log π(reply | prompt) of each row, in nats, shape `(batch,)`: the textbook way, one sequence a row.

    All three inputs are `(batch, length)`. `completion_mask` is aligned with `input_ids` and is 1 on the tokens to
    score (the reply and its end-of-sequence token, not the prompt, not the padding); the shift is done inside. Any
    padding side gives the same result. `average=True` divides by the number of scored tokens, which is another
    loss with another β (notebook 02). Gradient and train/eval mode are the caller's.

    Raises `ValueError` for shapes that differ, for a row with nothing to score, and for a scored token that is
    padding or has nothing before it to be predicted from.
    """
    shapes = [tuple(t.shape) for t in (input_ids, attention_mask, completion_mask)]
    if len(set(shapes)) > 1 or input_ids.dim() != 2:
        raise ValueError(
            "input_ids, attention_mask and completion_mask must have one shape (batch, length), "
            f"got {shapes[0]}, {shapes[1]} and {shapes[2]}"
        )
    scored = completion_mask.bool()
    predictable = attention_mask.bool() & (attention_mask.cumsum(dim=1) > 1)
    for problem, rows in (
        ("has no token to score: completion_mask is 0 everywhere", ~scored.any(dim=1)),
        ("scores padding, or a first token that nothing predicts", (scored & ~predictable).any(dim=1)),
    ):
        if rows.any():
            raise ValueError(f"row {int(rows.nonzero()[0])} {problem}")

    # Padding goes to the right, where no token can look back at it: a row that begins with nothing to attend to is NaN
    # under eager attention in float64, and so is its gradient.
    order = attention_mask.int().argsort(dim=1, descending=True, stable=True)
    input_ids, attention_mask, scored = (t.gather(1, order) for t in (input_ids, attention_mask, scored))
    logps = token_logps(model, input_ids, attention_mask)
    scored = scored[:, 1:]
    totals = torch.where(scored, logps, torch.zeros_like(logps)).sum(dim=1)
    return totals / scored.sum(dim=1) if average else totals
