"""The β lab: a slider that moves through policies trained at different β, their curves, quality and replies."""

from __future__ import annotations

import html
import re

from toylib import plots
from toylib.plots import sweep as plots_sweep
from toylib.plots.style import in_style
from toylib.widgets.live import live_figure, show_live

STATIC = (0.02, 0.1, 0.5, 5.0)  # the picture for pages without a kernel shows those that were trained
CONTROLS = dict.fromkeys([*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd")


@in_style()
def beta_lab(sweep, beta=0.1) -> None:
    """Show a slider over the β of a `sweep.Sweep`: log-ratios per step, the path through KL and win rate, and replies.

    Curves are means over seeds. The replies are those of the lowest seed's policy. The static picture shows up to four
    β side by side. Raises `ValueError` for a `beta` that was not trained.
    """
    betas = sorted(sweep.quality["beta"].unique())
    if beta not in betas:
        raise ValueError(f"β = {beta!r} is not in this sweep; it has {', '.join(f'{b:g}' for b in betas)}")
    curves = plots_sweep.mean_over_seeds(sweep.curves)
    quality = plots_sweep.mean_over_seeds(sweep.quality[sweep.quality["step"] > 0])
    seed = sweep.replies["seed"].min()
    replies = {b: sweep.replies[(sweep.replies["beta"] == b) & (sweep.replies["seed"] == seed)] for b in betas}
    figure, (left, right) = plots.new_figure(columns=2, width=9.6, height=3.6)
    lines = plots_sweep.lab_curves(left, curves.index.unique("step").max())
    parts = plots_sweep.lab_frontier(right, quality)
    left.set_title("log-ratio of the batch, nats", loc="left")
    right.set_title("win rate over the reference", loc="left")

    def update(beta):
        plots_sweep.show_curves(lines, curves.loc[beta])
        plots_sweep.show_path(parts, quality.loc[beta])
        return describe(beta, curves.loc[beta], quality.loc[beta])

    update(beta)
    left.legend(loc="lower left")
    shown = [b for b in STATIC if b in betas] or betas[:4]
    alt = "The β lab. " + " ".join(sentence(b, curves.loc[b], quality.loc[b]) for b in shown)
    artists = [*lines.values(), *parts.values()]
    live = live_figure(figure, artists, update, betas, beta, "β", alt, lambda one: reply_table(replies[one]))
    show_live(live, plots.png(plots_sweep.lab_grid(sweep.curves, sweep.quality, shown)), alt)


def describe(beta, curves, path) -> list[str]:
    """Return the numbers of the policy after its last step."""
    last = path.iloc[-1]
    return [
        f"β = {beta:g}",
        f"Δ = {curves['margin'].iloc[-5:].mean():.1f} nats",
        f"KL = {last['kl']:.2f} nats",
        f"win rate {last['win']:.2f} [{last['win_low']:.2f}, {last['win_high']:.2f}]",
        f"fluent {last['fluent']:.2f}",
        f"facts right {last['facts']:.2f}",
        f"{last['words']:.0f} words",
    ]


def reply_table(replies, agent="Agent, at this β") -> str:
    """Return replies to the same customers as an HTML table, headed `agent`. A long word does not widen it."""
    rows = "".join(
        f'<tr><td style="padding-right: 1em">{shown_text(message_of(prompt))}</td><td>{shown_text(reply) or "(nothing)"}</td></tr>'
        for prompt, reply in zip(replies["prompt"], replies["reply"], strict=True)
    )
    head = f'<tr style="text-align: left"><th style="width: 40%">Customer</th><th>{agent}</th></tr>'
    look = "table-layout: fixed; width: 100%; overflow-wrap: anywhere; line-height: 1.35; margin: 0.6em 0"
    return f'<table style="{look}">{head}<tbody style="vertical-align: top">{rows}</tbody></table>'


def message_of(prompt) -> str:
    """Return what the customer wrote, out of a prompt of the form "Customer: …\\nAgent:"."""
    return prompt.removeprefix("Customer:").removesuffix("Agent:").strip()


def shown_text(text) -> str:
    """Return text as HTML, with a replacement character for each control character other than a blank."""
    return html.escape(re.sub(r"[^\S ]+", " ", text.strip()).translate(CONTROLS))


def sentence(beta, curves, path) -> str:
    """Return one β in words, for the alternative text."""
    last = path.iloc[-1]
    return (
        f"β {beta:g}: log-ratio of chosen {curves['chosen'].iloc[-1]:+.1f}, of rejected {curves['rejected'].iloc[-1]:+.1f}, "
        f"KL {last['kl']:.1f}, win rate {last['win']:.2f}, fluent {last['fluent']:.2f}."
    )
