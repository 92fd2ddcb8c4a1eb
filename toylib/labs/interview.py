"""The interview's cards, read from notebook 09's own text, and what the committed notebooks claimed."""

from __future__ import annotations

import json
import re
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
    label: str
    address: str  # file#heading, relative to the notebooks; #heading is in notebook 09 itself
    claims: tuple[str, ...]  # ids that were claimed there


class Card(NamedTuple):
    group: str  # one of GROUPS
    level: str  # one of LEVELS
    question: str
    think: str  # what to think of before looking
    answer: str  # markdown, like all that follows
    evidence: tuple[Evidence, ...]
    weak: str  # what a weak answer says: the red flag
    follow_up: str  # the question of another card, or ""


def markdown_cells(path) -> list[str]:
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]


def evidence_in(markdown) -> tuple[Evidence, ...]:
    """The links of a text, each with the ids of claims in round brackets after it."""
    return tuple(
        Evidence(label, address, tuple(ids.split(", ")) if ids else ())
        for label, address, ids in LINK.findall(markdown)
    )


def read_cards(path) -> list[Card]:
    """The cards of notebook 09, in its order: the markdown cells under the four group headings.

    `ValueError` for a cell there that is not a card, a group or level that there is not, a question asked twice, or a
    follow-up that is no card's question.
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
    text: str
    evidence: tuple[Evidence, ...]
    changed: bool  # not as the source text has it: marked so in the text


def read_sentences(path, heading) -> list[Sentence]:
    """The sentences to say, one a line that begins with `- "`, in the markdown cell whose first heading is `heading`."""
    for source in markdown_cells(path):
        if source.lstrip("#").strip().split("\n")[0] == heading:
            lines = [line for line in source.splitlines() if line.startswith('- "')]
            return [Sentence(line[3:].split('"')[0], evidence_in(line), "*Changed:" in line) for line in lines]
    raise ValueError(f"no cell with the heading {heading!r} in {Path(path).name}")


def is_supported(sentence, claims, path) -> bool:
    """Whether it has evidence, each link leads to a heading, and each id was claimed (`claims`: of `claimed`) where it leads."""
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
    """What a link can name in this notebook: its headings as JupyterLab makes ids of them, spaces as dashes."""
    text = "\n\n".join(
        re.sub(r"^```.*?^```", "", cell, flags=re.MULTILINE | re.DOTALL) for cell in markdown_cells(path)
    )
    return [
        re.sub(r"[*`]", "", found).replace(" ", "-") for found in re.findall(r"^#{1,6} +(.+?) *$", text, re.MULTILINE)
    ]


# ---- what the committed notebooks claimed ----

PRINTED = re.compile(r"^✓ ([CD]\d\d)  (.+)$", re.MULTILINE)


class Claimed(NamedTuple):
    notebook: str  # file name
    text: str


def claimed(folder) -> dict[str, list[Claimed]]:
    """What the notebooks in `folder` claimed when they were last run: id → `Claimed`, in the order of the notebooks.

    Read from the saved outputs, not from the code: a claim whose cell was not run, or failed, is not in it.
    """
    found = {}
    for path in sorted(Path(folder).glob("[0-9][0-9]_*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                for id, text in PRINTED.findall("".join(output.get("text", ""))):
                    found.setdefault(id, []).append(Claimed(path.name, text))
    return found
