"""What DPOTrainer refuses or warns about before the first update: one sentence each, with the right reason."""

import copy

import pytest
import torch
from datasets import Dataset, DatasetDict
from tiny import PAIRS, experts, one_sentence, tiny_model, tiny_tokenizer
from transformers import T5Config, T5ForConditionalGeneration, TrainingArguments

from toylib import DPOTrainer, frozen_copy, train_dpo
from toylib.replies import sample_replies
from toylib.tokens import tokenize_pairs

DATA = Dataset.from_list(PAIRS)


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    monkeypatch.setenv("TOYLIB_CACHE", str(tmp_path / "cache"))
    base = {"output_dir": str(tmp_path / "out"), "use_cpu": True, "per_device_train_batch_size": 2, "max_steps": 2}
    base |= {
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "learning_rate": 1e-3,
        "logging_steps": 1,
    }
    return lambda **more: TrainingArguments(**(base | more))


def made(arguments, model=None, data=DATA, **settings):
    model = tiny_model() if model is None else model
    return DPOTrainer(model, arguments, data, processing_class=tiny_tokenizer(), **settings)


def t5():
    shape = {"d_model": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "d_kv": 8, "decoder_start_token_id": 0}
    return T5ForConditionalGeneration(T5Config(vocab_size=24, **shape))


def adapted_by_transformers():
    peft = pytest.importorskip("peft")
    model = tiny_model()
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"]))
    return model


def unsavable():
    model = tiny_model()
    model.generation_config.num_return_sequences, model.generation_config.num_beams = 3, 2
    return model


