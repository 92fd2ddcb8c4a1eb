"""Properties that hold for any pairs: tokenise → collate → log-probs, shared-prompt rows, and the sampler.

Hypothesis draws the pairs, and shrinks what fails to the smallest case. The draws are the same in every run.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import WORDS, slow_logp, tiny_model, tiny_tokenizer

from toylib import sequence_logps
from toylib.engine.prefix_sharing import collate_rows, row_logps
from toylib.engine.sampler import LengthGrouped
from toylib.tokens import collate, tokenize_pairs
from toylib.train import slices

TOKENIZER = tiny_tokenizer()
MODEL = tiny_model(dtype=torch.float64)
few = settings(derandomize=True, deadline=None, database=None, max_examples=25)
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join)
replies = texts.map(" ".__add__)  # a reply brings its space along, because prompt and reply are one text
pairs_of_texts = st.lists(
    st.fixed_dictionaries({"prompt": texts, "chosen": replies, "rejected": replies}).filter(
        lambda pair: pair["chosen"] != pair["rejected"]
    ),
    min_size=1,
    max_size=5,
)


def logps(rows, **changes):
    """Return the log-probs `(2, pairs)` of chosen and rejected replies by the definition, in float64."""
    batch = collate(rows, TOKENIZER.pad_token_id) | changes
    with torch.no_grad():
        return sequence_logps(MODEL, **batch).reshape(2, -1)


def agree(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@few
@given(pairs_of_texts)
def test_tokenising_loses_no_word_and_ends_each_reply_once(pairs):
    for pair, row in zip(pairs, tokenize_pairs(pairs, TOKENIZER), strict=True):
        for reply in ("chosen", "rejected"):
            assert TOKENIZER.decode(row["prompt"] + row[reply]).split() == [
                *pair["prompt"].split(),
                *pair[reply].split(),
                TOKENIZER.eos_token,
            ]


@few
@given(pairs_of_texts)
def test_log_probs_are_those_of_each_reply_alone(pairs):
    rows = tokenize_pairs(pairs, TOKENIZER)
    alone = [[slow_logp(MODEL, row["prompt"], row[reply]) for row in rows] for reply in ("chosen", "rejected")]
    agree(logps(rows), torch.tensor(alone, dtype=torch.float64))


@few
@given(pairs_of_texts, st.integers(min_value=0, max_value=6))
def test_the_side_and_the_amount_of_padding_do_not_matter(pairs, extra):
    rows = tokenize_pairs(pairs, TOKENIZER)
    batch = collate(rows, TOKENIZER.pad_token_id)
    wider = {name: torch.nn.functional.pad(tensor, (0, extra)) for name, tensor in batch.items()}
    lengths = wider["attention_mask"].sum(dim=1).tolist()
    left = {
        name: torch.stack([row.roll(len(row) - n) for row, n in zip(tensor, lengths, strict=True)])
        for name, tensor in wider.items()
    }
    agree(logps(rows, **wider), logps(rows))
    agree(logps(rows, **left), logps(rows))


@few
@given(pairs_of_texts, st.randoms(use_true_random=False))
def test_the_order_of_a_batch_does_not_matter(pairs, random):
    rows = tokenize_pairs(pairs, TOKENIZER)
    order = random.sample(range(len(rows)), len(rows))
    agree(logps([rows[i] for i in order]), logps(rows)[:, order])


@few
@given(pairs_of_texts, st.integers(min_value=1, max_value=5))
def test_the_size_of_a_batch_does_not_matter(pairs, size):
    rows = tokenize_pairs(pairs, TOKENIZER)
    agree(torch.cat([logps(part) for part in slices(rows, size)], dim=1), logps(rows))


@few
@given(pairs_of_texts)
def test_shared_prompt_rows_give_the_log_probs_of_sequences(pairs):
    rows = tokenize_pairs(pairs, TOKENIZER)
    with torch.no_grad():
        shared = torch.stack(row_logps(MODEL, **collate_rows(rows, TOKENIZER.pad_token_id)))
    agree(shared, logps(rows))


@few
@given(pairs_of_texts, texts)
def test_one_reply_of_a_shared_row_does_not_depend_on_the_other(pairs, other):
    rows = tokenize_pairs(pairs, TOKENIZER)
    changed = tokenize_pairs([pair | {"rejected": f" {other}{pair['chosen']}"} for pair in pairs], TOKENIZER)
    with torch.no_grad():
        ours, theirs = (row_logps(MODEL, **collate_rows(r, TOKENIZER.pad_token_id))[0] for r in (rows, changed))
    agree(ours, theirs)


@settings(few, max_examples=200)
@given(
    st.lists(st.integers(min_value=1, max_value=50), max_size=120),
    st.integers(min_value=1, max_value=9),
    st.integers(min_value=0, max_value=2**31),
)
def test_the_sampler_gives_a_permutation_that_its_seed_decides(lengths, size, seed):
    sampler = LengthGrouped(lengths, size, lambda: seed)
    order = list(sampler)
    assert sorted(order) == list(range(len(lengths))) and len(sampler) == len(lengths)
    assert order == list(LengthGrouped(lengths, size, lambda: seed))


def test_the_checks_see_a_difference_of_a_millionth():
    with pytest.raises(AssertionError):
        agree(torch.zeros(2, 1), torch.full((2, 1), 1e-6))
