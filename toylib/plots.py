"""Figures: numbers in, a matplotlib Figure out. Knows no model."""

from __future__ import annotations

import io
import math

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

# Okabe-Ito, safe for colour-blind readers; each role has a line style too, so that colour is never alone.
COLORS = {
    "chosen": "#0072B2",
    "rejected": "#CC79A7",
    "margin": "#009E73",
    "example": "#D55E00",  # the worked example, everywhere
    "other": "#56B4E9",
    "ink": "#333333",
    "ground": "#FCFBF7",  # off-white: survives dark mode
}
LINES = {"chosen": "-", "rejected": "--", "margin": "-.", "example": "-", "other": ":"}
RC = {
    "figure.facecolor": COLORS["ground"],
    "axes.facecolor": COLORS["ground"],
    "axes.edgecolor": COLORS["ink"],
    "axes.labelcolor": COLORS["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "grid.color": "#DDDAD0",
    "grid.linewidth": 0.6,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "text.color": COLORS["ink"],
    "xtick.color": COLORS["ink"],
    "ytick.color": COLORS["ink"],
}


def new_figure(columns=1, height=3.4, width=8.6, **kwargs) -> tuple[Figure, list]:
    """A figure in the series' style and its axes, side by side, as a list; `kwargs` go to `Figure.subplots`."""
    import matplotlib

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False, **kwargs)[0]
    return figure, list(axes)


