"""Load preference pairs in the standard form: one row per pair, with `prompt`, `chosen` and `rejected`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

PACKAGE = Path(__file__).resolve().parent
DATA = PACKAGE / "data" if (PACKAGE / "data").is_dir() else PACKAGE.parent / "data"  # a wheel brings its own copy
SHIPPED = ("support", "handwritten", "templated")
FIELDS = ("prompt", "chosen", "rejected")


def load_preferences(
    source: Any = "support", split: str = "train", *, columns: dict[str, str] | None = None, on_bad: str = "error"
) -> Dataset:
    """Return preference pairs as a `datasets.Dataset` with the columns `prompt`, `chosen` and `rejected`.

    The three columns hold text, or lists of messages `{"role": …, "content": …}` that the chat template renders at
    tokenisation. Rows of messages keep `tools` and `chat_template_kwargs` as columns, where the source has them.
    `toylib.engine.formats` reads all other forms into this one. Its docstring has a table of them.

    Args: `source` is a shipped set (`support`, `handwritten`, `templated`; splits in data/README.md), a file (.json,
    .jsonl, .csv, .tsv, .parquet; also .gz), a `save_to_disk` folder, a `Dataset`, an `IterableDataset`, a dict of either,
    or a hub id such as `owner/name` or `owner/name:configuration`. A file or a single `Dataset` has one split, `train`.
    `columns` names fields that the source calls differently: `{"prompt": "instruction"}`. `on_bad="drop"` leaves bad rows
    out and prints how many of each kind; `"error"` raises at the first one.

    Returns: the pairs. The attributes `source_name` and `source_rows` (numbers from 1) say where each pair came from.

    Raises: `ValueError`, in one sentence, if the source cannot be read or a row is bad: a field is missing, blank or not
    text, chosen equals rejected, their prompts differ, or the roles are not those of a conversation.
    """
    from datasets import Dataset

    if on_bad not in ("error", "drop"):
        raise ValueError(f'on_bad must be "error" or "drop", got {on_bad!r}')
    if columns and not (isinstance(columns, dict) and columns.keys() <= {*FIELDS}):
        raise ValueError(f"columns may rename {', '.join(FIELDS)} as {{to: from}}; got {', '.join(map(str, columns))}")
    if not isinstance(source, str) or source not in SHIPPED:
        from toylib.engine.formats import read_pairs

        return read_pairs(source, split, columns, on_bad)
    if columns:
        raise ValueError(f"{source!r} is in the standard form already: leave columns= out")
    splits = sorted(path.stem for path in (DATA / source).glob("*.jsonl"))
    if split not in splits:
        raise ValueError(f"{source!r} has no split {split!r}: it has {', '.join(splits)}")
    rows = read_file(DATA / source / f"{split}.jsonl")
    pairs = Dataset.from_dict({field: [row[field] for row in rows] for field in FIELDS})
    pairs.source_name, pairs.source_rows = f"data/{source}/{split}.jsonl", range(1, len(rows) + 1)
    return pairs


def row_name(pairs: Any, index: int) -> str:
    """Return how an error names the pair at `index` (from 0): file and row where known, such as `a.jsonl, row 3`."""
    rows = getattr(pairs, "source_rows", None)
    return f"{pairs.source_name}, row {rows[index]}" if rows else f"row {index + 1}"


def load_prompts(split: str = "test") -> Dataset:
    """Return held-out customer prompts as a `datasets.Dataset` with the columns `prompt` and `intent`.

    `split="test"` is written by hand and used for no training and no tuning. `heldout` and `dev` are generated from
    phrasings that no training text contains. Settings were tuned on `dev`.
    """
    from datasets import Dataset

    rows = read_file(DATA / "prompts" / f"{split}.jsonl")
    return Dataset.from_dict({column: [row[column] for row in rows] for column in ("prompt", "intent")})


def read_file(path: Path) -> list[dict]:
    """Return the rows of a shipped `.jsonl` file. `toylib.engine.files` reads files from elsewhere and checks them."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def first_line(problem: object, most: int = 160) -> str:
    """Return the first line of an exception's message, at most `most` characters long, or its name if it has none."""
    return (str(problem).strip() or repr(problem)).splitlines()[0][:most]
