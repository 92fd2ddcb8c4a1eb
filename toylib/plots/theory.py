"""Figures of the derivation: reward, KL, closed form, preferences, gradient weight. Notebook 03."""

from __future__ import annotations

from matplotlib.figure import Figure

from toylib.plots.pair import pair_values
from toylib.plots.style import COLORS, PLATE, WORDS, new_figure, plain

STEADY = ((COLORS["other"], ":"), (COLORS["grey"], "--"), (COLORS["ink"], "-"))  # low, middle and high β


def climb(steps, rewards, costs) -> Figure:
    """Expected reward, the leash's price β·KL, and what is left (their difference) over the steps of an ascent."""
    figure, (axis,) = new_figure()
    left = [reward - cost for reward, cost in zip(rewards, costs, strict=True)]
    lines = (
        (rewards, ":", COLORS["other"], "expected reward"),
        (costs, "--", COLORS["grey"], "price of the leash, β·KL"),
        (left, "-", COLORS["ink"], "reward − price"),
    )
    for values, line, color, text in lines:
        axis.plot(steps, values, line, color=color)
        axis.annotate(text, (steps[-1], values[-1]), (8, 0), textcoords="offset points", va="center")
    axis.set(xlim=(0, steps[-1] * 1.4), xticks=range(0, steps[-1] + 1, 10), xlabel="gradient step")
    axis.set_title("The objective climbs and levels off", loc="left")
    return figure


def closed_forms(names, reference, optima, example=0) -> Figure:
    """Draw a panel for each β of `optima` (dict β → probabilities): the optimum as bars, the reference as an outline.

    The reply at index `example` has the worked example's colour.
    """
    figure, axes = new_figure(columns=len(optima), sharey=True, sharex=True)
    rows = range(len(names))
    colors = [COLORS["example"] if row == example else COLORS["other"] for row in rows]
    for axis, (beta, probabilities) in zip(axes, optima.items(), strict=True):
        axis.barh(rows, probabilities, height=0.62, color=colors, label="optimum π*")
        outline = {"height": 0.82, "facecolor": "none", "edgecolor": COLORS["ink"], "linewidth": 1.2}
        axis.barh(rows, reference, linestyle="--", label="reference", **outline)
        axis.set_title(f"β = {beta:g}", loc="left")
        axis.set_xlabel("probability")
        axis.grid(axis="y", visible=False)
        axis.set_axisbelow(True)
    axes[0].set_yticks(list(rows), [plain(name) for name in names])
    axes[0].invert_yaxis()
    legend = axes[0].legend(loc="lower right", fontsize=9, handlelength=1.2)
    legend.legend_handles[0].set_facecolor(COLORS["other"])
    return figure


def implicit_rewards(rewards, implicit) -> Figure:
    """Draw implicit reward against true reward, a line for each β of `implicit` (dict β → values)."""
    figure, (axis,) = new_figure(width=6.4)
    for (beta, values), (color, line) in zip(implicit.items(), STEADY, strict=False):
        axis.plot(rewards, values, line, marker="o", ms=5, color=color)
        text = f"  β = {beta:g}"
        axis.annotate(text, (max(rewards), max(values)), (4, 0), textcoords="offset points", va="center")
    axis.plot([-1.7, 1.7], [-1.7, 1.7], color=COLORS["margin"], lw=0.8)
    axis.annotate("equal", (-0.9, -0.9), (-30, 8), textcoords="offset points", color=WORDS["margin"])
    axis.set(xlabel="true reward r", ylabel="implicit reward β·log-ratio", xlim=(-1.8, 2.7))
    axis.set_title("Same slope, shifted: the shift is −β·log Z", loc="left")
    return figure


def preference_shares(differences, shares, example) -> Figure:
    """The share of sampled comparisons that the better reply won, by reward difference, on the curve of σ.

    `example` is the index of the pair that gets the worked example's colour.
    """
    import numpy as np

    figure, (axis,) = new_figure(width=6.4)
    x = np.linspace(0, 1.08 * max(differences), 200)
    axis.plot(x, pair_values(x, 1.0)[0], color=COLORS["ink"], label="σ(difference)")
    axis.plot(differences, shares, "o", color=COLORS["other"], mec=COLORS["ink"], label="counted, one dot a pair")
    where = (differences[example], shares[example])
    axis.plot(*where, "s", ms=9, color=COLORS["example"], mec=COLORS["ink"], label="the worked pair")
    axis.set(xlabel="reward of the better − reward of the worse", ylabel="share won by the better", ylim=(0.45, 1.02))
    axis.legend(loc="lower right")
    return figure


