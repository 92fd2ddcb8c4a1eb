"""Loading pairs: every form that is read, and for every bad input one sentence with file, row and field in it."""

import json

import datasets
import pytest
from datasets import Dataset, DatasetDict
from tiny import one_sentence
from tiny import write_lines as write

from toylib import load_preferences

GOOD = {"prompt": "Customer: My order is late.\nAgent:", "chosen": " I'm so sorry!", "rejected": " Check the website."}


def message(role, content):
    return [{"role": role, "content": content}]


CHAT = {
    "prompt": message("user", "Late."),
    "chosen": message("assistant", "Sorry!"),
    "rejected": message("assistant", "No."),
}


def without(field):
    return {name: value for name, value in GOOD.items() if name != field}


# ---- what is read ----


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "parquet"])
def test_every_file_format_gives_the_same_pairs(tmp_path, ending):
    path, rows = (
        tmp_path / f"pairs.{ending}",
        [GOOD | {"intent": "late"}, GOOD | {"chosen": 'He said: "é, ok"\nBye', "intent": "x"}],
    )
    if ending == "json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif ending == "jsonl":
        write(path, *rows)
    else:
        getattr(Dataset.from_list(rows).to_pandas(), f"to_{ending}")(path, index=False)
    for source in (path, str(path)):
        pairs = load_preferences(source)
        assert isinstance(pairs, Dataset) and pairs.column_names == ["prompt", "chosen", "rejected"]
        assert list(pairs) == [{field: row[field] for field in GOOD} for row in rows]


def test_a_data_set_and_a_dict_of_splits_are_read():
    pairs = Dataset.from_list([GOOD])
    assert list(load_preferences(pairs)) == [GOOD]
    assert list(load_preferences(DatasetDict(dev=pairs), "dev")) == [GOOD]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_lists_of_messages_stay_lists_of_messages(tmp_path, ending):
    path = tmp_path / f"chat.{ending}"
    write(path, CHAT, CHAT) if ending == "jsonl" else Dataset.from_list([CHAT, CHAT]).to_pandas().to_parquet(path)
    assert list(load_preferences(path)) == [CHAT, CHAT]


def test_columns_are_renamed():
    row = {"instruction": "p", "good": "a", "rejected": "b"}
    pairs = load_preferences(Dataset.from_list([row]), columns={"prompt": "instruction", "chosen": "good"})
    assert list(pairs) == [{"prompt": "p", "chosen": "a", "rejected": "b"}]


def test_hh_strings_are_split_after_the_last_assistant():
    talk = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Late!\n\nAssistant:"
    pairs = load_preferences(Dataset.from_list([{"chosen": talk + " Sorry!", "rejected": talk + " Wait."}]))
    assert list(pairs) == [{"prompt": talk, "chosen": " Sorry!", "rejected": " Wait."}]


def test_message_lists_that_share_their_beginning_are_split_before_the_last_message():
    row = {"chosen": CHAT["prompt"] + CHAT["chosen"], "rejected": CHAT["prompt"] + CHAT["rejected"]}
    assert list(load_preferences(Dataset.from_list([row]))) == [CHAT]


