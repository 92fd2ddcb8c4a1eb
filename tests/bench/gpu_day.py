"""The GPU day: everything that needs a GPU, measured in one command and left as small files in data/results/gpu.

    python3 lab.py gpu                             on a machine with a CUDA card, at most 20 minutes
    python3 lab.py gpu --rehearse                  all of it on the CPU with tiny sizes, 3 minutes, into a temporary folder

It can be started again at any time: a step whose result is there is skipped, one that failed is tried again, and one
that was cut off begins anew. Each step is a process of its own with a time limit, so what fails is written down with its
message while the others go on. `--minutes 9` stops in time where a command may not take longer, `--only` picks steps.

The machine needs no network. It gets a model of SmolLM2-135M's shape by training one, which takes minutes there. If its
own Python has torch, the steps run in that, and the packages it lacks come from wheels/. Fetch those where there is a
network, for the Python of that machine, and upload the checkout with wheels/ in it (do not commit wheels/):

    python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 -d wheels -r tests/bench/gpu_wheels.txt

If its Python has no torch, `lab.py` sets up .venv as always. Without a network that needs all wheels, torch included, and
PIP_NO_INDEX=1 PIP_FIND_LINKS=wheels in front of the command. Standard library only, because it runs before the wheels
are installed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "tests" / "bench"
RESULTS = ROOT / "data" / "results" / "gpu"
STEPS = {  # seconds it may take, what it shows
    "model": (360, "a model of SmolLM2-135M's shape, trained on the shop's texts"),
    "notebook": (400, "notebook 09 as run on this machine"),
    "engine-135M": (300, "our step against TRL's, 135M shape"),
    "engine-3M": (200, "our step against TRL's, 3M shape"),
    "engine-1B": (300, "our step against TRL's, 1B shape"),
    "growth": (240, "from the loop to the engine, and how our step grows"),
    "memory": (180, "predicted against measured peak memory, full training and LoRA"),
    "fp16": (180, "fp16 with a scaled loss, as on a T4"),
    "resume": (360, "a run killed by kill -9, and resumed"),
    "curves": (120, "what the live curves cost a run"),
    "two-processes": (300, "two processes on one card"),
}
TRAINS_IT = ("notebook", "fp16", "resume", "curves", "two-processes")  # steps with the model of the first one
NEEDED = ("torch", "transformers", "accelerate", "datasets", "pandas", "matplotlib")  # whatever is measured
USEFUL = ("trl", "peft", "ipywidgets", "nbclient", "ipykernel")  # what single steps need
SHORTEST = 20  # seconds; with less left, no step is begun
PROBE = """
import importlib.metadata as installed, json, platform, torch
names = ("torch", "transformers", "trl", "accelerate", "peft", "datasets")
versions = {"python": platform.python_version()}
for name in names:
    try:
        versions[name] = installed.version(name)
    except installed.PackageNotFoundError:
        versions[name] = None
card = None
if torch.cuda.is_available():
    of = torch.cuda.get_device_properties(0)
    card = {"name": of.name, "capability": f"{of.major}.{of.minor}", "memory GB": round(of.total_memory / 1e9, 1)}
