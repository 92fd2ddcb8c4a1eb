"""Read rows from files, data sets and the hub, one dict per row. `formats` turns them into preference pairs."""

from __future__ import annotations

import csv
import gzip
import sys
import zlib
from pathlib import Path

from toylib.engine.json_rows import json_rows, jsonl_rows
from toylib.preferences import SHIPPED, first_line

KINDS = (".json", ".jsonl", ".csv", ".tsv", ".parquet")


def open_source(source, split):
    """Return what errors call a source, and an iterator over its rows.

    A row is a dict, or a `BadRow` where the text of one row is at fault.

    Raises:
        ValueError: In one sentence that names the source, if it cannot be read.
    """
    from datasets import Dataset, IterableDataset

    if isinstance(source, dict):
        if split not in source:
            raise ValueError(f"the data set has no split {split!r}: it has {', '.join(map(str, source)) or 'none'}")
        if not isinstance(source[split], (Dataset, IterableDataset)):
            raise ValueError(f"the split {split!r} is no Dataset but {type(source[split]).__name__}")
        return f"the data set ({split})", _arrow_rows(source[split], f"the data set ({split})")
    if isinstance(source, (Dataset, IterableDataset)):
        if split != "train":
            raise ValueError(f"a Dataset is one split, train; got split={split!r}")
        return "the data set", _arrow_rows(source, "the data set")
    if not isinstance(source, (str, Path)):
        kind = type(source).__name__
        raise ValueError(
            f"source must be a shipped set's name, a path, a hub id or a Dataset, got {kind}: of a list of rows, "
            "datasets.Dataset.from_list makes one"
        )
    if not str(source).strip():
        raise ValueError("the name of the preference pairs is empty: give a shipped set, a path or a hub id")
    path = Path(source)
    kind = Path(path.name.lower().removesuffix(".gz")).suffix
    if kind in KINDS and not path.is_dir():
        if split != "train":
            raise ValueError(f"{path} is one file and so one split, train; got split={split!r}")
        return str(path), _file_rows(path, kind)
    if path.is_file():
        raise ValueError(f"{path}: this kind of file is not read; give one of {', '.join(KINDS)} (text also as .gz)")
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return _saved_folder(path, split)
    return f"{source} ({split})", _arrow_rows(_from_hub(str(source), split), f"{source} ({split})")


def _saved_folder(path, split):
    from datasets import load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except Exception as problem:  # noqa: BLE001 (Arrow and datasets raise many kinds)
        raise ValueError(f"{path}: cannot read this saved data set: {first_line(problem)}") from None
    name, rows = open_source(dataset, split)
    return name.replace("the data set", str(path)), rows


def _from_hub(source, split):
    from datasets import load_dataset

    name, _, configuration = (source, "", "") if Path(source).exists() else source.partition(":")
    try:
        return load_dataset(name, configuration or None, split=split)
    except Exception as problem:  # noqa: BLE001 (the hub's own errors are many; the reader needs one sentence)
        if Path(source).exists():
            raise ValueError(
                f"{source}: cannot read the split {split!r} of this folder: {first_line(problem.__cause__ or problem)}; "
                f"give one of its files ({', '.join(KINDS)})"
            ) from None
        raise ValueError(
            f"{source!r} is not a shipped set ({', '.join(SHIPPED)}), not a file I can see, and the Hugging Face hub "
            f"did not give it (no network, or no such data set or split): {first_line(problem)}"
        ) from None


def _arrow_rows(dataset, name):
    """Yield the rows of a data set without the empty keys that Arrow gives to every dict of a column."""
    kind = (getattr(dataset, "format", None) or {}).get("type")
    if kind not in (None, "custom"):
        dataset = dataset.with_format(None)
    clean = (lambda row: row) if kind == "custom" else _without_empty_keys  # a transform gives what it means to give
    read = 0
    try:
        for row in _in_batches(dataset) if hasattr(dataset, "__len__") else dataset:
            yield clean(row)
            read += 1
    except Exception as problem:  # noqa: BLE001 (Arrow, decoders and the network raise many kinds)
        raise ValueError(f"{name}: cannot read on after row {read}: {first_line(problem)}") from None


def _in_batches(dataset):
    for batch in dataset.iter(1000):  # ten times as fast as row by row; rows of a stream may differ in their keys
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _without_empty_keys(row):
    return {name: value if isinstance(value, str) else _drop_empty(value) for name, value in row.items()}


def _drop_empty(value):
    if isinstance(value, dict):
        return {key: _drop_empty(inner) for key, inner in value.items() if inner is not None}
    return [_drop_empty(inner) for inner in value] if isinstance(value, list) else value


def _file_rows(path, kind):
    """Yield the rows of a file. Errors become one `ValueError` that names the file."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    try:
        if kind == ".parquet":
            import pyarrow.parquet

            for batch in pyarrow.parquet.ParquetFile(path).iter_batches(1000):
                yield from map(_without_empty_keys, batch.to_pylist())
        else:
            lines = _text_lines(path, kind)
            yield from {".json": json_rows, ".jsonl": jsonl_rows}.get(kind, _csv_rows)(path, lines, kind)
    except (OSError, EOFError, zlib.error, RuntimeError) as problem:
        raise ValueError(f"{path}: not a readable {kind} file: {first_line(problem)}") from None
    except ValueError as problem:  # pyarrow's errors are among these
        if str(problem).startswith(str(path)):
            raise
        raise ValueError(f"{path}: not a readable {kind} file: {first_line(problem)}") from None


def _text_lines(path, kind):
    """Yield the lines of a text file, compressed or not, without the mark that Windows may put first."""
    with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                if b"\0" in line:
                    raise ValueError
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except ValueError:
                raise ValueError(
                    f"{path}, line {number}: not a readable {kind} file: not a text file in UTF-8"
                ) from None


def _csv_rows(path, lines, kind):
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.reader(lines, delimiter="\t" if kind == ".tsv" else ",", strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise ValueError(f"{path}, line 1: not a readable {kind} file: a name stands twice in the header")
        if len(header) == 1 and (other := next((sign for sign in ",;\t|" if sign in header[0]), None)):
            wanted = "tabs" if kind == ".tsv" else "commas"
            raise ValueError(f"{path}, line 1: not a readable {kind} file: {other!r} separates its cells, not {wanted}")
        start = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(header):
                raise ValueError(
                    f"{path}, line {start}: not a readable {kind} file: the row has {len(cells)} cells, and the header "
                    f"has {len(header)} names; put quotes around a cell that holds the separator"
                )
            if cells:
                yield dict(zip(header, cells, strict=True))
            start = reader.line_num + 1
    except csv.Error as problem:
        if "new-line character" in str(problem):
            problem = "a carriage return alone (\\r) ends a line: save it with \\n or \\r\\n, or quote the cell"
        raise ValueError(f"{path}, line {reader.line_num}: not a readable {kind} file: {problem}") from None
