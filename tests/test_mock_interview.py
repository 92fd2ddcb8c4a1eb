"""The mock interview: what its cell shows, and how it asks, times, grades and reviews in the page, with no kernel."""

import base64
import io
import re
from html.parser import HTMLParser

import nbformat
import pytest
from browser import CHROMIUM, NO_BROWSER, READY, chromium, jupyter, reopened, scroll_to, trust
from conftest import ROOT
from PIL import Image
from test_touch import open_page, shown  # noqa: F401

from toylib.labs import interview
from toylib.labs.interview import Card, Evidence, read_cards
from toylib.widgets.mock_interview import LEVELS, as_html, card_html, link_html, mock_interview, plain

CARDS = read_cards(ROOT / "notebooks" / "10_the_interview.ipynb")
BY_QUESTION = {plain(card.question): card for card in CARDS}
GRADES = ("I had it", "partly", "not yet")
SECONDS = {"warm-up": 45, "standard": 75, "hard": 120}

# ---- what is displayed ----


def test_one_output_needs_no_kernel_no_id_and_no_script_block(shown):  # noqa: F811
    mock_interview(CARDS)
    (bundle,) = shown
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert Image.open(io.BytesIO(bundle["image/png"])).format == "PNG" and str(len(CARDS)) in bundle["text/plain"]
    assert not [1 for tag, attrs in Tags(bundle["text/html"]).found if tag == "script" or "id" in attrs]
    assert len(bundle["text/html"]) < 150_000


def test_the_site_keeps_its_own_interview(shown, build, tmp_path):  # noqa: F811
    mock_interview(CARDS)
    output = nbformat.v4.new_output("display_data", data={"text/html": shown[0]["text/html"]})
    build.write_live(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[output])]), tmp_path / "10_x.ipynb"
    )
    assert not list(tmp_path.rglob("*.html"))


def test_the_levels_are_those_of_the_cards():
    assert LEVELS == interview.LEVELS == tuple(SECONDS)


def test_what_stands_in_a_card_is_shown_as_text():
    text = "`a < b` & **bold** *soft* [x](y.ipynb#z)"
    assert as_html(text) == (
        '<code>a &lt; b</code> &amp; <strong>bold</strong> <em>soft</em> <a href="y.ipynb#z">x</a>'
    )


HOSTILE = (
    "<b onmouseover=alert(1)>x</b>",
    "<b><img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    '[x](y"onmouseover="alert(1))',
    "[x](javascript:alert`1`)",
    "[<img/src=x>](y'><script>)",
    "[x](javascript&colon;alert(1)) [x](java&#115;cript:alert(1))",
    "`<svg onload=alert(1)>`",
    "**<i onclick=alert(1)>**",
    "\x000\x00 `code` \x007\x00",
    "![x](y) <https://a.b> \\<b> &lt;b&gt;",
)
UNSAFE = (
    "javascript:alert(1)",
    "JavaScript:alert(1)",
    " javascript:alert(1)",
    "java\tscript:alert(1)",
    "\x01javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "vbscript:x",
    "file:///etc/passwd",
)


