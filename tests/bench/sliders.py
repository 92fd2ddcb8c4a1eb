"""How fast a figure follows a slider, in JupyterLab in headless Chromium: ours, `interact`, Output with clear_output, and
an SVG that the page draws by itself, the floor. The same figure, taking turns, the handle dragged by the mouse.

Latency: from the pointer's move to the painted frame with a new picture, single moves. Frames/s: new pictures painted
while the handle is dragged to and fro. And what drawing curves costs a training run.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import nbformat

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
from browser import CHROMIUM, NO_BROWSER, OUTPUTS, chromium, jupyter, run_all
from curves import drawing_share
from slider_cells import CELLS, PROBE, SETUP, VARIANTS

from toylib import load_model

HANDLE = ".noUi-handle, input[type=range]"
TRACK = ".noUi-base, input[type=range]"


@contextlib.contextmanager
def notebook_of(cells):
    """A page of JupyterLab with a notebook of these cells, all run, the probe in place."""
    home = Path(tempfile.mkdtemp())
    (home / "notebooks").mkdir()
    python = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(metadata=python)
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in (SETUP, *cells.values())]
    nbformat.write(notebook, home / "notebooks" / "sliders.ipynb")
    options = ("--LabApp.expose_app_in_browser=True",)
    with jupyter(home / "notebooks", home / "home", dict(os.environ), *options) as address, chromium() as page:
        page.goto(address("lab/tree/sliders.ipynb"))
        run_all(page)
        errors = [output for output in page.evaluate(OUTPUTS) if output["output_type"] == "error"]
        assert not errors, errors
        page.evaluate(PROBE)
        yield page


class Slider:
    """The slider of the notebook's cell number `place`, held by the mouse."""

    def __init__(self, page, place):
        cell = page.locator(".jp-CodeCell").nth(place)
        cell.scroll_into_view_if_needed()
        cell.evaluate("cell => cell.scrollIntoView({block: 'end'})")
        page.wait_for_timeout(300)
        self.page, track = page, cell.locator(TRACK).first.bounding_box()
        self.left, self.width, self.y = track["x"] + 8, track["width"] - 16, track["y"] + track["height"] / 2
        handle = cell.locator(HANDLE).first
        at = "h => h.tagName === 'INPUT' ? (h.value - h.min) / (h.max - h.min) : null"
        share, box = handle.evaluate(at), handle.bounding_box()
        x = box["x"] + box["width"] / 2 if share is None else self.left + self.width * share
        page.mouse.move(x, self.y)
        page.mouse.down()

    def move(self, share):
        self.page.mouse.move(self.left + self.width * share, self.y)

    def forget(self):
        self.page.evaluate("() => { probe.moved.length = probe.painted.length = 0; }")

    def seen(self):
        return self.page.evaluate("() => [probe.moved, probe.painted]")

    def latencies(self, count):
        """Milliseconds of single moves, each begun when the picture of the last one had come."""
        found = []
        for number in range(count):
            self.forget()
            self.move(0.2 + 0.6 * (7 * number % count) / count)
            self.page.wait_for_function("() => probe.painted.length", timeout=20_000, polling=20)
            self.page.wait_for_timeout(120)
            moved, painted = self.seen()
            found.append(painted[0] - moved[0])
        return found

    def frames(self, seconds, speed=1.5):
        """New pictures a second while the handle goes to and fro, `speed` times its track a second.

        It goes on beyond `seconds` where no picture has come by then, for 20 seconds at the most: no rate is 0.
        """
        self.forget()
        started = time.monotonic()
        while (now := time.monotonic() - started) < seconds or (now < 20 and not self.seen()[1]):
            self.move(0.1 + 0.8 * abs((now * speed + 1) % 2 - 1))
            time.sleep(0.004)
        self.page.wait_for_timeout(50)
        self.move(0.5)  # a picture counts if it was there before the last move
        self.page.wait_for_timeout(700)
        moved, painted = self.seen()
        return 1000 * sum(at <= moved[-1] for at in painted) / (moved[-1] - moved[0])


def race(cells, rounds=3, moves=12, seconds=2.0):
    """Latencies in ms and frames/s of each cell's slider, name → (list, list); a first round is not counted."""
    times = {name: ([], []) for name in cells}
    with notebook_of(cells) as page:
        for turn in range(rounds + 1):
            for place, name in enumerate(cells, 1):
                slider = Slider(page, place)
                slider.move(0.15)
                page.wait_for_timeout(700)
                latencies, frames = slider.latencies(moves if turn else 2), slider.frames(seconds if turn else 0.5)
                page.mouse.up()
                page.wait_for_timeout(700)
                if turn:
                    times[name][0].extend(latencies)
                    times[name][1].append(frames)
    return times


def p95(values):
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def table(times):
    print(f"{'':24s}{'median ms':>10s}{'p95 ms':>8s}{'frames/s':>10s}")
    for name, (latencies, frames) in times.items():
        median = statistics.median(latencies)
        print(f"{name:24s}{median:10.0f}{p95(latencies):8.0f}{statistics.median(frames):10.1f}", flush=True)


def ratios(times):
    """What this series aims at, and what came out."""
    (ours, our_frames), (theirs, their_frames), (floor, _) = (
        times[name] for name in ("toylib", "interact", "SVG in the page")
    )
    frames = statistics.median(our_frames) / statistics.median(their_frames)
    print(f"frames/s: {frames:.1f} times interact's (aim: 4 or more)")
    print(f"p95 latency: {p95(ours) / p95(theirs):.3f} of interact's (aim: 0.25 or less)")
    median = statistics.median(ours) / statistics.median(floor)
    print(f"median latency: {median:.1f} times the floor's (aim: 3 or less)")
    print(f"p95 latency: {p95(ours) / p95(floor):.1f} times the floor's (aim: 4 or less)", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", action="store_true", help="also what was tried on the way")
    options = parser.parse_args()
    drawing_share(*load_model("support-lm", device="cpu"))
    if not CHROMIUM:
        sys.exit(f"sliders: {NO_BROWSER}.")
    times = race(CELLS | (VARIANTS if options.variants else {}), options.rounds)
    table(times)
    ratios(times)


if __name__ == "__main__":
    main()
