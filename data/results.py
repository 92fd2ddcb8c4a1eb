"""Read and write the tables in data/results/ that the scripts of this folder make. Floats have four digits."""

from __future__ import annotations

import pandas

from toylib.labs.sweep import RESULTS

FORMAT = {"index": False, "float_format": "%.4g", "lineterminator": "\n"}


def load(name) -> pandas.DataFrame:
    """Return the table data/results/`name`.csv."""
    return pandas.read_csv(RESULTS / f"{name}.csv")


def save(name, rows) -> None:
    """Write `rows` (dicts or a DataFrame) as data/results/`name`.csv, in place of what was there."""
    RESULTS.mkdir(exist_ok=True)
    pandas.DataFrame(rows).to_csv(RESULTS / f"{name}.csv", **FORMAT)


def append(name, rows) -> None:
    """Add `rows` (dicts with the table's columns, in their order) to data/results/`name`.csv, or start the file."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    pandas.DataFrame(rows).to_csv(path, mode="a", header=not path.is_file(), na_rep="nan", **FORMAT)


def done(name, columns) -> set[tuple]:
    """Return what the rows of data/results/`name`.csv have in `columns`, as a set of tuples; empty without the file."""
    if not (RESULTS / f"{name}.csv").is_file():
        return set()
    return set(load(name)[list(columns)].itertuples(index=False, name=None))
