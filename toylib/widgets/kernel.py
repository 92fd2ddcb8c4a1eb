"""Widgets that need the kernel: what Python has to answer itself. A static picture stands for them elsewhere."""

from __future__ import annotations

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_open: dict[str, tuple[str, list]] = {}  # notebook cell -> its last run and the boxes which that run showed


def show_widgets(box, picture: bytes, alt: str) -> None:
    """Display the widgets of `box`. Without a kernel, on GitHub or in print, the PNG `picture` or the text `alt` replaces it.

    Running a cell again closes the widgets of its last run, so that no widgets and observers pile up.
    """
    from IPython.display import display

    cell, run = _cell_and_run()
    cell = cell or alt  # outside a notebook a box replaces the one before that shows the same
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


def _cell_and_run() -> tuple[str, str]:
    """Return ids of the running notebook cell and of this run of it, each "" where there is none.

    JupyterLab names the cell. The code of the cell stands for it in frontends that do not, such as nbclassic.
    """
    from IPython import get_ipython

    message = getattr(get_ipython(), "parent_header", None) or {}
    cell = message.get("metadata", {}).get("cellId") or message.get("content", {}).get("code", "")
    return cell, message.get("header", {}).get("msg_id", "")
