"""The core is annotated in full, and the annotations hold: mypy reads it under the settings of pyproject.toml."""

import subprocess
import sys

import pytest
from conftest import ROOT


def mypy(*arguments):
    """Return mypy's exit status and its lines; its cache in .mypy_cache makes every run after the first a quick one."""
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--no-pretty", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines()


def test_the_core_is_annotated_and_its_types_agree():
    assert mypy() == (0, [])


@pytest.mark.parametrize(
    "code, problem",
    [
        ("def f(x): return x", "Function is missing a type annotation"),
        ("from toylib import claim\nclaim(1, 'text', True)", 'Argument 1 to "claim" has incompatible type "int"'),
        (
            "import torch\nfrom toylib import dpo_loss\ndpo_loss(*[torch.ones(1)] * 4).losses.split_up()",
            '"Tensor" has no attribute "split_up"',
        ),
    ],
    ids=["not annotated", "wrong argument", "wrong attribute"],
)
def test_the_check_of_types_finds_what_is_wrong(tmp_path, code, problem):
    (tmp_path / "example.py").write_text(code + "\n", encoding="utf-8")
    status, said = mypy(str(tmp_path / "example.py"))
    assert status == 1 and any(problem in line for line in said), said


def test_the_types_are_passed_on_to_who_imports_toylib(root):
    assert (root / "toylib" / "py.typed").is_file()
