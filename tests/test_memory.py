"""The memory ledger against measured bytes, and what is chosen for a card: precision, batch, folder, one sentence."""

import math
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import one_sentence, tiny_model, tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config

from toylib.engine.checkpoint_seals import SEAL
from toylib.engine.prefix_sharing import collate_rows, pair_logps, row_length
from toylib.labs import hardware
from toylib.labs.hardware import Card, choose_precision, fit_batch, resume_point, run_folder, settings_hash
from toylib.labs.memory import (
    WAYS,
    WEIGHT,
    kept_for_backward,
    ledger,
    measure_step,
    peak,
    shape_of,
    sizes,
    weights_only,
)
from toylib.plots import memory as plots_memory

SMOL = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
    max_position_embeddings=2048,
)  # SmolLM2-135M's
MIDDLING = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}
MIDDLING |= {"num_key_value_heads": 2, "vocab_size": 512}
T4 = Card("Tesla T4", (7, 5), 15_828_320_256)
A100 = Card("NVIDIA A100-SXM4-40GB", (8, 0), 42_405_855_232)
H100 = Card("NVIDIA H100 80GB HBM3", (9, 0), 84_900_000_000)
P100 = Card("Tesla P100-PCIE-16GB", (6, 0), 17_000_000_000)


def rows_of(pairs, prompt, reply, vocabulary):
    generator = torch.Generator().manual_seed(0)

    def ids(count):
        return torch.randint(4, vocabulary, (count,), generator=generator).tolist()

    return [{"number": i, "prompt": ids(prompt), "chosen": ids(reply), "rejected": ids(reply)} for i in range(pairs)]


def predicted_and_measured(precision, way, pairs=4, prompt=40, reply=20, **shape):
    shape = MIDDLING | shape
    model = tiny_model(0, dtype=torch.bfloat16 if precision == "bf16" else torch.float32, **shape).train()
    counted, rows = shape_of(model), rows_of(pairs, prompt, reply, shape["vocab_size"])
    if way == "LoRA":
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    found = measure_step(model, collate_rows(rows, 0), precision)
    return ledger(counted, pairs, *sizes(rows), precision, way, rank=4), found


# ---- predicted against measured ----


@pytest.mark.parametrize("way", ["reference once", "LoRA"])
@pytest.mark.parametrize("precision", WEIGHT)
def test_every_part_that_can_be_measured_is_predicted_within_15_percent(precision, way):
    predicted, found = predicted_and_measured(precision, way)
    for part in ("weights", "gradients", "Adam"):
        assert predicted[part] == found[part], part
    kept = predicted["activations"] + predicted["logits"] // 3  # one of three sets of logits outlives the forward pass
    assert kept == pytest.approx(found["kept"], rel=0.15)
    assert peak(predicted) == pytest.approx(found["peak"], rel=0.15)


