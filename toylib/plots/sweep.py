"""Figures of a sweep over β: one trained policy for each β, `sweep.Sweep`'s tables in. Notebook 05.

Every β has a shade and a marker that all figures share; means are over seeds, and single seeds are small dots.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from toylib.plots.style import COLORS, LINES, PLATE, in_style, new_figure, styled_figure

MARKERS = "osD^vP*X<>hd"
KL_AXIS = {"xscale": "log", "xlabel": "KL to the reference, nats per reply"}
FAINT = "#B9B6AC"


def look_of(betas) -> dict:
    """Return for each β a shade (dark is high) and a marker, as keywords of `Axes.plot`."""
    import matplotlib

    shades = matplotlib.colormaps["cividis_r"]
    ordered = sorted(betas)
    places = [0.12 + 0.88 * at / max(1, len(ordered) - 1) for at in range(len(ordered))]
    return {
        beta: {"color": shades(place), "marker": MARKERS[at % len(MARKERS)], "markeredgecolor": COLORS["ink"]}
        for at, (beta, place) in enumerate(zip(ordered, places, strict=True))
    }


def mean_over_seeds(table):
    """Return the numeric columns of a sweep's table, averaged over seeds, indexed by β and step."""
    return table.drop(columns="seed", errors="ignore").groupby(["beta", "step"]).mean(numeric_only=True)


def plain_log(axis, which="x", ticks=()):
    """Write plain numbers as ticks of a logarithmic axis."""
    from matplotlib.ticker import NullFormatter, NullLocator

    target = axis.xaxis if which == "x" else axis.yaxis
    target.set_ticks(list(ticks), [f"{tick:g}" for tick in ticks])
    target.set_minor_locator(NullLocator())
    target.set_minor_formatter(NullFormatter())


@in_style()
def first_steps(curves, until=40) -> Figure:
    """Draw the mean Δ of each batch (nats) over the steps up to `until`, a line per β. `curves` is a `sweep.Sweep`'s."""
    figure, (axis,) = new_figure()
    means = mean_over_seeds(curves[curves["step"] <= until])
    ends = []
    for beta, look in look_of(curves["beta"].unique()).items():
        line = means.loc[beta]["margin"]
        axis.plot(line.index, line, ms=4, **look)
        ends.append((line.iloc[-1], beta))
    label_ends(axis, until, ends)
    axis.set(xlim=(1, until * 1.18), xlabel="step", ylabel="mean Δ of the batch, nats")
    axis.set_title("All β follow one line at first and part later", loc="left")
    return figure


def label_ends(axis, x, ends):
    """Write "β = …" to the right of each line's end `(y, β)`, moved up where two would overlap; the axis makes room."""
    low, high = axis.get_ylim()
    room, last = 0.055 * (high - low), None
    for y, beta in sorted(ends):
        place = y if last is None else max(y, last + room)
        axis.annotate(f"β = {beta:g}", (x, place), (6, 0), textcoords="offset points", va="center", fontsize=8)
        last = place
    axis.set_ylim(low, max(high, last + room))


