"""Figures that put DPO beside its relatives: KL and quality, paired differences, lengths, numbers of pairs. Notebook 08."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from toylib.plots.style import COLORS, LINES, PLATE, in_style, new_figure, panel_grid, plain

INK, FAINT = COLORS["ink"], "#B9B6AC"
METHODS = {  # name in the tables → label, in the order of the slider
    "dpo": "DPO",
    "ipo": "IPO",
    "apo_zero": "APO-zero",
    "dpo_norm": "DPO, length-normalised",
    "sft": "SFT on chosen",
    "rpo": "DPO + NLL",
    "dpo_positive": "DPO-Positive",
    "orpo": "ORPO",
    "simpo": "SimPO",
    "kto": "KTO",
    "best_of_n": "best-of-n",
    "online_dpo": "online DPO",
    "ppo": "PPO",
    "grpo": "GRPO",
}
FAMILIES = {  # title of a panel → the methods that it shows
    "IPO and APO-zero lie on DPO's line": ("ipo", "apo_zero", "dpo_norm"),
    "A term for the chosen reply: close to DPO": ("sft", "rpo", "dpo_positive"),
    "No reference in the loss: still close to DPO": ("orpo", "simpo"),
    "KTO is level, online methods are mostly lower": ("kto", "best_of_n", "online_dpo", "ppo", "grpo"),
}
LOOKS = (  # colour, line, marker of a panel's methods, in their order
    (COLORS["chosen"], "-", "s"),
    (COLORS["rejected"], "--", "^"),
    (COLORS["margin"], "-.", "D"),
    (COLORS["amber"], ":", "v"),
    (COLORS["other"], "-", "P"),
)


def mean_paths(table):
    """Return the mean KL and win rate of each method over its seeds, indexed by method and step."""
    return table.groupby(["method", "step"])[["kl", "win"]].mean()


def kl_limit(table) -> float:
    """Return where the KL axis ends: a little past every method's best point, so that collapsed ends are cut off."""
    paths = mean_paths(table)
    best = [paths.loc[method]["win"].idxmax() for method in paths.index.unique("method")]
    return 1.35 * max(
        paths.loc[(method, step), "kl"] for method, step in zip(paths.index.unique("method"), best, strict=True)
    )


def root_scale(axis, limit) -> None:
    """Give the KL axis a root scale, on which win rates rise nearly straight (Gao et al. 2023, arXiv 2210.10760)."""
    axis.set_xscale("function", functions=(lambda kl: np.sqrt(np.maximum(kl, 0)), np.square))
    ticks = [tick for tick in (0, 0.25, 1, 2, 4, 6, 8) if tick <= limit]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_xlim(0, limit)


def draw_path(axis, path, **look):
    """Draw one method's mean path from KL 0 and a win rate of ½. Return the line."""
    return axis.plot([0, *path["kl"]], [0.5, *path["win"]], **look)[0]


@in_style()
def frontier(table) -> Figure:
    """Draw win rate against KL in four panels, a family of methods each, with DPO in all of them.

    `table` has the columns `method`, `seed`, `step`, `kl` and `win`. Lines are means over seeds, and small marks are
    seeds. The KL axis has a root scale, and is cut where only collapsed policies are.
    """
    figure, axes = panel_grid(len(FAMILIES), width=8.6)
    figure.set_size_inches(8.6, 6.6)
    paths, limit = mean_paths(table), kl_limit(table)
    known = set(paths.index.unique("method"))
    for axis, (title, methods) in zip(axes, FAMILIES.items(), strict=True):
        looks = {"dpo": (INK, "-", "o")} | dict(zip([m for m in methods if m in known], LOOKS, strict=False))
        for method, (color, line, marker) in looks.items():
            rows = table[table["method"] == method]
            axis.plot(rows["kl"], rows["win"], marker, color=color, ms=3, mfc="none", alpha=0.6)
            look = {"color": color, "ls": line, "marker": marker, "ms": 5, "label": METHODS[method]}
            draw_path(axis, paths.loc[method], **look)
        axis.set_title(title, loc="left", fontsize=10)
        axis.axhline(0.5, color=INK, lw=0.8)
        axis.set_ylim(0.4, 0.9)
        root_scale(axis, limit)
        axis.legend(fontsize=8, loc="upper left", framealpha=1)
    for axis in axes[::2]:
        axis.set_ylabel("win rate over the reference")
    for axis in axes[2:]:
        axis.set_xlabel("KL to the reference, nats per reply")
    return figure


