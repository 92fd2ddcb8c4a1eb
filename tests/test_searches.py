"""The tuning behind notebooks 07 and 08: the same budget for every method, and the same walk after a restart."""

import pandas
import pytest
from conftest import ROOT

from toylib.labs.relatives_results import load_relatives


@pytest.fixture
def search(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "data"))
    import relatives_search

    return relatives_search


def walked(search, method, win_of, start=()):
    """All settings that a search tries for a method, in their order, after those of `start`."""
    wins = dict(start)
    while setting := search.next_setting(method, wins):
        assert setting not in wins, "no setting is measured twice"
        wins[setting] = win_of(*setting)
    return wins


@pytest.mark.parametrize("best_rate", [1e-6, 1e-4, 2.4e-4, 1e-3, 1])
@pytest.mark.parametrize("best_beta", [1e-3, 0.1, 2.0, 100])
def test_every_method_gets_its_budget_of_different_settings(search, best_rate, best_beta):
    def win_of(rate, beta):
        return -abs(rate - best_rate) / best_rate - abs((beta or best_beta) - best_beta) / best_beta

    for method in search.BETAS:
        wins = walked(search, method, win_of)
        assert len(wins) == search.BUDGET
        again = walked(search, method, win_of, list(wins.items())[:4])
        assert list(again) == list(wins), "a search that was interrupted goes on as if it had not been"


def test_a_best_value_on_an_edge_is_followed_beyond_it_and_else_its_neighbours_are_looked_at(search):
    assert search.next_value({1e-4: 0.8, 3e-4: 0.7, 1e-3: 0.1}) == 3.3e-5
    assert search.next_value({1e-4: 0.1, 3e-4: 0.7, 1e-3: 0.8}) == 3e-3
    assert search.next_value({1e-4: 0.1, 3e-4: 0.9, 1e-3: 0.5}) == 5.5e-4
    rates = {(1e-4, 0.1): 0.7, (3e-4, 0.1): 0.6, (1e-3, 0.1): 0.1, (3.3e-5, 0.1): 0.6}
    betas = {(1e-4, 0.3): 0.8, (1e-4, 0.033): 0.6}
    assert search.next_setting("dpo", rates | betas) == (1e-4, 0.9)


def test_all_methods_of_07_and_08_had_as_many_measurements():
    counts = {}
    for name in ("rlhf", "relatives"):
        table = pandas.read_csv(ROOT / "data" / "results" / f"{name}_tuning.csv")
        counts |= {(name, method): len(rows) for method, rows in table.groupby("method")}
    assert len(counts) == 14 and set(counts.values()) == {21}


def test_notebook_08_compares_every_method_on_the_same_seeds():
    quality = load_relatives().quality
    assert set(quality.groupby("method")["seed"].agg(lambda seeds: tuple(sorted(set(seeds))))) == {(0, 1, 2)}
