"""Every figure function of `toylib.plots`, called with small made data: lines, bars, labels, titles and limits.

No figure warns, and each one is drawn from the numbers it was given.
"""

import dataclasses
import functools
import inspect
import math
import warnings
from importlib import import_module

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from toylib import plots
from toylib.plots import (
    failures,
    interview,
    memory,
    pair,
    relatives,
    rlhf,
    simplex,
    style,
    sweep,
    theory,
    tokens,
    training,
)

STEPS = [1, 2, 3, 4]
RUN = pandas.DataFrame(
    {"loss": [0.7, 0.6, 0.5, 0.4], "chosen": [0.0, 0.5, 1.0, 1.5], "rejected": [0.0, -1.0, -2.0, -3.0]},
    index=STEPS,
).assign(win=[float("nan"), 0.5, float("nan"), 0.8], score=0.5, kl=[0.1, 0.2, 0.3, 0.4], clipped=0.1)
PARTS = {"weights": 4e9, "Adam": 8e9, "gradients": 2e9, "activations": 3e9, "logits": 1e9}
CURVES = pandas.DataFrame(
    [
        {"beta": beta, "seed": seed, "step": step, "margin": step / beta, "chosen": step, "rejected": -step}
        | {"heldout_margin": step / 2 if step % 2 else float("nan")}
        for beta in (0.1, 1.0)
        for seed in (0, 1)
        for step in STEPS
    ]
)
QUALITY = pandas.DataFrame(
    [
        {"beta": beta, "seed": seed, "step": step, "kl": step / beta, "win": 0.5 + 0.05 * step + 0.02 * seed}
        | {"win_low": 0.4, "win_high": 0.9, "fluent": 0.9, "facts": 0.8, "on_topic": 0.7, "score": 0.6}
        for beta in (0.1, 1.0)
        for seed in (0, 1)
        for step in STEPS
    ]
)
LAST = QUALITY[QUALITY["step"] == 4]
METHODS = pandas.DataFrame(
    [
        {"method": method, "seed": seed, "step": step, "kl": 2.0 * step, "win": 0.6 + 0.1 * (step == 2), "exact": 0.4}
        | {"scorer": 1.0, "score": 0.5 + 0.1 * seed, "scorer_at_start": 0.2}
        for method in ("dpo", "online_dpo", "ppo", "grpo")
        for seed in (0, 1)
        for step in (1, 2)
    ]
)
PATHS = pandas.DataFrame(
    [
        {"method": method, "seed": seed, "step": step, "kl": 2.0 * step + 0.5 * seed, "win": 0.5 + 0.1 * step}
        for method in ("dpo", "sft", "simpo", "best_of_n")
        for seed in (0, 1)
        for step in (1, 2)
    ]
    + [{"method": "sft", "seed": seed, "step": 3, "kl": 90.0, "win": 0.2} for seed in (0, 1)]
)
TO_DPO = pandas.DataFrame(
    [
        {"method": method, "where": where, "mean": mean, "low": mean - 0.02, "high": mean + 0.02}
        for where in ("at KL 2", "each at its best")
        for method, mean in (("sft", -0.05), ("simpo", 0.01), ("kto", 0.04))
    ]
)
BESIDE = pandas.DataFrame(
    {"method": ["dpo", "dpo", "best_of_n"], "words": [18.0, 20.0, 15.0], "chosen": [1.0, 2.0, float("nan")]}
)
FEWER = pandas.DataFrame(
    [
        {"method": method, "pairs": pairs, "mean": 0.6, "low": 0.5, "high": 0.8}
        for method in ("dpo", "sft")
        for pairs in (200, 25)
    ]
)
ARMS = pandas.DataFrame(
    [
        {"method": method, "seed": seed, "step": step, "chosen": 0.1 * step, "rejected": -0.2 * step, "kl": step}
        | {"win": 0.6 + 0.1 * seed}
        for method in ("dpo", "sft")
        for seed in (0, 1)
        for step in (1, 2)
    ]
)
REPLAYED = [(-9.0, -3.0), (-8.0, -3.5), (-9.5, -5.0)]
WORLD = simplex.World(("a", "b", "c"), *map(np.array, ((0.2, 0.3, 0.5), (2.0, 0.5, -1.0), (1.0, 0.2, 0.4))))
FLIPPED = pandas.DataFrame({"steps": [0.8, 0.6], "kl": [0.75, 0.7], "clean": [0.9, 0.7]}, index=[0.0, 0.3])
REMEDIES = pandas.DataFrame({"steps": [0.1, -0.1], "kl": [0.0, 0.05]}, index=["smoothed", "robust"])
INTERVALS = {"PPO − DPO": (0.1, 0.05, 0.2), "GRPO − DPO": (0.1, -0.05, 0.2)}


