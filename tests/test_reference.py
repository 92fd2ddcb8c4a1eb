"""The frozen reference, and the fingerprint that proves it stayed so."""

import copy

import pytest
import torch
from tiny import padded, random_sequences, tiny_model
from transformers import AutoModelForCausalLM

from toylib import fingerprint, frozen_copy, sequence_logps
from toylib.reference import shares_storage

BATCH = padded(random_sequences(3))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frozen_copy_is_the_same_model_in_its_own_memory(dtype, tied):
    model = tiny_model(dtype=dtype, tie_word_embeddings=tied).train()
    copied = frozen_copy(model)
    assert fingerprint(copied) == fingerprint(model) and not shares_storage(model, copied)
    assert copied.dtype == dtype and not copied.training and model.training
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert (copied.lm_head.weight is copied.model.embed_tokens.weight) == tied
    buffers = {buffer.untyped_storage().data_ptr() for buffer in model.buffers()}
    assert buffers and not any(buffer.untyped_storage().data_ptr() in buffers for buffer in copied.buffers())


def test_a_frozen_copy_stays_when_the_model_moves():
    model = tiny_model()
    copied, before = frozen_copy(model), sequence_logps(model, **BATCH).detach()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sequence_logps(model, **BATCH).sum().backward()
    optimizer.step()
    assert not torch.allclose(sequence_logps(model, **BATCH), before)
    assert torch.equal(sequence_logps(copied, **BATCH), before)


def test_a_frozen_copy_has_no_dropout():
    copied = frozen_copy(tiny_model(attention_dropout=0.5).train())
    assert torch.equal(sequence_logps(copied, **BATCH), sequence_logps(copied, **BATCH))


@pytest.mark.parametrize(
    "settings",
    [
        {"init_lora_weights": False},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": False, "modules_to_save": ["lm_head"]},
        {"init_lora_weights": False, "use_dora": True},
    ],
)
def test_a_frozen_copy_of_a_peft_model_computes_what_the_model_computes_now(settings):
    peft = pytest.importorskip("peft", reason="peft is not installed, so there is no adapter to copy")
    adapted = peft.get_peft_model(
        tiny_model(tie_word_embeddings=False), peft.LoraConfig(r=2, target_modules=["q_proj"], **settings)
    )
    with adapted.disable_adapter():
        base = sequence_logps(adapted, **BATCH).detach()
    before = sequence_logps(adapted, **BATCH).detach()
    assert not torch.allclose(before, base)
    copied = frozen_copy(adapted.train())
    assert torch.equal(sequence_logps(copied, **BATCH), before) and not shares_storage(adapted, copied)
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    sequence_logps(adapted, **BATCH).sum().backward()
    optimizer.step()
    assert not torch.allclose(sequence_logps(adapted, **BATCH), before)
    assert torch.equal(sequence_logps(copied, **BATCH), before)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fingerprint_survives_saving_and_loading(tmp_path, dtype, tied):
    model = tiny_model(dtype=dtype, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    assert fingerprint(loaded) == fingerprint(model)


def test_fingerprint_is_sixteen_hex_digits_and_leaves_the_model_alone():
    model = tiny_model()
    first = fingerprint(model)
    assert len(first) == 16 and int(first, 16) >= 0
    model.train()
    sequence_logps(model, **BATCH).sum().backward()
    assert fingerprint(model) == first == fingerprint(tiny_model())


def flip_one_bit(model):
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.view(torch.int32)[3, 2] ^= 1


def negate_a_zero(model):
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = -0.0


def swap_two_tensors(model):
    attention = model.model.layers[0].self_attn
    attention.q_proj, attention.k_proj = attention.k_proj, attention.q_proj


def change_a_dtype(model):
    model.model.norm.weight.data = model.model.norm.weight.data.double()


def reshape(model):
    model.model.norm.weight.data = model.model.norm.weight.data.reshape(4, 4)


@pytest.mark.parametrize("change", [flip_one_bit, negate_a_zero, swap_two_tensors, change_a_dtype, reshape])
def test_fingerprint_changes_with(change):
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 0.0
    before = fingerprint(model)
    change(model)
    assert fingerprint(model) != before


def test_fingerprint_tells_dtypes_with_the_same_bytes_apart():
    prints = set()
    for dtype in (torch.float32, torch.int32):
        module = torch.nn.Module()
        module.register_buffer("zeros", torch.zeros(3, dtype=dtype))
        prints.add(fingerprint(module))
    assert len(prints) == 2


def test_shared_storage_is_found_whatever_shares_it():
    model = tiny_model()
    view = copy.deepcopy(model)
    view.model.layers[1].mlp.up_proj.weight = torch.nn.Parameter(model.model.layers[1].mlp.up_proj.weight[:, :])
    assert shares_storage(model, model) and shares_storage(model, view) and shares_storage(model, copy.copy(model))
    assert not shares_storage(model, copy.deepcopy(model))
