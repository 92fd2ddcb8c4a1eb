"""Figures: numbers in, a matplotlib Figure out. Knows no model."""

from __future__ import annotations

import base64
import functools
import html
import io
import math

import matplotlib.style
from matplotlib import font_manager
from matplotlib.figure import Figure

# Okabe-Ito, safe for colour-blind readers; each role has a line style too, so that colour is never alone.
COLORS = {
    "chosen": "#0072B2",
    "rejected": "#CC79A7",
    "margin": "#009E73",
    "example": "#D55E00",  # the worked example, everywhere
    "other": "#56B4E9",
    "amber": "#C28500",  # Okabe-Ito's, darker; for what has no role: a run that went wrong, PPO, a token that lost
    "grey": "#7F7F7F",
    "ink": "#333333",
    "ground": "#FCFBF7",  # off-white: survives dark mode
}
# The hues of the roles where they are letters: at least 4.5 : 1 on the ground, which not all lines' own shades reach.
WORDS = COLORS | {"rejected": "#A1457A", "margin": "#007A58", "example": "#B84F00", "other": "#1F78A8"}
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
    "hatch.color": "white",
    "hatch.linewidth": 0.5,
}
PLATE = {"facecolor": COLORS["ground"], "edgecolor": "none", "pad": 1}  # behind text that crosses a line


def plain(text) -> str:
    """Return data text so that a figure draws it as it is: `$` starts no mathematics, and no letter lacks a glyph.

    Tabs become ⇥ and carriage returns ␍. A character that the series' font does not have becomes �.
    """
    marked = str(text).replace("\t", "⇥").replace("\r", "␍")
    return "".join(c if c == "\n" or ord(c) in _glyphs() else "\ufffd" for c in marked).replace("$", r"\$")


@functools.cache
def _glyphs() -> frozenset[int]:
    faces = [font_manager.FontProperties(family=RC["font.family"], weight=weight) for weight in ("normal", "bold")]
    charmaps = [font_manager.get_font(font_manager.findfont(face)).get_charmap() for face in faces]
    return frozenset(charmaps[0]) & frozenset(charmaps[1])


def in_style():
    """Return a context in which matplotlib has its own defaults and the series' style. It decorates functions, too.

    Figures are made and drawn in it, so that they look the same whatever the reader's `rcParams` are, which stay as they
    are. What is added to a figure later is in the style only within `with in_style():`.
    """
    return matplotlib.style.context(["default", RC])


class StyledFigure(Figure):
    """A figure that is drawn in the series' style: ticks and their labels are made then."""

    draw = in_style()(Figure.draw)


@in_style()
def styled_figure(width, height) -> Figure:
    """Return an empty figure of `width` × `height` inches in the series' style."""
    return StyledFigure(figsize=(width, height), dpi=100, layout="constrained")


@in_style()
def new_figure(columns=1, height=3.4, width=8.6, **kwargs) -> tuple[Figure, list]:
    """Return a figure in the series' style and its axes, side by side, as a list; `kwargs` go to `Figure.subplots`."""
    figure = styled_figure(width, height)
    return figure, list(figure.subplots(1, columns, squeeze=False, **kwargs)[0])


@in_style()
def panel_grid(count, width=6.6) -> tuple[Figure, list]:
    """Return a figure and a list of `count` small axes in it, two or three per row, so that phones can show them."""
    columns = 2 if count in (2, 4) else 3
    rows = math.ceil(count / columns)
    figure = styled_figure(width, 2.2 * rows + 0.3)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.axis("off")
    return figure, axes[:count]


@in_style()
def png(figure) -> bytes:
    """Return the figure as PNG bytes in 48 colours. That is a quarter of the size and looks the same."""
    from PIL import Image

    raw, small = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png")
    few_colors(Image.open(raw)).save(small, format="png", optimize=True)
    return small.getvalue()


def few_colors(picture):
    """Return a Pillow picture in 48 colours: the 24 that cover most, and 24 spread so that the smallest dot keeps its own.

    A median cut would mix a dot's colour with the ground's. The spread ones alone would miss the ground and the grid.
    """
    from PIL import Image

    picture, half = picture.convert("RGB"), 24
    covering = sorted(picture.getcolors(picture.width * picture.height), reverse=True)[:half]
    reaching = picture.quantize(half, method=Image.Quantize.MAXCOVERAGE).getpalette()[: 3 * half]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for _, color in covering for part in color] + reaching)
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


def show(figure, alt: str) -> None:
    """Display the figure with `alt`, a sentence that says what it shows, for readers who cannot see it."""
    from IPython.display import display

    bundle, metadata = shown(png(figure), alt)
    display(bundle, metadata=metadata, raw=True)


def shown(picture: bytes, alt: str) -> tuple[dict, dict]:
    """Return a PNG with its alternative text as an output's data and metadata.

    JupyterLab drops the alternative text of a plain PNG, so the picture is there as HTML too while a notebook runs,
    where it does not glare in JupyterLab's dark theme.
    """
    source = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    dark = '<style>[data-jp-theme-light="false"] .toylib-plain { filter: brightness(.8) }</style>'
    image = f'<img alt="{html.escape(alt)}" src="{source}" class="toylib-plain" style="max-width: 100%; height: auto">'
    return {"text/html": image + dark, "image/png": picture, "text/plain": alt}, {"image/png": {"alt": alt}}
