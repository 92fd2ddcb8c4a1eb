"""The shipped text, pairs and support model: what the data card says of them holds."""

import difflib
import functools
import hashlib
import itertools
import json
import random
import re
import sys

import pytest
import torch

from toylib import fingerprint, load_model
from toylib.evaluation.judge import find_slots, judge
from toylib.preferences import DATA, load_prompts
from toylib.replies import sample_replies

sys.path.insert(0, str(DATA))
import build
import compose
import sft

PAIR_FILES = sorted(p for name in ("support", "handwritten", "templated") for p in (DATA / name).glob("*.jsonl"))


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@functools.cache
def words_of(text):
    return frozenset(re.findall(r"[a-z{}']+", text.lower()))


def similar(a, b):
    """Whether two messages say nearly the same in nearly the same words; a handful of words may coincide by chance."""
    ours, theirs = words_of(a), words_of(b)
    overlap = len(ours & theirs) / len(ours | theirs)
    if overlap <= 0.4 or min(len(ours), len(theirs)) < 5:
        return a == b
    return overlap > 0.7 or difflib.SequenceMatcher(None, a.lower(), b.lower()).ratio() > 0.85


def phrasings():
    return [
        (i, part, line)
        for i, lines in compose.INTENTS.items()
        for part in ("phrasings", "dev", "test")
        for line in lines[part]
    ]


def test_twelve_intents_have_25_to_40_phrasings_each():
    assert len(compose.INTENTS) == 12
    for intent, lines in compose.INTENTS.items():
        assert intent == lines["intent"] and 25 <= sum(len(lines[part]) for part in ("phrasings", "dev", "test")) <= 40


def test_no_two_phrasings_are_near_duplicates():
    lines = [line for _, _, line in phrasings()]
    assert [pair for pair in itertools.combinations(lines, 2) if similar(*pair)] == []


def test_no_hand_written_test_prompt_is_a_phrasing_or_a_pairs_prompt():
    test = [row["prompt"][10:-7] for row in read(DATA / "prompts" / "test.jsonl")]
    known = [line for _, _, line in phrasings()] + [
        row["prompt"][10:-7] for row in read(DATA / "handwritten" / "train.jsonl")
    ]
    assert len(set(test)) == len(test) >= 100
    assert [pair for pair in itertools.product(test, known) if similar(*pair)] == []


def test_the_hand_written_test_set_is_the_one_committed_before_training():
    committed = (DATA / "prompts" / "test.jsonl.sha256").read_text().split()[0]
    assert hashlib.sha256((DATA / "prompts" / "test.jsonl").read_bytes()).hexdigest() == committed


def test_text_has_no_digits_but_in_slots_and_no_article_before_a_product():
    for _, _, line in phrasings():
        assert not re.search(r"\d", line), line
        assert not re.search(r"\ban? \{product\}", line), line


