"""Figures of notebook 06: broken runs beside the right one, on the same axes. Numbers in, a matplotlib Figure out."""

from __future__ import annotations

import math
from textwrap import fill

from toylib.plots.style import COLORS, in_style, new_figure, panel_grid, plain, styled_figure

RUNS = (  # the first is the right run; colour, line and marker differ, so that each can be told without the others
    {"color": COLORS["ink"], "linestyle": "-", "marker": "o"},
    {"color": COLORS["amber"], "linestyle": "--", "marker": "s"},
    {"color": COLORS["other"], "linestyle": "-.", "marker": "^"},
    {"color": COLORS["grey"], "linestyle": ":", "marker": "D"},
)
SCALE = {"loss": math.log(2), "chosen": 0.0, "rejected": 0.0, "margin": 0.0, "win": 0.5}  # where each one starts
TITLES = {
    "loss": "loss",
    "accuracy": "accuracy",
    "chosen": "chosen log-ratio",
    "rejected": "rejected log-ratio",
    "margin": "margin Δ, nats",
    "gradient": "gradient norm",
    "kl": "KL, nats",
    "win": "win rate",
    "fluent": "fluent",
    "on_topic": "on topic",
    "words": "words per reply",
}


def titled(figure, title) -> None:
    """Set a sentence above all panels, if there is one."""
    if title:
        figure.suptitle(plain(title), x=0.01, ha="left", fontsize=11)


@in_style()
def run_curves(runs, columns, symlog=(), title=""):
    """Draw one panel per column of the logs, with the right run and the broken runs in each.

    `runs` is a dict of label → DataFrame indexed by step, the right run first, at most four. A column that is measured
    at a few steps only (NaN between) is drawn with markers. Columns in `symlog` get a logarithmic axis that is linear
    within ±1, with ticks there, which their title says. `title` is a sentence above all panels.
    """
    figure, axes = panel_grid(len(columns))
    titled(figure, title)
    last = max(history.index[-1] for history in runs.values())
    for axis, column in zip(axes, columns, strict=True):
        for (label, history), style in zip(runs.items(), RUNS[: len(runs)], strict=True):
            draw_run(axis, history, column, label=plain(label), **style)
        finish_panel(axis, column, last, column in symlog)
        mark = ", log axis" if column in symlog else ""
        axis.set_title(plain(TITLES.get(column, column)) + mark, loc="left", fontsize=9)
        axis.set_xlabel("step", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(runs), fontsize=9)
    return figure


@in_style()
def curves_by_run(runs, columns, symlog=()):
    """Draw a row of panels per run and a panel per column of its log, with one scale per column.

    `runs` is a dict of label → DataFrame indexed by step; the rest is as for `run_curves`.
    """
    figure = styled_figure(8.6, 1.05 * len(runs) + 0.5)
    axes = figure.subplots(len(runs), len(columns), sharex=True, sharey="col", squeeze=False)
    last = max(history.index[-1] for history in runs.values())
    for row, (label, one) in zip(axes, runs.items(), strict=True):
        row[0].set_ylabel(plain(label), rotation=0, fontsize=13, fontweight="bold", labelpad=14, va="center")
        for axis, column in zip(row, columns, strict=True):
            draw_run(axis, one, column, color=COLORS["ink"], linestyle="-")
            finish_panel(axis, column, last, column in symlog, labelsize=7)
    for top, bottom, column in zip(axes[0], axes[-1], columns, strict=True):
        mark = " (log)" if column in symlog else ""
        top.set_title(plain(TITLES.get(column, column)) + mark, loc="left", fontsize=9)
        bottom.set_xlabel("step", fontsize=9)
    return figure


def draw_run(axis, history, column, marker=None, **look):
    """Draw one column of a run's log, with markers if it was measured at a few steps only."""
    values = history[column].dropna() if column in history else []
    if len(values):
        sparse = len(values) < 12
        axis.plot(values.index, values, ms=5, lw=2.0 if sparse else 1.3, marker=marker if sparse else None, **look)


def finish_panel(axis, column, last, symlog, labelsize=8):
    """Set the scale and the range of steps, and draw the level at which the column starts."""
    if column in SCALE:
        axis.axhline(SCALE[column], color=COLORS["ink"], lw=0.8, ls=(0, (1, 3)))
    if symlog:
        axis.set_yscale("symlog", linthresh=1)
        reach = max(abs(limit) for limit in axis.get_ylim())
        marks = [10.0**power for power in range(max(1, math.ceil(math.log10(max(reach, 1.1)))))]
        low, high = axis.get_ylim()
        axis.set_yticks([mark for mark in (*(-m for m in reversed(marks)), 0, *marks) if low <= mark <= high])
        axis.yaxis.set_major_formatter("{x:g}")
    axis.set_xlim(0, 1.04 * last)
    axis.tick_params(labelsize=labelsize)


