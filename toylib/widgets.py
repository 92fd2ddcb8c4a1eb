"""Live figures around `plots`: a slider, a picture that follows it, and a static picture for pages without a kernel.

Only core widgets that ipywidgets 7.7 and 8 share. A figure is laid out and drawn once; a move of the slider draws only
the artists that change on top of the saved background. That is several times faster than drawing it all again.
"""

from __future__ import annotations

import io
import math

from toylib import plots, plots_pair

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_open: dict[str, tuple[str, list]] = {}  # notebook cell -> the run of it that made the live figures in the list


def live_figure(figure, artists, update, slider, readout):
    """A `VBox` of `slider`, `readout` (an `HTML` widget) and an `Image` of `figure` that follow the slider's value.

    `update(value)` changes `artists`, the only ones that may change, and returns the readout's HTML. It must not touch
    axis limits: they are part of the background, like everything that is not in `artists`.
    """
    import ipywidgets
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image as Picture

    canvas = FigureCanvasAgg(figure)
    update(slider.value)  # before the layout, so that it has seen the artists with something in them
    canvas.draw()
    figure.set_layout_engine("none")
    for artist in artists:
        artist.set_animated(True)  # leaves it out of canvas.draw()
    canvas.draw()
    background = canvas.copy_from_bbox(figure.bbox)
    image = ipywidgets.Image(format="png", layout={"width": "100%", "max_width": f"{figure.bbox.width:.0f}px"})

    def redraw(change=None):
        text = update(slider.value)
        canvas.restore_region(background)
        for artist in artists:
            artist.draw(canvas.get_renderer())
        encoded = io.BytesIO()
        pixels = Picture.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba(), "raw", "RGBA", 0, 1)
        pixels.convert("RGB").save(encoded, "PNG", compress_level=1)
        image.value = encoded.getvalue()
        readout.value = text

    redraw()
    slider.observe(redraw, names="value")
    return ipywidgets.VBox([slider, readout, image])


def show_live(box, picture: bytes, alt: str) -> None:
    """Display the live `box`; where there is no kernel, on GitHub or in print, the PNG `picture` stands in its place.

    One output with three forms. Running a cell again closes what its last run showed: no dead observers stay behind.
    """
    from IPython.display import display

    cell, run = _cell_and_run()
    if cell:
        last_run, boxes = _open.get(cell, (run, []))
        if last_run != run:
            for old in boxes:
                close(old)
            boxes = []
        _open[cell] = (run, [*boxes, box])
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    bundle = {WIDGET_VIEW: view, "image/png": picture, "text/plain": alt}
    display(bundle, metadata={"image/png": {"alt": alt}}, raw=True)


def close(box) -> None:
    """Close a live figure: its widgets with their layouts and styles, and what listens to them."""
    for widget in (*box.children, box):
        widget.unobserve_all()
        for part in (getattr(widget, "style", None), widget.layout, widget):
            if part is not None:
                part.close()


def _cell_and_run() -> tuple[str, str]:
    """Ids of the notebook cell that is being run and of this run of it; "" for the cell where the frontend names none."""
    from IPython import get_ipython

    message = getattr(get_ipython(), "parent_header", None) or {}
    return message.get("metadata", {}).get("cellId", ""), message.get("header", {}).get("msg_id", "")


def beta_explorer(chosen_logratio: float = 0.9, rejected_logratio: float = -1.3, beta: float = 0.1) -> None:
    """A slider for β, 0.01 to 10: what it makes of one pair's Δ, in nats, as a probability and as a DPO loss.

    The static picture shows four β side by side. `ValueError` for a `beta` off the slider, or a Δ that is not finite.
    """
    import ipywidgets

    delta = chosen_logratio - rejected_logratio
    if not math.isfinite(delta):
        raise ValueError(f"Δ must be finite, got {chosen_logratio!r} − {rejected_logratio!r}")
    if not 0.01 <= beta <= 10:
        raise ValueError(f"beta must be from 0.01 to 10, got {beta!r}")
    limit = max(6.0, math.ceil(1.5 * abs(delta)))
    figure, panels = plots_pair.beta_panels(delta, limit)

    def update(beta):
        probability, loss = (plots_pair.move_to_beta(panel, beta) for panel in panels)
        return _readout(
            f"β = {beta:.4f}",
            f"βΔ = {beta * delta:.4f}",
            f"probability σ(βΔ) = {probability:.4f}",
            f"loss −log σ(βΔ) = {loss:.4f}",
        )

    slider = ipywidgets.FloatLogSlider(
        value=beta,
        base=10,
        min=-2,
        max=1,
        step=0.05,
        description="β",
        continuous_update=True,
        readout_format=".3g",
        layout={"width": "100%", "max_width": f"{figure.bbox.width:.0f}px"},
    )
    artists = [panel[name] for panel in panels for name in ("curve", "number", "point")]
    box = live_figure(figure, artists, update, slider, ipywidgets.HTML())
    betas = (0.05, 0.1, 0.5, 2.0)
    show_live(box, plots.png(plots_pair.beta_grid(delta, betas, limit)), _beta_alt(delta, betas))


def _readout(*entries) -> str:
    """The numbers as one line of text that a screen reader speaks when it changes."""
    spans = " ".join(f'<span style="margin-right: 2em; white-space: nowrap">{entry}</span>' for entry in entries)
    return f'<div aria-live="polite" style="font-variant-numeric: tabular-nums">{spans}</div>'


def _beta_alt(delta, betas) -> str:
    losses = [math.log1p(math.exp(-abs(beta * delta))) + max(0, -beta * delta) for beta in betas]
    rows = (f"{b:g} gives {math.exp(-loss):.4f} and {loss:.4f}" for b, loss in zip(betas, losses, strict=True))
    return f"Probability σ(βΔ) and loss −log σ(βΔ) at Δ = {delta:.4f}. β = " + "; ".join(rows) + "."


def watch_training(beta: float, steps: int, kl=None, every: int = 10):
    """An `on_step` for `train_dpo`: the curves of `plots.training_curves`, drawn anew at every `every`-th step.

    `kl(policy)` returns the KL to the reference in nats per reply; it is asked at those steps and joins the history as
    `kl`. `beta` is the one trained with: the log-ratios drawn are rewards divided by it.
    """
    import pandas
    from IPython.display import display

    rows, handle = [], None

    def on_step(step, metrics, policy):
        nonlocal handle
        due = step % every == 0 or step == steps
        metrics["kl"] = kl(policy) if kl is not None and (due or step == 1) else math.nan
        rows.append(
            {
                "step": step,
                "chosen": metrics["rewards/chosen"] / beta,
                "rejected": metrics["rewards/rejected"] / beta,
                "kl": metrics["kl"],
                "loss": metrics["loss"],
            }
        )
        if not due:
            return
        last = rows[-1]
        alt = (
            f"Training curves at step {step} of {steps}: log-ratio of chosen {last['chosen']:+.2f}, of rejected "
            f"{last['rejected']:+.2f}, margin {last['chosen'] - last['rejected']:.2f}, loss {last['loss']:.3f}."
        )
        picture = plots.png(plots.training_curves(pandas.DataFrame(rows).set_index("step"), steps))
        bundle, metadata = {"image/png": picture, "text/plain": alt}, {"image/png": {"alt": alt}}
        if handle is None:
            print("\r" + " " * 60 + "\r", end="")  # the progress line goes on below the figure
            handle = display(bundle, metadata=metadata, raw=True, display_id=True)
        else:
            handle.update(bundle, metadata=metadata, raw=True)

    return on_step