def with_seeds(table):
    lows = {f"{column}_low": table[column] - 0.05 for column in table}
    return table.assign(**lows, **{f"{column}_high": table[column] + 0.1 for column in table})


FIGURES = {
    "failures.run_curves": lambda: failures.run_curves({"right": RUN, "broken": -RUN}, ["loss", "win"], ["loss"]),
    "failures.curves_by_run": lambda: failures.curves_by_run({"A": RUN, "B": -RUN}, ["loss", "kl"], ["kl"]),
    "failures.dot_rows": lambda: failures.dot_rows({"right": [0, 0], "dropout": [-0.1, 0.2]}, "Δ, nats"),
    "failures.bars": lambda: failures.bars(pandas.DataFrame({"win rate": [0.9, 0.4], "words": [8, 20]}, ["a", "b"])),
    "failures.flips": lambda: failures.flips(with_seeds(FLIPPED), with_seeds(REMEDIES)),
    "failures.pairs_to_label": lambda: failures.pairs_to_label(
        [("Where is $it?", "Here.", "There.")], "Which is better?"
    ),
    "interview.dpo_beside_ppo": interview.dpo_beside_ppo,
    "interview.coverage": lambda: interview.coverage(
        {"loss": [1, 2, 3], "data": [4, 5, 6]}, ["easy", "middle", "hard"]
    ),
    "memory.memory_bars": lambda: memory.memory_bars({"full": PARTS, "small": {"weights": 2e9}}, {"T4": 16e9}),
    "memory.empty_bars": lambda: memory.empty_bars(["full", "small"], {"T4": 16e9}, 20.0, "GB held")[0],
    "memory.overlaid_runs": lambda: memory.overlaid_runs({"TRL": RUN, "ours": RUN}, {"loss": "The loss", "kl": "KL"}),
    "pair.sigmoid_curve": lambda: pair.sigmoid_curve([(0.0, 0.5), (2.2, 0.9)]),
    "pair.four_numbers": lambda: pair.four_numbers(-10.0, -14.0, -11.0, -12.5),
    "pair.replay_panels": lambda: pair.replay_panels([0, 2, 4], REPLAYED, REPLAYED[0])[0],
    "pair.beta_panels": lambda: pair.beta_panels(2.2, kinds=("probability", "loss", "path"))[0],
    "pair.beta_grid": lambda: pair.beta_grid(2.2, betas=(0.1, 1.0)),
    "relatives.frontier": lambda: relatives.frontier(PATHS),
    "relatives.verdicts": lambda: relatives.verdicts(TO_DPO),
    "relatives.side_effects": lambda: relatives.side_effects(BESIDE, 8.0),
    "relatives.by_pairs": lambda: relatives.by_pairs(FEWER),
    "relatives.walk": lambda: relatives.walk(PATHS)[0],
    "rlhf.parts": lambda: rlhf.parts("Who needs what"),
    "rlhf.rollout_curves": lambda: rlhf.rollout_curves({"ppo": RUN, "grpo": RUN}, ("Rises", "Rises too")),
    "rlhf.memory_bars": lambda: rlhf.memory_bars(
        pandas.DataFrame({"policy": [2, 2], "critic": [1, 0]}, ["PPO", "DPO"]), "PPO holds more"
    ),
    "rlhf.settings_strip": lambda: rlhf.settings_strip(METHODS),
    "rlhf.win_by_kl": lambda: rlhf.win_by_kl(METHODS, presets=(3,)),
    "rlhf.forest": lambda: rlhf.forest(INTERVALS, "One is ahead"),
    "rlhf.hacking": lambda: rlhf.hacking({"tuned": METHODS[METHODS["method"] == "ppo"]}, 0.4, ("Paid", "Wanted")),
    "rlhf.verifiable": lambda: rlhf.verifiable(METHODS[METHODS["method"] == "grpo"], "Exact"),
    "simplex.beta_triangle": lambda: simplex.beta_triangle(WORLD, (0.5, 1.0, 2.0))[0],
    "simplex.step_triangle": lambda: simplex.step_triangle(WORLD, 1.0, WORLD.runs(1.0))[0],
    "sweep.first_steps": lambda: sweep.first_steps(CURVES, until=3),
    "sweep.by_beta": lambda: sweep.by_beta(LAST.groupby("beta").mean(), LAST),
    "sweep.frontier": lambda: sweep.frontier(QUALITY, extra=QUALITY[QUALITY["beta"] == 1.0]),
    "sweep.lab_axes": lambda: sweep.lab_axes(2, 8, 4)[0],
    "sweep.lab_grid": lambda: sweep.lab_grid(CURVES, QUALITY, (0.1, 1.0)),
    "sweep.overfit": lambda: sweep.overfit(CURVES, QUALITY, 0.1),
    "theory.closed_forms": lambda: theory.closed_forms(["a", "b"], [0.5, 0.5], {0.1: [0.9, 0.1], 1.0: [0.6, 0.4]}),
    "theory.kl_by_beta": lambda: theory.kl_by_beta(([0.1, 1, 20], [2, 1, 0.1]), ([0.5, 5], [1.5, 0.4])),
    "theory.margin_and_kl": lambda: theory.margin_and_kl(
        [1, 10], [[1, 2]] * 4, [[0.1, 1]] * 4, ["a", "b", "c", "soft"], 3.0
    ),
    "theory.gradient_weights": lambda: theory.gradient_weights((0.1, 0.5, 1.0), (0, 2.2), beta=0.5),
    "tokens.token_strip": lambda: tokens.token_strip([("chosen", ["A", " b"], [-0.5, -9.0])], title="log-probs"),
    "tokens.shift_and_mask": lambda: tokens.shift_and_mask(["a", ":", " b", "<pad>"], [0, 0, 1, 0], [0, -1.5, 0]),
    "tokens.data_flow": lambda: tokens.data_flow(" It ships. ", "No idea.", (-10.0, -14.0), (-11.0, -12.5), 0.5),
    "training.two_arms": lambda: training.two_arms(ARMS, "DPO parts the two replies"),
    "tokens.shift_panels": lambda: tokens.shift_panels(["a", "b", " c"], [-1.0, -2.0], 2)[0],
    "training.training_panels": lambda: training.training_panels(20)[0],
    "training.log_ratios": lambda: training.log_ratios({"β = 0.1": RUN, "β = 1": RUN}),
}


