"""The interview's cards, read from notebook 10's own text, and what the committed notebooks claimed."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

GROUPS = ("Explain it", "Derive it", "Debug it", "Decide")
LEVELS = ("warm-up", "standard", "hard")

# ---- cards -----------------------------------------------------------------------------------------------------------

CARD = re.compile(
    r"### (?P<question>[^\n]+)\n\n"
    r"\*(?P<group>[^·\n*]+) · (?P<level>[^\n*]+)\.\* \*\*Think:\*\* (?P<think>[^\n]+)\n\n"
    r"<details><summary>Answer</summary>\n\n(?P<answer>.+?)\n\n"
    r"\*\*Evidence:\*\* (?P<evidence>[^\n]+)\n\n"
    r"\*\*A weak answer:\*\* (?P<weak>[^\n]+)\n\n"
    r"(?:\*\*Follow-up:\*\* \[(?P<follow_up>[^\]]+)\]\(#[^)]+\)\n\n)?</details>\s*",
    re.DOTALL,
)
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)(?: \(((?:[CD]\d\d)(?:, [CD]\d\d)*)\))?")


class Evidence(NamedTuple):
    """Hold one link to what supports a card or a sentence."""

    label: str
    address: str  # file#heading, relative to the notebooks; #heading is in notebook 10 itself
    claims: tuple[str, ...]  # ids that were claimed there


class Card(NamedTuple):
    """Hold one question of the interview with its answer."""

    group: str  # one of GROUPS
    level: str  # one of LEVELS
    question: str
    think: str  # what to think of before looking
    answer: str  # markdown, like all that follows
    evidence: tuple[Evidence, ...]
    weak: str  # what a weak answer says: the red flag
    follow_up: str  # the question of another card, or ""


def markdown_cells(path) -> list[str]:
    """Return the text of a notebook's Markdown cells, in order."""
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]


def evidence_in(markdown) -> tuple[Evidence, ...]:
    """Return the links of a text, each with the ids of claims that stand in round brackets after it."""
    return tuple(
        Evidence(label, address, tuple(ids.split(", ")) if ids else ())
        for label, address, ids in LINK.findall(markdown)
    )


def read_cards(path) -> list[Card]:
    """Load the cards of notebook 10 in its order: the Markdown cells under the four group headings.

    Raises `ValueError` for a cell there that is not a card, an unknown group or level, a question that is asked twice,
    or a follow-up that is not the question of another card.
    """
    cards, group = [], None
    for source in markdown_cells(path):
        if source.startswith("## "):
            group = source[3:].splitlines()[0].strip()
        elif group in GROUPS:
            found = CARD.fullmatch(source)
            if not found or found["group"] != group or found["level"] not in LEVELS:
                raise ValueError(f"not a card of {group!r}: {source[:60]!r}")
            fields = found.groupdict(default="") | {"evidence": evidence_in(found["evidence"])}
            cards.append(Card(**fields))
    questions = [card.question for card in cards]
    if len(set(questions)) < len(questions):
        raise ValueError(f"asked twice: {max(questions, key=questions.count)!r}")
    lost = {card.follow_up for card in cards} - {"", *questions}
    if lost:
        raise ValueError(f"a follow-up that is no card: {min(lost)!r}")
    return cards


class Sentence(NamedTuple):
    """Hold one sentence to say in an interview."""

    text: str
    evidence: tuple[Evidence, ...]
    changed: bool  # not as the source text has it: marked so in the text


def read_sentences(path, heading) -> list[Sentence]:
    """Load the sentences to say from the Markdown cell whose first heading is `heading`.

    Each stands on a line that begins with `- "`. Raises `ValueError` if no cell has the heading.
    """
    for source in markdown_cells(path):
        if source.lstrip("#").strip().split("\n")[0] == heading:
            lines = [line for line in source.splitlines() if line.startswith('- "')]
            return [Sentence(line[3:].split('"')[0], evidence_in(line), "*Changed:" in line) for line in lines]
    raise ValueError(f"no cell with the heading {heading!r} in {Path(path).name}")


def is_supported(sentence, claims, path) -> bool:
    """Return whether a sentence has evidence, each link leads to a heading, and each id was claimed in that notebook.

    `claims` is from `claimed`; `path` is the notebook that has the sentence.
    """
    path = Path(path)
    for _, address, ids in sentence.evidence:
        name, _, anchor = address.partition("#")
        target = path.with_name(name) if name else path
        if not target.exists() or unquote(anchor) not in anchors(target):
            return False
        if not all(target.name in {one.notebook for one in claims.get(id, [])} for id in ids):
            return False
    return any(ids for _, _, ids in sentence.evidence)


def anchors(path) -> list[str]:
    """Return the anchors of a notebook's headings as JupyterLab makes them: with dashes instead of spaces."""
    text = "\n\n".join(
        re.sub(r"^```.*?^```", "", cell, flags=re.MULTILINE | re.DOTALL) for cell in markdown_cells(path)
    )
    return [
        re.sub(r"[*`]", "", found).replace(" ", "-") for found in re.findall(r"^#{1,6} +(.+?) *$", text, re.MULTILINE)
    ]


# ---- what the committed notebooks claimed ----

PRINTED = re.compile(r"^✓ (?:[CD]\d\d  )?(.+)$", re.MULTILINE)  # before the next build, an output may show the id


class Claimed(NamedTuple):
    """Hold one claim and the notebook that printed it."""

    notebook: str  # file name
    text: str


def claimed(folder) -> dict[str, list[Claimed]]:
    """Return what the notebooks in `folder` claimed when they last ran: id → list of `Claimed`, in notebook order.

    The ids come from the code, the texts from the saved outputs. A claim whose cell failed or did not run is not included.
    """
    found = {}
    for path in sorted(Path(folder).glob("[0-9][0-9]_*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            printed = "".join("".join(output.get("text", "")) for output in cell.get("outputs", []))
            for id, text in paired(claims_in("".join(cell["source"])), PRINTED.findall(printed)) if printed else ():
                found.setdefault(id, []).append(Claimed(path.name, text))
    return found


def claims_in(source) -> list[tuple[str, str | None]]:
    """Return id and text of each `claim(...)` in a cell's code, in order; the text is None where it is computed."""
    code = re.sub(r"^\s*[%!].*$", "", source, flags=re.MULTILINE)
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    calls = sorted((call for call in calls if getattr(call.func, "id", "") == "claim"), key=lambda call: call.lineno)
    return [(call.args[0].value, getattr(call.args[1], "value", None)) for call in calls]


def paired(claims, printed) -> Iterator[tuple[str, str]]:
    """Yield the id and the text of each claim that a cell printed. Computed texts are taken in the order of their calls."""
    typed = {text for _, text in claims}
    computed = iter([text for text in printed if text not in typed])
    for id, text in claims:
        shown = next(computed, None) if text is None else text
        if shown in printed:
            yield id, shown
