from __future__ import annotations

import warnings
from typing import Any

from scvi.train import Trainer, TrainRunner


class TokenTrainer(Trainer):
    """scvi-tools' trainer, which reads checkpoints with the restricted unpickler."""

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """Train; see :meth:`lightning.pytorch.Trainer.fit`.

        Parameters
        ----------
        args
            Training plan and data.
        kwargs
            Further arguments of Lightning.
        """
        with warnings.catch_warnings():
            # A run may go on without writing checkpoints, and without reporting.
            own = r"'(TrainingCheckpoint|TrainerCallbackAdapter)'"
            warnings.filterwarnings("ignore", message=rf".*add the following callbacks: \[{own}(, {own})?\]")
            super().fit(*args, **{"weights_only": True, **kwargs})


class TokenTrainRunner(TrainRunner):
    """scvi-tools' runner with that trainer."""

    _trainer_cls = TokenTrainer
