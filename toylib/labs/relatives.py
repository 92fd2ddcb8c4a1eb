"""The relatives of DPO: their losses, and one loop that trains any of them. Shown in notebook 08."""

from __future__ import annotations

import functools
import inspect
import math
import time
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from toylib.engine.arguments import check_counts
from toylib.engine.prefix_sharing import collate_rows, pair_logps, why_not_shared
from toylib.labs.loops import end_on_interrupt, history_table, trainable_copy
from toylib.loss import LossSettings, dpo_loss
from toylib.reference import frozen_copy
from toylib.tokens import check_fits, collate, pad_id, tokenize_pairs
from toylib.train import METRICS, batches, optimizer_step, print_progress


class Scored(NamedTuple):
    """What a loss sees of a batch. Log-probs are sums over a reply's tokens, in nats; tensors are `(replies,)`."""

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    kl: Tensor | None = None  # KTO's estimate of KL(πθ ‖ πref), a scalar without gradient


# ---- the losses: `Scored` in, one number per pair (KTO: per reply) out ----


def direct(scored: Scored, beta=0.1, loss_type="sigmoid", average=False) -> Tensor:
    """Return `dpo_loss` on the log-probs, or with `average` on log-probs per token (length-normalised DPO)."""
    lengths = (scored.chosen_tokens, scored.rejected_tokens) * 2 if average else (1, 1, 1, 1)
    return dpo_loss(*(logps / n for logps, n in zip(scored[:4], lengths, strict=True)), beta, loss_type).losses


def sft(scored: Scored) -> Tensor:
    """Return the loss of supervised fine-tuning on the chosen replies. Its mean is −log π per token of the batch."""
    return -scored.chosen / scored.chosen_tokens.float().mean()


def rpo(scored: Scored, beta=0.1, alpha=1.0) -> Tensor:
    """Return DPO + `alpha` · NLL of the chosen reply: Pang et al. 2024 (arXiv 2404.19733), eq. 1."""
    return direct(scored, beta) + alpha * sft(scored)


def dpo_positive(scored: Scored, beta=0.1, penalty=50.0) -> Tensor:
    """Return −log σ(β·(Δ − `penalty` · max(0, −chosen log-ratio))): Pal et al. 2024 (arXiv 2402.13228), eq. 3."""
    chosen, rejected = scored.chosen - scored.ref_chosen, scored.rejected - scored.ref_rejected
    return -F.logsigmoid(beta * (chosen - rejected - penalty * torch.relu(-chosen)))


def orpo(scored: Scored, beta=0.1) -> Tensor:
    """Return SFT − β·log σ(log odds ratio), without a reference: Hong et al. 2024 (arXiv 2403.07691), eq. 6 and 7.

    The odds p / (1 − p) are those of the mean log-prob per token. β is the paper's λ.
    """
    chosen, rejected = scored.chosen / scored.chosen_tokens, scored.rejected / scored.rejected_tokens
    log_odds = [logp - torch.log(-torch.expm1(logp)) for logp in (chosen, rejected)]
    return sft(scored) - beta * F.logsigmoid(log_odds[0] - log_odds[1])


def simpo(scored: Scored, beta=2.0, gamma=1.0) -> Tensor:
    """Return −log σ(β·(difference of log π per token) − γ): Meng et al. 2024 (arXiv 2405.14734), eq. 6. No reference."""
    chosen, rejected = scored.chosen / scored.chosen_tokens, scored.rejected / scored.rejected_tokens
    return -F.logsigmoid(beta * (chosen - rejected) - gamma)


def kto(scored: Scored, beta=0.1, desirable=1.0, undesirable=1.0) -> Tensor:
    """Return the losses of liked and disliked replies, which do not have to be pairs: `(replies,)`.

    `desirable` · (1 − σ(β·(log-ratio − KL))) and `undesirable` · (1 − σ(β·(KL − log-ratio))): Ethayarajh et al. 2024
    (arXiv 2402.01306), eq. 7.
    """
    liked = beta * (scored.chosen - scored.ref_chosen - scored.kl)
    disliked = beta * (scored.kl - scored.rejected + scored.ref_rejected)
    return torch.cat((desirable * torch.sigmoid(-liked), undesirable * torch.sigmoid(-disliked)))


