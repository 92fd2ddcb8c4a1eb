"""A sweep over β: every run alike but for β, its tables in nats; the shipped sweep whole; the β lab shows what it holds."""

import collections
import html
import math
import re
import sys

import pytest
import torch
from conftest import ROOT
from tiny import PAIRS, tiny_model, tiny_tokenizer

from toylib import fingerprint, plots, train_dpo
from toylib.evaluation import held_out
from toylib.evaluation.held_out import JUDGED, HeldOut, held_out_prompts, report
from toylib.evaluation.judge import judge
from toylib.labs.sweep import RESULTS, TABLES, load_sweep, seed_means, sweep_beta
from toylib.plots import sweep as plots_sweep
from toylib.preferences import DATA, load_prompts
from toylib.replies import sample_replies
from toylib.widgets import beta_lab as widgets_lab

sys.path.insert(0, str(DATA))
import results

PROMPTS = ["Customer: my order is late . Agent:", "Customer: is my order lost Agent:"]
INTENTS = ["late_order", "late_order"]


@pytest.fixture(scope="module")
def small():
    model = tiny_model()
    before = fingerprint(model)
    sweep = sweep_beta(
        HeldOut(model, tiny_tokenizer(), PROMPTS, INTENTS),
        PAIRS,
        (0.05, 2.0),
        shown=PROMPTS[:1],
        eval_pairs=PAIRS[:2],
        steps=4,
        batch_size=2,
        learning_rate=1e-2,
        measured_at=(2,),
        seeds=(0, 1),
    )
    assert fingerprint(model) == before, "the model itself was trained"
    return sweep


def test_every_run_of_a_sweep_is_train_dpo_with_that_beta_and_seed(small):
    _, history = train_dpo(
        tiny_model(), tiny_tokenizer(), PAIRS, beta=2.0, learning_rate=1e-2, steps=4, batch_size=2, seed=1
    )
    run = small.curves[(small.curves["beta"] == 2.0) & (small.curves["seed"] == 1)].set_index("step")
    assert run["loss"].tolist() == pytest.approx(history["loss"].tolist())
    assert run["chosen"].tolist() == pytest.approx((history["rewards/chosen"] / 2.0).tolist())


@pytest.mark.parametrize("at", [1, 2, 5, 6])  # the call of `report` at which it comes: two a run, before and after it
def test_an_interrupted_sweep_keeps_the_runs_that_are_whole(monkeypatch, capsys, at):
    calls, measure = [], held_out.report

    def stop(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) == at:
            raise KeyboardInterrupt
        return measure(*arguments, **keywords)

    monkeypatch.setattr(held_out, "report", stop)
    measured = HeldOut(tiny_model(), tiny_tokenizer(), PROMPTS, INTENTS)
    how = {"shown": PROMPTS, "steps": 2, "batch_size": 2}
    if at < 3:
        with pytest.raises(KeyboardInterrupt):
            sweep_beta(measured, PAIRS, (0.1, 0.5, 1.0, 2.0), **how)
        return
    sweep = sweep_beta(measured, PAIRS, (0.1, 0.5, 1.0, 2.0), **how)
    assert "first 2 of 4 runs" in capsys.readouterr().out
    assert all(set(table["beta"]) == {0.1, 0.5} for table in sweep), "nothing of the run that was cut off"
    assert sweep.quality.groupby("beta")["step"].apply(list).tolist() == [[0, 2], [0, 2]]


def test_curves_are_in_nats_so_that_a_common_first_update_shows_the_same_margin_at_every_beta(small):
    first = small.curves[small.curves["step"] == 2].pivot(index="seed", columns="beta", values="margin")
    assert (first[0.05] - first[2.0]).abs().max() < 0.02 * first.abs().max().max() > 0


def test_curves_margin_is_chosen_minus_rejected_and_held_out_pairs_are_measured_at_some_steps(small):
    curves = small.curves
    assert (curves["margin"] - curves["chosen"] + curves["rejected"]).abs().max() < 1e-4
    assert curves["heldout_accuracy"].notna().sum() == len(curves)  # four steps: evaluated at each
    assert set(curves["beta"]) == {0.05, 2.0} and set(curves["seed"]) == {0, 1} and len(curves) == 16


