"""Live figures: `live` is the mechanism, `kernel` shows what Python has to answer, then one file per widget."""

from toylib.widgets.live import live_figure, show_live

__all__ = ["live_figure", "show_live"]
