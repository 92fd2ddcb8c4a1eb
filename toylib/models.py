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
