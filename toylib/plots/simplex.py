"""Three replies as a triangle: where the optimum goes as β moves, and where the loss takes a policy. Notebook 03."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from matplotlib.figure import Figure

from toylib.plots.style import COLORS, PLATE, in_style, new_figure, plain

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])
STEPS = (0, *sorted({round(10 ** (n / 7)) for n in range(29)}))  # up to 10,000, evenly on a logarithmic scale
FIRST, SECOND = np.triu_indices(3, 1)
ROLES = {"hard": ("amber", "--"), "soft": ("margin", "-"), "shared": ("other", "-.")}


@dataclasses.dataclass(frozen=True)
class World:
    """Three replies: their names, the reference's probabilities, rewards, and perhaps a feature for a small policy.

    The arrays are `(3,)`. `family`, `best_of_family` and `runs` need a feature.
    """

    names: tuple[str, ...]
    reference: np.ndarray
    rewards: np.ndarray
    feature: np.ndarray | None = None

    def optimum(self, beta):
        """Return the policy `(3,)` with the highest reward − β·KL (DPO paper, equation 4)."""
        return softmax(np.log(self.reference) + self.rewards / beta)

    def kl(self, policies):
        """Return the KL of policies `(..., 3)` to the reference, in nats."""
        return np.sum(policies * (np.log(np.maximum(policies, 1e-300)) - np.log(self.reference)), axis=-1)

    def runs(self, beta, rate=1.0):
        """Return what gradient descent on the DPO loss passes through: run → policies `(len(STEPS), 3)`.

        All begin at the reference and see the three pairs. "soft" has Bradley–Terry's labels, "hard" has the better
        reply win always, and "shared" has soft labels and one weight for `feature` in place of three logits.
        """
        compare = np.eye(3)[FIRST] - np.eye(3)[SECOND]
        soft = sigmoid(compare @ self.rewards)
        free = np.eye(3)
        found = {}
        for run, labels, inputs in (
            ("soft", soft, free),
            ("hard", np.round(soft), free),
            ("shared", soft, self.feature[:, None]),
        ):
            weights, policies = np.zeros(inputs.shape[1]), []
            for step in range(STEPS[-1] + 1):
                log_ratio = inputs @ weights
                if step in STEPS:
                    policies.append(softmax(np.log(self.reference) + log_ratio))
                gradient = beta * (sigmoid(beta * (compare @ log_ratio)) - labels) / 3
                weights = weights - rate * inputs.T @ (compare.T @ gradient)
            found[run] = np.array(policies)
        return found

    def family(self):
        """Return the policies `(401, 3)` that one weight for `feature` can reach."""
        return softmax(np.log(self.reference) + np.linspace(-60, 60, 401)[:, None] * self.feature)

    def best_of_family(self, beta):
        """Return two policies `(3,)` of the family: of the lowest DPO loss, and of the highest reward − β·KL."""
        weights = np.linspace(-60, 60, 24001)[:, None] * self.feature
        policies = softmax(np.log(self.reference) + weights)
        margins = beta * (weights[:, FIRST] - weights[:, SECOND])
        soft = sigmoid(self.rewards[FIRST] - self.rewards[SECOND])
        losses = (soft * np.logaddexp(0, -margins) + (1 - soft) * np.logaddexp(0, margins)).mean(1)
        goals = policies @ self.rewards - beta * self.kl(policies)
        return policies[losses.argmin()], policies[goals.argmax()]


def softmax(logits):
    """Return the probabilities of logits `(..., n)`."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def sigmoid(x):
    """Return σ(x)."""
    return np.exp(-np.logaddexp(0, -x))


def triangle(axis, world) -> None:
    """Draw what stands still: the triangle, its corners' names and rewards, KL contours, any family, the reference."""
    grid = np.array([[a, b, 60 - a - b] for a in range(61) for b in range(61 - a)]) / 60
    levels = {"levels": [0.1, 0.3, 0.6, 1.0, 1.5], "colors": "#C9C5B8", "linewidths": 0.9}
    contours = axis.tricontour(*(grid @ CORNERS).T, world.kl(grid), **levels)
    axis.clabel(contours, fmt="KL %g", fontsize=8, colors=COLORS["grey"])
    axis.plot(*CORNERS[[0, 1, 2, 0]].T, color=COLORS["ink"], lw=1)
    for corner, name, reward, (dx, dy, ha) in zip(
        CORNERS,
        world.names,
        world.rewards,
        ((0, -0.05, "center"), (0, -0.05, "center"), (0.03, 0, "left")),
        strict=True,
    ):
        text = f"{plain(name)}, reward {reward:{'+' if reward else ''}g}".replace("-", "−")
        axis.text(*(corner + (dx, dy)), text, ha=ha, va="top" if dy else "center", fontsize=9)
    if world.feature is not None:
        axis.plot(*(world.family() @ CORNERS).T, ":", color=COLORS["other"], lw=2.6, zorder=3)
    axis.plot(*(world.reference @ CORNERS), "o", ms=8, mfc=COLORS["ground"], color=COLORS["ink"], zorder=4)
    axis.annotate("reference", world.reference @ CORNERS, (8, -3), textcoords="offset points", fontsize=9, bbox=PLATE)
    axis.set(xlim=(-0.12, 1.12), ylim=(-0.13, 0.93), aspect="equal")
    axis.axis("off")


