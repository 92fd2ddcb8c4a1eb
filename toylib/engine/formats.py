"""Bring preference pairs of every common form into the standard one. `load_preferences` calls this when needed.

| form | prompt | chosen and rejected |
| --- | --- | --- |
| text | `prompt`: text | text |
| text without a prompt | none | texts with the same beginning, split after the last "\\n\\nAssistant:" (Anthropic's HH) |
| text with the prompt repeated | `prompt`: text | texts that begin with the prompt, which is taken off |
| messages | `prompt`: a list of messages | lists of messages |
| one message | `prompt`: a list of messages | one message each |
| text replies to messages | `prompt`: a list of messages | text, which becomes an assistant message |
| text prompt, message replies | `prompt`: text, which becomes a user message | lists of assistant messages |
| text prompt, dialogues | `prompt`: text of a shared turn | dialogues, split where they part (UltraFeedback, Capybara) |
| dialogues | none | lists of messages, split where they part |
| messages with the prompt repeated | `prompt`: a list of messages | lists that begin with the prompt, which is taken off |
| ShareGPT | `conversations`: messages with `from` and `value` | the same, a list or one message |
| OpenAI | `input`: an object with `messages`, perhaps `tools` | `preferred_output`, `non_preferred_output` |
| messages as text | JSON or Python text of a list of messages, in any of these forms | JSON or Python text |

A message has a `role` (system, developer, user, assistant or tool) and a `content` of text, or of parts of type text,
which are joined. A message with `tool_calls` may go without content. All its other keys are kept as they are. A `function_call` turn of
ShareGPT, JSON with `name` and `arguments`, becomes an assistant message with `tool_calls`.

Arrow gives all dicts of a column the same keys, so that `{"item": "lamp"}` turns into `{"item": "lamp", "order": None}`.
Where rows have more than `role` and `content`, their columns are therefore stored as JSON text, which a transform of the
data set decodes when a row is read. Call `with_format(None)` before you save such a data set with `save_to_disk`.
(`datasets.Json` is not in datasets 4.0, and does not give back integers of more than 64 bits.)
"""

from __future__ import annotations

from array import array
from itertools import islice
from operator import eq

from toylib.engine.files import open_source
from toylib.engine.json_rows import BadRow
from toylib.engine.messages import STORED_MESSAGES, VISIBLE, checked_value, from_text
from toylib.engine.notices import print_dropped, print_line, visible
from toylib.engine.pair_columns import RENDERED, PairColumns
from toylib.preferences import FIELDS, first_line

ASSISTANT = "\n\nAssistant:"
OTHER_NAMES = {"prompt": "conversations", "chosen": "preferred_output", "rejected": "non_preferred_output"}
MEDIA = ("image", "images", "image_url", "pixel_values", "audio", "audios", "video", "videos")
PROMPT_LIKE = ("system", "input", "context", "instruction", "question", "history")
STRIPPED = "the prompt stood at the start of both replies too and was taken off there"


def read_pairs(source, split, columns, on_bad):
    """Return the pairs of `source` as `load_preferences` does."""
    name, rows = open_source(source, split)
    names = {field: (columns or {}).get(field, field) for field in FIELDS}
    pairs, numbers, dropped, unused, stripped, end = PairColumns(), array("q"), {}, {}, [], 0
    while chunk := list(islice(rows, 1000)):
        start, end = end + 1, end + len(chunk)
        for keys in dict.fromkeys(tuple(row) for row in chunk if isinstance(row, dict)):
            unused |= dict.fromkeys(_unused(keys, names))
        if _add_texts(pairs, chunk, names):
            numbers.extend(range(start, end + 1))
            continue
        for number, row in enumerate(chunk, start):
            try:
                pair = standard_pair(row, names)
                if pair.pop("stripped", False):
                    stripped.append(number)
                pairs.add(pair)
                numbers.append(number)
            except (BadRow, RecursionError) as problem:
                reason = str(problem) if isinstance(problem, BadRow) else "it is nested too deep"
                if on_bad == "error":
                    raise ValueError(f"{name}, row {number}: {reason}") from None
                dropped[reason] = dropped.get(reason, 0) + 1
        pairs.flush()
    print_dropped(name, dropped)
    if not numbers:
        raise ValueError(f"{name}: no preference pairs in it")
    if stripped:
        print_line(f"{name}: {STRIPPED} in {len(stripped)} of {len(numbers)} pairs, first in row {stripped[0]}")
    _name_unused(name, [column for column in unused if pairs.text or column not in RENDERED])
    try:
        dataset = pairs.dataset()
    except Exception as problem:  # noqa: BLE001 (Arrow raises many kinds)
        raise ValueError(f"{name}: the rows do not fit into one table: {first_line(problem)}") from None
    dataset.source_name, dataset.source_rows = name, numbers
    return dataset


