"""What the command line shows before training, and what it saves and prints at the end."""

from __future__ import annotations

import json
import os
import shlex
import shutil

from toylib.engine.callbacks import short_metrics
from toylib.engine.checkpoint_seals import to_disk
from toylib.engine.checkpoints import planned_updates

OPTIONS = "options.json"  # all options of a run, beside its model


def show_plan(rows, pairs, tokenizer, arguments) -> int:
    """Print the first pair as the model sees it, and the size of the run. Return the number of updates."""
    first = rows[0]
    print(f"row {first['number']} as the model sees it, special tokens included:")
    for name in ("prompt", "chosen", "rejected"):
        print(f"  {name:<9} {len(first[name]):>5} tokens  {tokenizer.decode(first[name])!r}")
    if isinstance(pairs[0]["prompt"], str):
        print("no chat template is applied: prompts and replies are plain text")
    else:
        print("the tokenizer's chat template is applied to the messages")
    updates, size = planned_updates(arguments, len(rows)), arguments.train_batch_size * arguments.world_size
    tokens = [len(row["prompt"]) + max(len(row["chosen"]), len(row["rejected"])) for row in rows]
    print(
        f"{len(rows)} pairs, at most {max(tokens)} tokens per prompt and reply; "
        f"{updates} updates of {size * arguments.gradient_accumulation_steps} pairs"
    )
    return updates


def save_result(trainer, output, options, metrics, merge):
    """Save the model, the options and the held-out metrics. Each file replaces an older one only when it is whole."""
    unfinished = output / ".unfinished"
    if trainer.args.should_save:
        shutil.rmtree(unfinished, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    try:
        trainer.save_model(str(unfinished))
        if merge and trainer.args.should_save:
            for path in unfinished.glob("adapter_*"):
                path.unlink()
            trainer.accelerator.unwrap_model(trainer.model).merge_and_unload().save_pretrained(unfinished)
        if trainer.args.should_save:
            options |= {"arguments": trainer.args.to_dict()}
            for name, values in ((OPTIONS, options), ("eval_results.json", metrics)):
                if values:
                    (unfinished / name).write_text(json.dumps(values, indent=1, default=str), encoding="utf-8")
            for path in unfinished.iterdir():
                to_disk(path)
            for path in sorted(unfinished.iterdir()):
                os.replace(path, output / path.name)
            to_disk(output)  # the new names too, before the run says that it is saved
    except Exception as problem:
        raise OSError(
            f"the trained model could not be saved in {output} ({problem}); its checkpoints and what was saved before "
            "are untouched: make room, then run the same command with --resume"
        ) from problem
    finally:
        if trainer.args.should_save:
            shutil.rmtree(unfinished, ignore_errors=True)


def summary(trainer, metrics, seconds, output) -> str:
    """Return the final evaluation, if there is one, and the line that closes a run."""
    logged = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    numbers = short_metrics(metrics, "eval_") if metrics else short_metrics((logged or [{}])[-1])
    where = "on held-out pairs" if metrics else "in the last log entry of training"
    lines = [f"final evaluation: { {name: round(value, 4) for name, value in metrics.items()} }"] if metrics else []
    lines.append(
        f"{trainer.state.global_step} updates in {seconds:.0f} s; {', '.join(numbers)} {where}; saved in {output} "
        f"(try it: python -m toylib chat {shlex.quote(str(output))})"
    )
    return "\n".join(lines)
