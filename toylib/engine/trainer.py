"""DPO as a thin `transformers.Trainer`, the one to use. `train.train_dpo` is the loop to read."""

from __future__ import annotations

import copy
from dataclasses import asdict

import torch

from toylib.engine.checkpoints import SafeTrainer
from toylib.engine.checks import (
    check_arguments,
    check_models,
    check_pairs,
    check_savable,
    check_size,
    router_weight,
    switch_off_noise,
    warn_about,
)
from toylib.engine.collator import NOT_MODEL_INPUTS, Collator
from toylib.engine.notices import log_once
from toylib.engine.prefix_sharing import collate_rows, pair_logps, router_losses, row_length, why_not_shared
from toylib.engine.reference_cache import add_reference_logps, cache_key, placed_on, reference_mark
from toylib.engine.sampler import LengthGrouped
from toylib.engine.token_cache import tokenize_once
from toylib.loss import LossSettings, dpo_loss
from toylib.tokens import collate, pad_id
from toylib.train import METRICS, metrics_table


class DPOTrainer(SafeTrainer):
    """Train by DPO or a relative (`dpo_loss`) on pairs as from `load_preferences`, with `transformers.Trainer`.

    `args` are ordinary `TrainingArguments`: accumulation, checkpoints, autocast (`bf16`, `fp16`), gradient
    checkpointing, `report_to`, several processes under `torchrun`. They are copied. `train_sampling_strategy` is by
    length unless it is "sequential". `model` may be a PEFT model. What requires a gradient is trained.

    The reference is `ref_model`, or `model` as it is now, adapters included. Its log-probs are computed once, here,
    and cached on disk (`reference_cache`), so no second model stays in memory. `average_logps=True` divides log-probs
    by the reply's length, as TRL's `ipo` does, and `loss_type="sigmoid_norm"` is `sigmoid` with such averages. Metrics
    have TRL's names and are means over pairs; log-probs are in nats per reply, and rewards carry β. All pairs of an update
    weigh alike. (In TRL, those of a smaller last batch weigh more.)

    Pairs go through the model as shared-prompt rows (`prefix_sharing`). Where the model cannot take those, each pair
    becomes two sequences (`toylib.logps`), and the log says so. Prompts that do not fit `max_length` are cut from
    their left, pairs whose reply alone is too long are dropped, and both are counted. Dropout, LayerDrop and router
    jitter are switched off. Where the model's config has `output_router_logits`, the router's auxiliary loss is added
    with its `router_aux_loss_coef`, as in TRL, and logged as `aux_loss`.

    Raises `ValueError` for what cannot be used, and `FloatingPointError`, naming the rows, for a loss or a gradient
    that is not finite. The weights before that step are in `output_dir/last-finite`.
    """

    _sums = None  # over the pairs since the last log: `columns`, then the number of pairs
    loss_is_scaled_for_ga = False  # our loss is a mean over pairs: the Trainer divides it by the accumulation steps

    def __init__(
        self, model, args, train_dataset, eval_dataset=None, processing_class=None, ref_model=None, beta=0.1,
        loss_type="sigmoid", label_smoothing=0.0, average_logps=False, max_length=1024, callbacks=None,
        optimizers=(None, None),
    ):  # fmt: skip
        if loss_type == "sigmoid_norm":  # TRL's name for it
            loss_type, average_logps = "sigmoid", True
        self.loss_settings = asdict(LossSettings(beta, loss_type, label_smoothing))
        check_arguments(model, args, processing_class, max_length)
        args = own_arguments(args)
        self.average_logps = average_logps
        self.data_seed = args.seed if args.data_seed is None else args.data_seed
        switch_off_noise(model)
        rows = tokenized_sets(train_dataset, eval_dataset, processing_class, max_length)
        check_models(model, ref_model, rows)
        check_size(args, len(rows["train"]))
        self.pad_token_id = processing_class.eos_token_id  # no loss reads it
        if processing_class.pad_token_id is not None:
            self.pad_token_id = pad_id(processing_class, model.config.get_text_config().vocab_size)
        self.router_weight = router_weight(model, rows["train"][0], self.pad_token_id)
        self.columns = ("loss", *METRICS) + ("aux_loss",) * bool(self.router_weight)
        several = isinstance(eval_dataset, dict)
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows["train"],
            eval_dataset={name: rows[f"eval_{name}"] for name in eval_dataset} if several else rows.get("eval"),
            processing_class=processing_class,
            compute_metrics=lambda seen: dict(zip(self.columns, seen.predictions.mean(axis=0), strict=True)),
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self.model_accepts_loss_kwargs = False  # the older name of `loss_is_scaled_for_ga = False`
        check_savable(model, args)
        warn_about(model, args)
        self._score_references((model if ref_model is None else ref_model).eval(), rows)

    def _score_references(self, reference, sets) -> None:
        """Choose the layout, have `reference` score every pair of `sets`, and note both in the run's identity."""
        rows = [row for part in sets.values() for row in part]
        size = max(self.args.train_batch_size, self.args.eval_batch_size)
        with placed_on(reference, self.args.device):
            problem = why_not_shared(reference, rows, self.pad_token_id, self.args.device)
            if problem is None and reference is not self.model:
                problem = why_not_shared(self.model, rows, self.pad_token_id)
            if problem:
                log_once(f"prompts are not shared: {problem}. Each pair is two sequences: the same loss, slower")
            collate_inputs = collate if problem else collate_rows
            mark = reference_mark(reference)
            add_reference_logps(reference, mark, sets, collate_inputs, self.pad_token_id, self.accelerator, size)
        dtype = torch.float64 if self.model.dtype == torch.float64 else torch.float32
        self.data_collator = Collator(collate_inputs, self.pad_token_id, dtype)
        self.identity |= {"reference": mark, "pairs": cache_key("", self.train_dataset)[:16], "seed": self.data_seed}
        self.identity |= {"pairs an update": self.get_total_train_batch_size(self.args)}
        self.identity |= {"average_logps": self.average_logps} | self.loss_settings
        self.identity |= {"router_aux_loss_coef": self.router_weight} if self.router_weight else {}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the mean loss over the pairs of a batch, and with `return_outputs` also their `columns`, one row per pair.

        With `num_items_in_batch`, the pairs of an update, the loss is weighted so that the Trainer's mean over batches
        becomes a mean over pairs.
        """
        ref_logps, lengths, numbers = (inputs[name] for name in NOT_MODEL_INPUTS)
        inputs = {k: v for k, v in inputs.items() if k not in NOT_MODEL_INPUTS}
        with router_losses(model) as routers:
            logps = torch.stack(pair_logps(model, inputs), dim=1)
        scale = lengths if self.average_logps else 1
        losses, *_ = dpo_loss(*(logps / scale).unbind(1), *(ref_logps / scale).unbind(1), **self.loss_settings)
        chosen, rejected = (self.loss_settings["beta"] * (logps - ref_logps)).unbind(1)  # of whole replies, as TRL's
        if self.router_weight:
            losses = losses + self.router_weight * routers[0]
        table, loss = metrics_table(losses, chosen, rejected, *logps.unbind(1)), losses.mean()
        if self.router_weight:
            table = torch.cat([table, routers[0].detach().to(table).expand(len(table), 1)], dim=1)
        if num_items_in_batch:
            loss = loss * (len(table) * self.current_gradient_accumulation_steps / num_items_in_batch)
        if model.training:
            if not torch.isfinite(loss):
                rows = ", ".join(map(str, numbers.tolist()))
                raise FloatingPointError(f"the loss is {loss.item()} at step {self.state.global_step + 1}, rows {rows}")
            sums = torch.cat([table.sum(dim=0), table.new_tensor([len(table)])])
            self._sums = sums if self._sums is None else self._sums + sums
        return (loss, table) if return_outputs else loss

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Return the batches of an update, and how many pairs they hold."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, sum(len(batch["numbers"]) for batch in batches)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Return per-pair metrics instead of a batch loss, so that evaluation averages over pairs."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            _, table = self.compute_loss(model, inputs, return_outputs=True)
        return None, table, table[:, 0]

    def log(self, logs, start_time=None):
        """Log the loss and `METRICS` as means over all pairs since the last log line."""
        if self._sums is not None and "loss" in logs:
            *sums, count = self.accelerator.reduce(self._sums, "sum").tolist()
            logs |= {name: value / count for name, value in zip(self.columns, sums, strict=True)}
            self._sums = None
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset=None):
        self._sums = None  # a new run begins, so drop what an interrupted one had not logged
        if getattr(self.args, "train_sampling_strategy", None) == "sequential":
            return super()._get_train_sampler(train_dataset)
        lengths = [row_length(row) for row in self.train_dataset]
        size = self.get_total_train_batch_size(self.args)
        return LengthGrouped(lengths, size, lambda: self.data_seed + int(self.state.epoch or 0))


def own_arguments(args):
    """Return a copy of `TrainingArguments` with what our batches need: every column, and one device per process."""
    args = copy.copy(args)
    if args.n_gpu > 1:
        args._n_gpu = 1  # rows with masks of their own do not split over the Trainer's DataParallel
        log_once("one process uses the first GPU only: start one per GPU with `torchrun --nproc_per_node …`")
    args.remove_unused_columns = False
    return args


def tokenized_sets(train_dataset, eval_dataset, tokenizer, max_length) -> dict:
    """Return the tokenised pairs by name: `train`, and `eval` or one `eval_NAME` per set, sorted by length."""
    check_pairs(train_dataset, "train_dataset")
    rows = {"train": tokenize_once(train_dataset, tokenizer, max_length)}
    held_out = {"eval": eval_dataset}
    if eval_dataset is None:
        held_out = {}
    elif isinstance(eval_dataset, dict):
        held_out = {f"eval_{name}": pairs for name, pairs in eval_dataset.items()}
    for name, pairs in held_out.items():
        check_pairs(pairs, f"{name} set")
        rows[name] = sorted(tokenize_once(pairs, tokenizer, max_length), key=row_length)
    return rows
