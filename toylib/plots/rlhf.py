"""Figures that put DPO, PPO, GRPO and online DPO side by side. Notebook 07."""

from __future__ import annotations

from matplotlib.figure import Figure

from toylib.plots.style import COLORS, PLATE, in_style, new_figure, plain

METHODS = {  # name in the tables → label, colour, line, marker
    "dpo": ("DPO", COLORS["ink"], "-", "o"),
    "ppo": ("PPO", COLORS["amber"], "-.", "^"),
    "grpo": ("GRPO", COLORS["margin"], "--", "D"),
    "online_dpo": ("online DPO", COLORS["other"], ":", "s"),
}
INK = COLORS["ink"]
PARTS = ("policy", "reference", "reward model", "value model", "pairs", "fresh replies")
HOLDS = {  # method → a mark per part: T trained, f frozen, x used, - neither
    "dpo": "Tf--x-",
    "online_dpo": "Tff--x",
    "grpo": "Tff--x",
    "ppo": "TffT-x",
}


@in_style()
def parts(title="") -> Figure:
    """Draw a row per method with the models and the data that it trains with, as filled or hollow boxes."""
    figure, (axis,) = new_figure(height=2.9)
    names = list(HOLDS)
    for row, (method, marks) in enumerate(HOLDS.items()):
        color = METHODS[method][1]
        for column, mark in enumerate(marks):
            if mark != "-":
                full, word = mark == "T", {"T": "trained", "f": "frozen", "x": "data"}[mark]
                look = {"color": color} if full else {"facecolor": "none", "edgecolor": color, "hatch": None}
                axis.barh(row, 0.86, 0.66, column - 0.43, lw=1.4, **look)
                inside = COLORS["ground"] if full else INK
                axis.text(column, row, word, ha="center", va="center", color=inside, fontsize=9)
    axis.set_xticks(range(len(PARTS)), PARTS)
    axis.set_yticks(range(len(names)), [METHODS[name][0] for name in names])
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set(xlim=(-0.5, len(PARTS) - 0.5), ylim=(len(names) - 0.5, -0.5))
    axis.grid(visible=False)
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.set_title(title, loc="left", pad=12)
    return figure


@in_style()
def rollout_curves(histories, titles=("", "")) -> Figure:
    """Draw the scorer's mean score and the KL over the steps of each run.

    `histories` maps a method of `METHODS` to its DataFrame indexed by step, with `score` and `kl` (nats per reply).
    """
    figure, axes = new_figure(columns=2, height=3.2)
    for method, history in histories.items():
        label, color, line, _ = METHODS[method]
        for axis, column in zip(axes, ("score", "kl"), strict=True):
            axis.plot(history.index, history[column], line, color=color, label=label)
    for axis, title, name in zip(axes, titles, ("reward model's score", "KL, nats per reply"), strict=True):
        axis.set_title(title, loc="left")
        axis.set(xlabel="step", ylabel=name)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].legend(loc="lower right")
    return figure


@in_style()
def memory_bars(held, title="") -> Figure:
    """Draw what each run keeps in memory, MB, stacked by kind; `held` is a DataFrame with a row per run and a column per kind."""
    figure, (axis,) = new_figure(height=0.9 + 0.5 * len(held))
    fills = (("#6B6B6B", ""), (COLORS["amber"], "//"), ("#BDBAB0", ".."))
    left = [0.0] * len(held)
    for kind, (color, hatch) in zip(held.columns, fills, strict=False):
        look = {"color": color, "hatch": hatch, "ec": "white", "height": 0.6, "label": plain(kind)}
        axis.barh([plain(run) for run in held.index], held[kind], left=left, **look)
        left = [a + b for a, b in zip(left, held[kind], strict=True)]
    for row, total in enumerate(left):
        axis.annotate(f"{total:.1f}", (total, row), (4, 0), textcoords="offset points", va="center")
    axis.set(xlabel="MB", xlim=(0, 1.45 * max(left)))
    axis.set_title(title, loc="left")
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set_axisbelow(True)
    axis.legend(loc="lower right", fontsize=9)
    return figure


@in_style()
def settings_strip(table, title="") -> Figure:
    """Draw the win rate of every setting of each method, a line over its checkpoints; a ring is around the best.

    `table` has the columns `method`, `step`, `win` and those that tell settings apart; rows of a setting are together.
    """
    figure, (axis,) = new_figure(height=3.6)
    for place, (_, color, _, marker) in enumerate(METHODS.values()):
        rows = table[table["method"] == list(METHODS)[place]]
        runs = (rows["step"].diff().fillna(0) <= 0).cumsum()
        count = runs.nunique()
        for number, (_, run) in enumerate(rows.groupby(runs)):
            xs = [place - 0.4 + (number + 0.7 * i / max(1, len(run) - 1)) * 0.8 / count for i in range(len(run))]
            axis.plot(xs, run["win"], marker=marker, color=color, ms=4.5, lw=1)
            if run["win"].max() == rows["win"].max():
                at = int(run["win"].to_numpy().argmax())
                axis.plot(xs[at], run["win"].iloc[at], "o", ms=13, mfc="none", color=INK, mew=1.4)
    axis.axhline(0.5, color=INK, lw=0.8)
    axis.set_xticks(range(len(METHODS)), [label for label, *_ in METHODS.values()])
    axis.set(ylabel="win rate, dev prompts", ylim=(0, 1), xlim=(-0.5, len(METHODS) - 0.5))
    axis.set_xlabel("a line is one setting at its checkpoints, the ring marks the best")
    axis.set_title(title, loc="left")
    return figure


