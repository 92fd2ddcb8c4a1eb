"""A Trainer whose checkpoints can be trusted (`checkpoint_seals`), and that stops before a bad number reaches the weights."""

from __future__ import annotations

import contextlib
import math
import shutil
from pathlib import Path

import torch
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import SchedulerType, TrainOutput

from toylib.engine.checkpoint_seals import (
    EARLIER,
    belongs_to,
    drop_oldest,
    find_checkpoint,
    flaw,
    locked,
    seal,
    set_aside,
)
from toylib.train import has_finite_weights

UPDATE = ("learning_rate", "optim", "optim_args", "optim_target_modules", "weight_decay", "max_grad_norm")
UPDATE += ("adam_beta1", "adam_beta2", "adam_epsilon", "lr_scheduler_kwargs", "neftune_noise_alpha")
UPDATE += ("train_sampling_strategy", "dataloader_drop_last")  # which pairs it is made of
ENDLESS = ("constant", "constant_with_warmup", "inverse_sqrt")  # schedules that do not look at the number of updates
ADDRESSES = ("base_model_name_or_path", "revision", "peft_version", "auto_mapping", "inference_mode")  # not settings


class SafeTrainer(Trainer):
    """A Trainer whose `identity` (JSON values by name) is sealed into its checkpoints, and that stops at a bad number.

    The identity is whatever an update depends on. It leaves out how often, on what and where the run saves, logs and
    evaluates, how a batch is split into steps and processes, and gradient checkpointing. Those may differ at a resume.
    Raises `ValueError` while another run writes to the same `output_dir`.
    """

    def __init__(self, model, args, optimizers=(None, None), **kwargs):
        super().__init__(model=model, args=args, optimizers=optimizers, **kwargs)
        self.add_callback(FollowArguments())
        self.given = given_rule(*optimizers)
        self.identity = {"mixed_precision": self.accelerator.mixed_precision, "dtype": str(model.dtype)}
        self.identity |= adapters(model)
        self.identity["number of trained weights"] = sum(p.numel() for p in model.parameters() if p.requires_grad)

    def train(self, resume_from_checkpoint=None, **kwargs):
        """Do as `Trainer.train`. `resume_from_checkpoint=True` takes the newest checkpoint that is whole and of this run.

        To continue for more updates than planned is the same run only under a schedule that does not end (`ENDLESS`).
        """
        updates = planned_updates(self.args, len(self.train_dataset))
        self.identity |= update_rule(self.args, updates) | self.given
        with locked(self.args.output_dir) if self.args.should_save else contextlib.nullcontext():
            if resume_from_checkpoint:
                resume_from_checkpoint = find_checkpoint(self.args.output_dir, resume_from_checkpoint, self.identity)
                state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / "trainer_state.json"))
                if updates <= state.global_step:  # the run is finished, and the Trainer would take one step more
                    return self._load_finished(resume_from_checkpoint, state)
            return self._train_to_the_end(resume_from_checkpoint or None, **kwargs)

    def _load_finished(self, folder, state):
        """Load the end of a finished run: its last weights, or its best under `load_best_model_at_end`."""
        best = state.best_model_checkpoint if self.args.load_best_model_at_end else None
        if best and not Path(best).is_dir():
            best = str(Path(folder).with_name(Path(best).name))  # the output folder was moved
        if best and (problem := flaw(best, self.identity, to_resume=False)):
            raise ValueError(f"the run is finished, but its best checkpoint {best} cannot be loaded: {problem}")
        self._load_from_checkpoint(best or folder)
        self.state = state
        return TrainOutput(state.global_step, float("nan"), {})

    def _train_to_the_end(self, resume_from_checkpoint, **kwargs):
        """Train, and save the weights before a number that is not finite to `last-finite`."""
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        except FloatingPointError as problem:
            if self.args.world_size > 1:  # the other processes are not here to save with
                raise
            if not has_finite_weights(self.model):
                raise FloatingPointError(
                    f"{problem}; the update before it broke the weights: start anew with a lower learning_rate "
                    "(a resumed run keeps the rate it began with)"
                ) from None
            kept = Path(self.args.output_dir) / "last-finite"
            self.save_model(str(kept))
            raise FloatingPointError(f"{problem}; the weights before that step are in {kept}") from None

    def save_model(self, output_dir=None, _internal_call=False):
        """Do as `Trainer.save_model`. Raises `FloatingPointError` instead of saving weights that are not finite."""
        if not has_finite_weights(self.model):
            raise FloatingPointError(
                f"the weights are not finite after step {self.state.global_step}: nothing is saved"
            )
        super().save_model(output_dir, _internal_call)

    def _get_grad_norm(self, model, grad_norm=None):
        """Return the Trainer's norm, and stop here, right before the update, if it is not finite."""
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if self.accelerator.scaler is None and not torch.isfinite(torch.as_tensor(grad_norm)):  # a scaler skips such
            raise FloatingPointError(f"the gradient is not finite at step {self.state.global_step + 1}")
        return grad_norm

    def _save_checkpoint(self, model, trial):
        """Save as the Trainer does, then seal the checkpoint, and only then delete older ones of this run."""
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        if not has_finite_weights(self.model):
            raise FloatingPointError(f"the weights are not finite after step {self.state.global_step}")
        if self.args.should_save:
            set_aside(folder)
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
            self.args.save_total_limit = limit
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                torch.save(self.args, folder / TRAINING_ARGS_NAME)  # the Trainer's was written without the limit
                seal(folder, self.identity, resumable=not self.args.save_only_model)
        except Exception as problem:  # whatever the writers raise when a disk is full, and each has its own
            shutil.rmtree(folder, ignore_errors=True)
            raise OSError(
                f"{folder} could not be saved ({problem}); the checkpoints before it are untouched"
            ) from problem
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            if belongs_to(aside := Path(f"{folder}{EARLIER}"), self.identity):
                shutil.rmtree(aside, ignore_errors=True)
            drop_oldest(folder.parent, limit, {str(folder), str(self.state.best_model_checkpoint)}, self.identity)


