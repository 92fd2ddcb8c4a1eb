"""The shared-prompt row: both replies of a pair behind one copy of their prompt. It gives the log-probs of `logps`, faster.

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

from toylib.logps import sequence_logps, token_logps
from toylib.preferences import first_line
from toylib.tokens import collate

PADDING, PROMPT, CHOSEN, REJECTED = -1, 0, 1, 2


def row_length(row) -> int:
    """Return the tokens of a tokenised pair in a shared-prompt row: the prompt once, both replies."""
    return len(row["prompt"]) - 1 + len(row["chosen"]) + len(row["rejected"])


def collate_rows(rows, pad_token_id, device="cpu"):
    """Put tokenised pairs into a batch of shared-prompt rows for `row_logps`, one row per pair, padded on the right.

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
    """Return what each position may look at, as a mask `(batch, 1, length, length)` to add to the attention scores.

    It is 0 for what stands at or before a position in the prompt or in its own branch, and the lowest number of `dtype`
    for the rest. It is additive because eager attention adds whatever it is given, and adding True is silently wrong.
    """
    query, key = branch.unsqueeze(2), branch.unsqueeze(1)
    causal = torch.ones(branch.shape[1], branch.shape[1], dtype=torch.bool, device=branch.device).tril()
    seen = causal & ((key == query) | (key == PROMPT))
    mask = torch.zeros(seen.shape, dtype=dtype, device=branch.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min).unsqueeze(1)


