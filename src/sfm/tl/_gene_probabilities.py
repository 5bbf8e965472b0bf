"""Labels of genes in their cells, averaged over the cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from sfm._keys import column_names
from sfm.inference._loop import run_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.inference._minibatches import BatchSize
    from sfm.inference._precision import Precision
    from sfm.nn import CellForTokenClassification
    from sfm.tokenizers import TokenizedCells


@dataclass(frozen=True)
class GeneProbabilities:
    """Labels of genes, averaged over the cells in which each is a token."""

    labels: list[str]
    """Names of the labels."""
    probabilities: np.ndarray
    """Mean probabilities, float64 of shape `(n_genes, n_labels)`; NaN for genes without cells."""
    n_cells: np.ndarray
    """Number of those cells, int64 of shape `(n_genes,)`."""

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """Most probable label, `None` where there is none, and its probability, each of shape `(n_genes,)`."""
        names = np.array([*self.labels, None], dtype=object)
        missing = self.n_cells == 0
        filled = np.where(missing[:, None], 0, self.probabilities)
        return names[np.where(missing, -1, filled.argmax(axis=1))], np.where(missing, np.nan, filled.max(axis=1))

    def __getitem__(self, rows: np.ndarray) -> GeneProbabilities:
        """Genes by row, in any order; -1 is a gene without cells."""
        missing = rows < 0
        probabilities = np.where(missing[:, None], np.nan, self.probabilities[rows])
        return GeneProbabilities(self.labels, probabilities, np.where(missing, 0, self.n_cells[rows]))

    def frame(self, names: pd.Index) -> pd.DataFrame:
        """Table of probabilities, float32, with a column per label."""
        return pd.DataFrame(self.probabilities.astype(np.float32), index=names, columns=column_names(self.labels))


def gene_probabilities(
    network: CellForTokenClassification,
    cells: TokenizedCells,
    *,
    pad_id: int | None,
    batch_size: BatchSize = "auto",
    device: str | torch.device = "auto",
    precision: Precision = "auto",
) -> GeneProbabilities:
    """Average the label probabilities of each token id over the cells; one row per token id, special ones empty."""
    config, labeller = network.config, network
    labels = list((config.id2label or {}).values())
    # In float64, so that the order of the cells is lost in the rounding to float32.
    sums = torch.zeros(config.vocab_size, len(labels), dtype=torch.float64)
    n_cells = torch.zeros(config.vocab_size, dtype=torch.int64)

    def add(minibatch: dict[str, Tensor]) -> tuple[Tensor]:
        probabilities: Any = labeller(**minibatch).probabilities
        is_gene = labeller.cell.is_gene(minibatch["input_ids"], minibatch["attention_mask"])
        token_ids = minibatch["input_ids"][is_gene].cpu()
        sums.index_add_(0, token_ids, probabilities[is_gene].float().cpu().double())
        n_cells.add_(torch.bincount(token_ids, minlength=len(n_cells)))
        return (is_gene.sum(dim=1),)

    where: dict[str, Any] = {"batch_size": batch_size, "device": device, "precision": precision}
    run_tokens(network, add, cells, pad_id=pad_id, doing="Annotating genes", **where)
    missing = n_cells == 0
    means = (sums / n_cells.clamp(min=1).unsqueeze(1)).masked_fill(missing.unsqueeze(1), torch.nan)
    return GeneProbabilities(labels, means.numpy(), n_cells.numpy())


def token_classifier(network: Any, *, name: str) -> CellForTokenClassification:
    """Return the network if it gives genes probabilities of labels."""
    from sfm.nn import CellForTokenClassification

    remedy = (
        "Pass a trained `sfm.model.GeneClassifier` or the directory that its save_pretrained wrote; to make one from this "
        "model: `sfm.model.GeneClassifier.from_pretrained(model, adata, gene_labels_key=...)`, then `train()`."
    )
    if not isinstance(network, CellForTokenClassification):
        msg = (
            f"Model {name!r} is a {type(network).__name__}, which does not label genes; "
            f"sfm.nn.CellForTokenClassification does. {remedy}"
        )
        raise TypeError(msg)
    config = network.config
    if config.problem_type not in (None, "single_label_classification") or (config.num_labels or 0) < 2:
        msg = (
            f"Model {name!r} predicts numbers or labels that do not exclude each other (problem_type="
            f"{config.problem_type!r}, {config.num_labels} outputs), so no label of a gene is the best one. {remedy}"
        )
        raise TypeError(msg)
    return network