def png(figure) -> bytes:
    """The figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def show(figure, alt: str) -> None:
    """Display the figure with `alt`, a sentence that says what it shows to who cannot see it."""
    from IPython.display import display

    display({"image/png": png(figure), "text/plain": alt}, metadata={"image/png": {"alt": alt}}, raw=True)


def token_strip(rows, low=-4.0, title="log-prob of each token, in nats"):
    """Tokens in their order as boxes, darker where the log-prob is lower; `rows` is a list of (label, tokens, values).

    Values (nats, at most 0) stand under the tokens; the scale is fixed from `low` to 0, so that strips can be compared.
    """
    figure, (axis,) = new_figure(height=0.5 + 0.95 * len(rows))
    widest = max(sum(_token_width(token) for token in tokens) for _, tokens, _ in rows)
    for row, (label, tokens, values) in enumerate(rows):
        x, y = 0.0, -row
        axis.text(-0.6, y, label, ha="right", va="center", fontweight="bold")
        for token, value in zip(tokens, values, strict=True):
            width = _token_width(token)
            share = min(1.0, max(0.0, value / low))
            color = _mix("#FFFFFF", COLORS["other"], share)
            axis.add_patch(Rectangle((x, y - 0.18), width - 0.12, 0.46, facecolor=color, edgecolor="#888888", lw=0.6))
            axis.text(
                x + width / 2 - 0.06, y + 0.05, _visible(token), ha="center", va="center", family="DejaVu Sans Mono"
            )
            axis.text(x + width / 2 - 0.06, y - 0.34, f"{value:.2f}", ha="center", va="center", fontsize=8)
            x += width
    axis.set_xlim(-0.2 * widest, widest)
    axis.set_ylim(-len(rows) + 0.4, 0.5)
    axis.set_title(title, loc="left")
    axis.axis("off")
    return figure


def _token_width(token):
    return 0.55 * max(4, len(_visible(token))) + 0.6


def _visible(token):
    return token.replace(" ", "␣").replace("\n", "⏎")


def _mix(light, dark, share):
    from matplotlib.colors import to_rgb

    return [a + (b - a) * share for a, b in zip(to_rgb(light), to_rgb(dark), strict=True)]


def training_curves(history, steps):
    """Four panels over the steps of one run: log-ratios of chosen and rejected, margin Δ, KL to the reference, loss.

    `history` is a DataFrame indexed by step with the columns `chosen` and `rejected` (mean log-ratios, nats), `kl`
    (nats a reply; gaps are left out) and `loss`. The step axis runs to `steps` from the start, so it never jumps.
    """
    figure, axes = new_figure(columns=4, height=3.0, width=10.0)
    _plot_log_ratios(axes[0], history)
    axes[1].plot(history.index, history["chosen"] - history["rejected"], LINES["margin"], color=COLORS["margin"])
    kl = history["kl"].dropna()
    axes[2].plot(kl.index, kl, "-", color=COLORS["ink"], marker="o", ms=3)
    axes[3].plot(history.index, history["loss"], "-", color=COLORS["ink"])
    axes[3].axhline(math.log(2), color=COLORS["ink"], lw=0.8, ls=":")
    axes[3].annotate("ln 2", (steps, math.log(2)), xytext=(0, 3), textcoords="offset points", ha="right", fontsize=8)
    for axis, text in zip(axes, ("log-ratio, nats", "margin Δ, nats", "KL to reference, nats", "loss"), strict=True):
        axis.set_title(text, loc="left")
        axis.set_xlabel("step")
        axis.set_xlim(0, steps)
    axes[0].legend(fontsize=8)
    return figure


def log_ratios(histories):
    """One panel a run, on one scale: mean log-ratios of chosen and rejected over steps, nats; zero is the reference.

    `histories` is a dict of label → DataFrame as for `training_curves`.
    """
    figure, axes = new_figure(columns=len(histories), sharey=True)
    for axis, (label, history) in zip(axes, histories.items(), strict=True):
        _plot_log_ratios(axis, history)
        axis.set_title(label, loc="left")
        axis.set_xlabel("step")
    axes[0].set_ylabel("mean log-ratio, nats")
    axes[0].legend()
    return figure


def _plot_log_ratios(axis, history):
    for name in ("chosen", "rejected"):
        axis.plot(history.index, history[name], LINES[name], color=COLORS[name], label=name)
    axis.axhline(0, color=COLORS["ink"], lw=0.8)


def data_flow(chosen, rejected, policy, reference, beta):
    """The seed's diagram with one pair's numbers on its arrows.

    `chosen` and `rejected` are the two replies' texts; `policy` and `reference` are (log-prob of chosen, of rejected).
    """
    ratios = [p - r for p, r in zip(policy, reference, strict=True)]
    delta = ratios[0] - ratios[1]
    loss = math.log1p(math.exp(-beta * delta))
    figure, (axis,) = new_figure(height=5.2)
    axis.set_xlim(0, 10)
    axis.set_ylim(0, 6.2)
    axis.axis("off")

    def box(x, y, width, height, text, color, style="-", **kwargs):
        axis.add_patch(
            FancyBboxPatch(
                (x, y),
                width,
                height,
                boxstyle="round,pad=0.02,rounding_size=0.08",
                fc="white",
                ec=color,
                lw=1.8,
                ls=style,
            )
        )
        axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9.5, **kwargs)

    def arrow(start, end, color=COLORS["ink"], **kwargs):
        axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.4, **kwargs})

    box(
        0.2,
        5.1,
        9.6,
        0.95,
        f"one preference pair\nchosen: {chosen.strip()}      rejected: {rejected.strip()}",
        COLORS["example"],
    )
    box(0.9, 3.75, 3.4, 0.85, "policy πθ (trained)", COLORS["chosen"])
    box(5.7, 3.75, 3.4, 0.85, "reference πref (frozen copy)", COLORS["ink"], style="--")
    for x in (2.6, 7.4):
        arrow((x, 5.08), (x, 4.64))
        arrow((x, 3.73), (x, 3.27))
    box(0.9, 2.4, 3.4, 0.85, f"log πθ(chosen) = {policy[0]:.2f}\nlog πθ(rejected) = {policy[1]:.2f}", COLORS["chosen"])
    box(
        5.7,
        2.4,
        3.4,
        0.85,
        f"log πref(chosen) = {reference[0]:.2f}\nlog πref(rejected) = {reference[1]:.2f}",
        COLORS["ink"],
    )
    arrow((2.6, 2.38), (3.9, 1.92))
    arrow((7.4, 2.38), (6.1, 1.92))
    box(
        2.4, 1.05, 5.2, 0.85,
        f"log-ratios: chosen {ratios[0]:+.2f}, rejected {ratios[1]:+.2f}\nmargin Δ = {delta:.2f}",
        COLORS["margin"],
    )  # fmt: skip
    arrow((5.0, 1.03), (5.0, 0.72))
    box(2.4, 0.08, 5.2, 0.62, f"loss = −log σ(β·Δ) = −log σ({beta:g} × {delta:.2f}) = {loss:.4f}", COLORS["example"])
    arrow((2.38, 0.39), (0.88, 4.1), color=COLORS["chosen"], connectionstyle="arc3,rad=-0.45", linestyle="-")
    axis.text(0.05, 0.95, "gradient:\nonly the\npolicy moves", fontsize=9, color=COLORS["chosen"], va="center")
    return figure


# ---- notebook 01 ----


PLATE = {"facecolor": COLORS["ground"], "edgecolor": "none", "pad": 1}  # behind text that crosses a line


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


# ---- notebook 03 ----

STEADY = ((COLORS["other"], ":"), ("#7F7F7F", "--"), (COLORS["ink"], "-"))  # low, middle and high β


def climb(steps, rewards, costs) -> Figure:
    """Expected reward, the leash's price β·KL, and what is left (their difference) over the steps of an ascent."""
    figure, (axis,) = new_figure()
    left = [reward - cost for reward, cost in zip(rewards, costs, strict=True)]
    lines = (
        (rewards, ":", COLORS["other"], "expected reward"),
        (costs, "--", "#7F7F7F", "price of the leash, β·KL"),
        (left, "-", COLORS["ink"], "reward − price"),
    )
    for values, line, color, text in lines:
        axis.plot(steps, values, line, color=color)
        axis.annotate(text, (steps[-1], values[-1]), (8, 0), textcoords="offset points", va="center")
    axis.set(xlim=(0, steps[-1] * 1.4), xticks=range(0, steps[-1] + 1, 10), xlabel="gradient step")
    axis.set_title("The objective climbs and levels off", loc="left")
    return figure


