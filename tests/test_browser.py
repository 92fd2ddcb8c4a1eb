"""Notebook 01 as a reader meets it: JupyterLab in Chromium, all cells run, the β slider moved by mouse and by keyboard.

With TOYLIB_SHOTS=folder it leaves screenshots of the whole notebook there, light and dark.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed (Debian: apt install chromium)"),
]

READY = """() => {
    const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
    const kernel = context?.session?.kernel;
    return context?.isReady && kernel?.connectionStatus === 'connected' && kernel.status === 'idle';
}"""
CELLS = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells].filter(cell => cell.type === 'code')
    .map(cell => ({count: cell.executionCount, outputs: cell.outputs.toJSON()}))"""
# Whether all cells ran since the kernel was started: their numbers are 1 to n, and the kernel rests.
RAN = """() => {
    const widget = window.jupyterapp.shell.currentWidget;
    const cells = [...widget.content.model.cells].filter(cell => cell.type === 'code');
    return cells.every((cell, at) => cell.executionCount === at + 1 && cell.executionState !== 'running')
        && widget.sessionContext.session.kernel.status === 'idle';
}"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(params=["Light", "Dark"])
def theme(request):
    return request.param


@pytest.fixture
def server(lab, root, tmp_path, theme):
    """JupyterLab on a copy of the repository, with the settings that lab.py gives it; yields its address with the token."""
    unwanted = shutil.ignore_patterns(".venv", ".git", "__pycache__", "*.egg-info", ".*_cache")
    copy = Path(shutil.copytree(root, tmp_path / "copy", ignore=unwanted))
    settings = tmp_path / "settings" / "@jupyterlab" / "apputils-extension" / "themes.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(f'{{"theme": "JupyterLab {theme}"}}')
    environment = lab.venv_environment() | {
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"),
    }
    port, token = free_port(), secrets.token_hex(16)
    options = [
        "--no-browser",
        "--allow-root",
        f"--ServerApp.root_dir={copy}",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        "--LabApp.expose_app_in_browser=True",
    ]
    log = (tmp_path / "server.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options], cwd=copy, env=environment, stdout=log, stderr=log
    )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.25)
        yield f"http://127.0.0.1:{port}/lab/tree/notebooks/01_four_numbers.ipynb?token={token}"
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()


@pytest.fixture
def page(server):
    """The notebook, open at 1400 x 900, all of its cells run; `page.complaints` collects what the page reports as errors."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(60_000)
        page.complaints = []
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
        page.goto(server)
        page.wait_for_function(READY)
        page.get_by_role("menuitem", name="Kernel", exact=True).click()
        page.get_by_role("menuitem", name="Restart Kernel and Run All Cells…", exact=True).click()
        page.get_by_role("button", name="Confirm Kernel Restart").click()
        page.wait_for_timeout(2000)
        page.wait_for_function(RAN, timeout=300_000)
        yield page
        browser.close()


def shots(page, name):
    """Screenshots of the notebook from top to bottom, where TOYLIB_SHOTS says so."""
    folder = os.environ.get("TOYLIB_SHOTS")
    if not folder:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    panel = page.locator(".jp-Notebook .jp-WindowedPanel-outer, .jp-WindowedPanel-outer").first
    panel.evaluate("panel => panel.scrollTop = 0")
    for number in range(1, 40):
        page.wait_for_timeout(600)
        page.screenshot(path=Path(folder) / f"{name}_{number:02d}.png")
        before = panel.evaluate("panel => panel.scrollTop")
        panel.evaluate("panel => panel.scrollTop += panel.clientHeight - 60")
        if panel.evaluate("panel => panel.scrollTop") == before:
            return


def test_notebook_01_runs_and_its_slider_moves_figure_and_readout(page, theme):
    cells = page.evaluate(CELLS)
    assert cells and not [out for cell in cells for out in cell["outputs"] if out["output_type"] == "error"]
    assert page.evaluate("document.body.dataset.jpThemeLight") == str(theme == "Light").lower()
    assert page.locator(".Toastify__toast, .jp-Dialog").count() == 0, "a pop-up covers the notebook"

    # ipywidgets gives a slider no accessible name of its own: its label stands beside it.
    row = page.locator(".widget-slider", has=page.locator(".widget-label", has_text="β")).first
    for number in range(page.locator(".jp-CodeCell").count()):  # cells far below are attached when scrolled to
        if row.count():
            break
        page.locator(".jp-CodeCell").nth(number).scroll_into_view_if_needed()
        page.wait_for_timeout(200)
    assert row.count() == 1, "no slider labelled β"
    handle = row.get_by_role("slider")
    around = page.locator(".widget-vbox", has=row).last
    picture, readout, value = (
        around.locator("img"),
        around.locator(".widget-html").first,
        row.locator(".widget-readout"),
    )
    handle.scroll_into_view_if_needed()

    def shown():
        return picture.get_attribute("src"), readout.inner_text(), float(value.inner_text())

    def after(moved):
        """What is shown once picture, readout and value have all changed, or after 20 seconds."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and any(old == new for old, new in zip(moved, shown(), strict=True)):
            page.wait_for_timeout(100)
        page.wait_for_timeout(500)
        return shown()

    assert picture.evaluate("image => image.complete && image.naturalWidth") > 400
    start = shown()
    handle.hover()
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.down()
    page.mouse.move(x + 60, y, steps=12)
    page.mouse.up()
    dragged = after(start)
    assert dragged[2] > start[2] and dragged[0] != start[0] and dragged[1] != start[1]

    handle.focus()
    page.keyboard.press("ArrowRight")
    pressed = after(dragged)
    assert pressed[2] > dragged[2] and pressed[0] != dragged[0] and pressed[1] != dragged[1]

    # What fails without a network (the Colab badge) and JupyterLab's own debugger are not ours.
    not_ours = ("Failed to load resource", "debugger state")
    assert not [complaint for complaint in page.complaints if not any(words in complaint for words in not_ours)]
    shots(page, f"01_{theme.lower()}")
