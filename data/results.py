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
    """Add `rows` (dicts with the table's columns, in their order) to data/results/`name`.csv, or start the file.

    All rows go in one write, so that two scripts can add to one table.
    """
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / f"{name}.csv", "ab", buffering=0) as file:
        text = pandas.DataFrame(rows).to_csv(header=file.tell() == 0, na_rep="nan", **FORMAT)
        file.write(text.encode())


def done(name, columns) -> set[tuple]:
    """Return what the rows of data/results/`name`.csv have in `columns`, as a set of tuples; empty without the file."""
    if not (RESULTS / f"{name}.csv").is_file():
        return set()
    return set(load(name)[list(columns)].itertuples(index=False, name=None))
