"""Figures of token log-probs, and of the flow of one pair through a DPO step: notebooks 02 and 04."""

from __future__ import annotations

import re

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from toylib.plots.pair import pair_values
from toylib.plots.style import COLORS, WORDS, in_style, new_figure, plain

MONO = ["DejaVu Sans Mono", "DejaVu Sans"]  # the second has letters that the first lacks


@in_style()
def token_strip(rows, low=-4.0, title="log-prob of each token, in nats", difference=False):
    """Draw tokens as boxes with their values, in nats, under them. `rows` is a list of `(label, tokens, values)`.

    Values are log-probs: darker blue where lower, on a fixed scale from 0 to `low`. With `difference` they are
    log-ratios, policy − reference: blue and ▲ where the policy gives the token more, amber and ▼ where less, on a
    fixed scale of ± `low`. A fixed scale means that strips can be compared; what is beyond it has the end's colour.
    """
    figure, (axis,) = new_figure(height=0.5 + 0.95 * len(rows))
    least = 6 if difference else 4  # characters: a log-ratio's mark and sign need room
    widest = max(sum(_token_width(token, least) for token in tokens) for _, tokens, _ in rows)
    for row, (label, tokens, values) in enumerate(rows):
        x, y = 0.0, -row
        axis.text(-0.6, y, plain(label), ha="right", va="center", fontweight="bold")
        for token, value in zip(tokens, values, strict=True):
            width = _token_width(token, least)
            color, text = _difference_look(value, abs(low)) if difference else _log_prob_look(value, low)
            axis.add_patch(Rectangle((x, y - 0.18), width - 0.12, 0.46, facecolor=color, edgecolor="#888888", lw=0.6))
            middle = {"ha": "center", "va": "center"}
            axis.text(x + width / 2 - 0.06, y + 0.05, plain(visible(token)), family=MONO, **middle)
            axis.text(x + width / 2 - 0.06, y - 0.34, text, fontsize=8, **middle)
            x += width
    axis.set_xlim(-0.2 * widest, widest)
    axis.set_ylim(-len(rows) + 0.4, 0.5)
    axis.set_title(plain(title), loc="left")
    axis.axis("off")
    return figure


@in_style()
def shift_and_mask(tokens, mask, logps):
    """Draw one sequence as the loss sees it: the tokens read, under each the next one, its mask and its log-prob in nats.

    `tokens` and `mask` (1 where scored) have one entry per position, `logps` one for each position but the first.
    """
    figure, (axis,) = new_figure(height=2.5)
    columns = list(zip(tokens[:-1], tokens[1:], mask[1:], logps, strict=True))
    names = ("read", "predict", "mask", "log-prob")
    x, middle = 0.0, {"ha": "center", "va": "center"}
    for read, predicted, scored, logp in columns:
        width = _token_width(max(read, predicted, key=len))
        color = COLORS["other"] if scored else "#E8E6DF"
        for row, (text, fill) in enumerate(((read, "#FFFFFF"), (predicted, color))):
            axis.add_patch(Rectangle((x, -row - 0.3), width - 0.12, 0.6, fc=fill, ec="#888888", lw=0.6))
            axis.text(x + width / 2 - 0.06, -row, plain(visible(text)), family=MONO, fontsize=9, **middle)
        axis.text(x + width / 2 - 0.06, -2, str(scored), **middle)
        axis.text(x + width / 2 - 0.06, -3, nats(logp) if scored else "·", fontsize=9, **middle)
        x += width
    for row, name in enumerate(names):
        axis.text(-0.6, -row, name, ha="right", va="center", fontweight="bold")
    axis.set_xlim(-0.16 * x, x)
    axis.set_ylim(-3.5, 0.5)
    axis.set_title("Every column predicts the next token, but only the reply counts", loc="left")
    axis.axis("off")
    return figure


def _log_prob_look(value, low):
    return _mix("#FFFFFF", COLORS["other"], min(1.0, max(0.0, value / low))), f"{value:.2f}".replace("-0.00", "0.00")


