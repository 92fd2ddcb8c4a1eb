"""Token ids against TRL's on every kind of tokenizer, and the ways in which real pairs and templates go wrong."""

import json
from types import SimpleNamespace

import pytest
from datasets import Dataset
from tiny import CHAT, PAIRS, one_sentence, tiny_model, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from toylib import load_model, load_preferences
from toylib.replies import sample_replies
from toylib.tokens import check_fits, pad_id, prompt_ids, tokenize_pairs

TEXTS = ["my order is late", "sorry ! let me check", "where is my order", "check the website .", "héllo  two  spaces"]
TEXT_PAIRS = [
    *PAIRS,
    {"prompt": "Customer: late\nAgent:", "chosen": " sorry\n", "rejected": " no"},
    {"prompt": "the web", "chosen": "site is late", "rejected": " is lost"},  # the boundary is inside a word
    {"prompt": "ends in a space ", "chosen": "sorry", "rejected": "no"},
    {"prompt": "two  spaces", "chosen": "  and more", "rejected": " check"},
]


def trained(kind):
    """A small tokenizer of a kind that real models have, trained on `TEXTS`."""
    special = ["<unk>", "<s>", "</s>"]
    core = Tokenizer((models.WordPiece if kind == "wordpiece" else models.BPE)(unk_token="<unk>"))
    alphabet = sorted(set("".join(TEXTS + [text for pair in TEXT_PAIRS for text in pair.values()])))
    if kind == "bytes":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    elif kind == "metaspace":
        core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(prepend_scheme="first"), decoders.Metaspace()
    elif kind == "llama2":
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        undo = [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        core.decoder = decoders.Sequence(undo)
    else:
        core.pre_tokenizer, core.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    train = trainers.WordPieceTrainer if kind == "wordpiece" else trainers.BpeTrainer
    more = {"initial_alphabet": [*alphabet, "▁"]} if kind != "bytes" else {"initial_alphabet": alphabet}
    core.train_from_iterator(TEXTS * 3, train(vocab_size=420, special_tokens=special, show_progress=False, **more))
    return core


def tokenizer_of(kind, bos):
    core = trained(kind)
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


def of_trl(pairs, tokenizer):
    """`(prompt, chosen, rejected)` ids of each pair, as TRL's trainer prepares them."""
    trl = pytest.importorskip("trl")
    trainer = SimpleNamespace(_tokenizer=tokenizer, _is_vision_dataset=False)
    arguments = SimpleNamespace(dataset_num_proc=None, max_length=None, truncation_mode="keep_start")
    prepare = trl.DPOTrainer._prepare_dataset
    rows = prepare(trainer, Dataset.from_list(pairs), tokenizer, arguments, "train")
    return [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in rows]


def ids_of(rows):
    return [(row["prompt"], row["chosen"], row["rejected"]) for row in rows]


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("kind", ["bytes", "metaspace", "llama2", "wordpiece"])
def test_texts_get_the_ids_of_trl_and_the_ids_of_the_text_as_a_whole(kind, bos):
    tokenizer = tokenizer_of(kind, bos)
    rows = tokenize_pairs(TEXT_PAIRS, tokenizer)
    assert ids_of(rows) == of_trl(TEXT_PAIRS, tokenizer)
    for row, pair in zip(rows, TEXT_PAIRS, strict=True):
        for name in ("chosen", "rejected"):
            text = pair["prompt"] + pair[name]
            assert row["prompt"] + row[name] == [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
            if kind != "wordpiece":  # whose decoder cannot know where the spaces were
                assert tokenizer.decode(row["prompt"] + row[name], skip_special_tokens=True) == text


TEMPLATES = {
    "eos": "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}",
    "no space": "<s>{% for m in messages %}{% if m.role == 'user' %}[I] {{ m.content }} [/I]{% else %}"
    " {{ m.content }}</s>{% endif %}{% endfor %}",
    "thinking": "{% for m in messages %}{{ m.role }}\n{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant\nthe website{% endif %}",
}


def chat_pair(prompt="my order is late", chosen="sorry !", rejected="no", **more):
    turns = {"prompt": ("user", prompt), "chosen": ("assistant", chosen), "rejected": ("assistant", rejected)}
    return {name: [{"role": role, "content": text}] for name, (role, text) in turns.items()} | more


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", ["bytes", "metaspace", "llama2", "wordpiece"])
def test_messages_get_the_ids_of_trl(kind, template):
    tokenizer = tokenizer_of(kind, bos=True)
    tokenizer.chat_template = TEMPLATES[template]
    pairs = [chat_pair(), chat_pair("where is my order", "let me check", "check the website .")]
    assert ids_of(tokenize_pairs(pairs, tokenizer)) == of_trl(pairs, tokenizer)


TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL])])
def test_tools_and_template_settings_reach_the_template(tools):
    tokenizer = tiny_tokenizer(words=["user", "assistant", "late", "sorry", "no", "TOOLS", "LOUD"])
    tokenizer.chat_template = "{% if tools %}TOOLS {% endif %}{% if loud %}LOUD {% endif %}" + CHAT
    pairs = [chat_pair("late", "sorry", "no", tools=tools, chat_template_kwargs={"loud": True})]
    rows = tokenize_pairs(pairs, tokenizer)
    assert tokenizer.decode(rows[0]["prompt"]) == "TOOLS LOUD user late assistant"
    assert ids_of(rows) == of_trl(pairs, tokenizer)


