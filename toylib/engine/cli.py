"""`python -m toylib`: DPOTrainer from the command line, for those who outgrow the notebook."""

from __future__ import annotations

import argparse
import sys

from toylib.preferences import first_line

CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing")  # its newest name in transformers, and its first
DESCRIPTION = """\
Train a causal language model on preference pairs with Direct Preference Optimization.

The pairs are a file (.jsonl, .json, .csv, .parquet), a shipped set or a Hugging Face data set with prompt, chosen and
rejected: as text, as lists of messages, or as whole dialogues that share their beginning. The reference is the model
as it is given; its log-probs are computed once and cached. Results go to --output: the trained model with its tokenizer
(safetensors), and checkpoint-N folders from which --resume goes on, bit for bit on a CPU."""

EXAMPLES = """\
examples:
  python -m toylib --data support --output runs/first --learning-rate 1e-4
  python -m toylib --model HuggingFaceTB/SmolLM2-135M-Instruct --data pairs.jsonl --output runs/smol --beta 0.5
  python -m toylib --data support --output runs/first --learning-rate 1e-4 --resume
  torchrun --nproc_per_node 2 -m toylib --model … --data … --output …
  accelerate launch --config_file fsdp.yaml -m toylib --model … --data … --output …"""


def parser() -> argparse.ArgumentParser:
    """The options, in the order in which one meets them."""
    p = argparse.ArgumentParser(
        prog="python -m toylib",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = p.add_argument_group("what to train, on what")
    what.add_argument("--model", default="support-lm", help="shipped name, folder or hub id (default: %(default)s)")
    what.add_argument("--data", required=True, help="training pairs: a file, a shipped set (support, …) or a hub id")
    what.add_argument("--eval-data", help="held-out pairs, scored at every --eval-steps and at the end")
    what.add_argument("--split", default="train", help="split of a shipped or hub set (default: %(default)s)")
    what.add_argument("--eval-split", default="train", help="the same for --eval-data (default: %(default)s)")
    what.add_argument("--on-bad", choices=("error", "drop"), default="error", help="a bad row: stop, or drop and count")
    what.add_argument("--output", required=True, help="folder for the trained model and the checkpoints")
    loss = p.add_argument_group("the loss")
    loss.add_argument("--beta", type=float, default=0.1, help="strength of the KL penalty (default: %(default)s)")
    loss.add_argument("--loss-type", default="sigmoid", help="sigmoid, robust, hinge or ipo (default: %(default)s)")
    loss.add_argument(
        "--label-smoothing", type=float, default=0.0, help="share of labels believed flipped (default: 0)"
    )
    loss.add_argument("--average-logps", action="store_true", help="divide log-probs by the reply's length")
    loss.add_argument("--max-length", type=int, default=1024, help="tokens of prompt and reply (default: %(default)s)")
    run = p.add_argument_group("the run")
    run.add_argument("--learning-rate", type=float, default=1e-6, help="peak of the rate (default: %(default)s)")
    run.add_argument("--epochs", type=float, default=1.0, help="passes over the pairs (default: %(default)s)")
    run.add_argument("--max-steps", type=int, default=-1, help="stop after so many updates (overrides --epochs)")
    run.add_argument("--batch-size", type=int, default=8, help="pairs a step and process (default: %(default)s)")
    run.add_argument("--accumulate", type=int, default=1, help="such steps an update (default: %(default)s)")
    run.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="autocast over fp32 weights")
    run.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    run.add_argument("--lora", type=int, metavar="RANK", help="train LoRA adapters of this rank instead of all weights")
    run.add_argument("--save-steps", type=int, default=100, help="updates between checkpoints (default: %(default)s)")
    run.add_argument("--eval-steps", type=int, help="updates between evaluations (default: only at the end)")
    run.add_argument("--seed", type=int, default=0, help="of the order of the pairs (default: %(default)s)")
    run.add_argument("--cpu", action="store_true", help="stay on the CPU even where there is a GPU")
    run.add_argument(
        "--resume",
        nargs="?",
        const=True,
        metavar="FOLDER",
        help="go on from FOLDER, or the newest whole one, with the options it had (saving, logging, evaluation aside)",
    )
    run.add_argument(
        "--report-to", default="none", help="where metrics go: tensorboard, wandb, … (default: %(default)s)"
    )
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other field of transformers.TrainingArguments",
    )
    return p


def other_settings(given) -> dict:
    """`--set name=value` as typed values for `TrainingArguments`; an unknown name is a `ValueError`."""
    from transformers import HfArgumentParser, TrainingArguments

    words = ["--output_dir=."]  # the one field without a default
    for item in given:
        name, equals, value = item.partition("=")
        field = TrainingArguments.__dataclass_fields__.get(name)
        if not equals or field is None or not field.init:
            raise ValueError(f"--set {item}: expected name=value with the name of a field of TrainingArguments")
        words.append(f"--{name}={value}")
    try:
        known = HfArgumentParser(TrainingArguments, exit_on_error=False).parse_args(words)
    except argparse.ArgumentError as problem:
        raise ValueError(f"--set {problem.argument_name.split('/')[0].lstrip('-')}: {problem.message}") from None
    return {item.partition("=")[0]: getattr(known, item.partition("=")[0]) for item in given}


def main(arguments=None) -> int:
    """Train as told; returns the exit code, and prints one sentence for what the user can mend."""
    options = parser().parse_args(arguments)
    try:
        train(options)
    except (ValueError, FloatingPointError, OSError, RuntimeError) as problem:
        print(f"error: {first_line(problem, 1000)}", file=sys.stderr)
        return 1
    return 0


def train(options) -> None:
    from transformers import TrainingArguments

    from toylib.engine.trainer import DPOTrainer
    from toylib.models import load_model
    from toylib.preferences import load_preferences

    settings = {
        "output_dir": options.output,
        "learning_rate": options.learning_rate,
        "num_train_epochs": options.epochs,
        "max_steps": options.max_steps,
        "per_device_train_batch_size": options.batch_size,
        "gradient_accumulation_steps": options.accumulate,
        "bf16": options.precision == "bf16",
        "fp16": options.precision == "fp16",
        "save_steps": options.save_steps,
        "save_total_limit": 2,
        "eval_strategy": "steps" if options.eval_steps else "no",
        "eval_steps": options.eval_steps,
        "logging_steps": 10,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "seed": options.seed,
        "use_cpu": options.cpu,
        "report_to": options.report_to,
    }
    if options.gradient_checkpointing:
        settings |= {next(name for name in CHECKPOINTING if name in TrainingArguments.__dataclass_fields__): True}
    arguments = TrainingArguments(**settings | other_settings(options.set))
    if options.eval_steps and not options.eval_data:
        raise ValueError("--eval-steps needs --eval-data")
    pairs = load_preferences(options.data, options.split, on_bad=options.on_bad)
    held_out = options.eval_data and load_preferences(options.eval_data, options.eval_split, on_bad=options.on_bad)
    model, tokenizer = load_model(options.model, device="cpu")
    if options.lora:
        from peft import LoraConfig, get_peft_model

        adapters = LoraConfig(
            r=options.lora, lora_alpha=2 * options.lora, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        model = get_peft_model(model, adapters)
    trainer = DPOTrainer(
        model,
        arguments,
        pairs,
        held_out or None,
        processing_class=tokenizer,
        beta=options.beta,
        loss_type=options.loss_type,
        label_smoothing=options.label_smoothing,
        average_logps=options.average_logps,
        max_length=options.max_length,
    )
    trainer.train(resume_from_checkpoint=options.resume)
    if held_out:
        trainer.evaluate()
    trainer.save_model()
