"""The mock interview: random cards, a clock, the answer with a weak answer beside it, your own grade, and what to review."""

from __future__ import annotations

import random
import time

from toylib import plots
from toylib.plots import interview as plots_interview
from toylib.widgets.interview_html import GRADES, LEVELS, answer_html, clock_html, question_html, review_html
from toylib.widgets.kernel import show_widgets

COUNTS = (4, 8, 12)


class Interview:
    """Hold one interview without its widgets: the card being asked, the cards to come, and the grades so far."""

    def __init__(self, cards, count=8, level=None, seed=None):
        """Draw `count` of the cards, of one level or of all (`None`), the groups in turn. `seed` fixes the draw."""
        self.all = {card.question: card for card in cards}
        self.to_come = draw(cards, count, level, random.Random(seed))
        self.count, self.graded = len(self.to_come), []
        self.ask_next()

    def ask_next(self):
        """Ask the next card and start its clock."""
        self.card = self.to_come.pop(0) if self.to_come else None  # None: it is over
        self.shown, self.seconds, self.started = False, None, time.monotonic()

    def show(self):
        """Stop the clock and open the answer."""
        if self.card and not self.shown:
            self.shown, self.seconds = True, time.monotonic() - self.started

    def grade(self, grade):
        """Note your grade of the open answer, and go on. If you had it, the card's follow-up comes next."""
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
        """Return the cards that you have graded."""
        return [card for card, _, _ in self.graded]


def draw(cards, count, level, generator):
    """Return `count` different cards, or all there are. Groups take turns, and cards are shuffled within their group.

    `level` is one of `LEVELS`, or `None` for all of them; `generator` is a `random.Random`.
    """
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
    """Show the mock interview. Without a kernel, a picture of what the cards cover stands in its place.

    The clock runs in the page, by CSS alone: no thread and no timer, so nothing is left when the cell runs again.

    Args:
        cards: the `labs.interview.Card`s to draw from.
        seed: fixes the draw. By default each interview draws other cards.
    """
    page = InterviewPage(cards, seed)
    show_widgets(page.box, plots.png(plots_interview.coverage(counted(cards), LEVELS)), coverage_alt(cards))


class InterviewPage:
    """Hold the widgets of the mock interview, in `box`. `box.interview` is the running `Interview`, or `None`."""

    def __init__(self, cards, seed):
        import ipywidgets

        self.cards, self.seed = cards, seed
        wide = {"width": "100%", "max_width": "760px"}
        row = {"flex_flow": "row wrap", **wide}
        # The value is not None: ipywidgets takes that for "nothing selected", depending on the order of a set.
        levels = [("all levels", "all"), *((one, one) for one in LEVELS)]
        counts = [(f"{n} questions", n) for n in COUNTS]
        self.level = ipywidgets.Dropdown(options=levels, value="all", description="level")
        self.count = ipywidgets.Dropdown(options=counts, value=8, description="length")
        self.start, self.show, *self.grades = buttons = [
            ipywidgets.Button(description=words) for words in ("Start", "Show the answer", *GRADES)
        ]
        self.question, self.clock, self.answer = (ipywidgets.HTML(layout=wide) for _ in range(3))
        menus = ipywidgets.HBox([self.level, self.count, self.start], layout=row)
        self.box = ipywidgets.VBox(
            [menus, self.question, self.clock, ipywidgets.HBox(buttons[1:], layout=row), self.answer]
        )
        self.box.interview = None
        for button, action in zip(buttons, (self.on_start, self.on_show, *[self.on_grade] * len(GRADES)), strict=True):
            button.on_click(action)
        self.refresh()

    def refresh(self):
        """Show where the interview is now."""
        interview = self.box.interview
        card = interview.card if interview else None
        self.question.value, self.clock.value = question_html(interview), clock_html(interview)
        self.answer.value = answer_html(card) if card and interview.shown else review_html(interview)
        self.show.disabled = not card or interview.shown
        for button in self.grades:
            button.disabled = not card or not interview.shown
        self.start.description = "Start again" if interview else "Start"

    def on_start(self, _):
        """Begin a new interview with the level and the length that are chosen."""
        level = None if self.level.value == "all" else self.level.value
        self.box.interview = Interview(self.cards, self.count.value, level, self.seed)
        self.refresh()
        focus(self.show)

    def on_show(self, _):
        """Open the answer."""
        if self.box.interview:
            self.box.interview.show()
            self.refresh()
            focus(self.grades[0])

    def on_grade(self, button):
        """Note the grade that the button names, and go on."""
        if self.box.interview:
            self.box.interview.grade(button.description)
            self.refresh()
            focus(self.show if self.box.interview.card else self.start)


def focus(button):
    """Move the keyboard to the button that comes next. ipywidgets 7 cannot do this, so readers press Tab there."""
    if hasattr(button, "focus"):
        button.focus()


def groups_of(cards) -> list[str]:
    """Return the groups of the cards, in the order in which they first come."""
    return list(dict.fromkeys(card.group for card in cards))


def counted(cards) -> dict[str, list[int]]:
    """Return the number of cards at each level, per group."""
    return {
        g: [sum(card.group == g and card.level == one for card in cards) for one in LEVELS] for g in groups_of(cards)
    }


def coverage_alt(cards) -> str:
    """Return the alternative text of the picture that stands for the interview."""
    rows = (
        f"{group} " + ", ".join(f"{number} {one}" for number, one in zip(numbers, LEVELS, strict=True))
        for group, numbers in counted(cards).items()
    )
    return f"The mock interview needs a running kernel. It draws from {len(cards)} cards: {'; '.join(rows)}."
