"""The options of `python -m toylib`: three dataclasses, and the parser that fills them from words and from a YAML file."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from transformers import HfArgumentParser, TrainingArguments

from toylib.loss import LOSS_TYPES

NEWER_NAME = "activation_checkpointing"  # what newer versions of transformers call gradient_checkpointing

DESCRIPTION = """\
Train a causal language model on preference pairs with Direct Preference Optimization.

The pairs are a file (.jsonl, .json, .csv, .parquet), a shipped set or a Hugging Face data set with prompt, chosen and
rejected: as text, as lists of messages, or as whole dialogues that share their beginning. The reference is the model
as it is given. Its log-probs are computed once and cached. The trained model and its tokenizer go to --output, and so
do checkpoint-N folders, from which --resume continues bit for bit on a CPU."""

EXAMPLES = """\
Every other field of transformers.TrainingArguments is an option as well, for example --weight-decay 0.1.

examples:
  python -m toylib --data support --output runs/first --learning-rate 1e-4
  python -m toylib --model HuggingFaceTB/SmolLM2-135M-Instruct --data pairs.jsonl --output runs/smol --beta 0.5
  python -m toylib --data pairs.csv --columns prompt=instruction --output runs/csv --dry-run
  python -m toylib --config run.yaml --resume
  python -m toylib chat runs/first
  torchrun --nproc_per_node 2 -m toylib --model … --data … --output …
  accelerate launch --config_file fsdp.yaml -m toylib --model … --data … --output …"""


def option(default, text, **more):
    """Return a dataclass field with a default value, a help text and further settings of `add_argument`."""
    return field(default=default, metadata={"help": text, **more})


@dataclass
class DataOptions:
    """Say which model is trained on which pairs."""

    _argument_group_name = "what to train, on what"

    data: str = field(metadata={"help": "training pairs: a file, a shipped set (support, …) or a hub id"})
    model: str = option("support-lm", "shipped name, folder (adapters of --lora too) or hub id (default: %(default)s)")
    ref_model: str | None = option(None, "the reference, if it is not the model as it is given")
    split: str = option("train", "split of a shipped or hub set (default: %(default)s)")
    subset: str | None = option(None, "configuration of a hub set, where it has several")
    columns: list[str] | None = field(
        default=None, metadata={"help": "fields under other names: prompt=instruction …", "metavar": "FIELD=NAME"}
    )
    on_bad: Literal["error", "drop"] = option("error", "a bad row: stop, or drop and count it")
    limit: int | None = option(None, "use only the first so many pairs")
    eval_data: str | None = option(None, "held-out pairs, scored at every --eval-steps and at the end")
    eval_split: str = option("train", "the split of --eval-data (default: %(default)s)")
    eval_fraction: float | None = option(None, "hold out this share of the prompts instead of --eval-data")
    dry_run: bool = option(False, "show the first pair as the model sees it and how long the run is, then stop")
    overwrite: bool = option(False, "delete the earlier run in --output and start anew")

    def __post_init__(self):
        at_least_one(limit=self.limit)
        if self.eval_fraction is not None and not 0 < self.eval_fraction < 1:
            raise ValueError(f"--eval-fraction must be between 0 and 1, got {self.eval_fraction}")
        if self.eval_fraction and self.eval_data:
            raise ValueError("--eval-fraction and --eval-data exclude each other: give one of them")
        for item in self.columns or ():
            if not re.fullmatch("[^=]+=[^=]+", item):
                raise ValueError(f"--columns {item}: expected field=name, for example prompt=instruction")
        self.columns = dict(item.split("=") for item in self.columns or ()) or None


@dataclass
class LossOptions:
    """Say which loss is minimised, and which weights it moves."""

    _argument_group_name = "the loss and the trained weights"

    beta: float = option(0.1, "strength of the KL penalty (default: %(default)s)")
    loss_type: str = option("sigmoid", f"{', '.join(LOSS_TYPES)} or sigmoid_norm (default: %(default)s)")
    label_smoothing: float = option(0.0, "share of labels believed to be flipped (default: 0)")
    average_logps: bool = option(False, "divide log-probs by the reply's length")
    max_length: int = option(1024, "tokens of prompt and reply (default: %(default)s)")
    lora: int | None = option(None, "train LoRA adapters of this rank instead of all weights", metavar="RANK")
    lora_alpha: float | None = option(None, "scale of the adapters (default: twice the rank)")
    lora_targets: list[str] | None = field(
        default=None, metadata={"help": "names of the adapted layers (default: all linear layers)"}
    )
    merge: bool = option(False, "save the model with its adapters merged into its weights")

    def __post_init__(self):
        at_least_one(max_length=self.max_length, lora=self.lora)
        if self.lora_alpha is not None and not 0 < self.lora_alpha < math.inf:
            raise ValueError(f"--lora-alpha must be a positive number, got {self.lora_alpha}")
        if self.lora is None and (self.lora_alpha or self.lora_targets or self.merge):
            raise ValueError("--lora-alpha, --lora-targets and --merge need --lora RANK")


@dataclass
class RunArguments(TrainingArguments):
    """`TrainingArguments` with the defaults and the short names of this command line."""

    _argument_group_name = "the run"

    output_dir: str = option(None, "folder for the trained model and the checkpoints", aliases=["--output"])
    learning_rate: float = option(1e-6, "peak of the rate (default: %(default)s)")
    num_train_epochs: float = option(1.0, "passes over the pairs (default: %(default)s)", aliases=["--epochs"])
    max_steps: int = option(-1, "stop after so many updates (overrides --epochs)")
    per_device_train_batch_size: int = option(
        8, "pairs per step and process (default: %(default)s)", aliases=["--batch-size"]
    )
    gradient_accumulation_steps: int = option(1, "steps per update (default: %(default)s)", aliases=["--accumulate"])
    precision: Literal["fp32", "bf16", "fp16"] = option("fp32", "autocast over fp32 weights (default: %(default)s)")
    gradient_checkpointing: bool = option(False, "less memory, more time")
    save_steps: float = option(100, "updates between checkpoints (default: %(default)s)")
    save_total_limit: int | None = option(2, "checkpoints to keep (default: %(default)s)")
    eval_steps: float | None = option(None, "updates between evaluations (default: only at the end)")
    logging_steps: float = option(10, "updates between lines of progress (default: %(default)s)")
    lr_scheduler_type: str = option("cosine", "schedule of the rate (default: %(default)s)")
    warmup_steps: float = option(0.1, "updates of warm-up, or their share if below 1 (default: %(default)s)")
    seed: int = option(0, "seed of the order of the pairs (default: %(default)s)")
    use_cpu: bool = option(False, "stay on the CPU even where there is a GPU", aliases=["--cpu"])
    disable_tqdm: bool | None = option(True, "false shows progress bars instead of lines (default: %(default)s)")
    resume_from_checkpoint: str | None = option(
        None, "continue from FOLDER, or from the newest whole checkpoint, with the options it had (saving, logging and "
        "evaluation may change)", aliases=["--resume"], nargs="?", const=True, metavar="FOLDER",
    )  # fmt: skip

    def __post_init__(self):
        if not self.output_dir:
            raise ValueError("--output is missing: name the folder for the trained model")
        names = {"batch_size": "per_device_train_batch_size", "accumulate": "gradient_accumulation_steps"}
        names["eval_batch_size"] = "per_device_eval_batch_size"
        names |= {name: name for name in ("save_steps", "eval_steps", "logging_steps", "save_total_limit")}
        at_least_one(**{name: getattr(self, dest) for name, dest in names.items()})
        if self.max_steps != -1:
            at_least_one(max_steps=self.max_steps)
        for name, dest in (("epochs", "num_train_epochs"), ("learning-rate", "learning_rate")):
            if not 0 < getattr(self, dest) < math.inf:
                raise ValueError(f"--{name} must be a positive number, got {getattr(self, dest)}")
        if not math.isfinite(self.weight_decay):
            raise ValueError(f"--weight-decay must be a finite number, got {self.weight_decay}")
        self.bf16, self.fp16 = self.bf16 or self.precision == "bf16", self.fp16 or self.precision == "fp16"
        if NEWER_NAME in TrainingArguments.__dataclass_fields__:
            on = self.gradient_checkpointing or self.activation_checkpointing
            self.activation_checkpointing, self.gradient_checkpointing = on, None
        if self.eval_steps and self.eval_strategy == "no":
            self.eval_strategy = "steps"
        super().__post_init__()


def at_least_one(**values):
    """Raise `ValueError`, naming the option, for a value that is given and is not a whole number from 1 on."""
    shares = ("save_steps", "eval_steps", "logging_steps")  # below 1 these are shares of the run
    for name, value in values.items():
        share = name in shares and value is not None and 0 < value < 1
        if value is not None and not share and (not math.isfinite(value) or value < 1 or value != int(value)):
            raise ValueError(f"--{name.replace('_', '-')} must be a whole number from 1 on, got {value:g}")


class CommandLineParser(HfArgumentParser):
    """An `HfArgumentParser` whose errors are `ValueError`s of one sentence, and that takes no abbreviations."""

    def __init__(self, *dataclass_types, **more):
        super().__init__(dataclass_types, allow_abbrev=False, **more)

    def error(self, message):
        raise ValueError(re.sub(r"^argument (--?[\w-]+)\S*:", r"\1:", message))


def parser() -> CommandLineParser:
    """Return the parser of all options. `--help` shows ours, and not the hundred others of `TrainingArguments`."""
    made = CommandLineParser(
        DataOptions, LossOptions, RunArguments, prog="python -m toylib", description=DESCRIPTION, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    shown = {
        name for kind in (DataOptions, LossOptions, RunArguments) for name in vars(kind).get("__annotations__", ())
    }
    for action in made._actions:
        hyphenated = [name for name in action.option_strings if "_" not in name]  # both are read, one is shown
        action.option_strings = hyphenated[::-1] if action.dest != "help" else hyphenated
        if action.dest not in {"help", *shown} or action.option_strings[-1].startswith("--no-"):
            action.help = argparse.SUPPRESS
    more = made.add_argument_group("more")
    more.add_argument("--config", metavar="FILE.yaml", help="options by name; the command line overrides them")
    more.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a field of TrainingArguments")
    return made


def parse(words) -> tuple[DataOptions, LossOptions, RunArguments]:
    """Return the options that `words` and their `--config` file give. Raises `ValueError`, one sentence, by name."""
    made = parser()
    if not {"-h", "--help"} & set(words):
        early = CommandLineParser(add_help=False)
        early.add_argument("--config")
        config = early.parse_known_args(words)[0].config
        words = [*(config_words(config, made) if config else ()), *words]
    known = made.parse_args(words)
    for item in known.set:
        name, equals, value = item.partition("=")
        entry = TrainingArguments.__dataclass_fields__.get(name)
        if not equals or entry is None or not entry.init:
            raise ValueError(f"--set {item}: expected name=value with the name of a field of TrainingArguments")
        try:
            setattr(known, name, getattr(made.parse_args(["--data=.", f"--{name}={value}"]), name))
        except ValueError as problem:
            raise ValueError(f"--set {name}: {str(problem).partition(': ')[2]}") from None
    kinds = (DataOptions, LossOptions, RunArguments)
    return tuple(kind(**{f.name: getattr(known, f.name) for f in fields(kind) if f.init}) for kind in kinds)


def config_words(path, made) -> list[str]:
    """Return the options of a YAML file as words of the command line. Raises `ValueError` for an unknown name."""
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        values, top = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as problem:
        raise ValueError(f"--config {path} cannot be read: {' '.join(str(problem).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"--config {path}: expected one option per line, for example beta: 0.1")
    names = [key.value.replace("-", "_") for key, _ in top.value]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"--config {path}: {twice[0]} stands twice")
    words = []
    for name, value in values.items():
        flag = f"--{name}".replace("_", "-")
        if flag not in made._option_string_actions or flag in ("--config", "--help"):
            raise ValueError(f"--config {path}: there is no option {name!r}")
        if isinstance(value, (dict, list)) and flag not in ("--set", "--columns", "--lora-targets"):
            raise ValueError(f"--config {path}: {name} takes one value, got {value!r}")
        if isinstance(value, dict):
            value = [f"{key}={item}" for key, item in value.items()]
        if isinstance(value, list):
            words += [f"{flag}={item}" for item in value] if flag == "--set" else [flag, *map(str, value)]
        elif value is True and flag == "--resume":
            words.append(flag)
        elif value is not None and (value is not False or flag != "--resume"):
            words.append(f"{flag}={value}")
    return words