def leash_by_beta(curve, minimisers) -> Figure:
    """KL to the reference against β: the closed form as a curve, DPO's minimisers as dots; both `(betas, kls)`."""
    figure, (axis,) = new_figure(width=6.4)
    axis.plot(*curve, color=COLORS["ink"], label="closed form of reward − β·KL")
    axis.plot(*minimisers, "o", ms=8, mfc="none", mew=2, color=COLORS["margin"], clip_on=False, label="where DPO ends")
    axis.set(xscale="log", xlabel="β", ylabel="KL to the reference, nats", ylim=(0, None))
    axis.set_xticks([0.1, 0.5, 1, 5, 20], ["0.1", "0.5", "1", "5", "20"])
    axis.minorticks_off()
    axis.legend()
    return figure


def no_end(steps, gaps, kls, betas, soft_gap, ceiling) -> Figure:
    """Gap Δ and KL to the reference over steps, one line a β, where labels are hard; on logarithmic steps.

    `gaps` and `kls` have a list for each β. `soft_gap` is the control with soft labels; `ceiling` the largest KL there is.
    """
    figure, (left, right) = new_figure(columns=2)
    for gap, kl, beta, (color, line) in zip(gaps, kls, betas, STEADY, strict=True):
        left.plot(steps, gap, line, color=color, label=f"β = {beta:g}")
        right.plot(steps, kl, line, color=color, label=f"β = {beta:g}")
    left.plot(steps, soft_gap, "-.", color=COLORS["margin"], label="soft labels, β = 0.5")
    right.axhline(ceiling, color=COLORS["ink"], lw=0.8)
    right.annotate("one reply, always", (steps[0], ceiling), (0, 4), textcoords="offset points", fontsize=9)
    left.set(xscale="log", yscale="log", xlabel="gradient step")
    right.set(xscale="log", yscale="log", xlabel="gradient step", ylim=(1e-5, 12))
    left.set_title("Δ of the worked pair, nats", loc="left")
    right.set_title("KL to the reference, nats", loc="left")
    left.legend(fontsize=9)
    return figure


def pull_by_gap(betas, pairs, beta, example=2.2) -> Figure:
    """The weight β·σ(−βΔ) against Δ, a line for each of `betas`; `pairs` are values of Δ marked on the line of `beta`.

    The pair at Δ = `example` has the worked example's colour.
    """
    import numpy as np

    figure, (axis,) = new_figure()
    deltas = np.linspace(-10, 10, 401)
    for one, (color, line) in zip(betas, STEADY, strict=True):
        axis.plot(deltas, pair_values(deltas, one)[2], line, color=color, label=f"β = {one:g}")
    for delta in pairs:
        weight = float(pair_values(delta, beta)[2])
        color = COLORS["example"] if delta == example else COLORS["other"]
        axis.plot(delta, weight, "o", ms=8, color=color, mec=COLORS["ink"], zorder=3)
        place = (-20, -18) if delta == 0 else (5, 7)  # at 0 the steepest line passes above
        axis.annotate(f"{weight:.3f}", (delta, weight), place, textcoords="offset points", bbox=PLATE)
    axis.set(xlabel="Δ of the pair, nats   (wrong order ← 0 → right order)", ylabel="weight β·σ(−βΔ)")
    axis.set_title("Pairs right by many 1/β count little", loc="left")
    axis.legend()
    return figure


def weight_and_loss(betas, deltas, peak) -> Figure:
    """Weight β·σ(−βΔ) and loss −log σ(βΔ) against β, for three values of Δ; `peak` is `(β, weight)` of the first."""
    import numpy as np

    figure, (left, right) = new_figure(columns=2)
    betas = np.asarray(betas)
    roles = ((COLORS["example"], "-"), (COLORS["grey"], "--"), (COLORS["ink"], "-."))
    for delta, (color, line) in zip(deltas, roles, strict=True):
        look = {"color": color, "ls": line, "label": f"Δ = {delta:g}".replace("-", "−")}
        left.plot(betas, pair_values(delta, betas)[2], **look)
        right.plot(betas, pair_values(delta, betas)[1], **look)
    left.plot(*peak, "o", ms=8, color=COLORS["example"], mec=COLORS["ink"])
    left.annotate(f"peak at β = {peak[0]:.2f}", peak, (4, 10), textcoords="offset points", color=WORDS["example"])
    left.set(xlabel="β", ylim=(0, 1), xlim=(0, betas[-1]))
    right.set(xlabel="β", ylim=(0, 2), xlim=(0, betas[-1]))
    left.set_title("how hard the pair pulls, β·σ(−βΔ)", loc="left")
    right.set_title("what a slider shows: the loss", loc="left")
    left.legend(fontsize=9, loc="upper left")
    return figure
