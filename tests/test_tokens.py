"""From pairs to tokens and batches: what is cut, dropped, added and scored, read back as text."""

import pytest
import torch
from datasets import Dataset
from tiny import CHAT, PAIRS, one_sentence, tiny_model, tiny_tokenizer

from toylib import sequence_logps
from toylib.tokens import collate, tokenize_pairs

PAIR = {"prompt": "my order is late", "chosen": " sorry !", "rejected": " check the website ."}
CHAT_PAIR = {
    "prompt": [{"role": "user", "content": "late"}],
    "chosen": [{"role": "assistant", "content": "sorry !"}],
    "rejected": [{"role": "assistant", "content": "no"}],
}


def adding(tokenizer, template, names):
    """A tokenizer that adds special tokens around a text."""
    from tokenizers import processors

    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in names]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return tokenizer


def read(tokenizer, row):
    return {field: tokenizer.decode(row[field]) for field in ("prompt", "chosen", "rejected")}


def test_each_reply_ends_with_one_eos_and_the_prompt_with_none():
    tokenizer = tiny_tokenizer()
    (row,) = tokenize_pairs([PAIR | {"rejected": " no <eos>"}], tokenizer)
    assert read(tokenizer, row) == {"prompt": "my order is late", "chosen": "sorry ! <eos>", "rejected": "no <eos>"}
    tokenizer = adding(tiny_tokenizer(), "<bos> $A <eos>", ["<bos>", "<eos>"])
    (row,) = tokenize_pairs([PAIR], tokenizer)
    assert read(tokenizer, row)["prompt"] == "<bos> my order is late"
    assert read(tokenizer, row)["chosen"] == "sorry ! <eos>"


def test_an_empty_prompt_gets_bos_or_is_an_error():
    (row,) = tokenize_pairs([PAIR | {"prompt": ""}], tiny_tokenizer(bos_token="<bos>"))
    assert row["prompt"] == [3]
    with pytest.raises(ValueError) as caught:
        tokenize_pairs([PAIR, PAIR | {"prompt": ""}], tiny_tokenizer())
    assert one_sentence(caught).startswith("row 2: the prompt has no token")


def test_messages_are_rendered_by_the_chat_template():
    tokenizer = tiny_tokenizer(words=["user", "assistant", "late", "sorry", "!", "no"])
    tokenizer.chat_template = CHAT
    (row,) = tokenize_pairs([CHAT_PAIR], tokenizer)
    assert read(tokenizer, row) == {"prompt": "user late assistant", "chosen": "sorry ! <eos>", "rejected": "no <eos>"}


def test_messages_without_or_with_an_unfit_chat_template_are_refused():
    tokenizer = tiny_tokenizer()
    with pytest.raises(ValueError) as caught:
        tokenize_pairs([CHAT_PAIR], tokenizer)
    assert "no chat template" in one_sentence(caught)
    tokenizer.chat_template = "{{ messages|length }} {{ messages[-1]['content'] }}"
    with pytest.raises(ValueError) as caught:
        tokenize_pairs([CHAT_PAIR], tokenizer)
    assert "chat template" in one_sentence(caught)


def test_a_long_prompt_is_cut_from_its_left_and_counted(capsys):
    tokenizer = tiny_tokenizer()
    first, second = tokenize_pairs([PAIR, PAIR | {"rejected": " no"}], tokenizer, max_length=7)
    assert tokenizer.decode(first["prompt"]) == "is late"  # 7 − 5 tokens of the longer reply, its EOS among them
    assert tokenizer.decode(second["prompt"]) == "my order is late"
    assert capsys.readouterr().out.strip() == (
        "1 of 2 prompts cut from the left to fit max_length=7; the shortest keeps 2 tokens"
    )


def test_a_pair_with_too_long_a_reply_is_dropped_and_counted(capsys):
    rows = tokenize_pairs(Dataset.from_list([PAIR, PAIR | {"rejected": " no"}]), tiny_tokenizer(), max_length=5)
    assert len(rows) == 1
    assert "1 of 2 pairs dropped: a reply alone is longer" in capsys.readouterr().out


def test_no_pair_that_fits_is_an_error():
    with pytest.raises(ValueError) as caught:
        tokenize_pairs([PAIR], tiny_tokenizer(), max_length=5)
    assert "max_length=5" in one_sentence(caught)


def test_a_tokenizer_without_eos_is_refused():
    with pytest.raises(ValueError) as caught:
        tokenize_pairs([PAIR], tiny_tokenizer(eos=None))
    assert "end-of-sequence" in one_sentence(caught)


def test_masks_of_a_batch_decode_back_to_the_texts():
    tokenizer = tiny_tokenizer()
    batch = collate(tokenize_pairs(PAIRS, tokenizer), tokenizer.pad_token_id)
    replies = [pair["chosen"] for pair in PAIRS] + [pair["rejected"] for pair in PAIRS]
    for i, reply in enumerate(replies):
        ids, seen, scored = (batch[name][i] for name in ("input_ids", "attention_mask", "completion_mask"))
        assert tokenizer.decode(ids[scored.bool()]) == f"{reply.strip()} <eos>"
        assert tokenizer.decode(ids[(seen - scored).bool()]) == PAIRS[i % len(PAIRS)]["prompt"]
        assert (ids[seen == 0] == tokenizer.pad_token_id).all()
    assert all(tensor.shape == batch["input_ids"].shape and tensor.dtype == torch.long for tensor in batch.values())


def test_the_end_is_scored_even_where_pad_is_the_same_token():
    tokenizer = tiny_tokenizer(pad="<eos>")
    batch = collate(tokenize_pairs(PAIRS, tokenizer), tokenizer.pad_token_id)
    other = collate(tokenize_pairs(PAIRS, tokenizer), 0)
    assert torch.equal(batch["completion_mask"], other["completion_mask"])
    model = tiny_model()
    torch.testing.assert_close(sequence_logps(model, **batch), sequence_logps(model, **other))