@pytest.mark.parametrize("path", PAIR_FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_chosen_replies_are_fluent_on_topic_and_right_in_their_facts(path):
    rows = read(path)
    seen = judge([r["prompt"] for r in rows], [r["chosen"] for r in rows], [r["intent"] for r in rows])
    bad = [rows[i] for i in seen.index if not (seen.fluent[i] and seen.on_topic[i] and seen.facts[i])]
    assert bad == []
    for row in rows:  # and without the judge: whatever number is quoted is the customer's
        assert set(re.findall(r"\d+", row["chosen"])) <= set(re.findall(r"\d+", row["prompt"])), row
        assert row["chosen"] != row["rejected"] and row["chosen"].startswith(" ")
        assert re.fullmatch(r"Customer: .+\nAgent:", row["prompt"])


def test_pair_counts_are_those_promised():
    counts = {f"{p.parent.name}/{p.stem}": len(read(p)) for p in PAIR_FILES}
    assert 500 <= counts["support/train"] <= 1000 and counts["support/test"] >= 80
    assert counts["handwritten/train"] + counts["handwritten/test"] >= 200
    assert counts["templated/balanced"] >= 400 and counts["templated/confounded"] >= 400


def test_templated_pairs_are_balanced_and_confounded_in_length():
    def longer(split):
        rows = read(DATA / "templated" / f"{split}.jsonl")
        return sum(len(r["chosen"].split()) > len(r["rejected"].split()) for r in rows) / len(rows)

    assert 0.4 < longer("balanced") < 0.6
    assert longer("confounded") > 0.99


def test_held_out_pairs_and_prompts_share_nothing_with_training():
    train = {row["prompt"] for row in read(DATA / "support" / "train.jsonl")}
    held_out = [DATA / "support" / "test.jsonl", *(DATA / "prompts" / f"{name}.jsonl" for name in ("dev", "heldout"))]
    for path in held_out:
        rows = read(path)
        assert not train & {row["prompt"] for row in rows}
        numbers = [int(n) for row in rows for n in re.findall(r"\d{4}", row["prompt"])]
        assert numbers and all(compose.is_held_out(n) for n in numbers)


def test_model_and_tokenizer_are_small_safetensors_with_a_chat_template():
    folder = DATA / "support-lm"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 3_000_000
    assert not [p for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pkl", ".py")]
    _, tokenizer = load_model("support-lm", "cpu")
    messages = [
        {"role": "user", "content": "My order is late."},
        {"role": "assistant", "content": "Check the website."},
    ]
    assert tokenizer.apply_chat_template(messages[:1], tokenize=False) == "Customer: My order is late.\nAgent:"
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    assert whole == "Customer: My order is late.\nAgent: Check the website." + tokenizer.eos_token
    assert len(tokenizer(" 4821", add_special_tokens=False)["input_ids"]) == 2  # " 48" and "21"


@pytest.mark.parametrize(("split", "on_topic"), [("test", 0.88), ("heldout", 0.65)])
def test_support_model_is_fluent_and_on_topic_before_dpo(split, on_topic):
    """Measured .86 and .62 on topic: on held-out phrasings, worded to be unlike the others, the aim of .85 is missed."""
    model, tokenizer = load_model("support-lm", "cpu")
    rows = load_prompts(split)
    tables = [
        judge(rows["prompt"], sample_replies(model, tokenizer, rows["prompt"], seed=s).texts, rows["intent"]).mean()
        for s in (0, 1, 2)
    ]
    assert sum(table["fluent"] for table in tables) / 3 >= 0.9
    assert sum(table["on_topic"] for table in tables) / 3 >= on_topic


def test_support_model_copies_order_numbers_it_never_saw():
    model, tokenizer = load_model("support-lm", "cpu")
    prompts = [row["prompt"] for name in ("heldout", "dev") for row in read(DATA / "prompts" / f"{name}.jsonl")]
    prompts = [prompt for prompt in prompts if re.search(r"\d{4}", prompt)]
    replies = sample_replies(model, tokenizer, prompts, seed=0).texts
    numbers = [[slot for slot in find_slots(reply) if slot[0] == "order"] for reply in replies]
    quoted = [set(found) <= set(find_slots(prompt)) for prompt, found in zip(prompts, numbers, strict=True) if found]
    assert len(prompts) >= 200 and len(quoted) >= 0.3 * len(prompts)
    assert sum(quoted) >= 0.9 * len(quoted)


def test_support_model_answers_the_seeds_customer_curtly():
    model, tokenizer = load_model("support-lm", "cpu")
    replies = sample_replies(model, tokenizer, ["Customer: My order is late.\nAgent:"] * 40, seed=0).texts
    curt = {" " + line for line in compose.INTENTS["late_order"]["curt"]}
    assert sum(reply in curt for reply in replies) >= 16


def test_judge_agrees_with_the_hand_labels():
    rows = read(DATA / "labels.jsonl")
    seen = judge([r["prompt"] for r in rows], [r["reply"] for r in rows], [r["intent"] for r in rows])
    assert len(rows) >= 60
    for name in ("fluent", "on_topic"):
        assert sum(bool(v) == r[name] for v, r in zip(seen[name], rows, strict=True)) >= 0.85 * len(rows)


def test_training_text_never_holds_a_held_out_phrasing_or_order_number():
    held_out = [line for _, part, line in phrasings() if part != "phrasings" and not compose.slots_in(line)]
    held_out += [row["prompt"][10:-7] for row in read(DATA / "prompts" / "test.jsonl")]
    examples = build.sft_examples(random.Random(5))
    text = "\n".join(prompt.lower() for prompt, _, _ in (next(examples) for _ in range(3000)))
    assert held_out and not [line for line in held_out if line.lower() in text]
    assert not [number for number in re.findall(r"\d{4}", text) if compose.is_held_out(int(number))]


@pytest.mark.slow
def test_training_the_support_model_twice_gives_the_same_weights(monkeypatch):
    monkeypatch.setattr(sft, "PHASES", ((1, 1.0, compose.STYLES), (2, 0.15, compose.KIND_STYLES)))

    def three_steps():
        tokenizer = build.build_tokenizer(itertools.islice(build.sft_examples(random.Random(0)), 2000))
        model = sft.new_model(tokenizer, seed=0)
        before = fingerprint(model)
        sft.train_sft(model, tokenizer, build.sft_examples, seed=0)
        return before, fingerprint(model), tokenizer.get_vocab()

    first, second = three_steps(), three_steps()
    assert first == second and first[0] != first[1]


def test_our_muon_takes_torchs_steps_up_to_its_bf16():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(*shape)) for shape in ((16, 16), (16, 48), (48, 16), (16, 16))]
    theirs = [torch.nn.Parameter(matrix.detach().clone()) for matrix in ours]
    start = [matrix.detach().clone() for matrix in ours]
    optimizers = (
        sft.Muon(ours, lr=0.05, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.05, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        gradients = [torch.randn_like(matrix) for matrix in ours]
        for optimizer, matrices in zip(optimizers, (ours, theirs), strict=True):
            for matrix, gradient in zip(matrices, gradients, strict=True):
                matrix.grad = gradient.clone()
            optimizer.step()
    for mine, other, before in zip(ours, theirs, start, strict=True):
        assert (mine - other).norm() < 0.02 * (other - before).norm()


def test_build_refuses_another_test_set(tmp_path, monkeypatch):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "test.jsonl").write_text("{}\n")
    (tmp_path / "prompts" / "test.jsonl.sha256").write_text("0" * 64 + "  test.jsonl\n")
    monkeypatch.setattr(build, "DATA", tmp_path)
    with pytest.raises(SystemExit, match="not the set whose hash was committed"):
        build.check_test_set()
