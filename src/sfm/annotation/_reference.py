"""What cells are annotated from, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from anndata import AnnData

    from sfm.inference._precision import Precision


@dataclass(frozen=True, eq=False)
class Prediction:
    """Labels of cells as a reference sees them, before anything is rejected."""

    probabilities: np.ndarray
    """Calibrated probability of each label, float32 of shape `(n_obs, n_labels)`."""
    novelty: np.ndarray | None = None
    """Share of the reference cells that are at most as far from the others as this cell, float32 of shape `(n_obs,)`."""
    vectors: np.ndarray | None = None
    """Cell vectors that were classified, float32 of shape `(n_obs, n_dims)`; majority voting clusters them."""
    params: dict[str, Any] = field(default_factory=dict)
    """Provenance of this query for `uns`: slot read, coverage, model."""
    codes: np.ndarray | None = None
    """Number of the best label of each cell, shape `(n_obs,)`; by default that of the largest probability."""
    is_empty: np.ndarray | None = None
    """Which cells have no count on a known gene, shape `(n_obs,)`; they are always rejected."""
    votes: np.ndarray | None = None
    """Number of the label that each of several methods chose, shape `(n_obs, n_methods)`."""

    @property
    def best(self) -> np.ndarray:
        """Number of the best label of each cell, shape `(n_obs,)`."""
        return self.probabilities.argmax(axis=1) if self.codes is None else self.codes

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the best label of each cell, float32 of shape `(n_obs,)`."""
        return self.probabilities[np.arange(len(self.probabilities)), self.best]

    def in_order_of(self, names: Sequence[str], labels: Sequence[str]) -> Prediction:
        """Return the same with the columns in another order.

        Parameters
        ----------
        names
            Labels of the columns as they are.
        labels
            Labels of the columns as they shall be: the same ones, and perhaps more.
        """
        columns = np.array([list(labels).index(name) for name in names])
        if np.array_equal(columns, np.arange(len(labels))):
            return self
        probabilities = np.zeros((len(self.probabilities), len(labels)), dtype=np.float32)
        probabilities[:, columns] = self.probabilities
        codes = None if self.codes is None else columns[self.codes]
        return replace(self, probabilities=probabilities, codes=codes)


@runtime_checkable
class Reference(Protocol):
    """Anything that can annotate cells; :func:`sfm.tl.annotate` takes objects of your own that have these members."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, in the order of the columns of :attr:`Prediction.probabilities`."""
        ...

    def predict(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        use_raw: bool = False,
        gene_symbols: str | None = None,
        batch_size: int | Literal["auto"] = "auto",
        device: str | torch.device = "auto",
        precision: Precision = "auto",
    ) -> Prediction:
        """Annotate the cells of `adata`, which is not modified.

        Parameters
        ----------
        adata
            Annotated data matrix.
        layer, use_raw, gene_symbols
            Which matrix and gene names to read.
        batch_size, device, precision
            How a network runs, as in :func:`sfm.tl.embed`.
        """
        ...

    def params(self) -> dict[str, Any]:
        """Return provenance of the reference for `uns`: plain values that h5ad and zarr can hold."""
        ...
