"""What a notebook writes out and toylib keeps are held together: the notebook's own code is run and compared."""

import ast
import copy
import json
import math

import pytest
import torch
from conftest import ROOT
from tiny import PAIRS, padded, random_sequences, tiny_model, tiny_tokenizer

from toylib import dpo_loss, frozen_copy, sequence_logps, train_dpo
from toylib.labs import relatives
from toylib.loss import gradient_weight
from toylib.tokens import collate, tokenize_pairs
from toylib.train import batches


def shown(notebook, name):
    """The function `name` as notebook `notebook` defines it, with only what it may use in scope."""
    path = next((ROOT / "notebooks").glob(f"{notebook}_*.ipynb"))
    scope = {
        "torch": torch,
        "F": torch.nn.functional,
        "math": math,
        "copy": copy,
        "frozen_copy": frozen_copy,
        "batches": batches,
    }
    scope |= {
        "tokenize_pairs": tokenize_pairs,
        "collate": collate,
        "sequence_logps": sequence_logps,
        "dpo_loss": dpo_loss,
    }
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and f"def {name}(" in source:
            defined = [
                node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name
            ]
            exec(compile(ast.Module(defined, []), path.name, "exec"), scope)  # noqa: S102 (our own notebook)
            return scope[name]
    pytest.fail(f"{path.name} no longer defines {name}")


def test_the_loss_of_notebook_01_is_toylibs():
    four = torch.randn(4, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5
    for beta in (0.05, 0.1, 1.0):
        assert torch.allclose(shown("01", "dpo_loss_by_hand")(*four, beta=beta), dpo_loss(*four, beta=beta).losses)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_sequence_logps_of_notebook_02_are_toylibs(side, dtype):
    model = tiny_model(dtype=dtype)
    batch = padded(random_sequences(6), side=side)
    assert torch.allclose(shown("02", "my_sequence_logps")(model, **batch), sequence_logps(model, **batch), atol=1e-4)


def test_the_loop_of_notebook_04_is_toylibs():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    by_hand = shown("04", "dpo_steps")(model, tokenizer, PAIRS, 0.2, 1e-2, steps=5, batch_size=2, seed=3)
    policy, _ = train_dpo(model, tokenizer, PAIRS, beta=0.2, learning_rate=1e-2, steps=5, batch_size=2, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(by_hand.parameters(), policy.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(by_hand.parameters(), model.parameters(), strict=True))


def test_the_gradient_weight_is_beta_times_sigma_of_minus_beta_delta():
    deltas = torch.linspace(-5, 5, 21, dtype=torch.float64)
    for beta in (0.1, 1.0):
        by_hand = torch.tensor([beta / (1 + math.exp(beta * delta)) for delta in deltas], dtype=torch.float64)
        assert torch.allclose(gradient_weight(deltas, beta), by_hand)


def test_the_losses_of_notebook_08_are_toylibs():
    chosen, rejected, ref_chosen, ref_rejected = -20 * torch.rand(4, 6, generator=torch.Generator().manual_seed(0)) - 1
    lengths = torch.arange(3, 9), torch.arange(5, 11)
    kl = torch.tensor(0.7)
    for i in range(6):
        one = slice(i, i + 1)
        batch = relatives.Scored(*(t[one] for t in (chosen, rejected, ref_chosen, ref_rejected, *lengths)), kl)
        for name in ("simpo", "orpo"):
            by_hand = shown("08", name)(*batch[:2], *batch[4:6])
            assert torch.allclose(by_hand, relatives.METHODS[name](batch), atol=1e-5), name
        kto = shown("08", "kto")
        by_hand = kto(batch.chosen - batch.ref_chosen, True, kl), kto(batch.rejected - batch.ref_rejected, False, kl)
        assert torch.allclose(torch.cat(by_hand), relatives.kto(batch), atol=1e-6)
