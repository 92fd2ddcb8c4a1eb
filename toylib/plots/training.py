"""The curves of a run while it trains: five panels that are drawn once, and lines in them that grow."""

from __future__ import annotations

import math

import pandas
from matplotlib.figure import Figure

from toylib.plots.style import COLORS, LINES, in_style, new_figure, panel_grid, plain, styled_figure

PANELS = (  # title, the lines in it, the range it starts with
    ("log-ratio, nats", ("chosen", "rejected"), (-6, 3)),
    ("margin Δ, nats", ("margin",), (-1, 8)),
    ("accuracy", ("accuracy",), (-0.04, 1.04)),
    ("KL to reference, nats", ("kl",), (0, 3)),
    ("loss", ("loss",), (0, 0.9)),
)
TRL_NAMES = {"chosen": "rewards/chosen", "rejected": "rewards/rejected", "margin": "rewards/margins", "loss": "loss"}
TRL_NAMES |= {"accuracy": "rewards/accuracies", "heldout_margin": "eval_rewards/margins"}
TRL_NAMES |= {"heldout_accuracy": "eval_rewards/accuracies", "gradient": "gradient", "kl": "kl"}
REWARDS = ("chosen", "rejected", "margin", "heldout_margin")  # those that carry β


def in_nats(metrics, beta) -> dict:
    """Return metrics by short names, with log-ratios in nats in place of rewards, which carry β.

    `metrics` are one step's numbers (a dict) or a history (a DataFrame) under TRL's names; of a history, the result has
    Series. It has those keys of `TRL_NAMES` whose columns `metrics` has.
    """
    found = {name: metrics[column] for name, column in TRL_NAMES.items() if column in metrics}
    return {name: values / beta if name in REWARDS else values for name, values in found.items()}


@in_style()
def training_panels(steps, ln_2=True) -> tuple[Figure, dict]:
    """Draw five panels over the steps of one run, 1 to `steps`. Return their empty lines by name, for `show_history`.

    Mean log-ratios of chosen and rejected, their margin Δ and the KL to the reference are nats per reply. The accuracy is
    the share of the batch with Δ > 0. `ln_2` marks where the loss of DPO starts. Every axis is there from the start and
    doubles only when a line leaves it.
    """
    figure, axes = panel_grid(len(PANELS), width=7.8)
    figure.set_layout_engine(None)  # it would take longer than all the rest
    figure.subplots_adjust(left=0.06, right=0.955, bottom=0.11, top=0.94, wspace=0.25, hspace=0.45)
    lines = {}
    for axis, (title, names, limits) in zip(axes, PANELS, strict=True):
        for name in names:
            look = {"color": COLORS.get(name, COLORS["ink"]), "label": name, "marker": "o" if name == "kl" else None}
            lines[name] = axis.plot([], [], LINES.get(name, "-"), markersize=3, **look)[0]
        axis.set_title(title, loc="left", fontsize=10)
        axis.set(xlabel="step", xlim=(0, 1.02 * steps), ylim=limits)  # the last marker whole
        axis.tick_params(labelsize=8)
        axis.locator_params(nbins=4)
    axes[0].axhline(0, color=COLORS["ink"], lw=0.8)
    axes[0].legend(fontsize=8, loc="lower left")
    if ln_2:
        axes[-1].axhline(math.log(2), color=COLORS["ink"], lw=0.8, ls=":")
        outside = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "annotation_clip": False}
        axes[-1].annotate("ln 2", (1, math.log(2)), (3, 0), va="center", fontsize=8, **outside)
    return figure, lines


def show_history(lines, history) -> bool:
    """Draw `history`, a DataFrame by step with a column for each line. Return whether an axis had to grow for it.

    Gaps and values that are not finite are left out.
    """
    grown = False
    for name, line in lines.items():
        points = [(step, value) for step, value in history[name].items() if math.isfinite(value)]
        line.set_data(*(zip(*points, strict=True) if points else ([], [])))
        low, high = before = line.axes.get_ylim()
        while any(value < low for _, value in points):
            low -= high - low
        while any(value > high for _, value in points):
            high += high - low
        if (low, high) != before:
            line.axes.set_ylim(low, high)
            grown = True
    return grown


@in_style()
def log_ratios(histories):
    """Draw mean log-ratios of chosen and rejected over steps, in nats, a panel per run on one scale. 0 is the reference.

    `histories` is a dict of label → DataFrame indexed by step with the columns `chosen` and `rejected`.
    """
    figure, axes = new_figure(columns=len(histories), sharey=True)
    for axis, (label, history) in zip(axes, histories.items(), strict=True):
        _plot_log_ratios(axis, history)
        axis.set_title(plain(label), loc="left")
        axis.set_xlabel("step")
    axes[0].set_ylabel("mean log-ratio, nats")
    axes[0].legend()
    return figure


@in_style()
def two_arms(table, title) -> Figure:
    """Draw DPO and SFT side by side: log-ratios of held-out pairs over the steps, and win rate against KL.

    `table` has `method` ("dpo" or "sft"), `seed`, `step`, `chosen` and `rejected` (log-ratios, nats), `kl` and `win`.
    Lines are means over seeds, and small marks single seeds. `title` is a sentence.
    """
    figure = styled_figure(10.0, 3.6)
    left, middle, right = axes = figure.subplots(1, 3)
    middle.sharex(left)
    middle.sharey(left)
    figure.suptitle(plain(title), x=0.01, ha="left", fontsize=11)
    looks = {"dpo": ("DPO", COLORS["ink"], "-", "o"), "sft": ("SFT", COLORS["amber"], "--", "s")}
    for axis, (method, (label, color, line, marker)) in zip(axes, looks.items(), strict=False):
        runs = table[table["method"] == method]
        means = runs.groupby("step")[["chosen", "rejected", "kl", "win"]].mean()
        start = pandas.DataFrame({"chosen": [0.0], "rejected": [0.0], "kl": [0.0], "win": [0.5]}, index=[0])
        means = pandas.concat([start, means])
        _plot_log_ratios(axis, means)
        axis.set_title(f"{label}: log-ratios, nats", loc="left", fontsize=10)
        axis.set_xlabel("step")
        right.plot(means["kl"], means["win"], line, color=color, marker=marker, ms=6, label=label)
        right.plot(runs["kl"], runs["win"], marker, color=color, ms=3, mfc="none")
    left.legend(fontsize=9)
    right.axhline(0.5, color=COLORS["ink"], lw=0.8, ls=":")
    right.set_title("win rate against KL", loc="left", fontsize=10)
    right.set_xlabel("KL to the reference, nats per reply")
    right.legend(fontsize=9, loc="lower right")
    return figure


def _plot_log_ratios(axis, history):
    for name in ("chosen", "rejected"):
        axis.plot(history.index, history[name], LINES[name], color=COLORS[name], label=name)
    axis.axhline(0, color=COLORS["ink"], lw=0.8)
