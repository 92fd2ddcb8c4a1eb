"""Load a causal language model and its tokenizer, ready for scoring and training."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from toylib.preferences import DATA, first_line

TRUST = {"trust_remote_code": False}  # transformers would ask on standard input whether to run code from a repository


def load_model(name="support-lm", device=None):
    """Return `(model, tokenizer)`: weights in fp32, eval mode, right padding, pad token set.

    Only safetensors weights are read, and no code that comes with a model is run. A folder with nothing but a PEFT
    adapter, such as `python -m toylib --lora` writes, gives its base model with the adapter merged into the weights.

    Args:
        name: `support-lm` (shipped, in data/), a folder, or a hub id.
        device: Where to put the model. `None` takes CUDA if there is one, else the CPU.

    Raises:
        ValueError: In one sentence, for a name that is nowhere to be found (which includes a hub id without network),
            for weights in another format, and for a model that needs code of its own.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    shipped = DATA / name
    source = shipped if (shipped / "config.json").is_file() else Path(name)
    if not source.is_dir():
        if str(name).startswith((".", "/", "~")) or str(name).count("/") > 1:
            raise ValueError(f"no folder {str(name)!r}: give support-lm, a folder with a saved model, or a hub id")
        source = name
    elif not (source / "config.json").is_file():
        if (source / "adapter_config.json").is_file():
            return _merged_adapter(source, device)
        raise ValueError(f"the folder {str(name)!r} holds no model: it has no config.json")
    model, tokenizer = _loaded(source, name)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ValueError(f"the tokenizer of {str(name)!r} has neither a pad nor an end-of-sequence token")
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return model.to(device).eval(), tokenizer


def _loaded(source, name):
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    if isinstance(source, Path):
        logging.disable_progress_bar()  # a folder loads at once, and its bar would only litter the notebook
    try:
        config = AutoConfig.from_pretrained(source, **TRUST)
        if "/" in str(config._attn_implementation):
            raise ValueError(f"its config asks for attention code from the hub, {config._attn_implementation!r}")
        tokenizer = AutoTokenizer.from_pretrained(source, **TRUST)
        weights = {"dtype": torch.float32, "use_safetensors": True}
        return AutoModelForCausalLM.from_pretrained(source, config=config, **weights, **TRUST), tokenizer
    except (OSError, ValueError, SafetensorError) as problem:
        if any(words in str(problem) for words in ("custom code", "attention code", "trust_remote_code")):
            reason = first_line(problem).split(" which must")[0]
            raise ValueError(
                f"{str(name)!r} needs code that comes with it, and no such code is run: {reason}"
            ) from None
        raise ValueError(
            f"cannot load {str(name)!r}: not shipped (support-lm is), not a folder with safetensors weights, and the "
            "Hugging Face hub did not give it: check the spelling and the network, and for a gated model log in with "
            f"`hf auth login` ({first_line(problem)})"
        ) from None
    finally:
        if bars:
            logging.enable_progress_bar()


def _merged_adapter(folder, device):
    """Return the base model of a PEFT adapter with the adapter merged, and the tokenizer saved with it or the base's."""
    try:
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        from peft import PeftModel
        from transformers import AutoTokenizer

        if not (folder / "adapter_model.safetensors").is_file() or Path(base).resolve() == folder.resolve():
            raise ValueError("it has no adapter_model.safetensors, or names itself as its base model")
        model, tokenizer = load_model(base, device)
        if (folder / "tokenizer_config.json").is_file():
            tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right", **TRUST)
            tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return PeftModel.from_pretrained(model, folder).merge_and_unload().eval(), tokenizer
    except ImportError:
        raise ValueError(
            f"the folder {str(folder)!r} holds an adapter for {base!r}: to load it, pip install peft"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as problem:
        reason = first_line(problem, 250)
        raise ValueError(f"the folder {str(folder)!r} holds an adapter that cannot be loaded: {reason}") from None