@in_style()
def by_beta(means, final) -> Figure:
    """Draw KL, win rate, and shares of fluent and right replies against β, after the last step.

    `means` is indexed by β, with `win_low` and `win_high`; `final` has one row per β and seed.
    """
    figure, axes = new_figure(columns=3, width=10.0, height=3.2)
    ink = COLORS["ink"]
    axes[0].plot(means.index, means["kl"], "-", color=ink)
    axes[0].plot(final["beta"], final["kl"], "o", ms=4, color=ink)
    errors = [means["win"] - means["win_low"], means["win_high"] - means["win"]]
    axes[1].errorbar(means.index, means["win"], errors, fmt="-o", ms=5, color=ink, capsize=3)
    axes[1].axhline(0.5, color=ink, lw=0.8, ls=":")
    axes[1].annotate(
        "no better than before", (means.index[-1], 0.5), (0, 4), textcoords="offset points", ha="right", fontsize=8
    )
    for name, style, mark in (("fluent", "-", "o"), ("facts", "--", "s"), ("on_topic", ":", "^")):
        label = {"fluent": "fluent", "facts": "facts right", "on_topic": "on topic"}[name]
        axes[2].plot(means.index, means[name], style, marker=mark, ms=4, color=ink, label=label)
    axes[2].legend(fontsize=8)
    axes[0].set(yscale="log")
    plain_log(axes[0], "y", [1, 3, 10, 30])
    axes[1].set(ylim=(0.2, 0.9))
    axes[2].set(ylim=(0, 1.03))
    titles = ("A higher β stays closer", "The win rate is best in the middle", "A low β breaks fluency")
    names = ("KL to the reference, nats", "win rate over the reference", "share of replies")
    for axis, title, name in zip(axes, titles, names, strict=True):
        axis.set(xscale="log", xlabel="β", ylabel=name)
        plain_log(axis, "x", [0.02, 0.1, 0.5, 2, 5])
        axis.set_title(title, loc="left")
    return figure


@in_style()
def frontier(quality, column="win", extra=None) -> Figure:
    """Draw quality against KL: each β a path through the steps of its run, its last step marked large.

    `column` is one of `quality`'s; `extra` a table of the same form whose runs are drawn hollow, in the example's colour.
    """
    figure, (axis,) = new_figure(height=4.2)
    means = mean_over_seeds(quality[quality["step"] > 0])
    ends = []
    for beta, look in look_of(quality["beta"].unique()).items():
        path = means.loc[beta]
        axis.plot(path["kl"], path[column], "-", lw=1.4, ms=4, alpha=0.9, **look)
        axis.plot(path["kl"].iloc[-1], path[column].iloc[-1], ms=11, ls="", **look)
        ends.append((path["kl"].iloc[-1], path[column].iloc[-1], beta, path[column].iloc[-1] == path[column].max()))
    if extra is not None:
        for number, (beta, path) in enumerate(mean_over_seeds(extra[extra["step"] > 0]).groupby("beta")):
            style = {"color": COLORS["example"], "mfc": "none", "marker": MARKERS[number % len(MARKERS)], "ms": 8}
            style["ls"] = ("-", "--", ":", "-.")[number % 4]
            axis.plot(path["kl"], path[column], label=f"yours, β = {beta:g}", **style)
            axis.plot(path["kl"].iloc[-1], path[column].iloc[-1], **style | {"ms": 13, "ls": ""})
        axis.legend(loc="lower left")
    for x, y, beta, still_rising in ends:
        # to the left of a path that rises there is room, to the right of a falling one
        place = {"xytext": (-7, 7), "ha": "right"} if still_rising else {"xytext": (8, 7), "ha": "left"}
        axis.annotate(f"β = {beta:g}", (x, y), textcoords="offset points", fontsize=9, bbox=PLATE, **place)
    axis.set(**KL_AXIS, ylabel="win rate over the reference")
    axis.margins(x=0.08)
    plain_log(axis, "x", [0.1, 0.3, 1, 3, 10, 30])
    axis.set_title("All β follow nearly one curve and stop at different places (large mark: last step)", loc="left")
    return figure


@in_style()
def lab_axes(columns, width, height):
    """Return a figure of `width` × `height` inches and its axes `(2, columns)`: log-ratios above, the frontier below."""
    figure = styled_figure(width, height)
    return figure, figure.subplots(2, columns, squeeze=False, sharey="row")


def lab_curves(axis, steps) -> dict:
    """Draw what stands still in the panel of log-ratios. Return the empty lines that `show_curves` fills."""
    axis.axhline(0, color=COLORS["ink"], lw=0.8)
    axis.set_yscale("symlog", linthresh=1)
    axis.set(xlim=(0, 1.02 * steps), xlabel="step", ylim=(-400, 4))
    axis.set_yticks([-100, -10, -1, 0, 1], ["−100", "−10", "−1", "0", "1"])
    axis.yaxis.minorticks_off()
    return {name: axis.plot([], [], LINES[name], color=COLORS[name], label=name)[0] for name in ("chosen", "rejected")}


