"""The broken variants of notebook 06 break what they are said to break, and nothing else."""

import ast
import math

import nbformat
import pandas
import pytest
import torch
from conftest import ROOT
from test_shown_once import shown
from tiny import PAIRS, one_sentence, tiny_model, tiny_tokenizer

from toylib import claim, dpo_loss, frozen_copy, train_dpo
from toylib.labs import failures
from toylib.labs.failure_runs import Study
from toylib.labs.failures import (
    cached_reference,
    flip_labels,
    implicit_accuracy,
    leave_dropout_on,
    longer_chosen,
    mean_score,
    own_reference,
    own_reference_with_gradient,
    pads_counted,
    prompt_counted,
    right_score,
    run_dpo,
    without_eos,
    without_shift,
)
from toylib.plots import failures as plots_failures
from toylib.plots.training import in_nats
from toylib.tokens import collate, tokenize_pairs

ROWS = tokenize_pairs(PAIRS, tiny_tokenizer())
MODEL = tiny_model(dtype=torch.float64)
POLICY = tiny_model(seed=1, dtype=torch.float64)


def delta(score, rows=ROWS):
    """Δ of each pair under two unlike models."""
    with torch.no_grad():
        ours, theirs = (torch.stack(score(model, rows)) for model in (POLICY, MODEL))
    return (ours - theirs)[0] - (ours - theirs)[1]


# ---- the loop ----


