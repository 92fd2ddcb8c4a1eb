"""Figures: numbers in, a matplotlib Figure out. Knows no model."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

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
