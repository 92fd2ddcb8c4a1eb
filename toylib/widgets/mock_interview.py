"""The mock interview: cards drawn at random, a clock, the answer with its red flag, your own grade, and what to review."""

from __future__ import annotations

import html
import random
import re
import time

from toylib import plots
from toylib.plots import interview as plots_interview
from toylib.widgets.live import show_live

SECONDS = {"warm-up": 45, "standard": 75, "hard": 120}  # what an answer may take, thinking included
LEVELS = tuple(SECONDS)
GRADES = ("I had it", "partly", "not yet")
COUNTS = (4, 8, 12)
LINK = 'target="_blank" rel="noopener" style="text-decoration: underline"'
# http(s), or no colon before the first / ? #: relative. No blanks or control characters, which browsers skip in a scheme.
ADDRESS = re.compile(r"https?://[^\x00-\x20]+|[^:/?#\x00-\x20]*([/?#][^\x00-\x20]*)?", re.IGNORECASE)


class Interview:
    """One interview: the card being asked, the cards to come, and the grades so far. Knows no widget."""

    def __init__(self, cards, count=8, level=None, seed=None):
        """Draw `count` of the cards, of one level or of all (`None`), the groups in turn. `seed` fixes the draw."""
        self.all = {card.question: card for card in cards}
        self.to_come = draw(cards, count, level, random.Random(seed))
        self.count, self.graded = len(self.to_come), []
        self.ask_next()

    def ask_next(self):
        self.card = self.to_come.pop(0) if self.to_come else None  # None: it is over
        self.shown, self.seconds, self.started = False, None, time.monotonic()

    def show(self):
        """Stop the clock and open the answer."""
        if self.card and not self.shown:
            self.shown, self.seconds = True, time.monotonic() - self.started

    def grade(self, grade):
        """Note your grade of the answer that is open, and go on. Where you had it, the card's follow-up comes next."""
        if not (self.card and self.shown):
            return
        self.graded.append((self.card, grade, self.seconds))
        deeper = self.all.get(self.card.follow_up)
        if grade == GRADES[0] and self.to_come and deeper and deeper not in self.asked():
            if deeper in self.to_come:
                self.to_come.remove(deeper)
            else:
                self.to_come.pop()
            self.to_come.insert(0, deeper)
        self.ask_next()

    def asked(self):
        return [card for card, _, _ in self.graded]


def draw(cards, count, level, generator):
    """`count` different cards, or all there are: shuffled within their groups, and the groups in turn."""
    decks = [
        [card for card in cards if card.group == group and level in (None, card.level)] for group in groups_of(cards)
    ]
    generator.shuffle(decks)
    for deck in decks:
        generator.shuffle(deck)
    longest = max(map(len, decks))
    return [deck[turn] for turn in range(longest) for deck in decks if turn < len(deck)][:count]


# ---- what it looks like ----------------------------------------------------------------------------------------------


def mock_interview(cards, seed=None) -> None:
    """Show the mock interview. Without a kernel its place is taken by a picture of what the cards cover.

    The clock runs in the page, by CSS alone: no thread and no timer, so nothing is left when the cell runs again.
    """
    import ipywidgets

    wide = {"width": "100%", "max_width": "760px"}
    # The value is not None: ipywidgets takes that for "nothing selected", depending on the order of a set.
    levels = [("all levels", "all"), *((one, one) for one in LEVELS)]
    level = ipywidgets.Dropdown(options=levels, value="all", description="level")
    count = ipywidgets.Dropdown(options=[(f"{n} questions", n) for n in COUNTS], value=8, description="length")
    start, show = (ipywidgets.Button(description=words) for words in ("Start", "Show the answer"))
    grades = [ipywidgets.Button(description=words) for words in GRADES]
    question, clock, answer = (ipywidgets.HTML(layout=wide) for _ in range(3))
    row = {"flex_flow": "row wrap", **wide}
    box = ipywidgets.VBox(
        [
            ipywidgets.HBox([level, count, start], layout=row),
            question,
            clock,
            ipywidgets.HBox([show, *grades], layout=row),
            answer,
        ]
    )
    box.interview = None

    def refresh():
        interview = box.interview
        card = interview.card if interview else None
        question.value = question_html(interview)
        clock.value = clock_html(interview)
        answer.value = answer_html(card) if card and interview.shown else review_html(interview)
        show.disabled = not card or interview.shown
        for button in grades:
            button.disabled = not card or not interview.shown
        start.description = "Start again" if interview else "Start"

    def on_start(_):
        box.interview = Interview(cards, count.value, None if level.value == "all" else level.value, seed)
        refresh()
        focus(show)

    def on_show(_):
        if box.interview:
            box.interview.show()
            refresh()
            focus(grades[0])

    def on_grade(button):
        if box.interview:
            box.interview.grade(button.description)
            refresh()
            focus(show if box.interview.card else start)

    start.on_click(on_start)
    show.on_click(on_show)
    for button in grades:
        button.on_click(on_grade)
    refresh()
    show_live(box, plots.png(plots_interview.coverage(counted(cards), LEVELS)), coverage_alt(cards))


def focus(button):
    """Keep the keyboard where the next key is wanted; ipywidgets 7 cannot, there Tab does it."""
    if hasattr(button, "focus"):
        button.focus()


def question_html(interview) -> str:
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
    """The running clock of a question, or the time that was taken."""
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
    """Signs below each other that move up by one `len(signs)` times in `period` seconds, of which one is in sight."""
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
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def answer_html(card) -> str:
    """Return a card's answer, its evidence and its weak answer. All that the card says is shown as text."""
    parts = [as_html(part) for part in card.answer.split("\n\n")]
    parts += [f"<b>Evidence:</b> {links_html(card)}"]
    parts += [f'<b style="color: #D55E00">A weak answer:</b> {as_html(card.weak)}', "How was yours?"]
    shown = "".join(f"<p>{part}</p>" for part in parts)
    return f'<div style="line-height: 1.45" aria-live="polite">{shown}</div>'


def review_html(interview) -> str:
    """At the end: the count of grades, and for all that was not had the question with where to read."""
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


def as_html(text) -> str:
    """Return the little Markdown that cards use as HTML: `code`, **bold**, *italic* and links. All else is text."""
    finished = []  # code and links: nothing in them is emphasis

    def set_aside(match):
        code, label, address = match.groups()
        finished.append(
            f"<code>{html.escape(code, quote=False)}</code>" if code else link_html(as_html(label), address)
        )
        return f"\0{len(finished) - 1}\0"

    text = re.sub(r"`([^`]+)`|\[([^\]]+)\]\(([^)\s]+)\)", set_aside, text.replace("\0", ""))
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(text, quote=False))
    text = re.sub(r"(?<!\w)\*(\S.*?)\*(?!\w)", r"<i>\1</i>", text)  # not the star of π*
    return re.sub(r"\0(\d+)\0", lambda match: finished[int(match[1])], text)


def groups_of(cards) -> list[str]:
    """Return the groups of the cards, in the order in which they first come."""
    return list(dict.fromkeys(card.group for card in cards))


def counted(cards) -> dict[str, list[int]]:
    """For each group, the number of its cards at each level."""
    return {
        g: [sum(card.group == g and card.level == one for card in cards) for one in LEVELS] for g in groups_of(cards)
    }


def coverage_alt(cards) -> str:
    rows = (
        f"{group} " + ", ".join(f"{number} {one}" for number, one in zip(numbers, LEVELS, strict=True))
        for group, numbers in counted(cards).items()
    )
    return f"The mock interview needs a running kernel. It draws from {len(cards)} cards: {'; '.join(rows)}."
