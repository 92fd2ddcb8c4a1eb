"""Figures of one preference pair, its probability and its loss: notebook 01 and the β slider."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from toylib.plots import COLORS, LINES, PLATE, RC, new_figure


def sigmoid_curve(marks=()) -> Figure:
    """σ from log-odds −5 to 5; `marks` are `(log_odds, probability)` points to draw on it, with their numbers."""
    import numpy as np

    figure, (axis,) = new_figure(width=6.0, height=2.8)
    log_odds = np.linspace(-5, 5, 401)
    axis.plot(log_odds, 1 / (1 + np.exp(-log_odds)), color=COLORS["ink"])
    for x, y in marks:
        axis.plot([x, x, -5], [0, y, y], ":", color=COLORS["ink"], linewidth=1)
        axis.plot(x, y, "o", color=COLORS["ink"], zorder=3)
        note = {"textcoords": "offset points", "color": COLORS["ink"], "bbox": PLATE}
        axis.annotate(f"σ({round(x, 4):g}) = {y:.2f}", (x, y), (10, -13), **note)
    axis.set(xlim=(-5, 5), ylim=(0, 1.03), xlabel="log-odds", ylabel="probability")
    axis.set_title("σ turns log-odds into a probability", loc="left")
    return figure


def four_numbers(policy_chosen, policy_rejected, ref_chosen, ref_rejected) -> Figure:
    """Four log-probs and what becomes of them, in nats.

    Left: where the two models put each reply, an arrow from reference to policy. Right: the same two arrows laid from
    zero, as log-ratios, and Δ between their tips.
    """
    figure, (left, right) = new_figure(columns=2, width_ratios=[1.15, 1])
    ink, ground = COLORS["ink"], COLORS["ground"]

    def arrow(axis, start, end, row, role, style="-|>"):
        look = {
            "arrowstyle": style,
            "color": COLORS[role],
            "linestyle": LINES[role],
            "lw": 2.2,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        axis.annotate("", (end, row), (start, row), arrowprops=look, zorder=3)

    def write(axis, text, x, row, color, **kwargs):
        text = text.replace("-", "−")
        axis.annotate(
            text, (x, row), (0, 8), textcoords="offset points", ha="center", color=color, bbox=PLATE, **kwargs
        )

    tips = []
    for role, row, reference, policy in (
        ("chosen", 1, ref_chosen, policy_chosen),
        ("rejected", 0, ref_rejected, policy_rejected),
    ):
        tips.append(policy - reference)
        arrow(left, reference, policy, row, role)
        left.plot(reference, row, "o", color=ink, markerfacecolor=ground, zorder=4)
        write(left, f"reference\n{reference:.1f}", reference, row, ink)
        write(left, f"policy\n{policy:.1f}", policy, row, COLORS[role])
        arrow(right, 0, tips[-1], row, role)
        write(right, f"{tips[-1]:+.1f}", tips[-1] / 2, row, COLORS[role])
        right.plot([tips[-1]] * 2, [-0.7, row], ":", color=ink, linewidth=1)
    arrow(right, tips[1], tips[0], -0.7, "margin", "<|-|>")
    write(right, f"Δ = {tips[0] - tips[1]:.1f}", sum(tips) / 2, -0.7, COLORS["margin"], weight="bold")
    right.axvline(0, color=ink, linewidth=1)

    numbers = (policy_chosen, policy_rejected, ref_chosen, ref_rejected)
    left.set_title("Where the two models put each reply", loc="left")
    left.set_xlabel("log-prob (nats)")
    left.set_xlim(min(numbers) - 0.6, max(numbers) + 0.6)
    right.set_title("How far each reply moved", loc="left")
    right.set_xlabel("log-ratio = policy − reference (nats)")
    right.set_xlim(min(*tips, 0) - 0.4, max(*tips, 0) + 0.4)
    for axis in (left, right):
        axis.set(ylim=(-1, 1.7), yticks=[0, 1], yticklabels=["rejected", "chosen"])
        axis.grid(axis="y", visible=False)
    return figure


def beta_panel(axis, kind, delta, limit=6.0, top=2.0) -> dict:
    """What stands still in a panel of the β explorer, drawn; and, still empty, what `move_to_beta` moves.

    `kind` is "probability", σ(βΔ), or "loss", −log σ(βΔ), both against Δ in ±`limit`; the loss is drawn up to `top`.
    """
    level, height, corner = (0.5, 1, "left") if kind == "probability" else (math.log(2), top, "right")
    axis.axvline(delta, color=COLORS["example"], linewidth=1, linestyle=":")
    axis.axhline(level, color=COLORS["ink"], linewidth=1, linestyle=":")
    axis.set(xlim=(-limit, limit), ylim=(-0.04 * height, 1.04 * height))
    number = {"color": COLORS["example"], "weight": "bold", "ha": corner, "va": "top", "bbox": PLATE}
    return {
        "kind": kind,
        "delta": delta,
        "top": height,
        "curve": axis.plot([], [], color=COLORS["ink"])[0],
        "point": axis.plot([], [], "o", color=COLORS["example"], markersize=8, zorder=4)[0],
        "number": axis.text(0.03 if corner == "left" else 0.97, 0.95, "", transform=axis.transAxes, **number),
    }


def move_to_beta(panel, beta) -> float:
    """Draw a `beta_panel` at this β; returns the height of its point. A loss off the scale is a triangle at the top."""
    import numpy as np

    deltas = np.linspace(*panel["curve"].axes.get_xlim(), 401)
    heights = np.logaddexp(0, -beta * np.append(deltas, panel["delta"]))  # the loss: log(1 + exp(−βΔ))
    if panel["kind"] == "probability":
        heights = np.exp(-heights)
    height = float(heights[-1])
    above = height > panel["top"]
    panel["curve"].set_data(deltas, heights[:-1])
    panel["point"].set_data([panel["delta"]], [panel["top"] if above else height])
    panel["point"].set_marker("^" if above else "o")
    panel["number"].set_text(f"{height:.4f}")
    return height


def beta_panels(delta, limit=6.0) -> tuple[Figure, list]:
    """A figure with a probability and a loss `beta_panel` side by side, and the two panels."""
    figure, axes = new_figure(columns=2)
    panels = []
    for axis, kind, title in zip(axes, ("probability", "loss"), ("Probability σ(βΔ)", "Loss −log σ(βΔ)"), strict=True):
        panels.append(beta_panel(axis, kind, delta, limit))
        axis.set_title(title, loc="left")
        axis.set_xlabel("Δ (nats)")
    note = {"textcoords": "offset points", "color": COLORS["ink"]}
    axes[0].annotate("½: no opinion", (-limit, 0.5), (5, 5), **note)
    axes[1].annotate("ln 2: no opinion", (-limit, math.log(2)), (5, -13), **note)
    return figure, panels


def beta_grid(delta, betas=(0.05, 0.1, 0.5, 2.0), limit=6.0) -> Figure:
    """The β explorer at several β at once: probabilities above, losses below, one column for each β."""
    import matplotlib

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(8.6, 4.4), dpi=100, layout="constrained")
        rows = figure.subplots(2, len(betas), sharex=True, sharey="row")
        for axes, kind, label in zip(rows, ("probability", "loss"), ("σ(βΔ)", "loss −log σ(βΔ)"), strict=True):
            axes[0].set_ylabel(label)
            for axis, beta in zip(axes, betas, strict=True):
                move_to_beta(beta_panel(axis, kind, delta, limit), beta)
        for axis, beta in zip(rows[0], betas, strict=True):
            axis.set_title(f"β = {beta:g}")
        for axis in rows[1]:
            axis.set_xlabel("Δ (nats)")
    return figure
