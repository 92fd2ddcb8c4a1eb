"""Live figures without a kernel: a slider in the page, a picture that follows it, and one whole picture where no script runs.

A figure is laid out once. What changes is drawn in advance for every position of the slider, as a transparent layer of a
few kilobytes. All of it is one HTML output: a native slider, the layers as images, and two short handlers in attributes.
The page changes layers by itself, in every notebook and on a web page, the next day too. Where a page may not run scripts,
in a notebook that is not trusted, the handler that shows the slider does not run and the whole picture stays.
"""

from __future__ import annotations

import base64
import html
import io

from toylib import plots
from toylib.plots.style import in_style

NARROW = 600  # px, what a picture is never shrunk below: on a phone it scrolls in its box


@in_style()
def live_figure(figure, artists, update, values, value, name, alt, below=None) -> str:
    """Return a live picture of `figure` as HTML: a slider through `values` at `value`, the picture, and its numbers.

    Args:
        figure: the matplotlib figure. Everything that is not in `artists` is drawn once.
        artists: what `update` changes. It must not change axis limits.
        update: called with each of `values`, here and not later. It changes the artists and returns the numbers as a list
            of short pieces of HTML. The first names the position, as in "β = 0.1".
        values: one for each position of the slider.
        value: the position at the start, one of `values`.
        name: the label of the slider.
        alt: what the picture shows, in words.
        below: called with each value too, if given: HTML that stands under the numbers. It is not read out at each move.
    """
    values = list(values)
    update(value)  # before the layout, so that it has seen the artists with something in them
    canvas = _laid_out(figure, artists)
    ground = _pixels(canvas)
    layers, numbers = [], []
    for one in values:
        numbers.append(update(one))
        canvas.renderer.clear()
        for artist in artists:
            artist.draw(canvas.renderer)
        layers.append(_pixels(canvas))
    at, (width, height) = values.index(value), ground.size
    whole = plots.few_colors(_on(ground, layers[at]))
    shape = f'alt="" width="{width}" height="{height}"'
    images = "".join(f'<img {shape} decoding="sync" src="{_data_url(layer.quantize(64))}">' for layer in layers)
    background = f"background: url({_data_url(plots.few_colors(ground))}) 0 0 / 100% 100%"
    stacks = [stack([readout(*entries) for entries in numbers], at, 'aria-live="polite"')]
    stacks += [stack([below(one) for one in values], at)] if below else []
    control = slider(name, [html.unescape(entries[0]) for entries in numbers], at)
    picture = f'<div class="toylib-moving toylib-stack" style="display: none; {background}">{images}</div>'
    return live_html(control, picture, whole, alt, "".join(stacks), at)


def live_html(control, picture, whole, alt, under, at=0) -> str:
    """Return the parts of a live figure as one piece of HTML.

    `control`, made of sliders, and `picture`, of the class `toylib-moving`, are hidden until the handler of `whole`, a
    Pillow image, has run: then it gives way to them. `under` stands below. `at` is which child of each stack is seen.
    """
    width = whole.width
    inner = f'<div role="img" aria-label="{escaped(alt)}" style="min-width: {min(width, NARROW)}px">{still(whole, alt, at)}{picture}</div>'
    box = f'<div class="toylib-picture" style="overflow: auto hidden">{inner}</div>'
    return f'<div class="toylib-live" style="max-width: {width}px">{LOOK}{control}{box}{under}</div>'


def still(whole, alt, at=0, then="") -> str:
    """Return the Pillow image `whole` as HTML that runs START, to stand in a box of the class `toylib-picture`.

    `then` is JavaScript that runs after it.
    """
    shape = f'width="{whole.width}" height="{whole.height}"'
    script = escaped(START % at) + html.escape(then)
    return f'<img alt="{escaped(alt)}" {shape} src="{_data_url(whole)}" onload="{script}">'


def slider(name, positions, at, after="") -> str:
    """Return a slider through `positions`, a text for each, as HTML. It stands at position number `at`, and is hidden.

    `after` is HTML behind it. The handler of an element around it gets its `input` events too.
    """
    texts = escaped("|".join(text.replace("|", "/") for text in positions))
    return (
        f'<label class="toylib-slider" style="display: none"><span>{name}</span><input type="range" min="0" max="{len(positions) - 1}" '
        f'step="1" value="{at}" autocomplete="off" aria-valuetext="{escaped(positions[at])}" data-texts="{texts}" '
        f'oninput="{escaped(MOVE)}" onkeydown="event.stopPropagation()">{after}</label>'
    )


def stack(pieces, at, attributes="") -> str:
    """Return pieces of HTML in one place, of which the one at `at` is seen. The place is as high as the highest."""
    hidden = ["" if number == at else ' style="display: none"' for number in range(len(pieces))]
    inside = "".join(f"<div{hide}>{piece}</div>" for hide, piece in zip(hidden, pieces, strict=True))
    return f'<div class="toylib-stack" {attributes}>{inside}</div>'


