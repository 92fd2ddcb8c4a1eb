"""What `DPOTrainer` refuses, warns about and switches off before the first update."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from transformers import TrainingArguments

from toylib.engine.arguments import check_counts, check_loaded, check_tokenizer, lacking_fields
from toylib.engine.checkpoints import planned_updates
from toylib.engine.formats import MEDIA
from toylib.engine.notices import log_once
from toylib.engine.prefix_sharing import pair_logps, router_losses
from toylib.reference import check_reference
from toylib.tokens import check_fits, collate
from toylib.train import trained_weights

# The names under which transformers' modules keep a probability of noise as a plain number. `nn.Dropout` is apart.
NOISE = ("dropout", "dropout_p", "dropout_prob", "dropout_rate", "attention_dropout", "attn_dropout", "attn_dropout_p")
NOISE += ("activation_dropout", "hidden_dropout", "hidden_dropout_prob", "residual_dropout", "embedding_dropout")
NOISE += ("attn_pdrop", "resid_pdrop", "embd_pdrop", "emb_pdrop", "token_dropout", "moe_token_dropout")
NOISE += ("layerdrop", "jitter_noise", "router_jitter_noise", "input_jitter_noise", "moe_jitter_eps")


def check_arguments(model, args, tokenizer, max_length) -> None:
    """Raise `ValueError`, in one sentence, for a model, arguments or a tokenizer that `DPOTrainer` cannot use."""
    check_loaded(model=model)
    if args is None:
        raise ValueError("args is missing: pass transformers.TrainingArguments(output_dir=…)")
    if not isinstance(args, TrainingArguments):
        raise ValueError(f"args must be transformers.TrainingArguments(output_dir=…), got {type(args).__name__}")
    if args.neftune_noise_alpha:
        raise ValueError("neftune_noise_alpha adds noise that the reference does not have: leave it out")
    if args.label_smoothing_factor:
        raise ValueError("label_smoothing_factor smooths tokens, not pairs: leave it out and pass label_smoothing")
    check_tokenizer(tokenizer, "processing_class")
    check_counts(max_length=max_length)
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(
            f"{type(model).__name__} is an encoder-decoder model: DPOTrainer needs a causal language model, which "
            "reads prompt and reply as one sequence"
        )
    if hasattr(model, "peft_config") and not hasattr(model.base_model, "prefix"):
        if getattr(model, "_hf_peft_config_loaded", False):
            raise ValueError(
                "the adapter was added by the model's add_adapter, and the Trainer cannot resume such a model: "
                "add it with peft.get_peft_model(model, config)"
            )
        raise ValueError("of PEFT models, only adapters inside layers (LoRA and its kin) can be trained")
    trained_weights(model)
    if args.fp16 and args.device.type == "cpu":
        raise ValueError("fp16=True needs a GPU, because a CPU would train in fp32: use bf16=True or no autocast")


def check_pairs(pairs, name) -> None:
    """Raise `ValueError` if the data set `pairs`, which messages call `name`, is no list of preference pairs."""
    if isinstance(pairs, dict):
        raise ValueError(f"{name} is a dictionary of splits ({', '.join(pairs)}): pass one of them")
    if pairs is None:
        raise ValueError(f"{name} is missing: pass preference pairs")
    if iter(pairs) is pairs:
        raise ValueError(f"{name} is a {type(pairs).__name__}, which can be read only once: pass a list or a Dataset")
    first = next(iter(pairs), None)
    if first is None:
        raise ValueError(f"{name} has no pairs")
    problem = lacking_fields(first)
    if problem:
        raise ValueError(f"{name} has {problem}")
    media = [column for column in MEDIA if first.get(column)]
    if media:
        raise ValueError(f"{name} has {' and '.join(media)}, and only text can be trained on: remove such rows")


def check_models(model, ref_model, rows) -> None:
    """Raise `ValueError` for models that are not loaded, or do not know all ids in `rows`, or share weights."""
    check_loaded(model=model)
    check_fits(model, rows)
    if ref_model is not None:
        check_loaded(ref_model=ref_model)
        try:
            check_fits(ref_model, rows)
        except ValueError as problem:
            raise ValueError(f"ref_model does not fit: {problem}") from None
    check_reference(model, ref_model)


def check_loop(model, ref_model, rows) -> None:
    """Do what `check_models` does, for `train_dpo`, and print what its loss leaves out."""
    check_models(model, ref_model, rows)
    if getattr(model.config.get_text_config(), "output_router_logits", False):
        print("the router's auxiliary loss is left out here: DPOTrainer adds it")


def check_size(args, pairs) -> None:
    """Raise `ValueError` if all of so many pairs would be dropped as an incomplete batch. Log a warm-up without an end."""
    size = args.train_batch_size * args.world_size
    if args.dataloader_drop_last and pairs < size:
        raise ValueError(
            f"dataloader_drop_last leaves nothing of {pairs} pairs at {size} per step: use smaller batches"
        )
    updates = planned_updates(args, pairs)
    if args.learning_rate > 0 and args.get_warmup_steps(updates) >= updates:
        log_once(
            f"the warm-up takes all {updates} updates, so the rate never reaches {args.learning_rate:g}: lower warmup_steps"
        )


def check_writable(folder, name) -> None:
    """Raise `ValueError` if no file can be written to `folder`, which messages call `name`. It is made if it is missing."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        raise ValueError(f"{name} {folder} cannot be written: {problem.strerror or problem}") from None


