"""The DPO loss against arithmetic written independently, in plain Python floats."""

import math
import subprocess
import sys

import pytest
import torch
from tiny import one_sentence

from toylib import dpo_loss
from toylib.loss import gradient_weight

DELTAS = [-40.0, -3.3, -0.7, 0.0, 1e-4, 0.9, 2.2, 17.0]
SETTINGS = [("sigmoid", 0.0), ("sigmoid", 0.25), ("robust", 0.0), ("robust", 0.25), ("hinge", 0.0), ("ipo", 0.0)]
SETTINGS += [("apo_zero", 0.0), ("apo_down", 0.0)]


def log_sigmoid(x):
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def by_hand(delta, beta, loss_type, eps):
    """Each loss from its formula in the papers; no torch."""
    z = beta * delta
    if loss_type == "sigmoid":
        return -(1 - eps) * log_sigmoid(z) - eps * log_sigmoid(-z)
    if loss_type == "robust":
        return (-(1 - eps) * log_sigmoid(z) + eps * log_sigmoid(-z)) / (1 - 2 * eps)
    if loss_type.startswith("apo"):
        chosen, rejected = 0.4 * z, -0.6 * z  # β · log-ratios, as `four` splits Δ
        return sigma(-chosen) + sigma(rejected) if loss_type == "apo_zero" else sigma(chosen) + sigma(-z)
    return max(0.0, 1 - z) if loss_type == "hinge" else (delta - 1 / (2 * beta)) ** 2


def sigma(x):
    return math.exp(log_sigmoid(x))


def slope_by_hand(delta, beta, loss_type, eps):
    """Derivative of each loss that depends on Δ alone with respect to Δ."""
    z = beta * delta
    falling, rising = beta / (1 + math.exp(z)), beta / (1 + math.exp(-z))
    if loss_type == "sigmoid":
        return -(1 - eps) * falling + eps * rising
    if loss_type == "robust":
        return (-(1 - eps) * falling - eps * rising) / (1 - 2 * eps)
    return (-beta if z < 1 else 0.0) if loss_type == "hinge" else 2 * (delta - 1 / (2 * beta))


def four(deltas, dtype=torch.float64):
    """Four log-probs whose Δ is the given one, with log-ratios that are not each other's mirror."""
    deltas = torch.tensor(deltas, dtype=dtype)
    ref_chosen, ref_rejected = torch.full_like(deltas, -3.0), torch.full_like(deltas, -3.2)
    return ref_chosen + 0.4 * deltas, ref_rejected - 0.6 * deltas, ref_chosen, ref_rejected


@pytest.mark.parametrize(
    ("beta", "z", "sigma", "loss", "weight"),
    [(0.01, 0.022, 0.5055, 0.6822, 0.0049), (0.1, 0.22, 0.5548, 0.5892, 0.0445), (0.3, 0.66, 0.6593, 0.4166, 0.1022)]
    + [(0.5, 1.10, 0.7503, 0.2873, 0.1249), (1.0, 2.20, 0.9002, 0.1051, 0.0998)],
)
def test_worked_example(beta, z, sigma, loss, weight):
    inputs = [torch.tensor([value], requires_grad=True) for value in (-2.1, -4.5, -3.0, -3.2)]
    result = dpo_loss(*inputs, beta=beta)
    margin = (result.chosen_rewards - result.rejected_rewards).item()
    assert margin == pytest.approx(z, abs=1e-6)
    assert result.losses.item() == pytest.approx(loss, abs=5e-5)
    assert torch.sigmoid(torch.tensor(margin)).item() == pytest.approx(sigma, abs=5e-5)
    assert result.chosen_rewards.item() == pytest.approx(0.9 * beta, abs=1e-6)
    assert result.rejected_rewards.item() == pytest.approx(-1.3 * beta, abs=1e-6)
    result.losses.sum().backward()
    assert inputs[0].grad.item() == pytest.approx(-weight, abs=5e-5)
    assert inputs[1].grad.item() == pytest.approx(weight, abs=5e-5)


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5, 3.0])
@pytest.mark.parametrize(("loss_type", "eps"), SETTINGS)
def test_loss_equals_its_formula(loss_type, eps, beta):
    losses = dpo_loss(*four(DELTAS), beta=beta, loss_type=loss_type, label_smoothing=eps).losses
    expected = [by_hand(delta, beta, loss_type, eps) for delta in DELTAS]
    assert losses.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("loss_type", "eps"), [one for one in SETTINGS if not one[0].startswith("apo")])
