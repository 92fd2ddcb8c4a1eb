"""`python -m toylib`: train on your own pairs with `DPOTrainer`, then chat with the result. The options are in `cli_options`."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import random
import shlex
import shutil
import sys
import time
from pathlib import Path

# What only an earlier run leaves in a folder.
RUN_SIGNS = ("checkpoint-*", "options.json", "model*.safetensors", "adapter_*", "last-finite")
KNOWN = (ValueError, OSError, FloatingPointError, MemoryError, ImportError)  # their messages are sentences of their own


def main(arguments=None) -> int:
    """Train as told, or chat. Return the exit code; what the user can mend is one sentence on standard error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["chat"]:
            return chat(words[1:])
        from toylib.engine.cli_options import parse

        with messages_to_stderr(), naming_on_bad():
            return train(*parse(words), words)
    except KeyboardInterrupt:
        print("\nerror: interrupted; checkpoints that were saved before are whole", file=sys.stderr)
        return 130
    except Exception as problem:
        if os.environ.get("TOYLIB_TRACEBACK"):
            raise
        text = " ".join(str(problem).split()) or type(problem).__name__
        if not isinstance(problem, KNOWN):
            text = f"{type(problem).__name__}: {text} (TOYLIB_TRACEBACK=1 shows where)"
        print(f"\nerror: {text[:1000]}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def messages_to_stderr():
    """Send what toylib logs to standard error while open, without bars where that is a file.

    Of several processes, only the first one prints.
    """
    from transformers.utils import logging as hf_logging

    first, bars = os.environ.get("RANK", "0") == "0", hf_logging.is_progress_bar_enabled()
    handler, logger = logging.StreamHandler(sys.stderr), logging.getLogger("toylib")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if first else logging.ERROR)
    if not sys.stderr.isatty():
        hf_logging.disable_progress_bar()
    try:
        with contextlib.nullcontext() if first else contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        if bars:
            hf_logging.enable_progress_bar()
        logger.setLevel(level)
        logger.removeHandler(handler)


@contextlib.contextmanager
def naming_on_bad():
    """Name the option that leaves such rows out in an error about a row that the chat template refuses."""
    try:
        yield
    except ValueError as problem:
        if "the chat template refuses" not in str(problem):
            raise
        raise ValueError(f"{problem}; --on-bad drop leaves such rows out") from None


def train(data, loss, arguments, words) -> int:
    """Run one training from reading the pairs to the summary line. Return the exit code."""
    from toylib.engine.callbacks import StopOnSignal, print_to_terminal
    from toylib.engine.reporting import save_result, show_plan, summary
    from toylib.engine.trainer import DPOTrainer
    from toylib.tokens import tokenize_pairs

    output, started = Path(arguments.output_dir), time.monotonic()
    check_output(output, data, arguments)
    pairs, held_out = read_pairs(data)
    model, tokenizer, reference = load_models(data, loss)
    if data.eval_fraction:
        pairs, held_out = hold_out(pairs, data.eval_fraction, arguments.seed)
    for part in (pairs, held_out):
        if part is not None:
            part.on_bad = data.on_bad  # also where only the tokenizer finds out
    if data.dry_run:
        show_plan(tokenize_pairs(pairs, tokenizer, loss.max_length), pairs, tokenizer, arguments)
        return 0
    stop = StopOnSignal()
    settings = {name: getattr(loss, name) for name in ("beta", "loss_type", "label_smoothing", "average_logps")}
    trainer = DPOTrainer(
        model, arguments, pairs, held_out, processing_class=tokenizer, ref_model=reference, callbacks=[stop],
        max_length=loss.max_length, **settings,
    )  # fmt: skip
    updates = show_plan(trainer.train_dataset, pairs, tokenizer, trainer.args)
    trainer.args.logging_steps = min(trainer.args.logging_steps, updates)  # a short run logs once, at its end
    print_to_terminal(trainer)
    if data.overwrite and trainer.args.should_save:
        remove_run(output)
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    if stop.received:
        again = shlex.join(word for word in map(str, words) if word != "--overwrite")
        again += "" if "--resume" in words else " --resume"
        print(f"stopped after update {trainer.state.global_step} of {updates}, which is saved. To continue:")
        print(f"  python -m toylib {again}")
        return 128 + stop.received
    metrics = trainer.evaluate() if held_out is not None else {}
    save_result(trainer, output, {"data": vars(data), "loss": vars(loss)}, metrics, loss.merge)
    print(summary(trainer, metrics, time.monotonic() - started, output))
    return 0


