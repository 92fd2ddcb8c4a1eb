"""Three replies as a triangle under a slider: over β, or over the steps of training. Notebook 03."""

from __future__ import annotations

import numpy as np

from toylib import plots
from toylib.plots import simplex as plots_simplex
from toylib.widgets.live import live_figure, show_live

BETAS = tuple(float(f"{10 ** (step / 10):.2g}") for step in range(-7, 11))


def simplex_by_beta(names, reference, rewards, feature=None, beta=1.0) -> None:
    """Show a slider over β in the triangle of three replies: the optimum, and where a policy of one feature ends.

    `names`, `reference` (probabilities), `rewards` and `feature` have one entry per reply. A policy with one weight, for
    `feature`, is shown if that is given: its DPO minimiser and its best reward − β·KL differ. Raises `ValueError` as
    `world_of` does.
    """
    world = world_of(names, reference, rewards, feature)
    betas = sorted({*BETAS, beta})
    figure, points = plots_simplex.beta_triangle(world, betas)

    def update(one):
        optimum, *shared = plots_simplex.move_beta(points, world, one)
        entries = [f"β = {one:g}", f"KL {world.kl(optimum):.2f} nats", f"reward {optimum @ world.rewards:+.2f}"]
        best = int(np.argmax(world.rewards))
        entries += [f"optimum gives {names[best]} {optimum[best]:.4f}"]
        ends = zip(("by DPO", "by reward − β·KL"), shared, strict=False)
        return entries + [f"one feature, {by}: {policy[best]:.4f}" for by, policy in ends]

    alt = "Three replies as corners of a triangle. " + " ".join(f"{', '.join(update(one))}." for one in betas[::6])
    update(beta)
    picture = plots.png(figure)
    show_live(live_figure(figure, points, update, betas, beta, "β", alt), picture, alt)


def simplex_by_step(names, reference, rewards, feature, beta=1.0) -> None:
    """Show a slider over the steps of training in the triangle of three replies: soft labels, hard labels, one feature.

    The arguments are those of `simplex_by_beta`, and `feature` has to be given.
    """
    world = world_of(names, reference, rewards, feature)
    runs = world.runs(beta)
    figure, artists = plots_simplex.step_triangle(world, beta, runs)

    def update(step):
        plots_simplex.move_step(artists, world, runs, step)
        at = plots_simplex.STEPS.index(step)
        kls = {run: f"{world.kl(policies[at]):.2f}" for run, policies in runs.items()}
        numbers = [f"KL with soft labels {kls['soft']}", f"hard labels {kls['hard']}", f"one feature {kls['shared']}"]
        return [f"step {step:,}", *numbers, f"optimum {world.kl(world.optimum(beta)):.2f} nats"]

    last = plots_simplex.STEPS[-1]
    alt = f"Three policies leave the reference in the triangle of three replies. At the end: {', '.join(update(last))}."
    picture = plots.png(figure)
    moving = [artist for three in artists.values() for artist in three]
    show_live(live_figure(figure, moving, update, plots_simplex.STEPS, last, "step", alt), picture, alt)


def world_of(names, reference, rewards, feature=None):
    """Return the three replies as a `plots.simplex.World`.

    Raises `ValueError` where there are not three of each, or the probabilities are not above 0 or do not add up to 1.
    """
    given = (reference, rewards) if feature is None else (reference, rewards, feature)
    lists = [np.asarray(one, dtype=float) for one in given]
    if len(names) != 3 or any(one.shape != (3,) for one in lists):
        raise ValueError(f"three replies have three names, probabilities, rewards and features, got {len(names)} names")
    if (lists[0] <= 0).any() or abs(lists[0].sum() - 1) > 1e-6:
        raise ValueError(f"the reference's probabilities must be above 0 and add up to 1, got {lists[0].tolist()}")
    return plots_simplex.World(tuple(names), *lists)
