"""Be the labeller: what is repeated, what the labels agree with, and the page that asks for them."""

import base64
import math
import random

import nbformat
import pytest
from browser import CHROMIUM, NO_BROWSER, chromium, reopened, scroll_to, trust
from conftest import ROOT
from test_touch import open_page, shown  # noqa: F401

from toylib.evaluation.judge import judge
from toylib.labs import labelling
from toylib.preferences import load_prompts, read_file
from toylib.widgets.labeller import labeller

PAIRS = labelling.shown_pairs()
JUDGED = labelling.judged_labels(PAIRS)
LONGER = "".join(pair.longer for pair in PAIRS)


def test_the_shipped_pairs_are_balanced_over_length_and_use_no_prompt_of_the_evaluation():
    rows = read_file(ROOT / "data" / "results" / "label_pairs.jsonl")
    prompts = [row["prompt"] for row in rows]
    assert len(rows) == len(set(prompts)) == 16 and set(prompts) <= set(load_prompts("dev")["prompt"])
    assert not set(prompts) & {row["prompt"] for split in ("test", "heldout") for row in load_prompts(split)}
    once = [(pair.longer, label) for pair, label in zip(PAIRS, JUDGED, strict=True) if pair.first < 0]
    assert [sum(label == other for other, label in once), sum(label == "T" for _, label in once)] == [6, 4]
    assert "T" not in LONGER


def test_four_pairs_come_twice_the_other_way_round_and_not_soon():
    again = [(at, pair) for at, pair in enumerate(PAIRS) if pair.first >= 0]
    assert len(PAIRS) == 20 and len({pair.first for _, pair in again}) == 4
    for at, pair in again:
        first = PAIRS[pair.first]
        assert (pair.prompt, pair.a, pair.b) == (first.prompt, first.b, first.a) and at >= 8 > pair.first
    assert labelling.shown_pairs(seed=0) == PAIRS != labelling.shown_pairs(seed=1)


def test_the_judges_labels_are_those_of_its_scores():
    for pair, label in zip(PAIRS, JUDGED, strict=True):
        a, b = judge([pair.prompt] * 2, [pair.a, pair.b], [pair.intent] * 2)["score"]
        assert label == labelling.compare(a, b)


def test_agreement_with_oneself_the_judge_and_length():
    assert labelling.agreement(PAIRS, JUDGED, JUDGED) == {"self": (4, 4), "judge": (12, 12), "longer": (6, 12)}
    assert labelling.agreement(PAIRS, LONGER, JUDGED) == {"self": (4, 4), "judge": (6, 12), "longer": (16, 16)}
    always_a = labelling.agreement(PAIRS, "A" * 20, JUDGED)
    assert always_a["self"] == (0, 4), "who always takes the first never agrees with a swapped pair"
    assert labelling.agreement(PAIRS, "T" * 20, JUDGED) == {"self": (4, 4), "judge": (0, 0), "longer": (0, 0)}


def test_labels_become_pairs_without_the_ties():
    pairs = labelling.labelled_pairs(PAIRS, "ABT" + "T" * 17)
    assert pairs == [
        {"prompt": PAIRS[0].prompt, "chosen": PAIRS[0].a, "rejected": PAIRS[0].b},
        {"prompt": PAIRS[1].prompt, "chosen": PAIRS[1].b, "rejected": PAIRS[1].a},
    ]


@pytest.mark.parametrize("bad", ["", "A" * 19, "A" * 21, "a" * 20, "AX" * 10])
def test_labels_that_are_none_are_refused(bad):
    for use in (labelling.labelled_pairs, lambda pairs, labels: labelling.agreement(pairs, labels, JUDGED)):
        with pytest.raises(ValueError, match="20 letters"):
            use(PAIRS, bad)


def test_what_is_displayed_needs_no_kernel_no_id_and_no_script(shown):  # noqa: F811
    labeller(PAIRS, JUDGED)
    assert set(shown[0]) == {"text/html", "image/png", "text/plain"}
    live = shown[0]["text/html"]
    assert "<script" not in live and " id=" not in live and len(live) < 100_000
    assert all(text in shown[0]["text/plain"] for pair in PAIRS[:3] for text in (pair.a.strip(), pair.b.strip()))


# ---- on a page ----

needs_browser = pytest.mark.skipif(not CHROMIUM, reason=NO_BROWSER)
NAMES = {"A": "A is better", "B": "B is better", "T": "Tie"}


def opened(page, bundle, folder, dark=False):
    """Open the labeller as a page of its own and wait until it is live. Return its buttons by their value."""
    open_page(page, bundle, folder, dark)
    buttons = {value: page.get_by_role("button", name=name, exact=True) for value, name in NAMES.items()}
    buttons["undo"] = page.get_by_role("button", name="Undo", exact=True)
    buttons["A"].wait_for()
    return buttons


