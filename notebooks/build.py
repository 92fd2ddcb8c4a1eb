"""Run notebooks from fresh kernels, write them back formatted and normalised, and keep what other files say in step.

`python3 lab.py run` and `python3 lab.py build` start this with the Python of .venv: `build.py run|build NOTEBOOK ...`.
`python3 lab.py address` and `python3 lab.py map` need the standard library only and call `main` directly.
What takes long to import is imported where it is used, so that Ctrl-C ends it in a word at any moment.
"""

import ast
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIVE = '<div class="toylib-live"'  # how a live figure begins; toylib/widgets/live.py


def main(command, arguments):
    if command == "address":
        return write_address(arguments)
    if command == "map":
        return write_map()
    start = time.monotonic()
    for path in map(Path, arguments):
        notebook = formatted(path) if command == "build" else read(path)
        execute(notebook, path)
        if command == "build":
            write_live(notebook, path)
            write(normalised(notebook), path)
    print(f"{len(arguments)} notebooks: {(time.monotonic() - start) / 60:.1f} minutes.")


def write_address(arguments):
    """Write the repository's address into pyproject.toml, into every set-up cell, and into the badges that open Colab."""
    url = arguments[0].rstrip("/") if len(arguments) == 1 else "?" if arguments else address_of_origin()
    if not re.fullmatch(r"((https?|ssh|file)://|git@|/)[\w.:/~@+-]+|", url):
        sys.exit("lab.py: address takes one address to clone from, such as https://github.com/OWNER/NAME.")
    project = ROOT / "pyproject.toml"
    changes = [(project, r'^(repository = )".*"', f'"{url}"')]
    paths = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    changes += [(path, r'("REPOSITORY = )\\"[^"]*\\"', f'\\"{url}\\"') for path in paths]
    written = {}
    for path, pattern, new in changes:
        text = path.read_text(encoding="utf-8")
        written[path], count = re.subn(pattern, lambda found, new=new: found[1] + new, text, flags=re.MULTILINE)
        if not count:
            sys.exit(f"lab.py: {path.name} has no place for the address; nothing was written.")
    for path in paths:
        written[path] = with_badge(written[path], badge(url, path.name))
    for path, text in written.items():
        path.write_text(text, encoding="utf-8", newline="\n")
    print(f"{url or 'no address'}: in pyproject.toml and {len(paths)} notebooks; commit them.")


def address_of_origin():
    """Return the https address of the remote `origin`, without a user name or a password, or leave with a sentence."""
    try:
        command = ["git", "-C", ROOT, "remote", "get-url", "origin"]
        url = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        url = ""
    there = re.fullmatch(
        r"(?:https?://|ssh://|(?=[\w.-]+@[\w.-]+:))(?:[^/@]*@)?([\w.-]+)(?::\d+(?=/))?[:/]/*(.+?)/*", url
    )
    if not there:
        found = "is not one that others can clone" if url else "has no address"
        sys.exit(
            f"lab.py: the git remote `origin` {found}; give the address: lab.py address https://github.com/OWNER/NAME"
        )
    return f"https://{there[1]}/{there[2]}"


def badge(url, name):
    """Return the Markdown of the badge that opens notebook `name` in Colab, or "": Colab opens only what is on GitHub."""
    on_github = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?", url)
    colab = "https://colab.research.google.com"
    opens = f"{colab}/github/{on_github[1]}/blob/main/notebooks/{name}" if on_github else ""
    return f"[![Open in Colab]({colab}/assets/colab-badge.svg)]({opens})" if opens else ""


def with_badge(text, markdown):
    """Return a notebook's JSON with `markdown` as the last paragraph of its first cell, in place of any badge there."""
    notebook = json.loads(text)
    first = notebook["cells"][0]
    source = re.sub(r"\s*(· )?\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)", "", "".join(first["source"]))
    first["source"] = (source + f"\n\n{markdown}" * bool(markdown)).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def folder_map():
    """Return the README's table of toylib: its files and folders, their lines of Python, what their docstrings say first."""
    toylib = ROOT / "toylib"
    files = sorted(toylib.rglob("*.py"))
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in files}
    docstrings = {path: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for path in files}
    says = {path: re.split(r"(?<=[.?!])\s", docstring)[0] for path, docstring in docstrings.items()}
    order = re.search(r"in this order: ([\w, ]+)", docstrings[toylib / "__init__.py"]).group(1).split(", ")
    rows = ["| in `toylib/` | lines | |", "| --- | --- | --- |"]
    for path in [*(toylib / f"{name}.py" for name in order), toylib / "__init__.py", toylib / "__main__.py"]:
        rows.append(f"| `{path.name}` | {lines[path]} | {says[path]} |")
    for folder in sorted({path.parent for path in files} - {toylib}):
        inside = [path for path in files if path.parent == folder and path.name != "__init__.py"]
        total = lines[folder / "__init__.py"] + sum(lines[path] for path in inside)
        names = ", ".join(f"`{path.stem}` {lines[path]}" for path in inside)
        rows.append(f"| `{folder.name}/` | {total} | {says[folder / '__init__.py']} {names} |")
    return "\n".join([*rows, f"| all | {sum(lines.values()):,} | |"])


def write_map():
    """Write the folder map into the README, between its marks."""
    readme = ROOT / "README.md"
    old = r"(?<=<!-- map -->\n).*?(?=<!-- end of map -->)"
    parts = re.split(old, readme.read_text(encoding="utf-8"), flags=re.DOTALL)
    if len(parts) != 2:
        sys.exit("lab.py: README.md has no place for the map: two lines, <!-- map --> and <!-- end of map -->.")
    readme.write_text(f"\n{folder_map()}\n\n".join(parts), encoding="utf-8", newline="\n")