@contextlib.contextmanager
def head_on(model, positions):
    """Let the output head see only the hidden states at `positions` (a boolean `(batch, length)`).

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


@contextlib.contextmanager
def router_losses(model):
    """Collect the auxiliary loss of a router from each forward pass while open: a list of scalars with gradient."""
    found = []
    handle = model.register_forward_hook(lambda _, __, outputs: found.append(getattr(outputs, "aux_loss", None)))
    try:
        yield found
    finally:
        handle.remove()


def row_token_logps(model, input_ids, position_ids, branch, targets):
    """Return the log-prob of every reply token of shared-prompt rows, `(batch, length)`, in nats; 0 elsewhere.

    Inputs are as from `collate_rows`. The softmax is taken in fp32 (float64 for a float64 model), and logits exist for
    reply tokens only. Gradient and train/eval mode are the caller's.
    """
    scored = branch > PROMPT
    mask = row_mask(branch, next(p.dtype for p in model.parameters() if p.is_floating_point()))
    with head_on(model, scored):
        outputs = model(input_ids=input_ids, attention_mask=mask, position_ids=position_ids, use_cache=False)
    logits = outputs.logits[0].to(torch.promote_types(outputs.logits.dtype, torch.float32))
    logps = -F.cross_entropy(logits, targets[scored], reduction="none")
    return logps.new_zeros(branch.shape).masked_scatter(scored, logps)


def row_logps(model, input_ids, position_ids, branch, targets):
    """Return log π(chosen | prompt) and log π(rejected | prompt) of each row, in nats: two tensors of shape `(batch,)`.

    Both equal `sequence_logps` on the same pairs. Inputs are as from `collate_rows`.
    """
    table = row_token_logps(model, input_ids, position_ids, branch, targets)
    return tuple(torch.where(branch == side, table, 0).sum(dim=1) for side in (CHOSEN, REJECTED))


def pair_logps(model, batch):
    """Return `(chosen, rejected)` log-probs, each `(batch,)`, of a batch from `collate_rows` or from `collate`."""
    return row_logps(model, **batch) if "branch" in batch else sequence_logps(model, **batch).chunk(2)


def why_not_shared(model, rows, pad_token_id=0, device=None) -> str | None:
    """Return why these tokenised pairs cannot go through `model` as shared-prompt rows, in one clause; None if they can.

    They cannot where attention is neither sdpa nor eager, where the longest row is longer than a layer's window, and
    where a probe finds a wrong log-prob (`probe`). Raises `ValueError` for a pair longer than the model's positions.
    """
    config = model.config.get_text_config()
    attention = getattr(config, "_attn_implementation", None)
    if attention not in ("sdpa", "eager"):
        return f"{attention} attention takes no mask of its own"
    if getattr(config, "output_router_logits", False):
        return "its router's auxiliary loss is a mean over whole sequences"
    longest = max(rows, key=row_length)
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    if getattr(config, "use_sliding_window", True) is False:
        windows = windows[1:]
    window = min((window for window in windows if window), default=None)
    if window and row_length(longest) > window:
        return f"the longest row has {row_length(longest)} tokens and a layer's attention window is {window}"
    uneven = max(rows, key=lambda row: abs(len(row["chosen"]) - len(row["rejected"])))
    tried = [longest] + [row for row in (uneven, min(rows, key=row_length)) if row is not longest]
    try:
        return probe(model, tried, pad_token_id, device or next(model.parameters()).device)
    except torch.OutOfMemoryError:
        raise  # more memory is missing, and another layout would not help
    except (LookupError, AssertionError, TypeError, ValueError, RuntimeError, AttributeError) as problem:
        limit = getattr(config, "max_position_embeddings", None)
        needed = max(len(row["prompt"]) + max(len(row["chosen"]), len(row["rejected"])) for row in rows)
        if isinstance(problem, IndexError) and limit and needed > limit:
            raise ValueError(f"a pair has more than the model's {limit} positions: lower max_length") from None
        return f"the model does not take such a row ({first_line(problem, 120)})"


@torch.no_grad()
def probe(model, rows, pad_token_id, device) -> str | None:
    """Return what goes wrong if `model` scores `rows` (tokenised pairs) as shared-prompt rows; None if nothing does.

    Three things have to hold for the tokens of every reply. Their log-probs do not depend on the content of the other
    reply, they equal those of `token_logps`, the definition, and they do not depend on the other reply's length.
    """
    vocabulary = model.config.get_text_config().vocab_size
    for row in rows:
        batch = collate_rows([row], pad_token_id, device)
        ours, replies = row_token_logps(model, **batch), batch["branch"] == REJECTED
        limit = 2e-2 if model.dtype in (torch.bfloat16, torch.float16) else 1e-3
        other = row | {"chosen": [(token + 1) % vocabulary for token in row["chosen"]]}
        changed = row_token_logps(model, **collate_rows([other], pad_token_id, device))
        seen = (changed - ours)[replies].abs().max().item()
        if not seen <= 1e-6:  # 0 in any precision where the mask holds
            return f"its mask does not hold: one reply changes the other's log-prob by {seen:.3g} nats per token"
        both = collate([row], pad_token_id, device)
        scored = both.pop("completion_mask").bool()[:, 1:]
        off = (ours[batch["branch"] > PROMPT] - token_logps(model, **both)[scored]).abs().mean().item()
        if not off <= limit:
            return f"its log-probs are {off:.3g} nats away from the definition's, on average per token"
        longer = lengthened(batch, len(row["chosen"]))
        moved = row_token_logps(model, **longer)[longer["branch"] == REJECTED] - ours[replies]
        if not moved.abs().mean().item() <= limit:
            away = moved.abs().mean().item()
            return f"one reply's length changes the other's log-prob by {away:.3g} nats per token"
    return None


def lengthened(batch, chosen_length, tokens=64):
    """Return the shared-prompt row `batch` with its chosen reply repeated, at the same positions, for `tokens` or more.

    It tells whether a model counts positions by itself, and needs no position that the row did not have.
    """
    start = int((batch["branch"] == PROMPT).sum())
    times = 1 + -(-tokens // chosen_length)
    return {
        name: torch.cat(
            [t[:, :start], t[:, start : start + chosen_length].repeat(1, times), t[:, start + chosen_length :]], 1
        )
        for name, t in batch.items()
    }
