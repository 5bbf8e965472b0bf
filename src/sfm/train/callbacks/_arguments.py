"""`TrainingArguments` that say what a Lightning trainer does."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments

from sfm.train.callbacks._state import planned_epochs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning.pytorch import Trainer

# Settings that the adapter obeys or hands to the callbacks. All others are the trainer's to decide.
OBEYED = {
    "eval_delay",
    "eval_steps",
    "eval_strategy",
    "greater_is_better",
    "hub_private_repo",
    "include_num_input_tokens_seen",
    "load_best_model_at_end",
    "logging_first_step",
    "logging_steps",
    "logging_strategy",
    "metric_for_best_model",
    "output_dir",
    "project",
    "report_to",
    "run_name",
    "save_steps",
    "save_strategy",
    "save_total_limit",
    "trackio_bucket_id",
    "trackio_space_id",
    "trackio_static_space_id",
}
# What to pass to `train` instead.
_INSTEAD = {
    "adam_beta1": "plan_kwargs={'betas': ...}",
    "adam_beta2": "plan_kwargs={'betas': ...}",
    "adam_epsilon": "plan_kwargs={'eps': ...}",
    "bf16": "precision='bf16-mixed'",
    "dataloader_num_workers": "datasplitter_kwargs={'num_workers': ...}",
    "fp16": "precision='16-mixed'",
    "gradient_accumulation_steps": "accumulate_grad_batches=",
    "learning_rate": "plan_kwargs={'lr': ...}",
    "max_grad_norm": "gradient_clip_val=",
    "max_steps": "max_epochs=-1, max_steps=",
    "num_train_epochs": "max_epochs=",
    "per_device_eval_batch_size": "batch_size=",
    "per_device_train_batch_size": "batch_size=",
    "resume_from_checkpoint": "ckpt_path=",
    "use_cpu": "accelerator='cpu'",
    "warmup_ratio": "plan_kwargs={'warmup': ...}",
    "warmup_steps": "plan_kwargs={'warmup': ...}",
    "weight_decay": "plan_kwargs={'weight_decay': ...}",
}
_NO_FOLDER = "trainer_output"  # what transformers fills in where no folder was given
_NEVER = 1e18  # epochs; a delay that JSON can hold, unlike infinity


def make_arguments(
    trainer: Trainer,
    given: TrainingArguments | dict[str, Any] | None,
    *,
    output_dir: str | None,
    validates: bool,
) -> TrainingArguments:
    """Arguments with the trainer's settings, and the given ones where they are not the trainer's to decide."""
    wanted = _explicit(given)
    if output_dir is not None:
        wanted["output_dir"] = output_dir
    if not validates and wanted.get("eval_strategy", "no") != "no":
        msg = (
            f"eval_strategy={str(wanted['eval_strategy'])!r} asks for a validation, and there are no validation cells. "
            "Pass `train_size=` below 1 to train()."
        )
        raise ValueError(msg)
    ours = _from_trainer(trainer, validates=validates)
    if "eval_strategy" in wanted:
        ours["eval_delay"] = 0
    refused = [name for name, value in wanted.items() if name in _FIELDS - OBEYED and value != ours.get(name)]
    if refused:
        raise ValueError(_refusal(refused, wanted))
    cls = type(given) if isinstance(given, TrainingArguments) else TrainingArguments
    with _device_kept():
        args = cls(**{**ours, **wanted})
    # Lightning uses one device per process, however many there are.
    args._n_gpu = min(args._n_gpu, 1)
    return args


_FIELDS = {field.name for field in fields(TrainingArguments) if field.init}


def _explicit(given: TrainingArguments | dict[str, Any] | None) -> dict[str, Any]:
    if isinstance(given, TrainingArguments):
        # On a CPU, transformers changes other settings as well.
        default = type(given)(output_dir=given.output_dir, use_cpu=given.use_cpu)
        names = [field.name for field in fields(given) if field.init]
        chosen = {name: getattr(given, name) for name in names if getattr(given, name) != getattr(default, name)}
        return chosen if given.output_dir == _NO_FOLDER else {"output_dir": given.output_dir, **chosen}
    unknown = sorted(set(given or {}) - _FIELDS)
    if unknown:
        msg = f"training_arguments= holds {unknown}, which `transformers.TrainingArguments` does not know."
        raise TypeError(msg)
    return dict(given or {})


def _refusal(names: list[str], wanted: dict[str, Any]) -> str:
    parts = [f"{name}={wanted[name]!r}" + (f" (use {_INSTEAD[name]})" if name in _INSTEAD else "") for name in names]
    return (
        f"training_arguments= sets {', '.join(parts)}, which the Lightning trainer and the training plan decide. "
        "Pass such settings to train() and leave them out here."
    )


def _from_trainer(trainer: Trainer, *, validates: bool) -> dict[str, Any]:
    optimizer = trainer.optimizers[0] if trainer.optimizers else None
    on_cpu = trainer.strategy.root_device.type == "cpu"
    reduced = on_cpu or trainer.strategy.root_device.type == "cuda"
    minibatch = _cells_per_minibatch(trainer)
    return {
        "output_dir": trainer.default_root_dir,
        "num_train_epochs": float(planned_epochs(trainer)) if optimizer else 0.0,
        "max_steps": trainer.max_steps,
        "gradient_accumulation_steps": trainer.accumulate_grad_batches,
        "max_grad_norm": float(trainer.gradient_clip_val or 0.0),
        "bf16": reduced and "bf16" in str(trainer.precision),
        "fp16": reduced and str(trainer.precision).startswith("16"),
        "use_cpu": on_cpu,
        "seed": int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed())),
        "include_num_input_tokens_seen": "non_padding",
        "report_to": "none",
        "save_strategy": "no",
        **({} if minibatch is None else dict.fromkeys(_PER_DEVICE, minibatch)),
        **({} if optimizer is None else _of_optimizer(optimizer)),
        **_of_logging(trainer),
        **(_of_validation(trainer) if validates else {"eval_strategy": "no"}),
    }


_PER_DEVICE = ("per_device_train_batch_size", "per_device_eval_batch_size")


def _cells_per_minibatch(trainer: Trainer) -> int | None:
    loader = trainer.train_dataloader
    owners = (loader, getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None))
    sizes = (getattr(owner, "batch_size", None) for owner in owners)
    return next((size for size in sizes if isinstance(size, int)), None)


def _of_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    settings = optimizer.defaults
    known = {
        "learning_rate": settings.get("lr"),
        "weight_decay": max(group.get("weight_decay", 0.0) for group in optimizer.param_groups),
        "adam_epsilon": settings.get("eps"),
    }
    if "betas" in settings:
        known["adam_beta1"], known["adam_beta2"] = settings["betas"]
    return {name: float(value) for name, value in known.items() if value is not None}


def _of_logging(trainer: Trainer) -> dict[str, Any]:
    every: int = getattr(trainer, "log_every_n_steps", 0)
    return {"logging_strategy": "steps", "logging_steps": every} if every > 0 else {"logging_strategy": "no"}


def _of_validation(trainer: Trainer) -> dict[str, Any]:
    each_epoch = trainer.check_val_every_n_epoch == 1 and trainer.val_check_interval == 1.0
    return {
        "eval_strategy": "epoch",
        "metric_for_best_model": "loss",
        # Of other schedules, transformers knows nothing: Lightning follows them, and the default flow asks for nothing.
        "eval_delay": 0 if each_epoch else _NEVER,
    }


@contextmanager
def _device_kept() -> Iterator[None]:
    # transformers makes the first device the current one; Lightning may be using another.
    current = torch.cuda.current_device() if torch.cuda.is_initialized() else None
    yield
    if current is not None:
        torch.cuda.set_device(current)
