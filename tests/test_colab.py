"""The notebooks with what Colab has: from an empty folder by their bootstrap cell, and the slider in the classic Notebook."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest
from browser import CHROMIUM, NO_BROWSER, LiveFigure, chromium, jupyter

ROOT = Path(__file__).resolve().parent.parent
WANTED = ROOT / "tests" / "colab.txt"
OVER_TORCH = ("accelerate==1.14.0", "peft==0.20.0")  # Colab's too; without what they need, lest pip bring another torch
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0[1-8]_*.ipynb"))
pytestmark = pytest.mark.slow

RAN = """() => {
    const cells = Jupyter.notebook.get_cells().filter(cell => cell.cell_type === 'code');
    return cells.every(cell => typeof cell.input_prompt_number === 'number') && !Jupyter.notebook.kernel_busy;
}"""
CONNECTED = """() => {
    const kernel = window.Jupyter?.notebook?.kernel;
    return kernel?.is_connected() && Jupyter.notebook._fully_loaded && kernel.info_reply.protocol_version;
}"""
# The widget manager asks a new kernel for its widgets and then shows again what the notebook holds of them, even where
# that is just being shown: give it time for its answers before cells run.
ASKED = """async () => {
    for (const turn of [1, 2, 3])
        await new Promise(answered => Jupyter.notebook.kernel.comm_info('jupyter.widget', answered));
}"""
NOT_OURS = (
    "Failed to load resource",
    "Access to font at 'about:blank'",
)  # a badge offline; ipywidgets' own style sheet
ERRORS = """() => Jupyter.notebook.get_cells().filter(cell => cell.cell_type === 'code')
    .flatMap(cell => cell.output_area.outputs).filter(output => output.output_type === 'error')"""


@pytest.fixture(scope="module")
def colab():
    """The Python of an environment with colab.txt, and below it all that this one has; made once, in this one's folder."""
    parts = WANTED.read_bytes() + str((OVER_TORCH, sys.version)).encode()
    home = Path(sys.prefix) / f"colab-{hashlib.sha256(parts).hexdigest()[:12]}"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (home / "ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        pip = [python, "-m", "pip", "install", "-q"]
        for command in (
            [sys.executable, "-m", "venv", home],
            [*pip, "-r", WANTED],
            [*pip, "--no-deps", *OVER_TORCH],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                shutil.rmtree(home, ignore_errors=True)
                said = (done.stderr or done.stdout).strip().splitlines()[-1:]
                pytest.skip(f"Colab's versions could not be installed (no network?): {' '.join(said)[:200]}")
        # Last, so that pip saw none of it: where a module is not in this environment, it comes from the one of the tests.
        site = sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)})
        (Path(site) / "below.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        (home / "ready").touch()
    return python


def test_the_versions_are_colabs(colab):
    names = ("ipywidgets", "IPython", "ipykernel", "transformers", "accelerate", "datasets", "pandas", "matplotlib")
    code = f"import {', '.join(names)}; print(*[module.__version__ for module in ({', '.join(names)})])"
    said = subprocess.run([colab, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said == ["7.7.1", "7.34.0", "6.17.1", "5.15.0", "1.14.0", "4.0.0", "2.2.3", "3.10.0"]
    alone = subprocess.run(
        [colab, "-c", "import toylib"], cwd=colab.parent, capture_output=True, text=True, check=False
    )
    assert "No module named 'toylib'" in alone.stderr


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A git repository with the files of this one as they are now: what the bootstrap cell is to clone."""
    folder = tmp_path_factory.mktemp("repository")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in filter(
        None, subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    ):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "all"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opened_alone_fetches_the_rest_and_runs(path, colab, repository, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    kernel, content = tmp_path / "jupyter" / "kernels" / "colab", tmp_path / "content"
    for folder in (kernel, content):
        folder.mkdir(parents=True)
    argv = [str(colab), "-m", "ipykernel_launcher", "--IPKernelApp.log_level=ERROR", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Colab", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    notebook = nbformat.read(path, as_version=4)
    address = f"REPOSITORY = {str(repository)!r}"
    notebook.cells[1].source, count = re.subn(
        r'^REPOSITORY = ".*"', address, notebook.cells[1].source, flags=re.MULTILINE
    )
    assert count == 1
    NotebookClient(
        notebook,
        kernel_name="colab",
        timeout=900,
        store_widget_state=False,
        resources={"metadata": {"path": str(content)}},
    ).execute()  # fails at the first cell that does
    assert (content / "dpo-notebooks" / "toylib").is_dir()


@pytest.mark.skipif(not CHROMIUM, reason=NO_BROWSER)
def test_notebook_01_runs_and_its_slider_moves_picture_and_numbers(colab, lab, tmp_path):
    shutil.copytree(ROOT / "notebooks", tmp_path / "copy" / "notebooks")
    command = (colab, "-m", "notebook")
    environment = lab.venv_environment() | {"PYTHONPATH": str(ROOT)}
    server = jupyter(tmp_path / "copy", tmp_path / "home", environment, command=command)
    with server as address, chromium() as page:
        page.goto(address("notebooks/notebooks/01_four_numbers.ipynb"))
        page.wait_for_function(CONNECTED)
        page.evaluate(ASKED)
        page.wait_for_timeout(1000)
        page.evaluate("() => { Jupyter.notebook.clear_all_output(); Jupyter.notebook.execute_all_cells(); }")
        page.wait_for_function(RAN, timeout=300_000)
        assert not page.evaluate(ERRORS)
        box = page.locator(".toylib-live").first
        box.wait_for()
        box.scroll_into_view_if_needed()
        LiveFigure(page, box).check(0.2)
        assert not [complaint for complaint in page.complaints if not any(words in complaint for words in NOT_OURS)]