@functools.cache
def drawn(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = FIGURES[name]()
        FigureCanvasAgg(figure).draw()
    return figure


def words(axis):
    return [text.get_text() for text in axis.texts]


def tick_words(axis, which="y"):
    return [text.get_text() for text in getattr(axis, f"get_{which}ticklabels")()]


def title(axis):
    return axis.get_title(loc="left")


def y_values(line):
    return list(line.get_ydata())


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_without_a_warning(name):
    assert bool(drawn(name).axes) == (name != "failures.pairs_to_label"), "only the pairs to label are text alone"


READERS = {"lines.linewidth": 7, "font.size": 17, "axes.facecolor": "black", "text.color": "red", "axes.grid": False}
READERS |= {"xtick.labelsize": 4, "ytick.major.size": 9, "axes.prop_cycle": "cycler(color=['k'])", "legend.fontsize": 3}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_looks_the_same_whatever_style_the_reader_has_set_and_leaves_it(name):
    with matplotlib.rc_context(READERS):
        before = dict(matplotlib.rcParams)
        canvas = FigureCanvasAgg(FIGURES[name]())
        canvas.draw()
        assert dict(matplotlib.rcParams) == before
    assert np.array_equal(canvas.buffer_rgba(), drawn(name).canvas.buffer_rgba())


def test_a_plain_figure_that_the_reader_makes_later_is_in_matplotlibs_own_style():
    plots.png(style.new_figure()[0])
    figure, axis = plt.subplots()
    (line,) = axis.plot([1, 2])
    plt.close(figure)
    assert line.get_linewidth() == matplotlib.rcParamsDefault["lines.linewidth"] == 1.5
    assert axis.get_facecolor() == (1, 1, 1, 1) and axis.spines["top"].get_visible()


def test_what_is_added_in_style_later_has_the_series_style():
    _, (axis,) = style.new_figure()
    with style.in_style():
        (line,) = axis.plot([1, 2], label="a")
        assert line.get_linewidth() == style.RC["lines.linewidth"] and not axis.legend().get_frame_on()


def test_the_list_of_figures_above_is_complete():
    modules = ("failures", "interview", "memory", "pair", "relatives", "rlhf", "simplex", "sweep", "theory", "tokens")
    modules += ("training",)
    makers = ("new_figure(", "panel_grid(", "styled_figure(", "empty_bars(", "lab_axes(")
    found = {
        f"{module}.{name}"
        for module in modules
        for name, function in inspect.getmembers(import_module(f"toylib.plots.{module}"), inspect.isfunction)
        if function.__module__ == f"toylib.plots.{module}"
        and any(maker in inspect.getsource(function) for maker in makers)
    }
    assert found == set(FIGURES)


# ---- failures and interview ----


def test_broken_runs_are_drawn_over_the_right_one():
    figure = drawn("failures.run_curves")
    loss, win = figure.axes
    assert title(loss) == "loss, log axis" and title(win) == "win rate"
    assert loss.get_yscale() == "symlog" and win.get_yscale() == "linear"
    assert y_values(loss.lines[0]) == list(RUN["loss"]) and y_values(win.lines[0]) == [0.5, 0.8]
    assert win.get_xlim() == (0, 1.04 * 4)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["right", "broken"]


def test_each_run_has_a_row_of_panels():
    axes = drawn("failures.curves_by_run").axes
    assert [axis.get_ylabel() for axis in axes] == ["A", "", "B", ""]
    assert [title(axis) for axis in axes[:2]] == ["loss", "KL, nats (log)"]
    assert y_values(axes[2].lines[0]) == list(-RUN["loss"])


def test_strips_have_one_row_of_dots_per_group():
    (axis,) = drawn("failures.dot_rows").axes
    assert tick_words(axis) == ["right", "dropout"] and axis.get_xlabel() == "Δ, nats"
    assert list(axis.lines[1].get_xdata()) == [-0.1, 0.2] and y_values(axis.lines[1]) == [-1, -1]


def test_bars_have_their_values_beside_them():
    share, count = drawn("failures.bars").axes
    assert [bar.get_width() for bar in share.patches] == [0.9, 0.4] and words(share) == ["0.90", "0.40"]
    assert (title(share), title(count)) == ("win rate", "words") and tick_words(share) == ["a", "b"]
    assert list(share.get_xticks()) == [0, 0.5, 1] and count.get_xlim() == (0, 25)


def test_flipped_labels_are_drawn_at_equal_steps_and_at_equal_kl():
    left, right = drawn("failures.flips").axes
    assert [y_values(line) for line in left.lines if len(y_values(line)) == 2][:1] == [[0.8, 0.6]]
    assert [text.get_text() for text in left.get_legend().get_texts()][-1] == "win rate, equal KL, 0.5 nats"
    assert tick_words(right) == ["smoothed", "robust"] and right.get_ylim() == (0.6 - 2, 0.6)
    places = [
        list(line.get_ydata()) for line in right.lines if len(line.get_xdata()) == 2 and line.get_marker() in "os"
    ]
    assert places == [pytest.approx([0.14, -0.86]), pytest.approx([-0.14, -1.14])], (
        "both comparisons of a method lie in its row"
    )


def test_cards_are_counted():
    (axis,) = drawn("interview.coverage").axes
    assert [bar.get_width() for bar in axis.patches] == [1, 2, 3, 4, 5, 6] and words(axis) == list("123456")
    assert axis.get_title(loc="left").startswith("21 cards") and tick_words(axis) == ["loss", "data"]


# ---- memory ----


def test_memory_bars_end_at_the_peak():
    figure = drawn("memory.memory_bars")
    (axis,) = figure.axes
    widths = [bar.get_width() for bar in axis.patches]
    assert sum(widths[: len(widths) // 2]) == pytest.approx(16) and sum(widths[len(widths) // 2 :]) == pytest.approx(2)
    assert " T4" in words(axis) and "16.0" in words(axis) and tick_words(axis) == ["full", "small"]
    empty = drawn("memory.empty_bars").axes[0]
    assert {bar.get_width() for bar in empty.patches} == {0} and empty.get_xlim() == (0, 20)


def test_curves_that_should_be_one_lie_on_each_other():
    loss, kl = drawn("memory.overlaid_runs").axes
    assert (title(loss), title(kl)) == ("The loss", "KL")
    assert y_values(loss.lines[0]) == y_values(loss.lines[1]) and loss.lines[0].get_linewidth() == 6
    assert y_values(loss.lines[2]) == [math.log(2)] * 2 and len(kl.lines) == 2


# ---- one pair ----


def test_sigmoid_marks_are_named():
    (axis,) = drawn("pair.sigmoid_curve").axes
    assert words(axis) == ["σ(0) = 0.50", "σ(2.2) = 0.90"] and axis.get_xlim() == (-5, 5)


def test_four_numbers_give_two_log_ratios_and_the_margin():
    left, right = drawn("pair.four_numbers").axes
    assert [word for word in words(right) if word] == ["+1.0", "−1.5", "Δ = 2.5"]
    assert [word for word in words(left) if word][:2] == ["reference\n−11.0", "policy\n−10.0"]
    assert left.get_xlim() == (-14.6, -9.4) and right.get_xlim() == (-1.9, 1.4)


def test_a_replay_moves_the_arrows_and_the_margin_and_nothing_else():
    figure, panels = pair.replay_panels([0, 2, 4], REPLAYED, REPLAYED[0])
    left, right = figure.axes
    assert [y_values(line) for line in right.lines[:2]] == [[0.0, 1.0, -0.5], [0.0, -0.5, -2.0]]
    limits = [axis.get_xlim() + axis.get_ylim() for axis in (left, right)]
    arrow, text = panels["moves"][0]
    for at, (step, delta) in enumerate(((0, 0.0), (2, 1.5), (4, 1.5))):
        assert pair.move_to_step(panels, at) == delta
        assert (arrow.xy, arrow.xyann) == ((REPLAYED[at][0], 1), (-9.0, 1)) and arrow.get_visible() == (at > 0)
        assert text.get_text() == f"policy\n−{-REPLAYED[at][0]:.2f}" and list(panels["gap"].get_xdata()) == [step] * 2
    assert y_values(panels["gap"]) == [-0.5, -2.0] and limits == [
        axis.get_xlim() + axis.get_ylim() for axis in (left, right)
    ]


def test_beta_panels_and_the_grid_show_the_pair():
    axes = drawn("pair.beta_panels").axes
    assert [title(axis) for axis in axes] == [pair.KINDS[kind][1] for kind in ("probability", "loss", "path")]
    assert axes[0].get_xlim() == (-6, 6) and axes[2].get_xscale() == "log"
    grid = drawn("pair.beta_grid").axes
    assert [axis.get_title() or title(axis) for axis in grid[:2]] == ["β = 0.1", "β = 1"]
    assert words(grid[1])[0] == f"{1 / (1 + math.exp(-2.2)):.4f}"


# ---- DPO, PPO, GRPO and online DPO ----


def test_the_parts_of_each_method_are_boxes():
    (axis,) = drawn("rlhf.parts").axes
    assert tick_words(axis) == ["DPO", "online DPO", "GRPO", "PPO"] and title(axis) == "Who needs what"
    assert words(axis).count("trained") == 5 and words(axis).count("frozen") == 7 and words(axis).count("data") == 4


def test_rollout_curves_and_the_memory_of_methods():
    score, kl = drawn("rlhf.rollout_curves").axes
    assert y_values(kl.lines[1]) == list(RUN["kl"]) and title(score) == "Rises" and len(kl.lines) == 2
    (axis,) = drawn("rlhf.memory_bars").axes
    assert words(axis) == ["3.0", "2.0"] and axis.get_xlim() == (0, 1.45 * 3) and title(axis) == "PPO holds more"


def test_every_setting_is_a_line_and_the_best_has_a_ring():
    (axis,) = drawn("rlhf.settings_strip").axes
    assert tick_words(axis, "x") == ["DPO", "PPO", "GRPO", "online DPO"] and axis.get_ylim() == (0, 1)
    rings = [line for line in axis.lines if line.get_markersize() == 13]
    assert len(rings) == 8 and all(list(ring.get_ydata()) == [0.7] for ring in rings)  # of equals, all


def test_win_rate_against_kl_starts_at_the_reference():
    (axis,) = drawn("rlhf.win_by_kl").axes
    assert list(axis.lines[0].get_xdata()) == [0, 2, 4] and y_values(axis.lines[0]) == [0.5, 0.6, 0.7]
    assert words(axis) == ["3"] and len(axis.get_legend().get_texts()) == 4 and axis.get_xlim() == (0, 9)


def test_differences_that_touch_zero_are_grey():
    (axis,) = drawn("rlhf.forest").axes
    assert tick_words(axis) == list(INTERVALS) and words(axis) == ["+0.10", "+0.10"]
    assert [axis.lines[i].get_color() == style.COLORS["grey"] for i in (0, 2)] == [False, True]


def test_win_rates_that_touch_one_half_are_grey():
    (axis,) = rlhf.forest({"a": (0.6, 0.5, 0.7), "b $": (0.7, 0.6, 0.8)}, xlabel="win rate", middle=0.5).axes
    assert words(axis) == ["0.60", "0.70"] and tick_words(axis) == ["a", "b \\$"]
    assert [axis.lines[i].get_color() == style.COLORS["grey"] for i in (0, 2)] == [True, False]


def test_hacking_has_one_legend_entry_per_kind_of_run():
    paid, wanted = drawn("rlhf.hacking").axes
    assert [text.get_text() for text in wanted.get_legend().get_texts()] == ["tuned"]
    assert y_values(paid.lines[0]) == [0.2, 1, 1] and y_values(wanted.lines[0]) == [0.4, 0.5, 0.5]


def test_the_verifiable_reward_is_drawn_beside_the_win_rate():
    (axis,) = drawn("rlhf.verifiable").axes
    assert y_values(axis.lines[0]) == [0.4, 0.4] and y_values(axis.lines[2]) == [0.6, 0.7]


def test_pairs_to_label_stand_side_by_side_under_their_prompt():
    shown = [text.get_text() for text in drawn("failures.pairs_to_label").texts]
    assert shown == ["Which is better?", "Customer: Where is \\$it?", "A  Here.", "B  There."]


# ---- DPO's relatives ----


def test_each_family_has_dpo_beside_it_and_collapsed_ends_are_cut_off():
    axes = drawn("relatives.frontier").axes
    legends = [[text.get_text() for text in axis.get_legend().get_texts()] for axis in axes]
    assert legends == [["DPO"], ["DPO", "SFT on chosen"], ["DPO", "SimPO"], ["DPO", "best-of-n"]]
    mean = next(line for line in axes[1].lines if line.get_label() == "SFT on chosen")
    assert list(mean.get_xdata()) == [0, 2.25, 4.25, 90] and y_values(mean) == pytest.approx([0.5, 0.6, 0.7, 0.2])
    assert axes[1].get_xlim()[1] == pytest.approx(1.35 * 4.25)
    left, middle, right = axes[1].transData.transform([(0, 0.5), (1, 0.5), (4, 0.5)])[:, 0]
    assert right - middle == pytest.approx(middle - left), "over the root of KL"


def test_a_difference_whose_interval_holds_zero_is_hollow():
    left, right = drawn("relatives.verdicts").axes
    assert tick_words(left) == ["SFT on chosen", "SimPO", "KTO"] and title(right) == "each at its best"
    marks = [line for line in left.lines if line.get_marker() == "o"]
    assert [mark.get_markerfacecolor() == style.COLORS["ground"] for mark in marks] == [False, True, False]
    assert left.get_xlim()[0] == -left.get_xlim()[1]
    assert words(relatives.verdicts(TO_DPO, reach=0.045).axes[0]) == ["◀ −0.05"], (
        "what is beyond is an arrow with a number"
    )


def test_lengths_and_chosen_log_ratios_have_a_dot_per_seed():
    words_axis, chosen = drawn("relatives.side_effects").axes
    assert list(words_axis.lines[0].get_xdata()) == [18, 20] and tick_words(words_axis) == ["DPO", "best-of-n"]
    assert list(chosen.lines[2].get_xdata()) == []  # best-of-n trains nothing


def test_win_rates_are_drawn_by_number_of_pairs():
    (axis,) = drawn("relatives.by_pairs").axes
    assert axis.get_xscale() == "log" and tick_words(axis, "x") == ["25", "200"]
    assert list(axis.lines[0].get_xdata()) == [25, 200]


def test_the_walk_highlights_one_path():
    figure, parts = relatives.walk(PATHS)
    relatives.highlight(parts, relatives.mean_paths(PATHS).loc["simpo"], "SimPO")
    assert list(parts["path"].get_xdata()) == [0, 2.25, 4.25] and parts["name"].get_text() == "SimPO"
    assert len(figure.axes[0].lines) == 7  # four faint paths, DPO, the highlighted one, and the line at ½


# ---- the sweep over β ----


def test_sweep_figures_average_over_seeds():
    (first,) = drawn("sweep.first_steps").axes
    assert y_values(first.lines[0]) == [10, 20, 30] and words(first) == ["β = 1", "β = 0.1"]
    kl, win, shares = drawn("sweep.by_beta").axes
    assert y_values(kl.lines[0]) == [40, 4] and y_values(win.lines[0]) == pytest.approx([0.71, 0.71])
    assert [text.get_text() for text in shares.get_legend().get_texts()] == ["fluent", "facts right", "on topic"]
    assert title(kl) == "A higher β stays closer" and win.get_ylabel() == "win rate over the reference"


def test_paths_through_kl_and_win_rate():
    (axis,) = drawn("sweep.frontier").axes
    assert list(axis.lines[0].get_xdata()) == [10, 20, 30, 40] and words(axis) == ["β = 0.1", "β = 1"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["yours, β = 1"]
    above = drawn("sweep.lab_grid").axes[0]
    assert title(above) == "β = 0.1" and y_values(above.lines[1]) == STEPS
    assert len(drawn("sweep.lab_axes").axes) == 4
    left, right = drawn("sweep.overfit").axes
    assert y_values(left.lines[1]) == [0.5, 1.5] and right.get_ylim() == (0, 1.05)


# ---- theory ----


def test_closed_forms_have_a_panel_for_each_beta():
    low, high = drawn("theory.closed_forms").axes
    assert [bar.get_width() for bar in low.patches] == [0.9, 0.1, 0.5, 0.5] and title(high) == "β = 1"
    assert tick_words(low) == ["a", "b"]


def test_figures_of_beta_name_their_lines_and_hide_no_height_behind_a_log_axis():
    (axis,) = drawn("theory.kl_by_beta").axes
    assert axis.get_xscale() == "log" and tick_words(axis, "x") == ["0.1", "0.5", "1", "5", "20"]
    margins, kls = drawn("theory.margin_and_kl").axes
    assert margins.get_yscale() == kls.get_yscale() == "linear" and words(margins) == ["a", "b", "c", "soft"]
    (axis,) = drawn("theory.gradient_weights").axes
    assert words(axis) == ["β = 0.1", "β = 0.5", "β = 1", "0.250", f"{0.5 / (1 + math.exp(1.1)):.3f}"]


# ---- tokens and training ----


def test_a_token_strip_shows_tokens_and_their_values():
    (axis,) = drawn("tokens.token_strip").axes
    assert words(axis) == ["chosen", "A", "-0.50", "␣b", "-9.00"] and title(axis) == "log-probs"
    figure = tokens.token_strip([("Δ", ["A", "B", "C"], [1.0, -2.0, 0.0])], difference=True)
    assert words(figure.axes[0])[2::2] == ["▲ +1.00", "▼ −2.00", "0.00"]


def test_the_shift_puts_each_token_under_the_one_before_it_and_only_scored_ones_have_a_log_prob():
    (axis,) = drawn("tokens.shift_and_mask").axes
    assert words(axis)[:12] == ["a", ":", "0", "·", ":", "␣b", "1", "−1.50", "␣b", "<pad>", "0", "·"]


def test_the_data_flow_ends_in_the_loss_of_the_pair():
    (axis,) = drawn("tokens.data_flow").axes
    shown = "\n".join(words(axis))
    assert "chosen: It ships.      rejected: No idea." in shown and "margin Δ = 2.50" in shown
    assert f"= {math.log(1 + math.exp(-1.25)):.4f}" in shown and "log πref(rejected) = −12.50" in shown


def test_one_target_after_the_other_is_marked_and_only_the_reply_is_summed():
    figure, panels = tokens.shift_panels(["a", "b", " c", "."], [-1.0, -2.0, -0.5], 2)
    sums = [tokens.move_to_target(panels, position) for position in (1, 2, 3)]
    assert sums == [0.0, -2.0, -2.5] and panels["artists"][0].get_x() == panels["boxes"][0][2].get_x()
    assert words(figure.axes[0])[-2:] == [".: −0.50 nats, scored", "sum of the reply so far: (−2.00) + (−0.50) = −2.50"]


def test_points_of_the_triangle_are_the_policies():
    figure, points = simplex.beta_triangle(WORLD, (0.5, 1.0))
    for point, policy in zip(points, simplex.move_beta(points, WORLD, 1.0), strict=True):
        assert np.array(point.get_data())[:, 0] == pytest.approx(policy @ simplex.CORNERS)
    assert "a, reward +2" in words(figure.axes[0])
    alone, points = simplex.beta_triangle(dataclasses.replace(WORLD, feature=None), (0.5, 1.0))
    assert len(points) == 1 and not [text for text in words(alone.axes[1]) if "feature" in text]
    runs = WORLD.runs(1.0)
    _, artists = simplex.step_triangle(WORLD, 1.0, runs)
    simplex.move_step(artists, WORLD, runs, simplex.STEPS[3])
    assert y_values(artists["hard"][2]) == pytest.approx(WORLD.kl(runs["hard"][:4]))


def test_training_panels_and_log_ratios():
    axes = drawn("training.training_panels").axes
    assert [title(axis) for axis in axes[:5]] == [name for name, _, _ in training.PANELS]
    assert {axis.get_xlim() for axis in axes[:5]} == {(0, 1.02 * 20)}
    first, second = drawn("training.log_ratios").axes
    assert (title(first), title(second)) == ("β = 0.1", "β = 1") and first.get_ylim() == second.get_ylim()
    assert y_values(first.lines[0]) == list(RUN["chosen"])


def test_pictures_have_few_colours():
    from io import BytesIO

    from PIL import Image

    picture = Image.open(BytesIO(plots.png(style.new_figure()[0])))
    assert picture.format == "PNG" and len(picture.getcolors()) <= 48


def test_two_arms_start_at_the_reference_and_share_a_scale():
    figure = drawn("training.two_arms")
    dpo, sft, quality = figure.axes
    assert y_values(dpo.lines[0]) == pytest.approx([0, 0.1, 0.2]) and dpo.get_ylim() == sft.get_ylim()
    assert list(quality.lines[0].get_xdata()) == [0, 1, 2] and y_values(quality.lines[0]) == pytest.approx(
        [0.5, 0.65, 0.65]
    )
    assert [text.get_text() for text in quality.get_legend().get_texts()] == ["DPO", "SFT"]


def test_the_words_of_a_figure_reach_the_page(monkeypatch):
    import IPython.display

    shown = []
    monkeypatch.setattr(
        IPython.display, "display", lambda data, metadata=None, raw=False: shown.append((data, metadata))
    )
    plots.show(style.new_figure(width=2, height=1)[0], 'A "quoted" <line>')
    ((data, metadata),) = shown
    assert data["text/html"].startswith('<img alt="A &quot;quoted&quot; &lt;line&gt;" src="data:image/png;base64,')
    assert data["text/plain"] == metadata["image/png"]["alt"] == 'A "quoted" <line>'


# ---- text is text ----

ODD = "a $$ b $x$ \t \\$ \u05e9\u05dc \u0645\u0631 \u4f60 \U0001f600 \r\x07"


@pytest.mark.parametrize("text", ["$", "$$", "$\\frac{$", "\\$5 or $6", ODD])
def test_text_of_the_data_is_no_mathematics_and_does_not_warn(text):
    table = pandas.DataFrame({text: [1.0, 2.0]}, index=[text, "b"])
    made = [
        lambda: failures.run_curves({text: RUN.assign(**{text: 1.0})}, ["loss", text]),
        lambda: failures.curves_by_run({text: RUN}, ["loss"]),
        lambda: failures.dot_rows({text: [0, 1]}, text),
        lambda: failures.bars(table),
        lambda: failures.flips(with_seeds(FLIPPED), with_seeds(REMEDIES.rename(index={"robust": text}))),
        lambda: interview.coverage({text: [1, 2, 3]}, [text, "b", "c"]),
        lambda: memory.memory_bars({text: PARTS}, {text: 16e9}, text),
        lambda: memory.overlaid_runs({text: RUN}, {"kl": text}),
        lambda: rlhf.memory_bars(table),
        lambda: rlhf.forest({text: (0.1, 0.0, 0.2)}),
        lambda: theory.closed_forms([text, "b"], [0.5, 0.5], {0.1: [0.9, 0.1]}),
        lambda: tokens.token_strip([(text, [text, "\n"], [-1.0, -2.0])], title=text),
        lambda: tokens.data_flow(text, "two\nlines", (-10.0, -14.0), (-11.0, -12.5), 0.5),
        lambda: tokens.shift_panels([text, text, "b"], [-1.0, -2.0], 1)[0],
        lambda: simplex.beta_triangle(dataclasses.replace(WORLD, names=(text, "b", text)), (0.5, 1.0))[0],
        lambda: training.log_ratios({text: RUN}),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in made:
            FigureCanvasAgg(figure()).draw()
    assert style.plain("a$b\tc\ud800") == "a\\$b⇥c\ufffd" and style.plain("β: 0.5\n−1") == "β: 0.5\n−1"
