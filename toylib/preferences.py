"""Preference pairs: load them from wherever they are, and check every row. `tokens` makes a batch of them."""

from __future__ import annotations

import io
import json
from pathlib import Path

_INSTALLED = Path(__file__).parent / "data"  # in a wheel; in a checkout the data is next to the package
DATA = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parent.parent / "data"
SHIPPED = ("support", "handwritten", "templated")
FIELDS = ("prompt", "chosen", "rejected")
ASSISTANT = "\n\nAssistant:"


def load_preferences(source="support", split="train", *, columns=None, on_bad="error"):
    """Preference pairs as a `datasets.Dataset` with the columns `prompt`, `chosen`, `rejected`.

    `source` is a shipped set (`support`, `handwritten`, `templated`; splits in data/README.md), a path to a `.json`,
    `.jsonl`, `.csv` or `.parquet` file, a `Dataset` (one split each, called train), a `DatasetDict`, or a hub id.
    Three forms are read: strings; lists of messages (rendered by the tokenizer's chat template at tokenisation); and
    rows without a prompt, whose chosen and rejected share their beginning (as in Anthropic's HH: split after the last
    "\\n\\nAssistant:"). `columns={"prompt": "instruction"}` says where a field is found under another name.

    A row is bad if a field is missing, blank or not text, if chosen equals rejected, or if their prompts differ.
    `on_bad="error"` raises `ValueError` naming file, row (from 1) and field, before anything is trained;
    `on_bad="drop"` leaves such rows out and prints how many of each kind.
    """
    from datasets import Dataset

    if on_bad not in ("error", "drop"):
        raise ValueError(f'on_bad must be "error" or "drop", got {on_bad!r}')
    name, rows = _read(source, split)
    names = {field: (columns or {}).get(field, field) for field in FIELDS}
    unknown = set(columns or {}) - set(FIELDS)
    if unknown:
        raise ValueError(f"columns may rename {', '.join(FIELDS)}; got {', '.join(sorted(unknown))}")
    good, dropped = [], {}
    for number, row in enumerate(rows, start=1):
        try:
            pair = _pair(row, names)
            if good and type(pair["chosen"]) is not type(good[0]["chosen"]):
                raise ValueError("some rows are text and some are lists of messages; all must be one or the other")
            good.append(pair)
        except ValueError as problem:
            if on_bad == "error":
                raise ValueError(f"{name}, row {number}: {problem}") from None
            dropped[str(problem)] = dropped.get(str(problem), 0) + 1
    for problem, count in dropped.items():
        print(f"{name}: dropped {count} row{'s' if count > 1 else ''}: {problem}")
    if not good:
        raise ValueError(f"{name}: no preference pairs in it")
    return Dataset.from_list(good)


def load_prompts(split="test"):
    """Held-out customer prompts, as a `datasets.Dataset` with the columns `prompt` and `intent`.

    `test`: written by hand, used for no training and no tuning. `heldout` and `dev`: generated from phrasings that are
    in no training text; `dev` is what settings were tuned on.
    """
    from datasets import Dataset

    rows = read_file(DATA / "prompts" / f"{split}.jsonl")
    return Dataset.from_list([{column: row[column] for column in ("prompt", "intent")} for row in rows])


def _read(source, split):
    """`(name, rows)`: what to call the source in an error, and its rows as an iterable of dicts."""
    from datasets import Dataset, DatasetDict, load_dataset

    if isinstance(source, Dataset) and split != "train":
        raise ValueError(f"a Dataset is one split, train; got split={split!r}")
    if isinstance(source, DatasetDict):
        if split not in source:
            raise ValueError(f"the data set has no split {split!r}: it has {', '.join(source)}")
        source = source[split]
    if isinstance(source, Dataset):
        return "the data set", source
    if not isinstance(source, (str, Path)):
        kind = type(source).__name__
        raise ValueError(f"source must be a shipped set's name, a path, a hub id or a Dataset, got {kind}")
    if source in SHIPPED:
        splits = sorted(path.stem for path in (DATA / source).glob("*.jsonl"))
        if split not in splits:
            raise ValueError(f"{source!r} has no split {split!r}: it has {', '.join(splits)}")
        return f"data/{source}/{split}.jsonl", read_file(DATA / source / f"{split}.jsonl")
    path = Path(source)
    if path.suffix in (".json", ".jsonl", ".csv", ".parquet"):
        if split != "train":
            raise ValueError(f"{path} is one file and so one split, train; got split={split!r}")
        return str(path), read_file(path)
    try:
        return f"{source} ({split})", load_dataset(str(source), split=split)
    except Exception as problem:  # noqa: BLE001 (the hub's own errors are many; the reader needs one sentence)
        raise ValueError(
            f"{str(source)!r} is not a shipped set ({', '.join(SHIPPED)}), not a file I can see, and the Hugging Face hub "
            f"did not give it (no network, or no such data set or split): {first_line(problem)}"
        ) from None


