"""Figures of one preference pair, its probability and its loss: notebook 01, the β slider and the replay of 04."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from toylib.plots.style import COLORS, LINES, PLATE, WORDS, in_style, new_figure, styled_figure


@in_style()
def sigmoid_curve(marks=()) -> Figure:
    """Draw σ from log-odds −5 to 5; `marks` are `(log_odds, probability)` points to draw on it, with their numbers."""
    import numpy as np

    figure, (axis,) = new_figure(width=6.0, height=2.8)
    log_odds = np.linspace(-5, 5, 401)
    axis.plot(log_odds, pair_values(log_odds, 1.0)[0], color=COLORS["ink"])
    for x, y in marks:
        axis.plot([x, x, -5], [0, y, y], ":", color=COLORS["ink"], linewidth=1)
        axis.plot(x, y, "o", color=COLORS["ink"], zorder=3)
        note = {"textcoords": "offset points", "color": COLORS["ink"], "bbox": PLATE}
        axis.annotate(f"σ({round(x, 4):g}) = {y:.2f}", (x, y), (10, -13), **note)
    axis.set(xlim=(-5, 5), ylim=(0, 1.03), xlabel="log-odds", ylabel="probability")
    axis.set_title("σ turns log-odds into a probability", loc="left")
    return figure


@in_style()
def four_numbers(policy_chosen, policy_rejected, ref_chosen, ref_rejected, titles=None) -> Figure:
    """Draw four log-probs, the two log-ratios and the margin Δ, all in nats.

    On the left, an arrow leads from the reference's log-prob of each reply to the policy's. On the right, the same two
    arrows start at zero, as log-ratios, and Δ lies between their tips. `titles` replaces the titles of the two sides.
    """
    titles = titles or ("Each arrow leads from reference to policy", "Δ is the chosen tip minus the rejected tip")
    figure, (left, right) = new_figure(columns=2, width_ratios=[1.15, 1])
    ink, ground = COLORS["ink"], COLORS["ground"]
    pairs = {"chosen": (1, ref_chosen, policy_chosen), "rejected": (0, ref_rejected, policy_rejected)}
    tips = [policy - reference for _, reference, policy in pairs.values()]
    for (role, (row, reference, policy)), tip in zip(pairs.items(), tips, strict=True):
        _arrow(left, reference, policy, row, role)
        left.plot(reference, row, "o", color=ink, markerfacecolor=ground, zorder=4)
        _write(left, f"reference\n{reference:.1f}", reference, row, ink)
        _write(left, f"policy\n{policy:.1f}", policy, row, WORDS[role])
        _arrow(right, 0, tip, row, role)
        _write(right, f"{tip:+.1f}", tip / 2, row, WORDS[role])
        right.plot([tip] * 2, [-0.7, row], ":", color=ink, linewidth=1)
    _arrow(right, tips[1], tips[0], -0.7, "margin", "<|-|>")
    _write(right, f"Δ = {tips[0] - tips[1]:.1f}", sum(tips) / 2, -0.7, WORDS["margin"], weight="bold")
    right.axvline(0, color=ink, linewidth=1)
    numbers = (policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    left.set_title(titles[0], loc="left")
    left.set_xlabel("log-prob (nats)")
    left.set_xlim(min(numbers) - 0.6, max(numbers) + 0.6)
    right.set_title(titles[1], loc="left")
    right.set_xlabel("log-ratio = policy − reference (nats)")
    right.set_xlim(min(*tips, 0) - 0.4, max(*tips, 0) + 0.4)
    for axis in (left, right):
        axis.set(ylim=(-1, 1.7), yticks=[0, 1], yticklabels=["rejected", "chosen"])
        axis.grid(axis="y", visible=False)
    return figure


def _arrow(axis, start, end, row, role, style="-|>"):
    look = {"arrowstyle": style, "color": COLORS[role], "linestyle": LINES[role], "lw": 2.2, "shrinkA": 0, "shrinkB": 0}
    return axis.annotate("", (end, row), (start, row), arrowprops=look, zorder=3)


def _write(axis, text, x, row, color, place=(0, 8), **look):
    look = {"textcoords": "offset points", "ha": "center", "color": color, "bbox": PLATE} | look
    return axis.annotate(text.replace("-", "−"), (x, row), place, **look)


@in_style()
def replay_panels(steps, policy, reference) -> tuple[Figure, dict]:
    """Return a figure of one pair over a training run, and what `move_to_step` moves in it.

    On the left, an arrow leads from the reference's log-prob of each reply to the policy's. On the right are the two
    log-ratios over the steps, and Δ between them.

    Args:
        steps: when the policy was scored, in their order.
        policy: its log-probs at each of these steps, `(chosen, rejected)`, in nats.
        reference: the reference's log-probs, `(chosen, rejected)`, in nats.
    """
    figure, (left, right) = new_figure(columns=2, width_ratios=[1.15, 1])
    moves, rows = [], {"chosen": 1, "rejected": 0}
    for (role, row), start, logps in zip(rows.items(), reference, zip(*policy, strict=True), strict=True):
        left.plot(start, row, "o", color=COLORS["ink"], markerfacecolor=COLORS["ground"], zorder=4)
        _write(left, f"reference\n{start:.2f}", start, row, COLORS["ink"], place=(0, -32))
        moves.append((_arrow(left, start, start, row, role), _write(left, "", start, row, WORDS[role])))
        ratios = [logp - start for logp in logps]
        right.plot(steps, ratios, LINES[role], color=COLORS[role])
        _write(right, role, steps[-1], ratios[-1], WORDS[role], place=(6, -4), ha="left")
    numbers = [*reference, *(logp for pair in policy for logp in pair)]
    left.set(xlim=(min(numbers) - 0.8, max(numbers) + 0.8), ylim=(-0.8, 1.7), xlabel="log-prob (nats)")
    left.set(yticks=[0, 1], yticklabels=["rejected", "chosen"])
    left.grid(axis="y", visible=False)
    left.set_title("Each arrow leads from reference to policy", loc="left")
    right.axhline(0, color=COLORS["ink"], linewidth=1)
    right.set(xlim=(steps[0], steps[-1] + 0.3 * (steps[-1] - steps[0])), xlabel="step", ylabel="log-ratio (nats)")
    right.set_xticks([tick for tick in right.get_xticks() if steps[0] <= tick <= steps[-1]])
    right.set_title("Δ is the chosen curve minus the rejected", loc="left")
    (gap,) = right.plot([], [], LINES["margin"], color=COLORS["margin"], marker="o", markersize=5, zorder=4)
    artists = [*(artist for move in moves for artist in move), gap]
    scored = {"steps": steps, "policy": policy, "reference": reference}
    return figure, scored | {"moves": moves, "gap": gap, "artists": artists}


def move_to_step(panels, at) -> float:
    """Show the scored step number `at` in a figure of `replay_panels`. Return Δ in nats."""
    ratios = []
    for (arrow, text), start, logp in zip(panels["moves"], panels["reference"], panels["policy"][at], strict=True):
        ratios.append(logp - start)
        arrow.xy = text.xy = (logp, text.xy[1])
        arrow.set_visible(abs(ratios[-1]) > 0.02)  # an arrow of no length still has a head
        text.set_text(f"policy\n{logp:.2f}".replace("-", "−"))
    panels["gap"].set_data([panels["steps"][at]] * 2, ratios)
    return ratios[0] - ratios[1]


def pair_values(delta, beta) -> tuple:
    """Return `(probability σ(βΔ), loss −log σ(βΔ), weight β·σ(−βΔ))` of a pair at Δ = `delta`, in nats.

    `delta` and `beta` are numbers or arrays, and each of the three has their shape.
    """
    import numpy as np

    loss = np.logaddexp(0, -beta * np.asarray(delta, dtype=float))
    return np.exp(-loss), loss, beta * np.exp(-np.logaddexp(0, beta * np.asarray(delta, dtype=float)))


KINDS = {  # of panel: its place in `pair_values`, title, height, no opinion's level and name, the number's corner
    "probability": (0, "Probability σ(βΔ)", 1, (0.5, "½: no opinion", (5, 5)), "left"),
    "loss": (1, "Loss −log σ(βΔ)", 2, (math.log(2), "ln 2: no opinion", (5, -13)), "right"),
    "weight": (2, "Weight β·σ(−βΔ)", 0.6, None, "right"),
    "path": (2, "The pair's weight, against β", None, None, "left"),
}


def beta_panel(axis, kind, delta, limit=6.0, betas=()) -> dict:
    """Draw what stands still in a panel of the β explorer. Return the panel, with empty `artists` for `move_to_beta`.

    `kind` is one of `KINDS`. "path" is drawn against β over the range of `betas`, the others against Δ in ±`limit` nats.
    """
    import numpy as np

    _, _, top, level, corner = KINDS[kind]
    if kind == "path":
        reach = np.geomspace(betas[0], betas[-1], 401)
        heights = pair_values(delta, reach)[2]
        top = 1.15 * heights.max()
        axis.plot(reach, heights, color=COLORS["example"], linewidth=1.5)
        axis.set(xscale="log", xlim=(betas[0], betas[-1]))
        axis.xaxis.set_major_formatter("{x:g}")
    else:
        axis.axvline(delta, color=COLORS["example"], linewidth=1, linestyle=":")
        axis.set_xlim(-limit, limit)
    if level:
        axis.axhline(level[0], color=COLORS["ink"], linewidth=1, linestyle=":")
    axis.set_ylim(-0.04 * top, 1.04 * top)
    number = {"color": WORDS["example"], "weight": "bold", "ha": corner, "va": "top", "bbox": PLATE}
    curve = axis.plot([], [], color=COLORS["ink"], linewidth=2)[0]
    point = axis.plot([], [], "o", color=COLORS["example"], markersize=8, zorder=4)[0]
    text = axis.text(0.03 if corner == "left" else 0.97, 0.95, "", transform=axis.transAxes, **number)
    return {"kind": kind, "delta": delta, "top": top, "artists": [curve, text, point]}


def move_to_beta(panel, beta) -> None:
    """Draw a `beta_panel` at this β. What is off the scale is a triangle at the top."""
    import numpy as np

    curve, text, point = panel["artists"]
    place = KINDS[panel["kind"]][0]
    height = float(pair_values(panel["delta"], beta)[place])
    if panel["kind"] != "path":
        deltas = np.linspace(*curve.axes.get_xlim(), 401)
        curve.set_data(deltas, pair_values(deltas, beta)[place])
    above = height > panel["top"]
    point.set_data([beta if panel["kind"] == "path" else panel["delta"]], [panel["top"] if above else height])
    point.set_marker("^" if above else "o")
    text.set_text(f"{height:.4f}")


@in_style()
def beta_panels(delta, limit=6.0, kinds=("probability", "loss"), betas=(0.01, 10)) -> tuple[Figure, list]:
    """Return a figure with a `beta_panel` of each kind side by side, and the panels. `betas` is the range of a "path"."""
    figure, axes = new_figure(columns=len(kinds))
    panels = []
    for axis, kind in zip(axes, kinds, strict=True):
        panels.append(beta_panel(axis, kind, delta, limit, betas))
        axis.set_title(KINDS[kind][1], loc="left")
        axis.set_xlabel("β" if kind == "path" else "Δ (nats)")
        if level := KINDS[kind][3]:
            note_level(axis, level, limit)
    return figure, panels


def note_level(axis, level, limit, short=False) -> None:
    """Name the dotted line of no opinion; `short` where the panel is narrow."""
    height, name, offset = level
    text = name.split(":")[0] if short else name
    axis.annotate(text, (-limit, height), (3, offset[1]) if short else offset, textcoords="offset points")


@in_style()
def beta_grid(delta, betas=(0.05, 0.1, 0.5, 2.0), limit=6.0, kinds=("probability", "loss")) -> Figure:
    """Draw the β explorer at several β at once: a row for each kind of panel against Δ, a column for each β."""
    figure = styled_figure(8.6, 4.4)
    rows = figure.subplots(len(kinds), len(betas), sharex=True, sharey="row")
    for axes, kind in zip(rows, kinds, strict=True):
        axes[0].set_ylabel(KINDS[kind][1])
        for axis, beta in zip(axes, betas, strict=True):
            move_to_beta(beta_panel(axis, kind, delta, limit), beta)
        if level := KINDS[kind][3]:
            note_level(axes[0], level, limit, short=True)
    for axis, beta in zip(rows[0], betas, strict=True):
        axis.set_title(f"β = {beta:g}")
    for axis in rows[-1]:
        axis.set_xlabel("Δ (nats)")
    return figure
