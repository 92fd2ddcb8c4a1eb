"""Figures that one can touch: their numbers are right, and they follow mouse and keys on a page without a kernel."""

import base64
import itertools
import math
import random
import re

import nbformat
import numpy as np
import pytest
import torch
from browser import CHROMIUM, NO_BROWSER, LiveFigure, chromium, reopened, scroll_to, trust
from test_memory import SMOL

from toylib import dpo_loss
from toylib.labs.memory import WAYS, ledger
from toylib.labs.sweep import load_sweep
from toylib.loss import gradient_weight
from toylib.plots import simplex as plots_simplex
from toylib.widgets import simplex
from toylib.widgets.beta_explorer import beta_explorer
from toylib.widgets.beta_lab import beta_lab
from toylib.widgets.four_numbers import NAMES, four_numbers
from toylib.widgets.memory_explorer import memory_explorer
from toylib.widgets.replay import replay
from toylib.widgets.shift_and_mask import shift_and_mask

TOKENS, LOGPS, START = ["a", " $b", ":", " yes", ".", "<eos>"], [-9.0, -8.0, -2.0, -0.5, -0.25], 3
THREE = (("best", "middle", "worst"), (0.2, 0.3, 0.5), (2.0, 0.5, -1.0), (1.0, 0.2, 0.4))
WORLD = simplex.world_of(*THREE)
SCORED = {0: (-9.0, -3.0), 2: (-8.0, -3.5), 4: (-9.5, -5.0)}
SAID = {0: [" No.", " No.", " <Yes>."], 2: [" No.", " <Yes>.", " <Yes>."], 4: [" <Yes>."] * 2 + [""]}


def memory():
    ledgers = {n: {way: ledger(SMOL, n, 192, 120, "autocast", way) for way in WAYS} for n in (4, 16, 64)}
    memory_explorer(ledgers, {"T4": 16e9})


