"""Watch a training run: which models it holds, what it samples, how often it updates. Used in notebook 07."""

from __future__ import annotations

import copy
import gc
import inspect
import tempfile
import time

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from toylib.engine.trainer import DPOTrainer
from toylib.labs.reward_model import ScalarModel

NOT_CHOSEN = ("seed", "on_step", "on_replies", "ref_model", "eval_pairs")


def models_alive(model) -> list:
    """Return every model in memory of `model`'s class, and every `ScalarModel`."""
    gc.collect()
    return [one for one in gc.get_objects() if type(one) in (type(model), ScalarModel)]


def role(one) -> str:
    """Return what a model is for, by its kind and by whether it is trained."""
    trained = any(parameter.requires_grad for parameter in one.parameters())
    if isinstance(one, ScalarModel):
        return "value model" if trained else "reward model"
    return "policy" if trained else "reference"


def models_held(model, apart=()):
    """Return a DataFrame with a row per model in memory but those whose `id` is in `apart`.

    Columns: `role`, `parameters`, and in MB `weights`, `gradients` and `Adam's states`.
    """
    import pandas

    optimizers = [one for one in gc.get_objects() if issubclass(type(one), torch.optim.AdamW)]
    rows = []
    for one in models_alive(model):
        if id(one) not in apart:
            weights = list(one.parameters())
            states = [s for o in optimizers for p in weights if p in o.state for s in o.state[p].values()]
            kinds = {"weights": weights, "gradients": [p.grad for p in weights if p.grad is not None]}
            sizes = {kind: _megabytes(tensors) for kind, tensors in (kinds | {"Adam's states": states}).items()}
            rows.append({"role": role(one), "parameters": sum(p.numel() for p in weights)} | sizes)
    return pandas.DataFrame(rows).sort_values("role", ignore_index=True)


def _megabytes(tensors) -> float:
    return sum(tensor.nbytes for tensor in tensors) / 1e6


class Witness:
    """Callbacks of a run, and what they saw: `held` (`models_held` at the first step), `replies`, `tokens`, `new`.

    `hired` are models that were made before the run and belong to it, such as the reward model. `known` are texts; `new`
    has the sampled texts that are not among them. `watch` runs and counts.
    """

    def __init__(self, model, hired=(), known=()):
        self.model, self.known = model, set(known)
        self.apart = {id(one) for one in models_alive(model)} - {id(one) for one in hired}
        self.held, self.replies, self.tokens, self.new, self.updates, self.seconds = None, 0, 0, set(), 0, 0.0

    def on_replies(self, step, replies):
        """Count a rollout's replies and tokens, and note the new texts."""
        self.replies += len(replies.texts)
        self.tokens += int(replies.completion_mask.sum())
        self.new |= set(replies.texts) - self.known

    def on_step(self, step, metrics, policy):
        """Note after the first step which models are held."""
        if step == 1:
            self.held = models_held(self.model, self.apart)

    def watch(self, run, *given, **settings):
        """Return `(policy, history)` of `run(model, *given, **settings)`, with the callbacks it knows."""

        def count(*_):
            self.updates += 1

        if "on_replies" in inspect.signature(run).parameters:
            settings["on_replies"] = self.on_replies
        began, counter = time.perf_counter(), register_optimizer_step_post_hook(count)
        try:
            return run(self.model, *given, on_step=self.on_step, **settings)
        finally:
            counter.remove()
            self.seconds = time.perf_counter() - began


def choices(*functions) -> list[str]:
    """Return the names of the keyword arguments that somebody has to choose, for functions or settings classes in turn."""
    kept = [inspect.signature(function).parameters.values() for function in functions]
    return [p.name for those in kept for p in those if p.kind is p.KEYWORD_ONLY and p.name not in NOT_CHOSEN]


def held_by_trainer(model, tokenizer, pairs):
    """Return `models_held` during one update of `DPOTrainer`, which scores the reference before it trains."""
    apart, found = {id(one) for one in models_alive(model)}, []

    class Look(TrainerCallback):
        def on_optimizer_step(self, *given, **more):
            found.append(models_held(model, apart))

    quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no"}
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(folder, max_steps=1, per_device_train_batch_size=4, use_cpu=True, **quiet)
        policy = copy.deepcopy(model)
        trainer = DPOTrainer(policy, args, pairs, processing_class=tokenizer, callbacks=[Look()])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return found[0]