@pytest.mark.parametrize("precision", WEIGHT)
def test_the_tests_own_tiny_model_is_predicted_too(precision):
    predicted, found = predicted_and_measured(
        precision, "reference once", hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    assert peak(predicted) == pytest.approx(found["peak"], rel=0.15)


@pytest.mark.parametrize("precision", ["fp32", "autocast"])
def test_in_a_split_update_the_gradients_wait_beside_the_next_activations(precision):
    model, rows = tiny_model(0, **MIDDLING).train(), rows_of(4, 40, 20, MIDDLING["vocab_size"])
    whole, split = (measure_step(model, collate_rows(rows, 0), precision, split=how)["peak"] for how in (False, True))
    predicted = [ledger(model, 4, *sizes(rows), precision, split=how) for how in (False, True)]
    assert [peak(parts) for parts in predicted] == pytest.approx([whole, split], rel=0.15)
    gradients = predicted[0]["gradients"]
    assert predicted[1]["waiting gradients"] == gradients and split - whole == pytest.approx(gradients, rel=0.25)


def test_where_weights_outweigh_the_batch_the_peak_is_at_the_end_of_the_backward_pass():
    predicted, found = predicted_and_measured(
        "fp32", "reference once", pairs=1, prompt=4, reply=3, hidden_size=128, intermediate_size=384
    )
    assert predicted["activations"] + predicted["logits"] < predicted["gradients"]
    assert peak(predicted) == pytest.approx(found["peak"], rel=0.15)


def test_measuring_changes_no_weight_and_leaves_no_gradient():
    model = tiny_model(0)
    before = [p.clone() for p in model.parameters()]
    measure_step(model, collate_rows(rows_of(2, 8, 4, 24), 0))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_smollm2_135m_counted_on_the_meta_device_has_its_known_size_and_bytes():
    shape = shape_of(SMOL)
    assert shape.parameters == 134_515_008  # the model card's 135M, the tied head counted once
    with torch.device("meta"):
        model = LlamaForCausalLM(SMOL)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    parts = ledger(shape, 16, 160, 90)
    assert parts["weights"] == parts["gradients"] == weights and parts["Adam"] == 2 * weights
    assert ledger(shape, 16, 160, 90, "bf16")["weights"] == weights // 2


def test_activations_of_smollm2_135m_on_the_meta_device_are_predicted():
    """A forward pass of the whole shape without memory or time; its attention is not fused there."""
    with torch.device("meta"):
        model = LlamaForCausalLM(SMOL).train()
        ids, mask, kept = torch.zeros(4, 160, dtype=torch.long), torch.zeros(4, 1, 160, 160), {}

        def note(tensor):
            kept[id(tensor.untyped_storage())] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model.model(input_ids=ids, attention_mask=mask, use_cache=False)
    own = {id(p.untyped_storage()) for p in model.parameters()}
    measured = sum(storage.nbytes() for name, storage in kept.items() if name not in own)
    probabilities = 30 * 4 * 9 * 160**2 * 4  # layers, rows, heads, length² in fp32: what fused attention does not keep
    predicted = ledger(SMOL, 4, 160, 90)["activations"]
    assert predicted == pytest.approx(measured - probabilities, rel=0.03)


@pytest.mark.slow
def test_a_real_step_of_smollm2_135ms_shape_is_predicted_within_15_percent():
    model = LlamaForCausalLM(SMOL).train()
    rows = rows_of(1, 40, 30, 49152)
    found = measure_step(model, collate_rows(rows, 0))
    predicted = ledger(SMOL, 1, *sizes(rows))
    assert {part: predicted[part] for part in ("weights", "gradients", "Adam")} == {
        part: found[part] for part in ("weights", "gradients", "Adam")
    }
    assert predicted["activations"] + predicted["logits"] // 3 == pytest.approx(found["kept"], rel=0.15)
    assert peak(predicted) == pytest.approx(found["peak"], rel=0.15)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU at hand")
@pytest.mark.parametrize("precision", WEIGHT)
def test_on_a_gpu_the_peak_is_predicted_within_15_percent_of_max_memory_allocated(precision):
    model = LlamaForCausalLM(SMOL).train().cuda().to(torch.bfloat16 if precision == "bf16" else torch.float32)
    rows = rows_of(8, 60, 50, 49152)
    found = measure_step(model, collate_rows(rows, 0, "cuda"), precision)
    assert peak(ledger(SMOL, 8, *sizes(rows), precision)) == pytest.approx(found["peak"], rel=0.15)


def test_a_model_that_overflows_is_not_ruined_by_being_measured():
    model = tiny_model(0)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("inf"))
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(FloatingPointError, match="left as they were"):
        measure_step(model, collate_rows(rows_of(2, 8, 4, 24), 0))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_what_is_kept_is_seen_by_shape():
    model = tiny_model(0)
    with kept_for_backward(model) as one:
        pair_logps(model, collate_rows(rows_of(1, 8, 4, 24), 0))
    with kept_for_backward(model) as four:
        pair_logps(model, collate_rows(rows_of(4, 8, 4, 24), 0))
    assert 3.5 < sum(four.values()) / sum(one.values()) < 4.5


# ---- the sums ----


def test_the_seeds_28_and_56_gb_are_bf16_weights_of_two_and_four_models():
    assert weights_only(7_000_000_000, 2) == 28e9 and weights_only(7_000_000_000, 4) == 56e9


def test_a_trained_7b_model_holds_more_than_the_two_models_weights():
    parts = ledger(LlamaConfig(), 1, 512, 256, "bf16", "two models")  # LlamaConfig's defaults are Llama 7B's
    assert parts["weights"] + parts["reference"] == pytest.approx(27e9, rel=0.01)
    assert parts["gradients"] + parts["Adam"] == pytest.approx(40e9, rel=0.02)
    assert peak(parts) > 2 * (parts["weights"] + parts["reference"])


