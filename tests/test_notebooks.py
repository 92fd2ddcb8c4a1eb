"""The committed notebooks, read but not run: whole, in order, self-contained, light, and with claims that are computed."""

import ast
import builtins
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
CHECKS = "# @title Checks: what this page said, tested by code"
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def load(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in load(path).cells if cell.cell_type == "code"]


def outputs(path):
    """Every output with a name for its cell."""
    for number, cell in enumerate(load(path).cells, 1):
        for output in cell.get("outputs", []):
            yield f"cell {number}", output


def text_of(markdown):
    """Markdown without its code: fenced blocks and inline code dropped."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^(```|~~~).*?^\1", "", markdown, flags=re.MULTILINE | re.DOTALL))


def headings(markdown):
    """(level, text) of each heading outside code blocks."""
    without_blocks = re.sub(r"^(```|~~~).*?^\1", "", markdown, flags=re.MULTILINE | re.DOTALL)
    for marks, text in re.findall(r"^(#{1,6})\s+(.+?)\s*#*\s*$", without_blocks, re.MULTILINE):
        yield len(marks), text


def all_headings(path):
    return [found for cell in load(path).cells if cell.cell_type == "markdown" for found in headings(cell.source)]


def syntax_tree(source):
    """The cell's syntax tree, its magics and shell lines left out."""
    lines = ["pass" if re.match(r"\s*[%!]", line) else line for line in source.splitlines()]
    return ast.parse("\n".join(lines))


# ---- the file ----


def test_all_ten_notebooks_are_there():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06", "07", "08", "09", "10"]


@each_notebook
def test_is_valid_and_small(path):
    raw = json.loads(path.read_text(encoding="utf-8"))
    nbformat.validate(raw)
    assert raw["nbformat"] == 4 and raw["nbformat_minor"] >= 5
    assert path.stat().st_size <= 400_000


@each_notebook
def test_was_run_from_a_fresh_kernel_without_an_error(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [where for where, output in outputs(path) if output.output_type == "error"]
    assert not [(where, output.text) for where, output in outputs(path) if output.get("name") == "stderr"]


@each_notebook
def test_no_earlier_run_lay_in_the_way_when_it_was_built(path):
    said = [where for where, output in outputs(path) if "a checkpoint of these settings" in output.get("text", "")]
    assert not said, "remove runs/ before `python3 lab.py build`"


@each_notebook
def test_holds_no_widget_state_and_no_version_noise(path):
    notebook = load(path)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3" and "version" not in notebook.metadata.language_info
    for where, output in outputs(path):
        assert WIDGET_VIEW not in output.get("data", {}), where
    assert not [cell.id for cell in notebook.cells if "execution" in cell.metadata]


@each_notebook
def test_every_picture_says_in_words_what_it_shows(path):
    for where, output in outputs(path):
        plain = output.get("data", {}).get("text/plain", "")
        assert not re.match(r"\w*(Box|Slider|Dropdown|Output|Image|HTML|interactive)\(", plain), (
            f"{where}: {plain[:60]}"
        )
        if "image/png" in output.get("data", {}):
            alt = output.metadata.get("image/png", {}).get("alt", "")
            assert len(alt.split()) >= 3, f"{where}: no alt text"
            assert plain and not plain.startswith("<"), f"{where}: text/plain is {plain[:60]!r}"


@each_notebook
def test_names_no_place_on_one_machine(path):
    notebook = load(path)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/png", None)  # base64 can spell anything
    assert not re.findall(r"/(?:home/|root/|work/|tmp/ipykernel)", nbformat.writes(notebook))


@each_notebook
def test_code_is_formatted_and_its_cells_are_short(path):
    for number, cell in enumerate(load(path).cells, 1):
        if cell.cell_type == "code":
            lines = [line for line in cell.source.splitlines() if line.strip()]
            if lines[0] == CHECKS:  # folded
                continue
            assert 0 < len(lines) <= 25, f"cell {number}: {len(lines)} lines"
    command = [sys.executable, "-m", "ruff", "format", "--check", "--config", ROOT / "pyproject.toml", path]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0, "run `python3 lab.py build`"


# ---- the reading ----


@each_notebook
def test_first_cell_is_title_time_and_links(path):
    first = load(path).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert "minutes" in first.source
    words = sum(len(cell.source.split()) for cell in load(path).cells if cell.cell_type == "markdown")
    lines = sum(len(cell.source.split("\n")) for cell in code_cells(path)[1:])
    promised = int(re.search(r"(\d+) to read", first.source).group(1))
    assert abs(promised - (words / 200 + lines / 20)) <= 7, "200 words and 20 lines of code a minute"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| \[{path.name[:2]}\].* \| {promised} \|$", readme, re.MULTILINE)
    at = NOTEBOOKS.index(path)
    for neighbour in NOTEBOOKS[max(at - 1, 0) : at] + NOTEBOOKS[at + 1 : at + 2]:
        assert f"({neighbour.name})" in first.source, f"no link to {neighbour.name}"


def test_second_cell_is_the_same_in_all():
    seconds = {path.name: load(path).cells[1] for path in NOTEBOOKS}
    assert {cell.cell_type for cell in seconds.values()} <= {"code"}
    assert len({cell.source for cell in seconds.values()}) <= 1, list(seconds)


@each_notebook
def test_headings_go_down_one_level_at_a_time(path):
    levels = [level for level, _ in all_headings(path)]
    assert levels[:1] == [1] and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels


@each_notebook
def test_ends_on_five_to_ten_questions_with_folded_answers(path):
    asked = [cell.source for cell in load(path).cells if cell.source.startswith("## Check yourself\n")]
    assert load(path).cells[-2].source in asked and len(asked) == 1, "it comes before the three lines"
    folds = re.findall(r"<summary>(\d+)\. (.+?)</summary>\n\n(.+?)\n\n</details>", asked[0], re.DOTALL)
    assert [int(number) for number, _, _ in folds] == list(range(1, len(folds) + 1)) and 5 <= len(folds) <= 10
    for number, _, answer in folds:
        words = re.sub(
            r"\((?:\[[^]]*\]\([^)\s]*(?:\([^)\s]*\))*[^)\s]*\)(?:, )?)+\)\s*$|\(section [^)]*\)\s*$", "", answer
        ).split()
        assert 5 <= len(words) <= 45, f"answer {number}: {len(words)} words"


# ---- the claims ----


def claims(path):
    """(id, third argument) of every claim(...) in the notebook's code."""
    for cell in code_cells(path):
        for node in ast.walk(syntax_tree(cell.source)):
            name = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
            if name == "claim":
                keywords = {keyword.arg: keyword.value for keyword in node.keywords}
                yield node.args[0].value, node.args[2] if len(node.args) > 2 else keywords["holds"]


def is_computed(expression, assigned):
    """Whether an expression rests on a name, not on typed numbers and truths alone.

    `assigned` has the values given to each name in the notebook: one that is only ever given a typed truth counts as that.
    """
    names = {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)} - set(dir(builtins))
    return any(name not in assigned or not all(map(is_typed_truth, assigned[name])) for name in names)


