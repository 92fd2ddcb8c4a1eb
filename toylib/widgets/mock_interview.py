"""The mock interview: random cards, a clock, the answer with a weak answer beside it, your own grade, and what to review.

It runs in the page and needs no kernel: the output holds the cards, hidden, and `interview.js`, which asks them. The site
has the same script. All that comes from a card is shown as text, with a little Markdown.
"""

from __future__ import annotations

import html
import io
import re
from pathlib import Path

from markdown_it import MarkdownIt

from toylib import plots
from toylib.plots.interview import coverage
from toylib.widgets.live import LOOK, show_live, still

LEVELS = ("warm-up", "standard", "hard")
# http(s), or no colon before the first / ? #: relative. No blanks or control characters, which browsers skip in a scheme.
ADDRESS = re.compile(r"https?://[^\x00-\x20]+|[^:/?#\x00-\x20]*([/?#][^\x00-\x20]*)?", re.IGNORECASE)


def mock_interview(cards) -> None:
    """Show the mock interview. A picture of what the cards cover replaces it where no script may run, and on GitHub.

    Args:
        cards: the `labs.interview.Card`s to draw from.
    """
    from PIL import Image

    picture, alt = plots.png(coverage(counted(cards), LEVELS)), coverage_alt(cards)
    whole = Image.open(io.BytesIO(picture)).convert("RGBA")
    here = Path(__file__).parent
    script = (here / "interview.js").read_text(encoding="utf-8") + ASK
    style = f"<style>{(here / 'interview.css').read_text(encoding='utf-8')}{STYLE}</style>"
    hidden = f'<div class="toylib-cards" style="display: none">{"".join(map(card_html, cards))}</div>'
    pad = (
        f'<div class="toylib-moving" style="display: none" onclick="{html.escape(FOLLOW)}" '
        'onkeydown="event.stopPropagation()"></div>'
    )
    box = f'<div class="toylib-picture" style="max-width: {whole.width}px; overflow: auto hidden">{still(whole, alt, then=script)}</div>'
    # Another beginning than that of a live figure: the site asks the cards of its own page instead.
    live = f'<div style="max-width: 760px" class="toylib-live">{LOOK}{style}{hidden}{pad}{box}</div>'
    show_live(live, picture, alt)


# In the page, once the picture has given way.
ASK = """
const place = this.closest('.toylib-live');
mockInterview(place.querySelector('.toylib-moving'), [...place.querySelector('.toylib-cards').children].map(card => ({
    ...card.dataset,
    id: card.dataset.question,
    answer: [...card.children],
    links: card.querySelector('.links'),
})));
"""
# JupyterLab opens a link to another notebook itself. Elsewhere the link opens a page of its own, so that the interview stays.
FOLLOW = """
const link = event.target.closest('a[href]');
if (link && !event.defaultPrevented && !link.getAttribute('href').startsWith('#')) link.target = '_blank';
"""
STYLE = """
.interview button, .interview select { font: inherit; color: inherit; border: 1px solid #888; border-radius: 6px; padding: 4px 16px; min-height: 36px; cursor: pointer }
.interview option { color: #000; background: #fff }
.interview button:disabled { opacity: .5; cursor: default }
.interview p { margin: 0 0 8px }
.interview .answer a { text-decoration: underline !important }
"""


def card_html(card) -> str:
    """Return a card as HTML: what it asks in attributes, its answer, its evidence and its weak answer inside."""
    asked = {
        "question": plain(card.question),
        "group": card.group,
        "level": card.level,
        "follow": plain(card.follow_up),
    }
    attributes = " ".join(f'data-{name}="{html.escape(text)}"' for name, text in asked.items())
    links = "; ".join(link_html(as_html(one.label), one.address) for one in card.evidence)
    inside = "".join(f"<p>{as_html(part)}</p>" for part in card.answer.split("\n\n"))
    inside += f'<p class="links"><b>Evidence:</b> {links}</p><p><b>A weak answer:</b> {as_html(card.weak)}</p>'
    return f"<div {attributes}>{inside}</div>"


def plain(text) -> str:
    """Return a question without its marks for code and emphasis."""
    return html.unescape(re.sub(r"<[^>]+>", "", as_html(text)))


def counted(cards) -> dict[str, list[int]]:
    """Return the number of cards at each level, per group."""
    return {
        group: [sum((card.group, card.level) == (group, level) for card in cards) for level in LEVELS]
        for group in dict.fromkeys(card.group for card in cards)
    }


def coverage_alt(cards) -> str:
    """Return the alternative text of the picture that stands for the interview."""
    rows = (
        f"{group} " + ", ".join(f"{number} {level}" for number, level in zip(numbers, LEVELS, strict=True))
        for group, numbers in counted(cards).items()
    )
    return f"Run this cell for the mock interview. It draws from {len(cards)} cards: {'; '.join(rows)}."


def link_html(label, address) -> str:
    """Return a link with the HTML `label`, or only the label where the address is not http(s), relative or a #fragment."""
    return f"{link_start(address)}{label}</a>" if ADDRESS.fullmatch(address) else label


def link_start(address) -> str:
    """Return the opening tag of a link. What is on the web opens in a page of its own."""
    away = ' target="_blank" rel="noopener"' if re.match("https?:", address, re.IGNORECASE) else ""
    return f'<a href="{html.escape(address)}"{away}>'


def as_html(text) -> str:
    """Return the little Markdown that cards use as HTML: `code`, **bold**, *italic* and links. All else is text."""
    return MARKDOWN.renderInline(text)


MARKDOWN = MarkdownIt("zero").enable(["backticks", "emphasis", "link"])
MARKDOWN.validateLink, MARKDOWN.normalizeLink = ADDRESS.fullmatch, str
MARKDOWN.renderer.rules["link_open"] = lambda tokens, at, *_: link_start(tokens[at].attrs["href"])