def test_the_mark_that_windows_puts_first_and_blank_lines_do_no_harm(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("\ufeff" + json.dumps(GOOD) + "\r\n\r\n", encoding="utf-8")
    assert list(load_preferences(tmp_path / "pairs.jsonl")) == [GOOD]


def test_handwritten_pairs_load_and_no_prompt_is_in_both_splits():
    train, test = (load_preferences("handwritten", split) for split in ("train", "test"))
    assert len(train) + len(test) >= 200
    assert not set(train["prompt"]) & set(test["prompt"])


# ---- bad rows ----

BAD_ROWS = [
    (without("chosen"), "'chosen' is missing"),
    (without("rejected"), "'rejected' is missing"),
    (without("prompt"), "'prompt' is missing"),
    ({"question": "p", "good": "a", "bad": "b"}, "'chosen' is missing; the row has question, good, bad"),
    (GOOD | {"chosen": None}, "'chosen' is missing"),
    (GOOD | {"prompt": None}, "'prompt' is missing"),
    (GOOD | {"chosen": ""}, "'chosen' is empty"),
    (GOOD | {"rejected": " \n\t"}, "'rejected' is blank"),
    (GOOD | {"prompt": ""}, "'prompt' is empty"),
    (GOOD | {"rejected": 3}, "'rejected' is not text but int"),
    (GOOD | {"prompt": 1.5}, "'prompt' is not text but float"),
    (GOOD | {"chosen": {"text": "Hi"}}, "'chosen' is not text but dict"),
    (GOOD | {"rejected": GOOD["chosen"]}, "chosen and rejected are identical"),
    (CHAT | {"chosen": []}, "'chosen' is empty"),
    (CHAT | {"chosen": ["Sorry!"]}, "'chosen' is a list of texts: give one text, or messages"),
    (CHAT | {"chosen": message("assistant", " ")}, "'chosen' has a message without"),
    (CHAT | {"prompt": "Late."}, "all text or all lists of messages"),
    ({"chosen": "\n\nHuman: a\n\nAssistant: x", "rejected": "\n\nHuman: b\n\nAssistant: y"}, "do not share one prompt"),
    ({"chosen": "\n\nHuman: a\n\nAssistant: x", "rejected": "\n\nHuman: a\n\nAssistant: "}, "'rejected' is blank"),
    ({"chosen": CHAT["chosen"], "rejected": CHAT["rejected"]}, "do not share one prompt"),
    (["p", "a", "b"], "not an object"),
    (CHAT, "some rows are text and some are lists of messages"),
]


@pytest.mark.parametrize(("row", "problem"), BAD_ROWS)
def test_a_bad_row_is_named_with_file_row_and_field(tmp_path, row, problem):
    path = write(tmp_path / "pairs.jsonl", GOOD, row, GOOD)
    with pytest.raises(ValueError) as caught:
        load_preferences(path)
    assert one_sentence(caught).startswith(f"{path}, row 2: ") and problem in one_sentence(caught)


def test_bad_rows_are_dropped_and_counted_by_kind_on_request(tmp_path, capsys):
    path = write(
        tmp_path / "pairs.jsonl", *[GOOD, GOOD | {"chosen": ""}, GOOD, without("rejected"), GOOD | {"chosen": ""}]
    )
    assert list(load_preferences(path, on_bad="drop")) == [GOOD, GOOD]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{path}: dropped 2 rows: field 'chosen' is empty"
    assert len(printed) == 2 and printed[1].startswith(f"{path}: dropped 1 row: field 'rejected' is missing")


def test_nothing_left_after_dropping_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no preference pairs"):
        load_preferences(write(tmp_path / "pairs.jsonl", GOOD | {"chosen": ""}), on_bad="drop")


@pytest.mark.parametrize("cell", ["", "   "])
def test_a_blank_cell_of_a_csv_is_named(tmp_path, cell):
    path = tmp_path / "pairs.csv"
    path.write_text(f"prompt,chosen,rejected\np,a,b\np,{cell},NA\n")
    with pytest.raises(ValueError) as caught:
        load_preferences(path)
    assert one_sentence(caught) == f"{path}, row 2: field 'chosen' is {'blank' if cell else 'empty'}"


def test_a_missing_cell_of_a_parquet_file_is_named(tmp_path):
    Dataset.from_list([GOOD, GOOD | {"rejected": None}]).to_pandas().to_parquet(tmp_path / "pairs.parquet")
    with pytest.raises(ValueError, match="row 2: field 'rejected' is missing"):
        load_preferences(tmp_path / "pairs.parquet")


# ---- bad files, names and arguments ----

BAD_FILES = {
    "empty.jsonl": (b"", "the file is empty"),
    "empty.csv": (b"", "the file is empty"),
    "blank.jsonl": (b"\n \n", "no preference pairs"),
    "none.json": (b"[]", "no preference pairs"),
    "header.csv": (b"prompt,chosen,rejected\n", "no preference pairs"),
    "broken.jsonl": (json.dumps(GOOD).encode() + b'\n{"prompt": "p", "cho', "line 2: not valid JSON"),
    "broken.json": (b'[{"prompt": "p",\n}]', "line 2: not valid JSON"),
    "dict.json": (json.dumps({"data": [GOOD]}).encode(), "must hold a list of rows"),
    "ragged.csv": (b"prompt,chosen,rejected\np,a,b\np,a,b,c\n", "not a readable .csv file"),
    "bytes.jsonl": (bytes(range(256)), "not a text file"),
    "bytes.json": (bytes(range(256)), "not a text file"),
    "bytes.csv": (bytes(range(256)), "not a text file"),
    "zeros.csv": (b"\x00\x01\n\x02", "not a readable .csv file"),
    "bytes.parquet": (bytes(range(256)), "not a readable .parquet file"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_named_in_one_sentence(tmp_path, name):
    content, problem = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    for on_bad in ("error", "drop"):
        with pytest.raises(ValueError) as caught:
            load_preferences(tmp_path / name, on_bad=on_bad)
        assert str(tmp_path / name) in one_sentence(caught) and problem in one_sentence(caught)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"source": "nowhere/pairs.jsonl"}, "nowhere/pairs.jsonl: no such file"),
        (
            {"source": "handwritten", "split": "validation"},
            "'handwritten' has no split 'validation': it has test, train",
        ),
        ({"source": DatasetDict(train=Dataset.from_list([GOOD])), "split": "dev"}, "no split 'dev': it has train"),
        ({"source": [GOOD]}, "got list"),
        ({"source": None}, "got NoneType"),
        ({"source": Dataset.from_list([GOOD]), "on_bad": "skip"}, "got 'skip'"),
        ({"source": Dataset.from_list([GOOD]), "columns": {"promt": "x"}}, "got promt"),
        ({"source": Dataset.from_list([GOOD]), "columns": {"prompt": "instruction"}}, "'instruction' is missing"),
        ({"source": Dataset.from_list([GOOD]), "columns": {"chosen": "good"}}, "'good' is missing"),
    ],
)
def test_an_argument_that_cannot_be_right_is_named(arguments, problem):
    with pytest.raises(ValueError) as caught:
        load_preferences(**arguments)
    assert problem in one_sentence(caught)


def test_one_file_and_one_data_set_are_one_split(tmp_path):
    for source in (write(tmp_path / "pairs.jsonl", GOOD), datasets.Dataset.from_list([GOOD])):
        with pytest.raises(ValueError, match="one split, train; got split='test'"):
            load_preferences(source, "test")


@pytest.mark.parametrize("problem", [ConnectionError("Couldn't reach it\nTraceback"), FileNotFoundError(""), OSError()])
def test_an_unknown_set_or_no_network_is_one_sentence(monkeypatch, problem):
    def refuse(*args, **kwargs):
        raise problem

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ValueError) as caught:
        load_preferences("suport")
    assert "'suport' is not a shipped set (support, handwritten, templated)" in one_sentence(caught)
    assert "no network" in one_sentence(caught)
