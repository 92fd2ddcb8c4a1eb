"""Replies and the KL measured from them, against loops and listings on models small enough to list."""

import itertools

import pytest
import torch
from tiny import CHAT, padded, slow_logp, tiny_model, tiny_tokenizer

from toylib import sequence_logps
from toylib.replies import Replies, kl_to_reference, sample_replies

TOKENIZER = tiny_tokenizer()
PROMPTS = ["Customer: late Agent:", "Customer: where is my order Agent:", "no"]


def sharp_model(seed=0):
    """A model that ends its replies now and then: EOS (1) is made likelier, pad, unknown and BOS all but impossible."""
    model, bias = tiny_model(seed), torch.zeros(24)
    bias[[0, 2, 3]], bias[1] = -30.0, 1.5
    model.lm_head.register_forward_hook(lambda module, args, logits: logits + bias)
    return model


@torch.no_grad()
def greedy_by_hand(model, prompt, longest):
    ids = prompt_ids = TOKENIZER(prompt)["input_ids"]
    while len(ids) - len(prompt_ids) < longest and ids[-1] != TOKENIZER.eos_token_id:
        ids = [*ids, model(torch.tensor([ids])).logits[0, -1].argmax().item()]
    return ids[len(prompt_ids) :]


def scored(replies, i):
    return replies.input_ids[i][replies.completion_mask[i].bool()].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_greedy_replies_equal_an_argmax_loop(seed):
    model = sharp_model(seed)
    replies = sample_replies(model, TOKENIZER, PROMPTS, temperature=0, max_new_tokens=8)
    for i, prompt in enumerate(PROMPTS):
        expected = greedy_by_hand(model, prompt, 8)
        assert scored(replies, i) == expected
        assert replies.texts[i].lstrip() == TOKENIZER.decode(expected, skip_special_tokens=True)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_first_tokens_come_as_often_as_the_softmax_says(temperature):
    model, count = sharp_model(), 4000
    replies = sample_replies(model, TOKENIZER, [PROMPTS[0]] * count, max_new_tokens=1, temperature=temperature)
    with torch.no_grad():
        expected = (model(**TOKENIZER(PROMPTS[0], return_tensors="pt")).logits[0, -1] / temperature).softmax(-1) * count
    drawn = torch.bincount(replies.input_ids[:, -1], minlength=24).float()
    common = expected >= 5
    expected, drawn = (torch.cat([t[common], t[~common].sum().reshape(1) + 1e-3]) for t in (expected, drawn))
    chi_square = ((drawn - expected).square() / expected).sum().item()
    freedom = len(expected) - 1
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5, f"chi-square {chi_square:.1f} of {freedom}"


def test_no_token_is_cut_from_the_distribution_by_the_models_own_settings():
    model = sharp_model()
    model.generation_config.top_k = model.config.eos_token_id
    model.generation_config.temperature = 0.01
    model.generation_config.min_p = 0.9
    replies = sample_replies(model, TOKENIZER, [PROMPTS[0]] * 300, max_new_tokens=1)
    assert len(set(replies.input_ids[:, -1].tolist())) > 5


@pytest.mark.parametrize("temperature", [0, 1])
def test_the_models_own_penalties_change_no_reply(temperature):
    model, penalised = sharp_model(), sharp_model()
    penalised.generation_config.repetition_penalty = 5.0
    penalised.generation_config.no_repeat_ngram_size = 1
    penalised.generation_config.typical_p = 0.2
    how = {"max_new_tokens": 12, "temperature": temperature}
    assert (
        sample_replies(penalised, TOKENIZER, PROMPTS * 5, **how).texts
        == sample_replies(model, TOKENIZER, PROMPTS * 5, **how).texts
    )


def test_the_completion_mask_ends_with_the_first_eos_and_padding_is_masked():
    replies = sample_replies(sharp_model(), TOKENIZER, PROMPTS * 20, max_new_tokens=10)
    width = max(len(TOKENIZER(prompt)["input_ids"]) for prompt in PROMPTS)
    lengths = set()
    for i, prompt in enumerate(PROMPTS * 20):
        ids = scored(replies, i)
        lengths.add(len(ids))
        assert 1 not in ids[:-1] and (ids[-1] == 1 or len(ids) == 10)
        assert replies.completion_mask[i, :width].sum() == 0
        seen = replies.input_ids[i][replies.attention_mask[i].bool()].tolist()
        assert seen == TOKENIZER(prompt)["input_ids"] + ids
    assert len(lengths) > 3