def test_quality_begins_with_the_model_itself_and_is_measured_where_asked_and_at_the_end(small):
    quality = small.quality
    assert quality.groupby(["beta", "seed"])["step"].apply(list).tolist() == [[0, 2, 4]] * 4
    assert quality.loc[quality["step"] == 0, "kl"].abs().max() < 1e-9
    assert (quality.loc[quality["step"] == 4, "kl"] > 0).all()
    assert {"kl_error", *JUDGED, "win", "win_low", "win_high"} <= set(quality.columns)


def test_replies_are_kept_of_the_last_step_for_every_run(small):
    assert len(small.replies) == 4 and set(small.replies["step"]) == {4}
    assert set(small.replies["prompt"]) == set(PROMPTS[:1])


def test_a_saved_sweep_is_read_back(small, tmp_path, monkeypatch):
    for module in ("toylib.labs.sweep", "results"):
        monkeypatch.setattr(f"{module}.RESULTS", tmp_path / "results")
    for table, frame in zip(TABLES, small, strict=True):
        results.save(f"tiny_{table}", frame)
    again = load_sweep("tiny")
    for ours, theirs in zip(small, again, strict=True):
        assert list(ours.columns) == list(theirs.columns) and len(ours) == len(theirs)
    assert again.quality["kl"].tolist() == pytest.approx(small.quality["kl"].tolist(), rel=1e-3, abs=1e-6)


def test_report_without_a_baseline_has_no_win_rate_and_with_one_the_model_ties_with_itself():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    row, texts = report(model, model, tokenizer, PROMPTS, INTENTS, seed=1)
    assert "win" not in row and len(texts) == 2 and row["kl"] == pytest.approx(0, abs=1e-12)
    again, _ = report(model, model, tokenizer, PROMPTS, INTENTS, [row["score"]] * 2, seed=1)
    assert again["win"] == 0.5


def test_held_out_is_report_over_the_untrained_replies_with_fixed_seeds():
    model, policy, tokenizer = tiny_model(), tiny_model(seed=1), tiny_tokenizer()
    measured = HeldOut(model, tokenizer, PROMPTS, INTENTS)
    untrained = sample_replies(model, tokenizer, PROMPTS, seed=100).texts
    assert measured.texts == untrained
    baseline = judge(PROMPTS, untrained, INTENTS)["score"]
    row, texts = report(policy, model, tokenizer, PROMPTS, INTENTS, baseline, seed=203)
    assert measured(policy, 3) == row and measured.report(policy, 3) == (row, texts)


def test_held_out_prompts_are_those_of_both_splits_with_their_intents():
    prompts, intents = held_out_prompts()
    tables = [load_prompts(split) for split in ("test", "heldout")]
    assert prompts == [*tables[0]["prompt"], *tables[1]["prompt"]]
    assert intents == [*tables[0]["intent"], *tables[1]["intent"]]
    drawn, of_intents = held_out_prompts(count=48)
    assert set(drawn) < set(prompts) and set(collections.Counter(of_intents).values()) == {4}
    assert set(held_out_prompts("dev", count=24)[0]) < set(load_prompts("dev")["prompt"])


def test_results_are_added_to_a_table_and_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    row = {"run": "right", "flipped": 0.3, "seed": 1, "win": 0.123456, "clean": math.nan}
    assert results.done("small", ("run", "seed")) == set()
    results.append("small", [row])
    results.append("small", [row | {"seed": 2}, row | {"run": "β"}])
    text = (tmp_path / "results" / "small.csv").read_text(encoding="utf-8")
    assert text.splitlines()[:2] == ["run,flipped,seed,win,clean", "right,0.3,1,0.1235,nan"] and text.count("run,") == 1
    assert results.done("small", ("run", "flipped", "seed")) == {("right", 0.3, 1), ("right", 0.3, 2), ("β", 0.3, 1)}
    results.save("small", [row])
    assert len(results.load("small")) == 1