def read_file(path):
    """The rows of a `.json`, `.jsonl`, `.csv` or `.parquet` file as dicts; `ValueError` naming file and line."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(path).to_pylist()
        text = path.read_text(encoding="utf-8-sig")  # as UTF-8, and past the mark that Windows puts first
        if path.suffix == ".csv":
            import pandas

            if "\0" in text:
                raise ValueError("it holds zero bytes, which text does not")
            return pandas.read_csv(io.StringIO(text), dtype=str, keep_default_na=False).to_dict("records")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file in UTF-8") from None
    except (ValueError, OSError) as problem:  # pandas' and pyarrow's errors are among these
        raise ValueError(f"{path}: not a readable {path.suffix} file: {first_line(problem)}") from None
    if path.suffix == ".json":
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as problem:
            raise ValueError(f"{path}, line {problem.lineno}: not valid JSON: {problem.msg}") from None
        if not isinstance(rows, list):
            raise ValueError(f"{path}: a .json file must hold a list of rows; one row a line goes into a .jsonl file")
        return rows
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as problem:
                raise ValueError(f"{path}, line {number}: not valid JSON: {problem.msg}") from None
    return rows


def first_line(problem, most=160) -> str:
    """What an exception says, in one line of at most `most` characters; its name where it says nothing."""
    return (str(problem).strip() or repr(problem)).splitlines()[0][:most]


def _pair(row, names):
    """One checked row `{prompt, chosen, rejected}`, whatever form it came in; `ValueError` naming the field."""
    if not isinstance(row, dict):
        raise ValueError("not an object with the fields prompt, chosen and rejected")
    fields = {field: row[names[field]] for field in FIELDS if names[field] in row}
    for field in FIELDS:
        if field not in fields and (field != "prompt" or names[field] != "prompt"):
            raise ValueError(f"field {names[field]!r} is missing; the row has {', '.join(map(str, row)) or 'no field'}")
    for field, value in fields.items():
        _check_text(names[field], value)
    if fields["chosen"] == fields["rejected"]:
        raise ValueError("chosen and rejected are identical")
    kinds = {type(value) for value in fields.values()}
    if len(kinds) > 1:
        raise ValueError("prompt, chosen and rejected must be all text or all lists of messages")
    if "prompt" not in fields:
        fields = _split_prompt(fields["chosen"], fields["rejected"])
    return {field: fields[field] for field in FIELDS}


def _check_text(field, value):
    if isinstance(value, str):
        if not value.strip():
            raise ValueError(f"field {field!r} is {'blank' if value else 'empty'}")
    elif isinstance(value, list):
        if not value:
            raise ValueError(f"field {field!r} is empty")
        for message in value:
            content = message.get("content") if isinstance(message, dict) else None
            if not (isinstance(content, str) and content.strip() and isinstance(message.get("role"), str)):
                raise ValueError(f"field {field!r} has a message without a text 'role' and a text 'content'")
    elif value is None:
        raise ValueError(f"field {field!r} is missing")
    else:
        raise ValueError(f"field {field!r} is not text but {type(value).__name__}")


def _split_prompt(chosen, rejected):
    """Prompt, chosen and rejected of a row whose two replies still carry their common beginning."""
    if isinstance(chosen, str):
        cut = chosen.rfind(ASSISTANT) + len(ASSISTANT)
        if cut < len(ASSISTANT):
            raise ValueError("field 'prompt' is missing, and chosen has no '\\n\\nAssistant:' to split it at")
        if rejected[:cut] != chosen[:cut] or ASSISTANT in rejected[cut:]:
            raise ValueError("chosen and rejected do not share one prompt")
    else:
        cut = len(chosen) - 1
        if cut < 1 or rejected[:cut] != chosen[:cut]:
            raise ValueError("chosen and rejected do not share one prompt")
    pair = {"prompt": chosen[:cut], "chosen": chosen[cut:], "rejected": rejected[cut:]}
    for field in ("chosen", "rejected"):
        _check_text(field, pair[field])
    return pair
