"""The live figures: they follow the slider, nothing grows while they do, and a static picture stands in for them."""

import base64
import functools
import gc
import io
import math
import re
import tracemalloc

import ipywidgets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from toylib import plots
from toylib.plots import pair as plots_pair
from toylib.plots import training as plots_training
from toylib.plots.tokens import token_strip
from toylib.widgets import beta_explorer as widgets_pair
from toylib.widgets import beta_lab
from toylib.widgets import live as widgets
from toylib.widgets import relatives as widgets_relatives
from toylib.widgets.training import watch_training

DELTA = 2.2


@pytest.fixture
def shown(monkeypatch):
    """What was displayed: a list of (bundle, metadata); with a display id, what it was updated to."""
    import IPython.display

    calls = []

    class Handle:
        def update(self, bundle, metadata=None, raw=False):
            display(bundle, metadata, raw)

    def display(bundle, metadata=None, raw=False, display_id=None):
        assert raw
        calls.append((bundle, metadata))
        return Handle()

    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(widgets, "SECONDS_BETWEEN_MOVES", 0)
    monkeypatch.setattr(plots_pair, "beta_grid", still)
    monkeypatch.setattr(plots, "png", png)
    return calls


# The static picture takes longer than all the rest, and it depends on nothing but its arguments.
png, still = functools.cache(plots.png), functools.cache(plots_pair.beta_grid)


def explorer(shown, *args, **kwargs):
    """The slider, readout and frames of a fresh beta_explorer, found as a frontend finds them: by the model id."""
    widgets_pair.beta_explorer(*args, **kwargs)
    return model(shown[-1][0]).children[:3]


def model(bundle):
    """The box that a bundle shows."""
    return known_widgets()[bundle[widgets.WIDGET_VIEW]["model_id"]]


def known_widgets():
    """All open widgets by model id; ipywidgets 7 keeps them elsewhere than 8."""
    eight = getattr(ipywidgets.widgets.widget, "_instances", None)
    return ipywidgets.Widget.widgets if eight is None else eight


def numbers(readout):
    return [float(number) for number in re.findall(r"= (-?[\d.]+)", readout.value)]


def observers(slider):
    return slider._trait_notifiers.get("index", {}).get("change", [])


def picture(box, position):
    """What the page shows at this position of the slider: the background, on it the position's layer."""
    _, _, frames, look = box.children
    layers = [re.search(r"base64,([\w+/=]+)", html).group(1) for html in (look.value, frames.children[position].value)]
    return Image.alpha_composite(*(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGBA") for one in layers))


# ---- following the slider ----


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5, 1.0, 10.0])
def test_readout_has_the_numbers_of_the_slider(shown, beta):
    slider, readout, _ = explorer(shown)
    slider.value = beta
    probability = 1 / (1 + math.exp(-beta * DELTA))
    assert numbers(readout) == pytest.approx([beta, beta * DELTA, probability, -math.log(probability)], abs=5.1e-5)


def test_default_is_the_worked_example_at_beta_one_tenth(shown):
    slider, readout, frames = explorer(shown)
    assert slider.value == 0.1 and frames.selected_index == slider.index
    assert numbers(readout) == [0.1, 0.22, 0.5548, 0.5892]


def test_every_position_has_the_numbers_that_the_readout_will_have(shown):
    slider, readout, frames = explorer(shown)
    assert len(frames.children) == len(slider.options) == 61
    for position in (0, 20, 33, 60):
        slider.index = position
        assert readout.value in frames.children[position].value


@pytest.mark.parametrize("kinds", [("probability", "loss"), ("loss", "weight", "path")])
def test_picture_is_what_a_full_drawing_would_be(shown, kinds):
    slider, _, _ = explorer(shown, weight="weight" in kinds)
    box = model(shown[-1][0])
    for beta in (0.01, 0.5, 10.0):
        figure, panels = plots_pair.beta_panels(DELTA, kinds=kinds, betas=(0.01, 10))
        for panel in panels:
            plots_pair.move_to_beta(panel, beta)
        whole = Image.open(io.BytesIO(plots.png(figure))).convert("RGB")
        live = picture(box, [value for _, value in slider.options].index(beta)).convert("RGB")
        assert live.size == whole.size
        differing = np.abs(np.asarray(live, int) - np.asarray(whole, int)).max(axis=2) > 40
        assert differing.mean() < 0.001  # the order of drawing may differ where lines cross


def test_the_page_changes_pictures_without_the_kernel(shown):
    slider, _, frames = explorer(shown)
    link = model(shown[-1][0]).link
    assert (link.source, link.target) == ((slider, "index"), (frames, "selected_index"))


