"""A claim that holds is printed; one that does not stops the notebook."""

import numpy
import pytest
import torch

from toylib import claim


@pytest.mark.parametrize("holds", [True, 1, numpy.bool_(True), torch.tensor(True), torch.tensor([2.0]).gt(1)])
def test_a_claim_that_holds_is_printed_with_its_evidence(holds, capsys):
    assert claim("C01", "the loss at step 0 is ln 2", holds, "0.6931") is None
    out = capsys.readouterr().out
    assert out == "✓ the loss at step 0 is ln 2\n  0.6931\n"


def test_a_claim_without_evidence_is_one_line(capsys):
    claim("C01", "it is so", bool(numpy))
    assert capsys.readouterr().out == "✓ it is so\n"


@pytest.mark.parametrize("holds", [False, 0, None, numpy.bool_(False), torch.tensor(False), []])
def test_a_claim_that_does_not_hold_raises_and_prints_nothing(holds, capsys):
    with pytest.raises(AssertionError) as caught:
        claim("C02", "twice two is five", holds, "4")
    assert str(caught.value) == "✗ twice two is five\n  4"
    assert capsys.readouterr().out == ""


def test_a_claim_cannot_be_made_of_several_answers_at_once():
    for several in (numpy.array([True, False]), torch.tensor([True, True])):
        with pytest.raises((ValueError, RuntimeError)):
            claim("C03", "all of them", several)
