"""What `python3 lab.py` does before it opens JupyterLab: the reader's own copies of the notebooks, and their address."""

import secrets
import shutil
import socket
from pathlib import Path

FIRST = "01_four_numbers.ipynb"


def copy_notebooks(notebooks, work):
    """Copy the notebooks into the folder `work`, which git ignores: what is run or changed there never meets a `git pull`.

    A copy stays as it is until its original changes. Then the new one takes its place, and a copy that was run or changed
    moves to work/earlier. Returns the names of those that moved.
    """
    originals, moved = work / ".originals", []
    originals.mkdir(parents=True, exist_ok=True)
    for path in sorted(notebooks.glob("[0-9][0-9]_*.ipynb")):
        copy, original = work / path.name, originals / path.name
        if copy.exists() and original.exists() and original.read_bytes() == path.read_bytes():
            continue
        if copy.exists() and copy.read_bytes() not in (path.read_bytes(), original.exists() and original.read_bytes()):
            copy.rename(free_name(work / "earlier" / path.name))
            moved.append(path.name)
        for target in (copy, original):  # the original last: if this is cut off, the copy is looked at again
            part = target.with_name(f".{path.name}.part")
            shutil.copyfile(path, part)
            part.replace(target)
    return moved


def free_name(path):
    """Return `path`, or with a number in its name the first that is not taken: 01_x.ipynb, 01_x-2.ipynb, ..."""
    path.parent.mkdir(exist_ok=True)
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free


def free_port(arguments):
    """Return the port that the arguments ask for, or the first from 8888 on that nothing on this machine listens at."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, _, value = argument.partition("=")
        if name in ("--port", "--ServerApp.port") and (value or following).isdigit():
            return int(value or following)
    for port in range(8888, 8988):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise SystemExit("lab.py: every port from 8888 to 8987 is taken; name another with --port.")


def main(root, arguments, environment):
    """Make the copies, say on one line where the first is open and how to stop, and return JupyterLab's settings."""
    work = Path(root) / "work"
    moved = copy_notebooks(Path(root) / "notebooks", work)
    if moved:
        print(f"New in this version: {', '.join(moved)}. What you had of them is in work/earlier.")
    token = environment.setdefault("JUPYTER_TOKEN", secrets.token_hex(24))
    port, page = free_port(arguments), f"/lab/tree/work/{FIRST}"
    address = f"http://localhost:{port}{page}?token={token}"
    opens = f"Open {address} in a browser" if "--no-browser" in arguments else f"Your browser opens {address}"
    print(f"{opens}; to stop, press Ctrl-C twice here.")
    quiet = [
        "--log-level=ERROR",
        "--LabApp.log_level=ERROR",
        "--ServerApp.port_retries=0",
        "--KernelManager.transport_encryption=auto",  # a kernel's messages in plain text are worth a warning to ipykernel
        f"--LabApp.default_url={page}",
    ]
    return [*quiet, f"--ServerApp.port={port}"]
