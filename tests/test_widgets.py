"""The live figures: they follow the slider, nothing grows while they do, and a static picture stands in for them."""

import io
import math
import re

import ipywidgets
import numpy as np
import pytest
from PIL import Image

from toylib import plots, plots_pair, widgets

DELTA = 2.2


@pytest.fixture
def shown(monkeypatch):
    """What was displayed: a list of (bundle, metadata)."""
    import IPython.display

    calls = []

    def display(bundle, metadata=None, raw=False):
        assert raw
        calls.append((bundle, metadata))

    monkeypatch.setattr(IPython.display, "display", display)
    return calls


def explorer(shown, *args, **kwargs):
    """The slider, readout and image of a fresh beta_explorer, found as a frontend finds them: by the model id."""
    widgets.beta_explorer(*args, **kwargs)
    box = model(shown[-1][0])
    return box.children


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
    return slider._trait_notifiers.get("value", {}).get("change", [])


# ---- following the slider ----


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5, 1.0, 10.0])
def test_readout_has_the_numbers_of_the_slider(shown, beta):
    slider, readout, _ = explorer(shown)
    slider.value = beta
    probability = 1 / (1 + math.exp(-beta * DELTA))
    assert numbers(readout) == pytest.approx([beta, beta * DELTA, probability, -math.log(probability)], abs=5.1e-5)


def test_default_is_the_worked_example_at_beta_one_tenth(shown):
    slider, readout, _ = explorer(shown)
    assert slider.value == 0.1
    assert numbers(readout) == [0.1, 0.22, 0.5548, 0.5892]


def test_moving_the_slider_changes_the_picture_and_moving_back_restores_it(shown):
    slider, readout, image = explorer(shown)
    at_start = image.value, readout.value
    slider.value = 1.0
    assert image.value != at_start[0] and readout.value != at_start[1]
    slider.value = 0.1
    assert (image.value, readout.value) == at_start


def test_picture_is_what_a_full_drawing_would_be(shown):
    slider, _, image = explorer(shown)
    slider.value = 2.0
    slider.value = 0.5
    figure, panels = plots_pair.beta_panels(DELTA)
    for panel in panels:
        plots_pair.move_to_beta(panel, slider.value)
    whole = Image.open(io.BytesIO(plots.png(figure))).convert("RGB")
    live = Image.open(io.BytesIO(image.value))
    assert live.size == whole.size
    differing = np.abs(np.asarray(live, int) - np.asarray(whole, int)).max(axis=2) > 40
    assert differing.mean() < 0.001  # the order of drawing may differ where lines cross


def test_fixed_limits_while_the_slider_moves(monkeypatch, shown):
    figures = kept_figures(monkeypatch)
    slider, _, _ = explorer(shown)
    limits = [(axis.get_xlim(), axis.get_ylim(), axis.get_position().bounds) for axis in figures[0].axes]
    for beta in (0.01, 0.3, 10.0):
        slider.value = beta
        assert limits == [(axis.get_xlim(), axis.get_ylim(), axis.get_position().bounds) for axis in figures[0].axes]


def kept_figures(monkeypatch):
    figures, make = [], plots_pair.beta_panels

    def beta_panels(*args, **kwargs):
        figure, panels = make(*args, **kwargs)
        figures.append(figure)
        return figure, panels

    monkeypatch.setattr(plots_pair, "beta_panels", beta_panels)
    return figures


def test_two_hundred_moves_leave_nothing_behind(monkeypatch, shown):
    figures = kept_figures(monkeypatch)
    slider, _, _ = explorer(shown)
    count = len(figures[0].findobj()), len(observers(slider)), len(known_widgets())
    for move in range(200):
        slider.value = 10 ** (-2 + 3 * move / 199)
    assert count == (len(figures[0].findobj()), len(observers(slider)), len(known_widgets()))
    assert len(figures) == 1


def test_a_loss_off_the_scale_is_still_in_the_readout(shown):
    slider, readout, _ = explorer(shown, -0.6, 1.4)
    slider.value = 10.0
    assert numbers(readout) == pytest.approx([10, -20, 0, 20], abs=5.1e-5)


def test_a_huge_delta_is_drawn_and_said_without_overflow(shown):
    _, readout, _ = explorer(shown, -900.0, 900.0, beta=10)
    assert numbers(readout)[-1] == 18000


# ---- what is displayed ----


def test_one_output_holds_the_live_widget_the_picture_and_the_words(shown):
    widgets.beta_explorer()
    ((bundle, metadata),) = shown
    assert set(bundle) == {widgets.WIDGET_VIEW, "image/png", "text/plain"}
    assert isinstance(model(bundle), ipywidgets.VBox)
    assert Image.open(io.BytesIO(bundle["image/png"])).format == "PNG"
    assert metadata == {"image/png": {"alt": bundle["text/plain"]}}
    assert "0.5548 and 0.5892" in bundle["text/plain"]


def test_static_picture_is_not_the_live_one(shown):
    _, _, image = explorer(shown)
    assert shown[0][0]["image/png"] != image.value


def test_slider_has_a_name_keys_and_the_range_of_beta(shown):
    slider, readout, _ = explorer(shown)
    assert isinstance(slider, ipywidgets.FloatLogSlider)
    assert slider.description == "β" and slider.continuous_update
    assert (slider.base**slider.min, slider.base**slider.max) == pytest.approx((0.01, 10))
    assert not slider.disabled and getattr(slider, "tabbable", None) is not False
    assert 'aria-live="polite"' in readout.value


def test_only_widgets_that_ipywidgets_7_has_too(shown):
    widgets.beta_explorer()
    box = model(shown[0][0])
    assert [type(widget).__name__ for widget in (box, *box.children)] == ["VBox", "FloatLogSlider", "HTML", "Image"]


def test_works_where_there_is_no_notebook(capsys):
    widgets.beta_explorer()  # IPython's display falls back to printing
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("bad", [{"beta": 0}, {"beta": 11}, {"beta": math.nan}, {"chosen_logratio": math.inf}])
def test_bad_numbers_are_refused_in_one_sentence(bad):
    with pytest.raises(ValueError, match="must be"):
        widgets.beta_explorer(**bad)


# ---- running the cell again ----


def test_running_a_cell_again_closes_what_its_last_run_showed(monkeypatch, shown):
    monkeypatch.setattr(widgets, "_open", {})
    run = ["cell a", "run 1"]
    monkeypatch.setattr(widgets, "_cell_and_run", lambda: tuple(run))
    first, second = explorer(shown)[0], explorer(shown)[0]
    run[:] = ["cell b", "run 2"]
    elsewhere = explorer(shown)[0]
    assert all(map(observers, (first, second, elsewhere)))
    known = len(known_widgets())
    run[:] = ["cell a", "run 3"]
    again = explorer(shown)[0]
    assert not observers(first) and not observers(second)
    assert observers(again) and observers(elsewhere)
    assert len(known_widgets()) < known  # two closed, one made
