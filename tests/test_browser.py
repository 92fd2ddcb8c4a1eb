"""Every notebook with a slider as a reader meets it: JupyterLab in Chromium, all cells run, then reopened without a kernel.

With TOYLIB_SHOTS=folder it leaves screenshots of the whole notebook there, light and dark.
"""

import ast
import io
import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from browser import CHROMIUM, NO_BROWSER, OUTPUTS, LiveFigure, chromium, jupyter, run_all, scroll_to
from PIL import Image, ImageStat

ROOT = Path(__file__).resolve().parent.parent
NOT_SLIDERS = {"watch_training", "labeller"}
NO_KERNEL = ("--KernelSpecManager.ensure_native_kernel=False", "--KernelSpecManager.allowed_kernelspecs=none")
# What fails without a network (the Colab badge) and JupyterLab's own debugger are not ours.
NOT_OURS = ("Failed to load resource", "debugger state")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason=NO_BROWSER)]


def slider_cells(path):
    """How many cells of a notebook show a slider: they call what the notebook imports from toylib's widget modules."""
    sources = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    trees = [ast.parse(source) for source in sources]
    imports = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {name.asname or name.name for node in imports if "widgets" in str(node.module) for name in node.names}
    called = [
        {getattr(node.func, "id", None) for node in ast.walk(tree) if isinstance(node, ast.Call)} for tree in trees
    ]
    return sum(bool(calls & (names - NOT_SLIDERS)) for calls in called)


WITH_SLIDERS = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if slider_cells(path)]


@pytest.fixture
def served(lab, tmp_path):
    """JupyterLab on a copy of the notebooks, with the settings that lab.py gives it; what opens it, and the folder."""
    folder = Path(shutil.copytree(ROOT / "notebooks", tmp_path / "copy" / "notebooks"))

    def serve(home, *options):
        options = ("--LabApp.expose_app_in_browser=True", *options)
        return jupyter(folder.parent, tmp_path / home, lab.venv_environment(), *options)

    return serve, folder


def brightness(locator):
    """The mean of the element's pixels as painted, 0 to 255."""
    return ImageStat.Stat(Image.open(io.BytesIO(locator.screenshot())).convert("L")).mean[0]


def shots(page, name):
    """Screenshots of the notebook from top to bottom, where TOYLIB_SHOTS says so."""
    folder = os.environ.get("TOYLIB_SHOTS")
    if not folder:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    panel = page.locator(".jp-WindowedPanel-outer").first
    panel.evaluate("panel => panel.scrollTop = 0")
    for number in range(1, 60):
        page.wait_for_timeout(500)
        page.screenshot(path=Path(folder) / f"{name}_{number:02d}.png")
        before = panel.evaluate("panel => panel.scrollTop")
        panel.evaluate("panel => panel.scrollTop += panel.clientHeight - 60")
        if panel.evaluate("panel => panel.scrollTop") == before:
            return


def test_the_notebooks_with_sliders_are_found():
    assert {"01", "03"} <= {path.name[:2] for path in WITH_SLIDERS}


@pytest.mark.parametrize("path", WITH_SLIDERS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_sliders_move_picture_and_numbers(path, served):
    serve, _ = served
    with serve("home") as address, chromium() as page:
        page.goto(address(f"lab/tree/notebooks/{path.name}"))
        run_all(page)
        assert not [output for output in page.evaluate(OUTPUTS) if output["output_type"] == "error"]
        assert page.locator(".Toastify__toast, .jp-Dialog").count() == 0, "a pop-up covers the notebook"
        boxes = page.locator(".toylib-live")
        for theme in ("Light", "Dark"):
            page.evaluate(
                f"window.jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})"
            )
            page.wait_for_function(f"document.body.dataset.jpThemeLight === '{str(theme == 'Light').lower()}'")
            scroll_to(page, boxes, slider_cells(path))
            assert boxes.count() == slider_cells(path)
            for number in range(boxes.count()):
                live = LiveFigure(page, boxes.nth(number))
                live.check(0.2 if theme == "Light" else -0.2)
                glare = brightness(live.picture)
                assert 200 < glare < 253 if theme == "Light" else 150 < glare < 210, glare
            shots(page, f"{path.stem}_{theme.lower()}")
        assert not [complaint for complaint in page.complaints if not any(words in complaint for words in NOT_OURS)]
        page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
        page.wait_for_function("!window.jupyterapp.shell.currentWidget.context.model.dirty")

    # The next day, without a kernel: what the reader ran is trusted and live. Elsewhere it is not, and whole pictures stand.
    for home, live_too in (("home", True), ("elsewhere", False)):
        with serve(home, *NO_KERNEL) as address, chromium() as page:
            page.goto(address(f"lab/tree/notebooks/{path.name}"))
            page.locator(".jp-Dialog").get_by_role(
                "button", name="No Kernel"
            ).click()  # it asks which, as there is none
            boxes = page.locator(".toylib-live")
            scroll_to(page, boxes, slider_cells(path))
            assert boxes.count() == slider_cells(path)
            for number in range(boxes.count()):
                live = LiveFigure(page, boxes.nth(number))
                if live_too:
                    live.check(0.1)
                else:
                    assert not live.slider.is_visible() and live.box.locator("img:visible").count() == 1
                    picture = live.box.locator("img:visible")
                    assert (
                        picture.evaluate("image => image.naturalWidth") > 400 and len(picture.get_attribute("alt")) > 40
                    )
                    assert live.box.locator(":scope > .toylib-stack > div:visible").count() <= 2
            assert page.get_by_text("Error displaying widget").count() == 0


def test_the_mock_interview_asks_shows_grades_and_ends_by_keyboard_alone(served):
    serve, folder = served
    path = next(folder.glob("10_*.ipynb"))
    with serve("home") as address, chromium() as page:
        page.goto(address(f"lab/tree/notebooks/{path.name}"))
        run_all(page)
        assert page.locator(".jupyter-widgets").count() == 0, "no button needs the kernel"
        box = page.locator(".interview")
        scroll_to(page, box)
        button = lambda name: box.get_by_role("button", name=name, exact=True)
        box.get_by_label("Length").select_option("4 questions")
        assert button("Show the answer").is_disabled()
        button("Start").press("Enter")
        asked = []
        for grade in ("not yet", "partly", "I had it", "I had it"):
            asked.append(box.locator(".question").inner_text())
            assert box.get_by_role("timer").is_visible() and not box.get_by_text("A weak answer:").count()
            button("Show the answer").press("Enter")
            box.get_by_text("A weak answer:").wait_for()
            button(grade).press("Enter")
        box.get_by_text("That was it.").wait_for()
        review = box.locator(".answer").inner_text()
        assert len(set(asked)) == 4
        assert [question in review for question in asked] == [True, True, False, False]
        assert button("Start again").is_enabled()
        shots(page, f"{path.stem}_interview")
        assert not [complaint for complaint in page.complaints if not any(words in complaint for words in NOT_OURS)]


def test_the_benchmark_of_sliders_prints_its_table_and_its_ratios(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "bench"))
    import sliders

    times = sliders.race(sliders.CELLS, rounds=1, moves=2, seconds=0.5)
    sliders.table(times)
    sliders.ratios(times)
    said = capsys.readouterr().out
    for name in sliders.CELLS:
        assert re.search(rf"^{name} +[1-9]\d* +[1-9]\d* +\d+\.\d$", said, re.MULTILINE), said
    assert len(re.findall(r"\(aim: ", said)) == 4
