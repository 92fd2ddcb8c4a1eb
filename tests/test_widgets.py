"""The live figures: what each position of a slider shows, and the picture that stands where no script runs."""

import base64
import functools
import html
import io
import math
import re

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
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
    monkeypatch.setattr(plots_pair, "beta_grid", still)
    monkeypatch.setattr(plots, "png", png)
    return calls


# The static picture takes longer than all the rest, and it depends on nothing but its arguments.
png, still = functools.cache(plots.png), functools.cache(plots_pair.beta_grid)


class Live:
    """A live figure's HTML taken apart: its slider, the layers of its picture and the numbers of each position."""

    def __init__(self, bundle):
        self.html = bundle["text/html"]
        self.slider = dict(re.findall(r'([\w-]+)="([^"]*)"', re.search(r"<input[^>]*>", self.html)[0]))
        self.texts = html.unescape(self.slider["data-texts"]).split("|")
        self.whole, self.ground, *self.layers = map(picture, re.findall(r"base64,([\w+/=]+)", self.html))
        numbers = self.html[self.html.index('aria-live="polite"') :]
        self.numbers = re.findall(r"<div[^>]*>(<span>.*?)</div>", numbers.split("toylib-stack")[0])

    def at(self, beta):
        """The numbers at this β."""
        return [float(n) for n in re.findall(r"= (-?[\d.]+)", self.numbers[self.texts.index(f"β = {beta:g}")])]

    def seen(self, position):
        return Image.alpha_composite(self.ground, self.layers[position]).convert("RGB")


def picture(data):
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA")


def explorer(shown, *args, **kwargs):
    widgets_pair.beta_explorer(*args, **kwargs)
    return Live(shown[-1][0])


def differing(one, other):
    """The share of pixels in which two pictures differ."""
    return (np.abs(np.asarray(one, int) - np.asarray(other, int)).max(axis=2) > 40).mean()


# ---- following the slider ----


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5, 1.0, 10.0])
def test_each_position_has_the_numbers_of_its_beta(shown, beta):
    probability = 1 / (1 + math.exp(-beta * DELTA))
    expected = [beta, beta * DELTA, probability, -math.log(probability)]
    assert explorer(shown).at(beta) == pytest.approx(expected, abs=5.1e-5)


def test_default_is_the_worked_example_at_beta_one_tenth(shown):
    live = explorer(shown)
    assert live.slider["aria-valuetext"] == live.texts[int(live.slider["value"])] == "β = 0.1"
    assert live.at(0.1) == [0.1, 0.22, 0.5548, 0.5892]


def test_every_position_has_a_layer_numbers_and_a_name(shown):
    live = explorer(shown)
    assert len(live.layers) == len(live.numbers) == len(live.texts) == 61 == int(live.slider["max"]) + 1
    assert (live.texts[0], live.texts[-1]) == ("β = 0.01", "β = 10")


@pytest.mark.parametrize("kinds", [("probability", "loss"), ("loss", "weight", "path")])
def test_picture_is_what_a_full_drawing_would_be(shown, kinds):
    live = explorer(shown, weight="weight" in kinds)
    for beta in (0.01, 0.5, 10.0):
        figure, panels = plots_pair.beta_panels(DELTA, kinds=kinds, betas=(0.01, 10))
        for panel in panels:
            plots_pair.move_to_beta(panel, beta)
        drawn = Image.open(io.BytesIO(plots.png(figure))).convert("RGB")
        seen = live.seen(live.texts.index(f"β = {beta:g}"))
        assert seen.size == drawn.size
        assert differing(seen, drawn) < 0.001  # the order of drawing may differ where lines cross


def test_without_script_the_whole_picture_of_the_start_and_its_numbers_stand(shown):
    live = explorer(shown, beta=0.5)
    start = int(live.slider["value"])
    assert differing(live.whole.convert("RGB"), live.seen(start)) < 0.001
    visible = re.sub(
        r"<(label|div)[^>]*style=\"display: none.*?</\1>|<style>.*?</style>", "", live.html, flags=re.DOTALL
    )
    assert (
        visible.count("<img") == 1
        and "<input" not in visible
        and visible.count(">β = ") == 1
        and ">β = 0.5<" in visible
    )


def test_every_position_is_drawn_once_and_limits_stay(shown):
    figure, (axis,) = plots.new_figure()
    (line,) = axis.plot([], [])
    axis.set(xlim=(0, 3), ylim=(0, 3))
    seen = []

    def update(value):
        seen.append(value)
        line.set_data([0, value], [0, value])
        return [f"{value} nats", "a|b"]

    limits = axis.get_xlim(), axis.get_ylim()
    live = Live({"text/html": widgets.live_figure(figure, [line], update, [1, 2, 3], 2, "n", "A line.")})
    assert seen == [2, 1, 2, 3] and live.texts == ["1 nats", "2 nats", "3 nats"] and live.slider["value"] == "1"
    assert limits == (axis.get_xlim(), axis.get_ylim())
    assert differing(live.seen(0), live.seen(2)) > 0 and 'role="img" aria-label="A line."' in live.html


def test_a_loss_off_the_scale_is_still_in_the_readout(shown):
    assert explorer(shown, -0.6, 1.4).at(10) == pytest.approx([10, -20, 0, 20], abs=5.1e-5)


def test_a_huge_delta_is_drawn_and_said_without_overflow(shown):
    assert explorer(shown, -900.0, 900.0, beta=10).at(10)[-1] == 18000


