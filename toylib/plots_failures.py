"""Figures of notebook 06: broken runs beside the right one, on the same axes. Numbers in, a matplotlib Figure out."""

from __future__ import annotations

import math

from toylib.plots import COLORS, new_figure

RUNS = (  # the first is the right run; colour, line and marker differ, so that each can be told without the others
    {"color": COLORS["ink"], "linestyle": "-", "marker": "o"},
    {"color": COLORS["rejected"], "linestyle": "--", "marker": "s"},
    {"color": COLORS["other"], "linestyle": "-.", "marker": "^"},
    {"color": COLORS["margin"], "linestyle": ":", "marker": "D"},
    {"color": COLORS["chosen"], "linestyle": (0, (6, 2, 1, 2, 1, 2)), "marker": "v"},
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
    "words": "words a reply",
}


def beside(runs, columns, logarithmic=(), height=2.6):
    """One panel a column, all runs in each: what the log of the broken run shows beside that of the right one.

    `runs` is a dict of label → DataFrame indexed by step, the right run first. A column that is measured at a few
    steps only (NaN between) is drawn with markers. Columns in `logarithmic` get such an axis (symmetric, linear within 1).
    """
    figure, axes = new_figure(columns=len(columns), height=height, width=1.64 * max(3, len(columns)))
    for axis, column in zip(axes, columns, strict=True):
        for (label, history), style in zip(runs.items(), RUNS, strict=False):
            values = history[column].dropna() if column in history else []
            sparse = len(values) < 12
            look = style if sparse else {k: v for k, v in style.items() if k != "marker"} | {"lw": 1.1}
            if len(values):
                axis.plot(values.index, values, label=label, ms=5, **look)
        if column in SCALE:
            axis.axhline(SCALE[column], color=COLORS["ink"], lw=0.8, ls=(0, (1, 3)))
        if column in logarithmic:
            axis.set_yscale("symlog", linthresh=1)
        axis.set_title(TITLES.get(column, column), loc="left", fontsize=9)
        axis.set_xlabel("step", fontsize=9)
        axis.tick_params(labelsize=8)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(runs), fontsize=9)
    return figure


def strips(groups, xlabel, mark=0.0, linear=1e-4):
    """One line of dots a group, `groups` a dict of label → values, on an axis that is linear within `linear` of 0."""
    figure, (axis,) = new_figure(height=0.9 + 0.45 * len(groups))
    for row, ((_, values), style) in enumerate(zip(groups.items(), RUNS, strict=False)):
        axis.plot(values, [-row] * len(values), ls="", marker=style["marker"], color=style["color"], alpha=0.6, ms=6)
    axis.set_yticks([-row for row in range(len(groups))], list(groups))
    axis.set_ylim(0.6 - len(groups), 0.6)
    axis.axvline(mark, color=COLORS["ink"], lw=0.8)
    axis.set_xscale("symlog", linthresh=linear)
    axis.set_xlabel(xlabel)
    return figure


def lines(groups, xlabel, ylabel, marks=()):
    """A few lines with markers in one panel: `groups` is a dict of label → (x values, y values); `marks` are levels."""
    figure, (axis,) = new_figure()
    for (label, (x, y)), style in zip(groups.items(), RUNS, strict=False):
        axis.plot(x, y, label=label, ms=5, **style)
    for level in marks:
        axis.axhline(level, color=COLORS["ink"], lw=0.8, ls=(0, (1, 3)))
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.legend(fontsize=9)
    return figure


def bars(table, limits=None):
    """One panel a column of `table` (a DataFrame), one bar a row, its value beside it. `limits`: column → (low, high)."""
    figure, axes = new_figure(columns=len(table.columns), height=0.9 + 0.36 * len(table), sharey=True)
    for axis, column in zip(axes, table.columns, strict=True):
        low, high = (limits or {}).get(column, (0.0, 1.25 * table[column].max()))
        for row, value in enumerate(table[column]):
            style = RUNS[0] if row == 0 else RUNS[1]
            axis.barh(-row, value - low, left=low, height=0.6, color=style["color"], alpha=0.75)
            axis.text(value + 0.01 * (high - low), -row, f"{value:.2f}", va="center", fontsize=9)
        axis.set_xlim(low, high)
        axis.set_title(column, loc="left", fontsize=10)
        axis.grid(axis="y", visible=False)
    axes[0].set_yticks([-row for row in range(len(table))], list(table.index))
    return figure


def flips(plain, methods):
    """Left: what flipped labels do to plain DPO. Right: what is said to help, at equal steps and at equal KL.

    `plain`: DataFrame indexed by the share flipped, columns `win` and `clean` (accuracy on clean pairs), each with its
    lowest and highest seed, `win_low`, …. `methods`: DataFrame indexed by method with `steps`, `kl` (win rates at equal
    steps and KL) and their lowest and highest seed, `steps_low`, ….
    """
    figure, axes = new_figure(columns=3, height=3.4, width=10.0, gridspec_kw={"width_ratios": [1.1, 1, 1]})
    for column, label, style in (("win", "win rate", RUNS[0]), ("clean", "accuracy on clean pairs", RUNS[2])):
        low, high = plain[column] - plain[f"{column}_low"], plain[f"{column}_high"] - plain[column]
        axes[0].errorbar(100 * plain.index, plain[column], [low, high], label=label, ms=5, capsize=3, **style)
    axes[0].axhline(0.5, color=COLORS["ink"], lw=0.8, ls=(0, (1, 3)))
    axes[0].set_xlabel("labels flipped, %")
    axes[0].set_title("plain DPO", loc="left", fontsize=10)
    axes[0].legend(fontsize=8)
    for axis, column, title in ((axes[1], "steps", "win rate, equal steps"), (axes[2], "kl", "win rate, equal KL")):
        for row, (_, line) in enumerate(methods.iterrows()):
            style = RUNS[0] if row == 0 else RUNS[1]
            spread = [[line[column] - line[f"{column}_low"]], [line[f"{column}_high"] - line[column]]]
            axis.errorbar(
                line[column], -row, xerr=spread, color=style["color"], marker=style["marker"], ms=6, capsize=3
            )
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_ylim(0.6 - len(methods), 0.6)
        axis.set_yticks([-row for row in range(len(methods))], list(methods.index) if column == "steps" else [])
    both = [limit for axis in axes[1:] for limit in axis.get_xlim()]
    for axis in axes[1:]:
        axis.set_xlim(min(both), max(both))
    return figure
