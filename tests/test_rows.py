"""The shared-prompt row against the definition, on every architecture it is meant for."""

import pytest
import torch
from tiny import pairs_of_tokens
from transformers import AutoConfig, AutoModelForCausalLM

from toylib import sequence_logps
from toylib.engine.prefix_sharing import (
    collate_rows,
    head_on,
    pair_logps,
    row_length,
    row_logps,
    row_mask,
    why_not_shared,
)
from toylib.tokens import collate

SMALL = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
ARCHITECTURES = {
    "llama": GROUPED,
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": GROUPED,
    "mistral": GROUPED,
    "smollm3": {"num_key_value_heads": 2},
    "olmo2": {"num_key_value_heads": 2},
    "phi3": {"num_key_value_heads": 2},
    "gpt_neox": {},
    "gpt2": {},
    "gemma3_text": GROUPED | {"sliding_window": 64},
}


def build(kind, attention="sdpa", dtype=torch.float64, **settings):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(SMALL | ARCHITECTURES[kind] | settings))
    if kind == "gpt2":
        config.n_embd, config.n_inner, config.n_layer, config.n_head, config.n_positions = 32, 64, 2, 4, 128
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype).eval()


def both_ways(model, pairs):
    device = model.device
    ours = torch.stack(row_logps(model, **collate_rows(pairs, 0, device)))
    definition = torch.stack(sequence_logps(model, **collate(pairs, 0, device)).chunk(2))
    return ours, definition


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_rows_give_the_log_probs_and_gradients_of_the_definition(kind, attention, monkeypatch):
    # Eager attention takes its softmax in fp32 even in a float64 model; here it keeps the precision it is given.
    softmax = torch.nn.functional.softmax
    monkeypatch.setattr("torch.nn.functional.softmax", lambda x, dim=None, dtype=None, **_: softmax(x, dim=dim))
    model, pairs = build(kind, attention), pairs_of_tokens(6)
    ours, definition = both_ways(model, pairs)
    assert (ours - definition).abs().max() < 1e-9 and definition.min() < -20
    gradients = []
    for logps in (ours, definition):
        model.zero_grad()
        (logps[0] - 2 * logps[1]).sum().backward()
        gradients.append(torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None]))
    assert (gradients[0] - gradients[1]).norm() < 1e-6 * gradients[
        1
    ].norm()  # norms are taken in fp32 inside the models


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_rows_in_fp32_agree_to_rounding(kind):
    ours, definition = both_ways(build(kind, dtype=torch.float32, initializer_range=0.1), pairs_of_tokens(6))
    assert ((ours - definition).abs() / definition.abs()).max() < 2e-5


def test_padding_side_batch_size_and_order_change_nothing():
    model, pairs = build("llama"), pairs_of_tokens(6)
    together = torch.stack(row_logps(model, **collate_rows(pairs, 0)))
    alone = torch.cat([torch.stack(row_logps(model, **collate_rows([pair], 0))) for pair in pairs], dim=1)
    backwards = torch.stack(row_logps(model, **collate_rows(pairs[::-1], 0))).flip(1)
    batch = collate_rows(pairs, 0)
    on_the_left = {name: tensor.clone() for name, tensor in batch.items()}
    for i in range(len(pairs)):
        pads = int((batch["branch"][i] < 0).sum())
        for name, tensor in batch.items():
            on_the_left[name][i] = tensor[i].roll(pads)
    assert any((batch["branch"] < 0).any(dim=1))
    for other in (alone, backwards, torch.stack(row_logps(model, **on_the_left))):
        assert (together - other).abs().max() < 1e-9


def test_a_row_reads_as_documented():
    rows = [
        {"prompt": [5, 6, 7], "chosen": [8, 2], "rejected": [9, 10, 2]},
        {"prompt": [5], "chosen": [8], "rejected": [9]},
    ]
    batch = {name: tensor.tolist() for name, tensor in collate_rows(rows, 0).items()}
    assert batch["input_ids"] == [[5, 6, 7, 8, 7, 9, 10], [5, 5, 0, 0, 0, 0, 0]]
    assert batch["position_ids"] == [[0, 1, 2, 3, 2, 3, 4], [0, 0, 0, 0, 0, 0, 0]]
    assert batch["branch"] == [[0, 0, 1, 1, 2, 2, 2], [1, 2, -1, -1, -1, -1, -1]]
    assert batch["targets"] == [[0, 0, 8, 2, 9, 10, 2], [8, 9, 0, 0, 0, 0, 0]]
    assert [row_length(row) for row in rows] == [7, 2]
    seen = row_mask(collate_rows(rows, 0)["branch"], torch.float32)[0, 0] == 0
    assert seen[4].tolist() == [True, True, False, False, True, False, False]