LAYERED = {
    "beta": beta_explorer,
    "weight": lambda: beta_explorer(weight=True),
    "lab": lambda: beta_lab(load_sweep()),
    "memory": memory,
    "tokens": lambda: shift_and_mask(TOKENS, LOGPS, START),
    "replay": lambda: replay(SCORED, SCORED[0], SAID),
    "simplex by beta": lambda: simplex.simplex_by_beta(*THREE),
    "simplex by step": lambda: simplex.simplex_by_step(*THREE),
}


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, as bundles."""
    import IPython.display

    bundles = []
    monkeypatch.setattr(IPython.display, "display", lambda bundle, metadata=None, raw=False: bundles.append(bundle))
    return bundles


# ---- the numbers ----


def test_each_token_names_its_row_and_only_the_reply_is_summed(shown):
    shift_and_mask(TOKENS, LOGPS, START)
    live = shown[0]["text/html"]
    assert live.count("masked: it belongs to the prompt") == START - 1
    assert all(f"<span>from row {row}</span>" in live for row in range(len(LOGPS)))
    sums = ["0.00", "0.00", "−2.00", "−2.50", "−2.75"]
    assert [f"sum {total} nats" in live for total in sums] == [True] * 5
    assert "add up to −2.75 nats" in shown[0]["text/plain"] and "target 2, :" in live
    assert "target 5, &lt;eos&gt;</span>" in live and "amp;lt" not in live


@pytest.mark.parametrize("bad", [(TOKENS, LOGPS[1:], 3), (TOKENS, LOGPS, 0), (TOKENS, LOGPS, 6)])
def test_tokens_that_do_not_fit_are_refused(bad):
    with pytest.raises(ValueError, match="log-probs, got|start must be"):
        shift_and_mask(*bad)


def test_a_replay_tells_numbers_and_replies_of_each_step(shown):
    replay(SCORED, SCORED[0], SAID, beta=0.5)
    live, alt = shown[0]["text/html"], shown[0]["text/plain"]
    assert alt.startswith("One pair through 4 training steps at β = 0.5: step 0, log-ratio of chosen +0.00")
    assert "step 2, log-ratio of chosen +1.00, log-ratio of rejected −0.50, Δ = 1.50 nats, loss = 0.3869" in alt
    assert alt.endswith("step 4, log-ratio of chosen −0.50, log-ratio of rejected −2.00, Δ = 1.50 nats, loss = 0.3869, most sampled reply “<Yes>.”.")  # fmt: skip
    assert "<li>2 × No.</li><li>1 × &lt;Yes&gt;.</li>" in live and "<li>1 × (nothing)</li>" in live
    assert live.count("3 sampled replies at this step") == 3 and ">loss = 0.6931<" in live


@pytest.mark.parametrize("bad", [({0: SCORED[0]}, {0: SAID[0]}), (SCORED, {0: SAID[0], 2: SAID[2]})])
def test_a_replay_whose_steps_do_not_fit_is_refused(bad):
    scored, said = bad
    with pytest.raises(ValueError, match="two steps or more"):
        replay(scored, SCORED[0], said)


def test_soft_labels_end_at_the_optimum_and_hard_labels_run_on():
    runs = WORLD.runs(beta=1.0)
    assert runs["soft"][-1] == pytest.approx(WORLD.optimum(1.0), abs=1e-6)
    hard = WORLD.kl(runs["hard"])
    assert (np.diff(hard) > 0).all() and hard[-1] > WORLD.kl(runs["soft"][-1]) and runs["hard"][-1].argmax() == 0
    assert all(np.allclose(policies[0], WORLD.reference) for policies in runs.values())


def test_the_loss_written_for_the_simplex_is_the_librarys():
    before, after = (torch.tensor(WORLD.runs(0.5)["hard"][at]).log() for at in (0, 1))
    reference, policy = torch.tensor(WORLD.reference).log(), before.clone().requires_grad_()
    first, second = plots_simplex.FIRST, plots_simplex.SECOND
    logps = policy.log_softmax(-1)
    dpo_loss(logps[first], logps[second], reference[first], reference[second], beta=0.5).losses.mean().backward()
    step = (before - policy.grad).log_softmax(-1)
    assert torch.allclose(step, after.log_softmax(-1), atol=1e-12)


def test_a_policy_of_one_feature_ends_elsewhere_under_the_loss_than_under_the_goal():
    by_loss, by_goal = WORLD.best_of_family(1.0)
    assert WORLD.runs(1.0)["shared"][-1] == pytest.approx(by_loss, abs=1e-2)
    assert abs(by_loss - by_goal).max() > 0.01
    assert min(abs(by_loss - WORLD.optimum(1.0)).max(), abs(by_goal - WORLD.optimum(1.0)).max()) > 0.01


def test_a_high_beta_stays_at_the_reference():
    kls = [WORLD.kl(WORLD.optimum(beta)) for beta in (0.2, 1, 5, 50)]
    assert kls == sorted(kls, reverse=True) and kls[-1] < 1e-3


def test_only_a_given_feature_has_its_numbers_under_the_triangle(shown):
    simplex.simplex_by_beta(*THREE)
    simplex.simplex_by_beta(*THREE[:3])
    assert ["one feature, by DPO" in bundle["text/html"] for bundle in shown] == [True, False]


@pytest.mark.parametrize("bad", [(("a", "b"), *THREE[1:]), (THREE[0], (0.5, 0.3, 0.3), *THREE[2:])])
def test_a_world_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="three replies|must be above 0"):
        simplex.simplex_by_beta(*bad)


def test_four_numbers_start_at_the_worked_pair(shown):
    four_numbers()
    live = shown[0]["text/html"]
    starts = ["-2.1 nats", "-4.5 nats", "-3.0 nats", "-3.2 nats", "β = 0.1"]
    assert re.findall(r'aria-valuetext="([^"]*)"', live) == starts
    assert live.count("<input") == 5 and "<script" not in live


@pytest.mark.parametrize("bad", [{"policy_chosen": 0.5}, {"ref_rejected": -9}, {"beta": 0}, {"ref_chosen": math.nan}])
def test_numbers_off_the_sliders_are_refused(bad):
    with pytest.raises(ValueError, match="must be from"):
        four_numbers(**bad)


def test_the_still_picture_of_the_four_numbers_is_not_the_pair_that_the_notebook_drew(shown):
    four_numbers()
    alt = shown[0]["text/plain"]
    assert "chosen from -3 under the reference to -3.9 under the policy, rejected from -3.2 to -1.9" in alt
    assert "Δ = -2.2000" in alt and f"loss = {math.log1p(math.exp(0.22)):.4f}" in alt
    assert "<span>Δ = -2.2000</span>" in shown[0]["text/html"], "the numbers under it are its own"


@pytest.mark.parametrize("kind", ["tokens", "replay", "simplex by beta", "simplex by step"])
def test_what_a_page_loads_is_small(kind, shown):
    LAYERED[kind]()
    assert set(shown[0]) == {"text/html", "image/png", "text/plain"} and len(shown[0]["text/html"]) < 400_000


# ---- on a page ----

needs_browser = pytest.mark.skipif(not CHROMIUM, reason=NO_BROWSER)


def open_page(page, bundle, folder, dark):
    """Open what a cell shows as a page of its own, from a file."""
    page.emulate_media(color_scheme="dark" if dark else "light")
    head = '<!doctype html><html lang="en"><title>x</title><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    look = "<style>@media (prefers-color-scheme: dark) { body { background: #111; color: #eee } }</style>"
    (folder / "page.html").write_text(head + look + bundle["text/html"], encoding="utf-8")
    page.goto((folder / "page.html").as_uri())


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("kind", LAYERED)
def test_a_figure_follows_mouse_and_keys_on_a_page_of_any_width(kind, shown, tmp_path):
    LAYERED[kind]()
    for width, dark in itertools.product((390, 700, 1400), (False, True)):
        with chromium(width, 900) as page:
            open_page(page, shown[0], tmp_path, dark)
            live = LiveFigure(page, page.locator(".toylib-live"))
            live.slider.wait_for()
            live.check(0.3)
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, "the page itself does not scroll"
            height, inside = live.picture.evaluate("box => [box.clientHeight, box.scrollHeight]")
            assert height == inside
            assert live.picture.evaluate("box => box.scrollWidth") >= min(600, live.box.bounding_box()["width"])
            assert not page.complaints


@pytest.mark.slow
@needs_browser
def test_the_four_numbers_of_the_page_are_those_of_torch(shown, tmp_path):
    four_numbers()
    draw = random.Random(0)
    with chromium(1000, 900) as page:
        open_page(page, shown[0], tmp_path, dark=False)
        sliders = [page.get_by_role("slider", name=name, exact=True) for name in (*NAMES, "β")]
        sliders[0].wait_for()
        for _ in range(30):
            for one in sliders:
                one.evaluate("(slider, at) => { slider.value = at; slider.dispatchEvent(new Event('input', {bubbles: true})) }",
                             draw.randrange(int(sliders[0].get_attribute("max")) if one != sliders[4] else 61))  # fmt: skip
            texts = [one.get_attribute("aria-valuetext") for one in sliders]
            *four, beta = (float(text.replace("β = ", "").replace(" nats", "")) for text in texts)
            four = torch.tensor(four, dtype=torch.float64)[:, None]
            delta = four[0] - four[2] - four[1] + four[3]
            loss = dpo_loss(*four, beta=beta).losses
            wanted = [delta, beta * delta, torch.sigmoid(beta * delta), loss, gradient_weight(delta, beta)]
            said = page.locator(".toylib-numbers span").all_inner_texts()
            assert [float(text.split("= ")[1]) for text in said] == pytest.approx([float(w) for w in wanted], abs=6e-5)
            assert all(text in page.locator("[role=img]").get_attribute("aria-label") for text in said)
        before = page.locator("svg").screenshot()
        sliders[1].focus()
        page.keyboard.press("ArrowLeft")
        assert page.locator("svg").screenshot() != before and not page.complaints


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "not trusted"])
@pytest.mark.parametrize("frontend", ["jupyterlab", "notebook", "nbclassic"])
def test_reopened_figures_are_live_where_trusted_and_whole_pictures_elsewhere(frontend, trusted, shown, lab, tmp_path):
    four_numbers(), LAYERED["tokens"]()
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    for bundle in shown:
        data = bundle | {"image/png": base64.b64encode(bundle["image/png"]).decode()}
        output = nbformat.v4.new_output("display_data", data=data)
        notebook.cells.append(nbformat.v4.new_code_cell("1", outputs=[output], execution_count=1))
    folder, home = tmp_path / "folder", tmp_path / "home"
    folder.mkdir()
    nbformat.write(notebook, folder / "x.ipynb")
    if trusted:
        trust(folder / "x.ipynb", home)
    with reopened(frontend, folder, home, lab.venv_environment()) as page:
        boxes = page.locator(".toylib-live")
        scroll_to(page, boxes, 2)
        page.wait_for_timeout(1500)
        if trusted:
            assert boxes.count() == 2
            LiveFigure(page, boxes.nth(1)).check(0.3)
            numbers = boxes.first.locator(".toylib-numbers").inner_text()
            boxes.first.locator("input").first.press("ArrowLeft")
            assert boxes.first.locator(".toylib-numbers").inner_text() != numbers
        else:
            pictures = page.locator("img:visible").filter(has_not=page.locator(".logo"))
            wide = pictures.evaluate_all("all => all.filter(one => one.naturalWidth > 400).length")
            assert wide == 2 and page.locator("input[type=range]:visible").count() == 0