def test_every_position_is_drawn_once_and_limits_stay(shown):
    figure, (axis,) = plots.new_figure()
    (line,) = axis.plot([], [])
    axis.set(xlim=(0, 3), ylim=(0, 3))
    seen = []

    def update(value):
        seen.append(value)
        line.set_data([0, value], [0, value])
        return f"{value} nats"

    slider = ipywidgets.SelectionSlider(options=[1, 2, 3], value=2)
    box = widgets.live_figure(figure, [line], update, slider)
    readout = box.children[1]
    assert seen[1:4] == [1, 2, 3] and readout.value == "2 nats"
    limits = axis.get_xlim(), axis.get_ylim()
    before = len(seen)
    slider.value = 3
    assert readout.value == "3 nats" and len(seen) == before and limits == (axis.get_xlim(), axis.get_ylim())
    assert len({page.value for page in box.children[2].children}) == 3


def test_a_thousand_moves_leave_nothing_behind(shown):
    slider, _, _ = explorer(shown)
    count = len(observers(slider)), len(known_widgets())

    def sweep():
        for move in range(500):
            slider.index = move % 61
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    first, second = sweep(), sweep()
    tracemalloc.stop()
    assert second - first < 20_000  # bytes, over 500 moves
    assert count == (len(observers(slider)), len(known_widgets()))


def test_a_loss_off_the_scale_is_still_in_the_readout(shown):
    slider, readout, _ = explorer(shown, -0.6, 1.4)
    slider.value = 10.0
    assert numbers(readout) == pytest.approx([10, -20, 0, 20], abs=5.1e-5)


def test_a_huge_delta_is_drawn_and_said_without_overflow(shown):
    _, readout, _ = explorer(shown, -900.0, 900.0, beta=10)
    assert numbers(readout)[-1] == 18000


def test_the_weight_rises_and_falls_with_beta(shown):
    slider, readout, _ = explorer(shown, weight=True)
    weights = []
    for beta in (0.1, 0.56, 3.2):
        slider.value = beta
        assert numbers(readout)[-2:] == pytest.approx(
            [1 / (1 + math.exp(beta * DELTA)), beta / (1 + math.exp(beta * DELTA))], abs=5.1e-5
        )
        weights.append(numbers(readout)[-1])
    assert weights[0] < weights[1] > weights[2]


def test_a_beta_between_two_positions_gets_one_of_its_own(shown):
    slider, readout, _ = explorer(shown, beta=0.1234)
    assert slider.value == 0.1234 and numbers(readout)[0] == 0.1234 and len(slider.options) == 62


# ---- what is displayed ----


def test_one_output_holds_the_live_widget_the_picture_and_the_words(shown):
    widgets_pair.beta_explorer()
    ((bundle, metadata),) = shown
    assert set(bundle) == {widgets.WIDGET_VIEW, "image/png", "text/plain"}
    assert isinstance(model(bundle), ipywidgets.VBox)
    assert Image.open(io.BytesIO(bundle["image/png"])).format == "PNG"
    assert metadata == {"image/png": {"alt": bundle["text/plain"]}}
    assert "0.5548 and 0.5892" in bundle["text/plain"]


def test_static_picture_of_the_weights_says_them(shown):
    widgets_pair.beta_explorer(weight=True)
    assert "0.1 gives 0.5892 and 0.0445" in shown[0][0]["text/plain"]


def test_slider_has_a_name_keys_and_the_range_of_beta(shown):
    slider, _, _ = explorer(shown)
    assert slider.description == "β" and slider.continuous_update
    assert (slider.options[0], slider.options[-1]) == (("0.01", 0.01), ("10", 10.0))
    assert not slider.disabled and getattr(slider, "tabbable", None) is not False


def test_a_screen_reader_meets_the_numbers_once_and_hears_them_change(shown):
    _, readout, frames = explorer(shown)
    assert 'aria-live="polite"' in readout.value
    assert readout.layout.display is None and readout.layout.visibility is None  # hidden so, nobody would hear it
    assert all(page.value.startswith('<div aria-hidden="true">') for page in frames.children)


def test_only_widgets_that_ipywidgets_7_has_too(shown):
    widgets_pair.beta_explorer()
    box = model(shown[0][0])
    kinds = [type(widget).__name__ for widget in (box, *box.children, *box.children[2].children)]
    assert kinds == ["VBox", "SelectionSlider", "HTML", "Tab", "HTML", *["HTML"] * 61]