def test_a_boolean_mask_would_be_silently_wrong_under_eager_attention(monkeypatch):
    model, pairs = build("llama", "eager"), pairs_of_tokens(3)
    monkeypatch.setattr("toylib.engine.prefix_sharing.row_mask", lambda branch, dtype: row_mask(branch, dtype) == 0)
    ours, definition = both_ways(model, pairs)
    assert (ours - definition).abs().max() > 0.1


def test_the_output_head_sees_reply_tokens_only_and_is_left_as_it_was():
    model, pairs = build("llama"), pairs_of_tokens(3)
    batch = collate_rows(pairs, 0)
    scored = batch["branch"] > 0
    with head_on(model, scored):
        logits = model(input_ids=batch["input_ids"]).logits
    assert logits.shape == (1, int(scored.sum()), 97)
    assert model(input_ids=batch["input_ids"]).logits.shape[:2] == scored.shape


@pytest.mark.parametrize("kind", ["mistral", "phi3", "gemma3_text"])
def test_a_row_over_the_window_is_refused_and_the_definition_still_scores(kind):
    pairs = pairs_of_tokens(4)
    longest = max(map(row_length, pairs))
    narrow, wide = build(kind, sliding_window=longest - 1), build(kind, sliding_window=longest)
    assert why_not_shared(wide, pairs) is None
    assert f"{longest} tokens and a layer's attention window is {longest - 1}" in why_not_shared(narrow, pairs)
    ours, definition = both_ways(build(kind, sliding_window=8), pairs)
    assert (ours - definition).abs().max() > 0.1  # which is why
    assert torch.stack(list(pair_logps(narrow, collate(pairs, 0)))).isfinite().all()


def test_qwen2_names_a_window_that_it_does_not_use():
    model = build("qwen2", sliding_window=4, use_sliding_window=False)
    assert why_not_shared(model, pairs_of_tokens(4)) is None


def test_attention_that_takes_no_mask_is_refused():
    model = build("llama")
    model.config._attn_implementation = "flash_attention_2"
    assert "flash_attention_2" in why_not_shared(model, pairs_of_tokens(2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_model_that_ignores_the_mask_is_found_out_by_the_probe_in_any_precision(kind, dtype, monkeypatch):
    model, pairs = build(kind, dtype=dtype), pairs_of_tokens(4)
    assert why_not_shared(model, pairs) is None
    monkeypatch.setattr("toylib.engine.prefix_sharing.row_mask", lambda branch, dtype: row_mask(branch * 0, dtype))
    assert "one reply changes the other's log-prob" in why_not_shared(model, pairs)


def test_a_model_that_ignores_positions_is_found_out_by_the_probe(monkeypatch):
    model = build("gpt2")
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda position_ids, **inputs: forward(**inputs))
    assert "nats away from the definition's" in why_not_shared(model, pairs_of_tokens(2))


# Architectures that a shared-prompt row suits or not, as built by `build_any`: None, or a part of the verdict.
VERDICTS = {
    "llama": None,
    "gpt2": None,
    "opt": None,
    "gemma2": None,
    "gemma3_text": None,
    "mistral": None,
    "cohere": None,
    "mixtral": None,
    "mpt": "away from the definition's",
    "bloom": "does not take such a row",
    "falcon": None,
    "falcon, alibi": "does not take such a row",
    "mistral, window 8": "a layer's attention window is 8",
    "mamba": "does not take such a row",
}
SPECIAL = {
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128, "expansion_ratio": 2},
    "bloom": {"n_head": 4, "n_layer": 2},
    "falcon": {"head_dim": None},
    "cohere": {"logit_scale": 0.1},
    "mixtral": {"num_local_experts": 4, "router_jitter_noise": 0.0},
}
CHANGES = {"alibi": {"alibi": True}, "window 8": {"sliding_window": 8}}


def build_any(name, dtype=torch.float32):
    """Return a random model of an architecture of `VERDICTS`, its matrices large enough for peaked predictions."""
    kind, _, change = name.partition(", ")
    settings = SMALL | GROUPED | SPECIAL.get(kind, {}) | CHANGES.get(change, {})
    if kind in ("gpt2", *ARCHITECTURES):
        return build(kind, dtype=dtype, **CHANGES.get(change, {}))
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{k: v for k, v in settings.items() if v is not None})
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn_like(weight) * 0.25)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", VERDICTS)
def test_the_probe_knows_which_architectures_a_row_suits(name, dtype):
    model, pairs = build_any(name, dtype), pairs_of_tokens(6)
    verdict = why_not_shared(model, pairs)
    assert verdict is None if VERDICTS[name] is None else VERDICTS[name] in verdict
    if verdict is None and dtype == torch.float32:
        ours, definition = both_ways(model, pairs)
        assert (ours - definition).abs().max() < 2e-3


