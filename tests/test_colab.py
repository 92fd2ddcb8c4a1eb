"""The slider of notebook 01 with what Colab has: ipywidgets 7.7.1, IPython 7.34, ipykernel 6.17, in the classic Notebook."""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from browser import CHROMIUM, NO_BROWSER, LiveFigure, chromium, jupyter

ROOT = Path(__file__).resolve().parent.parent
WANTED = ROOT / "tests" / "colab.txt"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason=NO_BROWSER)]

RAN = """() => {
    const cells = Jupyter.notebook.get_cells().filter(cell => cell.cell_type === 'code');
    return cells.every(cell => typeof cell.input_prompt_number === 'number') && !Jupyter.notebook.kernel_busy;
}"""
ERRORS = """() => Jupyter.notebook.get_cells().filter(cell => cell.cell_type === 'code')
    .flatMap(cell => cell.output_area.outputs).filter(output => output.output_type === 'error')"""


@pytest.fixture(scope="module")
def colab():
    """The Python of an environment with colab.txt, and below it all that this one has; made once, in this one's folder."""
    parts = WANTED.read_bytes() + sys.version.encode() + str(ROOT).encode()
    home = Path(sys.prefix) / f"colab-{hashlib.sha256(parts).hexdigest()[:12]}"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (home / "ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        for command in ([sys.executable, "-m", "venv", home], [python, "-m", "pip", "install", "-q", "-r", WANTED]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                shutil.rmtree(home, ignore_errors=True)
                said = (done.stderr or done.stdout).strip().splitlines()[-1:]
                pytest.skip(f"Colab's versions could not be installed (no network?): {' '.join(said)[:200]}")
        # Last, so that pip saw none of it: where a module is not in this environment, it comes from the one of the tests.
        site = sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)})
        (Path(site) / "below.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
        (home / "ready").touch()
    return python


def test_the_versions_are_colabs(colab):
    code = "import IPython, ipykernel, ipywidgets, notebook; print(ipywidgets.__version__, IPython.__version__, "
    code += "ipykernel.__version__, notebook.__version__)"
    said = subprocess.run([colab, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said[:3] == ["7.7.1", "7.34.0", "6.17.1"] and said[3].startswith("6.5.")


def test_notebook_01_runs_and_its_slider_moves_picture_and_numbers(colab, lab, tmp_path):
    shutil.copytree(ROOT / "notebooks", tmp_path / "copy" / "notebooks")
    command = (colab, "-m", "notebook")
    server = jupyter(tmp_path / "copy", tmp_path / "home", lab.venv_environment(), command=command)
    with server as address, chromium() as page:
        page.goto(address("notebooks/notebooks/01_four_numbers.ipynb"))
        page.wait_for_function(
            "() => window.Jupyter?.notebook?.kernel?.is_connected() && Jupyter.notebook._fully_loaded"
        )
        page.evaluate("() => { Jupyter.notebook.clear_all_output(); Jupyter.notebook.execute_all_cells(); }")
        page.wait_for_function(RAN, timeout=300_000)
        assert not page.evaluate(ERRORS)
        box = page.locator(".widget-vbox:has(.widget-tab)")
        box.wait_for()
        box.scroll_into_view_if_needed()
        LiveFigure(page, box).check(0.2)
        assert not [complaint for complaint in page.complaints if "Failed to load resource" not in complaint]