def test_a_table_runs_only_what_it_does_not_have(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    calls = []

    def rows():
        calls.append(1)
        return [{"step": 1, "kl": 0.5, "win": 0.6}, {"step": 2, "kl": 1.0, "win": 0.7}]

    results.Table("runs").run({"method": "dpo", "seed": 0}, rows)
    assert "0.600 at KL 0.50, 0.700 at KL 1.00" in capsys.readouterr().out
    again = results.Table("runs")  # read back, as by a script that starts again
    again.run({"method": "dpo", "seed": 0}, rows)
    again.run({"method": "dpo", "seed": 1}, rows)
    assert len(calls) == 2 and results.load("runs")["seed"].tolist() == [0, 0, 1, 1]
    assert list(results.load("runs").columns) == ["method", "seed", "step", "kl", "win", "seconds"]


def test_a_script_runs_the_parts_asked_for_and_names_those_it_has(monkeypatch, capsys):
    done = []
    parts = {"first": lambda: done.append("first"), "second": lambda: done.append("second")}
    monkeypatch.setattr(sys, "argv", ["x.py", "second"])
    results.run_parts(parts, "data/x.py")
    assert done == ["second"] and "second: 0.0 minutes" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["x.py", "third"])
    with pytest.raises(SystemExit, match="x.py knows the parts first, second; got third"):
        results.run_parts(parts, "data/x.py")


# ---- the shipped sweep ----


@pytest.fixture(scope="module")
def shipped():
    return load_sweep("beta")


def test_the_shipped_sweep_is_whole(shipped):
    betas, seeds = sorted(shipped.quality["beta"].unique()), sorted(shipped.quality["seed"].unique())
    assert len(betas) >= 6 and betas[0] == 0.02 and betas[-1] == 5 and seeds == [0, 1, 2, 3, 4]
    runs = shipped.quality.groupby(["beta", "seed"])["step"].apply(list)
    assert len(runs) == len(betas) * len(seeds) and runs.map(tuple).nunique() == 1
    assert not shipped.quality.isna().any().any() and not shipped.replies.isna().any().any()
    assert shipped.replies.groupby(["beta", "seed"]).size().nunique() == 1
    assert shipped.curves.groupby(["beta", "seed"])["step"].max().nunique() == 1


def test_the_shipped_sweep_began_at_ln_2_and_with_one_model(shipped):
    first = shipped.curves[shipped.curves["step"] == 1]
    assert (first["loss"] - math.log(2)).abs().max() < 1e-3 and first["margin"].abs().max() < 1e-3
    untrained = shipped.quality[shipped.quality["step"] == 0]
    assert untrained.groupby("seed")["score"].nunique().max() == 1


def test_the_shipped_replies_answer_held_out_prompts_and_the_worked_example(shipped):
    asked = set(shipped.replies["prompt"])
    assert asked - set(load_prompts("test")["prompt"]) == {"Customer: My order is late.\nAgent:"}


def test_the_shipped_results_stay_small():
    assert sum(path.stat().st_size for path in RESULTS.glob("*")) < 900_000


@pytest.mark.slow
def test_a_shipped_policy_can_be_trained_again(shipped):
    """Twenty steps of one run, by the function that made them: the same margins, up to the machine's rounding."""
    from toylib import load_model, load_preferences

    model, tokenizer = load_model("support-lm", device="cpu")
    _, history = train_dpo(
        model, tokenizer, load_preferences("support"), beta=0.5, steps=20, batch_size=12, learning_rate=1e-4, seed=1
    )
    curves = shipped.curves
    run = curves[(curves["beta"] == 0.5) & (curves["seed"] == 1) & (curves["step"] <= 20)].set_index("step")
    ours = history.loc[run.index, "rewards/margins"] / 0.5
    assert torch.allclose(torch.tensor(ours.tolist()), torch.tensor(run["margin"].tolist()), rtol=0.02, atol=0.02)


# ---- figures and the lab ----


def at_the_end(table):
    return table[table["step"] == table["step"].max()]


