"""The β slider of notebooks 01 and 03: one pair's Δ, and what β makes of it."""

from __future__ import annotations

import math

from toylib import plots
from toylib.plots import pair as plots_pair
from toylib.widgets.live import live_figure, show_live


def beta_explorer(chosen_logratio=0.9, rejected_logratio=-1.3, beta=0.1, weight=False) -> None:
    """Show a slider for β from 0.01 to 10, with the probability and the DPO loss that it gives for one pair's Δ in nats.

    With `weight` the panels show the loss, the weight β·σ(−βΔ) of the pair's gradient (DPO paper, section 4), and that
    weight against β. The static picture shows four β side by side. Raises `ValueError` for a `beta` outside the slider,
    or a Δ that is not finite.
    """
    delta = chosen_logratio - rejected_logratio
    if not math.isfinite(delta):
        raise ValueError(f"Δ must be finite, got {chosen_logratio!r} − {rejected_logratio!r}")
    if not 0.01 <= beta <= 10:
        raise ValueError(f"beta must be from 0.01 to 10, got {beta!r}")
    limit = max(6.0, math.ceil(1.5 * abs(delta)))
    positions = sorted({float(f"{10 ** (step / 20):.2g}") for step in range(-40, 21)} | {beta})
    kinds = ("loss", "weight", "path") if weight else ("probability", "loss")
    figure, panels = plots_pair.beta_panels(delta, limit, kinds, positions)

    def update(beta):
        for panel in panels:
            plots_pair.move_to_beta(panel, beta)
        probability, loss, pull = plots_pair.pair_values(delta, beta)
        entries = [f"β = {beta:g}", f"βΔ = {beta * delta:.4f}"]
        entries += [f"probability σ(βΔ) = {probability:.4f}", f"loss −log σ(βΔ) = {loss:.4f}"]
        entries += [f"σ(−βΔ) = {pull / beta:.4f}", f"weight β·σ(−βΔ) = {pull:.4f}"] if weight else []
        return entries

    artists = [artist for panel in panels for artist in panel["artists"]]
    betas = (0.1, 0.5, 1.0, 3.0) if weight else (0.05, 0.1, 0.5, 2.0)
    picture = plots.png(plots_pair.beta_grid(delta, betas, limit, ("loss", "weight") if weight else kinds))
    alt = _beta_alt(delta, betas, weight)
    show_live(live_figure(figure, artists, update, positions, beta, "β", alt), picture, alt)


def _beta_alt(delta, betas, weight) -> str:
    """Return the alternative text: what each β gives for this Δ."""
    rows = []
    for beta in betas:
        probability, loss, pull = plots_pair.pair_values(delta, beta)
        rows.append(f"{beta:g} gives {loss if weight else probability:.4f} and {pull if weight else loss:.4f}")
    what = "Loss −log σ(βΔ) and weight β·σ(−βΔ)" if weight else "Probability σ(βΔ) and loss −log σ(βΔ)"
    return f"{what} at Δ = {delta:.4f}. β = " + "; ".join(rows) + "."
