"""Collect standard pairs column by column and make a data set of them."""

from __future__ import annotations

import json

from toylib.engine.files import BadRow
from toylib.preferences import FIELDS

RENDERED = ("tools", "chat_template_kwargs")
CHUNK = 5000


class PairColumns:
    """Standard pairs, collected column by column, so that text goes to Arrow in chunks and takes little memory."""

    def __init__(self):
        self.text, self.plain = None, True
        self.columns, self.chunks = {field: [] for field in FIELDS}, []

    def add(self, pair):
        text = isinstance(pair["prompt"], str)
        if self.text is None:
            self.text = text
        if self.text is not text:
            raise BadRow(
                "prompt, chosen and rejected must be all text or all lists of messages, and here some rows are text and "
                "some are lists of messages"
            )
        for field in FIELDS:
            self.columns[field].append(pair[field])
        if text:
            if len(self.columns["prompt"]) == CHUNK:
                self._flush()
            return
        rows = len(self.columns["prompt"])
        for field in RENDERED:
            if field in pair or field in self.columns:
                column = self.columns.setdefault(field, [None] * (rows - 1))
                column.append(pair.get(field))
        self.plain = self.plain and all(turn.keys() == {"role", "content"} for field in FIELDS for turn in pair[field])

    def _flush(self):
        import pyarrow

        self.chunks.append(pyarrow.table(self.columns))
        self.columns = {field: [] for field in FIELDS}

    def dataset(self):
        import pyarrow
        from datasets import Dataset

        if self.text:
            if self.columns["prompt"]:
                self._flush()
            return Dataset(pyarrow.concat_tables(self.chunks))
        if self.plain and len(self.columns) == len(FIELDS):
            return Dataset.from_dict(self.columns)
        texts = {name: [value and json.dumps(value) for value in values] for name, values in self.columns.items()}
        return Dataset.from_dict(texts).with_transform(decode_json)


def decode_json(batch):
    """Return a batch with the columns decoded that were stored as JSON text (the transform of such data sets)."""
    columns = (*FIELDS, *RENDERED)
    return {
        name: [json.loads(value) if isinstance(value, str) and name in columns else value for value in values]
        for name, values in batch.items()
    }
