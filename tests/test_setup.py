"""lab.py and what it sets up: one sentence for each thing that is missing, a stamp, notebooks that come out the same."""

import ast
import collections
import errno
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
import tomllib

import nbformat
import pytest
import yaml

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
EIGHT = {"jupyterlab", "torch", "transformers", "matplotlib", "ipywidgets", "pandas", "nbval", "datasets"}


@pytest.fixture
def fake(lab, tmp_path, monkeypatch):
    """lab.py in an empty repository, where nothing is installed."""
    lab.ROOT, lab.NOTEBOOKS, lab.VENV = tmp_path, tmp_path / "notebooks", tmp_path / ".venv"
    lab.NOTEBOOKS.mkdir()
    (tmp_path / "pyproject.toml").write_text('[build-system]\nrequires = ["setuptools"]\n')
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\n")
    monkeypatch.setattr(lab.shutil, "which", lambda name: None)
    return lab


def sentence(caught):
    """The sentence with which lab.py left: one line, ending in a full stop, and no traceback."""
    said = str(caught.value.code)
    assert said.startswith("lab.py") and said.endswith(".") and "\n" not in said
    return said


# ---- one sentence for each thing that can be missing ----


def test_old_python_is_told_so_in_one_sentence(root):
    code = (
        "import runpy, sys, collections;"
        "sys.version_info = collections.namedtuple('V', 'major minor micro')(3, 8, 18);"
        "runpy.run_path('lab.py', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "lab.py needs Python 3.11 or newer, and this one is 3.8."


def test_lab_parses_under_an_old_python(root):
    source = (root / "lab.py").read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 7))
    # The version is looked at before anything else is imported, run or defined.
    first = [node for node in tree.body if not isinstance(node, ast.Expr)][:2]
    assert isinstance(first[0], ast.Import) and [alias.name for alias in first[0].names] == ["sys"]
    assert isinstance(first[1], ast.If) and "sys.version_info" in ast.unparse(first[1].test)


