"""The interview's cards, read from notebook 10's own text, and what the committed notebooks claimed.

Standard library only: `python3 lab.py cards` runs this file before anything is installed.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

GROUPS = ("Must know", "Derive it", "Debug it", "PPO and relatives", "Data and judges", "In practice")
LEVELS = ("warm-up", "standard", "hard")
NOTEBOOK = "10_the_interview.ipynb"

# ---- cards -----------------------------------------------------------------------------------------------------------

CARD = re.compile(
    r"### (?P<question>[^\n]+)\n\n"
    r"\*(?P<level>[^\n*]+)\*\n\n"
    r"<details><summary>Answer</summary>\n\n(?P<answer>.+?)\n\n"
    r"<small>Evidence: (?P<evidence>[^\n]+)</small>\n\n"
    r"\*\*Weak answer:\*\* (?P<weak>[^\n]+)\n\n"
    r"(?:\*\*Follow-up:\*\* \[(?P<follow_up>[^\]]+)\]\(#[^)]+\)\n\n)?</details>\s*",
    re.DOTALL,
)
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


class Evidence(NamedTuple):
    """Hold one link to what supports a card or a sentence."""

    label: str
    address: str  # file#heading, relative to the notebooks; #heading is in notebook 10 itself; or a paper's address


class Card(NamedTuple):
    """Hold one question of the interview with its answer."""

    group: str  # one of GROUPS
    level: str  # one of LEVELS
    question: str
    answer: str  # markdown, like all that follows
    evidence: tuple[Evidence, ...]
    weak: str  # what a weak answer says: the red flag
    follow_up: str  # the question of another card, or ""


def markdown_cells(path) -> list[str]:
    """Return the text of a notebook's Markdown cells, in order."""
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]


def evidence_in(markdown) -> tuple[Evidence, ...]:
    """Return the links of a text."""
    return tuple(Evidence(label, address) for label, address in LINK.findall(markdown))


def read_cards(path) -> list[Card]:
    """Load the cards of notebook 10 in its order: the Markdown cells under the group headings.

    Raises `ValueError` for a cell there that is not a card, an unknown level, a question that is asked twice, or a
    follow-up that is not the question of another card.
    """
    cards, group = [], None
    for source in markdown_cells(path):
        if source.startswith("## "):
            group = source[3:].splitlines()[0].strip()
        elif group in GROUPS:
            found = CARD.fullmatch(source)
            if not found or found["level"] not in LEVELS:
                raise ValueError(f"not a card of {group!r}: {source[:60]!r}")
            fields = found.groupdict(default="") | {"group": group, "evidence": evidence_in(found["evidence"])}
            cards.append(Card(**fields))
    questions = [card.question for card in cards]
    if len(set(questions)) < len(questions):
        raise ValueError(f"asked twice: {max(questions, key=questions.count)!r}")
    lost = {card.follow_up for card in cards} - {"", *questions}
    if lost:
        raise ValueError(f"a follow-up that is no card: {min(lost)!r}")
    return cards


def as_text(markdown) -> str:
    """Return Markdown as one line of plain text: emphasis, code marks and line breaks go, links keep their label."""
    text = re.sub(r"\*\*|`", "", LINK.sub(r"\1", markdown))
    return re.sub(r"\s+", " ", re.sub(r"(?<!\w)\*(\S.*?)\*(?!\w)", r"\1", text)).strip()  # not the star of π*


def as_tsv(cards) -> str:
    """Return the cards as tab-separated lines of question, answer and evidence, which Anki and its like import as they are."""
    rows = (
        (card.question, card.answer, "; ".join(f"{one.label}: {one.address}" for one in card.evidence))
        for card in cards
    )
    return "".join("\t".join(map(as_text, row)) + "\n" for row in rows)


def main(_, arguments) -> None:
    """Run `lab.py cards [--output FILE]`: write notebook 10's cards as TSV to the file, or to the screen."""
    import argparse

    parser = argparse.ArgumentParser(prog="lab.py cards", description="The interview's cards, for spaced repetition.")
    parser.add_argument(
        "--output", metavar="FILE", help="a file of three columns: question, answer, evidence (default: the screen)"
    )
    wanted = parser.parse_args(arguments)
    cards = read_cards(Path(__file__).resolve().parents[2] / "notebooks" / NOTEBOOK)
    if not wanted.output:
        print(as_tsv(cards), end="")
        return
    try:
        Path(wanted.output).write_text(as_tsv(cards), encoding="utf-8", newline="\n")
    except OSError as error:
        raise SystemExit(f"lab.py: cannot write {wanted.output}: {error.strerror}.") from None
    print(f"{len(cards)} cards are in {wanted.output}: question, answer and evidence, separated by tabs.")


# ---- what supports an answer -----------------------------------------------------------------------------------------


class Sentence(NamedTuple):
    """Hold one sentence to say in an interview."""

    text: str
    evidence: tuple[Evidence, ...]


def read_sentences(path, heading) -> list[Sentence]:
    """Load the sentences to say from the Markdown cell whose first heading is `heading`.

    Each stands on a line that begins with `- "`. Raises `ValueError` if no cell has the heading.
    """
    for source in markdown_cells(path):
        if source.lstrip("#").strip().split("\n")[0] == heading:
            lines = [line for line in source.splitlines() if line.startswith('- "')]
            return [Sentence(line[3:].split('"')[0], evidence_in(line)) for line in lines]
    raise ValueError(f"no cell with the heading {heading!r} in {Path(path).name}")


def is_supported(item, claims, path) -> bool:
    """Return whether the evidence of a card or sentence exists, and some of it is in a notebook that checked statements.

    Each link leads to a heading of a notebook or to a web page. `claims` is from `claimed`; `path` is the notebook that
    has the card.
    """
    checked = {one.notebook for there in claims.values() for one in there}
    targets = [target_of(address, path) for _, address in item.evidence if not is_web(address)]
    known = all(target.exists() and anchor in anchors(target) for target, anchor in targets)
    return known and any(target.name in checked for target, _ in targets)


def is_web(address) -> bool:
    """Return whether an address leads out of the repository."""
    return address.startswith(("https://", "http://"))


def target_of(address, path) -> tuple[Path, str]:
    """Return the file and the anchor that a link of the notebook `path` leads to."""
    name, _, anchor = address.partition("#")
    return (Path(path).with_name(name) if name else Path(path)), unquote(anchor)


def anchors(path) -> list[str]:
    """Return the anchors of a notebook's headings as JupyterLab makes them: with dashes instead of spaces."""
    text = "\n\n".join(
        re.sub(r"^```.*?^```", "", cell, flags=re.MULTILINE | re.DOTALL) for cell in markdown_cells(path)
    )
    return [
        re.sub(r"[*`]", "", found).replace(" ", "-") for found in re.findall(r"^#{1,6} +(.+?) *$", text, re.MULTILINE)
    ]


# ---- what the committed notebooks claimed ----

PRINTED = re.compile(r"^✓ (.+)$", re.MULTILINE)


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