def check_savable(model, args) -> None:
    """Raise `ValueError` if the trained model could not be saved into `args.output_dir`.

    A generation config that names a temperature without sampling cannot be saved. Such a config is mended by
    `do_sample = True`, and the log says so.
    """
    if args.should_save:
        check_writable(args.output_dir, "output_dir")
    generation = getattr(model, "generation_config", None)
    if generation is None:
        return
    try:
        generation.validate(strict=True)
    except ValueError:
        generation.do_sample = True
        try:
            generation.validate(strict=True)
        except ValueError as problem:
            raise ValueError(
                f"the model's generation_config cannot be saved: {' '.join(str(problem).split())[:300]}"
            ) from None
        log_once("the model's generation_config names sampling settings without do_sample: it is set to True")


def warn_about(model, args) -> None:
    """Log a warning for weights too coarse for the learning rate."""
    weights, rate = trained_weights(model), args.learning_rate
    count = sum(weight.numel() for weight in weights)
    with torch.no_grad():
        stuck = sum(int((weight - rate == weight).sum()) for weight in weights)
    if rate > 0 and stuck > count / 2:
        log_once(
            f"an update of the size of learning_rate={rate:g} leaves {stuck / count:.0%} of the trained weights as they "
            f"are in {weights[0].dtype}: load the model in float32 and use bf16=True"
        )


def router_weight(model, row, pad_token_id) -> float:
    """Return the weight of a router's auxiliary loss, which is 0 for a model whose config asks for none.

    Log a warning, and return 0, if the config asks for it but the model does not return it for the tokenised pair `row`.
    """
    config = model.config.get_text_config()
    weight = getattr(config, "output_router_logits", False) and getattr(config, "router_aux_loss_coef", 0) or 0.0
    if weight:
        with torch.no_grad(), router_losses(model) as found:
            pair_logps(model, collate([row], pad_token_id, next(model.parameters()).device))
        if found[0] is None:
            log_once(f"the router's auxiliary loss (router_aux_loss_coef={weight:g}) is left out: the model gives none")
            return 0.0
    return weight


def switch_off_noise(model) -> None:
    """Switch off dropout, LayerDrop and router jitter in place.

    A policy with noise differs from its own reference at step 0, and its first loss is not ln 2.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in NOISE:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