def readout(*entries) -> str:
    """Return numbers as one line of HTML."""
    return " ".join(f"<span>{entry}</span>" for entry in entries)


def show_live(live: str, picture: bytes, alt: str) -> None:
    """Display the HTML of `live_figure`. The PNG `picture` or the text `alt` replaces it on GitHub and in print."""
    from IPython.display import display

    bundle, metadata = plots.shown(picture, alt)
    display(bundle | {"text/html": live}, metadata=metadata, raw=True)


def escaped(text) -> str:
    """Return text for an HTML attribute, on one line."""
    return html.escape(" ".join(text.split()))


# All that a page does. A picture can be there before the page behind it is read, so START waits for the end of that.
# Jupyter takes keys for its own unless a figure keeps them: `onkeydown` in JupyterLab. In Notebook 7 it is a mark on the
# element that has the focus, because its shortcuts select `:focus`, and a box around it comes too late.
START = """
const start = () => {
    const box = this.closest('.toylib-live');
    box.addEventListener('focusin', event => event.target.dataset.lmSuppressShortcuts = true);
    for (const one of box.querySelectorAll('.toylib-slider, .toylib-moving')) one.style.display = '';
    for (const stack of box.querySelectorAll('.toylib-stack'))
        for (const [at, one] of [...stack.children].entries()) {
            one.style.display = '';
            one.style.visibility = at == %d ? 'visible' : 'hidden';
        }
    this.style.display = 'none';
    const scroller = this.closest('.toylib-picture');
    if (scroller.scrollWidth > scroller.clientWidth) scroller.tabIndex = 0;
    for (const one of box.querySelectorAll('input')) one.dispatchEvent(new Event('input', {bubbles: true}));
};
if (document.readyState == 'loading') document.addEventListener('DOMContentLoaded', start); else start();
"""
MOVE = """
const was = this.dataset.was ?? this.defaultValue;
for (const stack of this.closest('.toylib-live').querySelectorAll('.toylib-stack')) {
    stack.children[was].style.visibility = 'hidden';
    stack.children[this.value].style.visibility = 'visible';
}
this.dataset.was = this.value;
this.setAttribute('aria-valuetext', this.dataset.texts.split('|')[this.value]);
"""
# A slider that a finger can hold, one place for all positions, and a plate that does not glare in the dark.
LOOK = """<style>
.toylib-live { line-height: 1.4 }
.toylib-slider { display: flex; align-items: center; gap: 12px; margin: 0; font-weight: normal }
.toylib-slider input { appearance: none; -webkit-appearance: none; flex: 1; min-width: 0; height: 32px; margin: 0; padding: 0; border: 0; background: none; color: inherit; cursor: pointer }
.toylib-slider input::-webkit-slider-runnable-track { height: 6px; border-radius: 3px; background: #8885 }
.toylib-slider input::-moz-range-track { height: 6px; border-radius: 3px; background: #8885 }
.toylib-slider input::-webkit-slider-thumb { -webkit-appearance: none; width: 24px; height: 24px; margin-top: -9px; border: 0; border-radius: 50%; background: currentColor }
.toylib-slider input::-moz-range-thumb { width: 24px; height: 24px; border: 0; border-radius: 50%; background: currentColor }
.toylib-slider input:focus { outline: none }
.toylib-slider input:focus-visible::-webkit-slider-thumb { outline: 2px solid; outline-offset: 2px }
.toylib-slider input:focus-visible::-moz-range-thumb { outline: 2px solid; outline-offset: 2px }
.toylib-controls { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 0 32px }
.toylib-controls span { flex: none; width: 9.5em }
.toylib-controls span.toylib-value { width: 5.5em }
.toylib-stack, .toylib-numbers { font-variant-numeric: tabular-nums }
.toylib-stack { display: grid }
.toylib-stack > * { grid-area: 1 / 1; min-width: 0 }
.toylib-numbers > span, .toylib-stack > div > span { display: inline-block; margin-right: 2em }
.toylib-picture img { display: block; width: 100% !important; max-width: none !important; height: auto; margin: 0 }
[data-jp-theme-light="false"] .toylib-picture, html[theme="dark"] .toylib-picture { filter: brightness(.8) }
@media (prefers-color-scheme: dark) { body:not([data-jp-theme-light]) .toylib-picture { filter: brightness(.8) } }
</style>"""


def _laid_out(figure, artists):
    """Return the figure's canvas with all but the artists drawn. Later drawings of the figure leave the artists out too."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()  # lays it out, once
        figure.set_layout_engine("none")
    for artist in artists:
        artist.set_animated(True)
    canvas.draw()
    return canvas


def _pixels(canvas):
    from PIL import Image

    return Image.frombytes("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba()))


def _png(picture) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, "PNG", compress_level=6)
    return encoded.getvalue()


def _on(ground, layer):
    from PIL import Image

    return Image.alpha_composite(ground, layer)


def _data_url(picture) -> str:
    return f"data:image/png;base64,{base64.b64encode(_png(picture)).decode()}"