def test_a_live_figure_is_light(shown):
    widgets_pair.beta_explorer(weight=True)
    _, _, frames, look = model(shown[0][0]).children
    assert len(look.value) + sum(len(page.value) for page in frames.children) < 500_000


def test_works_where_there_is_no_notebook(capsys):
    widgets_pair.beta_explorer()  # IPython's display falls back to printing
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("bad", [{"beta": 0}, {"beta": 11}, {"beta": math.nan}, {"chosen_logratio": math.inf}])
def test_bad_numbers_are_refused_in_one_sentence(bad):
    with pytest.raises(ValueError, match="must be"):
        widgets_pair.beta_explorer(**bad)


# ---- the replies in the β lab ----


def test_a_reply_of_one_long_word_does_not_stretch_the_table():
    replies = pd.DataFrame({"prompt": ["Customer: hi\nAgent:"] * 2, "reply": ["x" * 400, " "]})
    table = beta_lab.reply_table(replies)
    style = re.match(r'<table style="([^"]+)"', table).group(1)
    assert {"table-layout: fixed", "width: 100%", "overflow-wrap: anywhere"} <= set(style.split("; "))
    assert table.count(">hi</td>") == 2 and f"<td>{'x' * 400}</td>" in table and "<td>(nothing)</td>" in table


@pytest.mark.parametrize(
    "reply, shown_as",
    [
        ("a\tb\r\nc", "a b c"),
        ("\x1b[31mred\x1b[0m", "\ufffd[31mred\ufffd[0m"),
        ("a\x00b\x85c\u202ed", "a\ufffdb c\ufffdd"),
        ("<b onclick=x>&", "&lt;b onclick=x&gt;&amp;"),
        ("שלום $x$", "שלום $x$"),
    ],
)
def test_control_characters_in_a_reply_are_harmless(reply, shown_as):
    assert f"<td>{shown_as}</td>" in beta_lab.reply_table(pd.DataFrame({"prompt": ["hi"], "reply": [reply]}))


# ---- running the cell again ----


def test_running_a_cell_again_closes_what_its_last_run_showed(monkeypatch, shown):
    monkeypatch.setattr(widgets, "_open", {})
    run = ["cell a", "run 1"]
    monkeypatch.setattr(widgets, "_cell_and_run", lambda: tuple(run))
    none = set(known_widgets())
    first = explorer(shown)[0]
    of_one = len(set(known_widgets()) - none)
    second = explorer(shown)[0]
    run[:] = ["cell b", "run 2"]
    elsewhere = explorer(shown)[0]
    assert all(map(observers, (first, second, elsewhere)))
    run[:] = ["cell a", "run 3"]
    again = explorer(shown)[0]
    assert not observers(first) and not observers(second)
    assert observers(again) and observers(elsewhere)
    assert len(set(known_widgets()) - none) == 2 * of_one  # two closed to the last layout and link, one made


@pytest.mark.parametrize(
    "first, second",
    [
        (
            {"metadata": {"cellId": "a"}, "content": {"code": "x"}},
            {"metadata": {"cellId": "b"}, "content": {"code": "x"}},
        ),
        ({"metadata": {}, "content": {"code": "x"}}, {"metadata": {}, "content": {"code": "y"}}),
        ({"metadata": {"cellId": None}, "content": {"code": "x"}}, {"content": {"code": "y"}}),
    ],
    ids=["JupyterLab", "nbclassic", "a cell id that is empty"],
)
def test_a_cell_is_known_again_with_and_without_an_id(monkeypatch, shown, first, second):
    import IPython

    class Shell:
        parent_header = None

    def run(cell, number):
        Shell.parent_header = cell | {"header": {"msg_id": number}}
        return explorer(shown)[0]

    monkeypatch.setattr(widgets, "_open", {})
    monkeypatch.setattr(IPython, "get_ipython", Shell)
    none = set(known_widgets())
    one, same_run, elsewhere = run(first, "1"), run(first, "1"), run(second, "2")
    assert all(map(observers, (one, same_run, elsewhere)))
    open_now = len(set(known_widgets()) - none)
    again = run(first, "3")
    assert not observers(one) and not observers(same_run) and observers(again) and observers(elsewhere)
    assert len(set(known_widgets()) - none) == open_now * 2 // 3
    run(first, "4")
    assert len(set(known_widgets()) - none) == open_now * 2 // 3


def test_outside_a_notebook_a_figure_replaces_the_one_that_shows_the_same(monkeypatch, shown):
    monkeypatch.setattr(widgets, "_open", {})
    first, other, again = explorer(shown)[0], explorer(shown, -0.6, 1.4)[0], explorer(shown)[0]
    assert not observers(first) and observers(other) and observers(again)


