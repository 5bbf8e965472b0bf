"""Checkpoints of a training run, from which it can go on."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

#: The file in each `checkpoint-<step>` folder.
CHECKPOINT_FILE = "training.ckpt"
_FOLDER = re.compile(r"checkpoint-(\d+)")


def write_checkpoint(trainer: Trainer, directory: str | Path) -> Path:
    """Write `checkpoint-<step>` with everything that training needs to go on; all processes of a run call it."""
    folder = Path(directory) / f"checkpoint-{trainer.global_step}"
    # The file appears at once when it is complete, so a run that is killed meanwhile leaves none.
    trainer.save_checkpoint(folder / CHECKPOINT_FILE, weights_only=False)
    return folder


def checkpoints_in(directory: str | Path) -> list[Path]:
    """Return the complete checkpoints in a folder, oldest first."""
    directory = Path(directory)
    numbered = [(int(match[1]), path) for path in directory.glob("*") if (match := _FOLDER.fullmatch(path.name))]
    return [path for _, path in sorted(numbered) if (path / CHECKPOINT_FILE).exists()]


def find_checkpoint(*, resume: bool | str | Path, checkpoint_dir: str | Path | None) -> Path | None:
    """Return the file to go on from; `None` to start from the beginning.

    Parameters
    ----------
    resume
        `True` for the newest checkpoint in `checkpoint_dir`, if there is one; or a folder of one, or of several.
    checkpoint_dir
        Where the run writes its checkpoints.
    """
    if resume is False:
        return None
    if resume is True:
        if checkpoint_dir is None:
            msg = "resume=True needs checkpoint_dir=, the folder that the run wrote its checkpoints to."
            raise ValueError(msg)
        found = checkpoints_in(checkpoint_dir)
        return found[-1] / CHECKPOINT_FILE if found else None
    path = Path(resume)
    candidates = [path] if (path / CHECKPOINT_FILE).exists() else checkpoints_in(path)
    if not candidates:
        msg = f"Did not find a checkpoint in resume={str(resume)!r}. Pass a folder that checkpoint_dir= named before."
        raise FileNotFoundError(msg)
    return candidates[-1] / CHECKPOINT_FILE


class TrainingCheckpoint(Callback):
    """Write a checkpoint after each epoch, and every so many steps.

    Parameters
    ----------
    directory
        Where to write.
    every_n_steps
        Optimizer steps between checkpoints within an epoch; `None` for none.
    keep
        How many of its checkpoints to keep, the newest ones.
    """

    def __init__(self, directory: str | Path, *, every_n_steps: int | None = None, keep: int = 2) -> None:
        self.directory = Path(directory)
        self.every_n_steps = every_n_steps
        self.keep = keep
        self._written: list[str] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Write a checkpoint if enough steps have been made."""
        step = trainer.global_step
        if not self.every_n_steps or step % self.every_n_steps or f"checkpoint-{step}" in self._written:
            return
        self._write(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint, validation included."""
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        name = f"checkpoint-{trainer.global_step}"
        self._written = [*(old for old in self._written if old != name), name]
        outdated, self._written = self._written[: -self.keep], self._written[-self.keep :]
        write_checkpoint(trainer, self.directory)
        if trainer.is_global_zero:
            for old in outdated:
                # A folder that a Hugging Face callback asked for is kept or removed by its own rules.
                if not (self.directory / old / "trainer_state.json").exists():
                    shutil.rmtree(self.directory / old, ignore_errors=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the names of the checkpoints, for the checkpoint itself."""
        return {"written": self._written}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the checkpoints of the run that is resumed.

        Parameters
        ----------
        state_dict
            What `state_dict` returned.
        """
        self._written = list(state_dict["written"])
