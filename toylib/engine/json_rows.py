"""Read rows of JSON strictly: no key twice in one object, nothing behind a row, one sentence for each fault."""

from __future__ import annotations

import json
import re
import sys


class BadRow(ValueError):
    """The reason why one row cannot be used. Readers yield it in the place of the row."""


def jsonl_rows(path, lines, kind):
    """Yield the row on each line. Raise `ValueError` naming the line that is not JSON."""
    for number, line in enumerate(lines, start=1):
        line = line.strip()
        if line:
            try:
                try:
                    row, end = DECODER.scan_once(line, 0)  # half the time of `_decode`
                except (StopIteration, ValueError, RecursionError):
                    row, end = _decode(line)
                if end is not None and end < len(line):
                    raise json.JSONDecodeError("more follows the row on this line", line, end)
            except json.JSONDecodeError as problem:
                raise ValueError(f"{path}, line {number}: not valid JSON: {problem.msg}") from None
            yield row


def json_rows(path, lines, kind):
    """Yield the rows of a list, or the objects of a file that holds one after the other."""
    text = "".join(lines)
    place = _skip(text, 0)
    if text[place : place + 1] == "[":
        yield from _list_rows(path, text, place + 1)
        return
    try:
        while place < len(text):
            row, end = _decode(text, place)
            if not isinstance(row, (dict, BadRow)) or isinstance(row, dict) and _is_wrapped(row):
                raise ValueError(f"{path}: a .json file must hold a list of rows, or one row per line")
            yield row
            if end is None:  # one row per line is the best guess
                end = text.find("\n", place)
            place = _skip(text, end) if end >= 0 else len(text)
    except json.JSONDecodeError as problem:
        raise ValueError(f"{path}, line {problem.lineno}: not valid JSON: {problem.msg}") from None


def _list_rows(path, text, place):
    place, number = _skip(text, place), 0
    try:
        while text[place : place + 1] != "]":
            row, end = _decode(text, place)
            number += 1
            if end is None:
                raise ValueError(f"{path}, row {number}: {row}")
            yield row
            place = _skip(text, end)
            if text[place : place + 1] == ",":
                place = _skip(text, place + 1)
            elif text[place : place + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
    except json.JSONDecodeError as problem:
        raise ValueError(f"{path}, line {problem.lineno}: not valid JSON: {problem.msg}") from None
    if _skip(text, place + 1) < len(text):
        raise ValueError(f"{path}: not valid JSON: more follows the list of rows")


def _skip(text, place):
    return re.compile(r"\s*").match(text, place).end()


def _is_wrapped(row):
    """Return whether an object is no row but holds a list of rows."""
    values = [] if {"chosen", "preferred_output"} & row.keys() else row.values()
    return any(isinstance(value, list) and value and isinstance(value[0], dict) for value in values)


def _unique(items):
    row = dict(items)
    if len(row) < len(items):
        names = [name for name, _ in items]
        raise BadRow(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice in one object")
    return row


DECODER = json.JSONDecoder(object_pairs_hook=_unique)
MARKS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


def _end(text, place):
    """Return where the JSON value that begins at `place` ends, None if it does not. Objects and lists end by their brackets."""
    depth = 0
    if text[place] not in "[{":
        return re.compile(r"[^\s,\]}]*").match(text, place).end()
    for mark in MARKS.finditer(text, place):
        depth += (mark[0] in "[{") - (mark[0] in "]}")
        if depth == 0:
            return mark.end()
    return None


def _decode(text, place=0):
    """Return one JSON value and where it ends, or a `BadRow` and where it ends, None if that cannot be told."""
    try:
        return DECODER.raw_decode(text, place)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        problem = BadRow("the JSON is nested too deep")
    except BadRow as caught:
        problem = caught
    except ValueError:
        problem = BadRow(f"a number has more than {sys.get_int_max_str_digits()} digits")
    return problem, _end(text, place)
