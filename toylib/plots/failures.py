"""Figures of notebook 06: broken runs beside the right one, on the same axes. Numbers in, a matplotlib Figure out."""

from __future__ import annotations

import math

from toylib.plots.style import COLORS, new_figure, panel_grid, plain, styled_figure

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
    "words": "words a reply",
}


def beside(runs, columns, logarithmic=()):
    """Draw one panel per column of the logs, with the right run and the broken runs in each.

    `runs` is a dict of label → DataFrame indexed by step, the right run first, at most four. A column that is measured
    at a few steps only (NaN between) is drawn with markers. Columns in `logarithmic` get such an axis (symmetric, linear
    within 1), which their title says.
    """
    figure, axes = panel_grid(len(columns))
    last = max(history.index[-1] for history in runs.values())
    for axis, column in zip(axes, columns, strict=True):
        for (label, history), style in zip(runs.items(), RUNS[: len(runs)], strict=True):
            draw_run(axis, history, column, label=plain(label), **style)
        finish_panel(axis, column, last, column in logarithmic)
        mark = ", log axis" if column in logarithmic else ""
        axis.set_title(plain(TITLES.get(column, column)) + mark, loc="left", fontsize=9)
        axis.set_xlabel("step", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(runs), fontsize=9)
    return figure


def patients(runs, columns, logarithmic=()):
    """Draw a row of panels per run and a panel per column of its log, with one scale per column.

    `runs` is a dict of label → DataFrame indexed by step; the rest is as for `beside`.
    """
    figure = styled_figure(8.6, 1.05 * len(runs) + 0.5)
    axes = figure.subplots(len(runs), len(columns), sharex=True, sharey="col", squeeze=False)
    last = max(history.index[-1] for history in runs.values())
    for row, (label, one) in zip(axes, runs.items(), strict=True):
        row[0].set_ylabel(plain(label), rotation=0, fontsize=13, fontweight="bold", labelpad=14, va="center")
        for axis, column in zip(row, columns, strict=True):
            draw_run(axis, one, column, color=COLORS["ink"], linestyle="-")
            finish_panel(axis, column, last, column in logarithmic, labelsize=7)
    for top, bottom, column in zip(axes[0], axes[-1], columns, strict=True):
        mark = " (log)" if column in logarithmic else ""
        top.set_title(plain(TITLES.get(column, column)) + mark, loc="left", fontsize=9)
        bottom.set_xlabel("step", fontsize=9)
    return figure


def draw_run(axis, history, column, marker=None, **look):
    """Draw one column of a run's log, with markers if it was measured at a few steps only."""
    values = history[column].dropna() if column in history else []
    if len(values):
        sparse = len(values) < 12
        axis.plot(values.index, values, ms=5, lw=2.0 if sparse else 1.3, marker=marker if sparse else None, **look)


def finish_panel(axis, column, last, logarithmic, labelsize=8):
    """Set the scale and the range of steps, and draw the level at which the column starts."""
    if column in SCALE:
        axis.axhline(SCALE[column], color=COLORS["ink"], lw=0.8, ls=(0, (1, 3)))
    if logarithmic:
        axis.set_yscale("symlog", linthresh=1)
    axis.set_xlim(0, 1.04 * last)
    axis.tick_params(labelsize=labelsize)


def strips(groups, xlabel, linear=1e-4):
    """Draw one line of dots per group, `groups` a dict of label → values, on an axis that is linear within `linear` of 0."""
    figure, (axis,) = new_figure(height=0.9 + 0.45 * len(groups))
    for row, ((_, values), style) in enumerate(zip(groups.items(), RUNS[: len(groups)], strict=True)):
        axis.plot(values, [-row] * len(values), ls="", marker=style["marker"], color=style["color"], alpha=0.6, ms=6)
    axis.set_yticks([-row for row in range(len(groups))], [plain(label) for label in groups])
    axis.set_ylim(0.6 - len(groups), 0.6)
    axis.axvline(0, color=COLORS["ink"], lw=0.8)
    axis.set_xscale("symlog", linthresh=linear)
    axis.margins(x=0.06)
    axis.set_xlabel(plain(xlabel))
    return figure


def bars(table):
    """Draw one panel per column of `table` (a DataFrame of values above 0), one bar a row, its value beside it."""
    figure, axes = new_figure(columns=len(table.columns), height=0.9 + 0.36 * len(table), sharey=True)
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


def flips(plain_dpo, methods):
    """Left: what flipped labels do to plain DPO. Right: what is said to help, at equal steps and at equal KL.

    `plain_dpo`: DataFrame indexed by the share flipped, columns `win` and `clean` (accuracy on clean pairs), each with its
    lowest and highest seed, `win_low`, …. `methods`: DataFrame indexed by method with `steps`, `kl` (win rates at equal
    steps and KL) and their lowest and highest seed, `steps_low`, ….
    """
    figure, axes = new_figure(columns=3, height=3.4, width=10.0, gridspec_kw={"width_ratios": [1.1, 1, 1]})
    for column, label, style in (("win", "win rate", RUNS[0]), ("clean", "accuracy on clean pairs", RUNS[2])):
        low, high = (plain_dpo[column] - plain_dpo[f"{column}_low"], plain_dpo[f"{column}_high"] - plain_dpo[column])
        axes[0].errorbar(100 * plain_dpo.index, plain_dpo[column], [low, high], label=label, ms=5, capsize=3, **style)
    axes[0].axhline(0.5, color=COLORS["ink"], lw=0.8, ls=(0, (1, 3)))
    axes[0].set_xlabel("labels flipped, %")
    axes[0].set_title("plain DPO", loc="left", fontsize=10)
    axes[0].legend(fontsize=8)
    names = [plain(name) for name in methods.index]
    for axis, column, title in ((axes[1], "steps", "win rate, equal steps"), (axes[2], "kl", "win rate, equal KL")):
        for row, (_, line) in enumerate(methods.iterrows()):
            style = RUNS[0] if row == 0 else RUNS[1]
            spread = [[line[column] - line[f"{column}_low"]], [line[f"{column}_high"] - line[column]]]
            axis.errorbar(
                line[column], -row, xerr=spread, color=style["color"], marker=style["marker"], ms=6, capsize=3
            )
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_ylim(0.6 - len(methods), 0.6)
        axis.set_yticks([-row for row in range(len(methods))], names if column == "steps" else [])
    both = [limit for axis in axes[1:] for limit in axis.get_xlim()]
    for axis in axes[1:]:
        axis.set_xlim(min(both), max(both))
    return figure