def test_replies_score_as_the_slow_loop_says():
    model = sharp_model().double()
    replies = sample_replies(model, TOKENIZER, PROMPTS, max_new_tokens=6)
    expected = [
        slow_logp(model, TOKENIZER(prompt)["input_ids"], scored(replies, i)) for i, prompt in enumerate(PROMPTS)
    ]
    assert sequence_logps(model, *replies[1:]).tolist() == pytest.approx(expected, abs=1e-6)


def test_the_same_seed_gives_the_same_replies_and_the_global_state_stays():
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    first = sample_replies(sharp_model(), TOKENIZER, PROMPTS * 3, seed=4)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(5)
    again = sample_replies(sharp_model(), TOKENIZER, PROMPTS * 3, seed=4)
    assert first.texts == again.texts and torch.equal(first.input_ids, again.input_ids)
    assert first.texts != sample_replies(sharp_model(), TOKENIZER, PROMPTS * 3, seed=5).texts


def listed(policy, reference, vocabulary, length, prompt=(2,)):
    """Exact KL of replies of `length` tokens, from all of them."""
    every = [(list(prompt), list(reply)) for reply in itertools.product(range(vocabulary), repeat=length)]
    with torch.no_grad():
        ours, theirs = (sequence_logps(model, **padded(every)) for model in (policy, reference))
    return (ours.exp() * (ours - theirs)).sum().item()


def drawn(policy, vocabulary, length, count, seed=0):
    """`count` replies of exactly `length` tokens from the policy, drawn token by token."""
    generator, ids = torch.Generator().manual_seed(seed), torch.full((count, 1), 2)
    with torch.no_grad():
        for _ in range(length):
            chances = policy(ids).logits[:, -1].softmax(-1)
            ids = torch.cat([ids, torch.multinomial(chances, 1, generator=generator)], dim=1)
    mask = torch.ones_like(ids)
    return Replies([], ids, mask, mask.clone().index_fill_(1, torch.tensor([0]), 0))


def test_kl_equals_a_full_listing_within_its_standard_error():
    policy, reference = (tiny_model(seed, vocab_size=5, dtype=torch.float64) for seed in (0, 1))
    exact = listed(policy, reference, 5, 3)
    estimate, error = kl_to_reference(policy, reference, drawn(policy, 5, 3, 3000))
    assert exact > 0.5 and 0 < error < 0.05 * exact
    assert abs(estimate - exact) < 4 * error


def test_kl_is_zero_for_the_same_model_and_never_negative():
    model = sharp_model()
    replies = sample_replies(model, TOKENIZER, PROMPTS * 5, max_new_tokens=6)
    assert kl_to_reference(model, model, replies) == (0.0, 0.0)
    assert all(kl_to_reference(model, sharp_model(seed), replies)[0] > 0 for seed in (1, 2, 3))


def test_kl_does_not_depend_on_batch_size_or_padding():
    policy, reference = sharp_model(0), sharp_model(1)
    replies = sample_replies(policy, TOKENIZER, PROMPTS * 3, max_new_tokens=6)
    together, apart = (kl_to_reference(policy, reference, replies, batch_size=size) for size in (64, 2))
    assert together == pytest.approx(apart, rel=1e-5)
    ids = [TOKENIZER(prompt)["input_ids"] for prompt in PROMPTS * 3]
    right = Replies([], *padded([(ids[i], scored(replies, i)) for i in range(9)], "right", extra=2).values())
    assert kl_to_reference(policy, reference, right) == pytest.approx(together, rel=1e-5)


@pytest.mark.parametrize(
    ("prompts", "settings", "said"),
    [
        ("no", {}, "put a single one into a list"),
        ({"role": "user", "content": "no"}, {}, "put a single one into a list"),
        ([], {}, "one prompt at least"),
        ([""], {}, "every prompt needs a token"),
        (["no"], {"temperature": -1.0}, "temperature must be a number from 0 on, got -1.0"),
        (["no"], {"temperature": float("nan")}, "temperature must be a number from 0 on, got nan"),
    ],
)
def test_prompts_and_temperatures_that_cannot_be_meant_are_refused(prompts, settings, said):
    with pytest.raises((TypeError, ValueError), match=said):
        sample_replies(tiny_model(), TOKENIZER, prompts, **settings)


def test_a_conversation_outside_a_list_is_called_no_prompt():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    with pytest.raises(ValueError, match="a prompt must be a text or a list of messages"):
        sample_replies(tiny_model(), tokenizer, [{"role": "user", "content": "no"}])