@in_style()
def dot_rows(groups, xlabel, linear=1e-4, title=""):
    """Draw one line of dots per group, `groups` a dict of label → values with the right run first.

    The axis is linear within `linear` of 0.
    """
    figure, (axis,) = new_figure(height=0.9 + 0.3 * bool(title) + 0.45 * len(groups))
    titled(figure, title)
    for row, values in enumerate(groups.values()):
        style = RUNS[min(row, 1)]
        axis.plot(values, [-row] * len(values), ls="", marker=style["marker"], color=style["color"], alpha=0.6, ms=6)
    axis.set_yticks([-row for row in range(len(groups))], [plain(label) for label in groups])
    axis.set_ylim(0.6 - len(groups), 0.6)
    axis.axvline(0, color=COLORS["ink"], lw=0.8)
    axis.set_xscale("symlog", linthresh=linear)
    axis.margins(x=0.06)
    axis.set_xlabel(plain(xlabel))
    return figure


@in_style()
def bars(table, title=""):
    """Draw one panel per column of `table` (a DataFrame of values above 0), one bar per row with its value beside it."""
    figure, axes = new_figure(columns=len(table.columns), height=1.2 + 0.36 * len(table), sharey=True)
    titled(figure, title)
    for axis, column in zip(axes, table.columns, strict=True):
        end = 1.25 * table[column].max()
        for row, value in enumerate(table[column]):
            axis.barh(-row, value, height=0.6, color=COLORS["grey"], alpha=0.75)
            axis.text(value + 0.01 * end, -row, f"{value:.2f}", va="center", fontsize=9)
        axis.set_xlim(0, end)
        if end > 1 >= table[column].max():  # a share: room for the number, but no mark beyond 1
            axis.set_xticks([0, 0.5, 1])
        axis.set_title(plain(column), loc="left", fontsize=10)
        axis.grid(axis="y", visible=False)
    axes[0].set_yticks([-row for row in range(len(table))], [plain(label) for label in table.index])
    return figure


@in_style()
def flips(by_share, remedies, title="", kls=(0.5, 0.25)):
    """Draw plain DPO by share of flipped labels, and beside it what each remedy adds to it, with 95 % intervals.

    `by_share`: a DataFrame indexed by the share flipped, with the win rates `steps` (at equal steps) and `kl` (at equal
    KL), each with `_low` and `_high`, and `clean`, the accuracy on clean pairs. `remedies`: indexed by method, with
    differences in win rate from plain DPO under the same names. `kls` are the equal KL of the two, nats per reply.
    """
    figure, (left, right) = new_figure(columns=2, height=3.6, gridspec_kw={"width_ratios": [1.2, 1]})
    titled(figure, title)
    for column, style in (("steps", RUNS[0]), ("kl", RUNS[1])):
        for axis, table, kl in ((left, by_share, kls[0]), (right, remedies, kls[1])):
            label = f"equal KL, {kl:g} nats" if column == "kl" else "equal steps"
            away = abs(table[[f"{column}_low", f"{column}_high"]].sub(table[column], axis=0)).T.to_numpy()
            if axis is left:
                axis.errorbar(100 * table.index, table[column], away, label=f"win rate, {label}", capsize=3, **style)
            else:
                places = [-row + (0.14 if column == "steps" else -0.14) for row in range(len(table))]
                look = {"color": style["color"], "marker": style["marker"], "ls": "", "capsize": 3, "label": label}
                axis.errorbar(table[column], places, xerr=away, **look)
    left.plot(100 * by_share.index, by_share["clean"], label="clean pairs ranked right", **RUNS[2])
    left.axhline(0.5, color=COLORS["ink"], lw=0.8, ls=(0, (1, 3)))
    left.set_xlabel("labels flipped, %")
    left.legend(fontsize=8, loc="lower left")
    right.axvline(0, color=COLORS["ink"], lw=0.8)
    right.set_yticks([-row for row in range(len(remedies))], [plain(name) for name in remedies.index])
    right.set_ylim(0.6 - len(remedies), 0.6)
    right.set_xlabel("win rate, difference from plain DPO")
    right.legend(fontsize=8)
    return figure


@in_style()
def pairs_to_label(pairs, title):
    """Draw pairs as text: `(prompt, reply a, reply b)` each, the prompt above its two replies."""
    wrapped = [(fill(f"Customer: {prompt}", 105), fill(f"A  {a}", 52), fill(f"B  {b}", 52)) for prompt, a, b in pairs]
    lines = [[text.count("\n") + 1 for text in texts] for texts in wrapped]
    figure = styled_figure(8.6, 0.5 + sum(0.3 + 0.2 * (one[0] + max(one[1:])) for one in lines))
    top, height = figure.get_figheight() - 0.5, figure.get_figheight()
    figure.text(0.01, 1 - 0.25 / height, plain(title), fontsize=11, va="center")
    for texts, (first, *both) in zip(wrapped, lines, strict=True):
        for x, text, drop in zip((0.01, 0.03, 0.52), texts, (0, 0.2 * first, 0.2 * first), strict=True):
            figure.text(
                x, (top - drop) / height, plain(text), va="top", fontsize=9, weight="normal" if drop else "bold"
            )
        top -= 0.3 + 0.2 * (first + max(both))
    return figure