def test_the_ways_differ_by_what_they_leave_out():
    two, once, lora = (ledger(SMOL, 8, 160, 90, "fp32", way) for way in WAYS)
    assert two["reference"] == two["weights"] and once["reference"] == lora["reference"] == 0
    assert {k: v for k, v in two.items() if k != "reference"} == {k: v for k, v in once.items() if k != "reference"}
    assert lora["gradients"] < once["gradients"] / 20 and peak(lora) < peak(once) < peak(two)


def test_sizes_are_the_longest_row_and_the_most_reply_tokens():
    rows = rows_of(1, 9, 3, 24) + rows_of(1, 2, 5, 24)
    assert sizes(rows) == (max(map(row_length, rows)), 10)


@pytest.mark.parametrize("changed", [{"precision": "fp8"}, {"way": "QLoRA"}])
def test_an_unknown_precision_or_way_is_named(changed):
    with pytest.raises(ValueError) as caught:
        ledger(SMOL, 1, 8, 4, **changed)
    assert repr(next(iter(changed.values()))) in one_sentence(caught)


def test_another_model_family_is_counted_from_its_configuration():
    qwen = Qwen2Config(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    shape = shape_of(qwen)
    assert shape.parameters > 512 * 64 and (shape.layers, shape.attention) == (2, 64)


# ---- what is chosen for a card ----


@pytest.mark.parametrize(
    ("card", "name", "arguments", "because"),
    [
        (None, "fp32", {}, "no GPU"),
        (P100, "fp32", {}, "older"),
        (T4, "fp16", {"fp16": True}, "none for bf16"),
        (A100, "bf16", {"bf16": True}, "bf16 units"),
        (H100, "bf16", {"bf16": True}, "bf16 units"),
    ],
)
def test_precision_follows_the_card_and_says_why(card, name, arguments, because):
    chosen = choose_precision(card)
    assert (chosen.name, chosen.arguments) == (name, arguments) and because in chosen.reason
    assert card is None or card.name in chosen.reason
    assert chosen.ledger in WEIGHT and chosen.ledger != "bf16"  # never 16-bit weights


def test_a_precision_can_be_asked_for_where_the_card_has_it():
    assert choose_precision(A100, "fp16").arguments == {"fp16": True}  # the T4's settings, exercised on a newer card
    assert choose_precision(T4, "fp32").arguments == {}
    for card, wanted in ((T4, "bf16"), (None, "fp16"), (P100, "fp16")):
        with pytest.raises(ValueError) as caught:
            choose_precision(card, wanted)
        assert wanted in one_sentence(caught) and "choose auto" in str(caught.value)
    with pytest.raises(ValueError, match="int4"):
        choose_precision(T4, "int4")


def test_the_default_run_takes_at_most_half_of_a_t4():
    fit = fit_batch(SMOL, 180, 120, T4.memory, "autocast")
    assert fit.pairs * fit.accumulation == 16 and fit.peak <= T4.memory / 2 <= 8e9


@pytest.mark.parametrize("memory", [3e9, 5e9, 16e9, 80e9])
def test_the_update_is_the_same_on_every_card_and_only_its_split_differs(memory):
    fit = fit_batch(SMOL, 400, 250, memory, "autocast", share=1.0)
    assert fit.pairs * fit.accumulation == 16
    held = {n: peak(ledger(SMOL, n, 400, 250, "autocast", split=n < 16)) for n in (1, 2, 4, 8, 16)}
    assert fit.peak == held[fit.pairs] <= memory
    assert all(size > memory for n, size in held.items() if n > fit.pairs), "it is the largest that fits"


def test_a_pair_that_does_not_fit_is_one_sentence():
    with pytest.raises(ValueError) as caught:
        fit_batch(LlamaConfig(), 1024, 800, T4.memory, "autocast")
    assert "LoRA" in one_sentence(caught) and "GB" in str(caught.value)


def test_running_out_of_gpu_memory_is_one_sentence_that_says_what_to_change():
    for pairs, change in ((8, "PAIRS_AT_ONCE from 8 to 4"), (1, "MAX_LENGTH")):
        with pytest.raises(MemoryError) as caught, hardware.memory_advice(pairs):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
        assert change in one_sentence(caught)


def test_running_out_of_memory_keeps_nothing_of_the_step_that_did():
    held = []

    def step():
        big = torch.zeros(10)
        held.append(weakref.ref(big))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(MemoryError) as caught, hardware.memory_advice(4):
        step()
    assert "4 to 2" in str(caught.value) and held[0]() is None, "kept as notebooks keep it, and the memory is free"


# ---- the model for the machine ----


def loads(monkeypatch, problem=None):
    asked = []

    def load(name):
        asked.append(name)
        if problem and name != "support-lm":
            raise ValueError(problem)
        return "a model", "a tokenizer"

    monkeypatch.setattr(hardware, "load_model", load)
    return asked


def test_without_a_gpu_the_shipped_model_is_taken_and_said(monkeypatch, capsys):
    assert loads(monkeypatch) == [] and hardware.load_for_machine("", None)[0] == "support-lm"
    assert "no GPU" in capsys.readouterr().out


def test_with_a_gpu_smollm2_is_taken_and_without_the_hub_the_shipped_one_and_said(monkeypatch, capsys):
    loads(monkeypatch)
    assert hardware.load_for_machine("", T4)[0] == hardware.SMOL and capsys.readouterr().out == ""
    loads(monkeypatch, "the hub did not give it")
    assert hardware.load_for_machine("", T4)[0] == "support-lm"
    assert "the hub did not give it" in capsys.readouterr().out


@pytest.mark.parametrize("card", [None, T4])
def test_a_model_that_was_named_is_taken_or_refused_and_never_replaced(monkeypatch, card):
    asked = loads(monkeypatch, "not found")
    with pytest.raises(ValueError, match="not found"):
        hardware.load_for_machine("me/mine", card)
    assert asked == ["me/mine"]


# ---- where a run is kept ----


def test_the_hash_is_of_the_settings_and_not_of_their_order():
    assert settings_hash({"a": 1, "b": "β"}) == settings_hash({"b": "β", "a": 1})
    assert settings_hash({"a": 1}) != settings_hash({"a": 2}) != settings_hash({"b": 2})


def test_a_run_is_kept_on_drive_where_that_is_mounted(tmp_path):
    here = run_folder({"a": 1}, tmp_path / "runs", drive=tmp_path / "absent")
    assert here == tmp_path / "runs" / settings_hash({"a": 1})
    (tmp_path / "MyDrive").mkdir()
    kept = run_folder({"a": 1}, tmp_path / "runs", drive=tmp_path / "MyDrive")
    assert kept == tmp_path / "MyDrive" / "dpo-notebooks" / settings_hash({"a": 1})


def test_nothing_is_resumed_unasked_and_what_was_found_is_said(tmp_path, capsys):
    assert resume_point(tmp_path, True) is None and "no checkpoint" in capsys.readouterr().out
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-9" / SEAL).touch()  # the other was cut off while it was written
    assert resume_point(tmp_path, False) is None and "at step 9: RESUME = True" in capsys.readouterr().out
    assert resume_point(tmp_path, True) is True and "step 9" in capsys.readouterr().out


# ---- the figures ----


def test_the_bars_are_as_long_as_the_peak_and_say_so():
    ledgers = {way: ledger(SMOL, 8, 160, 90, "autocast", way) for way in WAYS}
    figure = plots_memory.memory_bars(ledgers, {"T4": 16e9})
    assert [plots_memory.bar_end(parts) for parts in ledgers.values()] == pytest.approx(
        [peak(parts) / 1e9 for parts in ledgers.values()]
    )
    written = [text.get_text() for text in figure.axes[0].texts]
    assert all(f"{peak(parts) / 1e9:.2f}" in written for parts in ledgers.values()) and " T4" in written
    assert (
        len({patch.get_hatch() for patch in figure.axes[0].patches if patch.get_width()}) == 5
    )  # told apart without colour


def test_two_runs_on_each_other_are_both_seen():
    import pandas

    history = pandas.DataFrame({"loss": [math.log(2), 0.6]}, index=[1, 2])
    figure = plots_memory.overlaid_runs({"TRL": history, "ours": history}, {"loss": "loss"})
    first, second = figure.axes[0].lines[:2]
    assert first.get_linewidth() > 3 * second.get_linewidth() and first.get_linestyle() != second.get_linestyle()


# ---- pairs and replies for a model with a template of its own ----


def test_shipped_pairs_keep_their_tokens_through_the_shipped_template():
    from toylib import load_model, load_preferences
    from toylib.evaluation.chat import as_chat
    from toylib.tokens import tokenize_pairs

    _, tokenizer = load_model("support-lm", device="cpu")
    pairs = load_preferences("handwritten", "test")
    assert tokenize_pairs(as_chat(pairs, tokenizer), tokenizer) == tokenize_pairs(pairs, tokenizer)


def test_another_template_is_used_as_it_is_and_adds_no_second_bos():
    from toylib.evaluation.chat import as_chat, chat_prompt

    tokenizer = tiny_tokenizer(bos_token="<bos>")
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %} user {{ m['content'] }}\n{% endfor %}"
    assert chat_prompt("my order", tokenizer).startswith("<bos>")  # this tokenizer adds none
    pair = {"prompt": "Customer: my order\nAgent:", "chosen": " yes", "rejected": " no"}
    assert as_chat([pair], tokenizer)[0] == {"prompt": "<bos> user my order\n", "chosen": "yes", "rejected": "no"}
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="chat template"):
        chat_prompt("my order", tokenizer)