def lab_frontier(axis, means) -> dict:
    """Draw the frontier of all β in grey. Return the empty path, point and interval that `show_path` fills."""
    for beta in means.index.unique("beta"):
        path = means.loc[beta]
        axis.plot(path["kl"], path["win"], "-", color=FAINT, lw=1)
        axis.plot(path["kl"].iloc[-1], path["win"].iloc[-1], "o", color=FAINT, ms=5)
    axis.axhline(0.5, color=COLORS["ink"], lw=0.8, ls=":")
    axis.set(**KL_AXIS, ylim=(0.2, 0.85), xlim=(0.1, 70))
    plain_log(axis, "x", [0.1, 1, 10, 50])
    ink = COLORS["ink"]
    return {
        "path": axis.plot([], [], "-o", color=ink, ms=3, lw=1.6)[0],
        "interval": axis.plot([], [], "-", color=ink, lw=3, solid_capstyle="butt")[0],
        "point": axis.plot([], [], "o", color=COLORS["margin"], mec=ink, ms=10, zorder=4)[0],
    }


def show_curves(lines, curves) -> None:
    """Fill the lines of `lab_curves` from one β's mean curves, a table indexed by step."""
    for name, line in lines.items():
        line.set_data(curves.index, curves[name])


def show_path(parts, path) -> None:
    """Fill the artists of `lab_frontier` from one β's mean path, a table indexed by step."""
    last = path.iloc[-1]
    parts["path"].set_data(path["kl"], path["win"])
    parts["interval"].set_data([last["kl"]] * 2, [last["win_low"], last["win_high"]])
    parts["point"].set_data([last["kl"]], [last["win"]])


@in_style()
def lab_grid(curves, quality, betas) -> Figure:
    """Draw the β lab at several β at once: log-ratios above, the path through KL and win rate below, a column for each β."""
    curves, quality = mean_over_seeds(curves), mean_over_seeds(quality[quality["step"] > 0])
    figure, rows = lab_axes(len(betas), 10.0, 5.4)
    for above, below, beta in zip(*rows, betas, strict=True):
        show_curves(lab_curves(above, curves.index.unique("step").max()), curves.loc[beta])
        show_path(lab_frontier(below, quality), quality.loc[beta])
        above.set_title(f"β = {beta:g}", loc="left")
        below.set_xlabel("KL, nats per reply")
    rows[0][0].set_ylabel("log-ratio, nats")
    rows[1][0].set_ylabel("win rate")
    rows[0][0].legend(loc="lower left", fontsize=8)
    return figure


@in_style()
def overfit(curves, quality, beta) -> Figure:
    """Draw, at one β, the margin on training and held-out pairs (nats) and the quality of the replies, over the steps."""
    figure, (left, right) = new_figure(columns=2)
    run = mean_over_seeds(curves[curves["beta"] == beta]).loc[beta]
    held_out = run["heldout_margin"].dropna()
    left.plot(run.index, run["margin"], LINES["margin"], color=COLORS["margin"], label="training pairs")
    left.plot(held_out.index, held_out, "-", color=COLORS["ink"], marker="o", ms=4, label="held-out pairs")
    left.set(xlabel="step")
    left.set_title("The margin Δ keeps rising, nats", loc="left")
    left.legend()
    path = mean_over_seeds(quality[quality["beta"] == beta]).loc[beta]
    for name, style, mark, label in (
        ("win", "-", "o", "win rate"),
        ("fluent", "--", "s", "fluent"),
        ("score", ":", "^", "judge's score"),
    ):
        right.plot(path.index, path[name], style, marker=mark, ms=5, color=COLORS["ink"], label=label)
    right.set(xlabel="step", ylim=(0, 1.05))
    right.set_title("The replies get better, then worse", loc="left")
    right.legend(loc="lower center")
    return figure
