"""The benchmarks still run: a small race and a whole epoch, their tables read back. No time is asserted."""

import re
import sys

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def engine(root, monkeypatch):
    pytest.importorskip("trl", reason="trl is not installed, so there is nobody to race")
    monkeypatch.syspath_prepend(str(root / "tests" / "bench"))
    yield pytest.importorskip("engine")
    for name in ("engine", "peers"):
        sys.modules.pop(name, None)


def test_a_race_prints_one_line_for_each_with_its_ratio(engine, capsys):
    engine.race("support", (8, 12, 4, 8), ["TRL fp32", "TRL best fp32", "ours fp32"], 2, 4, 1, "cpu")
    said = capsys.readouterr().out
    for name in ("TRL fp32", "TRL best fp32"):
        assert re.search(rf"^{name} +\d+\.\d+ \[.*\d\.\d\dx", said, re.MULTILINE), said
    assert re.search(r"^ours fp32 .* 1\.00x", said, re.MULTILINE)
    assert 0 < int(re.search(r"matrix products: (\d+)%", said).group(1)) < 100


def test_a_whole_epoch_and_the_ladder_print_their_tables(engine, capsys, monkeypatch):
    monkeypatch.setitem(engine.MIXES, "mixed", (8, 12, 4, 8))
    engine.whole_epoch("support", "mixed", ["TRL fp32", "ours fp32"], 2, 4, 1, "cpu")
    engine.ladder("cpu", rounds=1, count=4, batch=2)
    said = capsys.readouterr().out
    assert re.search(r"^ours fp32 .* 1\.00x ours", said, re.MULTILINE)
    assert len(re.findall(r"\d\.\d\dx +\d+\.\d\dx$", said, re.MULTILINE)) == 5, said