print(json.dumps({"card": card, "versions": versions | {"cuda": torch.version.cuda}}))
"""


def main(arguments):
    """Run the steps that have no result yet, print which have one, and return the exit code."""
    options = parse(arguments)
    started, folder = time.monotonic(), (options.output or RESULTS).resolve()
    if options.rehearse and options.output is None:
        folder = Path(tempfile.mkdtemp(prefix="gpu-rehearsal-"))
    elif options.rehearse and folder.is_relative_to(ROOT / "data"):
        sys.exit("lab.py: a rehearsal's numbers are not a GPU's: give --output a folder outside data/.")
    work = folder / "work" if options.rehearse else ROOT / "runs" / "gpu-day"
    environment = environment_of(work, options.rehearse)
    header = described(environment, options.rehearse)
    environment["GPU_DAY"] = sentence_of(header)
    print(sentence_of(header), flush=True)
    work.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    for name in options.only or STEPS:
        if finished(folder, work, name, options.rehearse):
            print(f"{name}: there already", flush=True)
            continue
        left = 60 * options.minutes - (time.monotonic() - started)
        if left < SHORTEST:
            print(f"{name}: no time left; start again to go on", flush=True)
            continue
        print(f"{name}: {STEPS[name][1]} ...", flush=True)
        limit = min(STEPS[name][0] * (3 if options.rehearse else 1), left)  # who rehearses may have a slow machine
        result = run_step(name, folder, work, environment, limit, options.rehearse)
        write(folder / f"{name}.json", {"step": name, "shows": STEPS[name][1]} | header | result)
        said = result["problem"] if result["status"] == "failed" else "done"
        print(f"{name}: {said} ({result['seconds']:.0f} s)", flush=True)
    return summarize(folder, header, options.rehearse)


def parse(arguments):
    parser = argparse.ArgumentParser("lab.py gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, tiny, into another folder")
    parser.add_argument("--output", type=Path, help="where results go (default: data/results/gpu)")
    parser.add_argument("--minutes", type=float, default=20, help="begin no step after these (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=STEPS, metavar="STEP", help=f"of {', '.join(STEPS)}")
    return parser.parse_args(arguments)


def environment_of(work, rehearse):
    """Return the environment of the steps: this checkout, what is in wheels/, no network, one card or none."""
    lacking = [name for name in (*NEEDED, *USEFUL) if importlib.util.find_spec(name) is None]
    extra, wheels = work / "packages", sorted((ROOT / "wheels").glob("*.whl"))
    new = extra.with_name("packages.new")
    if lacking and wheels and not extra.is_dir():
        print(f"installing {len(wheels)} wheels, because this Python lacks {', '.join(lacking)}", flush=True)
        # Without what they need: that is here already, or among them. A resolver would want torch once more.
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(new)]
        if subprocess.call([*pip, *map(str, wheels)]):
            sys.exit("lab.py: the wheels could not be installed: see the lines above.")
        os.replace(new, extra)
    elif missing := [name for name in lacking if name in NEEDED and not extra.is_dir()]:
        sys.exit(f"lab.py: this Python lacks {', '.join(missing)}: put their wheels into wheels/ (see --help).")
    paths = [str(ROOT), *([str(extra)] if extra.is_dir() else []), os.environ.get("PYTHONPATH")]
    card = "" if rehearse else os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "TOYLIB_CACHE": str(work / "cache"),
        "CUDA_VISIBLE_DEVICES": card,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONWARNINGS": "ignore::FutureWarning",
    }


def described(environment, rehearse):
    """Return what every result names: card, versions, date, and whether it is a rehearsal. Leave if there is no card."""
    probe = [sys.executable, "-c", PROBE]
    done = subprocess.run(probe, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        sys.exit(f"lab.py: torch does not start: {last_line(done.stderr)}.")
    seen = json.loads(done.stdout.splitlines()[-1])
    if rehearse:
        seen["card"] = {"name": "none: a rehearsal on the CPU"}
    elif seen["card"] is None:
        sys.exit(
            f"lab.py: gpu needs a CUDA card, and torch {seen['versions']['torch']} sees none; with --rehearse all of it "
            "runs on the CPU with tiny sizes."
        )
    return {"rehearsal": rehearse, **seen, "date": time.strftime("%Y-%m-%d", time.gmtime())}


def sentence_of(header):
    versions = ", ".join(f"{name} {version}" for name, version in header["versions"].items() if version)
    return f"{'REHEARSAL, no GPU figures. ' if header['rehearsal'] else ''}{header['card']['name']}; {versions}; {header['date']}"


def finished(folder, work, name, rehearse):
    """Whether the step has a result, and the model is there, too, where a step still needs it.

    Leave if what is there is a rehearsal's where a GPU's belongs, or the other way round.
    """
    found = read(folder / f"{name}.json")
    if found and found["rehearsal"] != rehearse:
        kinds = ("a rehearsal", "a GPU")
        sys.exit(f"lab.py: {folder} holds results of {kinds[not found['rehearsal']]}: give --output another folder.")
    if not found or found["status"] != "done":
        return False
    here = name != "model" or (work / "runs" / "support-135m").is_dir()  # it does not travel with the results
    return here or all(finished(folder, work, one, rehearse) for one in TRAINS_IT if one in STEPS)


def run_step(name, folder, work, environment, seconds, rehearse):
    """Run one step in a process of its own for at most `seconds`. Return its result, or what went wrong."""
    answer, log, started = work / f"{name}.answer.json", work / f"{name}.log", time.monotonic()
    answer.unlink(missing_ok=True)
    device = "cpu" if rehearse else "cuda"
    command = [sys.executable, BENCH / "gpu_steps.py", name, "--device", device, "--folder", folder, "--work", work]
    with log.open("w") as words:
        streams = {"stdout": words, "stderr": words, "env": environment, "cwd": ROOT}
        process = subprocess.Popen(list(map(str, command)), **streams, process_group=0)
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # and whatever it had started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    spent = {"seconds": round(time.monotonic() - started, 1)}
    found = read(answer)
    if code == 0 and found is not None:
        return {"status": "done"} | spent | found
    said = log.read_text(errors="replace")
    problem = f"stopped after {seconds:.0f} s, its time limit" if code is None else last_line(said)
    tail = [without_paths(line) for line in said.splitlines()[-15:]]
    return {"status": "failed", "problem": without_paths(problem)} | spent | {"log": tail}


def last_line(text):
    """Return the last line that says something, which in Python is the error."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def without_paths(text):
    """Return `text` without the folders of this machine: results are committed."""
    return re.sub(r"(/[\w.+-]+){2,}/(?=[\w.-]+)", "…/", text.replace(str(ROOT), "."))[:400]


def read(path):
    """Return the JSON in `path`, or None if there is none or it was cut off while it was written."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write(path, result):
    """Write `result` as JSON beside the old file, then put it in its place in one step."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    os.replace(new, path)


def summarize(folder, header, rehearse):
    """Print and write which steps have results. Return 0 if all have one, else 1."""
    lines, lacking = [sentence_of(header), ""], 0
    for name, (_, shows) in STEPS.items():
        found = read(folder / f"{name}.json") or {"status": "no result yet"}
        lacking += found["status"] != "done"
        told = {"done": f"{found.get('seconds', 0):4.0f} s", "failed": "failed"}.get(found["status"], "no result yet")
        lines.append(f"{name:15s}{told:15s}{shows}" + (f": {found['problem']}" if "problem" in found else ""))
    lines.append(f"\n{len(STEPS) - lacking} of {len(STEPS)} steps have results.")
    (folder / "summary.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    print("\n" + "\n".join(lines) + f" They are in {folder}", flush=True)
    return int(lacking > 0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it ends the step that runs, too
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("\nlab.py: stopped; what is finished stays, and the same command goes on.")