class Tags(HTMLParser):
    """Collects what a browser would make of HTML: the tags and their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_card_makes_no_tag_or_attribute_of_its_own(text):
    tags = Tags(card_html(Card(text, "hard", text, f"{text}\n\n{text}", (Evidence(text, text),), text, text))).found
    assert {tag for tag, _ in tags} <= {"div", "p", "b", "strong", "em", "code", "a"}
    own = {"data-question", "data-group", "data-level", "data-follow", "class", "href", "target", "rel"}
    assert {name for _, attrs in tags for name in attrs} <= own
    assert not [attrs for _, attrs in tags if "script:" in attrs.get("href", "").lower()]


@pytest.mark.parametrize("address", UNSAFE)
def test_a_link_elsewhere_than_to_a_page_is_only_its_label(address):
    assert link_html("label", address) == "label"
    assert not [tag for tag, _ in Tags(as_html(f"[x]({address})")).found if tag == "a"]


@pytest.mark.parametrize("address", ["https://a.b/c?d=1&e:f", "HTTP://a", "#a:b", "y.ipynb#z's", "../y", "/y:z", "?q"])
def test_a_link_to_a_page_keeps_its_address(address):
    ((tag, attrs),) = Tags(as_html(f"[x]({address})")).found
    assert tag == "a" and attrs["href"] == address


def test_stars_in_code_and_addresses_are_no_emphasis():
    assert as_html("`a**b**c` **`x`**") == "<code>a**b**c</code> <strong><code>x</code></strong>"
    assert 'href="y_*z*_"' in as_html("[x](y_*z*_)")


def test_the_star_of_an_optimum_is_no_emphasis():
    assert as_html("π*(y) and π* over *the* reference") == "π*(y) and π* over <em>the</em> reference"


# ---- on a page ----

needs_browser = pytest.mark.skipif(not CHROMIUM, reason=NO_BROWSER)


class Page:
    """The mock interview as a reader meets it: what can be pressed, and what stands there."""

    def __init__(self, page):
        self.page, self.box = page, page.locator(".interview")
        self.box.wait_for()

    def press(self, name):
        self.box.get_by_role("button", name=name, exact=True).click()

    def start(self, count=4, level="all levels"):
        self.box.get_by_label("Length").select_option(f"{count} questions")
        self.box.get_by_label("Level").select_option(level)
        self.box.locator(".start").click()

    def card(self):
        return BY_QUESTION[self.box.locator(".question").inner_text()]

    def usable(self):
        return self.box.locator("button:enabled:visible").all_inner_texts()

    def answer(self, grade):
        """Open the answer and grade it. Return the card."""
        card = self.card()
        self.press("Show the answer")
        self.press(grade)
        return card

    def over(self):
        return self.box.get_by_text("That was it.").count() == 1


@pytest.fixture
def opened(shown, tmp_path):  # noqa: F811
    """The interview on a page of its own, whose clock stands still until it is moved on."""
    mock_interview(CARDS)
    with chromium(1000, 900) as page:
        page.clock.install()
        open_page(page, shown[0], tmp_path, dark=False)
        yield Page(page)


@pytest.mark.slow
@needs_browser
def test_an_interview_from_start_to_review(opened):
    assert opened.usable() == ["Start"] and opened.box.get_by_label("Level").input_value() == ""
    assert not opened.box.get_by_role("timer").is_visible() and not opened.page.locator("img").is_visible()
    opened.start(4)
    asked = []
    for number, grade in enumerate((0, 2, 1, 2), start=1):
        card = opened.card()
        where = opened.box.locator(".where").inner_text()
        assert where.removesuffix(" · follow-up") == f"{number} of 4 · {card.group} · {card.level}"
        assert opened.usable()[-1] == "Show the answer" and "A weak answer" not in opened.box.inner_text()
        opened.press("Show the answer")
        assert opened.usable()[-3:] == list(GRADES) and "Show the answer" not in opened.usable()
        assert "A weak answer:" in opened.box.inner_text()
        links = opened.box.locator(".answer a")
        assert links.evaluate_all("all => all.map(a => a.getAttribute('href'))") == [a for _, a in card.evidence]
        opened.press(GRADES[grade])
        asked.append((card, grade))
    assert opened.over() and "I had it: 1, partly: 1, not yet: 2." in opened.box.inner_text()
    missed = [card for card, grade in asked if grade]
    rows = opened.box.locator("li").all_inner_texts()
    assert len(rows) == 3 and all(any(plain(card.question) in row for row in rows) for card in missed)
    assert opened.box.locator("li a").count() == sum(len(card.evidence) for card in missed)
    opened.press("Start again")
    assert "1 of 4" in opened.box.inner_text() and not opened.page.complaints


@pytest.mark.slow
@needs_browser
def test_questions_come_from_the_groups_in_turn_and_none_twice(opened):
    draws = []
    for level in ("all levels", "all levels", *LEVELS):
        opened.start(12, level)
        asked = []
        while not opened.over():
            asked.append(opened.answer(GRADES[1]))
        there = [card for card in CARDS if level in ("all levels", card.level)]
        assert len(set(asked)) == len(asked) == min(12, len(there)) and set(asked) <= set(there)
        groups = {card.group for card in there}
        assert {card.group for card in asked[: len(groups)]} == groups
        draws.append(asked)
    assert draws[0] != draws[1], "each interview draws other cards"


@pytest.mark.slow
@needs_browser
def test_the_follow_up_is_asked_where_you_had_it_and_only_there(opened):
    had = passed = 0
    while not (had and passed):
        opened.start(8)
        asked, before = [], None
        while not opened.over():
            follows = "follow-up" in opened.box.locator(".where").inner_text()
            if before and follows:
                assert opened.card().question == before[0].follow_up and before[1] == GRADES[0]
            elif before and before[0].follow_up and before[1] == GRADES[0]:
                assert before[0].follow_up in [card.question for card in asked], "it was asked before"
            had, passed = had + follows, passed + bool(before and before[1] != GRADES[0] and before[0].follow_up)
            before = (None, GRADES[len(asked) % 2])
            before = (opened.answer(before[1]), before[1])
            asked.append(before[0])
        assert len(asked) == 8 == len(set(asked))


@pytest.mark.slow
@needs_browser
def test_the_clock_runs_from_the_question_to_the_answer_and_who_took_long_is_told(opened):
    opened.start(4)
    slow, timer = opened.card(), opened.box.get_by_role("timer")
    while not opened.over():
        card = opened.card()
        of = f" of {SECONDS[card.level] // 60}:{SECONDS[card.level] % 60:02d}"
        assert timer.inner_text() == "0:00" + of, "each question starts a clock of its own"
        opened.page.clock.run_for(130_500 if card is slow else 5_500)
        seen = timer.inner_text()
        assert seen == ("2:10" if card is slow else "0:05") + of
        opened.press("Show the answer")
        opened.page.clock.run_for(60_000)
        assert timer.inner_text() == seen
        opened.press("I had it")
    assert "Nothing to review" in opened.box.inner_text() and not timer.is_visible()
    assert plain(slow.question) in opened.box.locator("p:text('Over time') + ul").inner_text()
    assert opened.box.locator("p:text('Over time') + ul li").count() == 1


@pytest.mark.slow
@needs_browser
def test_an_output_that_is_gone_leaves_no_clock(opened):
    opened.page.evaluate(
        "window.ended = 0; const end = clearInterval; window.clearInterval = (one) => { window.ended++; end(one) }"
    )
    opened.start(4)
    before = opened.page.evaluate("window.ended")
    opened.page.evaluate("document.querySelector('.toylib-live').remove()")
    opened.page.clock.run_for(620_000)
    assert opened.page.evaluate("window.ended") == before + 1


@pytest.mark.slow
@needs_browser
def test_on_any_width_the_page_does_not_scroll_and_without_script_a_picture_stands(opened, shown, tmp_path):  # noqa: F811
    for width in (390, 1400):
        opened.page.set_viewport_size({"width": width, "height": 900})
        opened.start(4)
        opened.press("Show the answer")
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    plain_page = opened.page.context.browser.new_context(java_script_enabled=False).new_page()
    open_page(plain_page, shown[0], tmp_path, False)
    assert plain_page.locator("img").is_visible() and plain_page.get_by_role("button").count() == 0


# ---- in Jupyter ----


@pytest.fixture
def folder(shown, tmp_path):  # noqa: F811
    """A folder with the saved interview, x.ipynb, and copies of all notebooks that the cards lead to."""
    mock_interview(CARDS)
    data = shown[0] | {"image/png": base64.b64encode(shown[0]["image/png"]).decode()}
    cell = nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("display_data", data=data)])
    notebook = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_markdown_cell("x")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    (tmp_path / "folder").mkdir()
    nbformat.write(notebook, tmp_path / "folder" / "x.ipynb")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        (tmp_path / "folder" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "folder"


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "not trusted"])
@pytest.mark.parametrize("frontend", ["jupyterlab", "notebook", "nbclassic"])
def test_reopened_it_asks_where_trusted_and_offers_no_button_elsewhere(frontend, trusted, folder, lab, tmp_path):
    if trusted:
        trust(folder / "x.ipynb", tmp_path / "home")
    with reopened(frontend, folder, tmp_path / "home", lab.venv_environment()) as page:
        scroll_to(page, page.locator(".toylib-live"))
        page.wait_for_timeout(1500)
        if not trusted:
            assert page.locator(".toylib-live button:visible, .toylib-live select:visible").count() == 0
            assert page.locator(".toylib-live img:visible").count() == 1
            return
        cells, one = page.locator(".jp-Cell, .cell").count(), Page(page)
        one.box.locator(".start").focus()
        for key in ("Enter", "b", "a", "x", "Enter", "Tab", "Enter"):  # start, open the answer, "partly"
            page.keyboard.press(key)
        assert "2 of 8" in one.box.inner_text()
        assert page.locator(".jp-Cell, .cell").count() == cells, "no key reaches Jupyter's shortcuts"


@pytest.mark.slow
@needs_browser
def test_a_kernel_restart_stops_nothing_and_evidence_opens_in_the_same_jupyterlab(folder, lab, tmp_path):
    trust(folder / "x.ipynb", tmp_path / "home")
    options = ("--LabApp.expose_app_in_browser=True",)
    with jupyter(folder, tmp_path / "home", lab.venv_environment(), *options) as address, chromium() as page:
        page.goto(address("lab/tree/x.ipynb"))
        page.wait_for_function(READY)
        scroll_to(page, page.locator(".toylib-live"))
        one = Page(page)
        one.start(8, "warm-up")
        page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
        page.wait_for_function(READY)
        one.answer(GRADES[2])
        assert "2 of " in one.box.inner_text()
        while not one.over():
            one.answer(GRADES[2])
        before, link = page.url, one.box.locator("li a[href*='/files/0']").first
        name = re.search(r"files/(\w+\.ipynb)", link.get_attribute("href"))[1]
        link.click()
        page.wait_for_function(f"window.jupyterapp.shell.currentWidget.context?.path === '{name}'")
        assert len(page.context.pages) == 1 and page.url.split("/lab")[0] == before.split("/lab")[0]