def _difference_look(value, most):
    shown = round(value, 2)
    hue = COLORS["chosen"] if shown > 0 else COLORS["amber"]  # told from blue by every kind of eye
    color = _mix("#FFFFFF", hue, 0.75 * min(1.0, abs(shown) / most))
    mark = "▲ " if shown > 0 else "▼ " if shown < 0 else ""
    text = f"{shown:+.{1 if abs(shown) >= 10 else 2}f}" if shown else "0.00"
    return color, mark + text.replace("-", "−")


def _token_width(token, least=4):
    return 0.55 * max(least, len(visible(token))) + 0.6


def _line(text):
    return text.strip().replace("\n", "⏎")


def visible(token) -> str:
    """Return a token with its blanks and line breaks to be seen."""
    return token.replace(" ", "␣").replace("\n", "⏎")


def _mix(light, dark, share):
    from matplotlib.colors import to_rgb

    return [a + (b - a) * share for a, b in zip(to_rgb(light), to_rgb(dark), strict=True)]


@in_style()
def data_flow(chosen, rejected, policy, reference, beta):
    """Draw the data flow of one DPO step with the numbers of one pair on its arrows.

    `chosen` and `rejected` are the texts of the two replies. `policy` and `reference` are pairs
    (log-prob of chosen, log-prob of rejected), in nats.
    """
    ratios = [p - r for p, r in zip(policy, reference, strict=True)]
    delta = ratios[0] - ratios[1]
    loss = float(pair_values(delta, beta)[1])
    figure, (axis,) = new_figure(height=5.2)
    axis.set_xlim(0, 10)
    axis.set_ylim(0, 6.2)
    axis.axis("off")
    replies = f"chosen: {plain(_line(chosen))}      rejected: {plain(_line(rejected))}"
    _box(axis, (0.2, 5.1, 9.6, 0.95), f"one preference pair\n{replies}", "example")
    _box(axis, (0.9, 3.75, 3.4, 0.85), "policy πθ (trained)", "chosen")
    _box(axis, (5.7, 3.75, 3.4, 0.85), "reference πref (frozen copy)", "ink", style="--")
    for x in (2.6, 7.4):
        _arrow(axis, (x, 5.08), (x, 4.64))
        _arrow(axis, (x, 3.73), (x, 3.27))
    for x, model, numbers, role in ((0.9, "πθ", policy, "chosen"), (5.7, "πref", reference, "ink")):
        text = f"log {model}(chosen) = {numbers[0]:.2f}\nlog {model}(rejected) = {numbers[1]:.2f}"
        _box(axis, (x, 2.4, 3.4, 0.85), _minus(text), role)
    _arrow(axis, (2.6, 2.38), (3.9, 1.92))
    _arrow(axis, (7.4, 2.38), (6.1, 1.92))
    text = f"log-ratios: chosen {ratios[0]:+.2f}, rejected {ratios[1]:+.2f}\nmargin Δ = {delta:.2f}"
    _box(axis, (2.4, 1.05, 5.2, 0.85), _minus(text), "margin")
    _arrow(axis, (5.0, 1.03), (5.0, 0.72))
    text = f"loss = −log σ(β·Δ) = −log σ({beta:g} × {delta:.2f}) = {loss:.4f}"
    _box(axis, (2.4, 0.08, 5.2, 0.62), _minus(text), "example")
    _arrow(axis, (2.38, 0.39), (0.88, 4.1), COLORS["chosen"], connectionstyle="arc3,rad=-0.45", linestyle="-")
    axis.text(0.05, 0.95, "gradient:\nonly the\npolicy moves", fontsize=9, color=WORDS["chosen"], va="center")
    return figure


def _box(axis, place, text, role, style="-"):
    x, y, width, height = place
    look = {"boxstyle": "round,pad=0.02,rounding_size=0.08", "fc": "white", "ec": COLORS[role], "lw": 1.8, "ls": style}
    axis.add_patch(FancyBboxPatch((x, y), width, height, **look))
    axis.text(x + width / 2, y + height / 2, text, fontsize=9.5, ha="center", va="center")


def _arrow(axis, start, end, color=COLORS["ink"], **look):
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.4, **look})


def _minus(text):
    return re.sub(r"-(?=\d)", "−", text)


