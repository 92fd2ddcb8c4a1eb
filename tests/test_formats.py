"""Every form of preference data in the table of `engine.formats` is read, and what cannot be read is refused by row."""

import csv
import gzip
import json
import re
import time

import datasets
import pytest
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from tiny import one_sentence
from tiny import write_lines as write

from toylib import load_preferences
from toylib.engine import formats
from toylib.preferences import row_name

QUESTION = "My lamp arrived broken. What now?"
GOOD, BAD = "I am sorry. We will send a new lamp.", "Not our problem."
TALK = f"\n\nHuman: {QUESTION}\n\nAssistant:"
USER = {"role": "user", "content": QUESTION}
KIND = {"role": "assistant", "content": GOOD}
RUDE = {"role": "assistant", "content": BAD}
TEXT = {"prompt": QUESTION, "chosen": GOOD, "rejected": BAD}
CHAT = {"prompt": [USER], "chosen": [KIND], "rejected": [RUDE]}
HH = {"prompt": TALK, "chosen": " " + GOOD, "rejected": " " + BAD}
TOOLS = [{"type": "function", "function": {"name": "ship", "parameters": {"type": "object", "required": ["item"]}}}]


def sharegpt(message):
    return {"from": {"user": "human", "assistant": "gpt"}[message["role"]], "value": message["content"]}


FORMS = {
    "text": (TEXT, TEXT),
    "text without a prompt": ({"chosen": TALK + " " + GOOD, "rejected": TALK + " " + BAD}, HH),
    "text with the prompt repeated": (HH | {"chosen": TALK + " " + GOOD, "rejected": TALK + " " + BAD}, HH),
    "messages": (CHAT, CHAT),
    "one message": (CHAT | {"chosen": KIND, "rejected": RUDE}, CHAT),
    "text replies to messages": (CHAT | {"chosen": GOOD, "rejected": BAD}, CHAT),
    "text prompt, message replies": (CHAT | {"prompt": QUESTION}, CHAT),
    "text prompt, dialogues": ({"prompt": QUESTION, "chosen": [USER, KIND], "rejected": [USER, RUDE]}, CHAT),
    "dialogues": ({"chosen": [USER, KIND], "rejected": [USER, RUDE]}, CHAT),
    "messages with the prompt repeated": (CHAT | {"chosen": [USER, KIND], "rejected": [USER, RUDE]}, CHAT),
    "ShareGPT": (
        {"conversations": [sharegpt(USER)], "chosen": sharegpt(KIND), "rejected": [sharegpt(RUDE)]},
        CHAT,
    ),
    "OpenAI": (
        {"input": {"messages": [USER], "tools": TOOLS}, "preferred_output": [KIND], "non_preferred_output": [RUDE]},
        CHAT | {"tools": TOOLS},
    ),
    "messages as text": ({"prompt": json.dumps([USER]), "chosen": repr([KIND]), "rejected": json.dumps(RUDE)}, CHAT),
}


def refusal(source, **arguments):
    with pytest.raises(ValueError) as caught:
        load_preferences(source, **arguments)
    return one_sentence(caught)


def test_every_form_in_the_table_is_tried_here():
    table = re.findall(r"^\| ([^|]+) \|", formats.__doc__, flags=re.MULTILINE)
    assert table[2:] == list(FORMS)


