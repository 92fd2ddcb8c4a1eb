"""DPOTrainer: the loss of the loop, the same run after a kill, clear refusals, and nothing lost on the way."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny import CHAT, PAIRS, one_sentence, tiny_model, tiny_tokenizer
from transformers import TrainerCallback, TrainingArguments

from toylib import DPOTrainer, dpo_loss, fingerprint, frozen_copy, sequence_logps
from toylib.engine.checkpoints import planned_updates
from toylib.engine.reference_cache import placed_on, reference_mark
from toylib.engine.sampler import LengthGrouped
from toylib.engine.trainer import METRICS
from toylib.tokens import collate, tokenize_pairs

MORE = [{**pair, "prompt": pair["prompt"].replace("my", "the")} for pair in PAIRS] + PAIRS * 2


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOYLIB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def make(tmp_path):
    def trainer(model=None, pairs=MORE, eval_pairs=None, tokenizer=None, output=tmp_path / "out", **settings):
        ours = (
            "ref_model",
            "beta",
            "loss_type",
            "label_smoothing",
            "average_logps",
            "max_length",
            "callbacks",
            "optimizers",
        )
        options = {name: settings.pop(name) for name in ours if name in settings}
        base = {"use_cpu": True, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "logging_steps": 1}
        base |= {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "max_steps": 6}
        return DPOTrainer(
            tiny_model(0) if model is None else model,
            TrainingArguments(output_dir=str(output), **(base | settings)),
            Dataset.from_list(pairs),
            {name: Dataset.from_list(part) for name, part in eval_pairs.items()}
            if isinstance(eval_pairs, dict)
            else eval_pairs and Dataset.from_list(eval_pairs),
            processing_class=tokenizer or tiny_tokenizer(),
            **options,
        )

    return trainer


def logged(trainer, name="loss"):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def test_the_first_loss_is_ln2_and_the_reference_is_the_model_as_it_was(make):
    trainer = make()
    trainer.train()
    assert logged(trainer)[0] == pytest.approx(math.log(2), abs=1e-7)
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
    assert logged(trainer)[0] == pytest.approx(math.log(2), abs=1e-7)


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
    assert logged(trainer)[0] == pytest.approx(math.log(2), abs=1e-7)


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


# Checkpoints.


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


def test_a_new_run_in_an_old_folder_keeps_its_own_checkpoints(make, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}
    settings["lr_scheduler_type"] = "constant"  # so that a step too many would show
    make(**settings, max_steps=8).train()
    make(**settings, max_steps=5, beta=0.5).train()
    assert sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-5"]
    again = make(**settings, max_steps=5, beta=0.5)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 5  # it was done, and is not trained a step further


def test_weights_that_broke_are_never_saved(make, tmp_path):
    trainer = make(learning_rate=1e39, save_strategy="steps", save_steps=1)
    with pytest.raises(FloatingPointError) as caught:
        trainer.train()
    assert "not finite" in one_sentence(caught)
    assert "start anew with a lower learning_rate (a resumed run keeps the rate it began with)" in one_sentence(caught)
    assert not list((tmp_path / "out").glob("*/model.safetensors"))


@pytest.fixture
def saved(make, tmp_path):
    """A finished run of eight steps over two epochs and a half, a checkpoint at every one; its losses and weights."""
    trainer = make(save_strategy="steps", save_steps=1, max_steps=8, gradient_accumulation_steps=2)
    trainer.train()
    return trainer, tmp_path / "out"


@pytest.mark.parametrize("step", [1, 3, 4, 7])
def test_a_resumed_run_ends_in_the_same_weights_bit_for_bit(saved, make, step, tmp_path):
    trainer, out = saved
    copied = tmp_path / "resumed"
    shutil.copytree(out / f"checkpoint-{step}", copied / f"checkpoint-{step}")
    again = make(output=copied, save_strategy="steps", save_steps=1, max_steps=8, gradient_accumulation_steps=2)
    again.train(resume_from_checkpoint=True)
    assert torch.equal(weights(again.model), weights(trainer.model))
    assert logged(again)[-1] == logged(trainer)[-1]


def spoil_checkpoint(folder, how):
    weights = folder / "model.safetensors"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "one bit flipped":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif how == "without its optimizer":
        (folder / "optimizer.pt").unlink()
    elif how == "cut off before its seal":
        (folder / "toylib.json").unlink()
    elif how == "seal damaged":
        (folder / "toylib.json").write_text("{")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("truncated", "model.safetensors is damaged"),
        ("one bit flipped", "model.safetensors is damaged"),
        ("without its optimizer", "optimizer.pt is missing"),
        ("cut off before its seal", "cut off while being written, or made by another program"),
        ("seal damaged", "cut off while being written, or made by another program"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_is_used(saved, make, how, said, capsys):
    trainer, out = saved
    spoil_checkpoint(out / "checkpoint-8", how)
    again = make(max_steps=8, gradient_accumulation_steps=2)
    with pytest.raises(ValueError) as caught:
        again.train(resume_from_checkpoint=str(out / "checkpoint-8"))
    assert said in one_sentence(caught) and f"{out / 'checkpoint-7'} is whole" in one_sentence(caught)
    again.train(resume_from_checkpoint=True)
    assert f"passed over {out / 'checkpoint-8'}: " in capsys.readouterr().out
    assert torch.equal(weights(again.model), weights(trainer.model))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"beta": 0.5}, "its beta is 0.1, here it is 0.5"),
        ({"pairs": PAIRS}, "its pairs is"),
        ({"model": tiny_model(7)}, "its reference is"),
        ({"loss_type": "ipo"}, "its loss_type is 'sigmoid'"),
        ({"seed": 1}, "its seed is 42, here it is 1"),
        ({"per_device_train_batch_size": 4}, "its pairs an update is 4, here it is 8"),
        ({"train_sampling_strategy": "sequential"}, "its train_sampling_strategy is 'random', here it is 'sequential'"),
        ({"learning_rate": 2e-3}, "its learning_rate is 0.001, here it is 0.002"),
        ({"weight_decay": 0.1}, "its weight_decay is 0.0, here it is 0.1"),
        ({"adam_beta2": 0.99}, "its adam_beta2 is 0.999, here it is 0.99"),
        ({"max_grad_norm": 0.5}, "its max_grad_norm is 1.0, here it is 0.5"),
        ({"optim": "sgd"}, "here it is 'sgd'"),
        ({"optimizers": (torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1e-3), None)}, "its learning_rate is 0.001"),
        ({"lr_scheduler_type": "cosine"}, "here it is 'cosine, 0 updates of warm-up, 8 updates in all'"),
        ({"warmup_steps": 2}, "here it is 'linear, 2 updates of warm-up, 8 updates in all'"),
        ({"max_steps": 9}, "its schedule is 'linear, 0 updates of warm-up, 8 updates in all'"),
        ({"bf16": True}, "its mixed_precision is 'no', here it is 'bf16'"),
        ({"model": tiny_model(0, dtype=torch.float64)}, "its dtype is 'torch.float32', here it is 'torch.float64'"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_run_is_refused(saved, make, change, said):
    other = make(**{"model": tiny_model(0), "gradient_accumulation_steps": 2, "max_steps": 8, **change})
    with pytest.raises(ValueError) as caught:
        other.train(resume_from_checkpoint=str(saved[1] / "checkpoint-8"))
    assert "it belongs to another run" in one_sentence(caught) and said in one_sentence(caught)


def test_what_changes_no_update_may_differ_at_a_resume(saved, make):
    trainer, out = saved
    changes = {"save_strategy": "steps", "save_steps": 3, "save_total_limit": 1, "logging_steps": 2, "eval_steps": 2}
    changes |= {"eval_strategy": "steps", "eval_pairs": PAIRS, "output": out / "other"}
    again = make(max_steps=8, gradient_accumulation_steps=2, **changes)
    again.train(str(out / "checkpoint-3"))
    assert torch.equal(weights(again.model), weights(trainer.model)) and len(logged(again, "eval_loss")) == 3
    assert sorted(path.name for path in (out / "other").iterdir()) == ["checkpoint-8"]
    # Only roundings differ where four pairs are one step and not two, and where activations are computed twice.
    split = make(max_steps=8, per_device_train_batch_size=4, gradient_checkpointing=True)
    split.train(str(out / "checkpoint-3"))
    assert torch.allclose(weights(split.model), weights(trainer.model), atol=1e-5)


@pytest.mark.parametrize(("first", "longer"), [({"max_steps": 4}, {"max_steps": 9}), ({}, {"num_train_epochs": 2})])
@pytest.mark.parametrize("schedule", ["constant", "constant_with_warmup", "cosine"])
def test_a_run_goes_on_for_longer_only_under_a_schedule_without_end(make, tmp_path, schedule, first, longer):
    settings = {"lr_scheduler_type": schedule, "warmup_steps": 3, "save_strategy": "steps", "save_steps": 2}
    settings |= {"max_steps": -1, "num_train_epochs": 1}
    make(**settings | first).train()
    again = make(**settings | longer)
    if schedule == "cosine":
        with pytest.raises(ValueError) as caught:
            again.train(resume_from_checkpoint=True)
        assert "its schedule is 'cosine" in one_sentence(caught) and "nor can the" in one_sentence(caught)
        return
    again.train(resume_from_checkpoint=True)
    straight = make(**settings | longer, output=tmp_path / "straight")
    straight.train()
    assert torch.equal(weights(again.model), weights(straight.model))
    assert again.state.global_step == straight.state.global_step > 6


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("more", [{}, {"dataloader_drop_last": True}, {"num_train_epochs": 0.4}, {"max_steps": 7}])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_planned_updates_are_the_trainers(make, size, more, accumulation):
    settings = {"max_steps": -1, "per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
    trainer = make(**settings | more)
    *_, planned = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    assert planned_updates(trainer.args, len(MORE)) == planned


def test_an_optimizer_and_a_schedule_made_outside_are_part_of_the_run(make):
    def run(rate, save="no", **resume):
        model = tiny_model(0)
        optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        trainer = make(model, optimizers=(optimizer, schedule), save_strategy=save, save_steps=2)
        trainer.train(**resume)
        return trainer

    whole = run(0.01, save="steps")
    again = run(0.01, resume_from_checkpoint=str(whole.args.output_dir) + "/checkpoint-4")
    assert torch.equal(weights(again.model), weights(whole.model))
    whole.train(resume_from_checkpoint=True)  # its optimizer has moved on, and is still the one it was given
    with pytest.raises(ValueError) as caught:
        run(0.02, resume_from_checkpoint=True)
    assert "its learning_rate is [0.01], here it is [0.02]" in one_sentence(caught)


def test_a_resumed_lora_run_ends_in_the_same_weights_and_other_adapters_are_refused(make, tmp_path):
    peft = pytest.importorskip("peft")

    def trainer(**changes):
        torch.manual_seed(0)
        settings = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1}
        adapted = peft.get_peft_model(tiny_model(0), peft.LoraConfig(**settings | changes))
        return make(adapted, learning_rate=3e-2, save_strategy="steps", save_steps=2)

    whole = trainer()
    whole.train()
    shutil.rmtree(tmp_path / "out" / "checkpoint-6")
    again = trainer()
    again.train(resume_from_checkpoint=True)
    assert torch.equal(weights(again.model), weights(whole.model))
    for change, said in (
        ({"r": 4}, "its default adapter's r is 2, here it is 4"),
        ({"lora_alpha": 8}, "its default adapter's lora_alpha is 4, here it is 8"),
        ({"target_modules": ["q_proj"]}, "default adapter's target_modules is ['q_proj', 'v_proj'], here it is ['q_proj']"),
        ({"use_rslora": True}, "default adapter's use_rslora is None, here it is True"),
    ):  # fmt: skip
        with pytest.raises(ValueError) as caught:
            trainer(**change).train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
        assert said in one_sentence(caught)
    with pytest.raises(ValueError) as caught:  # the base is the same, the seed, the pairs: and it is another run
        make(learning_rate=3e-2).train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert "it belongs to another run" in one_sentence(caught)


def test_with_nothing_to_resume_it_says_so(make):
    with pytest.raises(ValueError) as caught:
        make().train(resume_from_checkpoint=True)
    assert "no checkpoint to resume" in one_sentence(caught)


def test_a_disk_that_fills_up_while_saving_leaves_the_last_checkpoint(make, tmp_path, monkeypatch):
    trainer = make(save_strategy="steps", save_steps=2, save_total_limit=1)
    write = type(trainer)._save_optimizer_and_scheduler

    def full(self, folder):
        if "checkpoint-4" in folder:
            Path(folder, "optimizer.pt").write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(self, folder)

    monkeypatch.setattr(type(trainer), "_save_optimizer_and_scheduler", full)
    with pytest.raises(OSError, match="checkpoint-4 could not be saved .*No space left on device") as caught:
        trainer.train()
    assert "the checkpoints before it are untouched" in one_sentence(caught)
    assert sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*")) == ["checkpoint-2"]
    monkeypatch.undo()
    whole = make(save_strategy="steps", save_steps=2)
    whole.train(resume_from_checkpoint=True)
    assert whole.state.global_step == 6


def test_only_as_many_checkpoints_are_kept_as_asked_for_and_they_know_it(make, tmp_path):
    make(save_strategy="steps", save_steps=1, save_total_limit=2).train()
    kept = torch.load(tmp_path / "out" / "checkpoint-6" / "training_args.bin", weights_only=False)
    assert kept.save_total_limit == 2
    assert sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*")) == ["checkpoint-5", "checkpoint-6"]


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from datasets import Dataset
from transformers import TrainerCallback, TrainingArguments
from tiny import PAIRS, tiny_model, tiny_tokenizer
from toylib import DPOTrainer
import toylib.engine.checkpoints as checkpoints

where, step = sys.argv[2], int(sys.argv[3])
class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if where == "training" and state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
sealed = checkpoints.seal
def seal(folder, run):
    if where == "saving" and folder.name == f"checkpoint-{{step}}":
        os.kill(os.getpid(), signal.SIGKILL)
    sealed(folder, run)
checkpoints.seal = seal
arguments = TrainingArguments(output_dir=sys.argv[1], use_cpu=True, per_device_train_batch_size=2, learning_rate=1e-3,
    max_steps=9, save_steps=2, save_total_limit=1, report_to="none", disable_tqdm=True)
trainer = DPOTrainer(tiny_model(0), arguments, Dataset.from_list(PAIRS * 2), processing_class=tiny_tokenizer(), callbacks=[Kill()])
trainer.train(resume_from_checkpoint=where == "resume" or None)
trainer.save_model(sys.argv[1] + "/end")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "step"), [("training", 3), ("training", 5), ("training", 8), ("saving", 4), ("saving", 6)]
)
def test_kill_minus_nine_then_resume_gives_the_same_weights(tmp_path, where, step):
    script = tmp_path / "run.py"
    script.write_text(KILLED.format(tests=str(Path(__file__).parent)))

    def run(folder, *how):
        command = [sys.executable, str(script), str(tmp_path / folder), *map(str, how)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=120)

    assert run("whole", "none", 0).returncode == 0
    assert run("killed", where, step).returncode == -9
    resumed = run("killed", "resume", 0)
    assert resumed.returncode == 0, resumed.stderr
    ends = [(tmp_path / folder / "end" / "model.safetensors").read_bytes() for folder in ("whole", "killed")]
    assert ends[0] == ends[1]


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


# The command line.


def command_line(*arguments):
    from toylib.engine.cli import main

    return main([*map(str, arguments)])


@pytest.fixture
def files(tmp_path):
    tiny_model(0).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in MORE))
    return ["--model", tmp_path / "model", "--data", tmp_path / "pairs.jsonl", "--output", tmp_path / "out", "--cpu"]


def test_the_command_line_trains_saves_and_resumes(files, tmp_path, capsys):
    options = [*files, "--batch-size", 2, "--learning-rate", 1e-3, "--save-steps", 2, "--set", "logging_steps=1"]
    options += ["--eval-data", tmp_path / "pairs.jsonl", "--set", "disable_tqdm=true"]
    assert command_line(*options, "--max-steps", 4) == 0
    first = type(tiny_model()).from_pretrained(tmp_path / "out")
    assert "'eval_loss'" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "out" / "checkpoint-4")
    assert command_line(*options, "--max-steps", 4, "--resume") == 0
    assert (
        fingerprint(type(tiny_model()).from_pretrained(tmp_path / "out"))
        == fingerprint(first)
        != fingerprint(tiny_model(0))
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--model", "./nowhere"], "no folder './nowhere'"),
        (["--beta", "-1"], "beta must be a positive number"),
        (["--set", "colour=red"], "--set colour=red: expected name=value"),
        (["--set", "_n_gpu=2"], "--set _n_gpu=2: expected name=value"),
        (["--set", "max_grad_norm=abc"], "--set max_grad_norm: invalid float value: 'abc'"),
        (["--set", "logging_steps=5", "--set", "eval_strategy=maybe"], "--set eval_strategy: invalid choice: 'maybe'"),
        (["--set", "bf16=perhaps"], "--set bf16: Truthy value expected"),
        (["--eval-steps", "5"], "--eval-steps needs --eval-data"),
        (["--resume"], "no checkpoint to resume"),
    ],
)
def test_the_command_line_says_in_one_sentence_what_to_mend(files, options, said, capsys):
    assert command_line(*files, *options) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("error: ") and said in told


def test_settings_that_need_each_other_are_judged_together(files, capsys):
    options = [
        "--eval-data",
        files[3],
        "--eval-steps",
        2,
        "--save-steps",
        2,
        "--max-steps",
        4,
        "--gradient-checkpointing",
    ]
    assert command_line(*files, *options, "--set", "load_best_model_at_end=true", "--set", "disable_tqdm=true") == 0
    assert "deprecated" not in capsys.readouterr().err


def test_help_names_every_option_with_a_sentence_and_shows_examples():
    from toylib.engine.cli import parser

    said = parser().format_help()
    assert "torchrun --nproc_per_node 2" in said and "examples:" in said
    assert all(action.help for action in parser()._actions)


@pytest.mark.slow
def test_the_module_runs_as_documented_without_a_warning(root):
    done = subprocess.run(
        [sys.executable, "-m", "toylib", "--help"], cwd=root, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == "" and "usage: python -m toylib" in done.stdout


# Accelerate has FSDP for GPUs only: on CPUs it falls back to DDP without a word. Told that two CPUs are GPUs, it shards.
SHARDED = """
import accelerate.state
from accelerate.utils import DistributedType
from toylib.engine.cli import main

