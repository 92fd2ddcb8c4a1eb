"""Put the shipped data into a wheel, as toylib/data. An editable install reads the checkout's data/ instead.

Everything else about the package is in pyproject.toml.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

DATA = Path(__file__).resolve().parent / "data"
FOLDERS = ("support", "handwritten", "templated", "prompts", "text", "results", "support-lm")
ENDINGS = (".json", ".jsonl", ".toml", ".csv", ".safetensors", ".jinja")


class BuildWithData(build_py):
    """Build the Python files as usual, then copy the data files next to them."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for folder in FOLDERS:
            files = [path for path in sorted((DATA / folder).iterdir()) if path.suffix in ENDINGS]
            if not files:
                raise FileNotFoundError(f"data/{folder} holds no data file, so the wheel would not work")
            target = Path(self.build_lib, "toylib", "data", folder)
            target.mkdir(parents=True, exist_ok=True)
            for path in files:
                self.copy_file(str(path), str(target / path.name))


setup(cmdclass={"build_py": BuildWithData})
