"""Live figures that need no kernel: `live` is the mechanism, then one file per widget."""

from toylib.widgets.live import live_figure, show_live

__all__ = ["live_figure", "show_live"]
