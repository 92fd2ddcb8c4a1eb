"""Log-probs against a loop over single tokens and against a full listing; padding, order and batch size must not matter."""

import itertools
import math

import pytest
import torch
import transformers
from tiny import one_sentence, padded, random_sequences, slow_logp, tiny_model

from toylib import sequence_logps
from toylib.logps import token_logps

SEQUENCES = random_sequences(8, seed=1)
SIZES = {"vocab_size": 24, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1, "initializer_range": 0.4}
LLAMA_LIKE = SIZES | {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
OTHERS = {
    "GPT2": SIZES | {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "GPTNeoX": LLAMA_LIKE | {"max_position_embeddings": 64, "hidden_dropout": 0.0, "attention_dropout": 0.0},
    "Qwen2": LLAMA_LIKE | {"num_key_value_heads": 1, "max_position_embeddings": 64},
}


def other_model(name):
    config = getattr(transformers, f"{name}Config")(**OTHERS[name])
    model_class = {"GPT2": transformers.GPT2LMHeadModel}.get(name) or getattr(transformers, f"{name}ForCausalLM")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model_class(config).double().eval()


def gradients(model, batch):
    model.zero_grad()
    sequence_logps(model, **batch).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(("attention", "room"), [("sdpa", 1e-9), ("eager", 1e-5)])  # eager's own softmax is fp32
def test_equals_a_loop_over_single_tokens_in_float64(attention, room):
    model = tiny_model(dtype=torch.float64, attn_implementation=attention)
    expected = [slow_logp(model, prompt, reply) for prompt, reply in SEQUENCES]
    for side in ("left", "right"):
        assert sequence_logps(model, **padded(SEQUENCES, side, extra=3)).tolist() == pytest.approx(expected, abs=room)


@pytest.mark.parametrize("side", ["left", "right"])
def test_fp32_is_right_to_a_millionth(side):
    model = tiny_model()
    ours = sequence_logps(model, **padded(SEQUENCES, side))
    assert ours.dtype == torch.float32
    exact = sequence_logps(model.double(), **padded(SEQUENCES, side))
    assert ours.tolist() == pytest.approx(exact.tolist(), rel=1e-6)


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_equal_the_loop_too(name):
    model = other_model(name)
    expected = [slow_logp(model, prompt, reply) for prompt, reply in SEQUENCES]
    for side in ("left", "right"):
        assert sequence_logps(model, **padded(SEQUENCES, side)).tolist() == pytest.approx(expected, abs=1e-9)


def test_probabilities_of_all_replies_of_one_length_sum_to_one():
    model = tiny_model(vocab_size=5, dtype=torch.float64)
    every = [([3, 2], list(reply)) for reply in itertools.product(range(5), repeat=4)]
    logps = sequence_logps(model, **padded(every))
    assert logps.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert logps.exp().max() > 5 * logps.exp().min()  # the model is not uniform, so the sum shows something


def test_batch_order_and_batch_size_do_not_matter():
    model = tiny_model(dtype=torch.float64)
    together = sequence_logps(model, **padded(SEQUENCES))
    backwards = sequence_logps(model, **padded(SEQUENCES[::-1])).flip(0)
    alone = torch.cat([sequence_logps(model, **padded([sequence])) for sequence in SEQUENCES])
    torch.testing.assert_close(backwards, together, rtol=0, atol=1e-9)
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-9)


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_stands_in_the_padding_does_not_matter(side):
    model = tiny_model(dtype=torch.float64)
    zeros, others = (sequence_logps(model, **padded(SEQUENCES, side, pad=pad, extra=5)) for pad in (0, 17))
    torch.testing.assert_close(zeros, others, rtol=0, atol=1e-12)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_and_the_same_on_either_padding_side(dtype, attention):
    model = tiny_model(dtype=dtype, attn_implementation=attention)
    left, right = (gradients(model, padded(SEQUENCES, side, extra=4)) for side in ("left", "right"))
    for name, grad in left.items():
        assert grad.isfinite().all() and right[name].isfinite().all(), name
        torch.testing.assert_close(grad, right[name], rtol=1e-4 if dtype == torch.float32 else 1e-9, atol=1e-4)


def test_gradient_equals_finite_differences():
    model, batch = other_model("GPT2"), padded(SEQUENCES, "left")  # Llama's norm is fp32 inside, too coarse for this
    weight, values = model.transformer.h[0].mlp.c_fc.weight, []
    slope = gradients(model, batch)["transformer.h.0.mlp.c_fc.weight"][3, 5].item()
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            weight[3, 5] += step
            values.append(sequence_logps(model, **batch).sum().item())
    assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


def test_only_masked_tokens_are_scored_and_the_shift_is_by_one():
    model, batch = tiny_model(dtype=torch.float64), padded([([4, 5, 6], [7, 8])])
    logp = model(input_ids=batch["input_ids"]).logits[0].log_softmax(dim=-1)
    expected = (logp[2, 7] + logp[3, 8]).item()
    assert sequence_logps(model, **batch).item() == pytest.approx(expected, abs=1e-12)
    off_by_one = (logp[3, 7] + logp[4, 8]).item()
    assert abs(expected - off_by_one) > 0.1
    torch.testing.assert_close(token_logps(model, batch["input_ids"], batch["attention_mask"])[0, 2], logp[2, 7])


def test_prompt_tokens_and_a_hole_in_the_completion_are_left_out():
    model, batch = tiny_model(dtype=torch.float64), padded([([4, 5], [6, 7, 8])])
    every = token_logps(model, batch["input_ids"], batch["attention_mask"])[0]
    batch["completion_mask"] = torch.tensor([[0, 0, 1, 0, 1]])
    assert sequence_logps(model, **batch).item() == pytest.approx((every[1] + every[3]).item(), abs=1e-12)


def test_average_divides_by_the_number_of_scored_tokens():
    model, batch = tiny_model(dtype=torch.float64), padded(SEQUENCES, "left")
    lengths = torch.tensor([len(reply) for _, reply in SEQUENCES])
    torch.testing.assert_close(sequence_logps(model, **batch, average=True), sequence_logps(model, **batch) / lengths)


def test_boolean_masks_do_as_well():
    model, batch = tiny_model(), padded(SEQUENCES, "left")
    booleans = {name: tensor if name == "input_ids" else tensor.bool() for name, tensor in batch.items()}
    torch.testing.assert_close(sequence_logps(model, **booleans), sequence_logps(model, **batch))


def test_bf16_model_gets_an_fp32_softmax():
    logps = sequence_logps(tiny_model(dtype=torch.bfloat16), **padded(SEQUENCES))
    assert logps.dtype == torch.float32 and logps.isfinite().all()
    assert any(value != torch.tensor(value).bfloat16().item() for value in logps.tolist())


def test_an_impossible_token_in_the_prompt_does_not_poison_the_sum():
    model = tiny_model()
    bias = torch.zeros(24)
    bias[9] = -math.inf
    model.lm_head.register_forward_hook(lambda module, args, logits: logits + bias)
    logps = sequence_logps(model, **padded([([9, 9, 4], [5, 6]), ([4], [5])]))
    assert logps.isfinite().all()


def test_mode_and_gradient_are_the_callers():
    model, batch = tiny_model(attention_dropout=0.5), padded(SEQUENCES)
    assert sequence_logps(model, **batch).requires_grad
    with torch.no_grad():
        assert not sequence_logps(model, **batch).requires_grad
    model.train()
    sequence_logps(model, **batch)
    assert model.training


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("completion_mask", [[0, 0, 1, 1], [0, 0, 0, 0]], "row 1 has no token to score"),
        ("completion_mask", [[1, 1, 1, 1], [0, 0, 1, 0]], "row 0 scores padding, or a first token"),
        ("completion_mask", [[0, 0, 1, 1], [0, 0, 1, 1]], "row 1 scores padding"),
        ("attention_mask", [[0, 0, 1, 1], [1, 1, 1, 0]], "row 0 scores padding, or a first token"),
        ("completion_mask", [[0, 0, 1], [0, 0, 1]], "(2, 3)"),
        ("attention_mask", [[1, 1, 1, 1]], "(1, 4)"),
    ],
)
def test_a_mask_that_cannot_be_right_is_refused_naming_the_row(name, value, said):
    batch = padded([([4, 5], [6, 7]), ([4, 5], [6])])
    batch[name] = torch.tensor(value)
    with pytest.raises(ValueError) as caught:
        sequence_logps(tiny_model(), **batch)
    assert said in one_sentence(caught)


def test_one_row_without_its_batch_dimension_is_refused():
    with pytest.raises(ValueError) as caught:
        sequence_logps(tiny_model(), *(torch.tensor([4, 5, 6]) for _ in range(3)))
    assert "(batch, length)" in one_sentence(caught)