def is_typed_truth(expression):
    truth = isinstance(expression, ast.Compare | ast.BoolOp) or isinstance(getattr(expression, "value", None), bool)
    return truth and not is_computed(expression, {})


def assignments(path):
    assigned = {}
    for cell in code_cells(path):
        for node in ast.walk(syntax_tree(cell.source)):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        assigned.setdefault(target.id, []).append(node.value)
    return assigned


@each_notebook
def test_the_closing_claims_are_one_folded_cell(path):
    made = [
        cell
        for cell in load(path).cells
        if cell.cell_type == "code" and re.search(r"^ *claim\(", cell.source, re.MULTILINE)
    ]
    checks = [cell for cell in code_cells(path) if cell.source.startswith(CHECKS + "\n")]
    assert checks == made[-1:] == code_cells(path)[-1:], "the claims at the end stand in the last code cell"
    assert checks[0].metadata.jupyter.source_hidden and checks[0].metadata.cellView == "form"
    before = load(path).cells[load(path).cells.index(checks[0]) - 1].source
    assert "What this notebook earned" not in before and not re.search(
        r"number .* cites it|list; the cell fails", before
    )


@each_notebook
def test_no_claim_shows_its_id(path):
    printed = "".join(output.get("text", "") for _, output in outputs(path))
    assert not re.search(r"^[✓✗] [CD]\d\d\b", printed, re.MULTILINE), "run `python3 lab.py build`"


@each_notebook
def test_no_claim_holds_by_decree(path):
    assigned = assignments(path)
    assert not [name for name, holds in claims(path) if not is_computed(holds, assigned)]


@pytest.mark.parametrize(
    "source, computed",
    [
        ("True", False),
        ("1 < 2", False),
        ("not False", False),
        ("1 < 2 and 'x'", False),
        ("bool(1)", False),
        ("abs(2.2 - 0.9 - 1.3) < 1e-9", False),
        ("decreed", False),
        ("given - 0.9 < 1e-9", True),
        ("abs(margin - 2.2) < 1e-9", True),
        ("(losses < 1).all()", True),
        ("fingerprint(model) == before", True),
    ],
)
def test_the_check_on_claims_knows_a_decree_when_it_sees_one(source, computed):
    assigned = {"decreed": [ast.Constant(True)], "given": [ast.Constant(0.9)]}
    assert is_computed(ast.parse(source, mode="eval").body, assigned) is computed