@pytest.mark.parametrize("after", ["", "\n", " ", " \n"])
@pytest.mark.parametrize("end", ["<eos>", "<eot>"])
def test_a_reply_has_one_end_and_nothing_behind_it(end, after):
    tokenizer = tiny_tokenizer(words=["user", "assistant", "late", "sorry", "no", "<eot>"])
    tokenizer.chat_template = CHAT.replace("{{ eos_token }}", end + after)
    (row,) = tokenize_pairs([chat_pair("late", "sorry", "no")], tokenizer)
    assert tokenizer.decode(row["chosen"]) == f"sorry {end}" and tokenizer.decode(row["rejected"]) == f"no {end}"
    text = {"prompt": "user late assistant", "chosen": f" sorry {end}{after}", "rejected": f" no {end}{after}"}
    assert tokenize_pairs([text], tokenizer) == [row]


def with_bos():
    tokenizer = tiny_tokenizer(bos_token="<bos>")
    single = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=[("<bos>", 3), ("<eos>", 1)])
    tokenizer.backend_tokenizer.post_processor = single
    return tokenizer


def test_there_is_one_bos_also_where_the_text_brings_it_and_where_the_prompt_is_cut():
    tokenizer = with_bos()
    pair = {"prompt": "my order is late", "chosen": " sorry ! yes", "rejected": " no"}
    (plain,) = tokenize_pairs([pair], tokenizer)
    assert tokenizer.decode(plain["prompt"]) == "<bos> my order is late"
    assert tokenize_pairs([pair | {"prompt": "<bos> my order is late"}], tokenizer) == [plain]
    (cut,) = tokenize_pairs([pair], tokenizer, max_length=7)
    assert tokenizer.decode(cut["prompt"]) == "<bos> is late"


def test_replies_are_sampled_from_the_prompt_that_was_trained_on():
    tokenizer = with_bos()
    (row,) = tokenize_pairs(PAIRS[:1], tokenizer)
    replies = sample_replies(tiny_model(), tokenizer, [PAIRS[0]["prompt"]], max_new_tokens=1)
    assert prompt_ids(PAIRS[0]["prompt"], tokenizer) == row["prompt"] == replies.input_ids[0, :-1].tolist()
    tokenizer.chat_template = CHAT
    messages = chat_pair("my order", " sorry", " no")
    replies = sample_replies(tiny_model(), tokenizer, [messages["prompt"]], max_new_tokens=1)
    assert replies.input_ids[0, :-1].tolist() == tokenize_pairs([messages], tokenizer)[0]["prompt"]


def test_a_reply_stops_at_every_end_of_the_generation_config():
    tokenizer, model = tiny_tokenizer(), tiny_model()
    model.generation_config.eos_token_id = [1, 7]
    replies = sample_replies(model, tokenizer, ["my order"] * 100, max_new_tokens=20)
    scored = [ids[mask.bool()].tolist() for ids, mask in zip(replies.input_ids, replies.completion_mask, strict=True)]
    ended = [ids for ids in scored if 7 in ids]
    assert len(ended) > 10 and all(ids.index(7) == len(ids) - 1 for ids in ended)


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (chat_pair(chosen="<t> yes </t> no", rejected="<t> late </t> no"), "the same tokens"),
        (chat_pair() | {"chosen": [*chat_pair()["chosen"], {"role": "user", "content": "yes"}]}, "assistant's turn"),
        (chat_pair() | {"prompt": [*chat_pair()["prompt"], *chat_pair()["chosen"]]}, "the prompt ends in an assistant"),
        (chat_pair() | {"chosen": [{"role": "gpt", "content": "yes"}]}, "the role 'gpt' is unknown"),
        ({name: chat_pair()["prompt"] * (name != "prompt") + turns for name, turns in chat_pair().items()}, "repeat"),
    ],
)
def test_bad_conversations_are_named(pair, words):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT.replace("m['content']", "m['content'].split('</t>')[-1]")
    with pytest.raises(ValueError) as caught:
        tokenize_pairs([chat_pair(), pair], tokenizer)
    assert one_sentence(caught).startswith("row 2: ") and words in one_sentence(caught)


