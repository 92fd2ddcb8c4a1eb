"""What the mock interview shows, as HTML. All that comes from a card is shown as text, with a little Markdown."""

from __future__ import annotations

import html
import re

from markdown_it import MarkdownIt

SECONDS = {"warm-up": 45, "standard": 75, "hard": 120}  # what an answer may take, thinking included
LEVELS = tuple(SECONDS)
GRADES = ("I had it", "partly", "not yet")
LINK = 'target="_blank" rel="noopener" style="text-decoration: underline"'
# http(s), or no colon before the first / ? #: relative. No blanks or control characters, which browsers skip in a scheme.
ADDRESS = re.compile(r"https?://[^\x00-\x20]+|[^:/?#\x00-\x20]*([/?#][^\x00-\x20]*)?", re.IGNORECASE)


def question_html(interview) -> str:
    """Return the question with its number, group and level, or what stands there before and after an interview."""
    if interview is None:
        return "<p>Choose, press Start, and answer aloud. The clock starts with the question.</p>"
    if interview.card is None:
        return '<p aria-live="polite"><b>That was it.</b></p>'
    card, number = interview.card, len(interview.graded) + 1
    follows = interview.graded and interview.graded[-1][0].follow_up == card.question
    where = f"{number} of {interview.count} · {html.escape(card.group)} · {html.escape(card.level)}"
    where += " · follow-up" if follows else ""
    return (
        f'<div aria-live="polite"><p style="margin: 8px 0 0; opacity: .75">{where}</p>'
        f'<p style="font-size: 1.25em; line-height: 1.3; margin: 4px 0 8px"><b>{as_html(card.question)}</b></p></div>'
    )


def clock_html(interview) -> str:
    """Return the running clock of a question, or the time that the answer took."""
    if interview is None or interview.card is None:
        return ""
    wanted = SECONDS[interview.card.level]
    if interview.shown:
        took = f"You took {minutes(interview.seconds)}; {minutes(wanted)} is enough for this one."
        return f'<div style="min-height: 40px; line-height: 2">{took}</div>'
    reels = [(600, "0123456789"), (None, ":"), (60, "012345"), (10, "0123456789")]
    digits = "".join(f'<span class="toylib-reel">{reel(period, signs)}</span>' for period, signs in reels)
    # The number makes it another text for each question: only then does the page draw it anew, from 0:00.
    return (
        f'{CLOCK}<div data-question="{len(interview.graded)}" style="min-height: 40px"><span role="img" aria-label="a clock that runs" '
        f'class="toylib-clock">{digits}</span> of {minutes(wanted)}'
        f'<div class="toylib-track"><div style="animation: toylib-fill {wanted}s linear both"></div></div></div>'
    )


def reel(period, signs) -> str:
    """Return a column of signs of which one is visible. It moves up by one sign `len(signs)` times per `period` seconds."""
    if period is None:
        return signs
    column = "<br>".join(signs)
    return f'<span style="animation: toylib-{len(signs)} {period}s steps({len(signs)}) infinite">{column}</span>'


CLOCK = """<style>
.toylib-clock { font-variant-numeric: tabular-nums; font-size: 1.25em; white-space: nowrap }
.toylib-reel { display: inline-block; height: 1.4em; line-height: 1.4em; overflow: hidden; vertical-align: bottom }
.toylib-reel > span { display: block }
.toylib-track { height: 5px; margin: 4px 0 6px; background: rgba(128, 128, 128, .3) }
.toylib-track > div { height: 100%; background: #56B4E9 }
@keyframes toylib-10 { to { transform: translateY(-14em) } }
@keyframes toylib-6 { to { transform: translateY(-8.4em) } }
@keyframes toylib-fill { from { width: 0 } to { width: 100% } }
</style>"""


def minutes(seconds) -> str:
    """Return seconds as minutes and seconds, such as "1:15"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def answer_html(card) -> str:
    """Return a card's answer, its evidence and its weak answer. All that the card says is shown as text."""
    parts = [as_html(part) for part in card.answer.split("\n\n")]
    parts += [f"<b>Evidence:</b> {links_html(card)}"]
    parts += [f'<b style="color: #D55E00">A weak answer:</b> {as_html(card.weak)}', "How was yours?"]
    shown = "".join(f"<p>{part}</p>" for part in parts)
    return f'<div style="line-height: 1.45" aria-live="polite">{shown}</div>'


def review_html(interview) -> str:
    """Return the review after the last question: how many got each grade, and what to read for each that you missed."""
    if interview is None or interview.card:
        return ""
    counts = ", ".join(f"{grade}: {sum(given == grade for _, given, _ in interview.graded)}" for grade in GRADES)
    missed = sorted((GRADES.index(given), card) for card, given, _ in interview.graded if given != GRADES[0])
    rows = "".join(
        f"<li><b>{as_html(card.question)}</b> ({GRADES[grade]}): {links_html(card)}</li>"
        for grade, card in missed[::-1]
    )
    slow = [card for card, _, seconds in interview.graded if seconds > SECONDS[card.level]]
    late = f"<p>Over time: {'; '.join(as_html(card.question) for card in slow)}</p>" if slow else ""
    todo = f"<p>To review:</p><ul>{rows}</ul>" if missed else "<p>Nothing to review. Take a harder level.</p>"
    return f'<div style="line-height: 1.45"><p>{counts}.</p>{todo}{late}</div>'


def links_html(card) -> str:
    """Return the links to a card's evidence."""
    return "; ".join(link_html(as_html(one.label), one.address) for one in card.evidence)


def link_html(label, address) -> str:
    """Return a link with the HTML `label`, or only the label where the address is not http(s), relative or a #fragment."""
    return f'<a href="{html.escape(address)}" {LINK}>{label}</a>' if ADDRESS.fullmatch(address) else label


MARKDOWN = MarkdownIt("zero").enable(["backticks", "emphasis", "link"])
MARKDOWN.validateLink, MARKDOWN.normalizeLink = ADDRESS.fullmatch, str


def as_html(text) -> str:
    """Return the little Markdown that cards use as HTML: `code`, **bold**, *italic* and links. All else is text."""
    return MARKDOWN.renderInline(text)


def link_start(renderer, tokens, at, options, env) -> str:
    """Return the start of a link in a card's text; `MARKDOWN` calls this."""
    return f'<a href="{html.escape(tokens[at].attrs["href"])}" {LINK}>'


MARKDOWN.add_render_rule("link_open", link_start)
