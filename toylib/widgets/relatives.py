"""A slider that walks through DPO and its relatives: one path through KL and win rate at a time, and its replies."""

from __future__ import annotations

from toylib import plots
from toylib.plots import relatives as plots_relatives
from toylib.widgets.beta_lab import reply_table
from toylib.widgets.live import live_figure, show_live


def walk_through(quality, best, replies, method="dpo") -> None:
    """Show a slider over methods: the path of one among all of them, its numbers at its best, and six replies.

    `quality` is the table of all runs, `best` has one row of mean numbers for each method, indexed by method, and
    `replies` has the columns `method`, `prompt` and `reply`. Methods without replies are left out.
    """
    known = set(replies["method"]) & set(best.index)
    methods = [name for name in plots_relatives.METHODS if name in known]
    paths = plots_relatives.mean_paths(quality)
    figure, parts = plots_relatives.walk(quality)

    def update(name):
        plots_relatives.highlight(parts, paths.loc[name], plots_relatives.METHODS[name])
        return describe(name, best.loc[name])

    def below(name):
        return reply_table(replies[replies["method"] == name], "Agent")

    alt = "Win rate against KL, one method at a time. " + " ".join(sentence(name, best.loc[name]) for name in methods)
    live = live_figure(figure, list(parts.values()), update, methods, method, "method", alt, below)
    show_live(live, plots.png(plots_relatives.frontier(quality)), alt)


def describe(name, row) -> list[str]:
    """Return a method's numbers at its best as short texts."""
    return [
        plots_relatives.METHODS[name],
        f"KL = {row['kl']:.2f} nats",
        f"win rate {row['win']:.2f}",
        f"fluent {row['fluent']:.2f}",
        f"{row['words']:.0f} words",
    ]


def sentence(name, row) -> str:
    """Return a method's numbers in words, for the alternative text."""
    return f"{plots_relatives.METHODS[name]}: KL {row['kl']:.1f}, win rate {row['win']:.2f}, {row['words']:.0f} words."
