"""Checkpoints that transformers' callbacks ask for: Lightning's, in transformers' folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from sfm.train._checkpoint import CHECKPOINT_FILE, write_checkpoint

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from transformers import TrainerState, TrainingArguments

#: The state beside Lightning's checkpoint, as `TrainerState.load_from_json` reads it.
STATE = "trainer_state.json"


def checkpoint_folder(args: TrainingArguments, step: int) -> Path:
    """Folder of the checkpoint of a step."""
    return Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def save_checkpoint(trainer: Trainer, args: TrainingArguments, state: TrainerState) -> None:
    """Write a checkpoint that `resume=` takes, with the state beside it, and remove those beyond the limit."""
    best = state.best_global_step
    # The best one may not have been saved: then the one before it stays the best that there is.
    if best == state.global_step or (best and checkpoint_folder(args, best).is_dir()):
        state.best_model_checkpoint = str(checkpoint_folder(args, best))
    folder = write_checkpoint(trainer, str(args.output_dir))
    if trainer.is_global_zero:
        state.save_to_json(str(folder / STATE))
        rotate_checkpoints(str(args.output_dir), args.save_total_limit, state.best_model_checkpoint, use_mtime=True)


def load_best(module: LightningModule, state: TrainerState) -> None:
    """Take over the weights of the best checkpoint, if there is one."""
    if state.best_model_checkpoint is None:
        return
    path = Path(state.best_model_checkpoint) / CHECKPOINT_FILE
    content = torch.load(path, map_location=module.device, weights_only=True)
    module.load_state_dict(content["state_dict"])