accelerate.state.PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
raise SystemExit(main())
"""
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
FSDP |= {"FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT", "ACCELERATE_TORCH_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["DDP", "FSDP", "FSDP, resumed"])
def test_two_processes_give_the_losses_of_one_at_twice_the_batch(files, tmp_path, root, how):
    (tmp_path / "sharded.py").write_text(SHARDED)
    (tmp_path / "held_out.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in MORE[:7]))

    def run(output, *launch, batch, more=(), **environment):
        options = ["--batch-size", batch, "--max-steps", 5, "--learning-rate", 1e-3, "--set", "logging_steps=1"]
        options += ["--set", "disable_tqdm=true", "--eval-data", tmp_path / "held_out.jsonl", "--eval-steps", 5]
        options += ["--set", f"per_device_eval_batch_size={batch}", "--save-steps", 3, "--output", tmp_path / output]
        environment |= {"PYTHONPATH": str(root), "TOYLIB_CACHE": str(tmp_path / output), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*map(str, [sys.executable, "-m", *launch, *files[:4], *options, *more])],
            check=False, capture_output=True, text=True, env=os.environ | environment, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        history = json.loads((tmp_path / output / "checkpoint-5" / "trainer_state.json").read_text())["log_history"]
        (held_out,) = (entry for entry in history if "eval_loss" in entry)
        steps = [[entry[name] for name in ("loss", *METRICS)] for entry in history if "loss" in entry]
        return steps, [held_out[f"eval_{name}"] for name in ("loss", *METRICS)]

    one, one_held_out = run("one", "toylib", batch=4, more=["--cpu"])
    spawn = ("torch.distributed.run", "--nproc_per_node", "2")
    if how == "DDP":
        two, two_held_out = run("two", *spawn, "-m", "toylib", batch=2, more=["--cpu"])
    else:
        two, two_held_out = run("two", *spawn, tmp_path / "sharded.py", batch=2, **FSDP)
        assert (tmp_path / "two" / "checkpoint-3" / "pytorch_model_fsdp.bin").is_file()
    if how == "FSDP, resumed":
        shutil.rmtree(tmp_path / "two" / "checkpoint-5")
        two, two_held_out = run("two", *spawn, tmp_path / "sharded.py", batch=2, more=["--resume"], **FSDP)
    # The rate warms up from 0, so at the first two steps every margin is a rounding error around 0, of any sign.
    accuracy = 1 + METRICS.index("rewards/accuracies")
    for step in range(2):
        one[step][accuracy] = two[step][accuracy] = 0
    assert len(one) == len(two) == 5
    for ours, theirs in zip(one, two, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert one_held_out == pytest.approx(two_held_out, abs=1e-4)  # 7 pairs: one process is handed one a second time
    ends = [type(tiny_model()).from_pretrained(tmp_path / output) for output in ("one", "two")]
    assert torch.allclose(*map(weights, ends), atol=1e-5)