def test_texts_that_repeat_the_prompt_are_named():
    pair = {"prompt": "my order", "chosen": "my order is late", "rejected": "my order is lost"}
    with pytest.raises(ValueError, match="row 1: chosen and rejected both repeat the prompt"):
        tokenize_pairs([pair], tiny_tokenizer())


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('system turns\\nare not for me') }}", "system turns are not for me"),
        ("{{ messages[0]['content'] + 3 }}", "the chat template refuses"),
        ("{{ missing.part.of }}", "missing"),
        ("{% for m in %}", "the chat template refuses"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_what_a_template_refuses_is_one_sentence_with_its_words(template, words):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ValueError) as caught:
        tokenize_pairs([chat_pair()], tokenizer)
    assert one_sentence(caught).startswith("row 1: ") and words in one_sentence(caught)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"add_generation_prompt": False}, "may not set 'add_generation_prompt'"),
        ({"tokenize": True}, "may not set 'tokenize'"),
        ({"tools": []}, "may not set 'tools'"),
        ([1], "must be a dict, got list"),
    ],
)
def test_template_settings_that_are_fixed_for_each_text_are_named(settings, words):
    row = chat_pair("late", "sorry", "no") | {"chat_template_kwargs": settings}
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    with pytest.raises(ValueError, match=f"row 1: chat_template_kwargs {words}"):
        tokenize_pairs([row], tokenizer)


def test_a_cut_says_how_much_is_left_and_whether_a_system_turn_was_lost(capsys):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    system = [{"role": "system", "content": "yes"}]
    pairs = [chat_pair(), chat_pair() | {"prompt": system + chat_pair()["prompt"]}]
    rows = tokenize_pairs(pairs, tokenizer, max_length=9)
    assert [len(row["prompt"]) for row in rows] == [6, 6]
    said = (
        "1 of 2 prompts cut from the left to fit max_length=9; the shortest keeps 6 tokens; 1 of them lost their system"
    )
    assert capsys.readouterr().out.startswith(said)


def test_a_pair_that_keeps_too_little_of_its_prompt_is_dropped(capsys):
    long, short = {"prompt": "my order " * 10, "chosen": " sorry !", "rejected": " no"}, PAIRS[2]
    rows = tokenize_pairs([long, short], tiny_tokenizer(), max_length=10)
    assert [row["number"] for row in rows] == [2]
    assert "1 of 2 pairs dropped" in capsys.readouterr().out
    assert len(tokenize_pairs([long], tiny_tokenizer(), max_length=11)[0]["prompt"]) == 8


@pytest.mark.parametrize("max_length", [None, 128, 10])
def test_a_stream_of_pairs_gives_the_rows_of_the_list(max_length, capsys):
    stream = Dataset.from_list(PAIRS[2:3] * 3).to_iterable_dataset()
    assert tokenize_pairs(stream, tiny_tokenizer(), max_length) == tokenize_pairs(
        PAIRS[2:3] * 3, tiny_tokenizer(), max_length
    )


def test_plain_prompts_on_a_chat_model_are_mentioned_once_and_rendered_ones_are_not(capsys):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    tokenize_pairs(PAIRS, tokenizer)
    assert capsys.readouterr().out.count("no chat template is applied") == 1
    tokenize_pairs([PAIRS[0] | {"prompt": "user my order assistant"}], tokenizer)
    assert capsys.readouterr().out == ""


def test_a_pad_token_beyond_the_model_and_pairs_beyond_its_positions():
    tokenizer = tiny_tokenizer()
    assert pad_id(tokenizer, 24) == 0
    tokenizer.add_special_tokens({"pad_token": "<pad2>"})
    assert pad_id(tokenizer, 23) == tokenizer.eos_token_id
    rows = {"train": tokenize_pairs(PAIRS, tokenizer)}
    check_fits(tiny_model(), rows)
    with pytest.raises(ValueError, match="train row 1 has 13 tokens, more than the model's 8 positions"):
        check_fits(tiny_model(max_position_embeddings=8), rows)


def test_an_error_names_the_row_of_the_file_also_where_bad_rows_were_dropped(tmp_path, capsys):
    turn = {"role": "user", "content": "my order"}
    good = {"prompt": [turn], "chosen": [{"role": "assistant", "content": "yes"}]}
    good["rejected"] = [{"role": "assistant", "content": "no"}]
    bad = good | {"prompt": [{"role": "system", "content": "check"}, turn]}
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in (good, good | {"chosen": good["rejected"]}, bad)))
    pairs = load_preferences(path, on_bad="drop")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
        "{{ m.content }} {% endfor %}"
    )
    with pytest.raises(ValueError, match=r"pairs\.jsonl, row 3: the chat template refuses .*no system turns"):
        tokenize_pairs(pairs, tokenizer)


def test_the_shipped_template_refuses_a_turn_it_would_render_as_the_agents():
    _, tokenizer = load_model("support-lm")
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "My order is late."}]
    pair = {"prompt": turns, "chosen": [{"role": "assistant", "content": "Sorry."}]}
    pair["rejected"] = [{"role": "assistant", "content": "No."}]
    with pytest.raises(ValueError, match="row 1: .*this model knows user and assistant turns only"):
        tokenize_pairs([pair], tokenizer)
    (row,) = tokenize_pairs([pair | {"prompt": turns[1:]}], tokenizer)
    assert tokenizer.decode(row["prompt"] + row["chosen"]).endswith(
        "My order is late.\nAgent: Sorry." + tokenizer.eos_token
    )
