"""Figures that put DPO, online DPO and PPO side by side. Notebook 07."""

from __future__ import annotations

from matplotlib.figure import Figure

from toylib.plots.style import COLORS, PLATE, new_figure, plain

METHODS = {  # name in the tables → label, colour, line, marker
    "dpo": ("DPO", COLORS["ink"], "-", "o"),
    "online_dpo": ("online DPO", COLORS["other"], ":", "s"),
    "ppo": ("PPO", COLORS["amber"], "-.", "^"),
}
INK = COLORS["ink"]


def ppo_curves(history) -> Figure:
    """Three panels over PPO's steps, from `train_ppo`'s history: score, KL of the rollouts, share of tokens clipped."""
    figure, axes = new_figure(columns=3, height=3.0, width=10.0)
    panels = (("score", "reward model's mean score"), ("kl", "KL to reference, nats"), ("clipped", "share clipped"))
    _, color, line, _ = METHODS["ppo"]
    for axis, (name, title) in zip(axes, panels, strict=True):
        axis.plot(history.index, history[name], line, color=color)
        axis.set_title(title, loc="left")
        axis.set_xlabel("step")
        axis.set_xlim(0, 1.02 * history.index[-1])
    return figure


def memory_bars(held) -> Figure:
    """Draw what each run keeps in memory, MB, stacked by kind; `held` is a DataFrame, a row a run, a column a kind."""
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
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set_axisbelow(True)
    axis.legend(loc="lower right", fontsize=9)
    return figure


def settings_strip(table) -> Figure:
    """Win rate of every setting of a grid at every checkpoint, a column a method and rate, later steps further right.

    `table` has the columns `method`, `learning_rate`, `step`, `win`, and `beta` or `kl_coefficient`: where there are two
    of those, marks of the lower one are hollow.
    """
    figure, (axis,) = new_figure(height=3.6)
    columns = sorted(
        {(list(METHODS).index(m), r) for m, r in zip(table["method"], table["learning_rate"], strict=True)}
    )
    for place, (index, rate) in enumerate(columns):
        method = list(METHODS)[index]
        _, color, _, marker = METHODS[method]
        rows = table[(table["method"] == method) & (table["learning_rate"] == rate)]
        steps = sorted(set(rows["step"]))
        shift = [place - 0.25 + 0.5 * steps.index(step) / max(1, len(steps) - 1) for step in rows["step"]]
        leash = rows["beta"].fillna(rows["kl_coefficient"])
        for x, win, weak in zip(shift, rows["win"], (leash == leash.min()) & (leash.min() < leash.max()), strict=True):
            axis.plot(x, win, marker, color=color, mfc="none" if weak else color, ms=6.5, mew=1.4)
    axis.axhline(0.5, color=INK, lw=0.8)
    note = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center", "fontsize": 8}
    axis.annotate("as before", (1, 0.5), (4, 0), annotation_clip=False, **note)
    axis.set_xticks(
        range(len(columns)),
        [f"{METHODS[list(METHODS)[i]][0]}\n{rate:.0e}".replace("e-0", "e-") for i, rate in columns],
        fontsize=9,
    )
    axis.set(ylabel="win rate, dev prompts", ylim=(0, 1), xlim=(-0.5, len(columns) - 0.5))
    axis.set_title("Every setting tried; later steps to the right; hollow: the lower β or KL coefficient", loc="left")
    return figure


def win_by_kl(table, presets=()) -> Figure:
    """Draw the win rate against KL along each run, a line a seed; `presets` are KLs at which methods are compared.

    `table` has the columns `method`, `seed`, `step`, `kl` and `win`.
    """
    figure, (axis,) = new_figure(height=3.8)
    for method, (label, color, line, marker) in METHODS.items():
        for number, (_, run) in enumerate(table[table["method"] == method].groupby("seed")):
            run = run.sort_values("step")
            said = label if number == 0 else None
            axis.plot([0, *run["kl"]], [0.5, *run["win"]], line, color=color, marker=marker, ms=5, lw=1.4, label=said)
    for kl in presets:
        axis.axvline(kl, color=INK, lw=0.8, ls="--")
        axis.annotate(f"KL = {kl:g}", (kl, 0.5), (4, 6), textcoords="offset points", fontsize=9, bbox=PLATE)
    axis.axhline(0.5, color=INK, lw=0.8)
    axis.set(xlabel="KL to the reference, nats per reply", ylabel="win rate over the reference", xlim=(0, None))
    axis.set_title("What each nat of KL buys; three seeds each", loc="left")
    axis.legend(loc="lower right")
    return figure


