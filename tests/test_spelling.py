"""Spelling of what is written for readers: the library, texts about it, and notebooks without their outputs.

Left out are the customers' lines of the data and the bad input of the tests, which are misspelled on purpose.
"""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [
    *(path for folder in ("", "toylib", "data") for path in sorted((ROOT / folder).glob("*.py"))),
    *(
        ROOT / name
        for name in (
            "README.md",
            "CONTRIBUTING.md",
            "CITATION.cff",
            "data/README.md",
            "pyproject.toml",
            "environment.yml",
        )
    ),
    *NOTEBOOKS,
]


def misspelled(text, path):
    """What codespell (typos that are common, and nothing else) finds in a text: `word ==> correction`, line by line."""
    copy = path / "text.md"
    copy.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "codespell_lib", str(copy)]
    done = subprocess.run(command, cwd=path, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return [line.partition(": ")[2] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_is_spelled_right(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    assert not misspelled(text, tmp_path)


def test_a_misspelled_word_is_found(tmp_path):
    assert misspelled("We received it, and the gap is Δ.\n", tmp_path) == []
    assert misspelled("We received it, and then recieved it again.\n", tmp_path) == ["recieved ==> received"]
