"""TeX to SVG, drawn when the site is written: no script, no font and no other host is needed to read a formula.

The parser is matplotlib's mathtext. What it lacks of the TeX in the notebooks is rewritten first.
"""

import functools
import re
from html import escape

UNITS = 200  # of the drawing per em, so that whole numbers are fine enough
REWRITTEN = [
    (r"\\[bB]igg?[lr]?(?![a-zA-Z])", ""),  # sized delimiters: mathtext has only \left and \right
    (r"\\(le|ge|ne)(?![a-z])", r"\\\1q"),
    (r"\\neqq", r"\\neq"),
    (r"(\\sum_(\{[^}]*\}|\w))", r"\1\\,"),  # mathtext sets no space after a sum
    (r"\^\*", r"^{\\mathrm{*}}"),  # a star that is no operator
    (r"\\tfrac(?![a-z])", r"\\frac"),
    (r"\\(mathcal|mathbb|mathrm|mathbf|text) ?([A-Za-z])", r"\\\1{\2}"),
    (r"\\begin\{(aligned|align\*?|gathered)\}|\\end\{(aligned|align\*?|gathered)\}|&", ""),
]
SPOKEN = [
    (r"\\(left|right|[bB]igg?[lr]?)(?![a-zA-Z])", ""),
    (r"\\[,;:! ]|\\q?quad", " "),
    (r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", r"(\1)/(\2)"),
    (r"\\(text|mathrm|mathcal|mathbb|mathbf) ?\{([^{}]*)\}", r"\2"),
    (r"\\(text|mathrm|mathcal|mathbb|mathbf) ?", ""),
    (r"\\([a-zA-Z]+)", r"\1"),
    (r"[{}\\]", ""),
    (r"\s+", " "),
]


def rewritten(text, rules):
    for pattern, new in rules:
        text = re.sub(pattern, new, text)
    return text.strip()


def as_svg(tex, display=False):
    """Return a formula as HTML: an SVG for each of its rows. Raise ValueError for what mathtext cannot parse."""
    rows = [row for row in re.split(r"\\\\", tex) if row.strip()]
    drawn = "".join(one_row(" ".join(row.split()), display) for row in rows)
    return f'<div class="formula">{drawn}</div>' if display else drawn


@functools.cache
def one_row(tex, display):
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import MathTextParser
    from matplotlib.textpath import TextPath

    plain = rewritten(tex, REWRITTEN)
    if display:
        plain = re.sub(r"\\frac(?![a-z])", r"\\dfrac", plain)
    font = FontProperties(size=UNITS, math_fontfamily="cm")
    try:
        width, height, depth, *_ = MathTextParser("path").parse(f"${plain}$", dpi=72, prop=font)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"no formula that mathtext can draw: {tex}") from error
    pad = UNITS / 20  # what a slanted letter or the dot of an index needs beyond its box
    box = (-pad, -(height - depth) - pad, width + 2 * pad, height + 2 * pad)
    size = f"width:{box[2] / UNITS:.3f}em;height:{box[3] / UNITS:.3f}em;vertical-align:{-(depth + pad) / UNITS:.3f}em"
    return (
        f'<svg class="tex" role="img" aria-label="{escape(rewritten(tex, SPOKEN))}" style="{size}" '
        f'viewBox="{" ".join(f"{number:.0f}" for number in box)}">'
        f'<path d="{outline(TextPath((0, 0), f"${plain}$", size=UNITS, prop=font))}"/></svg>'
    )


def outline(path):
    """Return a matplotlib path as the `d` of an SVG path. SVG's y axis points down."""
    letters = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}
    pieces = []
    for points, code in path.iter_segments(curves=True, simplify=False):
        numbers = [round(-value if at % 2 else value) for at, value in enumerate(points)]
        pieces.append(letters[int(code)] + ("" if code == 79 else " ".join(map(str, numbers))))
    return "".join(pieces).replace(" -", "-")