def test_the_weight_rises_and_falls_with_beta(shown):
    live, weights = explorer(shown, weight=True), []
    for beta in (0.1, 0.56, 3.2):
        share = 1 / (1 + math.exp(beta * DELTA))
        assert live.at(beta)[-2:] == pytest.approx([share, beta * share], abs=5.1e-5)
        weights.append(live.at(beta)[-1])
    assert weights[0] < weights[1] > weights[2]


def test_a_beta_between_two_positions_gets_one_of_its_own(shown):
    live = explorer(shown, beta=0.1234)
    assert live.slider["aria-valuetext"] == "β = 0.1234" and len(live.texts) == 62


# ---- what is displayed ----


def test_one_output_holds_the_live_figure_the_picture_and_the_words(shown):
    widgets_pair.beta_explorer()
    ((bundle, metadata),) = shown
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert Image.open(io.BytesIO(bundle["image/png"])).format == "PNG"
    assert metadata == {"image/png": {"alt": bundle["text/plain"]}}
    assert "0.5548 and 0.5892" in bundle["text/plain"]


def test_static_picture_of_the_weights_says_them(shown):
    widgets_pair.beta_explorer(weight=True)
    assert "0.1 gives 0.5892 and 0.0445" in shown[0][0]["text/plain"]


def test_a_live_figure_needs_no_script_block_no_id_and_no_widget(shown):
    live = explorer(shown)
    assert not re.search(r"<script|\bid=|ipywidgets|https?:", live.html) and "\n\n" not in live.html


def test_build_writes_live_figures_for_pages_and_commits_their_pictures(shown, build, tmp_path):
    widgets_pair.beta_explorer()
    bundle = shown[0][0] | {"image/png": "iVBORw0KGgo="}
    table = {"text/html": "<table></table>", "text/plain": "table"}
    outputs = [{"output_type": "display_data", "data": dict(data)} for data in (bundle, table)]
    cells = [{"id": "a", "cell_type": "code", "metadata": {}, "outputs": outputs}]
    (tmp_path / "live").mkdir()
    for stale in ("01_gone.html", "02_kept.html"):
        (tmp_path / "live" / stale).touch()
    notebook = {"cells": cells, "metadata": {}}
    build.write_live(notebook, tmp_path / "01_x.ipynb")
    assert sorted(file.name for file in (tmp_path / "live").iterdir()) == ["01_a.html", "02_kept.html"]
    assert (tmp_path / "live" / "01_a.html").read_text(encoding="utf-8") == bundle["text/html"] + "\n"
    first, second = build.normalised(notebook)["cells"][0]["outputs"]
    assert set(first["data"]) == {"image/png", "text/plain"} and set(second["data"]) == {"text/html", "text/plain"}


def test_shipped_live_figures_belong_to_cells_and_are_small():
    files = sorted((ROOT / "notebooks" / "live").glob("*.html"))
    for file in files:
        number, cell = file.stem.split("_", 1)
        (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
        assert f'"id": "{cell}"' in path.read_text(encoding="utf-8"), f"{file.name}: build the notebook"
        assert file.stat().st_size < 400_000
    assert files and sum(file.stat().st_size for file in files) < 3_000_000


def test_a_screen_reader_hears_the_numbers_change_and_meets_one_picture(shown):
    live = explorer(shown)
    assert live.html.count('aria-live="polite"') == 1 and live.html.count('role="img"') == 1
    assert live.html.count('alt=""') == len(live.layers)


@pytest.mark.parametrize("weight", [False, True])
def test_a_live_figure_is_light(shown, weight):
    assert len(explorer(shown, weight=weight).html) < 400_000


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


# ---- curves that draw while training runs ----


def metrics(step):
    fine = {"rewards/chosen": 0.02 * step, "rewards/rejected": -0.05 * step, "rewards/accuracies": min(1, step / 10)}
    return fine | {"loss": 0.69 / step, "rewards/margins": 0.07 * step}


def test_training_curves_are_drawn_more_often_than_kl_is_sampled(shown):
    on_step = watch_training(beta=0.1, steps=25, kl=lambda policy: 0.5, every=10, draw_every=4)
    history = [metrics(step) for step in range(1, 26)]
    for step, row in enumerate(history, 1):
        on_step(step, row, None)
    assert [re.search(r"step (\d+) of 25", bundle["text/plain"]).group(1) for bundle, _ in shown] == [
        "4",
        "8",
        "12",
        "16",
        "20",
        "24",
        "25",
    ]
    assert "chosen +5.00, of rejected -12.50, margin 17.50, accuracy 1.00" in shown[-1][0]["text/plain"]
    assert [step for step, row in enumerate(history, 1) if not math.isnan(row["kl"])] == [1, 10, 20, 25]
    assert len({bundle["image/png"] for bundle, _ in shown}) == 7


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
            {"method": name, "seed": 0, "step": step, "kl": step * len(name), "win": 0.5 + 0.1 * step}
            for name in names
            for step in (1, 2)
        ]
    )
    best = pd.DataFrame({"kl": 2.0, "win": 0.7, "fluent": 0.9, "words": [18.0, 20.0, 9.0]}, index=names)
    replies = pd.DataFrame(
        [{"method": name, "prompt": "Customer: Hi.\nAgent:", "reply": f" I am {name}."} for name in names[:2]]
    )
    widgets_relatives.walk_through(quality, best, replies)
    live = Live(shown[-1][0])
    assert live.texts == ["DPO", "SimPO"]  # best-of-n has no replies here
    assert "18 words" in live.numbers[0] and "20 words" in live.numbers[1]
    assert "I am dpo." in live.html and "I am simpo." in live.html
    assert differing(live.seen(0), live.seen(1)) > 0.001
    assert "SimPO: KL 2.0, win rate 0.70, 20 words." in shown[-1][0]["text/plain"]
