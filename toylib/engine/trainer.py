"""DPO as a thin `transformers.Trainer`, the one to use; `train.train_dpo` is the loop to read."""

from __future__ import annotations

import contextlib
from dataclasses import asdict

import torch

from toylib.engine.checkpoints import SafeTrainer
from toylib.engine.prefix_sharing import collate_rows, pair_logps, row_length, why_not_shared
from toylib.engine.reference_cache import add_reference_logps, cache_key, placed_on, reference_mark
from toylib.engine.sampler import LengthGrouped
from toylib.loss import LossSettings, dpo_loss
from toylib.reference import check_reference
from toylib.tokens import check_vocabulary, collate, tokenize_pairs
from toylib.train import METRICS, metrics_table

BESIDE = ("ref_logps", "lengths", "numbers")  # what a batch holds beside the model's inputs


class DPOTrainer(SafeTrainer):
    """`transformers.Trainer` for DPO and its relatives (`dpo_loss`), on pairs as from `load_preferences`.

    `args` are ordinary `TrainingArguments`: accumulation, checkpoints, autocast (`bf16`, `fp16`), gradient
    checkpointing, `report_to`, several processes under `torchrun`. `model` may be a PEFT model. The reference is
    `ref_model`, or `model` as it is now (of a PEFT model: its base); its log-probs are computed once, here, and cached
    on disk (`toylib.engine.reference_cache`), so no second model stays in memory. `average_logps=True` divides log-probs by the
    reply's length, as TRL's `ipo` does. Metrics have TRL's names; log-probs are nats a reply, rewards carry β.

    Pairs go through the model as shared-prompt rows (`toylib.engine.prefix_sharing`), or, where the model cannot take those, as two
    sequences each (`toylib.logps`), and the log says which. Prompts that do not fit `max_length` are cut from their
    left, pairs whose reply alone is too long are dropped, both are counted and printed. Dropout is switched off.

    Raises `ValueError` for what cannot be used; `FloatingPointError`, naming the rows, for a loss or a gradient that is
    not finite: the weights before it are in `output_dir/last-finite`. `train_sampling_strategy`: length or "sequential".
    """

    _seen = None  # sums over the pairs since the last log, by metric, and their number
    loss_is_scaled_for_ga = False  # our loss is a mean over pairs: the Trainer divides it by the accumulation steps

    def __init__(
        self,
        model,
        args,
        train_dataset,
        eval_dataset=None,
        processing_class=None,
        ref_model=None,
        beta=0.1,
        loss_type="sigmoid",
        label_smoothing=0.0,
        average_logps=False,
        max_length=1024,
        callbacks=None,
        optimizers=(None, None),
    ):
        self.loss_settings = asdict(LossSettings(beta, loss_type, label_smoothing))
        if processing_class is None:
            raise ValueError("processing_class is missing: pass the model's tokenizer")
        check_reference(model, ref_model)
        if args.n_gpu > 1:
            args._n_gpu = 1  # rows with masks of their own do not split over the Trainer's DataParallel
            print("several GPUs, one process: using the first; `torchrun --nproc_per_node …` uses them all")
        args.remove_unused_columns = False
        self.average_logps = average_logps
        self.data_seed = args.seed if args.data_seed is None else args.data_seed
        switch_off_dropout(model)
        rows = {"train": tokenize_pairs(train_dataset, processing_class, max_length)}
        several = isinstance(eval_dataset, dict)
        sets = {f"eval_{name}": pairs for name, pairs in eval_dataset.items()} if several else {"eval": eval_dataset}
        for name, pairs in sets.items() if eval_dataset is not None else ():
            rows[name] = sorted(tokenize_pairs(pairs, processing_class, max_length), key=row_length)
        check_vocabulary(model, rows)
        pad, known = processing_class.pad_token_id, model.config.get_text_config().vocab_size
        self.pad_token_id = pad if pad is not None and pad < known else processing_class.eos_token_id  # never looked at
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows["train"],
            eval_dataset={name: rows[f"eval_{name}"] for name in eval_dataset} if several else rows.get("eval"),
            processing_class=processing_class,
            data_collator=self.collate,
            compute_metrics=lambda seen: dict(zip(("loss", *METRICS), seen.predictions.mean(axis=0), strict=True)),
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self.model_accepts_loss_kwargs = False  # the older name of `loss_is_scaled_for_ga = False`
        self.score_once((model if ref_model is None else ref_model).eval(), rows, ref_model is None)

    def score_once(self, reference, sets, is_policy):
        """Choose the layout, and have every row scored by the reference: by the policy's own base if `is_policy`."""
        rows, device, pad = [row for part in sets.values() for row in part], self.args.device, self.pad_token_id
        base = is_policy and hasattr(reference, "peft_config")
        if base and not hasattr(reference.base_model, "prefix"):
            raise ValueError("of PEFT models, only adapters inside layers (LoRA and its kin) can be trained")
        with placed_on(reference, device), reference.disable_adapter() if base else contextlib.nullcontext():
            problem = why_not_shared(reference, rows, pad, device)
            problem = problem or (None if is_policy else why_not_shared(self.model, rows, pad))
            if problem and self.is_world_process_zero():
                print(f"prompts are not shared: {problem}. Two sequences a pair instead: the same loss, slower")
            self.collate_inputs = collate if problem else collate_rows
            size = max(self.args.train_batch_size, self.args.eval_batch_size)
            mark = reference_mark(reference, (reference.base_model.prefix, "modules_to_save.") if base else ())
            add_reference_logps(reference, mark, sets, self.collate_inputs, pad, self.accelerator, size)
        self.identity |= {"reference": mark, "pairs": cache_key("", self.train_dataset)[:16], "seed": self.data_seed}
        self.identity |= {"pairs an update": self.get_total_train_batch_size(self.args)}
        self.identity |= {"average_logps": self.average_logps} | self.loss_settings

    def collate(self, rows):
        """A batch of rows as the model reads them, with reference log-probs, reply lengths and row numbers beside."""
        if "ref_logps" not in rows[0]:
            raise ValueError(
                "the reference scores pairs once, at construction: pass held-out ones there (eval_dataset)"
            )
        dtype = torch.float64 if self.model.dtype == torch.float64 else torch.float32
        beside = {
            "ref_logps": torch.tensor([row["ref_logps"] for row in rows], dtype=dtype),
            "lengths": torch.tensor([[len(row["chosen"]), len(row["rejected"])] for row in rows]),
            "numbers": torch.tensor([row["number"] for row in rows]),
        }
        return self.collate_inputs(rows, self.pad_token_id) | beside

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The mean loss over the pairs of a batch; beside it, if asked, a table `(pairs, 1 + len(METRICS))`."""
        ref_logps, lengths, numbers = (inputs[name] for name in BESIDE)
        logps = torch.stack(pair_logps(model, {k: v for k, v in inputs.items() if k not in BESIDE}), dim=1)
        scale = lengths if self.average_logps else 1
        losses, *_ = dpo_loss(*(logps / scale).unbind(1), *(ref_logps / scale).unbind(1), **self.loss_settings)
        chosen, rejected = (self.loss_settings["beta"] * (logps - ref_logps)).unbind(1)  # of whole replies, as TRL's
        table, loss = metrics_table(losses, chosen, rejected, *logps.unbind(1)), losses.mean()
        if model.training:
            if not torch.isfinite(loss):
                rows = ", ".join(map(str, numbers.tolist()))
                raise FloatingPointError(f"the loss is {loss.item()} at step {self.state.global_step + 1}, rows {rows}")
            sums = torch.cat([table.sum(dim=0), table.new_tensor([len(table)])])
            self._seen = sums if self._seen is None else self._seen + sums
        return (loss, table) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """No loss of its own for the Trainer, which would average over batches: the table, of which we take means."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            _, table = self.compute_loss(model, inputs, return_outputs=True)
        return None, table, table[:, 0]

    def log(self, logs, start_time=None):
        if self._seen is not None and "loss" in logs:
            *sums, count = self.accelerator.reduce(self._seen, "sum").tolist()
            logs |= {name: value / count for name, value in zip(METRICS, sums[1:], strict=True)}
            self._seen = None
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset=None):
        self._seen = None  # a run begins: drop what an interrupted one had not logged
        if getattr(self.args, "train_sampling_strategy", None) == "sequential":
            return super()._get_train_sampler(train_dataset)
        lengths = [row_length(row) for row in self.train_dataset]
        size = self.get_total_train_batch_size(self.args)
        return LengthGrouped(lengths, size, lambda: self.data_seed + int(self.state.epoch or 0))


def switch_off_dropout(model):
    """Every kind of it, in place: a policy with dropout is not its own reference at step 0, and its loss not ln 2."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
