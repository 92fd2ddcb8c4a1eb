"""Figures: numbers in, a matplotlib `Figure` out. `style` is shared; then one file per subject."""

from toylib.plots.style import COLORS, LINES, PLATE, WORDS, few_colors, new_figure, panel_grid, png, show, shown
from toylib.plots.tokens import data_flow, token_strip
from toylib.plots.training import log_ratios

__all__ = [
    "COLORS",
    "LINES",
    "PLATE",
    "WORDS",
    "data_flow",
    "few_colors",
    "log_ratios",
    "new_figure",
    "panel_grid",
    "png",
    "show",
    "shown",
    "token_strip",
]