def test_gradient_equals_its_formula_and_has_one_sign_per_reply(loss_type, eps):
    inputs = [tensor.requires_grad_(True) for tensor in four(DELTAS)]
    dpo_loss(*inputs, beta=0.3, loss_type=loss_type, label_smoothing=eps).losses.sum().backward()
    slopes = [slope_by_hand(delta, 0.3, loss_type, eps) for delta in DELTAS]
    for tensor, sign in zip(inputs, (1, -1, -1, 1), strict=True):
        assert tensor.grad.tolist() == pytest.approx([sign * slope for slope in slopes], abs=1e-9)


def test_gradient_weight_is_beta_sigma_of_minus_z():
    delta = torch.tensor(DELTAS, dtype=torch.float64)
    for beta in (0.01, 0.1, 2.0):
        expected = [-slope_by_hand(value, beta, "sigmoid", 0.0) for value in DELTAS]
        assert gradient_weight(delta, beta).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("loss_type", "expected"), [("sigmoid", math.log(2)), ("robust", math.log(2)), ("hinge", 1.0)])
def test_step_zero_loss(loss_type, expected):
    same = torch.tensor([-2.1, -300.0]), torch.tensor([-4.5, -0.5])
    assert dpo_loss(*same, *same, loss_type=loss_type).losses.tolist() == pytest.approx([expected] * 2, abs=1e-6)
    assert dpo_loss(*same, *same, label_smoothing=0.3).losses.tolist() == pytest.approx([math.log(2)] * 2, abs=1e-6)


@pytest.mark.parametrize(("loss_type", "eps"), [("sigmoid", 0.0), ("sigmoid", 0.1), ("sigmoid", 0.45), ("ipo", 0.0)])
def test_loss_equals_the_original_implementation(loss_type, eps):
    """`preference_loss` of the DPO authors' code, from its formula: logits = π log-ratios − reference log-ratios."""
    generator = torch.Generator().manual_seed(0)
    pc, pr, rc, rr = (-50 * torch.rand(64, generator=generator, dtype=torch.float64) for _ in range(4))
    logits = (pc - pr) - (rc - rr)
    if loss_type == "ipo":
        theirs = (logits - 1 / (2 * 0.1)).square()
    else:
        theirs = -torch.log(torch.sigmoid(0.1 * logits)) * (1 - eps) - torch.log(torch.sigmoid(-0.1 * logits)) * eps
    ours = dpo_loss(pc, pr, rc, rr, beta=0.1, loss_type=loss_type, label_smoothing=eps)
    torch.testing.assert_close(ours.losses, theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.chosen_rewards, 0.1 * (pc - rc), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.rejected_rewards, 0.1 * (pr - rr), rtol=1e-12, atol=1e-12)


def test_rewards_carry_beta_and_no_gradient():
    inputs = [tensor.requires_grad_(True) for tensor in four([2.2])]
    result = dpo_loss(*inputs, beta=0.5)
    assert result.losses.requires_grad
    assert not result.chosen_rewards.requires_grad and not result.rejected_rewards.requires_grad


@pytest.mark.parametrize(
    ("loss_type", "chosen_sign", "expected"),
    # β = 1 on the worked example, whose log-ratios are +0.9 and −1.3: σ(−0.9) + σ(−1.3), and σ(0.9) + σ(−2.2)
    [("apo_zero", -1, 0.2891 + 0.2142), ("apo_down", 1, 0.7109 + 0.0998)],
)
def test_apo_pushes_each_reply_on_its_own(loss_type, chosen_sign, expected):
    inputs = [torch.tensor([value], requires_grad=True) for value in (-2.1, -4.5, -3.0, -3.2)]
    losses = dpo_loss(*inputs, beta=1.0, loss_type=loss_type).losses
    assert losses.item() == pytest.approx(expected, abs=1e-4)
    losses.sum().backward()
    assert inputs[0].grad.item() * chosen_sign > 0 and inputs[1].grad.item() > 0


