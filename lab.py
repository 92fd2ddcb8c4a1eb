#!/usr/bin/env python3
"""Everything in one command. It makes .venv beside this file, installs the project into it, and then

    python3 lab.py                        opens JupyterLab on the first notebook (also: lab --no-browser, lab --port 9000);
                                          you work on copies in work/, so that a later `git pull` always goes through
    python3 lab.py test [--all] [...]     runs the quick tests, or all of them; further arguments go to pytest
    python3 lab.py run [1 4 ...]          executes the notebooks, or some, from fresh kernels; changes no file
    python3 lab.py build [1 4 ...]        executes them and writes them back, formatted and normalised
    python3 lab.py bench [engine] [...]   times training against TRL; `sliders` times a figure behind a slider instead
    python3 lab.py gpu [--rehearse]       measures everything that needs a GPU; `--help` says what to bring there
    python3 lab.py site [--output site]   writes the notebooks as web pages, from their committed outputs
    python3 lab.py map                    writes the README's folder map anew, with the line counts of today
    python3 lab.py cards [--output FILE]  writes the interview's cards as TSV, for spaced repetition
    python3 lab.py address [URL]          writes URL, or that of the git remote `origin`, into every notebook, with a Colab badge

Standard library only, because it runs before anything is installed. What is done to notebooks is in notebooks/build.py.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  before anything that an older Python could stumble over
    sys.exit("lab.py needs Python 3.11 or newer, and this one is {}.{}.".format(*sys.version_info))

import hashlib
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
NOTEBOOKS = HERE = ROOT / "notebooks"
VENV = ROOT / ".venv"
QUICK = ("01", "02", "03", "10")  # the notebooks that the quick tests compare with their committed outputs
NEEDED_GB = 3
SCRIPTS = {"gpu": ROOT / "tests" / "bench" / "gpu_day.py", "site": NOTEBOOKS / "site.py"}
COMMANDS = ("lab", "test", "run", "build", "bench", "gpu", "site", "map", "cards", "address")
QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
OFFLINE = "resolution|ConnectionError|refused|unreachable|Max retries|timed out|dns error|error sending request|Failed to fetch"


def venv_bin(name):
    return VENV / "Scripts" / f"{name}.exe" if os.name == "nt" else VENV / "bin" / name


def fingerprint():
    """What .venv depends on. The place is part of it (an editable install remembers it), pyvenv.cfg knows the Python."""
    parts = [ROOT / "pyproject.toml", ROOT / "constraints.txt", VENV / "pyvenv.cfg"]
    return hashlib.sha256(str(ROOT).encode() + b"".join(p.read_bytes() for p in parts)).hexdigest()


def is_ready():
    try:
        return venv_bin("python").exists() and (VENV / "stamp").read_text() == fingerprint()
    except OSError:
        return False


def is_whole(modules):
    """Whether there is a .venv to build on: its Python starts, and no installer was killed half-way in it."""
    check = [venv_bin("python"), "-c", f"import {modules}; sys.exit(sys.version_info < (3, 11))"]
    try:
        return not (VENV / "installing").exists() and subprocess.call(check, **QUIET) == 0
    except OSError:
        return False


def take_lock(file):
    """Take the lock on an open file, and say whether that went well. The system lifts the lock when the process ends."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def ensure_venv():
    """Make .venv, unless the stamp says that this was done. A second lab.py waits, so that neither deletes the other's."""
    if is_ready():
        return
    with VENV.with_name(".venv.lock").open("w") as lock:
        if not take_lock(lock):
            print(f"lab.py: another lab.py is setting up {VENV}; this one goes on when it is done.", flush=True)
            while not take_lock(lock):
                time.sleep(0.2)
        if not is_ready():
            set_up()


def set_up():
    """Make .venv and install into it. The stamp is written last."""
    uv = shutil.which("uv")
    if not uv and not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        name = f"python3.{sys.version_info.minor}-venv"
        sys.exit(f"lab.py: this Python cannot make virtual environments; on Debian: apt install {name} (as root).")
    free_gb, whole = shutil.disk_usage(ROOT).free / 1e9, is_whole("sys" if uv else "sys, pip")
    if not whole and free_gb < NEEDED_GB:
        sys.exit(f"lab.py: the set-up needs about {NEEDED_GB} GB of disk, and {ROOT} has {free_gb:.1f} GB free.")
    print(f"Setting up {VENV} (once; about 3 minutes, longer on a slow line).", flush=True)
    if not whole:
        shutil.rmtree(VENV, ignore_errors=True)
        VENV.mkdir()
        make = [uv, "venv", "--allow-existing", "--python"] if uv else []
        make += [sys.executable] if uv else [sys.executable, "-m", "venv"]
        install("the virtual environment, a few seconds", [*make, VENV])

    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    torch = re.search(r"^torch==\S+", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE).group()
    pip = [uv, "pip", "install", "--python", venv_bin("python")] if uv else [venv_bin("python"), "-m", "pip", "install"]
    # The exact torch first and alone: some machines hold one small CPU build and answer nothing else with it.
    install(f"{torch}, the largest part, about a minute", [*pip, torch])
    # The build backend is installed like everything else, so that nothing is downloaded where all is there already.
    install("what builds the package", [*pip, *project["build-system"]["requires"]])
    rest = ["--no-build-isolation", "-c", "constraints.txt", "-e", ".[lab,test]"]
    install("JupyterLab, transformers and the rest, about two minutes", [*pip, *rest])
    (VENV / "stamp").write_text(fingerprint())