def test_a_model_that_counts_positions_itself_is_found_out_where_both_replies_are_short():
    """ALiBi shifts a bias by the other reply's length: nearly nothing for one token, and a lot for 64."""
    rows = [{"number": 1, "prompt": [5, 6, 7, 8], "chosen": [2], "rejected": [2]}]
    for name in ("mpt", "bloom", "falcon, alibi"):
        assert why_not_shared(build_any(name), rows) is not None, name


SIZES = {
    "vocab_size": 97,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "n_inner": 64,
    "n_positions": 128,
}
SIZES |= dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "embedding_size", "lru_width"), 32)
SIZES |= dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "ffn_hidden_size"), 64)
SIZES |= dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers"), 2)
SIZES |= dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads", "attention_heads"), 4)
SIZES |= dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 4)
SIZES |= {
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rotary_dim": 8,
}
SIZES |= {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
SIZES |= {"max_position_embeddings": 128, "max_seq_len": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES |= {"attention_types": [[["global", "local"], 1]], "state_size": 8, "chunk_size": 8, "time_step_rank": 4}


# What the probe said of each architecture that could be built this small, with transformers 5.
SHARED = """
afmoe apertus arcee aria_text beam biogpt bitnet codegen cohere cohere2 cohere2_moe ctrl cwm deepseek_v4
diffllama doge ernie4_5 ernie4_5_moe exaone4 exaone_moe falcon flex_olmo flint gemma gemma2 gemma3_text
gemma4_unified_text glm glm4 glm4_moe gpt-sw3 gpt2 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gpt_oss
gptj granite granite_swa granitemoe granitemoe_swa granitemoeshared helium hrm_text hunyuan_v1_dense
hunyuan_v1_moe hy_v3 hy_v4 hyperclovax internlm3 iquestcoder jais2 jetmoe kolibri1 laguna lfm2 llama
llama4_text mellum mimo_v2_flash minimax_m2 minimax_m3_vl_text ministral ministral3 mistral mixtral
modernbert-decoder moshi nanochat nemotron olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe qwen2
qwen2_moe qwen3 qwen3_moe seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma whisper xglm
""".split()  # noqa: SIM905
TWO_SEQUENCES = """
bailing_hybrid bart bert bert-generation big_bird bigbird_pegasus blenderbot blenderbot-small bloom
camembert cpmant data2vec-text electra ernie falcon_h1 falcon_mamba inkling2_text inkling_text jamba lfm3
mamba marian mbart megatron-bert minimax mpt mvp nemotron_h olmo_hybrid openai-gpt pegasus plbart prophetnet
qwen3_5_moe_text qwen3_5_text qwen3_next qwen4_exp_text recurrent_gemma rembert roberta roberta-prelayernorm
roformer rwkv trocr xlm xlm-roberta xlm-roberta-xl xlnet xlstm
""".split()  # noqa: SIM905


def smallest(kind):
    """Return a random model of `kind` with matrices that matter, or None where these sizes do not build a small one."""
    try:
        known = AutoConfig.for_model(kind)
        names = set(known.to_dict()) | set(getattr(known, "attribute_map", {}))
        config = AutoConfig.for_model(kind, **{name: value for name, value in SIZES.items() if name in names})
        with torch.device("meta"):
            if sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters()) > 3_000_000:
                return None
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).float().eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.copy_(torch.randn_like(weight) * 0.25)
            model(torch.tensor([[5, 6, 7]]), use_cache=False).logits.sum()
    except Exception:  # noqa: BLE001 (each architecture has its own way not to fit these sizes)
        return None
    return model


@pytest.mark.slow
def test_every_causal_architecture_that_the_probe_lets_through_gets_the_log_probs_of_the_definition():
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as kinds

    pairs, verdicts, wrong = pairs_of_tokens(4), {}, []
    for kind in kinds:
        model = smallest(kind)
        if model is None:
            continue
        verdicts[kind] = why_not_shared(model, pairs)
        if verdicts[kind] is None:
            with torch.no_grad():
                ours, definition = both_ways(model, pairs)
            if not (ours - definition).abs().max() < 2e-3:
                wrong.append(kind)
    assert not wrong and len(verdicts) > 100
    assert [kind for kind in SHARED if verdicts.get(kind)] == []
    assert [kind for kind in TWO_SEQUENCES if kind in verdicts and verdicts[kind] is None] == []