def test_means_over_seeds_carry_an_interval_over_prompts_and_seeds(shipped):
    means = seed_means(shipped.quality)
    assert len(means) == shipped.quality.groupby(["beta", "step"]).ngroups
    runs = at_the_end(shipped.quality[shipped.quality["beta"] == 0.5])
    row = at_the_end(means[means["beta"] == 0.5]).iloc[0]
    assert row["win"] == pytest.approx(runs["win"].mean(), abs=1e-3) and row["kl"] == pytest.approx(runs["kl"].mean())
    one_run = (runs["win_high"] - runs["win_low"]).mean()
    assert 0.5 * one_run < row["win_high"] - row["win_low"] < 1.5 * one_run


def test_every_beta_looks_the_same_in_all_figures_and_no_two_alike():
    looks = plots_sweep.look_of([5.0, 0.1, 0.02])
    assert looks == plots_sweep.look_of([0.02, 0.1, 5.0])
    assert len({look["marker"] for look in looks.values()}) == len({look["color"] for look in looks.values()}) == 3


def test_end_labels_are_moved_apart():
    _, (axis,) = plots.new_figure()
    axis.set_ylim(0, 1)
    plots_sweep.label_ends(axis, 1, [(0.50, 0.1), (0.51, 0.2), (0.9, 5)])
    places = [text.xy[1] for text in axis.texts]
    assert places[0] == 0.5 and places[1] >= 0.55 and places[2] == 0.9


@pytest.mark.parametrize(
    "figure",
    [
        lambda sweep: plots_sweep.first_steps(sweep.curves),
        lambda sweep: plots_sweep.by_beta(
            at_the_end(seed_means(sweep.quality)).set_index("beta"), at_the_end(sweep.quality)
        ),
        lambda sweep: plots_sweep.frontier(sweep.quality, extra=sweep.quality.assign(beta=0.3)),
        lambda sweep: plots_sweep.overfit(sweep.curves, sweep.quality, sweep.quality["beta"].min()),
    ],
)
def test_figures_are_drawn_from_the_shipped_and_from_a_small_sweep(figure, shipped, small):
    for sweep in (shipped, small):
        assert plots.png(figure(sweep)).startswith(b"\x89PNG")


def test_the_lab_shows_the_numbers_and_replies_of_the_chosen_beta(shipped, monkeypatch):
    made = []
    monkeypatch.setattr("toylib.widgets.beta_lab.show_live", lambda *shown: made.append(shown))
    widgets_lab.beta_lab(shipped, beta=0.1)
    (live, picture, alt) = made[0]
    positions = re.findall(r"<span>β = ([\d.]+)</span>(.*?)</div>", live)
    tables = re.findall(r"<table.*?</table>", live)
    assert 'aria-valuetext="β = 0.1"' in live and len(positions) == len(tables)
    for beta in (0.02, 5.0):
        at = [float(one) for one, _ in positions].index(beta)
        numbers, shown = positions[at][1], html.unescape(tables[at])
        last = shipped.quality[(shipped.quality["beta"] == beta) & (shipped.quality["step"] == 160)].mean(
            numeric_only=True
        )
        mine = shipped.replies[(shipped.replies["beta"] == beta) & (shipped.replies["seed"] == 0)]
        assert f"KL = {last['kl']:.2f} nats" in numbers and f"win rate {last['win']:.2f}" in numbers
        assert all(reply.strip() in shown for reply in mine["reply"])
    assert picture.startswith(b"\x89PNG") and "β 0.02" in alt and "win rate" in alt


def test_a_beta_that_was_not_trained_is_refused(shipped):
    with pytest.raises(ValueError, match=r"β = 0.3 is not in this sweep; it has 0\.02"):
        widgets_lab.beta_lab(shipped, beta=0.3)


def test_replies_cannot_break_the_page(small):
    table = small.replies.assign(reply="<b>no</b>", prompt="Customer: <i>\nAgent:")
    assert "<b>" not in widgets_lab.reply_table(table) and "&lt;b&gt;no" in widgets_lab.reply_table(table)


def test_the_script_that_made_the_sweep_is_the_one_the_data_card_names():
    assert (ROOT / "data" / "sweep.py").is_file() and "data/sweep.py" in (ROOT / "data" / "README.md").read_text()