@pytest.mark.parametrize(
    ("model", "settings", "reason"),
    [
        (lambda: "support-lm", {}, "got 'support-lm': load it with toylib.load_model"),
        (t5, {}, "T5ForConditionalGeneration is an encoder-decoder model"),
        (lambda: frozen_copy(tiny_model()), {}, "no weight of the model requires a gradient"),
        (adapted_by_transformers, {}, "add it with peft.get_peft_model(model, config)"),
        (unsavable, {}, "generation_config cannot be saved"),
        (tiny_model, {"max_length": None}, "max_length must be a whole number of at least 1, got None"),
        (tiny_model, {"data": DATA.add_column("images", [["x.png"]] * len(DATA))}, "train_dataset has images"),
        (tiny_model, {"data": DatasetDict(train=DATA)}, "a dictionary of splits (train): pass one of them"),
        (tiny_model, {"data": DATA.remove_columns("prompt")}, "train_dataset has no prompt, only chosen, rejected"),
        (tiny_model, {"data": DATA.select([])}, "train_dataset has no pairs"),
        (tiny_model, {"eval_dataset": DATA.remove_columns("chosen")}, "eval set has no chosen, only prompt, rejected"),
        (tiny_model, {"ref_model": tiny_model(1, vocab_size=8)}, "ref_model does not fit: train row 1"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_right_reason(arguments, model, settings, reason):
    with pytest.raises(ValueError) as caught:
        made(arguments(), model(), **settings)
    assert reason in one_sentence(caught)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"args": {"output_dir": "x"}}, "args must be transformers.TrainingArguments(output_dir=…), got dict"),
        ({"processing_class": "gpt2"}, "processing_class must be the model's loaded tokenizer, got str"),
        ({"ref_model": "gpt2"}, "ref_model must be a loaded model, got 'gpt2'"),
        ({"train_dataset": (pair for pair in PAIRS)}, "train_dataset is a generator, which can be read only once"),
        ({"train_dataset": None}, "train_dataset is missing"),
        ({"eval_dataset": Dataset.from_list([])}, "eval set has no pairs"),
        ({"train_dataset": [PAIRS[0], PAIRS[1] | {"chosen": None}]}, "row 2: prompt, chosen and rejected must be all"),
        ({"train_dataset": [PAIRS[0] | {"prompt": [{"role": "user", "content": "x"}]}]}, "row 1: prompt, chosen and"),
        ({"beta": "0.1"}, "beta must be a positive number, got '0.1'"),
        ({"beta": float("nan")}, "beta must be a positive number, got nan"),
        ({"loss_type": ["sigmoid"]}, "unknown loss_type ['sigmoid']"),
        ({"label_smoothing": -0.1}, "label_smoothing must be in [0, 0.5), got -0.1"),
        ({"max_length": 2}, "no pair fits max_length=2"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_argument_of_the_wrong_kind_is_named(arguments, change, reason):
    given = {"args": arguments(), "train_dataset": DATA, "processing_class": tiny_tokenizer()} | change
    with pytest.raises(ValueError) as caught:
        DPOTrainer(tiny_model(), **given)
    assert reason in one_sentence(caught)


def test_arguments_that_cannot_train_are_refused(arguments, tmp_path):
    (tmp_path / "file").write_text("a file where the folder should be")
    for given, reason in (
        (None, "pass transformers.TrainingArguments(output_dir=…)"),
        (arguments(fp16=True), "fp16=True needs a GPU"),
    ):
        with pytest.raises(ValueError) as caught:
            made(given)
        assert reason in one_sentence(caught)


def test_an_output_folder_that_cannot_be_written_is_named_before_the_first_update(arguments, tmp_path, monkeypatch):
    def full(dir=None):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("toylib.engine.checks.tempfile.TemporaryFile", full)
    with pytest.raises(ValueError) as caught:
        made(arguments())
    assert f"output_dir {tmp_path / 'out'} cannot be written: Read-only file system" in one_sentence(caught)


def test_sampling_settings_without_sampling_are_mended_and_saved(arguments, tmp_path, caplog):
    model = tiny_model()
    model.generation_config.temperature = 0.9
    trainer = made(arguments(), model)
    trainer.train()
    trainer.save_model()
    assert "do_sample" in caplog.text and (tmp_path / "out" / "generation_config.json").is_file()


def test_the_arguments_given_are_not_changed(arguments):
    given = arguments(remove_unused_columns=True)
    before = copy.deepcopy(given.to_dict())
    trainer = made(given)
    trainer.train()
    assert given.to_dict() == before and trainer.args is not given and trainer.args.remove_unused_columns is False


def test_weights_too_coarse_for_the_rate_give_one_warning(arguments, caplog):
    made(arguments(learning_rate=1e-6), tiny_model(dtype=torch.bfloat16))
    assert caplog.text.count("load the model in float32") == 1 and "learning_rate=1e-06 leaves" in caplog.text
    caplog.clear()
    made(arguments(learning_rate=1e-6))
    made(arguments(learning_rate=1e-1), tiny_model(dtype=torch.bfloat16))
    assert "load the model in float32" not in caplog.text


def test_a_mixture_of_experts_starts_at_ln2_plus_its_weighted_router_loss(arguments, caplog):
    trainer = made(arguments(), experts(), eval_dataset=DATA)
    trainer.train()
    for prefix, entry in (
        ("", trainer.state.log_history[0]),
        ("eval_", made(arguments(), experts(), eval_dataset=DATA).evaluate()),
    ):
        assert entry[f"{prefix}aux_loss"] > 0.5
        assert entry[f"{prefix}loss"] == pytest.approx(0.693147 + 0.5 * entry[f"{prefix}aux_loss"], abs=1e-5)
    assert "left out" not in caplog.text and "router's auxiliary loss is a mean over whole sequences" in caplog.text


def test_a_router_loss_that_the_model_does_not_return_is_left_out_and_the_log_says_so(arguments, caplog):
    plain = tiny_model(output_router_logits=True, router_aux_loss_coef=0.5)  # a Llama returns none
    trainer = made(arguments(max_steps=1), plain)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert caplog.text.count("router's auxiliary loss (router_aux_loss_coef=0.5) is left out") == 1


@pytest.mark.parametrize("name", ["layerdrop", "jitter_noise", "attention_dropout", "resid_pdrop"])
def test_noise_is_off_and_other_numbers_of_a_module_stay(arguments, name):
    model = tiny_model()
    setattr(model.model.layers[0], name, 0.5)
    model.model.layers[0].undropout_scale = 0.5
    made(arguments(), model)
    assert getattr(model.model.layers[0], name) == 0.0 and model.model.layers[0].undropout_scale == 0.5


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_data_workers_that_are_not_forked_hand_over_the_same_batches(arguments, method):
    batches = []
    for workers in (0, 1):
        loader = made(arguments(dataloader_num_workers=workers)).get_train_dataloader()
        if workers:
            loader.base_dataloader.multiprocessing_context = method
        batches.append([{name: tensor.tolist() for name, tensor in batch.items()} for batch in loader])
    assert batches[0] == batches[1] and len(batches[0]) == 2


def test_pairs_weigh_alike_in_the_log_and_in_the_update_when_the_last_batch_is_smaller(arguments):
    pairs = Dataset.from_list([*PAIRS, {**PAIRS[1], "chosen": " sorry sorry"}])
    losses, ends = [], []
    for size, times in ((5, 1), (2, 3)):
        how = arguments(
            per_device_train_batch_size=size,
            gradient_accumulation_steps=times,
            train_sampling_strategy="sequential",
            max_steps=1,
        )
        trainer = made(how, data=pairs, ref_model=tiny_model(1))
        trainer.train()
        losses.append([trainer.state.log_history[0][name] for name in ("loss", "grad_norm")])
        ends.append(torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()]))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert torch.allclose(*ends, atol=1e-6)


