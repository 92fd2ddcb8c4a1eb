"""The benchmarks still run: a small race, a whole epoch, a profile, their tables read back. No time is asserted."""

import re
import sys

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def engine(root, monkeypatch):
    pytest.importorskip("trl", reason="trl is not installed, so there is nobody to race")
    monkeypatch.syspath_prepend(str(root / "tests" / "bench"))
    yield pytest.importorskip("engine")
    for name in ("engine", "growth", "peers", "profiles"):
        sys.modules.pop(name, None)


def test_a_race_prints_one_line_for_each_with_its_ratio(engine, capsys):
    rows = engine.race("support", (8, 12, 4, 8), ["TRL fp32", "TRL best fp32", "ours fp32"], 2, 4, 1, "cpu")
    said = capsys.readouterr().out
    for name in ("TRL fp32", "TRL best fp32"):
        assert re.search(rf"^{name} +\d+\.\d+ \[.*\d\.\d\dx", said, re.MULTILINE), said
    assert re.search(r"^ours fp32 .* 1\.00x", said, re.MULTILINE)
    assert [row["contestant"] for row in rows] == ["TRL fp32", "TRL best fp32", "ours fp32"]
    assert rows[0]["/ ours fp32"] == rows[0]["seconds a step"] / rows[2]["seconds a step"]
    assert 0 < rows[2]["matrix products"] < 1 and f"{rows[2]['matrix products']:.0%}" in said


def test_who_cannot_run_is_a_line_of_the_table_and_the_others_go_on(engine, capsys, monkeypatch):
    monkeypatch.setitem(engine.CONTESTANTS, "TRL default", (engine.trl, {"no_such_setting": 1}))
    rows = engine.race("support", (8, 12, 4, 8), ["TRL default", "ours fp32"], 2, 4, 1, "cpu")
    assert "no_such_setting" in rows[0]["problem"] and rows[1]["/ ours fp32"] == 1
    assert re.search(r"^TRL default +TypeError: .*no_such_setting", capsys.readouterr().out, re.MULTILINE)


def test_a_profile_names_the_operators_that_take_most(engine):
    pairs = engine.random_pairs(4, (8, 12, 4, 8), 1408)
    trainer, _ = engine.build("ours fp32", "support", pairs, 2, "cpu")
    profiles = sys.modules["profiles"]
    events = profiles.events_of(trainer, operators=True)
    rows = profiles.top_operators(events, count=5)
    assert len(rows) == 5 and rows == sorted(rows, key=lambda row: -row["ms"])
    every = profiles.top_operators(events, count=1000)  # on a busy machine the five slowest may be others
    assert any("mm" in row["operator"] for row in every) and sum(row["share"] for row in every) == pytest.approx(1)


def test_growth_says_how_many_times_longer_each_step_takes(engine, capsys):
    base = {"prompt": 4, "reply": 3, "vocabulary": 64, "pairs": 1}
    rows = engine.growth("cpu", 1, shape="support", base=base)
    assert [row["to"] for row in rows if row["grows"] == "vocabulary"] == [64, 256, 768]
    assert [row["times"] for row in rows][::3] == [1.0] * 4
    assert capsys.readouterr().out.count("(1.00x)") >= 4


def test_a_whole_epoch_and_the_ladder_print_their_tables(engine, capsys, monkeypatch):
    monkeypatch.setitem(engine.MIXES, "mixed", (8, 12, 4, 8))
    engine.whole_epoch("support", "mixed", ["TRL fp32", "ours fp32"], 2, 4, 1, "cpu")
    engine.ladder("cpu", rounds=1, count=4, batch=2)
    said = capsys.readouterr().out
    assert re.search(r"^ours fp32 .* 1\.00x ours", said, re.MULTILINE)
    assert len(re.findall(r"\d\.\d\dx +\d+\.\d\dx$", said, re.MULTILINE)) == 5, said
