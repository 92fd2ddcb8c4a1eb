"""Live figures around `plots`: a slider, a picture that follows it, and a static picture for pages without a kernel.

We use only core widgets that ipywidgets 7.7 and 8 share. A figure is laid out once. What changes is drawn in advance for
every position of the slider, as a transparent layer of a few kilobytes. The page then changes layers without asking the
kernel, so the figure follows the slider at once, even while the kernel is training.
"""

from __future__ import annotations

import base64
import io
import time

from toylib import plots

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
SECONDS_BETWEEN_MOVES = 0.1  # the page waits for the answer to one move before it sends the next, and draws meanwhile
_open: dict[str, tuple[str, list]] = {}  # notebook cell -> its last run and the live figures which that run made


def live_figure(figure, artists, update, slider):
    """Return a `VBox` in which a picture of `figure` and its numbers follow `slider`, a `SelectionSlider`.

    `update(value)` changes `artists` and returns the numbers as HTML. It is called here once per option of the slider,
    and not later. It must not change axis limits, because everything that is not in `artists` is drawn only once. The
    numbers stand under the picture, so that they cannot move it. A screen reader reads a second, invisible copy.
    """
    import ipywidgets

    values = [option[1] if isinstance(option, tuple) else option for option in slider.options]
    update(slider.value)  # before the layout, so that it has seen the artists with something in them
    canvas = _laid_out(figure, artists)
    background = _data_url(plots.few_colors(_pixels(canvas)))
    texts, pages, shared = [], [], {}
    for value in values:
        texts.append(update(value))
        canvas.renderer.clear()
        for artist in artists:
            artist.draw(canvas.renderer)
        layer = _data_url(_pixels(canvas).quantize(64))
        picture = f'<img alt="" decoding="sync" src="{layer}">'
        pages.append(ipywidgets.HTML(f'<div aria-hidden="true">{picture}{texts[-1]}</div>', **shared))
        shared = {"layout": pages[0].layout, "style": pages[0].style}
    update(slider.value)

    width = f"{figure.bbox.width:.0f}px"
    frames = ipywidgets.Tab(pages, selected_index=slider.index, layout={"width": "100%", "max_width": width})
    name = f"toylib-{frames.model_id}"
    frames.add_class(name)
    look = ipywidgets.HTML(
        FRAMES_LOOK.replace("NAME", name).replace("BACKGROUND", background), layout={"display": "none"}
    )
    unseen = {"height": "1px", "margin": "0", "overflow": "hidden"}  # and not unspoken
    spoken = ipywidgets.HTML(texts[slider.index], layout=unseen)

    def speak(change):
        spoken.value = texts[change["new"]]
        time.sleep(SECONDS_BETWEEN_MOVES)

    slider.observe(speak, names="index")
    box = ipywidgets.VBox([slider, spoken, frames, look])
    box.link = ipywidgets.jsdlink((slider, "index"), (frames, "selected_index"))
    return box


def slider_for(figure, values, value, description):
    """Return a slider through the numbers `values`, set to `value` and as wide as `figure`, for `live_figure`."""
    import ipywidgets

    return ipywidgets.SelectionSlider(
        options=[(f"{option:g}", option) for option in values],
        value=value,
        description=description,
        continuous_update=True,
        layout={"width": "100%", "max_width": f"{figure.bbox.width:.0f}px"},
    )


# Pages without tabs, frame and margin; under each layer the figure's background. The same classes in ipywidgets 7 and 8,
# but for the tab bar's.
FRAMES_LOOK = """<style>
.NAME > .lm-TabBar, .NAME > .p-TabBar { display: none !important }
.NAME > .widget-tab-contents { border: 0 !important; padding: 0 !important; background: none !important; overflow: hidden }
.NAME .widget-html-content { margin: 0 }
.NAME img { display: block; width: 100%; background: url(BACKGROUND) 0 0 / 100% 100% }
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


def _data_url(picture) -> str:
    return f"data:image/png;base64,{base64.b64encode(_png(picture)).decode()}"


def show_live(box, picture: bytes, alt: str) -> None:
    """Display the live `box`. Without a kernel, on GitHub or in print, the PNG `picture` or the text `alt` replaces it.

    Running a cell again closes the figures of its last run, so that no widgets and observers pile up.
    """
    from IPython.display import display

    cell, run = _cell_and_run()
    cell = cell or alt  # outside a notebook a figure replaces the one before that shows the same
    last_run, boxes = _open.get(cell, (run, []))
    if last_run != run or not run:
        for old in boxes:
            close(old)
        boxes = []
    _open[cell] = (run, [*boxes, box])
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    bundle = {WIDGET_VIEW: view, "image/png": picture, "text/plain": alt}
    display(bundle, metadata={"image/png": {"alt": alt}}, raw=True)


def close(box) -> None:
    """Close a live figure: its widgets, their layouts and styles, and their observers."""
    for child in getattr(box, "children", ()):
        close(child)
    box.unobserve_all()
    for part in (getattr(box, "link", None), getattr(box, "style", None), box.layout, box):
        if part is not None:
            part.close()


def readout(*entries) -> str:
    """Return numbers as one line of HTML for `live_figure`. A screen reader speaks it when it changes."""
    spans = " ".join(f'<span style="margin-right: 2em; white-space: nowrap">{entry}</span>' for entry in entries)
    return f'<div aria-live="polite" style="font-variant-numeric: tabular-nums">{spans}</div>'


def _cell_and_run() -> tuple[str, str]:
    """Return ids of the running notebook cell and of this run of it, each "" where there is none.

    JupyterLab names the cell. The code of the cell stands for it in frontends that do not, such as nbclassic.
    """
    from IPython import get_ipython

    message = getattr(get_ipython(), "parent_header", None) or {}
    cell = message.get("metadata", {}).get("cellId") or message.get("content", {}).get("code", "")
    return cell, message.get("header", {}).get("msg_id", "")