@in_style()
def shift_panels(tokens, logps, start) -> tuple[Figure, dict]:
    """Return a figure of one reply, token by token, and what `move_to_target` moves in it.

    Args:
        tokens: the texts of prompt and reply, in their order.
        logps: the log-prob (nats) of each token but the first, read from the row of logits before it.
        start: the position of the reply's first token.
    """
    figure, (axis,) = new_figure(height=3.6, width=9.6)
    pairs = zip(tokens, [*tokens[1:], ""], strict=True)
    widths = [0.6 * max(3, len(visible(token)), len(visible(target))) + 0.5 for token, target in pairs]
    lefts = [sum(widths[:at]) for at in range(len(tokens))]
    for row, label in enumerate(("row of logits at", "target, one later")):
        axis.text(-0.8, 2.5 - 1.5 * row, label, ha="right", va="center")
    boxes = [[], []]
    for at, token in enumerate(tokens):
        for row, name in enumerate((token, tokens[at + 1] if at + 1 < len(tokens) else None)):
            if name is None:
                continue
            scored = row == 1 and at + 1 >= start
            look = {
                "facecolor": _mix("#FFFFFF", COLORS["other"], 0.45) if scored else "#FFFFFF",
                "edgecolor": "#888888",
            }
            box = Rectangle((lefts[at], 2.2 - 1.5 * row), widths[at] - 0.12, 0.6, lw=0.6, **look)
            axis.add_patch(box)
            boxes[row].append(box)
            middle = {"ha": "center", "va": "center", "fontsize": 8, "family": MONO}
            axis.text(lefts[at] + widths[at] / 2 - 0.06, 2.5 - 1.5 * row, plain(visible(name)), **middle)
        axis.text(lefts[at] + widths[at] / 2 - 0.06, 2.93, f"{at}", ha="center", fontsize=8, color=COLORS["ink"])
    axis.set(xlim=(-0.2 * sum(widths), sum(widths)), ylim=(-1.5, 3.6))
    axis.axis("off")
    axis.set_title("Row t − 1 answers for token t; only the reply counts", loc="left")
    here = {"facecolor": "none", "edgecolor": COLORS["example"], "lw": 2.4}
    marks = [axis.add_patch(Rectangle((0, 0), 1, 0.6, **here)) for _ in range(2)]
    (arrow,) = axis.plot([], [], color=COLORS["example"], marker="v", markevery=[1], ms=7)
    note = axis.text(0, 0.2, "", va="center", color=WORDS["example"], fontweight="bold", fontsize=9)
    sums = axis.text(0, -0.8, "", va="center", fontsize=10)
    return figure, {
        "tokens": tokens,
        "logps": logps,
        "start": start,
        "boxes": boxes,
        "artists": [*marks, arrow, note, sums],
    }


def nats(value) -> str:
    """Return a log-prob with two decimals, a true minus sign, and no sign where it is 0."""
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def move_to_target(panels, position) -> float:
    """Show the token at `position` as the target in a figure of `shift_panels`. Return the sum of the reply up to it."""
    tokens, logps, start = panels["tokens"], panels["logps"], panels["start"]
    *marks, arrow, note, sums = panels["artists"]
    source, target = panels["boxes"][0][position - 1], panels["boxes"][1][position - 1]
    for mark, box in zip(marks, (source, target), strict=True):
        mark.set_bounds(*box.get_xy(), box.get_width(), box.get_height())
    middle = source.get_x() + source.get_width() / 2
    arrow.set_data([middle, middle], [source.get_y(), target.get_y() + 0.72])
    scored = logps[start - 1 : position]
    counts = "scored" if position >= start else "masked"
    note.set_text(f"{plain(visible(tokens[position]))}: {nats(logps[position - 1])} nats, {counts}")
    right = middle > 0.6 * panels["boxes"][0][-1].get_x()
    note.set(x=source.get_x() + (source.get_width() if right else 0), ha="right" if right else "left")
    terms = " + ".join(f"({nats(value)})" for value in scored)
    sums.set_text(
        f"sum of the reply so far: {terms} = {nats(sum(scored))}" if terms else "sum of the reply so far: nothing yet"
    )
    return float(sum(scored))
