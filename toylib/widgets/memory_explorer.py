"""A slider for the pairs per step: what each way of training holds in memory, against what a card has."""

from __future__ import annotations

from toylib import plots
from toylib.plots import memory as plots_memory
from toylib.widgets.live import live_figure, show_live

STATIC = (4, 16, 64)  # the positions that the picture for pages without a kernel shows


def memory_explorer(ledgers, limits, precision="autocast", pairs=16) -> None:
    """Show a slider over the pairs per step, with one bar for each way of training.

    `ledgers` is a dict of pairs per step → dict of way → `labs.memory.ledger`, computed at `precision`. `limits` is a
    dict of label → bytes, drawn as vertical lines. The static picture has the bars of three positions below each other.
    Raises `ValueError` for `pairs` that are not among the ledgers.
    """
    if pairs not in ledgers:
        raise ValueError(f"pairs is one of {', '.join(map(str, ledgers))}, got {pairs!r}")
    ways, title = list(ledgers[pairs]), f"predicted at the peak, {precision}, GB"
    end = 1.25 * max(limits.values()) / plots_memory.GB
    figure, bars, totals = plots_memory.empty_bars(ways, limits, end, title)

    def update(n):
        plots_memory.fill_bars(bars, totals, ledgers[n], end)
        sums = (f"{way} {plots_memory.bar_end(ledgers[n][way]):.2f} GB" for way in ways)
        return [f"{n} pairs per step", *sums]

    artists = [patch for bar in bars.values() for patch in bar.values()] + list(totals.values())
    static = {f"{n} pairs, {way}": ledgers[n][way] for n in STATIC if n in ledgers for way in ways}
    sums = (f"{label}: {plots_memory.bar_end(parts):.2f} GB." for label, parts in static.items())
    alt = "What one step holds at its peak. " + " ".join(sums)
    live = live_figure(figure, artists, update, ledgers, pairs, "pairs", alt)
    show_live(live, plots.png(plots_memory.memory_bars(static, limits, title)), alt)
