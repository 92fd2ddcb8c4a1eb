"""Loading a model: what comes out, and one sentence for each way it can fail."""

import json
import os
import subprocess
import sys

import pytest
import torch
from tiny import one_sentence, tiny_model, tiny_tokenizer

from toylib import load_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a tiny model in bf16, saved in training mode, and a tokenizer that pads on the left."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model(dtype=torch.bfloat16).train().save_pretrained(folder)
    tiny_tokenizer(padding_side="left").save_pretrained(folder)
    return folder


def copy_without(folder, target, *names):
    target.mkdir()
    for path in folder.iterdir():
        if path.name not in names:
            (target / path.name).write_bytes(path.read_bytes())
    return target


def refusal(name):
    with pytest.raises(ValueError) as caught:
        load_model(name)
    return one_sentence(caught)


@pytest.mark.parametrize("kind", [str, lambda folder: folder])
def test_a_folder_gives_an_fp32_model_in_eval_mode_and_a_right_padding_tokenizer(saved, kind):
    model, tokenizer = load_model(kind(saved), device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training and model.device.type == "cpu"
    assert tokenizer.padding_side == "right" and tokenizer.pad_token == "<pad>"
    expected = tiny_model()
    for parameter in expected.parameters():
        parameter.data = parameter.data.bfloat16().float()
    ids = torch.tensor([[4, 5, 6]])
    torch.testing.assert_close(model(ids).logits, expected(ids).logits)


def test_a_folder_leaves_the_progress_bars_of_a_later_download_on(saved):
    from transformers.utils import logging

    logging.enable_progress_bar()
    load_model(str(saved))
    assert logging.is_progress_bar_enabled()


def test_a_tokenizer_without_pad_takes_eos(saved, tmp_path):
    folder = copy_without(saved, tmp_path / "no_pad")
    tiny_tokenizer(pad=None).save_pretrained(folder)
    assert load_model(folder)[1].pad_token == "<eos>"
    tiny_tokenizer(pad=None, eos=None).save_pretrained(folder)
    assert "neither a pad nor an end-of-sequence token" in refusal(folder)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "~/nowhere"])
def test_a_folder_that_is_not_there_is_named(name):
    assert f"no folder {name!r}" in refusal(name)


def test_a_folder_without_a_config_is_named(tmp_path):
    assert str(tmp_path) in refusal(tmp_path) and "no config.json" in refusal(tmp_path)


def test_a_folder_without_a_tokenizer_is_named(saved, tmp_path):
    folder = copy_without(saved, tmp_path / "no_tokenizer", "tokenizer.json", "tokenizer_config.json")
    assert str(folder) in refusal(folder) and "okenizer" in refusal(folder)


@pytest.mark.parametrize("other", [None, "pytorch_model.bin"])
def test_weights_that_are_not_safetensors_are_refused(saved, tmp_path, other):
    folder = copy_without(saved, tmp_path / "no_weights", "model.safetensors")
    if other:
        torch.save(tiny_model().state_dict(), folder / other)
    assert "safetensors" in refusal(folder) and str(folder) in refusal(folder)


@pytest.mark.parametrize(
    ("name", "content"), [("model.safetensors", b"\x00" * 40), ("config.json", b'{"model_type": ')]
)
def test_a_damaged_file_is_one_sentence(saved, tmp_path, name, content):
    folder = copy_without(saved, tmp_path / "damaged")
    (folder / name).write_bytes(content)
    assert str(folder) in refusal(folder)


def test_code_beside_the_weights_is_not_run(saved, tmp_path):
    folder, trap = copy_without(saved, tmp_path / "remote"), tmp_path / "trap"
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "unheard_of"}
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(trap)!r}, 'w').write('run')\n")
    assert str(folder) in refusal(folder)
    assert not trap.exists()


def test_no_network_is_one_sentence_that_says_what_to_do():
    code = (
        "import toylib\n"
        "for load in (toylib.load_model, toylib.load_preferences):\n"
        "    try:\n        load('nobody/nothing-here')\n"
        "    except ValueError as problem:\n        print(problem)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all("'nobody/nothing-here'" in line and "network" in line for line in lines)


# ---- no code that comes with a model is run ----


@pytest.mark.parametrize("place", ["model", "known model", "tokenizer", "generate", "attention"])
def test_code_in_the_folder_is_not_run_even_if_the_answer_on_standard_input_is_yes(saved, tmp_path, place):
    folder, trap = copy_without(saved, tmp_path / "remote"), tmp_path / "trap"
    (folder / "trap.py").write_text(f"open({str(trap)!r}, 'w').write('run')\n")
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(
        (folder / "trap.py").read_text() + "def generate(**k): pass"
    )
    name = "tokenizer_config.json" if place == "tokenizer" else "config.json"
    content = json.loads((folder / name).read_text())
    if "model" in place:
        content["auto_map"] = {"AutoConfig": "trap.Config", "AutoModelForCausalLM": "trap.Model"}
    if place == "model":
        content["model_type"] = "unheard_of"
    if place == "tokenizer":
        content |= {"auto_map": {"AutoTokenizer": ["trap.Slow", "trap.Fast"]}, "tokenizer_class": "Unheard"}
    if place == "attention":
        content["attn_implementation"] = "someone/attention-kernel"
    (folder / name).write_text(json.dumps(content))
    code = (
        "import sys, torch, toylib\n"
        "try:\n"
        "    model, tokenizer = toylib.load_model(sys.argv[1], device='cpu')\n"
        "    model.generate(torch.tensor([[4]]), max_new_tokens=1, pad_token_id=0)\n"
        "    print('loaded')\n"
        "except ValueError as problem:\n    print(problem)\n"
    )
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, input="y\ny\ny\n")
    assert not trap.exists()
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    if place in ("known model", "generate"):
        assert line == "loaded"
    else:
        assert str(folder) in line and "no such code is run" in line


# ---- adapters ----


@pytest.fixture()
def adapter(saved, tmp_path):
    """A folder that holds only a LoRA adapter for `saved`, and the adapted model."""
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = peft.get_peft_model(load_model(saved, device="cpu")[0], settings).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", adapted


def test_a_folder_with_an_adapter_gives_the_base_with_the_adapter_merged(adapter):
    folder, adapted = adapter
    model, tokenizer = load_model(folder, device="cpu")
    ids = torch.tensor([[4, 5, 6]])
    torch.testing.assert_close(model(ids).logits, adapted(ids).logits)
    assert not any("lora" in name for name, _ in model.named_parameters()) and not model.training
    assert tokenizer.padding_side == "right" and tokenizer.pad_token == "<pad>"
    tiny_tokenizer(pad=None, padding_side="left").save_pretrained(folder)
    assert load_model(folder, device="cpu")[1].pad_token == "<eos>"


def test_an_adapter_that_cannot_be_loaded_names_its_folder_and_its_base(adapter, monkeypatch):
    folder, _ = adapter
    config = json.loads((folder / "adapter_config.json").read_text())
    with monkeypatch.context() as changes:
        changes.setitem(sys.modules, "peft", None)
        assert "pip install peft" in refusal(folder) and repr(config["base_model_name_or_path"]) in refusal(folder)
    for base in ("/nowhere/base", str(folder), None):
        (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))
        assert str(folder) in refusal(folder) and str(base or "NoneType") in refusal(folder)
    (folder / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors" in refusal(folder)
