"""The web site as a reader meets it: Chromium opens its files. Guesses, sliders, the interview, phones, dark, keys alone."""

import contextlib
import re
from pathlib import Path

import pytest
from browser import CHROMIUM, NO_BROWSER, chromium
from conftest import ROOT
from site_pages import QUESTIONS, small_site, write_site

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason=NO_BROWSER)]
WIDER = """() => [...document.querySelectorAll('body *')].filter(one => one.getBoundingClientRect().right > innerWidth + 1
    && !one.closest('pre, .scroll, .formula, figure, .toylib-picture, svg, .skip')).map(one => one.outerHTML.slice(0, 80))"""
# Words on what stands behind them, after WCAG 2.2: the lowest contrast of all texts that are seen, and where it is.
CONTRAST = """() => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true})
    const rgba = color => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data] }
    const light = ([r, g, b]) => [r, g, b].map(one => one / 255).map(one => one <= .04045 ? one / 12.92 : ((one + .055) / 1.055) ** 2.4)
        .reduce((sum, one, at) => sum + one * [.2126, .7152, .0722][at], 0)
    const behind = one => { for (; one; one = one.parentElement) { const color = rgba(getComputedStyle(one).backgroundColor); if (color[3] > 250) return color } return [255, 255, 255] }
    return [...document.querySelectorAll('body *')]
        .filter(one => [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim()) && one.checkVisibility() && !one.closest('script, style, button:disabled'))
        .map(one => { const [a, b] = [light(rgba(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x); return [(a + .05) / (b + .05), one.outerHTML.slice(0, 90)] })
        .reduce((low, one) => one[0] < low[0] ? one : low, [99, ''])
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return small_site(tmp_path_factory.mktemp("series"))


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    output = tmp_path_factory.mktemp("real")
    write_site(ROOT, output / "site")
    return output / "site"


@contextlib.contextmanager
def opened(path, width=1400, scheme="light"):
    """The page of a file in Chromium; it must not complain, nor ask a host for anything."""
    with chromium(width=width) as page:
        asked = []
        page.set_default_timeout(15_000)
        page.on("request", lambda request: asked.append(request.url))
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.goto(Path(path).as_uri())
        yield page
        assert not page.complaints
        assert not [url for url in asked if not url.startswith(("file:", "data:"))]


# ---- predict by clicking ----


def test_what_follows_a_question_opens_after_the_guess_and_the_page_keeps_score(site):
    with opened(site / "01_four_numbers.html") as page:
        answer, score = page.get_by_text("the answer is < 1"), page.locator(".score")
        assert page.locator("details.guess").count() == 0 and not answer.is_visible() and score.inner_text() == ""
        first, second = page.locator(".guess-box").nth(0), page.locator(".guess-box").nth(1)
        first.get_by_role("button", name="It rises").click()
        assert answer.is_visible() and score.inner_text() == "0 of 1 right"
        assert "Not quite." in first.inner_text() and first.locator("button.right").inner_text() == "✓ It falls"
        first.get_by_role("button", name="It falls").click()  # to read what it says; the first guess counts
        assert "Right." in first.inner_text() and score.inner_text() == "0 of 1 right"
        second.get_by_role("button", name="It falls").click()
        assert score.inner_text() == "1 of 2 right"
        page.reload()
        assert answer.is_visible() and score.inner_text() == "1 of 2 right"
        page.get_by_role("button", name="Guess again").click()
        page.wait_for_function("!document.querySelector('.score').textContent")
        assert not answer.is_visible()


def test_show_me_opens_without_counting_and_a_heading_is_never_hidden(site):
    with opened(site / "01_four_numbers.html") as page:
        assert page.get_by_role("heading", name="Second").is_visible()
        page.get_by_role("button", name="Show me").first.press("Enter")
        assert page.get_by_text("the answer is < 1").is_visible() and page.locator(".score").inner_text() == ""
        assert "✓ It falls" in page.evaluate("document.activeElement.textContent")


def test_guesses_are_made_by_keys_alone_and_nothing_is_kept_where_storage_is_forbidden(site):
    with chromium() as page:
        page.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new Error('forbidden') }})")
        page.goto((site / "01_four_numbers.html").as_uri())
        page.locator(".guess-box").first.locator("button").first.focus()
        page.keyboard.press("Space")
        assert page.locator(".score").inner_text() == "1 of 1 right"
        page.locator("button.theme").press("Enter")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark" and not page.complaints


def test_without_script_all_is_open(site):
    with chromium() as page:
        context = page.context.browser.new_context(java_script_enabled=False)
        plain = context.new_page()
        plain.goto((site / "01_four_numbers.html").as_uri())
        assert plain.get_by_text("the answer is < 1").is_visible() and plain.locator("details.guess").count() == 4
        assert not plain.locator("button.theme").is_visible()


# ---- sliders ----


def test_a_live_figure_follows_its_slider_without_a_kernel(site):
    with opened(site / "01_four_numbers.html") as page:
        page.get_by_role("button", name="Show me").first.click()
        page.get_by_label("β").press("ArrowRight")
        assert page.locator(".toylib-live output").inner_text() == "β 1"


# ---- the interview ----


def test_the_mock_interview_asks_shows_grades_and_reviews_by_keys_alone(site):
    with opened(site / "10_the_interview.html") as page:
        box = page.locator(".interview")
        assert page.locator("[data-interview] img").count() == 0
        box.get_by_label("Length").select_option("4 questions")
        box.get_by_role("button", name="Start").press("Enter")
        asked = []
        for grade in range(4):
            asked.append(box.locator(".question").inner_text())
            assert re.fullmatch(r"0:0\d of \d:\d\d", box.get_by_role("timer").inner_text())
            assert "A weak answer" not in box.inner_text()
            page.keyboard.press("Enter")  # show the answer: the focus is there
            assert "A weak answer" in box.inner_text()
            for _ in range(2 if grade < 2 else 0):
                page.keyboard.press("Tab")
            page.keyboard.press("Enter")
        assert len(set(asked)) == 4 and "That was it." in box.inner_text()
        assert "I had it: 2, partly: 0, not yet: 2." in box.inner_text()
        assert [question in box.inner_text() for question in asked] == [True, True, False, False]
        page.reload()  # the weak ones are remembered
        page.get_by_role("button", name="Drill the 2 weak ones").press("Enter")
        assert box.locator(".question").inner_text() in asked[:2]
        for _ in range(2):
            page.keyboard.press("Enter")
            page.keyboard.press("Enter")
        assert "That was it." in box.inner_text() and not box.locator(".drill").is_visible()


def test_who_had_it_is_asked_the_follow_up_next(site):
    with opened(site / "10_the_interview.html") as page:
        box = page.locator(".interview")
        box.get_by_role("button", name="Start").click()
        first = QUESTIONS.index(box.locator(".question").inner_text())
        box.get_by_role("button", name="Show the answer").click()
        box.get_by_role("button", name="I had it").click()
        assert box.locator(".question").inner_text() == QUESTIONS[(first + 1) % len(QUESTIONS)]
        assert "follow-up" in box.locator(".where").inner_text()


def test_the_cheat_sheet_prints_as_one_page(site, real):
    for path in (site / "cheat-sheet.html", real / "cheat-sheet.html"):
        if path.exists():
            with opened(path) as page:
                assert len(re.findall(rb"/Type ?/Page\b", page.pdf(prefer_css_page_size=True))) == 1


# ---- every page of the real site ----


@pytest.mark.parametrize("width, scheme", [(390, "light"), (1400, "dark"), (1400, "light")])
def test_no_page_scrolls_sideways_and_all_words_have_contrast(real, width, scheme):
    for path in sorted(real.glob("*.html")):
        with opened(path, width, scheme) as page:
            if path.name != "cheat-sheet.html":
                assert page.evaluate("document.documentElement.scrollWidth") <= width, (path.name, page.evaluate(WIDER))
            lowest, where = page.evaluate(CONTRAST)
            assert lowest >= 4.5, (path.name, lowest, where)
            ready = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
            assert ready < 3000, path.name  # a second on a quiet machine


def test_the_theme_follows_the_system_and_the_button(real):
    ground = "getComputedStyle(document.body).backgroundColor"
    with opened(real / "index.html", scheme="dark") as page:
        dark = page.evaluate(ground)
        page.get_by_role("button", name="Light").click()
        light = page.evaluate(ground)
        assert dark != light
        page.reload()
        assert page.evaluate(ground) == light


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(real, scheme):
    import axe_playwright_python  # brings axe-core along

    script = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
    for path in sorted(real.glob("*.html")):
        with opened(path, scheme=scheme) as page:
            page.evaluate(script)
            found = page.evaluate("axe.run({preload: false}).then(result => result.violations)")
            serious = [
                (one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")
            ]
            assert not serious, (path.name, serious)
