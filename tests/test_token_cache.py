"""Token ids of large sets are kept on disk, and the cache is private, tidy, and never wrong."""

import os
import stat
import time

import pytest
from tiny import PAIRS, tiny_tokenizer
from trainers import own_cache  # noqa: F401 (pytest uses the fixture)

from toylib.engine import disk_cache, token_cache
from toylib.tokens import tokenize_pairs

LONG = {"prompt": " ".join(["my order"] * 20), "chosen": " yes", "rejected": " no"}


@pytest.fixture(autouse=True)
def small_sets_are_cached(monkeypatch, own_cache):  # noqa: F811
    monkeypatch.setattr(token_cache, "LEAST", 2)


def again(monkeypatch, *arguments):
    """Return what `tokenize_once` gives when it may not tokenise."""
    with monkeypatch.context() as patch:
        patch.setattr(token_cache, "tokenize_pairs", lambda *_: pytest.fail("tokenised again"))
        return token_cache.tokenize_once(*arguments)


def test_a_second_call_gives_the_same_rows_and_prints_the_same(monkeypatch, capsys):
    pairs, tokenizer = [*PAIRS, LONG], tiny_tokenizer()
    expected = tokenize_pairs(pairs, tokenizer, 30)
    printed = capsys.readouterr().out
    assert "cut from the left" in printed
    assert token_cache.tokenize_once(pairs, tokenizer, 30) == expected
    assert capsys.readouterr().out == printed
    assert again(monkeypatch, pairs, tokenizer, 30) == expected
    assert capsys.readouterr().out == printed


def test_only_the_first_process_prints_and_saves(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("RANK", "1")
    assert len(token_cache.tokenize_once([*PAIRS, LONG], tiny_tokenizer(), 30)) == 5
    assert capsys.readouterr().out == "" and not list(tmp_path.glob("cache/*"))
    monkeypatch.setenv("RANK", "0")
    token_cache.tokenize_once([*PAIRS, LONG], tiny_tokenizer(), 30)
    assert "cut from the left" in capsys.readouterr().out
    monkeypatch.setenv("RANK", "1")
    again(monkeypatch, [*PAIRS, LONG], tiny_tokenizer(), 30)
    assert capsys.readouterr().out == ""


def test_a_progress_line_is_seen_while_it_runs_and_not_kept(monkeypatch, capsys):
    def slow(*arguments):
        print("tokenise: 50 %", end="", flush=True)
        assert capsys.readouterr().out == "tokenise: 50 %"
        print("\r              \rtwo were cut")
        return tokenize_pairs(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(token_cache, "tokenize_pairs", slow)
        token_cache.tokenize_once(PAIRS, tiny_tokenizer())
    capsys.readouterr()
    again(monkeypatch, PAIRS, tiny_tokenizer())
    assert capsys.readouterr().out.splitlines()[0] == "two were cut"


@pytest.mark.parametrize("change", ["pair", "length", "template", "eos"])
def test_whatever_decides_the_ids_decides_the_key(change):
    pairs, tokenizer = list(PAIRS), tiny_tokenizer()
    before = token_cache.tokens_key(pairs, tokenizer, 30)
    assert token_cache.tokens_key(pairs, tiny_tokenizer(), 30) == before
    if change == "pair":
        pairs[0] = pairs[0] | {"chosen": " b b"}
    if change == "template":
        tokenizer.chat_template = "{{ messages }}"
    if change == "eos":
        tokenizer.eos_token = tokenizer.pad_token
    assert token_cache.tokens_key(pairs, tokenizer, 31 if change == "length" else 30) != before


def test_small_sets_and_streams_are_not_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "LEAST", 1000)
    token_cache.tokenize_once(PAIRS, tiny_tokenizer())
    token_cache.tokenize_once(iter(PAIRS), tiny_tokenizer())
    assert not (tmp_path / "cache").exists()


def test_a_damaged_file_is_computed_anew(tmp_path, caplog):
    rows = token_cache.tokenize_once(PAIRS, tiny_tokenizer())
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:-4])
    assert token_cache.tokenize_once(PAIRS, tiny_tokenizer()) == rows
    assert "computed anew" in caplog.text


def test_the_folder_is_the_users_alone_and_what_killed_runs_left_is_removed(tmp_path):
    folder = tmp_path / "cache"
    token_cache.tokenize_once(PAIRS, tiny_tokenizer())
    if os.name != "nt":
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    old, new = folder / "abc.123", folder / "abc.124"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * disk_cache.DAY,) * 2)
    token_cache.tokenize_once(PAIRS[:2], tiny_tokenizer())
    assert not old.exists() and new.exists()


def test_without_a_home_folder_the_run_goes_on_uncached(monkeypatch, caplog):
    monkeypatch.delenv("TOYLIB_CACHE")
    monkeypatch.setattr(disk_cache.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no HOME")))
    assert token_cache.tokenize_once(PAIRS, tiny_tokenizer()) == tokenize_pairs(PAIRS, tiny_tokenizer())
    assert "set TOYLIB_CACHE" in caplog.text
