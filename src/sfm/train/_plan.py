from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from scvi import settings
from scvi.train import TrainingPlan
from torchmetrics import MeanMetric, Metric

from sfm.inference._precision import onednn_is_exact
from sfm.train._finite import refuse_infinite
from sfm.train._history import frames_from_history, plain_values
from sfm.train._optimizer import constant, parameter_groups, warmup_cosine
from sfm.train._sharding import is_sharded, shard, whole_weights

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.train._module import CellModule

_STATE = "sfm_training"


class CellTrainingPlan(TrainingPlan):
    """AdamW with linear warm-up and cosine decay, stepped once per optimizer step.

    Each step draws its random numbers (hidden genes, dropout) from its own seed, so that a run that was interrupted goes
    on as if it had not been. Training stops with an error as soon as the loss or the gradient is not finite.

    Parameters
    ----------
    module
        The module to train.
    lr
        Highest learning rate.
    head_lr
        Highest learning rate of the head, if another than that of the backbone.
    weight_decay
        Weight decay of matrices; biases and norms have none.
    warmup
        Share of all steps in which the learning rate rises.
    min_lr_ratio
        Learning rate at the end, as a share of the highest.
    betas
        Decay rates of AdamW's moments.
    eps
        Term added to AdamW's denominator.
    compile
        Compile the network, for minibatches of any shape.
    compile_kwargs
        Settings of :func:`torch.compile`.
    kwargs
        Whatever :class:`scvi.train.TrainingPlan` takes.
    """

    def __init__(
        self,
        module: CellModule,
        *,
        lr: float = 1e-3,
        head_lr: float | None = None,
        weight_decay: float = 0.01,
        warmup: float = 0.1,
        min_lr_ratio: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        compile: bool = False,
        compile_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(module, optimizer="AdamW", lr=lr, weight_decay=weight_decay, eps=eps, **kwargs)
        self.head_lr = head_lr
        self.warmup = warmup
        self.min_lr_ratio = min_lr_ratio
        self.betas = betas
        self.seed = int(torch.randint(2**31, ())) if settings.seed is None else int(settings.seed)
        self.train_loss = MeanMetric()
        self._loader_state: dict[str, int] | None = None
        #: All weights, where training spread them over processes.
        self.whole_weights: dict[str, Tensor] | None = None
        #: Norm of the gradient in the last optimizer step, before clipping.
        self.grad_norm: Tensor | None = None
        if compile:
            # In place, so that names of weights stay; scvi-tools would compile anew for each length.
            module.network.compile(**{"dynamic": True, **(compile_kwargs or {})})

    def setup(self, stage: str) -> None:
        """Set a new head to gene frequencies, and keep the means of an unfinished epoch in checkpoints.

        Parameters
        ----------
        stage
            Lightning's name of what begins.
        """
        if self.module.starts_from_frequencies:
            counts = self.trainer.datamodule.token_counts(self.module.network.config.vocab_size)
            self.module.start_from_frequencies(torch.from_numpy(counts))
        for metric in self._means():
            metric.persistent(mode=True)

    def _means(self) -> list[Metric]:
        return [module for module in self.modules() if isinstance(module, Metric)]

    def configure_model(self) -> None:
        """Shard the network, if the strategy asks for it."""
        if self.device_mesh is not None and not is_sharded(self.module.network):
            shard(self.module.network, device=self.device.type, world_size=self.trainer.world_size)

    @property
    def use_sync_dist(self) -> bool:
        """Whether metrics are averaged over processes."""
        return self.trainer.world_size > 1

    def on_fit_start(self) -> None:
        """Compute float32 products on the CPU with oneDNN, where that is as exact as MKL."""
        if self.device.type == "cpu" and onednn_is_exact():
            torch.set_float32_matmul_precision("medium")

    def on_train_start(self) -> None:
        """Go on in the middle of an epoch, if a run is resumed there."""
        if self._loader_state is None:
            return
        # Lightning does so only for loaders that it had not made before, to count the steps of the schedule.
        self.trainer.train_dataloader.load_state_dict(self._loader_state)
        if self._loader_state["yielded"] == 0:
            for metric in self._means():
                metric.reset()

    def on_fit_end(self) -> None:
        """Gather the weights if they are sharded, while the processes can still talk to each other."""
        if is_sharded(self.module.network):
            self.whole_weights = whole_weights(self.module.network)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the random numbers by the number of the minibatch, in whichever process it is.

        Parameters
        ----------
        batch
            The minibatch.
        batch_idx
            Its number in the epoch and process.
        """
        number = batch_idx * self.trainer.world_size + self.global_rank
        torch.manual_seed(hash((self.seed, self.current_epoch, number)) % 2**63)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a minibatch.

        Parameters
        ----------
        batch
            The minibatch.
        batch_idx
            Its number in the epoch.
        """
        _, _, output = self.forward(batch, loss_kwargs=self.loss_kwargs)
        loss: Tensor = output.loss
        refuse_infinite(loss.detach(), "loss", plan=self, minibatch=batch)
        self.train_loss(loss.detach(), output.n_obs_minibatch)
        self.log("train_loss", self.train_loss, on_step=self.on_step, on_epoch=self.on_epoch, prog_bar=True)
        self.compute_and_log_metrics(output, self.train_metrics, "train")
        return loss

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the gradient, and stop if it is not finite.

        Parameters
        ----------
        optimizer
            The optimizer.
        gradient_clip_val
            Largest norm, or value.
        gradient_clip_algorithm
            `"norm"` or `"value"`.
        """
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.grad_norm = norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if self.trainer.precision != "16-mixed":  # whose scaler skips steps that overflow
            refuse_infinite(norm, "gradient", plan=self)
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the optimizer and its schedule."""
        rates = {"lr": self.lr, "head_lr": self.head_lr, "weight_decay": self.weight_decay}
        groups = parameter_groups(self.module.network, **rates)
        if not groups:
            msg = "No weight is left to train: freeze= and lora= leave nothing. Freeze less, or pass lora=."
            raise ValueError(msg)
        # One pass over the weights, without temporary copies; Lightning clips no gradients for it in mixed precision.
        in_fp32 = self.device.type == "cpu" and self.trainer.precision == "32-true"
        fused = in_fp32 and not is_sharded(self.module.network)
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=fused or None)
        total = self.trainer.estimated_stepping_batches
        factor = constant if math.isinf(total) else warmup_cosine(int(total), self.warmup, self.min_lr_ratio)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the seed and the history.

        Parameters
        ----------
        checkpoint
            What will be written.
        """
        loader = self.trainer.train_dataloader.state_dict()
        checkpoint[_STATE] = {"seed": self.seed, "loader": loader, "history": plain_values(self._history())}

    def _history(self) -> dict[str, Any]:
        """What has been logged, and what this epoch is about to log if it is over."""
        # Every process computes the means, which they exchange; only the first one has a history.
        epoch = self.trainer.fit_loop.epoch_progress.current
        pending = dict(self.trainer.callback_metrics) if epoch.processed > epoch.completed else {}
        if not self.trainer.is_global_zero or not hasattr(self.trainer.logger, "history"):
            return {}
        history = {name: frame.copy() for name, frame in self.trainer.logger.history.items()}
        for name, value in pending.items():
            history.setdefault(name, pd.DataFrame(columns=[name], index=pd.Index([], name="epoch")))
            history[name].loc[self.current_epoch, name] = value.item()
        return history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the seed and the history of the run that is resumed.

        Parameters
        ----------
        checkpoint
            What was read.
        """
        state = checkpoint.get(_STATE)
        if state is None:
            msg = "The checkpoint was not written by sfm, so its training cannot go on here. Pass resume=False."
            raise ValueError(msg)
        self.seed = state["seed"]
        self._loader_state = state["loader"]
        self._use_own_rates(checkpoint)
        if self.trainer.is_global_zero and hasattr(self.trainer.logger, "history"):
            self.trainer.logger.experiment.data.update(frames_from_history(state["history"]))

    def _use_own_rates(self, checkpoint: dict[str, Any]) -> None:
        """Let a resumed run take the learning rates that it is given now, at the point of the schedule it has reached."""
        rates = {"lr": self.lr, "head_lr": self.head_lr, "weight_decay": self.weight_decay}
        own = [group["lr"] for group in parameter_groups(self.module.network, **rates)]
        schedule, groups = checkpoint["lr_schedulers"][0], checkpoint["optimizer_states"][0]["param_groups"]
        if len(own) != len(groups):
            msg = (
                f"The checkpoint trained {len(groups)} groups of weights, this run has {len(own)}: freeze=, lora= or "
                "head_lr are others. Pass those of the run that wrote it, or resume=False."
            )
            raise ValueError(msg)
        for group, before, rate in zip(groups, schedule["base_lrs"], own, strict=True):
            group["lr"] = rate * (group["lr"] / before if before else 1.0)
            group["initial_lr"] = rate
        schedule["base_lrs"] = own