@pytest.mark.parametrize("source", ["jsonl", "json", "lines.json", "parquet", "csv", "set"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_from_every_kind_of_source(tmp_path, form, source):
    row, expected = FORMS[form]
    path = tmp_path / f"pairs.{source}"
    if source == "set":
        path = Dataset.from_list([row, row])
    elif source == "json":
        path.write_text(json.dumps([row, row], indent=1))
    elif source == "parquet":
        Dataset.from_list([row, row]).to_parquet(path)
    elif source == "csv":
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(row))
            table.writeheader()
            cells = {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
            table.writerows([cells, cells])
    else:
        write(path, row, row)
    pairs = load_preferences(path)
    assert isinstance(pairs, Dataset) and list(pairs) == [expected, expected]


@pytest.mark.parametrize("name", ["pairs.jsonl.gz", "PAIRS.JSONL", "pairs.tsv", "pairs.csv.gz", "pairs.Json.GZ"])
def test_compressed_files_tabs_and_upper_case_endings_are_read(tmp_path, name):
    separator = "\t" if "tsv" in name else ","
    table = separator.join(TEXT) + "\n" + separator.join(f'"{cell}"' for cell in TEXT.values()) + "\n"
    text = json.dumps(TEXT) if "json" in name.lower() else table
    opened = gzip.open if name.lower().endswith(".gz") else open
    with opened(tmp_path / name, "wt", encoding="utf-8") as file:
        file.write(text)
    assert list(load_preferences(tmp_path / name)) == [TEXT]


SAME_PAIR = {
    "bom.jsonl": b"\xef\xbb\xbf" + json.dumps(TEXT).encode(),
    "bom.json": b"\xef\xbb\xbf" + json.dumps([TEXT]).encode(),
    "bom.csv": "\ufeffprompt,chosen,rejected\r\n".encode() + f'"{QUESTION}","{GOOD}","{BAD}"\r\n'.encode(),
    "crlf.jsonl": json.dumps(TEXT).encode() + b"\r\n",
    "blank_lines.jsonl": b"\n\n  \n" + json.dumps(TEXT).encode() + b"\n\n",
    "blank_lines.csv": f'prompt,chosen,rejected\n\n"{QUESTION}","{GOOD}","{BAD}"\n\n'.encode(),
    "one_row.json": json.dumps(TEXT).encode(),
    "one_row_indented.json": json.dumps(TEXT, indent=2).encode(),
}


@pytest.mark.parametrize("name", SAME_PAIR)
def test_marks_line_ends_and_blank_lines_change_nothing(tmp_path, name):
    (tmp_path / name).write_bytes(SAME_PAIR[name])
    assert list(load_preferences(tmp_path / name)) == [TEXT]


def test_names_that_do_not_show_are_escaped_where_they_are_printed(tmp_path, capsys):
    row = json.dumps(TEXT)[:-1] + ', "\\ud83d": 1, "\\u001b[31mred\\n": 2}'
    assert list(load_preferences(write(tmp_path / "pairs.jsonl", row))) == [TEXT]
    assert capsys.readouterr().out.endswith("not used: \\ud83d, \\x1b[31mred\\n\n")


@pytest.mark.parametrize("columns", [["prompt"], "prompt", {"question": "prompt"}])
def test_columns_that_rename_nothing_known_are_refused(tmp_path, columns):
    assert "columns may rename prompt, chosen, rejected" in refusal(
        write(tmp_path / "pairs.jsonl", TEXT), columns=columns
    )


def test_a_dict_of_sets_is_read_and_a_generator_is_refused():
    assert list(load_preferences({"dev": Dataset.from_list([TEXT])}, "dev")) == [TEXT]
    assert "got generator" in refusal(row for row in [TEXT])


def test_saved_and_streamed_sets_are_read(tmp_path):
    pairs = Dataset.from_list([TEXT] * 3)
    pairs.with_format(None).save_to_disk(tmp_path / "one")
    DatasetDict(dev=pairs).save_to_disk(tmp_path / "dict")
    stream = pairs.to_iterable_dataset()
    for source, split in (
        (tmp_path / "one", "train"),
        (str(tmp_path / "dict"), "dev"),
        (stream, "train"),
        (IterableDatasetDict({"dev": stream}), "dev"),
    ):
        assert list(load_preferences(source, split)) == [TEXT] * 3
    assert refusal(tmp_path / "dict") == "the data set has no split 'train': it has dev"
    (tmp_path / "one" / "state.json").write_text("{")
    assert str(tmp_path / "one") in refusal(tmp_path / "one")


def test_rows_of_a_stream_may_differ_and_a_stream_that_breaks_off_is_one_sentence():
    def rows():
        yield TEXT | {"score": 1}
        yield TEXT

    def broken():
        yield TEXT
        raise OSError("the line is cut\nTraceback")

    assert list(load_preferences(IterableDataset.from_generator(rows))) == [TEXT] * 2
    message = refusal(IterableDataset.from_generator(broken))
    assert message.startswith("the data set: cannot read on after row ") and "the line is cut" in message


def test_a_hub_id_may_name_a_configuration(monkeypatch):
    asked = []

    def give(*arguments, **settings):
        asked.append((arguments, settings))
        return Dataset.from_list([TEXT])

    monkeypatch.setattr(datasets, "load_dataset", give)
    assert list(load_preferences("nobody/pairs:short", "dev")) == [TEXT]
    assert list(load_preferences("nobody/pairs")) == [TEXT]
    assert asked == [(("nobody/pairs", "short"), {"split": "dev"}), (("nobody/pairs", None), {"split": "train"})]


def test_a_file_of_an_unknown_kind_is_called_that(tmp_path):
    for name in ("pairs.xlsx", "pairs"):
        (tmp_path / name).write_text("x")
        assert refusal(tmp_path / name).startswith(
            f"{tmp_path / name}: this kind of file is not read; give one of .json"
        )


# ---- messages ----


def test_nothing_is_merged_across_rows_and_messages_stay_as_written(tmp_path):
    calls = [{"item": "lamp", "weight": 0.1234567890123456}, {"order": 7}, {"big": 10**30}, {"none": None}]
    rows = [CHAT | {"chosen": [KIND | {"tool_calls": [{"function": {"arguments": call}}]}]} for call in calls]
    rows += [CHAT, CHAT | {"chosen": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}]
    pairs = load_preferences(write(tmp_path / "pairs.jsonl", *rows))
    assert list(pairs) == rows and pairs[4] == CHAT and pairs["chosen"][1] == rows[1]["chosen"]
    assert list(pairs.select([1, 5])) == [rows[1], rows[5]]
    pairs.with_format(None).save_to_disk(tmp_path / "saved")
    assert list(load_preferences(tmp_path / "saved")) == rows
    assert list(load_preferences(pairs)) == rows


def test_empty_keys_that_arrow_added_are_taken_away(tmp_path):
    rows = [CHAT | {"chosen": [KIND | {"tool_calls": [{"arguments": call}]}]} for call in ({"item": "a"}, {"order": 7})]
    merged = Dataset.from_list(rows)
    assert merged[0]["chosen"][0]["tool_calls"][0]["arguments"] == {"item": "a", "order": None}
    assert list(load_preferences(merged)) == rows


def test_tools_and_template_settings_are_kept(tmp_path):
    rows = [
        CHAT,
        CHAT | {"tools": json.dumps(TOOLS), "chat_template_kwargs": {"thinking": False}},
        CHAT | {"tools": TOOLS},
    ]
    pairs = load_preferences(write(tmp_path / "pairs.jsonl", *rows))
    assert pairs["tools"][:] == [None, TOOLS, TOOLS]
    assert pairs["chat_template_kwargs"][:] == [None, {"thinking": False}, None]


def test_content_parts_of_type_text_are_joined_and_others_refused(tmp_path):
    parts = [{"type": "text", "text": "My lamp arrived broken. "}, {"type": "text", "text": "What now?"}]
    path = write(tmp_path / "pairs.jsonl", CHAT | {"prompt": [USER | {"content": parts}]})
    assert list(load_preferences(path)) == [CHAT]
    for part, kind in (({"type": "image"}, "image"), ({"type": ["image"]}, "['image']"), ("text", "str")):
        write(path, CHAT | {"prompt": [USER | {"content": [*parts, part]}]})
        assert f"content part of type {kind}" in refusal(path)


def test_dialogues_are_split_where_they_part():
    more = [USER, KIND, USER | {"content": "When?"}]
    row = {"chosen": [*more, KIND, USER, KIND], "rejected": [*more, RUDE, USER, RUDE]}
    expected = {"prompt": more, "chosen": [KIND, USER, KIND], "rejected": [RUDE, USER, RUDE]}
    assert list(load_preferences(Dataset.from_list([row]))) == [expected]


@pytest.mark.parametrize(
    "reply",
    ['{"value": 5}', '[{"from": "Paris", "to": "Rome"}]', '{"role": "admin", "name": "Bob"}', '{"content": ""}'],
)
def test_a_reply_of_json_that_is_no_message_stays_text(tmp_path, reply):
    row = TEXT | {"chosen": reply}
    assert list(load_preferences(write(tmp_path / "pairs.jsonl", row))) == [row]


@pytest.mark.parametrize("key", ["name", "weight", "tool_call_id"])
def test_messages_stored_as_text_may_begin_with_another_key(tmp_path, key):
    chosen, rejected = ({key: "x"} | message for message in (KIND, RUDE))
    row = CHAT | {"chosen": repr([chosen]), "rejected": json.dumps([rejected])}
    assert list(load_preferences(write(tmp_path / "pairs.jsonl", row))) == [
        CHAT | {"chosen": [chosen], "rejected": [rejected]}
    ]


@pytest.mark.parametrize("prompt", [[USER], USER["content"]], ids=["messages", "text"])
def test_the_input_of_openais_form_may_be_the_prompt_itself(tmp_path, prompt):
    row = {"input": prompt, "preferred_output": [KIND], "non_preferred_output": [RUDE]}
    assert list(load_preferences(write(tmp_path / "pairs.jsonl", row))) == [CHAT]


# ---- bad rows ----

BAD_ROWS = {
    "reply ends in user": (CHAT | {"chosen": [KIND, USER]}, "'chosen' does not end with an assistant turn"),
    "reply begins with user": (CHAT | {"rejected": [USER | {"content": "x"}, RUDE]}, "'rejected' does not start with"),
    "unknown role": (CHAT | {"prompt": [USER | {"role": "human"}]}, "unknown role 'human'"),
    "unknown from": ({"conversations": [{"from": "x", "value": "y"}], "chosen": KIND, "rejected": RUDE}, "role 'x'"),
    "from is a list": (
        {"conversations": [{"from": [], "value": "y"}], "chosen": KIND, "rejected": RUDE},
        "text 'role'",
    ),
    "prompt ends in assistant": (CHAT | {"prompt": [USER, KIND]}, "prompt ends in an assistant turn"),
    "other prompts": ({"chosen": [USER, KIND], "rejected": [USER | {"content": "x"}, RUDE]}, "do not share one prompt"),
    "they part at a user": (
        {"chosen": [USER, KIND, USER, KIND], "rejected": [USER, KIND, USER | {"content": "x"}, RUDE]},
        "do not share one prompt",
    ),
    "prompt is elsewhere": ({"prompt": "Hi", "chosen": [USER, KIND], "rejected": [USER, RUDE]}, "text of the prompt"),
    "text and messages": (CHAT | {"chosen": GOOD}, "must be all text or all lists of messages"),
    "only the prompt": (CHAT | {"chosen": [USER], "rejected": [USER, RUDE]}, "'chosen' is empty after"),
    "zero-width": (TEXT | {"chosen": "\u200b\u200d\ufeff"}, "'chosen' is blank"),
    "zero-width message": (CHAT | {"chosen": [KIND | {"content": "\u2060"}]}, "without a text 'role'"),
    "surrogate": (TEXT | {"prompt": "Hi \ud83d"}, "'prompt' holds half of a character"),
    "surrogate in a message": (CHAT | {"chosen": [KIND | {"content": "\udc00"}]}, "'chosen' holds half of a character"),
    "surrogate in a call": (CHAT | {"chosen": [KIND | {"tool_calls": ["\udc00"]}]}, "'chosen' cannot be stored"),
    "pictures": (TEXT | {"images": ["a.jpg"]}, "'images' is not text"),
    "tools": (CHAT | {"tools": "{"}, "'tools' looks stored as JSON or Python text, but is neither"),
    "tools are no list": (CHAT | {"tools": {"a": 1}}, "'tools' is not a list but dict"),
    "half a message list": (CHAT | {"prompt": "[{'role': 'user', 'content': "}, "'prompt' looks stored as"),
    "list of texts": (TEXT | {"prompt": [QUESTION]}, "'prompt' is a list of texts"),
    "columns of a table": ({"prompt": [QUESTION] * 2, "chosen": [GOOD] * 2, "rejected": [BAD] * 2}, "list of texts"),
    "null": (TEXT | {"chosen": None}, "'chosen' is missing"),
    "a number": (TEXT | {"rejected": 4}, "'rejected' is not text but int"),
    "two replies and a label": (
        {"prompt": QUESTION, "response_1": GOOD, "response_2": BAD, "preference": 1},
        "'chosen' is missing; the row has prompt, response_1, response_2, preference; say with columns=",
    ),
    "rows by id": ({f"id{i}": TEXT for i in range(5000)}, "id18, id19 and 4980 more; say with columns="),
    "a surrogate in a name": ('{"chosen": "b", "rejected": "c", "\\ud83d": 1}', "rejected, \\ud83d; say"),
    "wrong name": (
        {"instruction": "x", "chosen": "a", "rejected": "b"},
        "the row has instruction, chosen, rejected; say",
    ),
    "columns": ({"question": "x", "chosen": "a", "rejected": "b"}, "columns="),
    "duplicate": ('{"prompt": "x", "chosen": "a", "chosen": "b", "rejected": "c"}', "the key 'chosen' stands twice"),
    "blank braille": (TEXT | {"chosen": "\u2800\u2800"}, "'chosen' is blank"),
    "tags": (TEXT | {"chosen": "\U000e0041\U000e0042"}, "'chosen' is blank"),
    "a variation selector": (TEXT | {"chosen": "\U000e0100"}, "'chosen' is blank"),
    "pixels": (TEXT | {"pixel_values": [0.5]}, "'pixel_values' is not text"),
    "OpenAI without messages": (
        {"input": {"tools": []}, "preferred_output": [KIND], "non_preferred_output": [RUDE]},
        "'input' has no 'messages', only tools",
    ),
    "digits": ('{"prompt": "x", "chosen": "a", "rejected": "b", "n": ' + "9" * 5000 + "}", "digits"),
    "nested": ('{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deep"),
    "nested text": ({"prompt": "[{'role': " + "[" * 9999 + "]" * 9999, "chosen": "a", "rejected": "b"}, "'prompt'"),
}


@pytest.mark.parametrize("ending", ["jsonl", "json"])
@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_is_named_or_dropped(tmp_path, capsys, kind, ending):
    row, problem = BAD_ROWS[kind]
    good = CHAT if isinstance(row, dict) and isinstance(row.get("chosen"), (list, dict)) else TEXT
    path = write(tmp_path / f"pairs.{ending}", good, row, good)
    message = refusal(path)
    assert message.startswith(f"{path}, row 2: ") and problem in message
    pairs = load_preferences(path, on_bad="drop")
    assert list(pairs) == [good, good]
    assert capsys.readouterr().out.splitlines()[0].startswith(f"{path}: dropped 1 row: ")
    assert [row_name(pairs, index) for index in (0, 1)] == [f"{path}, row 1", f"{path}, row 3"]


@pytest.mark.parametrize(
    "bad, problem",
    [
        ('{"a": 1,\n "a": {"b": [2]}}', "the key 'a' stands twice in one object"),
        ('{"n": ' + "9" * 5000 + "}", "a number has more than"),
        ("9" * 5000, "a number has more than"),
        ('{"n": "]}\\"", "m": ' + "[" * 100_000 + "]" * 100_000 + "}", "the JSON is nested too deep"),
        ('{"prompt": "Hi \\ud83d", "chosen": "a", "rejected": "b"}', "field 'prompt' holds half of a character"),
        ("3", "not an object with the fields"),
    ],
    ids=["key", "digits", "digits alone", "nested", "surrogate", "number"],
)
def test_an_unreadable_row_of_a_list_is_dropped_like_any_other(tmp_path, capsys, bad, problem):
    path = tmp_path / "pairs.json"
    path.write_text(f"[{json.dumps(TEXT)}, {bad}, {json.dumps(TEXT)}]")
    assert refusal(path).startswith(f"{path}, row 2: {problem}")
    pairs = load_preferences(path, on_bad="drop")
    assert list(pairs) == [TEXT, TEXT] and row_name(pairs, 1) == f"{path}, row 3"
    assert f"dropped 1 row: {problem}" in capsys.readouterr().out


def test_a_row_of_a_list_whose_end_cannot_be_found_is_an_error_of_the_file(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text(f"[{json.dumps(TEXT)}, {'[' * 100_000}{']' * 99_000}, {json.dumps(TEXT)}]")
    assert refusal(path, on_bad="drop") == f"{path}, row 2: the JSON is nested too deep"


CALL = {"name": "find_order", "arguments": {"order": 17}}


@pytest.mark.parametrize("value", [CALL, json.dumps(CALL), [CALL], json.dumps([CALL, CALL])])
def test_a_function_call_of_sharegpt_is_an_assistant_turn_with_tool_calls(tmp_path, value):
    called = {"from": "function_call", "value": value}
    turns = [{"from": "human", "value": "Where is it?"}, called, {"from": "observation", "value": "on its way"}]
    row = {"conversations": turns, "chosen": {"from": "gpt", "value": "It is on its way."}, "rejected": called}
    pairs = load_preferences(write(tmp_path / "pairs.jsonl", row))
    count = 2 if "}, {" in str(value) else 1
    message = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}] * count}
    assert pairs[0]["prompt"][1] == message and pairs[0]["rejected"] == [message]
    assert pairs[0]["prompt"][2] == {"role": "tool", "content": "on its way"}


@pytest.mark.parametrize("value", ["find_order(17)", "{}", None, 3, [CALL, "x"]])
def test_a_function_call_that_cannot_be_read_is_a_bad_row(tmp_path, value):
    row = {"conversations": [{"from": "human", "value": "?"}], "chosen": {"from": "function_call", "value": value}}
    row["rejected"] = {"from": "gpt", "value": "No."}
    assert "'chosen' has a function_call turn that is not JSON" in refusal(write(tmp_path / "pairs.jsonl", row))


def test_row_names_of_other_data_sets_count_from_one():
    assert row_name(Dataset.from_list([TEXT]), 0) == row_name([TEXT], 0) == "row 1"
    assert row_name(load_preferences("handwritten"), 4) == "data/handwritten/train.jsonl, row 5"


BAD_FILES = {
    "shifted.csv": ("prompt,chosen,rejected\nHi, there,Hello,No\n", "line 2: ", "4 cells, and the header has 3 names"),
    "short.tsv": ('prompt\tchosen\trejected\na\tb\tc\n"d\ne"\tf\n', "line 3: ", "2 cells, and the header has 3 names"),
    "quote.csv": ('prompt,chosen,rejected\na,b,"c\n', "line 2: ", "unexpected end of data"),
    "twice.csv": ("prompt,chosen,chosen\na,b,c\n", "line 1: ", "a name stands twice in the header"),
    "latin.csv": (b"prompt,chosen,rejected\na,b,c\na,\xe9,c\n", "line 3: ", "not a text file in UTF-8"),
    "latin.jsonl": (json.dumps(TEXT).encode() + b'\n{"prompt": "\xe9"}', "line 2: ", "not a text file in UTF-8"),
    "no.jsonl.gz": (b"not compressed", ": not a readable .jsonl file", "zip"),
    "cut.csv.gz": (gzip.compress(b"prompt,chosen,rejected\na,b,c\n" * 99)[:-9], ": not a readable .csv file", ""),
    "mac.csv": ("prompt,chosen,rejected\ra,b,c\r", "line 1: ", "a carriage return alone"),
    "more.jsonl": (json.dumps(TEXT) + " x\n", "line 1: not valid JSON", "more follows"),
    "end.json": (f"[{json.dumps(TEXT)}\n", "line 2: not valid JSON", ""),
    "after.json": (f"[{json.dumps(TEXT)}] x", "not valid JSON", "more follows"),
    "number.json": ("3", "must hold a list of rows", ""),
    "semicolons.csv": ("prompt;chosen;rejected\na;b;c\n", "line 1: ", "';' separates its cells, not commas"),
    "commas.tsv": ("prompt,chosen,rejected\na,b,c\n", "line 1: ", "',' separates its cells, not tabs"),
    "quoted.tsv": ('prompt\tchosen\trejected\na\t"b" he said\tc\n', "line 2: ", "expected after"),
    "utf16.jsonl": (json.dumps(TEXT).encode("utf-16"), "line 1: ", "not a text file in UTF-8"),
    "utf16.csv": ("prompt,chosen,rejected\na,b,c\n".encode("utf-16"), "line 1: ", "not a text file in UTF-8"),
    "comma.jsonl": (json.dumps(TEXT) + ",\n", "line 1: not valid JSON", "more follows"),
    "comma.json": (f"[{json.dumps(TEXT)},\n", "not valid JSON", ""),
    "empty.jsonl": ("\n\n", "no preference pairs", ""),
    "wrapped.json": (json.dumps({"rows": [TEXT]}, indent=1), "must hold a list of rows", ""),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_sentence(tmp_path, name):
    content, *problems = BAD_FILES[name]
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    for on_bad in ("error", "drop"):
        message = refusal(tmp_path / name, on_bad=on_bad)
        assert message.startswith(str(tmp_path / name)) and all(problem in message for problem in problems)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "the name of the preference pairs is empty"),
        ({"train": [TEXT]}, "the split 'train' is no Dataset but list"),
        ({}, "the data set has no split 'train': it has none"),
        ([TEXT], "datasets.Dataset.from_list makes one"),
    ],
)
def test_what_is_no_source_is_refused_with_what_to_give(source, said):
    assert said in refusal(source)