def test_result_is_a_named_tuple_with_one_number_a_pair():
    result = dpo_loss(*four([1.0, 2.0, 3.0]))
    assert result._fields == ("losses", "chosen_rewards", "rejected_rewards")
    assert all(tensor.shape == (3,) for tensor in result)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("delta", [-1e5, 1e5])
@pytest.mark.parametrize(("loss_type", "eps"), SETTINGS)
def test_extreme_delta_keeps_loss_and_gradient_finite(loss_type, eps, delta, dtype):
    inputs = [tensor.requires_grad_(True) for tensor in four([delta], dtype)]
    losses = dpo_loss(*inputs, beta=1.0, loss_type=loss_type, label_smoothing=eps).losses
    losses.sum().backward()
    assert losses.isfinite().all() and all(tensor.grad.isfinite().all() for tensor in inputs)


def test_robust_is_unbiased_under_flips_and_unbounded_below():
    eps, (chosen, rejected, *reference) = 0.2, four([1.7])
    clean = dpo_loss(chosen, rejected, *reference).losses
    kept = dpo_loss(chosen, rejected, *reference, loss_type="robust", label_smoothing=eps).losses
    flipped = dpo_loss(rejected, chosen, *reference[::-1], loss_type="robust", label_smoothing=eps).losses
    torch.testing.assert_close((1 - eps) * kept + eps * flipped, clean)
    assert dpo_loss(*four([1e4]), loss_type="robust", label_smoothing=eps).losses.item() < -100


@pytest.mark.parametrize(
    "beta", [0, 0.0, -0.1, math.nan, math.inf, -math.inf, "0.1", None, True, torch.tensor([0.1, 0.2])]
)
def test_beta_that_is_no_positive_number_is_refused_and_named(beta):
    with pytest.raises(ValueError) as caught:
        dpo_loss(*four([1.0]), beta=beta)
    assert "beta" in one_sentence(caught) and repr(beta) in one_sentence(caught)


@pytest.mark.parametrize(
    ("loss_type", "eps"),
    [("sigmoid", e) for e in (-0.1, 0.5, 1.0, math.nan, "0.1", None, True)] + [("hinge", 0.1), ("ipo", 0.1)],
)
def test_label_smoothing_out_of_range_or_place_is_refused_and_named(loss_type, eps):
    with pytest.raises(ValueError) as caught:
        dpo_loss(*four([1.0]), loss_type=loss_type, label_smoothing=eps)
    assert "label_smoothing" in one_sentence(caught) and repr(eps) in one_sentence(caught)


@pytest.mark.parametrize("loss_type", ["dpo", "", None, "SIGMOID", ["sigmoid"]])
def test_unknown_loss_type_is_refused_with_the_known_ones(loss_type):
    with pytest.raises(ValueError) as caught:
        dpo_loss(*four([1.0]), loss_type=loss_type)
    said = one_sentence(caught)
    assert repr(loss_type) in said and "sigmoid, robust, hinge, ipo, apo_zero, apo_down" in said


@pytest.mark.parametrize("which", range(4))
def test_shapes_that_would_broadcast_are_refused_and_named(which):
    inputs = list(four([1.0, 2.0]))
    inputs[which] = inputs[which][:1]
    with pytest.raises(ValueError) as caught:
        dpo_loss(*inputs)
    assert "(1,)" in one_sentence(caught) and "(2,)" in one_sentence(caught)


def test_import_toylib_loads_nothing_heavy():
    code = (
        "import sys, toylib, toylib.evaluation.judge, toylib.replies\n"
        "heavy = {'transformers', 'datasets', 'matplotlib', 'pandas', 'ipywidgets', 'trl', 'accelerate'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
