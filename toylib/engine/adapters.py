"""Load a folder that holds nothing but a PEFT adapter, such as `python -m toylib --lora` writes."""

from __future__ import annotations

import json
from pathlib import Path

from toylib.models import TRUST, load_model
from toylib.preferences import first_line


def load_merged(folder, device):
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