def closed_forms(names, reference, optima, example=0) -> Figure:
    """A panel for each β of `optima` (dict β → probabilities): the optimum as bars, the reference as an outline.

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
    axes[0].set_yticks(list(rows), names)
    axes[0].invert_yaxis()
    legend = axes[0].legend(loc="lower right", fontsize=9, handlelength=1.2, frameon=False)
    legend.legend_handles[0].set_facecolor(COLORS["other"])
    return figure


def implicit_rewards(rewards, implicit) -> Figure:
    """Implicit reward against true reward, a line for each β of `implicit` (dict β → values)."""
    figure, (axis,) = new_figure(width=6.4)
    for (beta, values), (color, line) in zip(implicit.items(), STEADY, strict=False):
        axis.plot(rewards, values, line, marker="o", ms=5, color=color)
        text = f"  β = {beta:g}"
        axis.annotate(text, (max(rewards), max(values)), (4, 0), textcoords="offset points", va="center")
    axis.plot([-1.7, 1.7], [-1.7, 1.7], color=COLORS["margin"], lw=0.8)
    axis.annotate("equal", (-0.9, -0.9), (-30, 8), textcoords="offset points", color=COLORS["margin"])
    axis.set(xlabel="true reward r", ylabel="implicit reward β·log-ratio", xlim=(-1.8, 2.7))
    axis.set_title("Same slope, shifted: the shift is β·log Z", loc="left")
    return figure


def preference_shares(differences, shares, example) -> Figure:
    """The share of sampled comparisons that the better reply won, by reward difference, on the curve of σ.

    `example` is the index of the pair that gets the worked example's colour.
    """
    import numpy as np

    figure, (axis,) = new_figure(width=6.4)
    x = np.linspace(0, 1.08 * max(differences), 200)
    axis.plot(x, 1 / (1 + np.exp(-x)), color=COLORS["ink"], label="σ(difference)")
    axis.plot(differences, shares, "o", color=COLORS["other"], mec=COLORS["ink"], label="counted, one dot a pair")
    where = (differences[example], shares[example])
    axis.plot(*where, "s", ms=9, color=COLORS["example"], mec=COLORS["ink"], label="the worked pair")
    axis.set(xlabel="reward of the better − reward of the worse", ylabel="share won by the better", ylim=(0.45, 1.02))
    axis.legend(loc="lower right", frameon=False)
    return figure


def leash_by_beta(curve, minimisers) -> Figure:
    """KL to the reference against β: the closed form as a curve, DPO's minimisers as dots; both `(betas, kls)`."""
    figure, (axis,) = new_figure(width=6.4)
    axis.plot(*curve, color=COLORS["ink"], label="closed form of reward − β·KL")
    axis.plot(*minimisers, "o", ms=8, mfc="none", mew=2, color=COLORS["margin"], clip_on=False, label="where DPO ends")
    axis.set(xscale="log", xlabel="β", ylabel="KL to the reference, nats", ylim=(0, None))
    axis.set_xticks([0.1, 0.5, 1, 5, 20], ["0.1", "0.5", "1", "5", "20"])
    axis.minorticks_off()
    axis.legend(frameon=False)
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
    left.legend(fontsize=9, frameon=False)
    return figure


