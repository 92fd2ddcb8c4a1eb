"""How a policy does on held-out prompts, as one row of numbers: what notebooks 05 to 07 compare runs by."""

from __future__ import annotations

from toylib.evaluation.comparisons import win_rate
from toylib.evaluation.judge import judge
from toylib.replies import kl_to_reference, sample_replies

JUDGED = ("score", "fluent", "on_topic", "facts", "words")


def report(policy, reference, tokenizer, prompts, intents, baseline=None, *, seed=0):
    """`(row, texts)`: what `policy` answers to `prompts` at temperature 1, and how far and how well, as a dict.

    `kl` and `kl_error`: KL(πθ ‖ πref), nats per reply, and its standard error. `score`, `fluent`, `on_topic`, `facts`,
    `words`: means over replies of what `judge` says of each. With `baseline`, the scores of other replies to the same
    prompts in the same order: `win`, `win_low` and `win_high`, the win rate over them and its 95 % interval.

    `prompts` and `intents` are equally long lists, as in `load_prompts`; `seed` is that of the sampling.
    """
    replies = sample_replies(policy, tokenizer, prompts, seed=seed)
    judged = judge(prompts, replies.texts, intents)
    kl, error = kl_to_reference(policy, reference, replies)
    row = {"kl": kl, "kl_error": error} | {name: float(judged[name].mean()) for name in JUDGED}
    if baseline is not None:
        row |= dict(zip(("win", "win_low", "win_high"), win_rate(judged["score"], baseline), strict=True))
    return row, replies.texts
