"""What a notebook's set-up cell does once the project is there: go to its notebooks, and install what Python lacks."""

import importlib.util
import os
import re
import subprocess
import sys


def main(home):
    """Make `toylib` importable from `home`, the project's folder; in a checkout that has it installed this does nothing."""
    if home != "..":
        os.chdir(os.path.join(home, "notebooks"))
    if importlib.util.find_spec("toylib"):
        return
    import tomllib

    sys.path.insert(0, os.path.abspath(".."))
    with open("../pyproject.toml", "rb") as file:
        needed = [re.match(r"[\w-]+", one).group() for one in tomllib.load(file)["project"]["dependencies"]]
    modules = {"markdown-it-py": "markdown_it"}  # whose name is not that of the package
    lacking = [name for name in needed if importlib.util.find_spec(modules.get(name, name)) is None]
    if lacking and subprocess.call([sys.executable, "-m", "pip", "install", "--quiet", "-e", ".."]):
        raise SystemExit(f"{', '.join(lacking)} could not be installed: check the network, then run again.")


main(home)  # noqa: F821  the set-up cell gives it: the folder of the project as seen from the notebook
