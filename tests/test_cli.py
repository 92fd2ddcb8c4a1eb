"""The command line: it trains, saves, resumes, and says in one sentence what to mend."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import CHAT, WORDS, tiny_model, tiny_tokenizer
from trainers import MORE, own_cache, weights  # noqa: F401 (pytest uses the fixture)

from toylib import fingerprint, load_preferences
from toylib.engine.cli_options import parse
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
    from toylib.engine.cli_options import parser

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


# What is refused before anything is trained.


def last_error(capsys):
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: "), line
    return line


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--epochs", "0"], "--epochs must be a positive number, got 0"),
        (["--max-steps", "0"], "--max-steps must be a whole number from 1 on, got 0"),
        (["--lora", "0"], "--lora must be a whole number from 1 on, got 0"),
        (["--accumulate", "0"], "--accumulate must be a whole number from 1 on, got 0"),
        (["--batch-size", "-2"], "--batch-size must be a whole number from 1 on, got -2"),
        (["--max-length", "-5"], "--max-length must be a whole number from 1 on, got -5"),
        (["--max-length", "10.5"], "--max-length: invalid int value: '10.5'"),
        (["--save-steps", "2.5"], "--save-steps must be a whole number from 1 on, got 2.5"),
        (["--limit", "0"], "--limit must be a whole number from 1 on"),
        (["--eval-fraction", "1"], "--eval-fraction must be between 0 and 1"),
        (["--learning-rate", "nan"], "--learning-rate must be a positive number"),
        (["--columns", "prompt"], "--columns prompt: expected field=name"),
        (["--lora-alpha", "4"], "need --lora RANK"),
        (["--max-step", "3"], "unrecognized arguments: --max-step"),
        (["--precision", "fp16", "--max-steps", "1"], "fp16"),
        (["--resume", "--overwrite"], "--resume and --overwrite exclude each other"),
        (["--weight-decay", "nan"], "--weight-decay must be a finite number, got nan"),
        (["--per-device-eval-batch-size", "0"], "--eval-batch-size must be a whole number from 1 on, got 0"),
        (["--neftune-noise-alpha", "5"], "neftune_noise_alpha adds noise that the reference does not have"),
        (["--label-smoothing-factor", "0.1"], "leave it out and pass label_smoothing"),
        (["--dataloader-drop-last", "--batch-size", "1000"], "dataloader_drop_last leaves nothing of"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(files, options, named, capsys):
    assert command_line(*files, *options) == 1
    assert named in last_error(capsys)


def test_an_earlier_run_is_neither_deleted_nor_mixed_with_a_new_one_unasked(files, tmp_path, capsys):
    quick = [*files, "--batch-size", 2, "--max-steps", 2, "--save-steps", 1]
    assert command_line(*quick) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert command_line(*quick) == 1
    assert "holds an earlier run" in (told := last_error(capsys)) and "--resume or --overwrite" in told
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert command_line(*quick, "--overwrite", "--beta", 0.5, "--save-steps", 2) == 0
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-2"]
    assert json.loads((tmp_path / "out" / "options.json").read_text())["loss"]["beta"] == 0.5


def test_the_folder_of_the_model_is_no_output(files, tmp_path, capsys):
    assert command_line(*files, "--output", tmp_path / "model", "--overwrite") == 1
    assert "is the folder of --model" in last_error(capsys)
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_an_output_that_cannot_be_a_folder_is_found_before_training(files, tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert command_line(*files) == 1
    assert f"--output {tmp_path / 'out'} cannot be written" in last_error(capsys)


def test_a_configuration_file_gives_the_options_and_the_command_line_overrides_them(files, tmp_path, capsys):
    config = tmp_path / "run.yaml"
    config.write_text(f"data: {files[3]}\nmodel: {files[1]}\nbatch_size: 2\nlora-alpha: null\nbeta: 0.7\ncpu: true\n")
    more = ["--output", tmp_path / "out", "--beta", 0.3, "--dry-run", "--max-steps", 5]
    assert command_line("--config", config, *more) == 0
    assert "5 updates of 2 pairs" in capsys.readouterr().out
    assert command_line("--config", config, "--output", tmp_path / "out", "--max-steps", 1) == 0
    options = json.loads((tmp_path / "out" / "options.json").read_text())
    assert options["loss"]["beta"] == 0.7 and options["arguments"]["per_device_train_batch_size"] == 2
    config.write_text("colour: red")
    capsys.readouterr()
    assert command_line("--config", config, *more) == 1
    assert "there is no option 'colour'" in last_error(capsys)


# What is shown before training, and after it.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("beta: 0.1\nbeta: 0.2", "beta stands twice"),
        ("max-length: 9\nmax_length: 8", "max_length stands twice"),
        ("beta: [0.1, 0.2]", "beta takes one value, got [0.1, 0.2]"),
        ("limit: {a: 1}", "limit takes one value, got {'a': 1}"),
        ("limit: true", "--limit: invalid int value: 'True'"),
        ("[" * 3000, "cannot be read: maximum recursion depth"),
    ],
)
def test_a_configuration_file_that_cannot_be_meant_is_refused(files, tmp_path, text, said, capsys):
    (tmp_path / "run.yaml").write_text(text)
    assert command_line(*files, "--config", tmp_path / "run.yaml") == 1
    assert said in last_error(capsys)


def test_a_zero_and_several_settings_in_a_configuration_file_are_not_lost(tmp_path):
    (tmp_path / "run.yaml").write_text("warmup_steps: 0\ndry_run: true\nset: {weight_decay: 0.1, adam_beta1: 0.8}\n")
    words = ["--data", "a.csv", "--output", str(tmp_path / "out"), "--cpu", "--config", str(tmp_path / "run.yaml")]
    data, _, run = parse(words)
    assert (run.warmup_steps, data.dry_run, run.weight_decay, run.adam_beta1) == (0, True, 0.1, 0.8)


def test_a_dry_run_shows_the_first_pair_with_its_special_tokens_and_stops(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("toylib.engine.trainer.DPOTrainer", lambda *_, **__: pytest.fail("a trainer was made"))
    assert command_line(*files, "--dry-run", "--batch-size", 4, "--limit", 8) == 0
    shown = capsys.readouterr().out
    assert "'Customer: the order is late . Agent:'" in shown and "sorry ! let me check <eos>'" in shown
    assert "no chat template is applied" in shown and "8 pairs" in shown and "2 updates of 4 pairs" in shown
    assert not (tmp_path / "out").exists()


def test_the_columns_option_renames_fields(files, tmp_path, capsys):
    renamed = [{"instruction": pair["prompt"], "chosen": pair["chosen"], "rejected": pair["rejected"]} for pair in MORE]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in renamed))
    assert command_line(*files, "--columns", "prompt=instruction", "--dry-run") == 0
    assert "12 pairs" in capsys.readouterr().out


def test_progress_goes_to_standard_error_and_the_final_evaluation_is_printed_and_saved(files, tmp_path, capsys):
    options = [*files, "--batch-size", 2, "--max-steps", 3, "--learning-rate", 1e-2, "--eval-fraction", 0.3]
    assert command_line(*options) == 0
    told = capsys.readouterr()
    assert "step 3/3  training  loss " in told.err and "\r" not in told.err.split("step 3/3")[1] + told.out
    assert "final evaluation: {'eval_loss'" in told.out
    closing = told.out.strip().splitlines()[-1]
    assert closing.startswith("3 updates in ") and "margins" in closing and "accuracy" in closing
    assert f"saved in {tmp_path / 'out'}" in closing and "toylib chat" in closing
    saved = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert f"loss {saved['eval_loss']:.4g}" in closing


def test_the_held_out_share_has_no_prompt_of_the_training_pairs():
    from toylib.engine.cli import hold_out

    train, held_out = hold_out(load_preferences("support").select(range(100)), 0.2, seed=0)
    assert len(train) + len(held_out) == 100 and len(held_out) >= 5
    assert not set(train["prompt"]) & set(held_out["prompt"])


def test_adapters_are_saved_merged_if_asked_and_both_can_be_chatted_with(files, tmp_path, capsys, monkeypatch):
    pytest.importorskip("peft")
    options = [*files, "--batch-size", 2, "--max-steps", 2, "--learning-rate", 1e-2, "--lora", 2, "--lora-alpha", 8]
    options += ["--lora-targets", "q_proj", "v_proj"]
    assert command_line(*options, "--merge") == 0
    merged = type(tiny_model()).from_pretrained(tmp_path / "out")
    assert fingerprint(merged) != fingerprint(tiny_model(0))
    assert not list((tmp_path / "out").glob("adapter_*"))
    assert command_line(*options, "--overwrite") == 0
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["lora_alpha"] == 8 and sorted(settings["target_modules"]) == ["q_proj", "v_proj"]
    typed = iter(["my order is late .", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    capsys.readouterr()
    assert command_line("chat", tmp_path / "out") == 0
    assert capsys.readouterr().out.strip()


def test_without_peft_training_and_chatting_with_adapters_name_the_command(files, tmp_path, capsys, monkeypatch):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(files[1])}))
    monkeypatch.setitem(sys.modules, "peft", None)
    for words in ([*files, "--batch-size", 2, "--lora", 2], ["chat", tmp_path / "adapter"]):
        assert command_line(*words) == 1
        assert "pip install peft" in last_error(capsys)
    assert not list(tmp_path.glob("out/*"))


def test_chat_answers_until_an_empty_line(files, capsys, monkeypatch):
    typed = iter(["my order is late .", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    assert command_line("chat", files[1]) == 0
    assert len(capsys.readouterr().out.strip()) > 0
    assert command_line("chat") == 1 and "chat FOLDER" in last_error(capsys)


# Stopped, and failed.


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_saves_a_checkpoint_and_says_how_to_resume(files, tmp_path, name, capsys, monkeypatch):
    options = [*files, "--batch-size", 2, "--max-steps", 6, "--learning-rate", 1e-3]
    assert command_line(*options, "--output", tmp_path / "whole") == 0
    from toylib.engine.callbacks import StopOnSignal

    number, saw = getattr(signal, name), StopOnSignal.on_step_end

    def send(self, args, state, control, **more):
        if state.global_step == 3:
            signal.raise_signal(number)
        saw(self, args, state, control, **more)

    before = signal.getsignal(number)
    with monkeypatch.context() as patched:
        patched.setattr(StopOnSignal, "on_step_end", send)
        assert command_line(*options) == 128 + number
    assert signal.getsignal(number) is before
    assert "stopped after update 3 of 6" in (told := capsys.readouterr().out) and "--resume" in told
    assert (tmp_path / "out" / "checkpoint-3" / "toylib.json").is_file()
    assert command_line(*options, "--resume") == 0
    ends = [fingerprint(type(tiny_model()).from_pretrained(tmp_path / folder)) for folder in ("whole", "out")]
    assert ends[0] == ends[1]


def test_what_is_saved_is_on_the_disk_with_its_names_before_the_run_ends(files, tmp_path, monkeypatch):
    from toylib.engine import reporting

    calls, replace = [], os.replace
    monkeypatch.setattr(reporting, "to_disk", lambda path: calls.append(("to disk", Path(path))))
    monkeypatch.setattr(
        reporting.os, "replace", lambda old, new: (calls.append(("name", Path(new))), replace(old, new))
    )
    assert command_line(*files, "--batch-size", 2, "--max-steps", 1) == 0
    named = [path for what, path in calls if what == "name" and path.parent == tmp_path / "out"]
    assert tmp_path / "out" / "model.safetensors" in named
    assert calls[-1] == ("to disk", tmp_path / "out")
    assert {path.name for path in named} <= {path.name for what, path in calls if what == "to disk"}


def test_a_full_disk_at_the_last_save_is_one_sentence_and_loses_nothing(files, tmp_path, capsys, monkeypatch):
    from safetensors import SafetensorError

    from toylib import DPOTrainer

    quick = [*files, "--batch-size", 2, "--max-steps", 2]
    assert command_line(*quick) == 0
    before = (tmp_path / "out" / "model.safetensors").read_bytes()

    def full(self, folder=None, *_, **__):
        Path(folder).mkdir()
        Path(folder, "model.safetensors").write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(DPOTrainer, "save_model", full)
    assert command_line(*quick, "--resume") == 1
    assert "No space left on device" in (told := last_error(capsys)) and "--resume" in told
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert not (tmp_path / "out" / ".unfinished").exists()


def test_a_failure_nobody_foresaw_is_one_sentence_with_its_kind(files, capsys, monkeypatch):
    monkeypatch.setattr("toylib.preferences.load_preferences", lambda *_, **__: {}["never"])
    assert command_line(*files) == 1
    assert "error: KeyError: 'never'" in last_error(capsys)


def chat_files(tmp_path):
    """Put a model with a chat template that refuses system turns into `files`; return a row, and one that it refuses."""
    tokenizer = tiny_tokenizer(words=["user", "assistant", "system", *WORDS])
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHAT
    )
    tokenizer.save_pretrained(tmp_path / "model")
    tiny_model(0, vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    question, *replies = ([{"role": role, "content": text}] for role, text in (
        ("user", "late ."), ("assistant", "sorry"), ("assistant", "no")))  # fmt: skip
    row = dict(zip(("prompt", "chosen", "rejected"), (question, *replies), strict=True))
    return row, row | {"prompt": [{"role": "system", "content": "yes"}, *question]}


@pytest.mark.parametrize("on_bad", ["error", "drop"])
def test_a_row_that_the_template_refuses_is_named_or_dropped(files, tmp_path, on_bad, capsys):
    row, refused = chat_files(tmp_path)
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, [row, refused, row])))
    code = command_line(*files, "--on-bad", on_bad, "--dry-run")
    told = capsys.readouterr()
    if on_bad == "error":
        assert code == 1 and "pairs.jsonl, row 2: the chat template refuses" in told.err
        assert "System role not supported" in told.err and "--on-bad drop" in told.err
    else:
        assert code == 0 and "2 pairs, at most" in told.out
        assert "pairs.jsonl: dropped 1 row: the chat template refuses" in told.out
        assert "the tokenizer's chat template is applied" in told.out


def test_rows_that_are_dropped_are_found_in_the_pass_that_tokenises(files, tmp_path, capsys, monkeypatch):
    from toylib.engine import rendering

    row, refused = chat_files(tmp_path)
    same = row | {"chosen": [{"role": "assistant", "content": "  no"}]}
    rendered, render_pair = [], rendering.render_pair
    monkeypatch.setattr(rendering, "render_pair", lambda *given: rendered.append(1) or render_pair(*given))
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, [row, refused, same, row, refused])))
    options = [*files, "--batch-size", 1, "--max-steps", 1, "--on-bad", "drop"]
    assert command_line(*options) == 0
    told = capsys.readouterr().out
    assert "pairs.jsonl: dropped 2 rows: the chat template refuses" in told and "2 pairs, at most" in told
    assert "pairs.jsonl: dropped 1 row: chosen and rejected are the same tokens" in told
    assert len(rendered) == 5
    (tmp_path / "pairs.jsonl").write_text(json.dumps(refused))
    assert command_line(*options, "--overwrite") == 1
    assert "every other one was dropped as a bad row" in last_error(capsys)


def test_messages_are_rendered_once_and_held_out_rows_keep_their_names(files, tmp_path, capsys, monkeypatch):
    from toylib.engine import rendering

    row, refused = chat_files(tmp_path)
    other = row | {"prompt": [{"role": "user", "content": "my order is late ."}]}
    rendered, render_pair = [], rendering.render_pair
    monkeypatch.setattr(rendering, "render_pair", lambda *given: rendered.append(1) or render_pair(*given))
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, [row, other])))
    options = [*files, "--eval-fraction", 0.5]
    assert command_line(*options, "--batch-size", 1, "--max-steps", 1) == 0
    assert len(rendered) == 2
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, [row, other, refused])))
    assert command_line(*options, "--overwrite") == 1
    assert "pairs.jsonl, row 3: the chat template refuses" in last_error(capsys)


def test_a_full_model_that_overwrites_adapters_leaves_nothing_of_them(files, tmp_path):
    again = [*files, "--max-steps", 1, "--output", tmp_path / "out"]
    assert command_line(*again, "--lora", 2) == 0 == command_line(*again, "--overwrite")
    assert not list((tmp_path / "out").glob("adapter_*")) and (tmp_path / "out" / "model.safetensors").is_file()