def _add_texts(pairs, rows, names):
    """Add rows of plain text all at once, and return whether that was possible. If not, each row has to be looked at."""
    try:
        if not set().union(*rows).isdisjoint(MEDIA):
            return False
        columns = {field: [row[names[field]] for row in rows] for field in FIELDS}
        prompts, chosen, rejected = columns.values()
        texts = [*prompts, *chosen, *rejected]
        if set(map(type, texts)) != {str} or not all(map(VISIBLE.search, texts)):
            return False
        if any(map(STORED_MESSAGES.match, texts)):
            return False
        if any(map(eq, chosen, rejected)) or any(map(str.startswith, chosen, prompts)):
            return False
        pairs.add_texts(columns)
    except (KeyError, TypeError, AttributeError, UnicodeEncodeError, BadRow):
        return False
    return True


def standard_pair(row, names):
    """Return the standard form of one row: `prompt`, `chosen`, `rejected`, and `tools` and the like if it has them.

    Args:
        row: A dict, or a `BadRow`, which is raised.
        names: What the row calls `prompt`, `chosen` and `rejected`.

    Raises:
        BadRow: If the row is no preference pair. The reason names the field.
    """
    if isinstance(row, BadRow):
        raise row
    if not isinstance(row, dict):
        raise BadRow("not an object with the fields prompt, chosen and rejected")
    for field in MEDIA:
        if row.get(field):
            raise BadRow(f"field {field!r} is not text, and only pairs of text can be trained on: leave such rows out")
    fields, tools = _fields(row, names)
    values = {field: checked_value(names[field], value) for field, value in fields.items()}
    if values["chosen"] == values["rejected"]:
        raise BadRow("chosen and rejected are identical")
    if all(isinstance(value, str) for value in values.values()):
        if "prompt" not in values and ASSISTANT not in values["chosen"]:
            raise BadRow(
                f"field 'prompt' is missing, and chosen has no {ASSISTANT!r} to split at; {_fields_there(row)}"
            )
        return _text_pair(values)
    pair = _message_pair(values)
    for field, kind in zip(RENDERED, (list, dict), strict=True):
        value = tools if field == "tools" and tools else row.get(field)
        if value:
            pair[field] = from_text(field, value, kind)
    return pair


def _fields(row, names):
    """Return prompt, chosen and rejected as they stand in the row, and the tools of OpenAI's form."""
    fields, tools = {}, None
    for field in FIELDS:
        other = OTHER_NAMES[field] if names[field] == field else None
        if names[field] in row or other in row:
            fields[field] = row[names[field] if names[field] in row else other]
    if "prompt" not in fields and row.get("input") and "preferred_output" in row:
        given = fields["prompt"] = row["input"]
        if isinstance(given, str) and given.lstrip().startswith("{"):
            given = from_text("input", given, dict)
        if isinstance(given, dict):
            if "messages" not in given:
                raise BadRow(f"field 'input' has no 'messages', only {visible(', '.join(map(str, given)))}")
            fields["prompt"], tools = given["messages"], given.get("tools")
    for field in FIELDS:
        if field not in fields and (field != "prompt" or names[field] != "prompt"):
            raise BadRow(f"field {names[field]!r} is missing; {_fields_there(row)}")
    return fields, tools


