"""Notebooks in a real browser: a Jupyter server on a folder, Chromium on a page of it, and the few things done there."""

import contextlib
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib import util

import nbformat
import pytest
from nbformat.sign import NotebookNotary

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NO_BROWSER = "Chromium is not installed (Debian: apt install chromium)"

READY = """() => {
    const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
    const kernel = context?.session?.kernel;
    return context?.isReady && kernel?.connectionStatus === 'connected' && kernel.status === 'idle';
}"""
# Whether all cells ran since the kernel was started: their numbers are 1 to n, and the kernel rests.
RAN = """() => {
    const widget = window.jupyterapp.shell.currentWidget;
    const cells = [...widget.content.model.cells].filter(cell => cell.type === 'code');
    return cells.every((cell, at) => cell.executionCount === at + 1 && cell.executionState !== 'running')
        && widget.sessionContext.session.kernel.status === 'idle';
}"""
OUTPUTS = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells].filter(cell => cell.type === 'code')
    .flatMap(cell => cell.outputs.toJSON())"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def jupyter(folder, home, environment, *options, command=(sys.executable, "-m", "jupyterlab")):
    """A Jupyter server on `folder`, its settings and sessions under `home`; yields a function from path to address."""
    home.mkdir(parents=True, exist_ok=True)
    places = {
        "JUPYTER_CONFIG_DIR": home / "config",
        "JUPYTER_DATA_DIR": home / "data",
        "JUPYTER_RUNTIME_DIR": home / "runtime",
        "JUPYTERLAB_SETTINGS_DIR": home / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces",
        "IPYTHONDIR": home / "ipython",
    }
    port, token, log = free_port(), secrets.token_hex(16), home / "server.log"
    settings = ("--no-browser", "--allow-root", f"--port={port}", *options)
    environment = environment | {name: str(place) for name, place in places.items()} | {"JUPYTER_TOKEN": token}
    with log.open("w") as words:
        process = subprocess.Popen([*command, *settings], cwd=folder, env=environment, stdout=words, stderr=words)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, log.read_text()
                time.sleep(0.25)
        yield lambda path: f"http://127.0.0.1:{port}/{path}?token={token}"
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextlib.contextmanager
def chromium(width=1400, height=900):
    """A page of a fresh headless Chromium; `page.complaints` collects what it reports as errors."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(60_000)
        page.complaints = []
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
        yield page
        browser.close()


def trust(path, home):
    """Sign the notebook at `path`, so that a server with its settings under `home` trusts it."""
    (home / "data").mkdir(parents=True, exist_ok=True)
    NotebookNotary(data_dir=str(home / "data")).sign(nbformat.read(path, as_version=4))


@contextlib.contextmanager
def reopened(frontend, folder, home, environment):
    """A page of a fresh Chromium on `folder`/x.ipynb in `frontend`: "jupyterlab", "notebook" or "nbclassic"."""
    if not util.find_spec(frontend):
        pytest.skip(f"{frontend} is not installed")
    classic = "nbclassic/notebooks/x.ipynb" if util.find_spec("notebook") else "notebooks/x.ipynb"
    place = {"jupyterlab": "lab/tree/x.ipynb", "notebook": "notebooks/x.ipynb", "nbclassic": classic}[frontend]
    with jupyter(folder, home, environment, command=(sys.executable, "-m", frontend)) as address, chromium() as page:
        page.goto(address(place))
        yield page


def run_all(page, timeout=1500):
    """All cells of the notebook that JupyterLab shows, in a restarted kernel; waits for the end, `timeout` seconds."""
    page.wait_for_function(READY)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_timeout(1000)
    page.wait_for_function(RAN, timeout=1000 * timeout)


def scroll_to(page, found, count=1):
    """Bring `found` into view, all `count` of them; JupyterLab attaches cells only when they are scrolled to, and late."""
    cells = page.locator(".jp-Cell, .cell")
    for patience in (100, 500, 2000):
        for number in range(cells.count()):
            if found.count() >= count:
                break
            cells.nth(number).scroll_into_view_if_needed()
            page.wait_for_timeout(patience)
    found.first.scroll_into_view_if_needed()


class LiveFigure:
    """One live figure of a page: its slider, and what follows it."""

    def __init__(self, page, box):
        self.page, self.box = page, box
        self.slider = box.locator("input[type=range]").first
        self.picture = box.locator(".toylib-picture")

    def now(self):
        """The slider's value in words, the numbers that are seen, and what is seen: a layer, or a drawing of the page."""
        numbers = self.box.locator("[aria-live]").inner_text()
        seen = self.picture.locator("img:visible, svg:visible")
        drawn = seen.evaluate("one => one.tagName == 'IMG' ? one.src : one.innerHTML")
        return self.slider.get_attribute("aria-valuetext"), numbers, drawn

    def place(self):
        """Where the handle is, 0 at the left end of the track and 1 at the right one."""
        return self.slider.evaluate("slider => (slider.value - slider.min) / (slider.max - slider.min)")

    def size(self):
        box = self.box.bounding_box()
        return box["width"], box["height"]

    def drag(self, share):
        """Drag the handle by a share of the track."""
        at, box = self.place(), self.slider.bounding_box()
        x, y = box["x"] + 12 + at * (box["width"] - 24), box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + share * box["width"], y, steps=12)
        self.page.mouse.up()

    def press(self, key):
        self.slider.focus()
        self.page.keyboard.press(key)

    def check(self, share):
        """Drag it by a share of its track, press a key and press it back: all follows each time, and nothing jumps.

        It is dragged the other way where the track ends before that.
        """
        self.box.scroll_into_view_if_needed()
        painted = self.picture.screenshot()  # first, because what was never painted has no text yet
        start, size = self.now(), self.size()
        share = share if 0 <= self.place() + share <= 1 else -share
        self.drag(share)
        dragged = self.now()
        assert all(a != b for a, b in zip(start, dragged, strict=True)), (start[:2], dragged[:2])
        assert self.picture.screenshot() != painted
        key, back = ("ArrowLeft", "ArrowRight") if share > 0 else ("ArrowRight", "ArrowLeft")
        self.press(key)
        pressed = self.now()
        assert all(a != b for a, b in zip(dragged, pressed, strict=True)), (dragged[:2], pressed[:2])
        self.press(back)
        assert self.now() == dragged and self.size() == size
        assert dragged[0].replace("-", "−") in self.box.inner_text().replace("-", "−"), "the position can be read"
        assert self.slider.evaluate("slider => slider.labels[0].innerText.trim().length")