# ---- curves that draw while training runs ----


def metrics(step):
    fine = {"rewards/chosen": 0.02 * step, "rewards/rejected": -0.05 * step, "rewards/accuracies": min(1, step / 10)}
    return fine | {"loss": 0.69 / step, "rewards/margins": 0.07 * step}


def test_training_curves_are_drawn_at_every_tenth_step_and_the_last(shown):
    on_step = watch_training(beta=0.1, steps=25, kl=lambda policy: 0.5, every=10)
    history = [metrics(step) for step in range(1, 26)]
    for step, row in enumerate(history, 1):
        on_step(step, row, None)
    assert [re.search(r"step (\d+) of 25", bundle["text/plain"]).group(1) for bundle, _ in shown] == ["10", "20", "25"]
    assert "chosen +5.00, of rejected -12.50, margin 17.50, accuracy 1.00" in shown[-1][0]["text/plain"]
    assert [step for step, row in enumerate(history, 1) if not math.isnan(row["kl"])] == [1, 10, 20, 25]
    assert len({bundle["image/png"] for bundle, _ in shown}) == 3


def test_training_panels_grow_only_when_a_line_leaves_them():
    _, lines = plots_training.training_panels(steps=40)
    table = pd.DataFrame([{name: 0.5 for name in lines}] * 2, index=[1, 2])
    assert not plots_training.show_history(lines, table)
    before = lines["rejected"].axes.get_ylim()
    table.loc[2, "rejected"] = 3 * before[0]
    table.loc[2, "kl"] = math.nan
    assert plots_training.show_history(lines, table)
    low, high = lines["rejected"].axes.get_ylim()
    assert low <= 3 * before[0] and high == before[1] and list(lines["kl"].get_xdata()) == [1]
    assert not plots_training.show_history(lines, table)


# ---- a strip of tokens ----


def strip(values, **kwargs):
    """The texts and the box colours of a strip of one row."""
    figure = token_strip([("chosen", ["a"] * len(values), values)], **kwargs)
    (axis,) = figure.axes
    return [text.get_text() for text in axis.texts], [patch.get_facecolor()[:3] for patch in axis.patches]


def test_token_differences_show_their_sign_in_words_and_in_colour():
    texts, colors = strip([1.5, -1.5, 0.0, -0.001], difference=True)
    assert texts[2::2] == ["▲ +1.50", "▼ −1.50", "0.00", "0.00"]
    (more_red, _, more_blue), (less_red, _, less_blue) = colors[:2]
    assert more_blue > more_red and less_red > less_blue
    assert colors[2] == colors[3] == (1, 1, 1)


def test_token_differences_have_one_scale_for_all_strips():
    assert strip([1.0], difference=True)[1][0] == strip([1.0, -9.0], difference=True)[1][0]
    assert strip([4.0], difference=True)[1] == strip([9.0], difference=True)[1]
    assert strip([2.0], difference=True)[1] != strip([4.0], difference=True)[1]


def test_token_log_probs_are_darker_where_lower():
    texts, colors = strip([-0.001, -2.0, -4.0, -9.0])
    assert texts[2::2] == ["0.00", "-2.00", "-4.00", "-9.00"]
    assert colors[0] > colors[1] > colors[2] == colors[3]


# ---- the walk through DPO's relatives ----


def test_the_walk_through_methods_shows_each_ones_path_numbers_and_replies(shown):
    names = ("dpo", "simpo", "best_of_n")
    quality = pd.DataFrame(
        [
            {"method": name, "seed": 0, "step": step, "kl": step, "win": 0.5 + 0.1 * step}
            for name in names
            for step in (1, 2)
        ]
    )
    best = pd.DataFrame({"kl": 2.0, "win": 0.7, "fluent": 0.9, "words": [18.0, 20.0, 9.0]}, index=names)
    replies = pd.DataFrame(
        [{"method": name, "prompt": "Customer: Hi.\nAgent:", "reply": f" I am {name}."} for name in names[:2]]
    )
    widgets_relatives.walk_through(quality, best, replies)
    slider, spoken, *_ = model(shown[-1][0]).children
    assert [label for label, _ in slider.options] == ["DPO", "SimPO"]  # best-of-n has no replies here
    assert "I am dpo." in spoken.value and "18 words" in spoken.value
    slider.value = "simpo"
    assert "I am simpo." in spoken.value and "SimPO" in spoken.value
    assert "SimPO: KL 2.0, win rate 0.70, 20 words." in shown[-1][0]["text/plain"]
