"""The command line: it trains, saves, resumes, and says in one sentence what to mend."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from trainers import MORE, own_cache, weights  # noqa: F401 (pytest uses the fixture)

from toylib import fingerprint
from toylib.engine.trainer import METRICS


def command_line(*arguments):
    from toylib.engine.cli import main

    return main([*map(str, arguments)])


@pytest.fixture
def files(tmp_path):
    tiny_model(0).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in MORE))
    return ["--model", tmp_path / "model", "--data", tmp_path / "pairs.jsonl", "--output", tmp_path / "out", "--cpu"]


def test_the_command_line_trains_saves_and_resumes(files, tmp_path, capsys):
    options = [*files, "--batch-size", 2, "--learning-rate", 1e-3, "--save-steps", 2, "--set", "logging_steps=1"]
    options += ["--eval-data", tmp_path / "pairs.jsonl", "--set", "disable_tqdm=true"]
    assert command_line(*options, "--max-steps", 4) == 0
    first = type(tiny_model()).from_pretrained(tmp_path / "out")
    assert "'eval_loss'" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "out" / "checkpoint-4")
    assert command_line(*options, "--max-steps", 4, "--resume") == 0
    assert (
        fingerprint(type(tiny_model()).from_pretrained(tmp_path / "out"))
        == fingerprint(first)
        != fingerprint(tiny_model(0))
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--model", "./nowhere"], "no folder './nowhere'"),
        (["--beta", "-1"], "beta must be a positive number"),
        (["--set", "colour=red"], "--set colour=red: expected name=value"),
        (["--set", "_n_gpu=2"], "--set _n_gpu=2: expected name=value"),
        (["--set", "max_grad_norm=abc"], "--set max_grad_norm: invalid float value: 'abc'"),
        (["--set", "logging_steps=5", "--set", "eval_strategy=maybe"], "--set eval_strategy: invalid choice: 'maybe'"),
        (["--set", "bf16=perhaps"], "--set bf16: Truthy value expected"),
        (["--eval-steps", "5"], "--eval-steps needs --eval-data"),
        (["--resume"], "no checkpoint to resume"),
    ],
)
def test_the_command_line_says_in_one_sentence_what_to_mend(files, options, said, capsys):
    assert command_line(*files, *options) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("error: ") and said in told


def test_settings_that_need_each_other_are_judged_together(files, capsys):
    options = [
        "--eval-data",
        files[3],
        "--eval-steps",
        2,
        "--save-steps",
        2,
        "--max-steps",
        4,
        "--gradient-checkpointing",
    ]
    assert command_line(*files, *options, "--set", "load_best_model_at_end=true", "--set", "disable_tqdm=true") == 0
    assert "deprecated" not in capsys.readouterr().err


def test_help_names_every_option_with_a_sentence_and_shows_examples():
    from toylib.engine.cli import parser

    said = parser().format_help()
    assert "torchrun --nproc_per_node 2" in said and "examples:" in said
    assert all(action.help for action in parser()._actions)


@pytest.mark.slow
def test_the_module_runs_as_documented_without_a_warning(root):
    done = subprocess.run(
        [sys.executable, "-m", "toylib", "--help"], cwd=root, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == "" and "usage: python -m toylib" in done.stdout


# Accelerate has FSDP for GPUs only: on CPUs it falls back to DDP without a word. Told that two CPUs are GPUs, it shards.
SHARDED = """
import accelerate.state
from accelerate.utils import DistributedType
from toylib.engine.cli import main

accelerate.state.PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
raise SystemExit(main())
"""
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
FSDP |= {"FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT", "ACCELERATE_TORCH_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["DDP", "FSDP", "FSDP, resumed"])
def test_two_processes_give_the_losses_of_one_at_twice_the_batch(files, tmp_path, root, how):
    (tmp_path / "sharded.py").write_text(SHARDED)
    (tmp_path / "held_out.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in MORE[:7]))

    def run(output, *launch, batch, more=(), **environment):
        options = ["--batch-size", batch, "--max-steps", 5, "--learning-rate", 1e-3, "--set", "logging_steps=1"]
        options += ["--set", "disable_tqdm=true", "--eval-data", tmp_path / "held_out.jsonl", "--eval-steps", 5]
        options += ["--set", f"per_device_eval_batch_size={batch}", "--save-steps", 3, "--output", tmp_path / output]
        environment |= {"PYTHONPATH": str(root), "TOYLIB_CACHE": str(tmp_path / output), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*map(str, [sys.executable, "-m", *launch, *files[:4], *options, *more])],
            check=False, capture_output=True, text=True, env=os.environ | environment, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        history = json.loads((tmp_path / output / "checkpoint-5" / "trainer_state.json").read_text())["log_history"]
        (held_out,) = (entry for entry in history if "eval_loss" in entry)
        steps = [[entry[name] for name in ("loss", *METRICS)] for entry in history if "loss" in entry]
        return steps, [held_out[f"eval_{name}"] for name in ("loss", *METRICS)]

    one, one_held_out = run("one", "toylib", batch=4, more=["--cpu"])
    spawn = ("torch.distributed.run", "--nproc_per_node", "2")
    if how == "DDP":
        two, two_held_out = run("two", *spawn, "-m", "toylib", batch=2, more=["--cpu"])
    else:
        two, two_held_out = run("two", *spawn, tmp_path / "sharded.py", batch=2, **FSDP)
        assert (tmp_path / "two" / "checkpoint-3" / "pytorch_model_fsdp.bin").is_file()
    if how == "FSDP, resumed":
        shutil.rmtree(tmp_path / "two" / "checkpoint-5")
        two, two_held_out = run("two", *spawn, tmp_path / "sharded.py", batch=2, more=["--resume"], **FSDP)
    # The rate warms up from 0, so at the first two steps every margin is a rounding error around 0, of any sign.
    accuracy = 1 + METRICS.index("rewards/accuracies")
    for step in range(2):
        one[step][accuracy] = two[step][accuracy] = 0
    assert len(one) == len(two) == 5
    for ours, theirs in zip(one, two, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert one_held_out == pytest.approx(two_held_out, abs=1e-4)  # 7 pairs: one process is handed one a second time
    ends = [type(tiny_model()).from_pretrained(tmp_path / output) for output in ("one", "two")]
    assert torch.allclose(*map(weights, ends), atol=1e-5)
