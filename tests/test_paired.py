"""Two methods on the same prompts and seeds: wins per prompt, at a step and at equal KL, and the sentence about them."""

import pandas
import pytest
import torch

from toylib import load_model
from toylib.evaluation.comparisons import Difference
from toylib.evaluation.held_out import HeldOut, held_out_prompts
from toylib.evaluation.paired import (
    column_at_kl,
    compare,
    scores_at_step,
    scores_text,
    verdict,
    win_interval,
    wins_at_kl,
    wins_at_step,
    wins_of,
    wins_text,
)


def table(*rows):
    return pandas.DataFrame(rows, columns=["seed", "step", "kl", "wins"])


RUNS = table((0, 10, 1.0, "wttl"), (0, 20, 3.0, "wwww"), (1, 10, 2.0, "tttt"), (1, 20, 1.5, "llll"))


def test_wins_are_a_letter_per_prompt_and_read_back():
    assert wins_text([0.5, 0.2, 0.1], [0.25, 0.2, 0.3]) == "wtl"
    assert wins_of("wtl").tolist() == [1.0, 0.5, 0.0]
    with pytest.raises(ValueError):
        wins_text([0.5], [0.25, 0.2])


def test_a_row_of_letters_gives_the_win_rate_of_the_report():
    model, tokenizer = load_model("support-lm", device="cpu")
    held_out = HeldOut(model, tokenizer, *held_out_prompts(count=12))
    row = held_out.marked(model, seed=1)
    assert len(row["wins"]) == 12 and wins_of(row["wins"]).mean().item() == pytest.approx(row["win"])
    assert {name: row[name] for name in row if name != "wins"} == held_out(model, seed=1)


def test_wins_at_a_step_are_by_seed_and_the_last_step_is_the_default():
    assert {seed: wins.tolist() for seed, wins in wins_at_step(RUNS, 10).items()} == {
        0: [1, 0.5, 0.5, 0],
        1: [0.5] * 4,
    }
    assert wins_at_step(RUNS)[0].tolist() == [1, 1, 1, 1]


def test_scores_per_prompt_are_written_as_text_and_read_back_by_seed():
    rows = [
        {"seed": seed, "step": step, "scores": scores_text([seed / 3, -step])} for seed in (0, 1) for step in (1, 12)
    ]
    found = scores_at_step(pandas.DataFrame(rows))
    assert list(found) == [0, 1]
    assert found[1].tolist() == pytest.approx([1 / 3, -12], abs=1e-4)
    assert scores_at_step(pandas.DataFrame(rows), 1)[0].tolist() == [0, -1]


def test_at_equal_kl_wins_are_on_a_straight_line_over_the_root_of_kl_from_ties_at_zero():
    assert wins_at_kl(RUNS, 0.25)[0].tolist() == [0.75, 0.5, 0.5, 0.25]
    halfway = (0.5 + 0.5 * 3**0.5) ** 2
    assert wins_at_kl(RUNS, halfway)[0].tolist() == pytest.approx([1, 0.75, 0.75, 0.5])
    assert wins_at_kl(RUNS, 2.0)[1].tolist() == [0.5] * 4, "the first crossing counts"
    assert sorted(wins_at_kl(RUNS, 2.5)) == [0], "a run that never got there is left out"


def test_any_column_is_read_off_at_equal_kl_on_the_same_line():
    runs = RUNS.assign(words=[8.0 + step for step in RUNS["step"]])
    first = RUNS[(RUNS["seed"] == 0) & (RUNS["step"] > 0)].iloc[0]
    assert column_at_kl(runs, first["kl"], "words", start=8.0)[0] == pytest.approx(8 + first["step"])
    assert column_at_kl(runs, first["kl"] / 4, "words", start=8.0)[0] == pytest.approx(8 + first["step"] / 2)
    assert sorted(column_at_kl(runs, 2.5, "words", start=8.0)) == [0]


def test_a_run_measured_seldom_is_not_behind_one_measured_often():
    """Both follow the same law: the share of wins grows with the root of KL."""
    often = table(*((0, root, root**2 / 4, "w" * root + "t" * (20 - root)) for root in (1, 2, 3, 4)))
    seldom = often[often["step"] == 4]
    for kl in (0.25, 1.0, 2.25):
        assert wins_at_kl(seldom, kl)[0].mean() == pytest.approx(wins_at_kl(often, kl)[0].mean())


def test_two_methods_are_compared_over_the_seeds_they_share():
    ours = {0: torch.tensor([1.0, 1.0]), 1: torch.tensor([1.0, 1.0]), 2: torch.tensor([0.0, 0.0])}
    theirs = {0: torch.tensor([0.5, 0.5]), 1: torch.tensor([0.5, 0.5])}
    assert compare(ours, theirs) == pytest.approx((0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="no seed is in both"):
        compare(ours, {7: torch.tensor([1.0, 1.0])})
    assert win_interval(theirs) == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        ((0.05, 0.02, 0.08), "DPO is ahead of PPO by 0.050 [0.020, 0.080]."),
        ((-0.05, -0.08, -0.02), "PPO is ahead of DPO by 0.050 [0.020, 0.080]."),
        ((0.05, -0.02, 0.12), "We cannot separate DPO and PPO: +0.050 [-0.020, +0.120]."),
        ((0.05, 0.0, 0.1), "We cannot separate DPO and PPO: +0.050 [+0.000, +0.100]."),
    ],
)
def test_a_verdict_names_the_one_ahead_only_if_the_interval_leaves_out_zero(difference, said):
    assert verdict(Difference(*difference), "DPO", "PPO") == said