def test_with_nothing_broken_the_loop_is_train_dpo():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    settings = {"beta": 0.2, "learning_rate": 1e-3, "steps": 5, "batch_size": 2, "seed": 3}
    ours, history = run_dpo(model, ROWS, cached_reference(frozen_copy(model), ROWS), **settings)
    theirs, log = train_dpo(model, tokenizer, PAIRS, **settings)
    assert all(torch.allclose(a, b, atol=2e-5) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert history["loss"].tolist() == pytest.approx(log["loss"].tolist(), abs=1e-4)
    assert history["rewards/chosen"].tolist() == pytest.approx(log["rewards/chosen"].tolist(), abs=1e-4)
    assert list(history.columns) == [*log.columns, "gradient"]
    assert any(not torch.equal(a, b) for a, b in zip(ours.parameters(), model.parameters(), strict=True))


def test_the_loop_that_notebook_06_shows_is_the_one_it_imports():
    reference = cached_reference(MODEL, ROWS)
    open_dpo = shown("06", "open_dpo")
    by_hand = open_dpo(MODEL, ROWS, right_score, reference, beta=0.5, learning_rate=1e-3, steps=4, batch_size=2)
    policy, _ = run_dpo(MODEL, ROWS, reference, beta=0.5, learning_rate=1e-3, steps=4, batch_size=2)
    assert all(torch.equal(a, b) for a, b in zip(by_hand.parameters(), policy.parameters(), strict=True))


def test_a_reference_that_was_scored_once_answers_in_any_order():
    reference = cached_reference(MODEL, ROWS, batch_size=3)
    with torch.no_grad():
        there = torch.stack(right_score(MODEL, ROWS[::-1]))
    assert torch.allclose(torch.stack(reference(POLICY, ROWS[::-1])), there, atol=1e-9), "whoever asks"


def test_on_step_gets_what_train_dpo_gives_it_and_an_interrupt_keeps_what_was_trained(capsys):
    model, seen = tiny_model(), []

    def stop(step, metrics, policy):
        seen.append(metrics | {"step": step})
        metrics["kl"] = 0.5
        if step == 2:
            raise KeyboardInterrupt

    policy, history = run_dpo(model, ROWS, cached_reference(model, ROWS), steps=3, batch_size=2, on_step=stop)
    assert list(history.index) == [1] and history["kl"].tolist() == [0.5]
    assert [line["step"] for line in seen] == [1, 2] and "after 1 of 3 steps" in capsys.readouterr().out
    assert any(not torch.equal(a, b) for a, b in zip(policy.parameters(), model.parameters(), strict=True))


def test_a_loss_that_is_not_finite_stops_the_loop_and_names_the_step():
    def broken(model, rows):
        return [logps * math.nan for logps in right_score(model, rows)]

    with pytest.raises(FloatingPointError, match="step 1, rows") as caught:
        run_dpo(tiny_model(), ROWS, cached_reference(tiny_model(), ROWS), score=broken, steps=2, batch_size=2)
    one_sentence(caught)


@pytest.mark.parametrize(
    "change, told", [({"steps": 2.5}, "steps"), ({"batch_size": 0}, "batch_size"), ({"beta": 0}, "beta")]
)
def test_settings_that_cannot_be_used_are_refused_by_name(change, told):
    with pytest.raises(ValueError, match=told) as caught:
        run_dpo(tiny_model(), ROWS, own_reference_with_gradient, **change)
    one_sentence(caught)


def test_only_weights_that_require_a_gradient_in_the_model_are_trained():
    model, reference = tiny_model().requires_grad_(False), cached_reference(tiny_model(), ROWS)
    with pytest.raises(ValueError, match="no weight of the model requires a gradient") as caught:
        run_dpo(model, ROWS, reference, steps=1)
    one_sentence(caught)
    model.model.norm.weight.requires_grad_(True)
    policy, _ = run_dpo(model, ROWS, reference, steps=2, batch_size=2)
    after = dict(policy.named_parameters())
    changed = [name for name, weight in model.named_parameters() if not torch.equal(weight, after[name])]
    assert changed == ["model.norm.weight"]


def test_log_ratios_in_nats_are_rewards_without_beta():
    _, history = run_dpo(tiny_model(), ROWS, cached_reference(tiny_model(), ROWS), beta=0.2, steps=2, batch_size=2)
    nats = pandas.DataFrame(in_nats(history, 0.2))
    assert list(nats.columns) == ["chosen", "rejected", "margin", "loss", "accuracy", "gradient"]
    assert (0.2 * nats["margin"]).tolist() == pytest.approx(history["rewards/margins"].tolist())
    assert nats["loss"].equals(history["loss"])


# ---- the reference ----


def test_tied_to_the_policy_the_loss_is_ln2_and_the_gradient_exactly_zero():
    policy = tiny_model(seed=1).requires_grad_(True)
    logps = right_score(policy, ROWS)
    loss = dpo_loss(*logps, *logps, beta=0.5).losses.mean()
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert all((p.grad == 0).all() for p in policy.parameters())


def test_tied_by_a_second_forward_pass_only_rounding_is_left_of_the_gradient():
    _, tied = run_dpo(tiny_model(), ROWS, own_reference_with_gradient, steps=1, batch_size=4)
    _, right = run_dpo(tiny_model(), ROWS, cached_reference(tiny_model(), ROWS), steps=1, batch_size=4)
    assert tied["gradient"].iloc[0] < 1e-5 and right["gradient"].iloc[0] > 1e-2


def test_synced_the_loss_stays_at_ln2_while_the_policy_moves():
    model = tiny_model()
    policy, history = run_dpo(model, ROWS, own_reference, steps=5, batch_size=4, learning_rate=1e-2)
    assert history["loss"].tolist() == pytest.approx([math.log(2)] * 5, abs=1e-6)
    assert (history["gradient"] > 1e-2).all() and (history["rewards/accuracies"] == 0).all()
    assert implicit_accuracy(policy, model, ROWS) == 1


# ---- scores ----


def test_the_prompt_cancels_in_delta_with_sums_and_not_with_means():
    assert torch.allclose(delta(prompt_counted), delta(right_score), atol=1e-9)
    by_mean = delta(lambda model, rows: prompt_counted(model, rows, average=True))
    assert not torch.allclose(by_mean, delta(mean_score), atol=1e-3)
    with torch.no_grad():
        counted, right = (torch.stack(score(MODEL, ROWS)) for score in (prompt_counted, right_score))
    assert (counted < right - 1).all(), "the logged log-probs do change"


def test_pads_make_a_pairs_delta_depend_on_its_neighbours():
    alone = torch.cat([delta(pads_counted, [row]) for row in ROWS])
    together = delta(pads_counted)
    assert (alone - together).abs().max() > 1e-2
    assert torch.allclose(torch.cat([delta(right_score, [row]) for row in ROWS]), delta(right_score), atol=1e-9)


def test_pads_counted_is_right_where_there_is_no_padding():
    row = ROWS[0] | {"rejected": ROWS[0]["chosen"][:-1][::-1] + ROWS[0]["chosen"][-1:]}
    assert torch.allclose(delta(pads_counted, [row]), delta(right_score, [row]), atol=1e-9)


def test_without_the_shift_each_token_is_scored_after_it_was_seen():
    with torch.no_grad():
        chosen, _ = without_shift(MODEL, ROWS[:1])
        batch = collate(ROWS[:1], failures.PAD)
        logps = MODEL(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)
    start, reply = len(ROWS[0]["prompt"]), ROWS[0]["chosen"]
    by_hand = sum(logps[0, start + i, token].item() for i, token in enumerate(reply))
    assert chosen.item() == pytest.approx(by_hand) and chosen.item() != pytest.approx(
        right_score(MODEL, ROWS[:1])[0].item()
    )


def test_means_are_sums_over_the_number_of_tokens():
    with torch.no_grad():
        sums, means = right_score(MODEL, ROWS), mean_score(MODEL, ROWS)
    for total, mean, name in zip(sums, means, ("chosen", "rejected"), strict=True):
        assert torch.allclose(mean * torch.tensor([len(row[name]) for row in ROWS]), total)


def test_dropout_makes_step_zero_differ_from_ln2():
    model, reference = tiny_model(), cached_reference(tiny_model(), ROWS)
    _, history = run_dpo(model, ROWS, reference, steps=1, batch_size=4, dropout=0.2)
    _, right = run_dpo(model, ROWS, reference, steps=1, batch_size=4)
    assert abs(history["loss"].iloc[0] - math.log(2)) > 1e-3
    assert right["loss"].iloc[0] == pytest.approx(math.log(2), abs=1e-5)
    assert not model.training
    leave_dropout_on(model, 0.2)
    assert model.training and model.model.layers[0].self_attn.attention_dropout == 0.2


# ---- pairs ----


def test_flipping_swaps_exactly_the_share_asked_for_and_more_flips_include_fewer():
    rows = [{"number": i, "prompt": [1], "chosen": [2], "rejected": [3]} for i in range(100)]

    def flipped(share, seed=0):
        return {
            row["number"] for row in flip_labels(rows, share, seed) if row["chosen"] == [3] and row["rejected"] == [2]
        }

    assert [len(flipped(share)) for share in (0.0, 0.1, 0.5)] == [0, 10, 50]
    assert flipped(0.1) < flipped(0.5) and flipped(0.1) != flipped(0.1, seed=1)
    in_order = flip_labels(rows, 0.02, order=[7, 3, 1])
    assert [row["number"] for row in in_order if row["chosen"] == [3]] == [3, 7]


def test_a_reference_scored_once_knows_replies_that_were_turned_round_and_no_others():
    reference, flipped = cached_reference(MODEL, ROWS), flip_labels(ROWS, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(reference(None, ROWS), reference(None, flipped)[::-1], strict=True))
    with pytest.raises(KeyError):
        reference(None, [ROWS[0] | {"chosen": ROWS[1]["chosen"]}])


def test_without_eos_no_reply_ends_in_the_end_of_sequence_token():
    eos = ROWS[0]["chosen"][-1]
    for row, cut in zip(ROWS, without_eos(ROWS), strict=True):
        assert cut["chosen"] + [eos] == row["chosen"] and cut["rejected"] + [eos] == row["rejected"]


def test_the_hurried_labeller_chooses_the_longer_reply_and_changes_nothing_else():
    labelled = longer_chosen(ROWS)
    assert all(len(row["chosen"]) >= len(row["rejected"]) for row in labelled)
    assert any(new["chosen"] == row["rejected"] for new, row in zip(labelled, ROWS, strict=True))
    for new, row in zip(labelled, ROWS, strict=True):
        assert sorted([new["chosen"], new["rejected"]]) == sorted([row["chosen"], row["rejected"]])
        assert new["prompt"] == row["prompt"]


# ---- comparing ----


# ---- figures ----


def test_two_runs_are_told_apart_by_more_than_colour():
    run = pandas.DataFrame({"loss": [0.7, 0.6], "win": [0.5, math.nan]}, index=[1, 2])
    for axis in plots_failures.run_curves({"right": run, "broken": run}, ["loss", "win"]).axes:
        right, broken = axis.get_lines()[:2]
        assert right.get_linestyle() != broken.get_linestyle() and right.get_color() != broken.get_color()


# ---- the claims of notebook 06 ----


def claim_cell(name):
    """What notebook 06 says from the claim before `name` up to and with it."""
    path = next((ROOT / "notebooks").glob("06_*.ipynb"))
    source = next(cell.source for cell in nbformat.read(path, 4).cells if f'"{name}",' in cell.source)
    kept = []
    for statement in ast.parse(source).body:
        kept.append(ast.get_source_segment(source, statement))
        if f'"{name}",' in kept[-1]:
            return "\n".join(kept)
        kept = [] if kept[-1].startswith("claim(") else kept


def shipped(name, change):
    """A shipped study whose table went through `change`."""
    study = Study(name)
    study.table = change(study.table)
    return study


@pytest.mark.parametrize("contrary", [False, True])
def test_the_claim_on_flipped_labels_fails_when_the_study_says_otherwise(contrary, capsys):
    def the_more_flips_the_better(table):
        return table.assign(flipped=(0.5 - table["flipped"]).round(1))

    flips = shipped("flips", the_more_flips_the_better if contrary else lambda table: table)
    steps = {share: flips.seeds("plain", "win", 80, share).mean() for share in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)}
    scope = {"flips": flips, "EQUAL_KL": 0.5, "by_share": pandas.DataFrame({"steps": steps}), "claim": claim}
    if contrary:
        with pytest.raises(AssertionError, match="^✗ "):
            exec(claim_cell("C20"), scope)  # noqa: S102 (our own notebook)
        assert not capsys.readouterr().out
    else:
        exec(claim_cell("C20"), scope)  # noqa: S102
        assert capsys.readouterr().out.startswith("✓ ")


@pytest.mark.parametrize("contrary", [False, True])
def test_the_claim_on_length_fails_when_the_study_says_otherwise(contrary, capsys):
    def balanced_pairs_taught_length(table):
        swap = {"confounded, sum": "balanced, sum", "balanced, sum": "confounded, sum"}
        return table.assign(run=table["run"].replace(swap))

    names = [f"{pairs}, {kind}" for pairs in ("confounded", "balanced") for kind in ("sum", "mean")]
    study = shipped("failures", balanced_pairs_taught_length if contrary else lambda table: table)
    scope = {"claim": claim, "study": study, "names": names}
    if contrary:
        with pytest.raises(AssertionError, match="^✗ "):
            exec(claim_cell("D07"), scope)  # noqa: S102
    else:
        exec(claim_cell("D07"), scope)  # noqa: S102
        assert capsys.readouterr().out.startswith("✓ ")


def test_a_run_that_the_study_does_not_have_is_named():
    with pytest.raises(KeyError, match="no run 'β too low'"):
        Study("failures").run("β too low")
