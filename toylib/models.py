"""Load a causal language model and its tokenizer, ready for scoring and training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from toylib.preferences import DATA, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TRUST = {"trust_remote_code": False}  # transformers would ask on standard input whether to run code from a repository


def load_model(
    name: str | Path = "support-lm", device: torch.device | str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return `(model, tokenizer)`: weights in fp32, eval mode, right padding, pad token set.

    Only safetensors weights are read, and no code that comes with a model is run. A folder with nothing but a PEFT
    adapter, such as `python -m toylib --lora` writes, gives its base model with the adapter merged into the weights.

    `name` is `support-lm` (shipped, in data/), a folder, or a hub id. `device=None` takes CUDA if there is one.

    Raises: `ValueError`, in one sentence, for a name that is nowhere to be found (which includes a hub id without
    network), for weights in another format, and for a model that needs code of its own.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    shipped = DATA / name
    source = shipped if (shipped / "config.json").is_file() else Path(name)
    if not source.is_dir():
        if str(name).startswith((".", "/", "~")) or str(name).count("/") > 1:
            raise ValueError(f"no folder {str(name)!r}: give support-lm, a folder with a saved model, or a hub id")
    elif (source / "adapter_config.json").is_file() and not list(source.glob("model*.safetensors")):
        from toylib.engine.adapters import load_merged

        return load_merged(source, device)
    elif not (source / "config.json").is_file():
        raise ValueError(f"the folder {str(name)!r} holds no model: it has no config.json")
    model, tokenizer = _loaded(source if source.is_dir() else name, name)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ValueError(f"the tokenizer of {str(name)!r} has neither a pad nor an end-of-sequence token")
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return model.to(device).eval(), tokenizer


def _loaded(source: Any, name: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
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
            raise ValueError(f"{str(name)!r} needs code of its own, and no such code is run: {reason}") from None
        raise ValueError(
            f"cannot load {str(name)!r}: not shipped (support-lm is), not a folder with safetensors weights, and the "
            "Hugging Face hub did not give it: check the spelling and the network, and for a gated model log in with "
            f"`hf auth login` ({first_line(problem)})"
        ) from None
    finally:
        if bars:
            logging.enable_progress_bar()