METHODS = {
    "sft": sft,
    "dpo": direct,
    "ipo": functools.partial(direct, loss_type="ipo"),
    "dpo_norm": functools.partial(direct, average=True),
    "apo_zero": functools.partial(direct, loss_type="apo_zero"),
    "apo_down": functools.partial(direct, loss_type="apo_down"),
    "rpo": rpo,
    "dpo_positive": dpo_positive,
    "orpo": orpo,
    "simpo": simpo,
    "kto": kto,
}


# ---- the loop ----


class Single(NamedTuple):
    """One tokenised reply to one prompt, and whether it was liked."""

    prompt: list[int]
    reply: list[int]
    liked: bool


def tokenized_singles(examples, tokenizer) -> list[Single]:
    """Return the tokenised replies of rows with `prompt`, `completion` and a true or false `label`."""
    pairs = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": ""} for row in examples]
    rows = tokenize_pairs(pairs, tokenizer)  # beside an empty reply, which is not used, any other one makes a pair
    return [Single(row["prompt"], row["chosen"], bool(examples[row["number"] - 1]["label"])) for row in rows]


def pair_scores(policy, reference, rows, layout) -> tuple[Tensor, ...]:
    """Return log-probs of tokenised pairs: the policy's of chosen and rejected, with gradient, and the reference's.

    `layout(rows)` puts them into a batch for `pair_logps`.
    """
    batch = layout(rows)
    with torch.no_grad():
        reference_logps = pair_logps(reference, batch)
    return (*pair_logps(policy, batch), *reference_logps)


def score_pairs(policy, reference, rows, layout) -> Scored:
    """Return what the losses need of tokenised pairs, with the policy's gradient."""
    tokens = [torch.tensor([len(row[side]) for row in rows], device=policy.device) for side in ("chosen", "rejected")]
    return Scored(*pair_scores(policy, reference, rows, layout), *tokens)


def score_singles(policy, reference, singles, layout) -> Scored:
    """Return what `kto` needs of `Single`s: the liked ones are `chosen`, the others `rejected`.

    `kl` is the mean log-ratio of each prompt with the reply of the one before it, in the order liked, then disliked,
    and at least 0 (arXiv 2402.01306, section 4.1; TRL's `KTOTrainer`).
    """
    singles = sorted(singles, key=lambda single: not single.liked)
    rows = [
        {"prompt": single.prompt, "chosen": single.reply, "rejected": singles[i - 1].reply}
        for i, single in enumerate(singles)
    ]
    logps, others, ref_logps, ref_others = pair_scores(policy, reference, rows, layout)
    kl = (others.detach() - ref_others).mean().clamp(min=0)
    tokens = torch.tensor([len(single.reply) for single in singles])
    liked = sum(single.liked for single in singles)
    sides = [liked, len(singles) - liked]
    return Scored(*logps.split(sides), *ref_logps.split(sides), *tokens.split(sides), kl)


@torch.no_grad()
def batch_metrics(scored: Scored, loss: Tensor, beta: float) -> dict[str, float]:
    """Return the loss and `METRICS` of a batch as floats. Rewards are β · log-ratio. Single replies have no accuracy."""
    chosen, rejected = beta * (scored.chosen - scored.ref_chosen), beta * (scored.rejected - scored.ref_rejected)
    right = math.nan
    if len(chosen) == len(rejected):
        right = (chosen > rejected).float().mean().item()
    margin = chosen.mean() - rejected.mean()
    values = (loss, chosen.mean(), rejected.mean(), margin, right, scored.chosen.mean(), scored.rejected.mean())
    return dict(zip(("loss", *METRICS), map(float, values), strict=True))