@in_style()
def beta_triangle(world, betas) -> tuple[Figure, list]:
    """Return a triangle with the optimum's path over `betas`, and the artists that `move_beta` moves.

    With a feature there are three: the optimum, and where DPO and the goal end in the feature's family.
    """
    looks = [("s", "ink", "best policy of all for reward − β·KL"), ("-", "ink", "its path over β")]
    title = "A high β stays at the reference, a low β goes to the best reply"
    if world.feature is not None:
        looks += [(":", "other", "all that one feature can reach"), ("D", "other", "one feature: where DPO ends")]
        looks += [("X", "other", "one feature: best for reward − β·KL")]
        title = "With one feature, DPO does not end at the best policy"
    figure, (axis, key) = new_figure(columns=2, width=8.6, height=4.2, width_ratios=[1.5, 1])
    triangle(axis, world)
    axis.plot(*(np.array([world.optimum(beta) for beta in betas]) @ CORNERS).T, color=COLORS["ink"], lw=1.5)
    points = []
    for row, (mark, role, words) in enumerate(looks):
        style, height = {"ms": 9, "color": COLORS[role], "mec": "white", "lw": 1.5}, 0.9 - 0.09 * row
        if mark not in "-:":
            points += axis.plot([], [], mark, zorder=5, **style)
        key.plot(*(([0, 0.05], [height] * 2) if mark in "-:" else (0.025, height)), mark, **style)
        key.text(0.09, height, words, va="center", fontsize=9)
    key.set(xlim=(0, 1), ylim=(0, 1))
    key.axis("off")
    axis.set_title(title, loc="left")
    return figure, points


def move_beta(points, world, beta):
    """Move the points of a `beta_triangle` to this β. Return their policies, each `(3,)`.

    The first is the optimum. With a feature, those of `World.best_of_family` follow.
    """
    policies = (world.optimum(beta), *(() if world.feature is None else world.best_of_family(beta)))
    for point, policy in zip(points, policies, strict=True):
        point.set_data(*(policy @ CORNERS)[:, None])
    return policies


@in_style()
def step_triangle(world, beta, runs) -> tuple[Figure, dict]:
    """Return a triangle beside the KL over the steps, and the artists of each of `World.runs` that `move_step` moves."""
    figure, (axis, right) = new_figure(columns=2, width=8.6, height=4.2, width_ratios=[1.5, 1])
    triangle(axis, world)
    best = world.optimum(beta) @ CORNERS
    axis.plot(*best, "s", ms=13, color=COLORS["ink"], mec="white", zorder=4)
    axis.annotate("optimum", best, (0, 10), textcoords="offset points", ha="center", fontsize=9, bbox=PLATE)
    axis.set_title(f"Hard labels run into the corner, β = {beta:g}", loc="left")
    right.set(
        xscale="symlog",
        xlim=(0, STEPS[-1]),
        xlabel="gradient step",
        ylabel="KL to the reference, nats",
        ylim=(0, 1.12 * max(world.kl(p).max() for p in runs.values())),
    )
    right.set_title("Soft labels stop before that", loc="left")
    artists = {}
    for run, (role, line) in ROLES.items():
        style = {"color": COLORS[role], "lw": 1.8, "ls": line}
        artists[run] = [
            axis.plot([], [], **style)[0],
            axis.plot([], [], "o", ms=8, color=COLORS[role], mec="white", zorder=5)[0],
            right.plot([], [], **style)[0],
        ]
        end = world.kl(runs[run][-1])
        words, up = {"soft": ("soft labels", -12), "hard": ("hard labels", 5), "shared": ("one feature", 5)}[run]
        right.annotate(words, (STEPS[-1], end), (-4, up), textcoords="offset points", ha="right", fontsize=9)
    return figure, artists


def move_step(artists, world, runs, step) -> None:
    """Draw a `step_triangle` up to this one of `STEPS`."""
    count = STEPS.index(step) + 1
    for run, (trail, point, curve) in artists.items():
        passed = runs[run][:count]
        trail.set_data(*(passed @ CORNERS).T)
        point.set_data(*(passed[-1] @ CORNERS)[:, None])
        curve.set_data(STEPS[:count], world.kl(passed))