@pytest.mark.slow
@needs_browser
def test_the_page_counts_as_the_library_does(shown, tmp_path):  # noqa: F811
    labeller(PAIRS, JUDGED)
    draw = random.Random(0)
    with chromium(1000, 900) as page:
        for labels in (LONGER, "T" * 20, *("".join(draw.choices("ABT", k=20)) for _ in range(3))):
            buttons = opened(page, shown[0], tmp_path)
            for at, label in enumerate(labels, start=1):
                assert page.get_by_text(f"Pair {at} of 20", exact=True).is_visible()
                assert page.get_by_text(PAIRS[at - 1].a.strip()).locator("visible=true").count()
                buttons[label].click()
            for name, (same, count) in labelling.agreement(PAIRS, labels, JUDGED).items():
                assert page.locator(f".toylib-{name}").inner_text() == f"{same} of {count}"
            assert page.locator("code").inner_text() == f'LABELS = "{labels}"'
            assert "the judge in 6 of 12" in page.locator(".toylib-labels").inner_text()
        assert not page.complaints


@pytest.mark.slow
@needs_browser
def test_it_is_used_by_keys_alone_and_a_label_can_be_taken_back(shown, tmp_path):  # noqa: F811
    labeller(PAIRS, JUDGED)
    with chromium(1000, 900) as page:
        buttons = opened(page, shown[0], tmp_path)
        page.evaluate("document.body.addEventListener('keydown', event => window.reached = event.key)")
        assert buttons["undo"].is_disabled()
        page.keyboard.press("Tab")
        assert buttons["A"].evaluate("one => one == document.activeElement")
        for key in ("Enter", "Space", "Tab", "Enter"):
            page.keyboard.press(key)
        assert page.get_by_text("Pair 4 of 20").is_visible()
        assert page.evaluate("window.reached") == "Tab", "Jupyter sees no key that is meant for a button"
        for left in (3, 2, 1):
            buttons["undo"].press("Enter")
            assert page.get_by_text(f"Pair {left} of 20", exact=True).is_visible()
        assert buttons["A"].evaluate("one => one == document.activeElement"), "the keyboard is not lost"
        for _ in range(20):
            buttons["B"].press("Enter")
        assert buttons["undo"].evaluate("one => one == document.activeElement") and buttons["B"].is_disabled()
        buttons["undo"].press("Enter")
        assert page.get_by_text("Pair 20 of 20").is_visible() and buttons["B"].is_enabled()


@pytest.mark.slow
@needs_browser
def test_on_any_width_the_page_does_not_scroll_and_on_the_site_nothing_needs_a_kernel(shown, tmp_path):  # noqa: F811
    labeller(PAIRS, JUDGED)
    for width, dark in ((390, True), (1400, False)):
        with chromium(width, 900) as page:
            buttons = opened(page, shown[0], tmp_path, dark)
            before = page.locator(".toylib-labels").bounding_box()
            for _ in range(20):
                buttons["T"].click()
            assert page.locator(".toylib-labels").bounding_box() == before, "nothing jumps"
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.locator(".toylib-kernel").is_visible() and not page.locator("img").is_visible()
            page.locator(".toylib-live").evaluate("one => one.parentElement.className = 'live'")  # as on the site
            assert not page.locator(".toylib-kernel").is_visible() and page.locator(".toylib-self").is_visible()


@pytest.mark.slow
@needs_browser
def test_without_script_a_picture_stands_and_no_button(shown, tmp_path):  # noqa: F811
    labeller(PAIRS, JUDGED)
    with chromium() as page:
        plain = page.context.browser.new_context(java_script_enabled=False).new_page()
        open_page(plain, shown[0], tmp_path, False)
        assert plain.locator("img").is_visible() and plain.get_by_role("button").count() == 0


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "not trusted"])
@pytest.mark.parametrize("frontend", ["jupyterlab", "notebook", "nbclassic"])
def test_reopened_it_labels_where_trusted_and_shows_a_picture_elsewhere(frontend, trusted, shown, lab, tmp_path):  # noqa: F811
    labeller(PAIRS, JUDGED)
    data = shown[0] | {"image/png": base64.b64encode(shown[0]["image/png"]).decode()}
    cell = nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("display_data", data=data)])
    notebook = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_markdown_cell("x")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    folder, home = tmp_path / "folder", tmp_path / "home"
    folder.mkdir()
    nbformat.write(notebook, folder / "x.ipynb")
    if trusted:
        trust(folder / "x.ipynb", home)
    with reopened(frontend, folder, home, lab.venv_environment()) as page:
        scroll_to(page, page.locator(".toylib-live"))
        page.wait_for_timeout(1500)
        buttons = page.locator(".toylib-labels button:visible")
        if not trusted:
            assert buttons.count() == 0 and page.locator(".toylib-live img:visible").count() == 1
            return
        cells = page.locator(".jp-Cell, .cell").count()
        buttons.first.focus()
        for key in ("Enter", "b", "a", "x", "Space", "ArrowDown", "Tab", "Enter"):
            page.keyboard.press(key)
        assert page.get_by_text("Pair 4 of 20").is_visible()
        assert page.locator(".jp-Cell, .cell").count() == cells, "no key reaches Jupyter's shortcuts"


def test_three_of_four_repeated_alike_fit_fifteen_percent_of_flips_as_the_notebook_says():
    right = (1 + math.sqrt(2 * 0.75 - 1)) / 2
    assert right**2 + (1 - right) ** 2 == pytest.approx(0.75) and round(right, 2) == 0.85
