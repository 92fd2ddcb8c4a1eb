"""Every link between the notebooks, to their headings and to files leads somewhere, in JupyterLab and in exported HTML."""

import functools
import json
import re
from html import unescape
from urllib.parse import unquote

import pytest
from conftest import ROOT
from test_notebooks import headings, text_of

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
PAGES = [*NOTEBOOKS, ROOT / "README.md", ROOT / "data" / "README.md"]
# JupyterLab does not decode the part behind the # before it looks for the heading, and browsers encode all but these.
FOLLOWED = re.compile(r"[A-Za-z0-9\-,.:?!'/()]+")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")


@functools.cache
def markdown(page):
    if page.suffix != ".ipynb":
        return page.read_text(encoding="utf-8")
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


@functools.cache
def within(page):
    """(link, target file, anchor) of each link of a page that stays in the repository."""
    found = [link for link in links(markdown(page)) if not re.match(r"[a-z]+:", link)]
    parts = [(link, *link.partition("#")[::2]) for link in found]
    return [
        (link, (page.parent / unquote(name)).resolve() if name else page, unquote(anchor))
        for link, name, anchor in parts
    ]


def links(markdown):
    text = text_of(markdown)
    inline = re.findall(r"\]\(<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\)", text)
    return inline + re.findall(r"""(?:href|src)=["']([^"']+)["']""", text)


@functools.cache
def anchors(page):
    """What a link to this file can point at, as JupyterLab and nbconvert (notebooks) or GitHub (markdown) name it."""
    texts = [re.sub(r"[*`]", "", text) for _, text in headings(markdown(page))]
    named = {text.replace(" ", "-") for text in texts}
    if page.suffix != ".ipynb":
        named = {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}
    return named | set(re.findall(r"""(?:id|name)=["']([^"']+)["']""", markdown(page)))


@each_page
def test_links_lead_to_files_of_the_repository_and_to_their_headings(page):
    broken = [
        link
        for link, target, anchor in within(page)
        if not (target.is_relative_to(ROOT) and target.exists()) or (anchor and anchor not in anchors(target))
    ]
    assert not broken


@each_page
def test_links_to_headings_have_only_characters_that_jupyterlab_follows(page):
    assert not [link for link, _, anchor in within(page) if anchor and not FOLLOWED.fullmatch(anchor)]


@pytest.mark.parametrize("anchor, followed", [("Is-it-better?", True), ("What-does-β-do?", False), ('"Quoted"', False)])
def test_which_characters_jupyterlab_follows(anchor, followed):
    assert bool(FOLLOWED.fullmatch(anchor)) is followed


@each_page
def test_a_heading_that_is_linked_to_is_the_only_one_of_its_name(page):
    for link, target, anchor in within(page):
        if anchor and target.suffix == ".ipynb":
            named = [text.replace(" ", "-") for _, text in headings(markdown(target))]
            assert named.count(anchor) == 1, link


def test_exported_html_has_the_headings_that_are_linked_to():
    from nbconvert.filters import markdown2html

    for target in NOTEBOOKS:
        wanted = {anchor for page in PAGES for _, where, anchor in within(page) if anchor and where == target}
        lines = [f"{'#' * level} {text}" for level, text in headings(markdown(target))]
        html = markdown2html("\n\n".join(lines))
        assert wanted <= {unquote(unescape(name)) for name in re.findall(r'<h\d id="([^"]+)"', html)}, target.name


def test_notebook_10_leads_to_all_the_others():
    last = next(path for path in NOTEBOOKS if path.name.startswith("10"))
    reached = {target.name for _, target, anchor in within(last) if anchor}
    assert {path.name for path in NOTEBOOKS if path != last} <= reached