def _fields_there(row):
    names = visible(", ".join(map(str, list(row)[:20]))) or "no field"
    more = f" and {len(row) - 20} more" if len(row) > 20 else ""
    return f"the row has {names}{more}; say with columns= which of them it is"


def _text_pair(pair):
    prompt, chosen, rejected = (pair.get(field) for field in FIELDS)
    if prompt is None:
        cut = chosen.rfind(ASSISTANT) + len(ASSISTANT)
        if rejected[:cut] != chosen[:cut] or ASSISTANT in rejected[cut:]:
            raise BadRow("chosen and rejected do not share one prompt")
        pair = {"prompt": chosen[:cut]}
    elif chosen.startswith(prompt) and rejected.startswith(prompt) and len(prompt.split()) > 2:
        cut = len(prompt)
        pair = {"prompt": prompt, "stripped": True}
    else:
        return pair
    return pair | {
        "chosen": checked_value("chosen", chosen[cut:]),
        "rejected": checked_value("rejected", rejected[cut:]),
    }


def _message_pair(pair):
    prompt, chosen, rejected = (pair.get(field) for field in FIELDS)
    if isinstance(chosen, str) and isinstance(rejected, str):
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in (chosen, rejected))
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise BadRow("prompt, chosen and rejected must be all text or all lists of messages")
    pair, cut = {}, 0
    if isinstance(prompt, list):
        if chosen[: len(prompt)] == prompt and rejected[: len(prompt)] == prompt:
            cut, pair["stripped"] = len(prompt), True
    elif prompt is None or not chosen[0]["role"] == rejected[0]["role"] == "assistant":
        cut = _where_they_part(chosen, rejected)
        shared = chosen[:cut]
        if prompt and not any(_words(prompt) in _words(turn.get("content") or "") for turn in shared):
            raise BadRow("the text of the prompt is not in the turns that chosen and rejected share")
        prompt = shared
    else:
        prompt = [{"role": "user", "content": prompt}]
    pair |= {"prompt": prompt, "chosen": chosen[cut:], "rejected": rejected[cut:]}
    if prompt[-1]["role"] == "assistant":
        raise BadRow("the prompt ends in an assistant turn, and a reply has to follow a user or tool turn")
    for field in ("chosen", "rejected"):
        if not pair[field]:
            raise BadRow(f"field {field!r} is empty after the prompt")
        for turn, place in ((pair[field][0], "start"), (pair[field][-1], "end")):
            if turn["role"] != "assistant":
                raise BadRow(
                    f"field {field!r} does not {place} with an assistant turn but with one of {turn['role']!r}"
                )
    return pair


def _where_they_part(chosen, rejected):
    cut, longest = 0, min(len(chosen), len(rejected)) - 1
    while cut < longest and chosen[cut] == rejected[cut]:
        cut += 1
    if cut < 1 or not chosen[cut]["role"] == rejected[cut]["role"] == "assistant":
        raise BadRow("chosen and rejected do not share one prompt")
    return cut


def _words(text):
    return " ".join(text.split())


def _unused(keys, names):
    """Return which of a row's keys stand for no field. `RENDERED` ones are among them, because text does not use them."""
    used = {name if name in keys else OTHER_NAMES[field] if name == field else name for field, name in names.items()}
    if "prompt" not in keys and "conversations" not in keys and "preferred_output" in keys:
        used.add("input")
    return [key for key in keys if key not in used and key not in MEDIA]


def _name_unused(name, columns):
    suspects = [column for column in columns if column in PROMPT_LIKE]
    hint = f"; {', '.join(suspects)} may belong to the prompt: write it into that field if so" if suspects else ""
    if columns:
        listed = ", ".join(str(column) if str(column).strip() else "one without a name" for column in columns)
        print_line(f"{name}: columns that are not used: {listed}{hint}")
