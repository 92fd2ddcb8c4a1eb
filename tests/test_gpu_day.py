"""The GPU day: restarted, failing, out of time, refused without a card, and rehearsed whole. No GPU is needed here."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from toylib.labs.hardware import gpu_results

HEADER = {"rehearsal": False, "card": {"name": "NVIDIA Example"}, "versions": {"torch": "2.13.0", "trl": None}}
HEADER |= {"date": "2026-01-02"}
FAKE_STEPS = """
import json, pathlib, subprocess, sys, time
name, work = sys.argv[1], pathlib.Path(sys.argv[sys.argv.index("--work") + 1])
with (work / "calls").open("a") as calls:
    calls.write(name + "\\n")
if name == "broken" and not (work / "mended").exists():
    raise RuntimeError(f"CUDA out of memory, said by {work}/deep/inside.py")
if name == "hanging":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (work / "child").write_text(str(child.pid))
    time.sleep(60)
table = {"a table": [{"seconds": 1.5}]}
(work / f"{name}.answer.json").write_text(json.dumps({"facts": {"ratio": 2.5}, "tables": table}))
"""


@pytest.fixture
def day(root, tmp_path, monkeypatch):
    """gpu_day.py with two good steps around one that fails, and a machine with a card, as far as it can see."""
    spec = importlib.util.spec_from_file_location("gpu_day", root / "tests" / "bench" / "gpu_day.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "gpu_steps.py").write_text(FAKE_STEPS)
    for name, value in {
        "ROOT": tmp_path,
        "BENCH": tmp_path,
        "RESULTS": tmp_path / "data" / "results" / "gpu",
        "STEPS": {"first": (30, "what comes first"), "broken": (30, "what fails"), "last": (30, "what comes last")},
        "described": lambda environment, rehearse: HEADER | {"rehearsal": rehearse},
    }.items():
        monkeypatch.setattr(module, name, value)
    return module


def result(day, name):
    return json.loads((day.RESULTS / f"{name}.json").read_text())


def calls(day):
    return (day.ROOT / "runs" / "gpu-day" / "calls").read_text().split()


def test_every_result_names_card_versions_and_date(day):
    day.main([])
    for name in day.STEPS:
        found = result(day, name)
        assert found["card"]["name"] == "NVIDIA Example" and found["versions"]["torch"] == "2.13.0"
        assert found["date"] == "2026-01-02" and found["rehearsal"] is False and found["step"] == name


def test_a_failing_step_is_written_down_with_its_message_and_the_others_go_on(day, capsys):
    assert day.main([]) == 1
    broken = result(day, "broken")
    assert broken["status"] == "failed" and broken["problem"].startswith("RuntimeError: CUDA out of memory")
    assert "Traceback" in broken["log"][0] and str(day.ROOT) not in json.dumps(broken)
    assert result(day, "first")["status"] == result(day, "last")["status"] == "done"
    assert "broken: RuntimeError: CUDA out of memory" in capsys.readouterr().out


def test_started_again_it_skips_what_is_done_and_tries_again_what_failed(day, capsys):
    day.main([])
    (day.ROOT / "runs" / "gpu-day" / "mended").touch()
    capsys.readouterr()
    assert day.main([]) == 0
    assert calls(day) == ["first", "broken", "last", "broken"]
    assert capsys.readouterr().out.count("there already") == 2
    assert result(day, "broken")["status"] == "done" and "problem" not in result(day, "broken")


def test_on_another_machine_the_model_is_trained_again_only_if_a_step_still_needs_it(day, monkeypatch):
    steps = {"model": (30, "the model"), "fp16": (30, "what trains it"), "last": (30, "what comes last")}
    monkeypatch.setattr(day, "STEPS", steps)
    day.main(["--only", "model"])
    day.main(["--only", "model", "fp16"])
    day.main([])
    assert calls(day) == ["model", "model", "fp16", "last"]


def test_a_result_that_was_cut_off_while_it_was_written_counts_as_none(day):
    day.main(["--only", "first"])
    (day.RESULTS / "first.json").write_text('{"step": "fir')
    day.main(["--only", "first"])
    assert calls(day) == ["first", "first"] and result(day, "first")["status"] == "done"


def test_a_step_is_stopped_at_its_time_limit_with_all_it_has_started(day, monkeypatch):
    monkeypatch.setattr(day, "STEPS", {"hanging": (2, "what hangs"), "last": (30, "what comes last")})
    assert day.main([]) == 1
    assert result(day, "hanging")["problem"] == "stopped after 2 s, its time limit"
    assert result(day, "last")["status"] == "done"
    child = (day.ROOT / "runs" / "gpu-day" / "child").read_text()
    state = Path(f"/proc/{child}/stat")
    for _ in range(50):  # a killed process is a zombie until its new parent has noticed
        if not state.exists() or state.read_text().split(") ")[1].startswith("Z"):
            break
        time.sleep(0.1)
    else:
        pytest.fail("what the step had started is still running")


def test_no_step_is_begun_when_the_time_is_over(day, capsys):
    assert day.main(["--minutes", "0.1"]) == 1
    assert capsys.readouterr().out.count("no time left") == 3 and not list(day.RESULTS.glob("*.json"))


def test_the_summary_says_which_steps_have_results(day, capsys):
    day.main(["--only", "first", "broken"])
    said = (day.RESULTS / "summary.txt").read_text()
    assert said.splitlines()[0] == "NVIDIA Example; torch 2.13.0; 2026-01-02"
    assert [line.split()[0] for line in said.splitlines() if line.startswith(tuple(day.STEPS))] == [*day.STEPS]
    assert "broken         failed" in said and "last           no result yet" in said
    assert said.rstrip().endswith("1 of 3 steps have results.") and said.strip() in capsys.readouterr().out


def test_a_rehearsals_results_say_so_and_go_elsewhere(day, tmp_path):
    day.main(["--rehearse", "--output", str(tmp_path / "rehearsed")])
    assert json.loads((tmp_path / "rehearsed" / "first.json").read_text())["rehearsal"] is True
    assert (tmp_path / "rehearsed" / "summary.txt").read_text().startswith("REHEARSAL, no GPU figures.")
    assert not day.RESULTS.exists()
    with pytest.raises(ValueError, match="of a rehearsal on a CPU"):
        gpu_results(tmp_path / "rehearsed")


@pytest.mark.parametrize("where", ["data/results/gpu", "data/results/gpu/more", "data"])
def test_a_rehearsal_refuses_the_folder_of_gpu_figures(day, where):
    with pytest.raises(SystemExit, match="not a GPU's: give --output a folder outside data"):
        day.main(["--rehearse", "--output", str(day.ROOT / where)])
    assert not (day.ROOT / where).exists()


def test_gpu_figures_are_not_mixed_with_a_rehearsals(day, tmp_path):
    day.main(["--rehearse", "--output", str(tmp_path / "here"), "--only", "first"])
    with pytest.raises(SystemExit, match="holds results of a rehearsal: give --output another folder"):
        day.main(["--output", str(tmp_path / "here")])


def test_without_a_card_and_without_rehearse_it_leaves_with_one_sentence(root, tmp_path):
    command = [sys.executable, root / "tests" / "bench" / "gpu_day.py", "--output", tmp_path / "none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "gpu needs a CUDA card" in done.stderr and "--rehearse" in done.stderr
    assert not (tmp_path / "none").exists()


def test_wheels_are_installed_where_this_python_lacks_a_package(day, tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(day, "USEFUL", ("no_such_package",))
    monkeypatch.setattr(
        day.subprocess,
        "call",
        lambda words: commands.append(words) or (tmp_path / "w" / "packages.new").mkdir(parents=True),
    )
    assert str(tmp_path / "w") not in day.environment_of(tmp_path / "w", True)["PYTHONPATH"] and not commands
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "no_such_package-1-py3-none-any.whl").touch()
    for _ in range(2):  # the second time they are there
        paths = day.environment_of(tmp_path / "w", True)["PYTHONPATH"].split(day.os.pathsep)
        assert paths[:2] == [str(tmp_path), str(tmp_path / "w" / "packages")]
    (command,) = commands
    assert {"--no-index", "--no-deps", "--target"} < set(command) and command[-1].endswith("-any.whl")


@pytest.mark.parametrize("torch_here", [True, False])
def test_lab_takes_the_python_at_hand_if_it_has_torch_and_else_venv(lab, monkeypatch, torch_here):
    done = []
    monkeypatch.setattr(lab.importlib.util, "find_spec", lambda name: torch_here)
    monkeypatch.setattr(lab.subprocess, "call", lambda words: done.append(("this", *words[1:])) or 0)
    monkeypatch.setattr(lab, "ensure_venv", lambda: None)
    monkeypatch.setattr(lab, "hand_over", lambda *words: done.append((".venv", *words)))
    if torch_here:
        with pytest.raises(SystemExit) as caught:
            lab.main(["gpu", "--rehearse"])
        assert caught.value.code == 0
    else:
        lab.main(["gpu", "--rehearse"])
    script = lab.ROOT / "tests" / "bench" / "gpu_day.py"
    assert done == [("this" if torch_here else ".venv", script, "--rehearse")]


# ---- shown ----


def test_results_are_tables_by_title_that_say_where_they_were_measured(day):
    assert gpu_results(day.RESULTS) == {}
    day.main([])
    tables = gpu_results(day.RESULTS)
    assert list(tables) == ["a table"] and tables["a table"]["seconds"].tolist() == [1.5]
    assert tables["a table"].attrs == {"measured": "NVIDIA Example; torch 2.13.0; 2026-01-02", "facts": {"ratio": 2.5}}


def test_what_is_in_the_repository_was_measured_on_a_gpu():
    for table in gpu_results().values():
        assert "NVIDIA" in table.attrs["measured"]


# ---- rehearsed ----


@pytest.mark.slow
def test_the_whole_day_rehearsed_on_the_cpu(root, tmp_path):
    pytest.importorskip("trl", reason="trl is not installed, so there is nobody to race")
    command = [sys.executable, root / "lab.py", "gpu", "--rehearse", "--output", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stdout
    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert len(found) == 11 and all(one["status"] == "done" and one["rehearsal"] for one in found.values())
    raced = found["engine-135M"]
    rows = {row["contestant"]: row for row in next(iter(raced["tables"].values()))}
    assert len(rows) == 7 and not [row for row in rows.values() if "problem" in row]
    assert "where the time of TRL best bf16 goes" in raced["tables"]
    steps, trainers = found["memory"]["tables"].values()
    assert len(steps) == 6 and len(trainers) == 4 and all(0.8 < row["predicted / measured"] < 1.2 for row in steps)
    (resumed,), (shared,) = (next(iter(found[name]["tables"].values())) for name in ("resume", "two-processes"))
    assert resumed["largest gap of a weight, resumed"] == 0
    assert shared["way"] == "FSDP" and shared["largest gap of a loss to one process"] < 1e-4
    in_fp16 = found["fp16"]["tables"]["the same updates in three precisions"][2]
    assert in_fp16["precision"] == "fp16" and "needs a GPU" in in_fp16["problem"]
    notebook = json.loads((tmp_path / "09_on_a_gpu.ipynb").read_text())
    assert "REHEARSAL" in "".join(notebook["cells"][0]["source"])
    assert any(cell.get("outputs") for cell in notebook["cells"])
    assert not (root / "data" / "results" / "gpu" / "summary.txt").exists()


@pytest.mark.slow
def test_of_two_processes_the_other_is_ended_when_one_fails(root, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "tests" / "bench"))
    runs = pytest.importorskip("gpu_runs")
    waits = [sys.executable, "-c", "import time; time.sleep(60)"]
    fails = [sys.executable, "-c", "raise SystemExit('error: Duplicate GPU detected')"]
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="^error: Duplicate GPU detected$"):
        runs.run(tmp_path / "two", waits, fails, environments=({}, {}))
    with pytest.raises(RuntimeError, match="not at its end after 1 s"):
        runs.run(tmp_path / "slow", waits, seconds=1)
    assert time.monotonic() - started < 30
    for name in ("gpu_runs", "peers"):
        sys.modules.pop(name, None)