def install(what, command):
    """Run one installer, its words in .venv/install.log; where it fails, leave with one sentence."""
    log, busy, start = VENV / "install.log", VENV / "installing", time.monotonic()
    terminal = sys.stdout.isatty()
    environment = {**venv_environment(), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    if "PIP_FIND_LINKS" in environment:  # uv reads none of pip's settings
        environment.setdefault("UV_FIND_LINKS", environment["PIP_FIND_LINKS"])
    print(f"  {what} ...", end="" if terminal else "\n", flush=True)
    busy.touch()
    with log.open("ab") as words:
        began = words.tell()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, **QUIET | {"stdout": words, "stderr": words})
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if terminal:
                    print(f"\r  {what} ... {time.monotonic() - start:.0f} s", end="", flush=True)
        finally:
            process.kill()
    if terminal:
        print()
    said = log.read_bytes()[began:].decode(errors="replace")
    if "No space left" in said:
        sys.exit(f"lab.py: the disk is full; make room (about {NEEDED_GB} GB) and start again; see {log}.")
    busy.unlink()
    if process.returncode:
        offline, failed = "no network, or it broke off: connect and start again", f"the installer failed on {what}"
        problem = offline if re.search(OFFLINE, said) else failed.split(",")[0]
        sys.exit(f"lab.py: {problem}; the installer's words are in {log}.")


def venv_environment():
    """The environment for what runs in .venv: its Python, its kernel, our JupyterLab settings (labconfig/), nobody else's."""
    foreign = ("PYTHONHOME", "PYTHONPATH", "JUPYTER_PATH", "MPLBACKEND")
    environment = {name: value for name, value in os.environ.items() if name not in foreign}
    for name, ours in (("PATH", venv_bin("python").parent), ("JUPYTER_CONFIG_PATH", ROOT)):
        environment[name] = os.pathsep.join(filter(None, [str(ours), os.environ.get(name)]))
    return environment | {"VIRTUAL_ENV": str(VENV), "JUPYTER_PREFER_ENV_PATH": "1"}


def hand_over(*arguments):
    """Go on as .venv's Python with these arguments; does not return."""
    command = [str(venv_bin("python")), *map(str, arguments)]
    os.chdir(ROOT)
    sys.stdout.flush()
    if os.name != "nt":
        os.execve(command[0], command, venv_environment())
    process = subprocess.Popen(command, env=venv_environment())
    while True:
        try:
            sys.exit(process.wait())
        except KeyboardInterrupt:  # the process has it as well, and decides
            continue


def lab(arguments):
    """Open JupyterLab on the reader's own copy of the first notebook. The token goes by the environment: `ps` shows arguments."""
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    settings = [f"--ServerApp.root_dir={ROOT}", "--ServerApp.ip=localhost", *root]
    settings += runpy.run_path(str(HERE / "work.py"))["main"](ROOT, arguments, os.environ)
    hand_over("-m", "jupyterlab", *settings, *arguments)


def test(arguments):
    """One pytest for everything, so that its last line counts everything."""
    every, arguments = "--all" in arguments, [a for a in arguments if a != "--all"]
    named = [a for a in arguments if a.split("::")[0].endswith((".py", ".ipynb")) or a.startswith("tests")]
    chosen = [path for path in notebooks() if every or path.name[:2] in QUICK]
    left_out = [path.name[:2] for path in notebooks() if path not in chosen]
    if left_out and not named:
        print(f"The quick tests leave out the notebooks {', '.join(left_out)}; with --all everything is run.")
    nbval = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=300", "--nbval-sanitize-with=tests/nbval.cfg"]
    what = [] if named else ["tests", *(path.relative_to(ROOT).as_posix() for path in chosen)]
    hand_over("-m", "pytest", *what, *nbval, *(["--all"] if every else []), *arguments)


def bench(arguments):
    name, *rest = arguments if arguments and not arguments[0].startswith("-") else ["engine", *arguments]
    if name not in ("engine", "sliders"):
        sys.exit(f"lab.py: there is no benchmark {name}; there are engine, sliders.")
    hand_over(ROOT / f"tests/bench/{name}.py", *rest)


def notebooks():
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def choose(numbers):
    """The notebooks with these numbers ("1" or "01"), or all."""
    there = {path.name[:2]: path for path in notebooks()}
    unknown = [number for number in numbers if number.zfill(2) not in there]
    if unknown or not there:
        sys.exit(f"lab.py: there is no notebook {', '.join(unknown)}; there are {', '.join(there) or 'none yet'}.")
    return [there[number.zfill(2)] for number in numbers] if numbers else list(there.values())


def main(arguments):
    command, *rest = arguments if arguments and not arguments[0].startswith("-") else ["lab", *arguments]
    if arguments[:1] in (["-h"], ["--help"], ["help"]):
        print(__doc__)
    elif command not in COMMANDS:
        there = ", ".join(COMMANDS[:-1])
        sys.exit(f"lab.py: there is no command {command!r}; there are {there} and {COMMANDS[-1]} (see --help).")
    elif command in ("address", "map", "cards"):  # these need nothing installed
        script = ROOT / "toylib" / "labs" / "interview.py" if command == "cards" else NOTEBOOKS / "build.py"
        runpy.run_path(str(script))["main"](command, rest)
    elif command == "gpu" and importlib.util.find_spec("torch"):  # such a machine often brings its own, made for CUDA
        sys.exit(subprocess.call([sys.executable, SCRIPTS["gpu"], *rest]))
    else:
        paths = choose(rest) if command in ("run", "build") else []
        try:
            ensure_venv()
        except OSError as error:
            sys.exit(f"lab.py: cannot write {VENV}: {error.strerror}.")
        if command in ("run", "build"):
            hand_over(NOTEBOOKS / "build.py", command, *paths)
        elif command in SCRIPTS:
            hand_over(SCRIPTS[command], *rest)
        else:
            {"lab": lab, "test": test, "bench": bench}[command](rest)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("\nlab.py: stopped.")
