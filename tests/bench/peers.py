"""Who stands against whom, on what: model shapes, mixes of lengths, TRL's settings and ours, and a clock for them all."""

from __future__ import annotations

import contextlib
import io
import os
import random
import statistics
import tempfile
import time
from unittest import mock

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["TOYLIB_CACHE"] = tempfile.mkdtemp()  # nothing is taken from an earlier run

import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback, TrainingArguments

from toylib import DPOTrainer

SMOL = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
SHAPES = {
    "support": {
        "vocab_size": 1408,
        "hidden_size": 96,
        "intermediate_size": 288,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    },
    "3M": {
        "vocab_size": 4096,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
    },
    "SmolLM2, 6 layers": {"vocab_size": 49152, "num_hidden_layers": 6, **SMOL},
    "SmolLM2-135M": {"vocab_size": 49152, "num_hidden_layers": 30, **SMOL},
    "1B": {
        "vocab_size": 49152,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
# Too little memory (a RuntimeError), or something that this TRL, this torch or this card does not have.
CANNOT_RUN = (RuntimeError, ValueError, TypeError, AttributeError, ImportError, OSError, AssertionError)
CANNOT_RUN += (ArithmeticError,)  # a profile that saw nothing has no shares
TRITON = "trl.kernels.chunked_logprob._TRITON_AVAILABLE"
MIXES = {  # shortest and longest prompt, shortest and longest reply, in tokens
    "long prompts": (200, 300, 16, 48),
    "mixed": (64, 256, 16, 128),
    "long replies": (32, 64, 100, 200),
}
FP32 = {"bf16": False, "gradient_checkpointing": False}
BF16 = {"bf16": True, "gradient_checkpointing": False}
ONCE = {"precompute_ref_log_probs": True, "train_sampling_strategy": "group_by_length", "remove_unused_columns": False}
CONTESTANTS = {  # (whose trainer, its settings)
    "TRL default": (trl, {}),
    "TRL fp32": (trl, FP32),
    "TRL best fp32": (trl, FP32 | ONCE),
    "TRL best bf16": (trl, BF16 | ONCE),
    "TRL best bf16, head unfused": (trl, BF16 | ONCE),  # without the Triton kernels of its head: `unfused`
    "ours fp32": (None, {}),
    "ours bf16": (None, {"bf16": True}),
}


def word_tokenizer(size):
    """Words w0, w1, … as tokens 2, 3, …; so that both trainers, which want text, see exactly the tokens meant."""
    core = Tokenizer(
        models.WordLevel({"<pad>": 0, "<eos>": 1} | {f"w{i}": i + 2 for i in range(size - 2)}, unk_token="<pad>")
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")


def random_pairs(count, mix, vocabulary, seed=0):
    rng = random.Random(seed)
    low, high, short, long = MIXES[mix] if isinstance(mix, str) else mix

    def text(shortest, longest):
        return " ".join(f"w{rng.randrange(vocabulary - 2)}" for _ in range(rng.randint(shortest, longest)))

    return [
        {"prompt": text(low, high), "chosen": " " + text(short, long), "rejected": " " + text(short, long)}
        for _ in range(count)
    ]


def config_of(shape):
    config = LlamaConfig(**SHAPES[shape] if isinstance(shape, str) else shape, max_position_embeddings=2048)
    config.tie_word_embeddings, config.pad_token_id, config.eos_token_id, config.bos_token_id = True, 0, 1, None
    return config


def new_model(shape, device="cpu"):
    torch.manual_seed(0)
    with torch.device(device):  # a billion random numbers take long on a CPU
        return LlamaForCausalLM(config_of(shape))


def unfused(name):
    """While open, TRL's head scores every position in plain PyTorch, where `name` asks for that.

    TRL 1.16 always fuses head and log-probs: on a GPU by Triton kernels that see reply tokens only, elsewhere in chunks.
    """
    return mock.patch(TRITON, False) if "unfused" in name else contextlib.nullcontext()


class Clock(TrainerCallback):
    """Seconds from the first step's start to the last one's end."""

    def synchronize(self):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_train_begin(self, *args, **kwargs):
        self.started = None

    def on_step_begin(self, *args, **kwargs):
        self.started = self.started or self.synchronize()

    def on_step_end(self, *args, **kwargs):
        self.seconds = self.synchronize() - self.started


def build(name, shape, pairs, batch, device):
    """A trainer and its clock; what it prints while it is made is swallowed."""
    whose, settings = CONTESTANTS[name]
    model, clock = new_model(shape, device), Clock()
    common = {"output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": batch, "num_train_epochs": 1}
    common |= {
        "learning_rate": 1e-6,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 10,
    }
    common |= {"use_cpu": device == "cpu"} | settings
    if whose is trl:  # its grouping wants a length column
        pairs = [pair | {"length": sum(len(text.split()) for text in pair.values())} for pair in pairs]
    data = {"train_dataset": Dataset.from_list(pairs), "processing_class": word_tokenizer(model.config.vocab_size)}
    with contextlib.redirect_stdout(io.StringIO()):
        if whose is trl:
            trainer = trl.DPOTrainer(
                model=model,
                ref_model=new_model(shape, device),
                args=trl.DPOConfig(max_length=None, **common),
                callbacks=[clock],
                **data,
            )
        else:
            trainer = DPOTrainer(model, TrainingArguments(**common), max_length=2048, callbacks=[clock], **data)
    return trainer, clock


def in_one_line(problem):
    """What went wrong, by type and by the first line of its message."""
    return f"{type(problem).__name__}: {(str(problem).splitlines() or [''])[0][:400]}"


def spread(values):
    return f"{statistics.median(values):8.3f} [{min(values):.3f}, {max(values):.3f}]"


def epoch(trainer):
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