def check_output(output, data, arguments):
    """Refuse an output folder that holds an earlier run, or that cannot be written. Raises `ValueError`."""
    from toylib.engine.checks import check_writable

    signs = [path.name for sign in RUN_SIGNS for path in output.glob(sign)] if output.is_dir() else []
    if signs and not (data.overwrite or arguments.resume_from_checkpoint or data.dry_run):
        raise ValueError(
            f"{output} holds an earlier run ({signs[0]}): add --resume or --overwrite, or choose another folder"
        )
    if output.is_dir() and output.resolve() == Path(data.model).resolve():
        raise ValueError(f"--output {output} is the folder of --model: choose another one")
    if data.overwrite and arguments.resume_from_checkpoint:
        raise ValueError("--resume and --overwrite exclude each other: give one of them")
    if arguments.eval_strategy != "no" and not (data.eval_data or data.eval_fraction):
        raise ValueError("--eval-steps needs --eval-data or --eval-fraction")
    if not data.dry_run:
        check_writable(output, "--output")


def remove_run(output):
    """Delete what an earlier run left in `output`, and nothing else."""
    for path in [path for sign in RUN_SIGNS for path in output.glob(sign)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_pairs(data):
    """Return the training pairs and the held-out pairs (or None) that the options name."""
    from toylib.preferences import load_preferences

    source, split = data.data, data.split
    if data.subset:
        from datasets import load_dataset

        source, split = load_dataset(data.data, data.subset, split=data.split), "train"
    pairs = load_preferences(source, split, columns=data.columns, on_bad=data.on_bad)
    if data.limit:
        pairs = part_of(pairs, range(min(data.limit, len(pairs))))
    if not data.eval_data:
        return pairs, None
    return pairs, load_preferences(data.eval_data, data.eval_split, columns=data.columns, on_bad=data.on_bad)


def part_of(pairs, indices):
    """Return the pairs at `indices`, which keep the names of their rows."""
    part = pairs.select(indices)
    if hasattr(pairs, "source_rows"):
        part.source_name, part.source_rows = pairs.source_name, [pairs.source_rows[i] for i in indices]
    return part


def hold_out(pairs, share, seed):
    """Return the training pairs and a share of held-out ones, drawn by `seed`. Pairs with one prompt stay together."""
    prompts = [json.dumps(prompt) for prompt in pairs["prompt"]]
    different = list(dict.fromkeys(prompts))
    if len(different) < 2:
        raise ValueError("--eval-fraction needs pairs with at least two different prompts")
    count = min(max(1, round(share * len(different))), len(different) - 1)
    drawn = set(random.Random(seed).sample(different, count))
    return tuple(
        part_of(pairs, [i for i, prompt in enumerate(prompts) if (prompt in drawn) is held]) for held in (False, True)
    )


def load_models(data, loss):
    """Return the model to train, with its LoRA adapters if asked for, its tokenizer, and the reference (or None)."""
    from toylib.models import load_model

    model, tokenizer = load_model(data.model, device="cpu")
    reference = load_model(data.ref_model, device="cpu")[0] if data.ref_model else None
    if loss.lora:
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError:
            raise ValueError("--lora needs the package peft: pip install peft") from None
        targets, alpha = loss.lora_targets or "all-linear", loss.lora_alpha or 2 * loss.lora
        model = get_peft_model(
            model, LoraConfig(r=loss.lora, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM")
        )
    return model, tokenizer, reference


def chat(words) -> int:
    """Answer what is typed, with the model in a folder, until an empty line or the end of the input."""
    from toylib.models import load_model
    from toylib.replies import sample_replies

    if len(words) != 1 or words[0].startswith("-"):
        raise ValueError("usage: python -m toylib chat FOLDER")
    model, tokenizer = load_model(words[0])
    print("Type a message; an empty line ends the chat.", file=sys.stderr)
    messages = []
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            return 0
        if not text:
            return 0
        prompt = text
        if tokenizer.chat_template:
            messages.append({"role": "user", "content": text})
            prompt = messages
        (reply,) = sample_replies(model, tokenizer, [prompt], max_new_tokens=256, seed=len(messages)).texts
        messages.append({"role": "assistant", "content": reply.strip()})
        print("".join(c if c.isprintable() or c == "\n" else " " for c in reply.strip()))
