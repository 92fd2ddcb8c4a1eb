"""A slider for the pairs a step: what each way of training holds, against what a card has."""

from __future__ import annotations

from toylib import plots
from toylib.labs.memory import WAYS, ledger, peak
from toylib.plots import memory as plots_memory
from toylib.widgets.live import live_figure, readout, show_live, slider_for

PAIRS = (1, 2, 4, 8, 16, 32, 64)
STATIC = (4, 16, 64)  # what the picture for pages without a kernel shows


def memory_explorer(shape, length, scored, limits, precision="autocast", pairs=16, an_update=16) -> None:
    """A slider over `PAIRS`: the bars of `plots_memory.memory_bars` for the three ways, at one `precision`.

    With fewer than `an_update` pairs at once the update is split, and gradients wait. `shape`, `length` and `scored`
    are as for `memory.ledger`, `limits` a dict of label → bytes. The static picture has the bars of three positions one
    below the other. `ValueError` for `pairs` that are not on the slider.
    """
    if pairs not in PAIRS:
        raise ValueError(f"pairs is one of {', '.join(map(str, PAIRS))}, got {pairs!r}")
    held = {
        n: {way: ledger(shape, n, length, scored, precision, way, split=n < an_update) for way in WAYS} for n in PAIRS
    }
    end = 1.25 * max(limits.values()) / plots_memory.GB
    figure, bars, totals = plots_memory.empty_bars(WAYS, limits, end, f"held at the peak, {precision}, GB")

    def update(n):
        plots_memory.fill_bars(bars, totals, held[n], end)
        return readout(f"{n} pairs a step", *(f"{way} {peak(held[n][way]) / 1e9:.2f} GB" for way in WAYS))

    slider = slider_for(figure, PAIRS, pairs, "pairs")
    artists = [patch for bar in bars.values() for patch in bar.values()] + list(totals.values())
    box = live_figure(figure, artists, update, slider)
    static = {f"{n} pairs, {way}": held[n][way] for n in STATIC for way in WAYS}
    alt = "What one step holds at its peak. " + " ".join(
        f"{label}: {peak(parts) / 1e9:.2f} GB." for label, parts in static.items()
    )
    show_live(box, plots.png(plots_memory.memory_bars(static, limits, f"held at the peak, {precision}, GB")), alt)