def test_lab_itself_imports_the_standard_library_only(root):
    tree = ast.parse((root / "lab.py").read_text(encoding="utf-8"))
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    assert names <= sys.stdlib_module_names
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        imported = {
            alias.name.split(".")[0]
            for node in ast.walk(function)
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert imported <= sys.stdlib_module_names, function.name
        assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(function)), function.name


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_python_without_venv_names_the_debian_package(fake, monkeypatch, missing):
    find = fake.importlib.util.find_spec
    monkeypatch.setattr(fake.importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(SystemExit) as caught:
        fake.ensure_venv()
    assert f"apt install python3.{sys.version_info.minor}-venv" in sentence(caught)
    assert not fake.VENV.exists()


def test_too_little_disk_is_said_with_both_numbers(fake, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(fake.shutil, "disk_usage", lambda path: usage(10**10, 10**10 - 10**9, 10**9))
    with pytest.raises(SystemExit) as caught:
        fake.ensure_venv()
    assert "about 3 GB" in sentence(caught) and "1.0 GB free" in sentence(caught)
    assert not fake.VENV.exists()


@pytest.mark.parametrize(
    "words, expected",
    [
        ("Failed to establish a new connection: [Errno -3] Temporary failure in name resolution", "no network"),
        ("error: error sending request for url", "no network"),
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("ERROR: something else", "the installer failed on the rest"),
    ],
)
def test_a_failing_installer_leaves_one_sentence_and_its_log(fake, capfd, words, expected):
    fake.VENV.mkdir()
    with pytest.raises(SystemExit) as caught:
        fake.install("the rest, two minutes", [sys.executable, "-c", f"print({words!r}); raise SystemExit(1)"])
    log = fake.VENV / "install.log"
    assert expected in sentence(caught) and str(log) in sentence(caught)
    assert words in log.read_text()
    assert words not in "".join(capfd.readouterr())
    assert not (fake.VENV / "stamp").exists()


def test_a_failed_install_is_taken_up_again_next_time(fake, monkeypatch):
    steps = []

    def install(what, command):
        steps.append(what.split(",")[0])
        if len(steps) == 2:
            raise SystemExit("lab.py: no network.")
        if what.startswith("the virtual environment"):
            (fake.VENV / "pyvenv.cfg").write_text("version = 3.11.7")

    monkeypatch.setattr(fake, "install", install)
    with pytest.raises(SystemExit):
        fake.ensure_venv()
    assert not fake.is_ready()
    monkeypatch.setattr(fake, "is_whole", lambda modules: True)
    fake.ensure_venv()
    assert steps[1:3] == ["torch==2.13.0", "torch==2.13.0"]
    assert (fake.VENV / "stamp").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(fake, monkeypatch):
    def refuse():
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(fake, "ensure_venv", refuse)
    with pytest.raises(SystemExit) as caught:
        fake.main(["test"])
    assert "Permission denied" in sentence(caught)


@pytest.mark.parametrize("arguments", [["fly"], ["tset", "--all"]])
def test_an_unknown_command_is_answered_with_those_there_are(fake, arguments):
    with pytest.raises(SystemExit) as caught:
        fake.main(arguments)
    assert repr(arguments[0]) in sentence(caught) and "lab, test, run, build, bench, gpu, site" in sentence(caught)


def test_an_unknown_notebook_is_answered_with_those_there_are(fake):
    (fake.NOTEBOOKS / "01_first.ipynb").write_text("{}")
    (fake.NOTEBOOKS / "04_fourth.ipynb").write_text("{}")
    with pytest.raises(SystemExit) as caught:
        fake.main(["run", "4", "7"])
    assert sentence(caught) == "lab.py: there is no notebook 7; there are 01, 04."
    assert [path.name for path in fake.choose(["4", "01"])] == ["04_fourth.ipynb", "01_first.ipynb"]


# ---- the stamp ----


@pytest.fixture
def stamped(fake):
    python = fake.venv_bin("python")
    python.parent.mkdir(parents=True)
    python.touch()
    (fake.VENV / "pyvenv.cfg").write_text("version = 3.11.7")
    (fake.VENV / "stamp").write_text(fake.fingerprint())
    return fake


def test_a_stamped_venv_starts_at_once(stamped, monkeypatch):
    monkeypatch.setattr(stamped.subprocess, "Popen", None)
    monkeypatch.setattr(stamped, "install", None)
    stamped.ensure_venv()


@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt", ".venv/pyvenv.cfg"])
def test_a_change_makes_the_stamp_worthless(stamped, changed):
    assert stamped.is_ready()
    with (stamped.ROOT / changed).open("a") as file:
        file.write("\n# changed\n")
    assert not stamped.is_ready()


def test_a_venv_is_not_ready_without_stamp_or_python(stamped):
    (stamped.VENV / "stamp").rename(stamped.VENV / "other")
    assert not stamped.is_ready()
    (stamped.VENV / "other").rename(stamped.VENV / "stamp")
    stamped.venv_bin("python").unlink()
    assert not stamped.is_ready()


def test_a_venv_whose_installer_was_killed_is_made_anew(fake, monkeypatch):
    python = fake.venv_bin("python")
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    assert fake.is_whole("sys")
    (fake.VENV / "installing").touch()
    (fake.VENV / "half").touch()
    assert not fake.is_whole("sys")
    made = []
    monkeypatch.setattr(fake, "install", lambda what, command: made.append(what))
    monkeypatch.setattr(fake, "fingerprint", lambda: "")
    fake.ensure_venv()
    assert made[0].startswith("the virtual environment") and not (fake.VENV / "half").exists()


SECOND = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("lab", sys.argv[1])
lab = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lab)
lab.ROOT = pathlib.Path(sys.argv[2])
lab.VENV = lab.ROOT / ".venv"
lab.set_up = lambda: sys.exit("set up twice")
lab.ensure_venv()
"""


def test_a_second_lab_waits_until_the_first_has_set_up(fake, root, monkeypatch):
    seconds = []

    def set_up():  # the first is in the middle of it when the second starts
        second = subprocess.Popen(
            [sys.executable, "-c", SECOND, root / "lab.py", fake.ROOT], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        seconds.append(second)
        assert "another lab.py is setting up" in second.stdout.readline().decode()
        time.sleep(0.3)
        assert second.poll() is None
        python = fake.venv_bin("python")
        python.parent.mkdir(parents=True)
        python.touch()
        (fake.VENV / "pyvenv.cfg").touch()
        (fake.VENV / "stamp").write_text(fake.fingerprint())

    monkeypatch.setattr(fake, "set_up", set_up)
    fake.ensure_venv()
    _, errors = seconds[0].communicate(timeout=20)
    assert (seconds[0].returncode, errors) == (0, b"") and fake.is_ready()


def test_a_lab_that_was_killed_leaves_no_lock_behind(fake, root):
    held = "import lab, time; f = open('.venv.lock', 'w'); print(lab.take_lock(f), flush=True); time.sleep(60)"
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    holder = subprocess.Popen([sys.executable, "-c", held], cwd=fake.ROOT, env=environment, stdout=subprocess.PIPE)
    assert holder.stdout.readline().strip() == b"True"
    with (fake.ROOT / ".venv.lock").open("w") as lock:
        assert not fake.take_lock(lock)
        holder.kill()
        holder.wait()
        assert fake.take_lock(lock)
    holder.stdout.close()


# ---- what lab.py hands over to ----


@pytest.fixture
def handed(fake, monkeypatch):
    commands = []
    monkeypatch.setattr(fake, "ensure_venv", lambda: None)
    monkeypatch.setattr(fake, "hand_over", lambda *arguments: commands.append([str(a) for a in arguments]))
    for name in ("01_a", "02_b", "03_c", "04_d", "10_i"):
        (fake.NOTEBOOKS / f"{name}.ipynb").write_text("{}")
    fake.commands = commands
    return fake


def notebooks_in(command):
    return [re.sub(r".*/(\d\d)_.*", r"\1", word) for word in command if word.endswith(".ipynb")]


def test_quick_tests_run_01_to_03_and_10_and_say_what_they_leave_out(handed, capsys):
    handed.main(["test", "-q"])
    command = handed.commands[0]
    assert command[:3] == ["-m", "pytest", "tests"] and command[-1] == "-q" and "--all" not in command
    assert notebooks_in(command) == ["01", "02", "03", "10"]
    assert "leave out the notebooks 04;" in capsys.readouterr().out


def test_all_tests_run_every_notebook(handed, capsys):
    handed.main(["test", "--all"])
    assert notebooks_in(handed.commands[0]) == ["01", "02", "03", "04", "10"] and "--all" in handed.commands[0]
    assert "leave out" not in capsys.readouterr().out


def test_named_tests_are_the_only_ones_run(handed):
    handed.main(["test", "tests/test_loss.py::test_x", "-k", "x"])
    assert notebooks_in(handed.commands[0]) == [] and "tests" not in handed.commands[0]
    assert handed.commands[0][-3:] == ["tests/test_loss.py::test_x", "-k", "x"]


@pytest.mark.parametrize("arguments", [[], ["lab"], ["--no-browser"], ["lab", "--no-browser"]])
def test_lab_opens_a_copy_of_the_first_notebook_on_this_machine_only(handed, arguments, monkeypatch, capsys):
    monkeypatch.setattr(os, "environ", {"JUPYTER_TOKEN": "abc"})
    handed.main(arguments)
    command = handed.commands[0]
    assert command[1] == "jupyterlab" and "--LabApp.default_url=/lab/tree/work/01_four_numbers.ipynb" in command
    assert "--ServerApp.ip=localhost" in command
    assert not [word for word in command if "token" in word or "password" in word]
    assert ("--no-browser" in command) == ("--no-browser" in arguments)
    port = next(word.split("=")[1] for word in command if word.startswith("--ServerApp.port="))
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and f"http://localhost:{port}/lab/tree/work/01_four_numbers.ipynb?token=abc" in said
    assert ("opens" in said) == ("--no-browser" not in arguments) and "Ctrl-C" in said


def test_lab_makes_a_token_of_its_own_and_says_the_port_it_was_given(handed, monkeypatch, capsys):
    monkeypatch.setattr(os, "environ", {})
    handed.main(["--port", "9123"])
    token = os.environ["JUPYTER_TOKEN"]
    assert (
        len(token) >= 32
        and f"http://localhost:9123/lab/tree/work/01_four_numbers.ipynb?token={token}" in capsys.readouterr().out
    )


def test_lab_takes_the_next_port_where_one_is_in_use(handed):
    work = runpy.run_path(str(handed.HERE / "work.py"))
    first = work["free_port"]([])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        taken.listen()
        assert work["free_port"](["--no-browser"]) > first
    assert work["free_port"](["--port=1234"]) == work["free_port"](["--port", "1234"]) == 1234


@pytest.fixture
def copies(root, tmp_path):
    """Originals in one folder, and a function that copies them into another and returns both and what moved."""
    notebooks, work = tmp_path / "notebooks", tmp_path / "work"
    notebooks.mkdir()
    for name in ("01_a.ipynb", "02_b.ipynb"):
        (notebooks / name).write_text(f"{name} one")
    copy = runpy.run_path(str(root / "notebooks" / "work.py"))["copy_notebooks"]
    return notebooks, work, lambda: copy(notebooks, work)


def test_a_copy_that_was_run_stays_as_long_as_its_original_does(copies):
    notebooks, work, copy = copies
    assert copy() == [] and (work / "01_a.ipynb").read_text() == "01_a.ipynb one"
    (work / "01_a.ipynb").write_text("run")
    assert copy() == [] and (work / "01_a.ipynb").read_text() == "run"
    assert (notebooks / "01_a.ipynb").read_text() == "01_a.ipynb one" and not (work / "earlier").exists()


def test_when_the_original_changes_the_copy_follows_and_what_was_run_is_kept(copies):
    notebooks, work, copy = copies
    copy()
    for turn in ("two", "three"):
        (work / "01_a.ipynb").write_text(f"run before {turn}")
        for name in ("01_a.ipynb", "02_b.ipynb"):
            (notebooks / name).write_text(f"{name} {turn}")
        assert copy() == ["01_a.ipynb"]
        assert [(work / name).read_text() for name in ("01_a.ipynb", "02_b.ipynb")] == [
            f"01_a.ipynb {turn}",
            f"02_b.ipynb {turn}",
        ]
    kept = {path.name: path.read_text() for path in (work / "earlier").iterdir()}
    assert kept == {"01_a.ipynb": "run before two", "01_a-2.ipynb": "run before three"}


def test_a_copy_of_unknown_origin_is_never_lost(copies):
    _, work, copy = copies
    work.mkdir()
    (work / "01_a.ipynb").write_text("mine")
    assert copy() == ["01_a.ipynb"] and (work / "earlier" / "01_a.ipynb").read_text() == "mine"


def test_running_a_copy_does_not_stand_in_the_way_of_a_git_pull(root, tmp_path):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    copy = runpy.run_path(str(root / "notebooks" / "work.py"))["copy_notebooks"]
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    (theirs / "notebooks").mkdir(parents=True)
    (theirs / ".gitignore").write_bytes((root / ".gitignore").read_bytes())
    for text, command in (("one", ["init", "-q"]), ("one", None), ("two", None)):
        if command:
            subprocess.run([*git, *command], cwd=theirs, check=True)
            continue
        (theirs / "notebooks" / "01_a.ipynb").write_text(text)
        subprocess.run([*git, "add", "-A"], cwd=theirs, check=True)
        subprocess.run([*git, "commit", "-qm", text], cwd=theirs, check=True)
        if not ours.exists():
            subprocess.run([*git, "clone", "-q", theirs, ours], check=True)
            copy(ours / "notebooks", ours / "work")
            (ours / "work" / "01_a.ipynb").write_text("run")
    status = subprocess.run([*git, "status", "--porcelain"], cwd=ours, capture_output=True, text=True, check=True)
    assert status.stdout == ""
    subprocess.run([*git, "pull", "-q", "--ff-only"], cwd=ours, check=True)
    copy(ours / "notebooks", ours / "work")
    assert [(ours / "work" / name).read_text() for name in ("01_a.ipynb", "earlier/01_a.ipynb")] == ["two", "run"]


def test_run_takes_all_notebooks_or_some(handed):
    handed.main(["run"])
    handed.main(["build", "4", "1"])
    ran, built = handed.commands
    assert ran[0].endswith("build.py") and ran[1] == "run" and len(notebooks_in(ran)) == 5
    assert built[0].endswith("build.py") and built[1] == "build" and notebooks_in(built) == ["04", "01"]


def test_what_runs_in_venv_sees_its_own_packages_and_our_settings(lab, root, monkeypatch):
    for name in ("PYTHONPATH", "PYTHONHOME", "JUPYTER_PATH", "MPLBACKEND"):
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "theirs")
    environment = lab.venv_environment()
    assert not {"PYTHONPATH", "PYTHONHOME", "JUPYTER_PATH", "MPLBACKEND"} & set(environment)
    assert environment["JUPYTER_CONFIG_PATH"].split(lab.os.pathsep) == [str(root), "theirs"]
    assert environment["PATH"].startswith(str(lab.venv_bin("python").parent))


def test_jupyterlab_reads_our_settings(lab, monkeypatch, tmp_path):
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", lab.venv_environment()["JUPYTER_CONFIG_PATH"])
    from jupyterlab_server.settings_utils import _get_overrides

    overrides, error = _get_overrides(str(tmp_path))
    news = overrides["@jupyterlab/apputils-extension:notification"]
    assert not error and news["fetchNews"] == "false" and news["checkForUpdates"] is False


# ---- the files beside it ----


def requirements(pyproject):
    project = pyproject["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *extras["lab"], *extras["test"]]


def split(requirement):
    name, bound = re.fullmatch(r"([A-Za-z0-9_.-]+)\s*(.*)", requirement).groups()
    return name.lower(), bound


def test_environment_yml_is_in_step_with_pyproject(root):
    environment = yaml.safe_load((root / "environment.yml").read_text(encoding="utf-8"))
    pyproject = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge"]
    assert f"python{pyproject['project']['requires-python']}" in environment["dependencies"]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert "-e .[lab,test]" in pip
    named = dict(split(line) for line in pip if not line.startswith("-"))
    assert set(named) == EIGHT
    declared = dict(split(line) for line in requirements(pyproject))
    assert named == {name: declared[name] for name in EIGHT}


def test_every_constraint_meets_the_bounds_of_pyproject(root):
    from packaging.requirements import Requirement

    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pyproject = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    for requirement in map(Requirement, requirements(pyproject)):
        if requirement.name in pinned:
            assert requirement.specifier.contains(pinned[requirement.name]), str(requirement)
    assert {"torch", "transformers", "datasets", "jupyterlab", "numpy"} <= set(pinned)


def test_ci_runs_the_command_that_the_readme_names(root):
    script = (root / ".ci" / "run").read_text(encoding="utf-8")
    assert script.startswith("#!/usr/bin/env bash\n") and "set -euo pipefail" in script
    assert script.rstrip().endswith("python3 lab.py test --all")
    assert "python3 lab.py test --all" in (root / "README.md").read_text(encoding="utf-8")
    assert (root / ".ci" / "run").stat().st_mode & 0o111


def test_the_workflow_runs_the_command_of_ci_and_nothing_else(root):
    workflow = yaml.safe_load((root / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    assert [step["run"].split()[-1] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert job["runs-on"].startswith("ubuntu") and workflow["permissions"] == {"contents": "read"}


def test_the_citation_names_this_package_and_the_paper(root):
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert "arxiv.org/abs/2305.18290" in citation["references"][0]["url"]
    assert citation["references"][0]["url"] in (root / "README.md").read_text(encoding="utf-8")


def test_the_map_in_the_readme_is_that_of_today(root, build):
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert f"<!-- map -->\n\n{build.folder_map()}\n\n<!-- end of map -->" in readme, "run `python3 lab.py map`"
    for path in (root / "toylib").rglob("*.py"):
        assert path.name == "__init__.py" or re.search(rf"`{path.stem}(\.py)?`", build.folder_map()), path.name


def test_the_map_is_written_between_its_marks_and_nothing_else_changes(build, root, tmp_path):
    build.ROOT, readme = tmp_path, tmp_path / "README.md"
    (tmp_path / "toylib" / "wing").mkdir(parents=True)
    (tmp_path / "toylib" / "__init__.py").write_text('"""All. Read them in this order: one, two."""\n\n\n')
    for name, text in (("one", "First? Yes."), ("two", "Second."), ("__main__", "Starts."), ("wing/three", "Third.")):
        (tmp_path / "toylib" / f"{name}.py").write_text(f'"""{text}"""\n')
    (tmp_path / "toylib" / "wing" / "__init__.py").write_text('"""Wing."""\n')
    for old in ("", "old\n"):
        readme.write_text(f"before\n<!-- map -->\n{old}<!-- end of map -->\nafter\n", encoding="utf-8")
        build.main("map", [])
        written = readme.read_text(encoding="utf-8")
        assert written.startswith("before\n<!-- map -->\n\n|") and written.endswith("|\n\n<!-- end of map -->\nafter\n")
        assert written.count("| `one.py` | 1 | First? |\n") == 1 and "| `__init__.py` | 3 | All. |\n" in written
        assert "| `wing/` | 2 | Wing. `three` 1 |\n| all | 8 | |\n" in written
    readme.write_text("no marks\n")
    with pytest.raises(SystemExit) as caught:
        build.main("map", [])
    assert "<!-- map -->" in sentence(caught) and readme.read_text() == "no marks\n"


def test_contributing_is_one_page_and_names_files_that_are_there(root):
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    named = set(re.findall(r"[\w./]+/[\w.]+\.py|\.ci/run|lab\.py", text))
    assert len(named) > 4
    assert not [name for name in named if not ((root / name).is_file() or (root / "toylib" / name).is_file())]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("data/support/train.jsonl", "eol: lf"),
        ("data/text/refund.toml", "eol: lf"),
        ("data/results/flips.csv", "eol: lf"),
        ("data/support-lm/tokenizer.json", "eol: lf"),
        ("notebooks/01_four_numbers.ipynb", "eol: lf"),
        ("toylib/loss.py", "eol: lf"),
        (".ci/run", "eol: lf"),
        ("data/support-lm/model.safetensors", "text: unset"),
        ("data/results/beta_lab.png", "text: unset"),
    ],
)
def test_git_changes_no_line_end_of_text_and_no_byte_of_the_rest(root, name, expected):
    done = subprocess.run(
        ["git", "check-attr", "text", "eol", "--", name], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    assert f"{name}: {expected}" in done.stdout
    assert expected == "text: unset" or b"\r" not in (root / name).read_bytes()


def test_no_tracked_file_names_a_registry_or_a_place_on_one_machine(root):
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    forbidden = [
        "pypi" + r"\.org",
        "python" + r"hosted\.org",
        "registry" + r"\.npmjs",
        "deb" + r"\.debian\.org",
        r"/" + "opt/(wheels|pypi)",
        r"/" + r"root/",
        r"/" + r"work/(main|shared|\.)",
        r"/" + r"home/\w",
        r"/" + "tmp/(ipykernel|contract)",
    ]
    found = []
    for name in listed.stdout.decode().split("\0")[:-1]:
        path = root / name
        if path.suffix in (".safetensors", ".png") or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{name}: {hit.group()}" for pattern in forbidden for hit in re.finditer(pattern, text)]
    assert not found


# ---- notebooks: run and build ----

PROGRESS = """\
import sys, time
for step in range(1,4):
    print(f'\\rstep {step} of 3', end='' ,flush=True)
    time.sleep(.3)
print('\\nfinished')"""

PICTURE = """\
from IPython.display import display
from ipywidgets import FloatSlider
slider = FloatSlider(description="β")
view = slider._repr_mimebundle_()
view["text/plain"] = "a slider"
view["image/png"] = "iVBORw0KGgo="
display(view, raw=True, metadata={"image/png": {"alt": "a slider"}})"""


def synthetic(path, *sources):
    cells = [nbformat.v4.new_markdown_cell("# Title")]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    for cell in cells[1:]:
        del cell["id"]
        cell["metadata"] = {"execution": {"iopub.status.busy": "2026-01-01"}, "tags": ["keep"]}
    cells[0]["id"] = "title"
    metadata = {"widgets": {"state": {}}, "language_info": {"name": "python", "version": "3.9.1"}}
    path.write_text(json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}))
    return path


def inside(root, command, path):
    command = [sys.executable, root / "notebooks" / "build.py", command, path]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_build_writes_normalised_outputs_and_the_same_bytes_twice(root, tmp_path):
    path = synthetic(tmp_path / "01_x.ipynb", PROGRESS, PICTURE, "1/4")
    done = inside(root, "build", path)
    assert done.returncode == 0, done.stderr
    once = path.read_bytes()
    notebook = nbformat.reads(once.decode(), as_version=4)
    nbformat.validate(notebook)
    _, progress, picture, value = notebook.cells
    assert [cell.id for cell in notebook.cells] == ["title", "cell-02", "cell-03", "cell-04"]
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2, 3]
    assert [(out.name, out.text) for out in progress.outputs] == [("stdout", "step 3 of 3\nfinished\n")]
    assert set(picture.outputs[0].data) == {"image/png", "text/plain"}
    assert picture.outputs[0].metadata["image/png"]["alt"] == "a slider"
    assert value.outputs[0].data == {"text/plain": "0.25"}
    assert value.source == "1 / 4" and "range(1, 4)" in progress.source
    assert progress.metadata == {"tags": ["keep"]}
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3" and "version" not in notebook.metadata.language_info
    assert WIDGET_VIEW not in once.decode() and "widgets" not in notebook.metadata
    assert [file.name for file in tmp_path.iterdir()] == ["01_x.ipynb"]

    assert inside(root, "build", path).returncode == 0
    assert path.read_bytes() == once


def test_a_failing_cell_is_named_and_changes_no_file(root, tmp_path):
    path = synthetic(tmp_path / "01_x.ipynb", "x = 1", "1/0", "y = 2")
    before = path.read_bytes()
    done = inside(root, "build", path)
    assert done.returncode == 1
    last = "lab.py: 01_x.ipynb, cell 3 of 4, failed with ZeroDivisionError: division by zero"
    assert done.stderr.strip().splitlines()[-1] == last
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_run_starts_in_the_notebooks_folder_and_changes_no_file(root, tmp_path):
    path = synthetic(tmp_path / "01_x.ipynb", "from pathlib import Path", "assert Path('01_x.ipynb').exists()")
    before = path.read_bytes()
    done = inside(root, "run", path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^01_x: 3 cells, 0\.\d minutes$", done.stdout, re.MULTILINE)
    assert path.read_bytes() == before


def test_build_refuses_code_that_ruff_cannot_read(root, tmp_path):
    path = synthetic(tmp_path / "01_x.ipynb", "def (")
    before = path.read_bytes()
    done = inside(root, "build", path)
    assert done.returncode == 1 and "01_x.ipynb" in done.stderr and "Traceback" not in done.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "line, shown",
    [
        ("a\rb", "b"),
        ("abc\rX", "Xbc"),
        ("\rx", "x"),
        ("50 %\r", "50 %"),
        ("long text\rshort    ", "short"),
        ("a  ", "a  "),
    ],
)
def test_carriage_returns_leave_what_a_terminal_shows(build, line, shown):
    assert build.overwritten(line) == shown


def test_pieces_of_one_stream_become_one_but_stay_in_order(build):
    def stream(name, text):
        return {"output_type": "stream", "name": name, "text": text}

    figure = {"output_type": "display_data", "data": {}, "metadata": {}}
    pieces = [stream("stdout", "a"), stream("stdout", "b\n"), stream("stderr", "c"), figure, stream("stdout", "d")]
    expected = [stream("stdout", "ab\n"), stream("stderr", "c"), figure, stream("stdout", "d")]
    assert build.merged(pieces) == expected
    blank = [stream("stdout", ""), stream("stderr", " \n"), figure, stream("stdout", "step 1\r      \r")]
    assert build.merged(blank) == [figure], "a blank stream would be an empty bar on the page"


def test_new_cell_ids_are_the_first_that_are_free(build, tmp_path):
    cells = [nbformat.v4.new_markdown_cell(text) for text in "abc"]
    cells[0]["id"] = "cell-02"
    del cells[1]["id"], cells[2]["id"]
    path = tmp_path / "01_x.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}))
    assert [cell.id for cell in build.read(path).cells] == ["cell-02", "cell-03", "cell-04"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_ends_a_run_without_a_traceback(root, tmp_path):
    path = synthetic(tmp_path / "01_x.ipynb", "open('started', 'w').close()\nimport time\ntime.sleep(60)")
    command = [sys.executable, root / "notebooks" / "build.py", "run", path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for _ in range(300):
        if (tmp_path / "started").exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)[0]
    assert process.returncode == 1 and said.strip() == "lab.py: stopped."
