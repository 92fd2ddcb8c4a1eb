"""Live curves of a run while it trains."""

from __future__ import annotations

import math

from toylib import plots
from toylib.plots import training as plots_training
from toylib.widgets.live import _laid_out, _pixels, _png


def watch_training(beta: float, steps: int, kl=None, every: int = 10, draw_every: int = 2, ln_2=True):
    """Return an `on_step` for `train_dpo` that draws chosen, rejected, margin, accuracy, KL and loss as curves.

    Args:
        beta: the β of the training. The log-ratios are rewards divided by it.
        steps: how many steps the training takes.
        kl: returns a policy's KL to the reference in nats per reply. It joins the history as `kl`.
        every: `kl` is called at every such step, the first and the last.
        draw_every: the curves are drawn at every such step and the last.
        ln_2: mark where the loss of DPO starts. Other losses start elsewhere.
    """
    import pandas
    from IPython.display import display

    figure, lines = plots_training.training_panels(steps, ln_2)
    rows, handle, palette = [], None, None
    canvas = background = None

    def on_step(step, metrics, policy):
        nonlocal handle, canvas, background, palette
        last = step == steps
        metrics["kl"] = kl(policy) if kl is not None and (step % every == 0 or step == 1 or last) else math.nan
        row = plots_training.in_nats(metrics, beta)
        rows.append(row | {"step": step})
        if step % draw_every and not last:
            return
        if plots_training.show_history(lines, pandas.DataFrame(rows).set_index("step")) or canvas is None:
            canvas = _laid_out(figure, lines.values())
            background = canvas.copy_from_bbox(figure.bbox)
        canvas.restore_region(background)
        for line in lines.values():
            line.draw(canvas.renderer)
        pixels = _pixels(canvas).convert("RGB")
        palette = palette or plots.few_colors(pixels)
        bundle, metadata = plots.shown(
            _png(pixels.quantize(palette=palette, dither=0)), alt_text(step, steps, row, metrics["loss"])
        )
        if handle is None:
            print("\r" + " " * 60 + "\r", end="")  # the progress line goes on below the figure
            handle = display(bundle, metadata=metadata, raw=True, display_id=True)
        else:
            handle.update(bundle, metadata=metadata, raw=True)

    return on_step


def alt_text(step, steps, row, loss) -> str:
    """Return the curves at this step in words; `row` is a step of `plots.training.in_nats`."""
    return (
        f"Training curves at step {step} of {steps}: log-ratio of chosen {row['chosen']:+.2f}, of rejected "
        f"{row['rejected']:+.2f}, margin {row['margin']:.2f}, accuracy {row['accuracy']:.2f}, loss {loss:.3f}."
    )
