"""Figures of the derivation: reward, KL, closed form, preferences, gradient weight. Notebook 03."""

from __future__ import annotations

from matplotlib.figure import Figure

from toylib.plots.pair import pair_values
from toylib.plots.style import COLORS, PLATE, WORDS, in_style, new_figure, plain

STEADY = ((COLORS["other"], ":"), (COLORS["grey"], "--"), (COLORS["ink"], "-"))  # low, middle and high β


@in_style()
def closed_forms(names, reference, optima, example=0) -> Figure:
    """Draw a panel for each β of `optima` (dict β → probabilities): the optimum as bars, the reference as an outline.

    The reply at index `example` has the worked example's colour.
    """
    figure, axes = new_figure(columns=len(optima), sharey=True, sharex=True)
    rows = range(len(names))
    colors = [COLORS["example"] if row == example else COLORS["other"] for row in rows]
    for axis, (beta, probabilities) in zip(axes, optima.items(), strict=True):
        axis.barh(rows, probabilities, height=0.62, color=colors)
        outline = {"height": 0.82, "facecolor": "none", "edgecolor": COLORS["ink"], "linewidth": 1.2}
        axis.barh(rows, reference, linestyle="--", **outline)
        axis.set_title(f"β = {beta:g}", loc="left")
        axis.set_xlabel("probability\n(dashed: the reference)")
        axis.grid(axis="y", visible=False)
        axis.set_axisbelow(True)
    axes[0].set_yticks(list(rows), [plain(name) for name in names])
    axes[0].invert_yaxis()
    figure.suptitle("A high β stays with the reference, a low β follows the reward", x=0.01, ha="left", fontsize=11)
    return figure


@in_style()
def kl_by_beta(curve, minimisers) -> Figure:
    """Draw KL to the reference against β: the closed form as a curve, DPO's minimisers as dots; both `(betas, kls)`."""
    figure, (axis,) = new_figure(width=6.4)
    axis.plot(*curve, color=COLORS["ink"])
    axis.plot(*minimisers, "o", ms=8, mfc="none", mew=2, color=COLORS["margin"], clip_on=False)
    axis.set(xscale="log", xlabel="β", ylabel="KL to the reference, nats", ylim=(0, None))
    axis.set_xticks([0.1, 0.5, 1, 5, 20], ["0.1", "0.5", "1", "5", "20"])
    axis.minorticks_off()
    middle = len(curve[0]) // 2
    where, above = (curve[0][middle], curve[1][middle]), {"textcoords": "offset points", "bbox": PLATE}
    axis.annotate("curve: optimum of reward − β·KL", where, (14, 26), color=COLORS["ink"], **above)
    axis.annotate("dots: where DPO ends", where, (14, 10), color=WORDS["margin"], **above)
    axis.set_title("DPO with soft labels ends at the optimum, at every β", loc="left")
    return figure


@in_style()
def margin_and_kl(steps, margins, kls, names, ceiling) -> Figure:
    """Draw margin Δ and KL to the reference over gradient steps, both in nats, a line for each run of `names`.

    `margins` and `kls` have a list for each run: three with hard labels, then a control. `ceiling` is the largest KL.
    """
    figure, (left, right) = new_figure(columns=2)
    looks = (*STEADY, (COLORS["margin"], "-."))
    words = (WORDS["other"], COLORS["grey"], COLORS["ink"], WORDS["margin"])
    for run, (margin, kl, name, (color, line)) in enumerate(zip(margins, kls, names, looks, strict=True)):
        left.plot(steps, margin, line, color=color)
        right.plot(steps, kl, line, color=color)
        place = (5, (0, 0, -7, 11)[run])  # the two lowest lines end close to each other
        note = {"textcoords": "offset points", "va": "center", "color": words[run], "fontsize": 9}
        left.annotate(name.replace(", ", ",\n"), (steps[-1], margin[-1]), place, **note)
    right.axhline(ceiling, color=COLORS["ink"], lw=0.8)
    right.annotate("one reply, always", (steps[0], ceiling), (0, 4), textcoords="offset points", fontsize=9)
    left.set(xscale="log", xlabel="gradient step", ylabel="Δ of the worked pair, nats")
    right.set(xscale="log", xlabel="gradient step", ylabel="KL to the reference, nats", ylim=(0, 1.15 * ceiling))
    left.set_title("With hard labels the margin never stops", loc="left")
    right.set_title("With hard labels KL rises to a single reply's", loc="left")
    return figure


@in_style()
def gradient_weights(betas, pairs, beta, example=2.2) -> Figure:
    """Draw the weight β·σ(−βΔ) against Δ, a line for each of `betas`; `pairs` are values of Δ marked on the line of `beta`.

    The pair at Δ = `example` has the worked example's colour.
    """
    import numpy as np

    figure, (axis,) = new_figure()
    deltas = np.linspace(-10, 10, 401)
    for one, (color, line) in zip(betas, STEADY, strict=True):
        axis.plot(deltas, pair_values(deltas, one)[2], line, color=color)
        start = (deltas[0], float(pair_values(deltas[0], one)[2]))
        axis.annotate(f"β = {one:g}", start, (2, 5), textcoords="offset points")
    for delta in pairs:
        weight = float(pair_values(delta, beta)[2])
        color = COLORS["example"] if delta == example else COLORS["other"]
        axis.plot(delta, weight, "o", ms=8, color=color, mec=COLORS["ink"], zorder=3)
        place = (-20, -18) if delta == 0 else (5, 7)  # at 0 the steepest line passes above
        axis.annotate(f"{weight:.3f}", (delta, weight), place, textcoords="offset points", bbox=PLATE)
    axis.set(xlabel="Δ of the pair, nats   (ranked wrong ← 0 → ranked right)", ylabel="weight β·σ(−βΔ)")
    axis.set_ylim(top=1.15 * max(betas))
    axis.set_title("Pairs with Δ far above 1/β count little", loc="left")
    return figure