class FollowArguments(TrainerCallback):
    """Let a resumed run save, log and evaluate as its own arguments say. The Trainer does as the checkpoint's said.

    It also logs whenever it saves, so that the first log entry after a resume is the one of the uninterrupted run.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        state.compute_steps(args, state.max_steps)

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log = control.should_log or control.should_save

    on_epoch_end = on_step_end


def planned_updates(args, count) -> int:
    """Return the number of updates that `args` plan on `count` pairs, as the Trainer finds it."""
    if args.max_steps > 0:
        return args.max_steps
    size = args.train_batch_size * args.world_size
    steps = count // size if args.dataloader_drop_last else math.ceil(count / size)
    return math.ceil(args.num_train_epochs * max(1, math.ceil(steps / args.gradient_accumulation_steps)))


def update_rule(args, updates) -> dict:
    """Return what an update does, by name: optimizer, rate, clipping, schedule over the planned `updates`."""
    kind, warmup = SchedulerType(args.lr_scheduler_type).value, args.get_warmup_steps(updates)
    schedule = kind if kind == "constant" else f"{kind}, {warmup} updates of warm-up"
    schedule += "" if kind in ENDLESS else f", {updates} updates in all"
    return {name: getattr(args, name, None) for name in UPDATE} | {"schedule": schedule}


def given_rule(optimizer, scheduler) -> dict:
    """Return what `update_rule` does, of an optimizer and a schedule that were made outside; {} if there is none.

    Such a schedule cannot be read, so its class stands for it. The caller has to see to it that it continues as it began.
    """
    rule = {}
    if optimizer is not None:
        groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        rule |= {"optim": type(optimizer).__name__, "optim_args": str(groups)}
        rule |= {"learning_rate": [group.get("initial_lr", group["lr"]) for group in groups]}
    if scheduler is not None:
        rule |= {"schedule": type(scheduler).__name__}
    return rule


def adapters(model) -> dict:
    """Return the configuration of a PEFT model's adapters by name, without addresses and unset values.

    Of any other model, return {}.
    """
    found = {}
    for name, config in getattr(model, "peft_config", {}).items():
        values = {k: v for k, v in config.to_dict().items() if v and k not in ADDRESSES}
        values |= {k: sorted(map(str, v)) for k, v in values.items() if isinstance(v, set)}
        found |= {
            f"{name} adapter's {k}": v if isinstance(v, (str, int, float, list)) else str(v) for k, v in values.items()
        }
    return found
