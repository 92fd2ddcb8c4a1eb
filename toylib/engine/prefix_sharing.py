"""The shared-prompt row: both replies of a pair behind one copy of their prompt. The log-probs of `logps`, faster.

    prompt[:-1] | prompt[-1] chosen[:-1] | prompt[-1] rejected[:-1]     what the model reads
      0  …  0   |       1  …  1          |        2  …  2               branch: each reply sees the prompt and itself
         –      |        chosen          |        rejected              target: what each position has to predict

The last prompt token opens both branches, both times at position P − 1, so every reply token is predicted one place
before it. Positions restart in each branch. Padding is branch −1 and seen by no one else.
"""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F

from toylib.logps import sequence_logps
from toylib.preferences import first_line
from toylib.tokens import collate

PADDING, PROMPT, CHOSEN, REJECTED = -1, 0, 1, 2


def row_length(row) -> int:
    """Tokens of a tokenised pair (`tokenize_pairs`) in a shared-prompt row: the prompt once, both replies."""
    return len(row["prompt"]) - 1 + len(row["chosen"]) + len(row["rejected"])


def collate_rows(rows, pad_token_id, device="cpu"):
    """Tokenised pairs as a batch of shared-prompt rows for `row_logps`, one row a pair, padded on the right.

    Returns a dict of `input_ids`, `position_ids`, `branch` and `targets`, each `(batch, length)`.
    """
    shape = (len(rows), max(map(row_length, rows)))
    batch = {name: torch.zeros(shape, dtype=torch.long) for name in ("position_ids", "targets")}
    batch |= {"input_ids": torch.full(shape, pad_token_id), "branch": torch.full(shape, PADDING)}
    for i, row in enumerate(rows):
        prompt, chosen, rejected = row["prompt"], row["chosen"], row["rejected"]
        last = len(prompt) - 1
        columns = {
            "input_ids": prompt[:-1] + prompt[-1:] + chosen[:-1] + prompt[-1:] + rejected[:-1],
            "position_ids": [*range(last), *range(last, last + len(chosen)), *range(last, last + len(rejected))],
            "branch": [PROMPT] * last + [CHOSEN] * len(chosen) + [REJECTED] * len(rejected),
            "targets": [0] * last + chosen + rejected,
        }
        for name, values in columns.items():
            batch[name][i, : len(values)] = torch.tensor(values)
    return {name: tensor.to(device) for name, tensor in batch.items()}


def row_mask(branch, dtype):
    """What each position may look at, as a mask `(batch, 1, length, length)` to add to the attention scores.

    0 for what stands at or before it in the prompt or in its own branch, the lowest number of `dtype` for the rest.
    Additive and not boolean: eager attention adds whatever it is given, and adding True is silently wrong.
    """
    query, key = branch.unsqueeze(2), branch.unsqueeze(1)
    causal = torch.ones(branch.shape[1], branch.shape[1], dtype=torch.bool, device=branch.device).tril()
    seen = causal & ((key == query) | (key == PROMPT))
    mask = torch.zeros(seen.shape, dtype=dtype, device=branch.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min).unsqueeze(1)


@contextlib.contextmanager
def head_on(model, positions):
    """While open, the output head sees only the hidden states at `positions` (a boolean `(batch, length)`).

    Its logits are then `(1, number of positions, vocabulary)`. (`logits_to_keep` takes such a mask only from
    transformers 5.22 on.) `model` may be wrapped for several processes.
    """
    while hasattr(model, "module"):
        model = model.module
    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, x: (x[0][positions.to(x[0].device)].unsqueeze(0), *x[1:]))
    try:
        yield
    finally:
        handle.remove()


def row_logps(model, input_ids, position_ids, branch, targets):
    """log π(chosen | prompt) and log π(rejected | prompt) of each row, in nats: two tensors of shape `(batch,)`.

    Equal to `sequence_logps` on the same pairs; inputs are as from `collate_rows`. The softmax is taken in fp32
    (float64 for a float64 model), and logits exist for reply tokens only. Gradient and mode are the caller's.
    """
    scored = branch > PROMPT
    mask = row_mask(branch, next(p.dtype for p in model.parameters() if p.is_floating_point()))
    with head_on(model, scored):
        outputs = model(input_ids=input_ids, attention_mask=mask, position_ids=position_ids, use_cache=False)
    logits = outputs.logits[0].to(torch.promote_types(outputs.logits.dtype, torch.float32))
    logps = -F.cross_entropy(logits, targets[scored], reduction="none")
    table = logps.new_zeros(branch.shape).masked_scatter(scored, logps)
    return tuple(torch.where(branch == side, table, 0).sum(dim=1) for side in (CHOSEN, REJECTED))


def pair_logps(model, batch):
    """`(chosen, rejected)` log-probs, each `(batch,)`, of a batch in either layout, `collate_rows`' or `collate`'s."""
    return row_logps(model, **batch) if "branch" in batch else sequence_logps(model, **batch).chunk(2)


@torch.no_grad()
def why_not_shared(model, rows, pad_token_id=0, device=None) -> str | None:
    """Why these tokenised pairs cannot go through `model` as shared-prompt rows, in one clause; None if they can.

    They cannot where attention is neither sdpa nor eager, where the longest row is over a layer's window, and where a
    probe with that row differs from `sequence_logps`, the definition, or lets one reply see the other.
    """
    config = model.config.get_text_config()
    attention = getattr(config, "_attn_implementation", None)
    if attention not in ("sdpa", "eager"):
        return f"{attention} attention takes no mask of its own"
    longest = max(rows, key=row_length)
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    if getattr(config, "use_sliding_window", True) is False:
        windows = windows[1:]
    window = min((window for window in windows if window), default=None)
    if window and row_length(longest) > window:
        return f"the longest row has {row_length(longest)} tokens and a layer's attention window is {window}"
    device = device or next(model.parameters()).device
    other = longest | {"chosen": [(token + 1) % config.vocab_size for token in longest["chosen"]]}
    try:
        ours = torch.stack(row_logps(model, **collate_rows([longest, other], pad_token_id, device)))
        definition = torch.stack(sequence_logps(model, **collate([longest], pad_token_id, device)).chunk(2))
    except torch.OutOfMemoryError:
        raise  # more memory is what is missing, not another layout
    except IndexError:
        limit = getattr(config, "max_position_embeddings", "so many")
        raise ValueError(f"the longest pair has more than the model's {limit} positions: lower max_length") from None
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError) as problem:
        return f"the model does not take such a row ({first_line(problem, 120)})"
    room = 1e-3 if definition.dtype == torch.float64 or model.dtype == torch.float32 else 3e-2
    off, seen = (ours[:, :1] - definition).abs().max().item(), (ours[1, 0] - ours[1, 1]).abs().item()
    size = max(1.0, definition.abs().max().item())
    if not seen <= 1e-5 * size:  # 0 in any precision where the mask holds
        return f"its mask does not hold: one reply changes the other's log-prob by {seen:.3g} nats"
    if not off <= room * size:
        return f"on the longest row its log-probs are {off:.3g} nats away from the definition's"
    return None