def hacking(table, start) -> Figure:
    """The reward model's score and the judge's over PPO's steps, with the KL term and without it, a line a seed.

    `table` has `kl_coefficient`, `seed`, `step`, `reward_model_score` and `score`; `start` is the judge's score before.
    """
    figure, axes = new_figure(columns=2, height=3.4)
    looks = {True: (METHODS["ppo"][1], "-.", "^", "with the KL term"), False: (COLORS["grey"], "--", "v", "without")}
    for (coefficient, _), run in table.groupby(["kl_coefficient", "seed"]):
        color, line, marker, label = looks[coefficient > 0]
        look = {"color": color, "marker": marker, "ms": 4, "lw": 1.4, "label": label, "ls": line}
        run = run.sort_values("step")
        axes[0].plot([1, *run["step"]], [run["score_at_start"].iloc[0], *run["reward_model_score"]], **look)
        axes[1].plot([0, *run["step"]], [start, *run["score"]], **look)
    axes[0].set_title("What PPO is paid: the reward model's score", loc="left")
    axes[1].set_title("What we wanted: the judge's score", loc="left")
    axes[1].set_ylim(0, 1)
    for axis in axes:
        axis.set_xlabel("step")
    handles, labels = axes[1].get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axes[1].legend(once.values(), once.keys(), fontsize=9, loc="upper right")
    return figure


def ways(table, column, title, start=None) -> Figure:
    """One number of several ways to train: bars and the numbers beside names are means, dots the seeds.

    `table` has the columns `method` ("PPO", "online DPO", "DPO on …") and `column`; bars are in the order in which
    methods first come. `start` marks the untrained model's.
    """
    figure, (axis,) = new_figure(height=3.0)
    names = list(dict.fromkeys(table["method"]))
    for row, name in enumerate(names):
        values = table.loc[table["method"] == name, column]
        key = "online_dpo" if name.startswith("online") else name.split()[0].lower()
        axis.barh(row, values.mean(), color=METHODS[key][1], height=0.55, alpha=0.6)
        axis.plot(values, [row] * len(values), "o", color=COLORS["ground"], mec=INK, ms=5)
        names[row] = f"{plain(name)}: {values.mean():.2f}"
    if start is not None:
        axis.axvline(start, color=INK, lw=1, ls="--")
        axis.annotate("before", (start, len(names) - 0.5), (4, 0), textcoords="offset points", fontsize=8, bbox=PLATE)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.5)
    axis.set_xlim(min(0, table[column].min()), 1.15 * table[column].max())
    axis.grid(axis="y", visible=False)
    axis.set_axisbelow(True)
    axis.set_title(plain(title), loc="left")
    return figure


def under_noise(wins, accuracies) -> Figure:
    """Left: win rate by share of flipped labels, a line a method. Right: clean pairs ranked right, by each reward.

    `wins` has `method`, `flipped`, `seed` and `win`; `accuracies` is indexed by `flipped`, with the columns
    `reward model` and `implicit reward`. Lines are means over seeds, small markers the seeds.
    """
    figure, (left, right) = new_figure(columns=2, height=3.4)
    for method, (label, color, line, marker) in METHODS.items():
        rows = wins[wins["method"] == method]
        mean = rows.groupby("flipped")["win"].mean()
        left.plot(100 * mean.index, mean, line, color=color, marker=marker, ms=7, mec=INK, label=label)
        left.plot(100 * rows["flipped"], rows["win"], marker, color=color, ms=3.5, mfc="none")
    left.axhline(0.5, color=INK, lw=0.8)
    left.set_title("win rate, clean judge", loc="left")
    left.set_ylim(0.4, 0.9)
    looks = {"reward model": (COLORS["amber"], "--", "D"), "implicit reward": (COLORS["ink"], "-", "o")}
    for name, (color, line, marker) in looks.items():
        right.plot(100 * accuracies.index, accuracies[name], line, color=color, marker=marker, ms=7, label=name)
    right.set_title("clean held-out pairs ranked right", loc="left")
    right.set_ylim(0.4, 1.03)
    for axis in (left, right):
        axis.set_xlabel("labels flipped, %")
        axis.legend(fontsize=9, loc="lower left")
    return figure