@in_style()
def verdicts(rows, title="", reach=0.14) -> Figure:
    """Draw paired differences in win rate to DPO with their 95 % intervals: at equal KL, and each at its best.

    `rows` is a DataFrame with the columns `method`, `where`, `mean`, `low` and `high`. `where` names the panel. A mean
    beyond `reach` is an arrow with a number at the edge.
    """
    places = list(dict.fromkeys(rows["where"]))
    methods = [name for name in METHODS if name in set(rows["method"])]
    figure, axes = new_figure(columns=len(places), height=0.32 * len(methods) + 1.0, sharey=True)
    for axis, place in zip(axes, places, strict=True):
        for row in rows[rows["where"] == place].itertuples():
            sure = row.low > 0 or row.high < 0
            color = COLORS["margin"] if row.low > 0 else COLORS["rejected"] if row.high < 0 else INK
            y = methods.index(row.method)
            axis.plot([row.low, row.high], [y, y], "-", color=color, lw=1.6)
            axis.plot(row.mean, y, "o", color=color, mfc=color if sure else COLORS["ground"], ms=6)
            if abs(row.mean) > reach:
                text, side = (f"◀ {row.mean:.2f}", "left") if row.mean < 0 else (f"{row.mean:+.2f} ▶", "right")
                x = np.copysign(0.98 * reach, row.mean)
                axis.text(x, y, text.replace("-", "−"), ha=side, va="center", color=color, bbox=PLATE)
        axis.axvline(0, color=INK, lw=0.8)
        axis.set_title(plain(place), loc="left", fontsize=10)
        axis.set(xlabel="win rate − DPO's", xlim=(-reach, reach))
        axis.locator_params(axis="x", nbins=4)
        axis.set_yticks(range(len(methods)), [METHODS[name] for name in methods])
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    figure.suptitle(plain(title), x=0.01, ha="left", fontsize=11)
    return figure


@in_style()
def side_effects(rows, untrained_words) -> Figure:
    """Draw reply length and chosen log-ratio of each method at its best, a dot per seed, and a bar for the mean.

    `rows` has the columns `method`, `words` and `chosen` (nats), a row per seed. A line marks the untrained model in both.
    """
    methods = [name for name in METHODS if name in set(rows["method"])]
    figure, axes = new_figure(columns=2, height=0.3 * len(methods) + 1.3, sharey=True)
    panels = (
        ("words", "All replies grow longer", "words per reply"),
        ("chosen", "SFT and ORPO raise the chosen reply most", "log-ratio of the chosen reply, nats"),
    )
    for axis, (column, title, unit) in zip(axes, panels, strict=True):
        for y, method in enumerate(methods):
            values = rows.loc[rows["method"] == method, column].dropna()
            axis.plot(values, [y] * len(values), "o", color=COLORS["chosen"], ms=5, mfc="none")
            if len(values):
                axis.plot(values.mean(), y, "|", color=INK, ms=14, mew=2)
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_xlabel(unit)
    axes[1].axvline(0, color=INK, lw=0.8)
    axes[0].axvline(untrained_words, color=INK, lw=0.8)
    axes[0].annotate("untrained", (untrained_words, 0.0), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes[0].set_yticks(range(len(methods)), [METHODS[name] for name in methods])
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    axes[0].set_xlim(0, None)
    return figure


@in_style()
def by_pairs(rows) -> Figure:
    """Draw the win rate against the number of pairs, with 95 % intervals.

    `rows` is a DataFrame with the columns `method` ("dpo" or "sft"), `pairs`, `mean`, `low` and `high`.
    """
    figure, (axis,) = new_figure()
    for method, color, line, marker in (("dpo", INK, "-", "o"), ("sft", COLORS["chosen"], LINES["rejected"], "s")):
        found = rows[rows["method"] == method].sort_values("pairs")
        errors = [found["mean"] - found["low"], found["high"] - found["mean"]]
        look = {"color": color, "ls": line, "marker": marker, "capsize": 3, "label": METHODS[method]}
        axis.errorbar(found["pairs"], found["mean"], errors, **look)
    axis.set_xscale("log")
    counts = sorted(set(rows["pairs"]))
    axis.set_xticks(counts, [f"{count:g}" for count in counts])
    axis.minorticks_off()
    axis.axhline(0.5, color=INK, lw=0.8)
    axis.set(xlabel="number of pairs", ylabel="win rate, 95 % interval", ylim=(0.25, 0.9))
    axis.set_title("On few pairs, trained as long, SFT holds and DPO does not", loc="left")
    axis.legend(loc="lower right")
    return figure


@in_style()
def walk(table) -> tuple[Figure, dict]:
    """Return the figure of the walk through the methods and its artists: all paths faint, one to be highlighted.

    `table` is as for `frontier`.
    """
    figure, (axis,) = new_figure(height=3.6)
    for _, path in mean_paths(table).groupby("method"):
        draw_path(axis, path.droplevel("method"), color=FAINT, lw=1.2)
    draw_path(axis, mean_paths(table).loc["dpo"], color=INK, lw=1.4, label="DPO")
    parts = {
        "path": axis.plot([], [], "-o", color=COLORS["example"], ms=5)[0],
        "name": axis.annotate("", (0.98, 0.05), xycoords="axes fraction", ha="right", fontsize=11, bbox=PLATE),
    }
    axis.axhline(0.5, color=INK, lw=0.8)
    axis.set(xlabel="KL to the reference, nats per reply", ylabel="win rate over the reference")
    axis.set_ylim(0.4, 0.9)
    root_scale(axis, kl_limit(table))
    axis.set_title("One method at a time; DPO is dark", loc="left")
    return figure, parts


def highlight(parts, path, label) -> None:
    """Move the artists of `walk` to one method's mean `path`."""
    parts["path"].set_data([0, *path["kl"]], [0.5, *path["win"]])
    parts["name"].set_text(label)