def train_relative(
    model, tokenizer, examples, method="dpo", *, learning_rate=1e-4, steps=60, batch_size=12, seed=0, on_step=None,
    **settings,
):  # fmt: skip
    """Train a copy of `model` by one of `METHODS` and return `(policy, history)`. `model` is left untouched.

    `examples` are pairs as from `load_preferences`, or for `kto` also rows with `prompt`, `completion` and a true or
    false `label`. `batch_size` counts examples, so a batch of pairs has twice as many replies. `settings` are those of
    the method's loss (`beta` and others). Optimizer, batches, `history`, `on_step`, interrupts and errors are those of
    `train_dpo`: `dpo` trains the same policy. Reference-free methods log rewards too, with β = 1 where they have none.

    Raises `ValueError` for a method or setting that is not known, and for single replies where pairs are needed.
    """
    loss_of = checked_method(method, settings)
    check_counts(steps=steps, batch_size=batch_size)
    rows, score, layout = prepared(model, tokenizer, list(examples), method)
    if method == "kto" and batch_size * len(rows[0]) < 2:
        raise ValueError("kto needs at least two replies in a batch, because it estimates the KL from them")
    policy, reference = trainable_copy(model), frozen_copy(model)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, weight_decay=0.0)
    history, started = [], time.monotonic()
    with end_on_interrupt(history, steps):
        for step, indices in enumerate(batches(len(rows), batch_size, steps, seed), start=1):
            scored = score(policy, reference, [reply for i in indices for reply in rows[i]], layout)
            loss = loss_of(scored, **settings).mean()
            metrics = batch_metrics(scored, loss.detach(), settings.get("beta", default_beta(loss_of)))
            optimizer_step(loss, optimizer, policy, f"step {step}")
            if on_step is not None:
                on_step(step, metrics, policy)
            history.append({"step": step, **metrics})
            print_progress(step, steps, metrics, started)
    return policy, history_table(history)


def prepared(model, tokenizer, examples, method):
    """Return `(rows, score, layout)` of a run: a list of tokenised parts for each example, and how a batch is scored.

    Pairs go through the model as shared-prompt rows where it can take them (`engine.prefix_sharing`).
    """
    pad = pad_id(tokenizer, model.config.get_text_config().vocab_size)
    single = bool(examples) and "label" in examples[0]
    if single and method != "kto":
        raise ValueError(f"{method} needs pairs; single replies with a label train kto only")
    singles = tokenized_singles(examples, tokenizer) if single else []
    pairs = tokenize_pairs(examples, tokenizer) if not single else []
    checked = pairs or [
        {"number": n, "prompt": one.prompt, "chosen": one.reply, "rejected": one.reply[-1:]}
        for n, one in enumerate(singles, 1)
    ]
    check_fits(model, {"train": checked})
    collate_inputs = collate if why_not_shared(model, checked, pad) else collate_rows
    layout = functools.partial(collate_inputs, pad_token_id=pad, device=model.device)
    if single:
        return [[one] for one in singles], score_singles, layout
    if method != "kto":
        return [[row] for row in pairs], score_pairs, layout
    sides = (("chosen", True), ("rejected", False))
    return [[Single(row["prompt"], row[side], liked) for side, liked in sides] for row in pairs], score_singles, layout


def checked_method(method, settings):
    """Return the loss function of a method. Raises `ValueError`, naming it, for an unknown method or setting."""
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    known = set(inspect.signature(METHODS[method]).parameters) - {"scored", "loss_type", "average"}
    for name, value in settings.items():
        if name not in known:
            raise ValueError(f"{method} has no setting {name!r}: it has {', '.join(sorted(known)) or 'none'}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
            raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    if "beta" in settings:
        LossSettings(settings["beta"])
    return METHODS[method]


def default_beta(loss_of) -> float:
    """Return a loss function's default β, or 1 where it has none."""
    parameters = inspect.signature(loss_of).parameters
    return parameters["beta"].default if "beta" in parameters else 1.0