def test_a_folder_that_holds_no_one_data_set_is_not_called_unknown_to_the_hub(tmp_path):
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path}: cannot read the split 'train' of this folder") and "hub" not in message


# ---- what is printed ----


def test_an_unused_column_without_a_name_is_called_that(tmp_path, capsys):
    (tmp_path / "pairs.csv").write_text(",prompt,chosen,rejected\n0,a,b,c\n")
    load_preferences(tmp_path / "pairs.csv")
    assert capsys.readouterr().out.endswith("columns that are not used: one without a name\n")


def test_columns_that_are_not_used_are_named_in_one_line(tmp_path, capsys):
    path = write(
        tmp_path / "pairs.jsonl", TEXT | {"score": 1, "system": "Be brief."}, TEXT | {"input": "x", "tools": []}
    )
    load_preferences(path)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{path}: columns that are not used: score, system, input, tools; system, input may belong")
    load_preferences(write(path, *(row for row, _ in (FORMS["OpenAI"], FORMS["ShareGPT"], FORMS["messages"]))))
    load_preferences("handwritten")
    assert capsys.readouterr().out == ""
    load_preferences(write(path, {"instruction": "a", "prompt": "b", "chosen": "c", "rejected": "d"}))
    load_preferences(path, columns={"prompt": "instruction"})
    first, second = capsys.readouterr().out.splitlines()
    assert "not used: instruction; instruction may" in first and "not used: prompt" in second


