from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from scvi.module.base import LossOutput
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score

from sfm.nn import CellForSequenceClassification
from sfm.nn._masking import IGNORED
from sfm.train._module import CellModule
from sfm.train._parts import example_parts
from sfm.train._plan import CellTrainingPlan

if TYPE_CHECKING:
    from torch import Tensor
    from torchmetrics import Metric

    from sfm.nn import CellConfig

_N_BINS = 15  # of the calibration error, as in Guo et al. 2017


class ClassificationModule(CellModule):
    """Labels of cells.

    Parameters
    ----------
    config
        Configuration of the network, with its labels.
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__(CellForSequenceClassification(config))

    def make_example(self, minibatch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take the labels as they are, the same in every epoch; see :meth:`CellModule.make_example`."""
        labels = minibatch["label_index"]
        return {**self.inputs(minibatch), "labels": labels.masked_fill(labels < 0, IGNORED)}

    def n_targets(self, example: dict[str, Tensor]) -> Tensor:
        """Count the label of each cell; see :meth:`CellModule.n_targets`."""
        return (example["labels"] != IGNORED).long()

    def forward(self, tensors: dict[str, Tensor], **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], LossOutput]:
        """Return the loss, and in evaluation mode the logits and labels as well; see :meth:`CellModule.forward`."""
        if self.training:
            return super().forward(tensors, **kwargs)
        example = self.make_example(tensors)
        n_targets = self.n_targets(example)
        outputs = [self.network(**part) for part in example_parts(example, max_tokens=self.max_tokens)]
        logits = torch.cat([output.logits for output in outputs])
        shares = torch.stack([part.sum() for part in n_targets.split([len(output.logits) for output in outputs])])
        losses = torch.stack([output.loss for output in outputs])
        loss = (losses * shares).sum() / n_targets.sum().clamp(min=1)
        predicted = {"logits": logits, "labels": example["labels"]}
        return (
            {},
            predicted,
            LossOutput(loss=loss, reconstruction_loss=loss * n_targets, n_obs_minibatch=len(n_targets)),
        )


class ClassificationPlan(CellTrainingPlan):
    """The same training, with metrics of the validation cells in each epoch.

    `validation_accuracy`, `validation_macro_f1` (unweighted mean over labels) and `validation_calibration_error`, the
    expected calibration error of the probabilities before a temperature is fitted (Guo et al. 2017).

    Parameters
    ----------
    module
        The module to train.
    kwargs
        Arguments of :class:`CellTrainingPlan`.
    """

    def __init__(self, module: ClassificationModule, **kwargs: Any) -> None:
        super().__init__(module, **kwargs)
        n_labels: Any = module.network.config.num_labels
        metrics: dict[str, Metric] = {
            "accuracy": MulticlassAccuracy(n_labels, average="micro"),
            "macro_f1": MulticlassF1Score(n_labels, average="macro"),
            "calibration_error": MulticlassCalibrationError(n_labels, n_bins=_N_BINS),
        }
        self.label_metrics = nn.ModuleDict(metrics)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add a minibatch to the metrics.

        Parameters
        ----------
        batch
            The minibatch.
        batch_idx
            Its number in the epoch.
        """
        _, predicted, output = self.forward(batch, loss_kwargs=self.loss_kwargs)
        known = predicted["labels"] != IGNORED
        where = {"on_step": self.on_step, "on_epoch": self.on_epoch, "batch_size": max(int(known.sum()), 1)}
        self.log("validation_loss", output.loss, sync_dist=self.use_sync_dist, **where)
        self.compute_and_log_metrics(output, self.val_metrics, "validation")
        probabilities, labels = predicted["logits"][known].softmax(dim=1), predicted["labels"][known]
        for name, metric in self._label_metrics():
            metric.update(probabilities, labels)
            self.log(f"validation_{name}", metric, on_step=False, on_epoch=True)

    def _label_metrics(self) -> list[tuple[str, Any]]:
        return list(self.label_metrics.items())
