"""Short runs of the GPU day in this process: peaks of memory against the ledger, and the same updates in other precisions."""

from __future__ import annotations

import gc
import time

import pandas
import torch
from peers import CANNOT_RUN, SHAPES, config_of, in_one_line, new_model, random_pairs, word_tokenizer
from transformers import TrainingArguments

from toylib import DPOTrainer, load_model, load_preferences
from toylib.engine.prefix_sharing import collate_rows
from toylib.labs.hardware import Card, choose_precision
from toylib.labs.memory import ledger, measure_step, peak, shape_of, sizes
from toylib.tokens import tokenize_pairs

RANK = 16
T4 = Card("T4", (7, 5), 15 * 2**30)


def adapted(model, way):
    """Return the model to train: as it is, or with LoRA adapters in every layer's matrices."""
    if way != "LoRA":
        return model
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM"))


def peak_of_a_step(shape, precision, way, pairs, device):
    """Return a row: the ledger's peak of one step with `pairs` pairs of mixed lengths, and the measured one."""
    row = {"model": shape, "way": way, "precision": precision, "pairs": pairs}
    try:
        size = SHAPES[shape]["vocab_size"]
        rows = tokenize_pairs(random_pairs(pairs, "mixed", size), word_tokenizer(size), 2048)
        batch = collate_rows(rows, 0, device)
        scored = (batch["branch"] > 0).sum().item() / pairs
        counted = shape_of(config_of(shape))
        predicted = ledger(counted, pairs, batch["input_ids"].shape[1], scored, precision, way, rank=RANK)
        model = new_model(shape, device).to(torch.bfloat16 if precision == "bf16" else torch.float32)
        return row | compared(peak(predicted), measure_step(adapted(model, way).train(), batch, precision)["peak"])
    except CANNOT_RUN as problem:
        return row | {"problem": in_one_line(problem)}
    finally:
        forget(device)


def peak_of_the_trainer(shape, precision, way, day):
    """Return a row: the same for three updates of `DPOTrainer`. Only a card's allocator can say what that held."""
    pairs_a_step = 2 if day.tiny else 8
    row = {"model": shape, "way": way, "precision": precision, "pairs": pairs_a_step}
    try:
        size = SHAPES[shape]["vocab_size"]
        pairs, tokenizer = random_pairs(3 * pairs_a_step, "mixed", size), word_tokenizer(size)
        predicted = ledger(
            shape_of(config_of(shape)),
            pairs_a_step,
            *sizes(tokenize_pairs(pairs, tokenizer, 2048)),
            precision,
            way,
            RANK,
        )
        trainer = trainer_of(
            adapted(new_model(shape, day.device), way), tokenizer, pairs, day, max_length=2048,
            per_device_train_batch_size=pairs_a_step, bf16=precision == "autocast",
        )  # fmt: skip
        if day.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
        measured = torch.cuda.max_memory_allocated() if day.device == "cuda" else None
        return row | compared(peak(predicted), measured)
    except CANNOT_RUN as problem:
        return row | {"problem": in_one_line(problem)}
    finally:
        forget(day.device)


def compared(predicted, measured):
    found = {"predicted MB": predicted / 1e6}
    return found | ({"measured MB": measured / 1e6, "predicted / measured": predicted / measured} if measured else {})


def forget(device):
    """Free what an earlier try left, so that the next one's peak is its own."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def fp16(day):
    """Train the same updates in fp32, in bf16, and in fp16 with a scaled loss, which is what a T4 gets."""
    of_t4 = choose_precision(T4)
    kinds = {"fp32": {}, "bf16": {"bf16": True}, of_t4.name: of_t4.arguments}
    rows, curves = [], {}
    for kind, arguments in kinds.items():
        row, curves[kind] = losses_in(kind, arguments, day, updates=4 if day.tiny else 30)
        rows.append(row)
    for row in rows:
        gaps = [abs(a - b) for a, b in zip(curves[row["precision"]], curves["fp32"], strict=False)]
        row |= {"largest gap of the loss to fp32": max(gaps)} if gaps else {}
    table = pandas.DataFrame({kind: pandas.Series(curve, dtype=float) for kind, curve in curves.items()})
    losses = [{"update": i + 1} | row.dropna().to_dict() for i, row in table.iterrows()]
    tables = {"the same updates in three precisions": rows, "the loss at each update": losses}
    return day.result(tables, why=of_t4.reason)


def losses_in(precision, arguments, day, updates):
    """Return a row on `updates` updates of the day's model in this precision, and the loss of each."""
    row = {"precision": precision, "updates": updates}
    try:
        model, tokenizer = load_model(day.model, device=day.device)
        pairs = list(load_preferences("support").select(range(updates * 16)))
        trainer = trainer_of(
            model, tokenizer, pairs, day, per_device_train_batch_size=16, logging_steps=1, learning_rate=5e-6,
            lr_scheduler_type="constant", **arguments,
        )  # fmt: skip
        started = time.perf_counter()
        trainer.train()
        row |= {"seconds an update": (time.perf_counter() - started) / updates}
        logged = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
        finite = [entry for entry in logged if torch.isfinite(torch.tensor(float(entry.get("grad_norm", 0))))]
        row |= {"skipped updates": len(logged) - len(finite), "last loss": logged[-1]["loss"]}
        row |= {"last margin": logged[-1]["rewards/margins"]}
        if trainer.accelerator.scaler is not None:
            row |= {"scale of the loss": trainer.accelerator.scaler.get_scale()}
        return row, [entry["loss"] for entry in logged]
    except CANNOT_RUN as problem:
        return row | {"problem": in_one_line(problem)}, []
    finally:
        forget(day.device)


def trainer_of(model, tokenizer, pairs, day, max_length=512, **settings):
    from datasets import Dataset

    common = {"num_train_epochs": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    common |= {"use_cpu": day.tiny, "learning_rate": 1e-6, "dataloader_pin_memory": not day.tiny} | settings
    arguments = TrainingArguments(str(day.work / "runs" / "short"), **common)
    pairs = Dataset.from_list(pairs)
    return DPOTrainer(model, arguments, pairs, processing_class=tokenizer, max_length=max_length)
