"""The picture of the interview's cards. Notebook 09."""

from __future__ import annotations

from matplotlib.figure import Figure

from toylib.plots.style import COLORS, PLATE, new_figure, plain


def coverage(counts, levels) -> Figure:
    """Draw how many cards there are: `counts` is a dict of group → numbers, one for each of `levels`."""
    figure, (axis,) = new_figure(height=3.0, width=6.2)  # narrow: it is read on phones
    colors = [COLORS[name] for name in ("other", "chosen", "example")]
    for row, numbers in enumerate(counts.values()):
        left = 0
        for number, color, hatch in zip(numbers, colors, ("", "//", ".."), strict=True):
            axis.barh(row, number, left=left, color=color, alpha=0.55, hatch=hatch, edgecolor="white")
            label = axis.text(left + number / 2, row, str(number), ha="center", va="center", weight="bold")
            label.set_bbox(PLATE | {"pad": 2})
            left += number
    axis.set_yticks(range(len(counts)), [plain(group) for group in counts])
    axis.invert_yaxis()
    axis.set_xlabel("cards")
    axis.set_title(
        f"{sum(map(sum, counts.values()))} cards. With a kernel they are a mock interview;\nwithout one, open them below."
    )
    figure.legend(axis.containers[:3], [plain(level) for level in levels], loc="outside lower center", ncols=3)
    return figure
