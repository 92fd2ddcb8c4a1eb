"""One reply, token by token: which row of logits, which target, scored or masked, and the running sum. Notebook 02."""

from __future__ import annotations

from toylib import plots
from toylib.plots import tokens as plots_tokens
from toylib.widgets.live import escaped, live_figure, show_live


def shift_and_mask(tokens, logps, start) -> None:
    """Show a slider through the tokens of a prompt and its reply, each as the target of the row of logits before it.

    Args:
        tokens: the texts of all tokens, in their order.
        logps: the log-prob (nats) of each token but the first.
        start: the position of the reply's first token.

    Raises:
        ValueError: if the numbers of tokens and log-probs do not fit, or `start` is not among the tokens.
    """
    if len(logps) != len(tokens) - 1:
        raise ValueError(f"{len(tokens)} tokens need {len(tokens) - 1} log-probs, got {len(logps)}")
    if not 0 < start < len(tokens):
        raise ValueError(f"start must be from 1 to {len(tokens) - 1}, got {start!r}")
    figure, panels = plots_tokens.shift_panels(tokens, logps, start)

    def update(position):
        total = plots_tokens.move_to_target(panels, position)
        entries = [f"target {position}, {escaped(plots_tokens.visible(tokens[position]))}"]
        entries += [f"from row {position - 1}", f"log-prob {plots_tokens.nats(logps[position - 1])} nats"]
        entries += ["scored" if position >= start else "masked: it belongs to the prompt"]
        return [*entries, f"sum {plots_tokens.nats(total)} nats"]

    last = len(tokens) - 1
    total = sum(logps[start - 1 :])
    alt = (
        f"Tokens 0 to {last} in a row, and below each its target, the token after it. Targets up to {start - 1} belong to "
        f"the prompt and are masked; {start} to {last} are scored, and their log-probs add up to {plots_tokens.nats(total)} nats."
    )
    update(last)
    picture = plots.png(figure)
    show_live(live_figure(figure, panels["artists"], update, range(1, len(tokens)), start, "target", alt), picture, alt)
