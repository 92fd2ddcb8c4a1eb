"""The second cell of every notebook, run where there is nothing but Python and git; and the one place of its address."""

import json
import os
import re
import subprocess
import sys
import tomllib

import nbformat
import pytest
from test_notebooks import NOTEBOOKS, ROOT, each_notebook

CELL = nbformat.read(NOTEBOOKS[0], as_version=4).cells[1].source
UNSET = re.compile(r'^REPOSITORY = ".*"', re.MULTILINE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = {"markdown-it-py": "markdown_it"}
NEEDED = [MODULES.get(name, name) for name in (one.split(">=")[0] for one in PROJECT["dependencies"])]
AFTERWARDS = """
import json, os, toylib
print(json.dumps([os.getcwd(), os.path.dirname(os.path.dirname(toylib.__file__))]))
"""


@pytest.fixture
def source(tmp_path):
    """A git repository with the project's skeleton, as the one to clone."""
    folder = tmp_path / "source"
    (folder / "toylib").mkdir(parents=True)
    (folder / "notebooks").mkdir()
    (folder / "toylib" / "__init__.py").write_text("")
    (folder / "notebooks" / "01.ipynb").write_text("{}")
    for name in ("pyproject.toml", "notebooks/bootstrap.py"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "all"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.fixture
def colab(tmp_path):
    """An empty folder and a Python that has what is needed but neither toylib nor pip, which notes what it was asked."""
    content, packages = tmp_path / "content", tmp_path / "packages"
    for folder in (content, packages / "pip"):
        folder.mkdir(parents=True)
    for name in NEEDED:
        (packages / f"{name}.py").write_text("")
    (packages / "pip" / "__init__.py").write_text("")
    (packages / "pip" / "__main__.py").write_text(
        "import json, os, sys\nprint(json.dumps(sys.argv[1:]), file=open(os.environ['ASKED'], 'a'))\n"
        "raise SystemExit(int(os.environ.get('PIP_FAILS', 0)))"
    )

    def run(repository, then=AFTERWARDS, without=(), **environment):
        for name in without:
            (packages / f"{name}.py").unlink(missing_ok=True)
        code = UNSET.sub(f"REPOSITORY = {str(repository)!r}", CELL, count=1) + then
        ours = {"PATH": os.environ["PATH"], "PYTHONPATH": str(packages), "ASKED": str(tmp_path / "asked")}
        environment = ours | {"GIT_TERMINAL_PROMPT": "0"} | environment
        return subprocess.run(
            [sys.executable, "-S", "-c", code],
            cwd=content,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    run.content, run.asked = content, tmp_path / "asked"
    return run


def test_from_an_empty_folder_it_clones_once_and_installs_nothing(colab, source):
    done = colab(source)
    assert done.returncode == 0, done.stderr
    clone = str((colab.content / "dpo-notebooks").resolve())
    assert json.loads(done.stdout) == [os.path.join(clone, "notebooks"), clone]
    assert not colab.asked.exists()
    (colab.content / "dpo-notebooks" / "mine").touch()
    assert colab(source).returncode == 0 and (colab.content / "dpo-notebooks" / "mine").exists()
    gone = source.rename(source.with_name("gone"))
    assert colab(source).returncode == 0 and gone.is_dir()  # a second run, in a new kernel, needs no network


def test_run_twice_in_one_kernel_it_stays_where_it_is(colab, source):
    code = UNSET.sub(f"REPOSITORY = {str(source)!r}", CELL, count=1)
    done = colab(source, then="\n" + code + AFTERWARDS)
    assert done.returncode == 0 and json.loads(done.stdout)[0].endswith("dpo-notebooks/notebooks")


@pytest.mark.parametrize("cwd", ["notebooks", "work"])
def test_in_a_checkout_it_only_finds_it(colab, source, cwd):
    (source / cwd).mkdir(exist_ok=True)
    code = f"{CELL}{AFTERWARDS}"
    environment = {"PYTHONPATH": str(colab.asked.parent / "packages"), "ASKED": str(colab.asked)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=source / cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [str((source / cwd).resolve()), str(source.resolve())]
    assert not colab.asked.exists() and not list((source / cwd).glob("*dpo-notebooks*"))


def test_where_toylib_is_installed_nothing_else_is_looked_for(colab, source):
    installed = colab.asked.parent / "packages" / "toylib"
    installed.mkdir()
    (installed / "__init__.py").write_text("")
    done = colab(source, without=["datasets"])
    assert done.returncode == 0 and json.loads(done.stdout)[1] == str(installed.parent) and not colab.asked.exists()


def test_a_clone_that_was_killed_half_way_is_not_taken_for_a_whole_one(colab, source, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    git = tools / "git"  # writes a part of the project where the clone was asked for, and is killed
    git.write_text('#!/bin/sh\nfor last; do :; done\nmkdir -p "$last/toylib" "$last/notebooks"\nkill -9 $$\n')
    git.chmod(0o755)
    killed = colab(source, PATH=f"{tools}{os.pathsep}{os.environ['PATH']}")
    assert killed.returncode and "git could not clone" in killed.stderr
    assert [path.name[:5] for path in colab.content.iterdir()] == ["half-"]
    again = colab(source)
    assert again.returncode == 0, again.stderr
    assert (colab.content / "dpo-notebooks" / "notebooks" / "01.ipynb").exists()


def test_what_is_missing_is_installed_from_the_clone(colab, source):
    assert colab(source, then="", without=["datasets"]).returncode == 0
    assert [json.loads(line) for line in colab.asked.read_text().splitlines()] == [["install", "--quiet", "-e", ".."]]


@pytest.mark.parametrize(
    ("address", "environment", "said"),
    [("", {}, "set REPOSITORY"), ("/nowhere/at/all", {}, "git could not clone '/nowhere"), (None, {"PIP_FAILS": "1"}, "datasets")],
)  # fmt: skip
def test_failure_is_one_sentence(colab, source, address, environment, said):
    done = colab(source if address is None else address, without=["datasets"], **environment)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and said in last and last.endswith("run again.") and "Traceback" not in done.stderr
    assert (colab.content / "dpo-notebooks").exists() == (address is None)


@each_notebook
def test_the_cell_is_short_and_folded_in_jupyterlab_and_colab(path):
    cell = nbformat.read(path, as_version=4).cells[1]
    assert len(cell.source.splitlines()) <= 8 and cell.source.startswith("# @title ")
    assert cell.metadata.jupyter == {"source_hidden": True} and cell.metadata.cellView == "form"


# ---- the address ----


def addresses(root):
    """The one in pyproject.toml; of each notebook the one in its second cell, and what its badge opens."""
    one = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["lab"]["repository"]
    cells, badges = set(), {}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        first, second = (cell.source for cell in nbformat.read(path, as_version=4).cells[:2])
        cells |= set(re.findall(r'^REPOSITORY = "(.*?)"', second, re.MULTILINE))
        badges[path.name] = re.findall(r"\]\(https://colab\.research\.google\.com/github/([^)]*)\)$", first)
        assert first.count("colab-badge") == len(badges[path.name])
    return one, cells, badges


def test_one_place_holds_the_address_and_every_cell_and_badge_agree():
    one, cells, badges = addresses(ROOT)
    assert cells == {one}
    on_github = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?", one)
    for name, found in badges.items():
        assert found == ([f"{on_github[1]}/blob/main/notebooks/{name}"] if on_github else []), name


@pytest.fixture
def copied(lab, tmp_path):
    """lab.py on a copy of what an address is written into."""
    (tmp_path / "notebooks").mkdir()
    for path in [ROOT / "pyproject.toml", ROOT / "notebooks" / "build.py", *NOTEBOOKS]:
        (tmp_path / path.relative_to(ROOT)).write_bytes(path.read_bytes())
    lab.ROOT, lab.NOTEBOOKS = tmp_path, tmp_path / "notebooks"
    return lab


def test_one_command_writes_it_everywhere_and_can_take_it_back(copied, capsys):
    copied.main(["address", ""])
    before = {path: path.read_bytes() for path in copied.notebooks()}
    for _ in range(2):  # the second time changes nothing
        copied.main(["address", "https://github.com/some-one/dpo.notebooks.git"])
    one, cells, badges = addresses(copied.ROOT)
    assert cells == {one} == {"https://github.com/some-one/dpo.notebooks.git"}
    assert badges["01_four_numbers.ipynb"] == ["some-one/dpo.notebooks/blob/main/notebooks/01_four_numbers.ipynb"]
    for path in copied.notebooks():
        nbformat.validate(nbformat.read(path, as_version=4))
    copied.main(["address", "https://example.org/dpo"])  # not on GitHub: the cell clones it, a badge cannot open it
    assert addresses(copied.ROOT)[1:] == ({"https://example.org/dpo"}, {path.name: [] for path in before})
    copied.main(["address", ""])
    assert {path: path.read_bytes() for path in before} == before
    assert "commit them" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["a", "b"], ["github.com/some/one"], ['https://x.y/"; import os'], ["https://x.y/a b"]]
)
def test_what_is_no_address_is_refused_and_nothing_is_written(copied, arguments):
    before = (copied.ROOT / "pyproject.toml").read_bytes()
    with pytest.raises(SystemExit) as caught:
        copied.main(["address", *arguments])
    assert "one address" in str(caught.value.code) and (copied.ROOT / "pyproject.toml").read_bytes() == before


def with_origin(folder, url):
    """Make `folder` a git repository with this remote."""
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    if url:
        subprocess.run(["git", "remote", "add", "origin", url], cwd=folder, check=True)


@pytest.mark.parametrize(
    "origin, address",
    [
        ("https://github.com/some-one/dpo.git", "https://github.com/some-one/dpo.git"),
        ("https://some-one:secret@github.com/some-one/dpo", "https://github.com/some-one/dpo"),
        ("git@github.com:some-one/dpo.git", "https://github.com/some-one/dpo.git"),
        ("ssh://git@example.org:2222/some/one/dpo.git", "https://example.org/some/one/dpo.git"),
    ],
)
def test_without_an_address_the_remote_gives_it(copied, origin, address):
    with_origin(copied.ROOT, origin)
    copied.main(["address"])
    one, cells, badges = addresses(copied.ROOT)
    assert cells == {one} == {address}
    assert all(bool(found) == ("github.com" in address) for found in badges.values())


@pytest.mark.parametrize("origin, said", [("", "has no address"), ("/srv/dpo", "not one that others can clone")])
def test_without_a_remote_that_others_can_clone_it_asks_for_the_address(copied, origin, said):
    with_origin(copied.ROOT, origin)
    before = (copied.ROOT / "pyproject.toml").read_bytes()
    with pytest.raises(SystemExit) as caught:
        copied.main(["address"])
    assert said in str(caught.value.code) and (copied.ROOT / "pyproject.toml").read_bytes() == before