@in_style()
def win_by_kl(table, presets=(), title="") -> Figure:
    """Draw the win rate against KL along each run, a line per seed; `presets` are KLs at which methods are compared.

    `table` has the columns `method`, `seed`, `step`, `kl` and `win`. The axis ends at three times the highest preset.
    """
    figure, (axis,) = new_figure(height=3.8)
    for method, (label, color, line, marker) in METHODS.items():
        for number, (_, run) in enumerate(table[table["method"] == method].groupby("seed")):
            run = run.sort_values("step")
            name = label if number == 0 else None  # one legend entry per method, not per seed
            axis.plot([0, *run["kl"]], [0.5, *run["win"]], line, color=color, marker=marker, ms=5, lw=1.4, label=name)
    for kl in presets:
        axis.axvline(kl, color=INK, lw=0.8, ls="--")
        axis.annotate(f"{kl:g}", (kl, 0.5), (2, 5), textcoords="offset points", fontsize=9, bbox=PLATE)
    axis.axhline(0.5, color=INK, lw=0.8)
    axis.set(
        xlabel="KL to the reference, nats per reply",
        ylabel="win rate over the reference",
        xlim=(0, 3 * max(presets) if presets else None),
    )
    axis.set_title(title, loc="left")
    axis.legend(loc="lower right", framealpha=1)  # over the line at one half
    return figure


@in_style()
def forest(rows, title="", xlabel="paired difference in win rate, 95 % interval", middle=0.0) -> Figure:
    """Draw a dot and an interval per row; `rows` maps a label to `(mean, low, high)`.

    Those that touch `middle`, a difference of 0 or a win rate of ½, are grey.
    """
    figure, (axis,) = new_figure(height=0.9 + 0.32 * len(rows))
    for place, (mean, low, high) in enumerate(rows.values()):
        color = COLORS["grey"] if low <= middle <= high else INK
        axis.plot([low, high], [place, place], color=color, lw=2)
        axis.plot(mean, place, "o", color=color, ms=7)
        number = f"{mean:.2f}" if middle else f"{mean:+.2f}"
        axis.annotate(number, (high, place), (5, 0), textcoords="offset points", va="center", fontsize=9)
    axis.axvline(middle, color=INK, lw=0.8)
    axis.set_yticks(range(len(rows)), [plain(label) for label in rows])
    axis.set(xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5))
    axis.margins(x=0.12)
    axis.grid(axis="y", visible=False)
    axis.set_title(title, loc="left")
    return figure


@in_style()
def hacking(runs, start, titles=("", "")) -> Figure:
    """Draw the reward model's score and the judge's over PPO's steps, a line per seed.

    `runs` maps a label, of which the first is PPO as tuned, to a table with `seed`, `step`, `scorer`, `scorer_at_start`
    and `score`. `start` is the judge's score before training.
    """
    figure, axes = new_figure(columns=2, height=3.4)
    looks = ((METHODS["ppo"][1], "-.", "^"), (COLORS["grey"], "--", "v"), (COLORS["other"], ":", "s"))
    for (label, table), (color, line, marker) in zip(runs.items(), looks, strict=False):
        for number, (_, run) in enumerate(table.groupby("seed")):
            run, name = run.sort_values("step"), label if number == 0 else None
            look = {"color": color, "marker": marker, "ms": 4, "lw": 1.4, "ls": line, "label": name}
            axes[0].plot([1, *run["step"]], [run["scorer_at_start"].iloc[0], *run["scorer"]], **look)
            axes[1].plot([0, *run["step"]], [start, *run["score"]], **look)
    names = ("reward model's score, rollouts", "judge's score, held-out prompts")
    for axis, title, name in zip(axes, titles, names, strict=True):
        axis.set_title(title, loc="left")
        axis.set(xlabel="step", ylabel=name)
    axes[1].set_ylim(0, 1)
    axes[1].legend(fontsize=9, loc="upper left")
    return figure


@in_style()
def verifiable(table, title="") -> Figure:
    """Draw the share of replies with the exact order number, and the judge's win rate, over GRPO's steps, a line per seed.

    `table` has `seed`, `step`, `exact` and `win`.
    """
    figure, (axis,) = new_figure(height=3.2)
    looks = {"exact": ("order number exact", COLORS["margin"], "-", "D"), "win": ("win rate", INK, "--", "o")}
    for column, (label, color, line, marker) in looks.items():
        for number, (_, run) in enumerate(table.sort_values("step").groupby("seed")):
            name = label if number == 0 else None  # one legend entry per method, not per seed
            axis.plot(run["step"], run[column], line, color=color, marker=marker, ms=5, lw=1.4, label=name)
    axis.set(xlabel="step", ylabel="share of replies", ylim=(0, 1))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_title(title, loc="left")
    axis.legend(loc="lower right")
    return figure