def pull_by_gap(betas, pairs, beta, example=2.2) -> Figure:
    """The weight β·σ(−βΔ) against Δ, a line for each of `betas`; `pairs` are values of Δ marked on the line of `beta`.

    The pair at Δ = `example` has the worked example's colour.
    """
    import numpy as np

    figure, (axis,) = new_figure()
    deltas = np.linspace(-10, 10, 401)
    for one, (color, line) in zip(betas, STEADY, strict=True):
        axis.plot(deltas, one / (1 + np.exp(one * deltas)), line, color=color, label=f"β = {one:g}")
    for delta in pairs:
        weight = beta / (1 + np.exp(beta * delta))
        color = COLORS["example"] if delta == example else COLORS["other"]
        axis.plot(delta, weight, "o", ms=8, color=color, mec=COLORS["ink"], zorder=3)
        place = (-20, -18) if delta == 0 else (5, 7)  # at 0 the steepest line passes above
        axis.annotate(f"{weight:.3f}", (delta, weight), place, textcoords="offset points", bbox=PLATE)
    axis.set(xlabel="Δ of the pair, nats   (wrong order ← 0 → right order)", ylabel="weight β·σ(−βΔ)")
    axis.set_title("Pairs already right count little", loc="left")
    axis.legend(frameon=False)
    return figure


def weight_and_loss(betas, deltas, peak) -> Figure:
    """Weight β·σ(−βΔ) and loss −log σ(βΔ) against β, for three values of Δ; `peak` is `(β, weight)` of the first."""
    import numpy as np

    figure, (left, right) = new_figure(columns=2)
    betas = np.asarray(betas)
    roles = ((COLORS["example"], "-"), ("#7F7F7F", "--"), (COLORS["rejected"], "-."))
    for delta, (color, line) in zip(deltas, roles, strict=True):
        left.plot(betas, betas / (1 + np.exp(betas * delta)), line, color=color, label=f"Δ = {delta:g}")
        right.plot(betas, np.log1p(np.exp(-betas * delta)), line, color=color, label=f"Δ = {delta:g}")
    left.plot(*peak, "o", ms=8, color=COLORS["example"], mec=COLORS["ink"])
    left.annotate(f"peak at β = {peak[0]:.2f}", peak, (4, 10), textcoords="offset points", color=COLORS["example"])
    left.set(xlabel="β", ylim=(0, 1), xlim=(0, betas[-1]))
    right.set(xlabel="β", ylim=(0, 2), xlim=(0, betas[-1]))
    left.set_title("how hard the pair pulls, β·σ(−βΔ)", loc="left")
    right.set_title("what a slider shows: the loss", loc="left")
    left.legend(fontsize=9, loc="upper left", frameon=False)
    return figure
