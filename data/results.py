"""Read and write the tables in data/results/ that the scripts of this folder make. Floats have four digits."""

from __future__ import annotations

import sys
import time
from pathlib import Path

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


class Table:
    """A table in data/results/: `run` adds the rows of one run, unless the table has its labels."""

    def __init__(self, name):
        self.name = name
        self.rows = load(name).to_dict("records") if done(name, ["method"]) else []

    def run(self, labels, rows):
        """Add `rows()`, each with `labels` in front and the run's `seconds` behind, and save.

        Do nothing where a row has these labels already.
        """
        if any(all(row.get(key) == value for key, value in labels.items()) for row in self.rows):
            return
        began = time.monotonic()
        new = [labels | row for row in rows()]
        seconds = time.monotonic() - began
        self.rows += [row | {"seconds": seconds} for row in new]
        save(self.name, self.rows)
        told = [f"{row['win']:.3f} at KL {row['kl']:.2f}" for row in new if "win" in row]
        print(f"\n{self.name} {labels}: {seconds:.0f} s; {', '.join(told)}", flush=True)


def run_parts(parts, script):
    """Run the parts that the command line asks for, or all, and print the minutes of each.

    `parts` is a dict of name → function. An unknown name ends `script`, the running file, with a sentence.
    """
    asked = sys.argv[1:] or list(parts)
    if set(asked) - set(parts):
        sys.exit(f"{Path(script).name} knows the parts {', '.join(parts)}; got {' '.join(asked)}")
    for part in asked:
        began = time.monotonic()
        parts[part]()
        print(f"\n{part}: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
