"""Collect standard pairs column by column and make a data set of them."""

from __future__ import annotations

import hashlib
import json

from toylib.engine.json_rows import BadRow
from toylib.preferences import FIELDS

RENDERED = ("tools", "chat_template_kwargs")


class PairColumns:
    """Standard pairs, column by column. Text goes to Arrow in chunks, so that it takes little memory."""

    def __init__(self):
        self.text, self.plain = None, True
        self.columns, self.chunks = {field: [] for field in FIELDS}, []

    def add(self, pair):
        """Add one pair. Raise `BadRow` if it is text and the pairs before are messages, or the other way round."""
        self._check_kind(isinstance(pair["prompt"], str))
        for field in FIELDS:
            self.columns[field].append(pair[field])
        if self.text:
            return
        for field in RENDERED:
            if field in pair or field in self.columns:
                self.columns.setdefault(field, [None] * (len(self.columns["prompt"]) - 1)).append(pair.get(field))
        self.plain = self.plain and all(turn.keys() == {"role", "content"} for field in FIELDS for turn in pair[field])

    def add_texts(self, columns):
        """Add a dict of columns of checked text. Raise `UnicodeEncodeError` if some is not Unicode."""
        import pyarrow

        chunk = pyarrow.table(columns)
        self._check_kind(True)
        self.flush()
        self.chunks.append(chunk)

    def flush(self):
        """Move collected text to Arrow."""
        import pyarrow

        if self.text and self.columns["prompt"]:
            self.chunks.append(pyarrow.table(self.columns))
            self.columns = {field: [] for field in FIELDS}

    def dataset(self):
        """Return all pairs as a `datasets.Dataset`."""
        import pyarrow
        from datasets import Dataset

        if self.text:
            self.flush()
            digest = hashlib.blake2b(digest_size=8)  # datasets' own fingerprint copies the table twice
            for chunk in self.chunks:
                for column in chunk.columns:
                    for buffer in column.chunk(0).buffers()[1:]:
                        digest.update(buffer)
            return Dataset(pyarrow.concat_tables(self.chunks), fingerprint=digest.hexdigest())
        if self.plain and len(self.columns) == len(FIELDS):
            return Dataset.from_dict(self.columns)
        texts = {name: [value and json.dumps(value) for value in values] for name, values in self.columns.items()}
        return Dataset.from_dict(texts).with_transform(decode_json)

    def _check_kind(self, text):
        if self.text is None:
            self.text = text
        if self.text is not text:
            raise BadRow(
                "prompt, chosen and rejected must be all text or all lists of messages, and here some rows are text and "
                "some are lists of messages"
            )


def decode_json(batch):
    """Return a batch with the columns decoded that were stored as JSON text (the transform of such data sets)."""
    columns = (*FIELDS, *RENDERED)
    return {
        name: [json.loads(value) if isinstance(value, str) and name in columns else value for value in values]
        for name, values in batch.items()
    }
