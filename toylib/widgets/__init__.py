"""Live figures: `live` is the mechanism, then one file per widget."""

from toylib.widgets.live import close, live_figure, readout, show_live, slider_for

__all__ = ["close", "live_figure", "readout", "show_live", "slider_for"]
