"""The pictures of the interview: DPO beside PPO, and the cards. Notebook 10."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from toylib.plots.style import COLORS, PLATE, WORDS, in_style, new_figure, plain


@in_style()
def coverage(counts, levels) -> Figure:
    """Draw how many cards there are: `counts` is a dict of group → numbers, one for each of `levels`."""
    figure, (axis,) = new_figure(height=3.6, width=6.2)  # narrow: it is read on phones
    colors = [COLORS[name] for name in ("other", "chosen", "example")]
    for row, numbers in enumerate(counts.values()):
        left = 0
        for number, color, hatch in zip(numbers, colors, ("", "//", ".."), strict=True):
            axis.barh(row, number, left=left, color=color, alpha=0.55, hatch=hatch, edgecolor="white")
            if number:
                label = axis.text(left + number / 2, row, str(number), ha="center", va="center", weight="bold")
                label.set_bbox(PLATE | {"pad": 2})
            left += number
    axis.set_yticks(range(len(counts)), [plain(group) for group in counts])
    axis.invert_yaxis()
    axis.set_xlabel("cards")
    axis.set_title(f"{sum(map(sum, counts.values()))} cards. Run the cell for a mock interview,\nor open them below.")
    figure.legend(axis.containers[:3], [plain(level) for level in levels], loc="outside lower center", ncols=3)
    return figure


@in_style()
def dpo_beside_ppo() -> Figure:
    """Draw the models and the flow of one update, DPO left and PPO right. Trained models have thick, filled boxes."""
    figure, axes = new_figure(columns=2, height=4.3, width=6.6)  # narrow: it is read on phones
    for axis in axes:
        axis.set(xlim=(0, 10), ylim=(0, 10))
        axis.axis("off")
    dpo, ppo = axes
    dpo.set_title("DPO compares two given replies.\nIt trains one model and holds two.")
    ppo.set_title("PPO scores replies that it samples.\nIt trains two models and holds four.")
    _box(dpo, (0.8, 8.1, 8.4), "prompt, chosen, rejected", "example")
    _box(dpo, (0.2, 5.3, 4.5), "policy", "chosen", trained=True)
    _box(dpo, (5.3, 5.3, 4.5), "reference", "ink")
    _box(dpo, (0.8, 2.7, 8.4), "Δ = log-ratio chosen − rejected", "margin")
    _box(dpo, (0.8, 0.3, 8.4), "loss = −log σ(β·Δ)", "example")
    _arrows(dpo, ((3, 8.0), (2.4, 6.8)), ((7, 8.0), (7.6, 6.8)), ((2.4, 5.2), (3, 4.2)), ((7.6, 5.2), (7, 4.2)))
    _arrows(dpo, ((5, 2.6), (5, 1.8)))
    _box(ppo, (0.1, 8.1, 4.6), "policy", "chosen", trained=True)
    _box(ppo, (5.3, 8.1, 4.6), "reply, sampled", "example")
    _box(ppo, (1.0, 5.3, 2.8), "reference", "ink")
    _box(ppo, (4.0, 5.3, 2.8), "reward\nmodel", "ink")
    _box(ppo, (7.1, 5.3, 2.8), "critic", "chosen", trained=True)
    _box(ppo, (1.0, 2.7, 5.8), "score − β·KL", "margin")
    _box(ppo, (0.1, 0.3, 9.8), "clipped ratio × advantage", "example")
    _arrows(ppo, ((4.7, 8.8), (5.3, 8.8)), ((5.9, 8.0), (3.0, 6.8)), ((6.6, 8.0), (5.6, 6.8)), ((8.5, 8.0), (8.5, 6.8)))
    _arrows(ppo, ((2.4, 5.2), (2.4, 4.2)), ((5.4, 5.2), (5.4, 4.2)))
    _arrows(ppo, ((0.5, 8.0), (0.5, 1.8)), ((0.5, 3.4), (1.0, 3.4)))  # to the ratio, and to the KL
    _arrows(ppo, ((3.9, 2.6), (3.9, 1.8)), ((8.5, 5.2), (8.5, 1.8)))
    return figure


def _box(axis, place, text, role, trained=False):
    """Draw a box of one line at `place`, (x, y, width)."""
    x, y, width = place
    look = {"facecolor": COLORS["other"] if trained else "white", "alpha": 0.35 if trained else 1, "linewidth": 0}
    axis.add_patch(Rectangle((x, y), width, 1.4, **look))
    axis.add_patch(Rectangle((x, y), width, 1.4, fill=False, edgecolor=COLORS[role], linewidth=3 if trained else 1.5))
    words = text + (" " if width > 3 else "\n") + "(trained)" if trained else text
    axis.text(x + width / 2, y + 0.7, words, ha="center", va="center", color=WORDS.get(role, COLORS["ink"]))


def _arrows(axis, *ends):
    for start, end in ends:
        axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": COLORS["ink"], "lw": 1.3})
