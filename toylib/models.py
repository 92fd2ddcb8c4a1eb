"""Load a causal language model and its tokenizer, ready for scoring and training."""

from __future__ import annotations

from pathlib import Path

import torch

from toylib.preferences import DATA, first_line


def load_model(name="support-lm", device=None):
    """`(model, tokenizer)`: weights in fp32, eval mode, right-padding, pad token set.

    `name` is `support-lm` (shipped, in data/), a folder, or a hub id. `device=None` takes CUDA if there is one, else
    the CPU. Safetensors only, and no code that comes with the weights is run. Raises `ValueError`, in one sentence,
    for a name that is nowhere to be found (which includes a hub id without network) and for weights in another format.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    shipped = DATA / name
    source = shipped if (shipped / "config.json").is_file() else Path(name)
    if not source.is_dir():
        if str(name).startswith((".", "/", "~")) or str(name).count("/") > 1:
            raise ValueError(f"no folder {name!r}: give support-lm, a folder with a saved model, or a hub id")
        source = name
    elif not (source / "config.json").is_file():
        raise ValueError(f"the folder {name!r} holds no model: it has no config.json")
    bars = logging.is_progress_bar_enabled()
    if isinstance(source, Path):
        logging.disable_progress_bar()  # a folder loads at once; its bar would only litter the notebook
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError, SafetensorError) as problem:
        raise ValueError(
            f"cannot load {str(name)!r}: not shipped (support-lm is), not a folder with safetensors weights, and the "
            "Hugging Face hub did not give it: check the spelling and the network, and for a gated model log in with "
            f"`hf auth login` ({first_line(problem)})"
        ) from None
    finally:
        if bars:
            logging.enable_progress_bar()
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ValueError(f"the tokenizer of {str(name)!r} has neither a pad nor an end-of-sequence token")
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return model.to(device).eval(), tokenizer


def switch_off_dropout(model):
    """Every kind of it, in place: a policy with dropout is not its own reference at step 0, and its loss not ln 2."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def check_vocabulary(model, rows):
    """`ValueError` if a row has a token id that the model has no embedding for: the tokenizer is another model's."""
    size = model.config.get_text_config().vocab_size
    for split, pairs in rows.items():
        for row in pairs:
            highest = max(max(row[field]) for field in ("prompt", "chosen", "rejected"))
            if highest >= size:
                raise ValueError(
                    f"{split} row {row['number']}: the tokenizer gives id {highest}, but the model knows {size} tokens: "
                    "they do not belong together (or the model needs resize_token_embeddings)"
                )
