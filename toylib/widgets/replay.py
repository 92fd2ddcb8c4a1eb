"""One pair through a training run: its four log-probs, Δ and loss at each step, and what the policy says then. Notebook 04."""

from __future__ import annotations

from collections import Counter

from toylib import plots
from toylib.plots import pair as plots_pair
from toylib.widgets.beta_lab import shown_text
from toylib.widgets.live import live_figure, show_live


def replay(scored, reference, replies, beta=0.1) -> None:
    """Show a slider over the steps of a training run: one pair's arrows, Δ and loss, and under them the replies.

    Args:
        scored: step → the policy's log-probs of the pair, `(chosen, rejected)`, in nats, in the order of the steps.
        reference: the reference's log-probs, `(chosen, rejected)`, in nats.
        replies: step → what the policy says to the pair's prompt at that step, a list of texts.
        beta: the β of the training.

    Raises:
        ValueError: if there are fewer than two steps, or `replies` has other steps than `scored`.
    """
    steps = list(scored)
    if len(steps) < 2 or steps != list(replies):
        raise ValueError(f"scored and replies must have the same two steps or more, got {steps} and {list(replies)}")
    figure, panels = plots_pair.replay_panels(steps, list(scored.values()), reference)

    def update(step):
        delta = plots_pair.move_to_step(panels, steps.index(step))
        ratios = [logp - start for logp, start in zip(scored[step], reference, strict=True)]
        entries = [f"log-ratio of {role} {one:+.2f}" for role, one in zip(("chosen", "rejected"), ratios, strict=True)]
        entries += [f"Δ = {delta:.2f} nats", f"loss = {plots_pair.pair_values(delta, beta)[1]:.4f}"]
        return [f"step {step}", *(entry.replace("-0.00", "+0.00").replace(" -", " −") for entry in entries)]

    told = "; ".join(
        f"{', '.join(update(step))}, most sampled reply “{Counter(replies[step]).most_common(1)[0][0].strip()}”"
        for step in (steps[0], steps[len(steps) // 2], steps[-1])
    )
    alt = f"One pair through {steps[-1]} training steps at β = {beta:g}: {told}."
    picture = plots.png(figure)
    live = live_figure(figure, panels["artists"], update, steps, steps[-1], "step", alt, lambda one: said(replies[one]))
    show_live(live, picture, alt)


def said(texts) -> str:
    """Return replies as an HTML list, each text once with how often it came, the commonest first."""
    counted = Counter(texts).most_common()
    rows = "".join(f"<li>{count} × {shown_text(text) or '(nothing)'}</li>" for text, count in counted)
    return f'{len(texts)} sampled replies at this step:<ul style="margin: 0; overflow-wrap: anywhere">{rows}</ul>'
