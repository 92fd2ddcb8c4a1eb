"""Figures of notebook 09: the memory ledger as bars, and two libraries' curves on one another. Numbers in, Figure out."""

from __future__ import annotations

import math

from matplotlib.patches import Rectangle

from toylib.plots.style import COLORS, PLATE, in_style, new_figure, plain

GB = 1e9
LOOKS = {  # colour and hatch of each part: greys are held all the time, what comes and goes is coloured
    "weights": ("#5A5A5A", ""),
    "reference": ("#8E8C86", "//"),
    "Adam": ("#BDBAB0", ".."),
    "waiting gradients": ("#E8C77A", "\\\\"),
    "gradients": (COLORS["amber"], "\\\\"),
    "activations": (COLORS["other"], "xx"),
    "logits": ("#F0E442", "--"),
}


@in_style()
def memory_bars(ledgers, limits=None, title="what a step holds, GB"):
    """Draw one bar per ledger, `ledgers` a dict of label → `memory.ledger`, its parts end to end and labelled with their GB.

    A bar ends at the step's peak: of activations with logits and of gradients, which are not held at once, the larger
    side is drawn. `limits` is a dict of label → bytes, drawn as vertical lines: what a card has.
    """
    end = 1.12 * max([bar_end(parts) for parts in ledgers.values()] + [b / GB for b in (limits or {}).values()])
    held = [at_the_peak(parts) for parts in ledgers.values()]
    seen = [name for name in LOOKS if any(name in parts for parts in held)]
    figure, bars, totals = empty_bars(list(ledgers), limits, end, title, seen)
    fill_bars(bars, totals, ledgers, end)
    for row, parts in enumerate(held):
        start = 0.0
        for size in parts.values():
            if size > 0.05 * end:
                middle = {"ha": "center", "va": "center"}
                figure.axes[0].text(start + size / 2, row, in_gb(size), fontsize=8, bbox=PLATE, **middle)
            start += size
    return figure


def at_the_peak(parts) -> dict[str, float]:
    """Return the parts of a ledger that are held at its peak, in GB, in the order they are drawn."""
    coming = parts.get("activations", 0) + parts.get("logits", 0)
    gone = ("gradients",) if coming >= parts.get("gradients", 0) else ("activations", "logits")
    return {name: parts[name] / GB for name in LOOKS if parts.get(name) and name not in gone}


def bar_end(parts) -> float:
    """Return the length of a ledger's bar, in GB."""
    return sum(at_the_peak(parts).values())


def in_gb(size) -> str:
    """Return `size`, in GB, with two decimals below 10 and one above."""
    return f"{size:.2f}" if size < 10 else f"{size:.1f}"


@in_style()
def empty_bars(labels, limits, end, title, parts=tuple(LOOKS)):
    """Return the figure of `memory_bars` with bars of no length, for `fill_bars`: `(figure, bars, totals)`.

    `bars` is a dict of label → dict of part → patch, `totals` one of label → text; the axis ends at `end` GB.
    """
    figure, (axis,) = new_figure(height=1.5 + 0.48 * len(labels), width=9.6)
    bars, totals = {label: {} for label in labels}, {}
    for row, label in enumerate(labels):
        for name in parts:
            color, hatch = LOOKS[name]
            patch = Rectangle((0, row - 0.3), 0, 0.6, facecolor=color, edgecolor="white", hatch=hatch, lw=1)
            bars[label][name] = axis.add_patch(patch)
        totals[label] = axis.text(0, row, "", va="center", fontweight="bold")
    finish_axis(axis, labels, limits, end, title)
    names = dict(bars[labels[0]])
    figure.legend(names.values(), names, loc="outside lower center", ncols=4, fontsize=9)
    return figure, bars, totals


def fill_bars(bars, totals, ledgers, end) -> None:
    """Stretch the bars of `empty_bars` to these ledgers; one that leaves the axis says so at its end."""
    for label, parts in ledgers.items():
        start, held = 0.0, at_the_peak(parts)
        for name, patch in bars[label].items():
            patch.set_x(min(start, end))
            start += held.get(name, 0.0)
            patch.set_width(min(start, end) - patch.get_x())
        inside = start < 0.93 * end
        totals[label].set_text(in_gb(start) if inside else f"{in_gb(start)} →")
        totals[label].set_x(start + 0.01 * end if inside else 0.99 * end)
        totals[label].set_ha("left" if inside else "right")
        totals[label].set_bbox(PLATE)


def finish_axis(axis, labels, limits, end, title) -> None:
    """Draw the names of the bars, limits as vertical lines, and the axis in GB."""
    for label, size in (limits or {}).items():
        axis.axvline(size / GB, color=COLORS["ink"], lw=1.2, ls="--")
        axis.text(size / GB, -0.62, f" {plain(label)}", ha="left", va="bottom", fontsize=9)
    axis.set_yticks(range(len(labels)), [plain(label) for label in labels])
    axis.set(xlim=(0, end), ylim=(len(labels) - 0.4, -0.95 if limits else -0.6), xlabel="GB")
    axis.set_title(plain(title), loc="left")
    axis.grid(axis="y", visible=False)


@in_style()
def overlaid_runs(runs, columns):
    """Draw runs that should agree on top of each other: a panel per column, the first run broad and pale, the others dashed.

    `runs` is a dict of label → DataFrame indexed by step; `columns` a dict of column → title of its panel.
    """
    figure, axes = new_figure(columns=len(columns), height=3.2, width=9.6)
    looks = [{"color": COLORS["other"], "lw": 6, "ls": "-"}, {"color": COLORS["ink"], "lw": 1.3, "ls": "--"}]
    for axis, (column, title) in zip(axes, columns.items(), strict=True):
        for number, (label, history) in enumerate(runs.items()):
            axis.plot(history.index, history[column], label=plain(label), **looks[min(number, 1)])
        if column == "loss":
            axis.axhline(math.log(2), color=COLORS["ink"], lw=0.8, ls=":")
        axis.set_title(plain(title), loc="left")
        axis.set_xlabel("step")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(runs), fontsize=9)
    return figure