def test_pairs_of_messages_keep_their_tokens_as_texts():
    from tiny import CHAT

    from toylib.evaluation.chat import as_text
    from toylib.tokens import tokenize_pairs

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    said = {"prompt": ("user", "my order is late"), "chosen": ("assistant", "sorry !"), "rejected": ("assistant", "no")}
    pair = {name: [{"role": role, "content": content}] for name, (role, content) in said.items()}
    assert as_text([pair], tokenizer)[0]["chosen"].strip() == "sorry !"
    assert tokenize_pairs(as_text([pair], tokenizer), tokenizer) == tokenize_pairs([pair], tokenizer)
    plain = [{"prompt": "my order", "chosen": "yes", "rejected": "no"}]
    assert as_text(plain, tokenizer) is plain


def test_marks_need_whole_sentences_and_true_facts():
    from toylib.evaluation.chat import marks

    message = "My order 1234 is late."
    replies = [
        "I'm so sorry! I'll track order 1234 today.",
        "I'm so sorry! I'll track order 9999 today.",
        "I'm so sorry! I'll track it today and",
        "Check the website.",
    ]
    assert marks([message] * 4, replies)["mark"].tolist() == [1.0, 0.0, 0.0, 0.0]


def test_the_slider_moves_the_bars_and_a_bar_off_the_axis_says_so():
    from toylib.widgets import memory_explorer as widgets_memory

    ledgers = {
        n: {way: ledger(SMOL, n, 192, 120, "autocast", way, split=n < 16) for way in WAYS} for n in (1, 4, 16, 64)
    }
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(widgets_memory, "show_live", lambda live, picture, alt: shown.append((live, alt)))
        widgets_memory.memory_explorer(ledgers, {"T4": 16e9})
    ((live, alt),) = shown
    assert 'aria-valuetext="16 pairs per step"' in live and live.count(" pairs per step</span>") == len(ledgers)
    assert f"16 pairs, LoRA: {peak(ledger(SMOL, 16, 192, 120, 'autocast', 'LoRA')) / 1e9:.2f} GB" in alt
    _, bars, totals = plots_memory.empty_bars(WAYS, {"T4": 16e9}, 20.0, "")
    for pairs, arrow in ((1, False), (64, True)):
        held = {way: ledger(SMOL, pairs, 192, 120, "autocast", way, split=pairs < 16) for way in WAYS}
        plots_memory.fill_bars(bars, totals, held, 20.0)
        assert ("→" in totals["two models"].get_text()) is arrow
        drawn = sum(patch.get_width() for patch in bars["two models"].values())
        assert drawn == pytest.approx(min(20.0, peak(held["two models"]) / 1e9))
    with pytest.raises(ValueError, match="17"):
        widgets_memory.memory_explorer(ledgers, {"T4": 16e9}, pairs=17)
