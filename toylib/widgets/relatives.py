"""A slider that walks through DPO and its relatives: one path through KL and win rate at a time, and its replies."""

from __future__ import annotations

from toylib import plots
from toylib.plots import relatives as plots_relatives
from toylib.widgets.beta_lab import shown_text
from toylib.widgets.live import live_figure, readout, show_live


def walk_through(quality, best, replies, method="dpo") -> None:
    """Show a slider over methods: the path of one among all of them, its numbers at its best, and six replies.

    `quality` is the table of all runs, `best` has one row of mean numbers for each method, indexed by method, and
    `replies` has the columns `method`, `prompt` and `reply`. Methods without replies are left out.
    """
    import ipywidgets

    known = set(replies["method"]) & set(best.index)
    methods = [name for name in plots_relatives.METHODS if name in known]
    paths = plots_relatives.mean_paths(quality)
    figure, parts = plots_relatives.walk(quality)

    def update(name):
        plots_relatives.highlight(parts, paths.loc[name], plots_relatives.METHODS[name])
        return readout(*describe(name, best.loc[name])) + reply_table(replies[replies["method"] == name])

    slider = ipywidgets.SelectionSlider(
        options=[(plots_relatives.METHODS[name], name) for name in methods],
        value=method,
        description="method",
        layout={"width": "100%", "max_width": f"{figure.bbox.width:.0f}px"},
    )
    box = live_figure(figure, list(parts.values()), update, slider)
    alt = "Win rate against KL, one method at a time. " + " ".join(sentence(name, best.loc[name]) for name in methods)
    show_live(box, plots.png(plots_relatives.frontier(quality)), alt)


def describe(name, row) -> list[str]:
    """Return a method's numbers at its best as short texts."""
    return [
        plots_relatives.METHODS[name],
        f"KL = {row['kl']:.2f} nats",
        f"win rate {row['win']:.2f}",
        f"fluent {row['fluent']:.2f}",
        f"{row['words']:.0f} words",
    ]


def reply_table(replies) -> str:
    """Return a method's replies to the same customers as an HTML table. A long word does not widen it."""
    messages = replies["prompt"].str.removeprefix("Customer: ").str.removesuffix("\nAgent:")
    rows = "".join(
        f'<tr><td style="padding-right: 1em">{shown_text(prompt)}</td><td>{shown_text(reply) or "(nothing)"}</td></tr>'
        for prompt, reply in zip(messages, replies["reply"], strict=True)
    )
    head = '<tr style="text-align: left"><th style="width: 40%">Customer</th><th>Agent</th></tr>'
    look = "table-layout: fixed; width: 100%; overflow-wrap: anywhere; line-height: 1.35; margin: 0.6em 0"
    return f'<table style="{look}">{head}<tbody style="vertical-align: top">{rows}</tbody></table>'


def sentence(name, row) -> str:
    """Return a method's numbers in words, for the alternative text."""
    return f"{plots_relatives.METHODS[name]}: KL {row['kl']:.1f}, win rate {row['win']:.2f}, {row['words']:.0f} words."