def test_a_prompt_that_is_taken_off_the_replies_is_said_once(tmp_path, capsys):
    row = FORMS["text with the prompt repeated"][0]
    path = write(tmp_path / "pairs.jsonl", HH, row, row)
    assert list(load_preferences(path)) == [HH] * 3
    (line,) = capsys.readouterr().out.splitlines()
    assert "start of both replies" in line and "2 of 3 pairs, first in row 2" in line
    greeting = {"prompt": "Hi", "chosen": "Hi there!", "rejected": "Hi. What?"}  # too short to be a repeated prompt
    assert list(load_preferences(write(path, greeting))) == [greeting]


def test_only_the_first_process_prints(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    load_preferences(write(tmp_path / "pairs.jsonl", TEXT | {"score": 1}))
    assert capsys.readouterr().out == ""


def test_plain_text_takes_about_as_long_as_json_alone(tmp_path):
    rows = [{name: f"{text} {i}" for name, text in TEXT.items()} for i in range(20_000)]
    path = write(tmp_path / "pairs.jsonl", *rows)
    load_preferences(path)

    def seconds(work):
        times = []
        for _ in range(3):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
        return min(times)

    alone = seconds(lambda: [json.loads(line) for line in path.open(encoding="utf-8")])
    assert seconds(lambda: load_preferences(path)) < 8 * alone
    assert list(load_preferences(path)) == rows
