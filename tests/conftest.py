"""What all tests share: the option --all and the mark `slow`, the repository's root, and lab.py and notebooks/build.py as modules."""

import importlib.util
import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="also the tests marked slow")


def pytest_configure(config):
    if config.pluginmanager.hasplugin("nbval"):
        compare_like_committed()
    config.addinivalue_line("markers", "slow: takes long or needs a browser; runs with --all only")
    config.reference_cache = tempfile.TemporaryDirectory()  # also of kernels and browsers: tests find what newcomers do
    os.environ["TOYLIB_CACHE"] = config.reference_cache.name


def pytest_unconfigure(config):
    config.reference_cache.cleanup()


def pytest_collection_modifyitems(config, items):
    if config.getoption("--all"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]
    config.left_out = Counter(item.path.name for item in slow)


def pytest_report_collectionfinish(config):
    left_out = getattr(config, "left_out", None)
    if left_out:
        names = ", ".join(f"{name} ({count})" for name, count in sorted(left_out.items()))
        return f"left out, because slow: {names}; with --all they are run"


def compare_like_committed():
    """Have nbval compare outputs as build.py commits them: where there is a PNG, the live HTML beside it is left out."""
    from nbval.plugin import IPyNbCell

    whole = IPyNbCell.compare_outputs

    def compare(self, test, ref, skip_compare=None):
        for output in test:
            if "image/png" in output.get("data", {}):
                output["data"].pop("text/html", None)
        return whole(self, test, ref, skip_compare)

    IPyNbCell.compare_outputs = compare


@pytest.fixture(scope="session")
def root():
    return ROOT


def freshly_loaded(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def lab():
    """lab.py, freshly loaded, so that a test may change its constants."""
    return freshly_loaded(ROOT / "lab.py")


@pytest.fixture
def build():
    """notebooks/build.py, which lab.py starts with the Python of .venv."""
    return freshly_loaded(ROOT / "notebooks" / "build.py")