def read(path):
    """The notebook, with an id for each cell that has none: the first free of cell-01, cell-02, ..."""
    import nbformat

    notebook = json.loads(path.read_text(encoding="utf-8"))
    taken = {cell.get("id") for cell in notebook["cells"]}
    for number, cell in enumerate(notebook["cells"], 1):
        if "id" not in cell:
            while f"cell-{number:02d}" in taken:
                number += 1
            cell["id"] = f"cell-{number:02d}"
            taken.add(cell["id"])
    notebook["nbformat_minor"] = max(notebook["nbformat_minor"], 5)
    return nbformat.reads(json.dumps(notebook), as_version=4)


def formatted(path):
    """The notebook with its code as `ruff format` has it."""
    import nbformat

    ruff = [sys.executable, "-m", "ruff", "format", "--config", ROOT / "pyproject.toml", "--stdin-filename", path, "-"]
    done = subprocess.run(ruff, input=nbformat.writes(read(path)).encode(), capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"lab.py: {path.name} is not as ruff can format it: {done.stderr.decode(errors='replace').strip()}")
    return nbformat.reads(done.stdout.decode(), as_version=4)


def execute(notebook, path):
    """Run all cells in a fresh kernel, started in notebooks/, with progress; leave with the error of a cell that fails."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    start, count, at = time.monotonic(), len(notebook.cells), [0]

    def plain_interrupt(notebook):  # nbclient's own handling of ctrl-C ends in tracebacks
        if os.name != "nt":
            asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)

    def show(cell, cell_index, **_):
        at[0] = cell_index + 1
        if sys.stdout.isatty():
            print(f"\r{path.stem}: cell {at[0]} of {count}, {time.monotonic() - start:.0f} s ", end="", flush=True)

    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=1800,
        record_timing=False,
        store_widget_state=False,
        on_notebook_start=plain_interrupt,
        on_cell_start=show,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        clean = re.sub(r"\x1b\[[0-9;]*m", "", getattr(error, "traceback", "") or str(error))
        line = f"{error.ename}: {error.evalue}" if isinstance(error, CellExecutionError) else type(error).__name__
        print(f"\n{clean}", file=sys.stderr)
        sys.exit(f"lab.py: {path.name}, cell {at[0]} of {count}, failed with {line}")
    again = "\r" if sys.stdout.isatty() else ""
    print(f"{again}{path.stem}: {count} cells, {(time.monotonic() - start) / 60:.1f} minutes", flush=True)


def normalised(notebook):
    """Only what is worth committing: no widget state, no timings or versions, each stream in one piece.

    An output that has a PNG keeps it and its alternative text; HTML that shows the same goes to `write_live`.
    """
    python = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook["metadata"] = {"kernelspec": python, "language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    for cell in notebook["cells"]:
        for noise in ("execution", "ExecuteTime", "trusted", "collapsed", "scrolled"):
            cell["metadata"].pop(noise, None)
        if cell["cell_type"] == "code":
            cell["outputs"] = merged(cell["outputs"])
            for output in cell["outputs"]:
                data = output.get("data", {})
                data.pop("application/vnd.jupyter.widget-view+json", None)
                if "image/png" in data:
                    data.pop("text/html", None)
    return notebook


def write_live(notebook, path):
    """Write the live figures of a notebook, for pages: live/NN_CELL.html for a cell that shows one, and no other live/NN_*."""
    folder, number = path.parent / "live", path.name[:2]
    for old in folder.glob(f"{number}_*.html"):
        old.unlink()
    for cell in notebook["cells"]:
        pieces = [output.get("data", {}).get("text/html", "") for output in cell.get("outputs", [])]
        if live := [piece for piece in pieces if piece.startswith(LIVE)]:
            folder.mkdir(exist_ok=True)
            text = "\n".join(live) + "\n"
            (folder / f"{number}_{cell['id']}.html").write_text(text, encoding="utf-8", newline="\n")


def merged(outputs):
    """The outputs with neighbouring pieces of one stream put together, progress lines as a terminal shows them in the end.

    A stream that shows nothing is left out: it would be an empty bar on the page.
    """
    kept = []
    for output in outputs:
        if output["output_type"] != "stream":
            kept.append(output)
        elif kept and kept[-1].get("name") == output["name"]:
            kept[-1]["text"] += output["text"]
        else:
            kept.append(output)
    for output in kept:
        if output["output_type"] == "stream":
            output["text"] = "\n".join(map(overwritten, output["text"].replace("\r\n", "\n").split("\n")))
    return [output for output in kept if output["output_type"] != "stream" or output["text"].strip()]


def overwritten(line):
    """What is left of a line when each carriage return starts it over: "step 1\\rstep 2" is "step 2"."""
    shown = ""
    for piece in line.split("\r"):
        shown = piece + shown[len(piece) :]
    return shown.rstrip(" ") if "\r" in line else shown


def write(notebook, path):
    """Write beside the old file, then put it in its place in one step."""
    import nbformat

    new = path.with_name(f".{path.name}.new")
    new.write_text(nbformat.writes(nbformat.from_dict(notebook)) + "\n", encoding="utf-8", newline="\n")
    os.replace(new, path)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2:])
    except KeyboardInterrupt:
        print("\nlab.py: stopped.", file=sys.stderr, flush=True)
        os._exit(1)  # past nbclient's cleaning-up, which ends in tracebacks; a kernel ends when its parent has