def test_a_warm_up_as_long_as_the_run_is_mentioned(arguments, caplog):
    for warmup, times in ((2, 1), (1, 0)):
        caplog.clear()
        made(arguments(max_steps=2, warmup_steps=warmup))
        assert caplog.text.count("the warm-up takes all 2 updates") == times


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: train_dpo("gpt2", tiny_tokenizer(), PAIRS), "model must be a loaded model, got 'gpt2'"),
        (lambda: train_dpo(tiny_model(), "gpt2", PAIRS), "tokenizer must be the model's loaded tokenizer, got str"),
        (lambda: train_dpo(tiny_model(), None, PAIRS), "tokenizer is missing"),
        (
            lambda: train_dpo(tiny_model(), tiny_tokenizer(), PAIRS, ref_model="gpt2"),
            "ref_model must be a loaded model",
        ),
        (lambda: train_dpo(tiny_model(), tiny_tokenizer(), "pairs.jsonl"), "row 1: a pair must be a dict with prompt"),
        (lambda: tokenize_pairs([{"prompt": "a", "good": "b"}], tiny_tokenizer()), "row 1: no chosen and no rejected"),
        (lambda: tokenize_pairs([*PAIRS, {"prompt": "a"}], tiny_tokenizer()), f"row {len(PAIRS) + 1}: no chosen"),
        (lambda: tokenize_pairs(PAIRS, tiny_tokenizer(), 7.5), "max_length must be a whole number of at least 1"),
        (lambda: tokenize_pairs(PAIRS, tiny_tokenizer(), "9"), "max_length must be a whole number of at least 1"),
        (lambda: sample_replies("gpt2", tiny_tokenizer(), ["a"]), "model must be a loaded model"),
        (lambda: sample_replies(tiny_model(), tiny_tokenizer(), ["a"], max_new_tokens=1.5), "max_new_tokens must be"),
    ],
)
def test_what_no_function_can_use_is_one_sentence_that_names_the_argument(call, said):
    with pytest.raises(ValueError, match=said) as caught:
        call()
    one_sentence(caught)


def test_prompts_of_unequal_length_are_sampled_with_a_tokenizer_without_pad():
    tokenizer = tiny_tokenizer()
    with_pad = sample_replies(tiny_model(), tokenizer, ["a b c", "a"], seed=1, max_new_tokens=4).texts
    tokenizer.pad_token = None
    assert sample_replies(tiny_model(), tokenizer, ["a b c", "a"], seed=1, max_new_tokens=4).texts == with_pad
