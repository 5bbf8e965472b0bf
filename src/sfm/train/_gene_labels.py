"""Labels of genes, learnt from some genes and tested on others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi.module.base import LossOutput

from sfm.nn import CellForTokenClassification
from sfm.nn._masking import IGNORED
from sfm.train._classification import ClassificationPlan
from sfm.train._module import CellModule
from sfm.train._parts import example_parts
from sfm.train._splitter import TokenDataSplitter
from sfm.train._stratified import stratified_split

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn import CellConfig


class GeneLabelModule(CellModule):
    """Labels of genes in their cells; in training those of some genes, in validation those of others.

    Parameters
    ----------
    config
        Configuration of the network, with its labels.
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__(CellForTokenClassification(config))
        none = torch.full((config.vocab_size,), IGNORED, dtype=torch.long)
        # Buffers, so that a run that is resumed goes on with the same genes.
        self.register_buffer("train_labels", none)
        self.register_buffer("validation_labels", none.clone())

    def set_labels(self, train_labels: np.ndarray, validation_labels: np.ndarray) -> None:
        """Say which genes to train on and which to validate with.

        Parameters
        ----------
        train_labels
            Label of each token id as a number, -1 for those that are not trained on, shape `(vocab_size,)`.
        validation_labels
            The same for validation.
        """
        for buffer, codes in ((self.train_labels, train_labels), (self.validation_labels, validation_labels)):
            buffer.copy_(torch.from_numpy(np.where(codes < 0, IGNORED, codes)))

    def make_example(self, minibatch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Look up the labels of the tokens; see :meth:`CellModule.make_example`."""
        table: Any = self.train_labels if self.training else self.validation_labels
        labels = table[minibatch["input_ids"]].masked_fill(minibatch["attention_mask"] == 0, IGNORED)
        return {**self.inputs(minibatch), "labels": labels}

    def forward(self, tensors: dict[str, Tensor], **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], LossOutput]:
        """Return the loss, and in evaluation mode the logits and labels of labelled genes; see :class:`CellModule`."""
        if self.training:
            return super().forward(tensors, **kwargs)
        example = self.make_example(tensors)
        n_targets = self.n_targets(example)
        logits, labels, losses = [], [], []
        for part in example_parts(example, max_tokens=self.max_tokens):
            output, known = self.network(**part), part["labels"] != IGNORED
            logits.append(output.logits[known])
            labels.append(part["labels"][known])
            losses.append(output.loss * known.sum())
        loss = torch.stack(losses).sum() / n_targets.sum().clamp(min=1)
        predicted = {"logits": torch.cat(logits), "labels": torch.cat(labels)}
        reconstruction_loss = loss * n_targets
        return (
            {},
            predicted,
            LossOutput(loss=loss, reconstruction_loss=reconstruction_loss, n_obs_minibatch=len(n_targets)),
        )


class GeneLabelPlan(ClassificationPlan):
    """The same training, with metrics of the validation genes in each epoch, counted once per cell they are in.

    Parameters
    ----------
    module
        The module to train.
    kwargs
        Arguments of :class:`CellTrainingPlan`.
    """

    def __init__(self, module: GeneLabelModule, **kwargs: Any) -> None:
        super().__init__(module, **kwargs)  # type: ignore[arg-type]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add a minibatch to the metrics, unless none of the validation genes is in its cells.

        Parameters
        ----------
        batch
            The minibatch.
        batch_idx
            Its number in the epoch.
        """
        example = self.module.make_example(batch)
        if bool((example["labels"] != IGNORED).any()):
            super().validation_step(batch, batch_idx)


class GeneLabelSplitter(TokenDataSplitter):
    """All cells are trained on; a part of them serves for validation too, whose genes are others.

    Parameters
    ----------
    adata_manager
        Manager of the registered data.
    kwargs
        Arguments of :class:`TokenDataSplitter`.
    """

    def setup(self, stage: str | None = None) -> None:
        """Take the split.

        Parameters
        ----------
        stage
            Lightning's name of what begins.
        """
        super().setup(stage)
        if self.external_indexing is None:
            self.train_idx, self.test_idx = np.arange(len(self.cells)), np.array([], dtype=np.int64)
            self.n_train = len(self.cells)


def split_genes(
    codes: np.ndarray, *, train_size: float, validation_size: float | None, seed: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw which labelled genes to train on and which to validate with, each label in proportion.

    Parameters
    ----------
    codes
        Label of each token id as a number, -1 where there is none.
    train_size
        Share of the labelled genes to train on.
    validation_size
        Share to validate with; `None` for all others.
    seed
        Seed of the draw.

    Returns
    -------
    The codes of the genes to train on, and of those to validate with, -1 for all others.
    """
    rest = 1 - train_size if validation_size is None else validation_size
    if not (0 < train_size <= 1 and 0 <= rest <= 1 and train_size + rest <= 1 + 1e-9):
        msg = (
            f"train_size={train_size!r} and validation_size={validation_size!r} are no shares of the labelled genes. Pass "
            "numbers from 0 to 1 that sum to at most 1."
        )
        raise ValueError(msg)
    n = int((codes >= 0).sum())
    train, validation, _ = stratified_split(
        codes, n_held_out=round(n * (1 - train_size)), n_validation=round(n * rest), seed=seed
    )
    chosen = (np.full_like(codes, -1), np.full_like(codes, -1))
    for part, rows in zip(chosen, (train, validation), strict=True):
        part[rows] = codes[rows]
    return chosen
