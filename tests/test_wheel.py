"""A wheel works outside the checkout: it carries the shipped data, and the README's example runs from it."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # pip builds and installs

SCRIPT = """
import sys
from pathlib import Path

import torch
import toylib
from toylib.evaluation.judge import judge
from toylib.labs.sweep import load_sweep
from toylib.preferences import DATA, load_prompts
from transformers import TrainingArguments

assert Path(toylib.__file__).is_relative_to(sys.argv[1]), toylib.__file__
assert DATA == Path(toylib.__file__).parent / "data" and Path.cwd() not in DATA.parents

model, tokenizer = toylib.load_model()
pairs = {name: toylib.load_preferences(name) for name in ("support", "handwritten")}
toylib.load_preferences("templated", "balanced")
prompts = load_prompts("test")
assert min(len(pairs["support"]), len(pairs["handwritten"]), len(prompts)) > 20
table = judge([prompts[0]["prompt"]], [" Sorry about that."], [prompts[0]["intent"]])
assert len(table) == 1
assert all(len(frame) for frame in load_sweep())

torch.manual_seed(0)
arguments = TrainingArguments("run", max_steps=2, per_device_train_batch_size=2, report_to=[], use_cpu=True)
trainer = toylib.DPOTrainer(
    model, arguments, pairs["support"].select(range(8)), processing_class=tokenizer, beta=0.5
)
trainer.train()
assert trainer.state.global_step == 2
print("loss", trainer.state.log_history[-1]["train_loss"])
"""


def run(command, folder, **environment):
    """Run a command in `folder`, with nothing of this checkout on Python's path. Return what it printed."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=clean | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that pip builds from a copy of this checkout, where no earlier build can lend it a file."""
    root, folder = Path(__file__).resolve().parent.parent, tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("toylib", "data"):
        shutil.copytree(root / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    run([*pip, "--wheel-dir", folder / "built", source], folder)
    (built,) = (folder / "built").iterdir()
    return built


def test_the_wheel_is_small_and_holds_data_but_no_script_beside_it(wheel):
    assert wheel.stat().st_size <= 5_000_000
    names = zipfile.ZipFile(wheel).namelist()
    assert {"toylib/py.typed", "toylib/engine/trainer.py", "toylib/data/support-lm/model.safetensors"} <= set(names)
    assert {"toylib/widgets/interview.js", "toylib/widgets/interview.css"} <= set(names)
    data = [name for name in names if name.startswith("toylib/data/")]
    assert len(data) > 30 and not [name for name in data if name.endswith((".py", ".png", ".md"))]
    assert {name.split("/")[0].split("-")[0] for name in names} == {"toylib"}


def test_an_installed_wheel_works_from_another_folder(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run([sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel], elsewhere)
    (elsewhere / "script.py").write_text(SCRIPT, encoding="utf-8")
    cache = str(tmp_path / "cache")
    said = run([sys.executable, "script.py", site], elsewhere, PYTHONPATH=str(site), TOYLIB_CACHE=cache)
    loss = float(said.split("loss")[-1])
    assert 0.5 < loss < 0.8  # ln 2 before the first update
    shown = run([sys.executable, "-m", "toylib", "--help"], elsewhere, PYTHONPATH=str(site))
    assert "usage" in shown
