"""DPOTrainer: the loss of the loop, clear refusals, and the cache of reference log-probs."""

import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny import CHAT, PAIRS, one_sentence, tiny_model, tiny_tokenizer
from trainers import MORE, logged, make_fixture, own_cache, weights  # noqa: F401 (pytest uses the fixtures)
from transformers import TrainerCallback, TrainingArguments

from toylib import DPOTrainer, dpo_loss, frozen_copy, sequence_logps
from toylib.engine.reference_cache import placed_on, reference_mark
from toylib.engine.sampler import LengthGrouped
from toylib.engine.trainer import METRICS
from toylib.tokens import collate, tokenize_pairs


def test_the_first_loss_is_ln2_and_the_reference_is_the_model_as_it_was(make):
    trainer = make()
    trainer.train()
    assert logged(trainer)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert logged(trainer)[-1] < 0.69


@pytest.mark.parametrize(
    ("loss_type", "smoothing", "average"),
    [("sigmoid", 0.0, False), ("sigmoid", 0.2, False), ("robust", 0.2, False), ("hinge", 0.0, False)]
    + [("ipo", 0.0, False), ("ipo", 0.0, True)],
)
@pytest.mark.parametrize("shared", [True, False])
def test_evaluation_is_the_mean_of_the_textbook_over_pairs(make, loss_type, smoothing, average, shared, monkeypatch):
    if not shared:
        monkeypatch.setattr("toylib.engine.trainer.why_not_shared", lambda *_: "this test says so")
    model, reference = tiny_model(0), tiny_model(1)
    trainer = make(
        model, eval_pairs=PAIRS, ref_model=reference, loss_type=loss_type, label_smoothing=smoothing, beta=0.3,
        average_logps=average, per_device_eval_batch_size=3,
    )  # fmt: skip
    found = trainer.evaluate()
    batch = collate(tokenize_pairs(PAIRS, tiny_tokenizer()), 0)
    with torch.no_grad():
        sums = [part for m in (model, reference) for part in sequence_logps(m, **batch).chunk(2)]
        used = [part for m in (model, reference) for part in sequence_logps(m, **batch, average=average).chunk(2)]
    losses = dpo_loss(*used, 0.3, loss_type, smoothing).losses
    chosen, rejected = (0.3 * (sums[i] - sums[i + 2]) for i in (0, 1))  # rewards are of whole replies, average or not
    expected = [losses, chosen, rejected, chosen - rejected, (chosen > rejected).float(), *sums[:2]]
    for name, values in zip(("loss", *METRICS), expected, strict=True):
        assert found[f"eval_{name}"] == pytest.approx(values.mean().item(), rel=2e-5, abs=1e-5), name


def test_a_dict_of_eval_sets_gives_each_its_own_metrics(make):
    sets, reference = {"first": PAIRS[:3], "second": PAIRS[2:]}, tiny_model(1)
    trainer = make(eval_pairs=sets, ref_model=reference, eval_strategy="steps", eval_steps=6)
    trainer.train()
    found = trainer.evaluate()
    for name, pairs in sets.items():
        alone = make(trainer.model, eval_pairs=pairs, ref_model=reference).evaluate()
        for metric in ("loss", *METRICS):
            assert found[f"eval_{name}_{metric}"] == pytest.approx(alone[f"eval_{metric}"], abs=1e-6)
        assert logged(trainer, f"eval_{name}_loss") == [found[f"eval_{name}_loss"]] * 2
    assert trainer.evaluate("second", metric_key_prefix="test")["test_loss"] == found["eval_second_loss"]


def test_pairs_that_come_after_the_reference_is_gone_are_refused(make):
    trainer = make()
    for score in (trainer.evaluate, trainer.predict):
        with pytest.raises(ValueError) as caught:
            score(Dataset.from_list(PAIRS))
        assert "at construction: pass held-out ones there (eval_dataset)" in one_sentence(caught)


