"""Tokenise pairs once: large sets are cached under a hash, so that a resumed run does not repeat it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys

import torch

from toylib.engine.disk_cache import load_tensors, save_tensors
from toylib.engine.notices import is_first_process
from toylib.preferences import FIELDS
from toylib.tokens import tokenize_pairs

LEAST = 2000  # pairs; fewer are tokenised within seconds
LAYOUT = 1  # raise it when the same pairs would be tokenised differently, so that older files are not used


def tokenize_once(pairs, tokenizer, max_length=1024):
    """Return what `tokenize_pairs` returns, and print what it prints, from the cache where the set is known."""
    if not hasattr(pairs, "__len__") or len(pairs) < LEAST or not getattr(tokenizer, "is_fast", False):
        return tokenize_pairs(pairs, tokenizer, max_length)
    key = tokens_key(pairs, tokenizer, max_length)
    found = load_tensors(key, "token ids")
    if found is None:
        printed = Recorder(sys.stdout)
        with contextlib.redirect_stdout(printed):
            rows = tokenize_pairs(pairs, tokenizer, max_length)
        lines = printed.getvalue().split("\n")
        notes = {"printed": "\n".join(line.rpartition("\r")[2] for line in lines)}  # without a bar that was there
        if is_first_process():  # the others print nothing that could be kept
            save_tensors(key, pack(rows), "token ids", **notes)
    else:
        tensors, notes = found
        rows = unpack(tensors)
        if is_first_process():
            print(notes["printed"], end="")
    return rows


class Recorder(io.StringIO):
    """Pass on to `stream` what is written, a progress line among it, and keep it."""

    def __init__(self, stream):
        super().__init__()
        self.stream = stream

    def write(self, text):
        self.stream.write(text)
        return super().write(text)

    def flush(self):
        self.stream.flush()


def tokens_key(pairs, tokenizer, max_length) -> str:
    """Return 64 hex digits over the pairs and everything of the tokenizer that decides their ids."""
    special = [tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template, max_length, LAYOUT]
    special.append(getattr(pairs, "on_bad", "error"))
    digest = hashlib.sha256(json.dumps(special, default=str).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    columns = (*FIELDS, "tools", "chat_template_kwargs")
    for pair in pairs:
        digest.update(json.dumps([pair.get(column) for column in columns], default=str).encode())
    return digest.hexdigest()


def pack(rows) -> dict[str, torch.Tensor]:
    """Return tokenised pairs as three tensors: their numbers, the lengths of their fields, and all ids end to end."""
    lengths = [[len(row[field]) for field in FIELDS] for row in rows]
    ids = [token for row in rows for field in FIELDS for token in row[field]]
    numbers = torch.tensor([row["number"] for row in rows])
    return {"numbers": numbers, "lengths": torch.tensor(lengths), "ids": torch.tensor(ids, dtype=torch.int32)}


def unpack(tensors) -> list[dict]:
    """Return the tokenised pairs that `pack` was given."""
    ids, start, rows = tensors["ids"].tolist(), 0, []
    for number, lengths in zip(tensors["numbers"].tolist(), tensors["lengths"].tolist(), strict=True):
        row = {"number": number}
        for field, length in zip(FIELDS, lengths, strict=True):
            row[field] = ids[start : start + length]
            start += length
        rows.append(row)
    return rows