def test_accumulated_batches_give_the_weights_of_one_large_batch(make):
    runs = [
        make(per_device_train_batch_size=size, gradient_accumulation_steps=6 // size, max_steps=3) for size in (6, 2)
    ]
    for trainer in runs:
        trainer.train()
    assert logged(runs[0]) == pytest.approx(logged(runs[1]), abs=1e-5)
    assert torch.allclose(weights(runs[0].model), weights(runs[1].model), atol=1e-5)


def test_a_log_line_averages_over_all_pairs_since_the_last(make):
    every, summed = make(), make(logging_steps=3)
    every.train(), summed.train()
    for name in METRICS:
        values = logged(every, name)
        assert logged(summed, name) == pytest.approx([sum(values[:3]) / 3, sum(values[3:]) / 3], abs=1e-5)


def test_gradient_checkpointing_changes_no_loss(make):
    runs, calls = [make(gradient_checkpointing=on) for on in (False, True)], []
    for trainer in runs:
        forwards = []
        trainer.model.model.layers[0].input_layernorm.register_forward_hook(
            lambda *_, forwards=forwards: forwards.append(1)
        )
        trainer.train()
        calls.append(len(forwards))
    assert calls[1] == 2 * calls[0]  # each layer is run again on the way back
    assert logged(runs[0]) == pytest.approx(logged(runs[1]), abs=1e-6)


def test_bf16_autocast_keeps_fp32_weights_and_starts_at_ln2(make):
    trainer, seen = make(bf16=True), set()
    trainer.model.model.layers[0].mlp.register_forward_hook(lambda _, __, output: seen.add(output.dtype))
    trainer.train()
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert logged(trainer)[0] == pytest.approx(math.log(2), abs=2e-2)


def test_dropout_is_off_in_every_form(make):
    model = tiny_model(0, attention_dropout=0.5)
    model.lm_head = torch.nn.Sequential(torch.nn.Dropout(0.5), model.lm_head)
    model.get_output_embeddings = lambda: model.lm_head
    trainer = make(model)
    trainer.train()
    assert logged(trainer)[0] == pytest.approx(math.log(2), abs=1e-6)


def adapted(init=True, **settings):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    settings = {"r": 2, "target_modules": "all-linear", "lora_dropout": 0.3, "init_lora_weights": init} | settings
    return peft.get_peft_model(tiny_model(0), peft.LoraConfig(**settings))


@pytest.mark.parametrize("init", [True, False, "pissa", "olora"])
def test_a_peft_model_trains_its_adapters_against_itself_as_it_was_given(make, init):
    model = adapted(init)
    start = frozen_copy(model)
    with torch.no_grad():
        batch = collate(tokenize_pairs(MORE, tiny_tokenizer()), 0)
        expected = torch.stack(sequence_logps(start, **batch).chunk(2), dim=1)
    trainer = make(model, learning_rate=3e-2, max_steps=12)
    mark = reference_mark(start)
    trainer.train()
    assert logged(trainer)[0] == pytest.approx(math.log(2), abs=1e-6) and logged(trainer)[-1] < 0.6
    assert trainer.identity["reference"] == mark != reference_mark(model)
    found = torch.tensor([row["ref_logps"] for row in trainer.train_dataset])
    assert torch.allclose(found.float(), expected, atol=1e-4)
    with model.disable_adapter(), start.disable_adapter():
        assert torch.equal(sequence_logps(model, **batch), sequence_logps(start, **batch))  # the base did not move


def test_a_copy_of_an_adapted_model_is_the_same_reference_as_the_model(make):
    model = adapted(False)
    trainer = make(model, ref_model=frozen_copy(model))
    trainer.train()
    assert logged(trainer)[0] == pytest.approx(math.log(2), abs=1e-6)


def test_the_mark_of_a_reference_covers_an_adapter_once_it_adds_something():
    model = adapted()
    mark = reference_mark(model)
    matrices = {name: weight for name, weight in model.named_parameters() if "lora_" in name}
    next(weight for name, weight in matrices.items() if "lora_A" in name).data.add_(1)
    assert reference_mark(model) == mark  # the other factor is zero, so nothing changed
    next(weight for name, weight in matrices.items() if "lora_B" in name).data.add_(1)
    changed = reference_mark(model)
    assert changed != mark
    next(weight for name, weight in matrices.items() if "lora_A" in name).data.add_(1)
    assert reference_mark(model) not in (mark, changed)


def test_long_prompts_are_cut_and_long_replies_dropped_and_both_are_counted(make, capsys):
    long = [{**PAIRS[0], "prompt": "my order is late . " * 9}, {**PAIRS[0], "chosen": "yes " * 40}]
    trainer = make(pairs=PAIRS + long, max_length=20)
    said = capsys.readouterr().out
    assert "1 of 6 prompts cut from the left" in said and "1 of 6 pairs dropped" in said
    assert [row["number"] for row in trainer.train_dataset] == [1, 2, 3, 4, 5]


def test_the_fallback_is_said_and_gives_the_same_losses(make, monkeypatch, caplog):
    shared = make()
    shared.train()
    monkeypatch.setattr("toylib.engine.trainer.why_not_shared", lambda *_: "its window is 4")
    textbook = make()
    textbook.train()
    assert "prompts are not shared: its window is 4" in caplog.text
    assert logged(shared) == pytest.approx(logged(textbook), abs=1e-5)


def test_batches_hold_rows_of_like_length_each_row_once_in_an_order_of_the_seed():
    lengths = [(7 * i) % 50 for i in range(203)]
    orders = [list(LengthGrouped(lengths, 4, lambda s=seed: s)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == list(range(203))
    batches = [[lengths[i] for i in orders[0][k : k + 4]] for k in range(0, 200, 4)]
    assert sum(max(batch) - min(batch) for batch in batches) / len(batches) < 3
    assert batches != sorted(batches) and batches != sorted(batches, reverse=True)


# Where the reference stands.


def test_a_model_that_device_map_has_spread_is_not_moved(make):
    def never(*_):
        raise RuntimeError("this model is not to be moved")

    for is_policy in (True, False):
        model = tiny_model(2)
        model.hf_device_map = {"model": 0, "lm_head": 1}
        model.to = never
        trainer = make(model) if is_policy else make(ref_model=model)
        batch = collate(tokenize_pairs(MORE, tiny_tokenizer()), 0)
        with torch.no_grad():
            expected = torch.stack(sequence_logps(model, **batch).chunk(2), dim=1)
        found = torch.tensor([row["ref_logps"] for row in trainer.train_dataset])
        assert torch.allclose(found.float(), expected, atol=1e-4)


def test_a_reference_goes_back_to_where_it_was():
    class Elsewhere(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.moves = torch.nn.Parameter(torch.zeros(1)), []

        def to(self, device):
            self.moves.append(str(device))

    model = Elsewhere()
    with placed_on(model, torch.device("cuda", 0)):
        assert model.moves == ["cuda:0"]
    assert model.moves == ["cuda:0", "cpu"]
    with placed_on(model, torch.device("cpu")):
        pass
    assert len(model.moves) == 2


def test_a_reference_with_offloaded_weights_is_refused(make):
    from accelerate import cpu_offload

    with pytest.raises(ValueError) as caught:
        make(ref_model=cpu_offload(tiny_model(1), execution_device="cpu"))
    assert "the reference has weights that are offloaded" in one_sentence(caught)


# Refusals: one sentence each, before anything is trained.


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"beta": 0.0}, "beta must be a positive number, got 0.0"),
        ({"loss_type": "dpo"}, "unknown loss_type 'dpo'"),
        ({"label_smoothing": 0.5}, "label_smoothing must be in [0, 0.5)"),
        ({"max_length": 2}, "no pair fits max_length=2"),
        ({"tokenizer": tiny_tokenizer(eos=None)}, "no end-of-sequence token"),
        ({"tokenizer": tiny_tokenizer(words=[f"w{i}" for i in range(40)] + ["Customer:", "my"])}, "the model knows 24 tokens"),
        ({"pairs": [{name: [{"role": "user", "content": text}] for name, text in pair.items()} for pair in PAIRS]},
         "no chat template"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_in_one_sentence(make, settings, said):
    with pytest.raises(ValueError) as caught:
        make(**settings)
    assert said in one_sentence(caught)


def test_a_reference_that_shares_weights_is_refused(make):
    model = tiny_model(0)
    with pytest.raises(ValueError) as caught:
        make(model, ref_model=model)
    assert "ref_model shares weights with the model" in one_sentence(caught)


def test_without_a_tokenizer_it_says_what_to_pass():
    with pytest.raises(ValueError) as caught:
        DPOTrainer(tiny_model(0), TrainingArguments(output_dir="never", use_cpu=True), Dataset.from_list(PAIRS))
    assert "pass the model's tokenizer" in one_sentence(caught) and not Path("never").exists()


def test_without_a_pad_token_anything_pads_and_nothing_changes(make):
    runs = [make(tokenizer=tokenizer) for tokenizer in (tiny_tokenizer(), tiny_tokenizer(pad=None))]
    for trainer in runs:
        trainer.train()
    assert logged(runs[0]) == logged(runs[1])


def test_messages_are_rendered_by_the_chat_template(make):
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    pairs = [{name: [{"role": roles[name], "content": pair[name].strip()}] for name in roles} for pair in PAIRS]
    tokenizer = tiny_tokenizer(
        words=["user", "assistant", *dict.fromkeys(" ".join(map(" ".join, map(dict.values, PAIRS))).split())]
    )
    tokenizer.chat_template = CHAT
    trainer = make(tiny_model(0, vocab_size=len(tokenizer)), pairs, tokenizer=tokenizer)
    trainer.train()
    assert logged(trainer)[0] == pytest.approx(math.log(2), abs=1e-6)


# Numbers that are not finite.


class Spoil(TrainerCallback):
    def __init__(self, at):
        self.at = at

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.at:
            self.kept = weights(model).clone()
            model.register_forward_hook(lambda _, __, output: setattr(output, "logits", output.logits * float("nan")))


def test_a_loss_that_is_not_finite_stops_the_run_names_the_rows_and_keeps_the_weights(make, tmp_path):
    spoil = Spoil(at=3)
    trainer = make(callbacks=[spoil], save_strategy="steps", save_steps=2)
    with pytest.raises(FloatingPointError) as caught:
        trainer.train()
    said = one_sentence(caught)
    assert "the loss is nan at step 4, rows " in said and str(tmp_path / "out" / "last-finite") in said
    kept = type(trainer.model).from_pretrained(tmp_path / "out" / "last-finite")
    assert torch.equal(weights(kept), spoil.kept) and spoil.kept.isfinite().all()
    assert (tmp_path / "out" / "checkpoint-2" / "toylib.json").is_file()


class SpoilGradient(Spoil):
    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.at:
            self.kept = weights(model).clone()
            next(model.parameters()).register_hook(lambda gradient: gradient * float("inf"))


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(make):
    spoil = SpoilGradient(at=2)
    trainer = make(callbacks=[spoil])
    with pytest.raises(FloatingPointError) as caught:
        trainer.train()
    assert "the gradient is not finite at step 3" in one_sentence(caught)
    assert torch.equal(weights(trainer.model), spoil.kept)


def test_a_policy_with_a_window_is_found_out_though_its_reference_has_none(make, caplog):
    from transformers import MistralConfig, MistralForCausalLM

    shape = {
        "vocab_size": 24,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    policy = MistralForCausalLM(MistralConfig(**shape, num_key_value_heads=2, sliding_window=4)).eval()
    make(policy, ref_model=tiny_model(1))
    assert "a layer's attention window is 4" in caplog.text


def test_a_pair_longer_than_the_model_has_positions_is_named(make):
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=24, n_embd=16, n_layer=1, n_head=2, n_positions=8)).eval()
    with pytest.raises(ValueError) as caught:
        make(model)
    assert "the model's 8 positions: lower max_length" in one_sentence(caught)


# The cache of reference log-probs.


def cached(tmp_path):
    return sorted((tmp_path / "cache").glob("*"))


def test_a_second_run_takes_the_reference_log_probs_from_the_cache(make, tmp_path, monkeypatch):
    first = make()
    assert len(cached(tmp_path)) == 1
    monkeypatch.setattr("toylib.engine.reference_cache.reference_logps", lambda *_: pytest.fail("scored again"))
    second = make(beta=0.7, learning_rate=1.0)  # neither changes the reference
    assert [row["ref_logps"] for row in first.train_dataset] == [row["ref_logps"] for row in second.train_dataset]


@pytest.mark.parametrize(
    "change",
    [
        {"model": tiny_model(5)},
        {"pairs": MORE[:-1]},
        {"pairs": [*MORE[:-1], {**MORE[-1], "chosen": " yes !"}]},
        {"max_length": 12},
        {"bf16": True},
        {"tokenizer": tiny_tokenizer(eos="<unk>")},
        {"model": tiny_model(0, dtype=torch.float64)},
        {"model": tiny_model(0, rms_norm_eps=0.1)},
    ],
    ids=["weights", "fewer pairs", "one reply", "length", "precision", "end of sequence", "dtype", "configuration"],
)
def test_whatever_the_numbers_depend_on_makes_another_cache(make, tmp_path, change):
    make()
    make(**change)
    assert len(cached(tmp_path)) == 2


@pytest.mark.parametrize("how", ["empty", "truncated", "one number changed", "another run's", "not finite"])
def test_a_damaged_or_foreign_cache_is_never_used(make, tmp_path, how, caplog):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    good = [row["ref_logps"] for row in make().train_dataset]
    (path,) = cached(tmp_path)
    with safe_open(path, "pt") as file:
        marks = file.metadata()
    logps = load_file(path)["logps"]
    if how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-8])
    elif how == "one number changed":
        save_file({"logps": logps + 0.5}, path, metadata=marks)
    elif how == "another run's":
        save_file({"logps": logps}, path, metadata=marks | {"key": "0" * 64})
    else:
        save_file({"logps": logps * float("nan")}, path, metadata=marks)
    assert [row["ref_logps"] for row in make().train_dataset] == good
    assert "computed anew" in caplog.text


def test_a_folder_that_cannot_be_written_costs_the_cache_and_not_the_run(make, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOYLIB_CACHE", str(tmp_path / "file"))
    trainer = make()
    trainer.train()
    assert "were not cached" in caplog.text and len(logged(trainer)) == 6
