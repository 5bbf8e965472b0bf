from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import initialization as init

from sfm.nn._covariance import class_means, distances_across_folds, nearest_distances, refuse_misfit_cells, whitening_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_N_QUANTILES = 101


class ReferenceDistance(nn.Module):
    """How far a cell is from the cells that a classifier was trained on.

    The distance is that of Mahalanobis to the nearest class mean, with one covariance for all classes (Lee et al. 2018),
    shrunk towards a sphere so that it can be inverted with few cells (Ledoit and Wolf 2004). It is reported as the share
    of reference cells that are at most as far: 0.5 is ordinary, 1 is as far as the farthest or further.

    The buffers are `means` (labels, dims), `has_cells` (labels,), `whitening` (dims, dims), whose square is the
    precision matrix, and `quantiles` (101,) of the distances of reference cells.

    Parameters
    ----------
    n_labels
        Number of labels.
    n_dims
        Width of the vectors.

    Examples
    --------
    >>> import torch
    >>> from sfm.nn import ReferenceDistance
    >>> codes = torch.arange(200) % 2
    >>> vectors = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) + 10 * codes.unsqueeze(1)
    >>> distance = ReferenceDistance(2, 3)
    >>> distance.fit(vectors, codes)
    >>> (distance(torch.tensor([[1.0, 0.0, -1.0], [5.0, 5.0, 5.0]])) == 1).tolist()
    [False, True]
    """

    if TYPE_CHECKING:
        means: Tensor
        has_cells: Tensor
        whitening: Tensor
        quantiles: Tensor

    def __init__(self, n_labels: int, n_dims: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(n_labels, n_dims))
        self.register_buffer("has_cells", torch.zeros(n_labels, dtype=torch.bool))
        self.register_buffer("whitening", torch.eye(n_dims))
        self.register_buffer("quantiles", torch.zeros(_N_QUANTILES))

    def _init_own_weights(self, config: Any) -> None:
        for buffer in (self.means, self.has_cells, self.quantiles):
            init.zeros_(buffer)
        init.eye_(self.whitening)

    @property
    def is_fitted(self) -> bool:
        """Whether :meth:`fit` has seen cells."""
        return bool(self.has_cells.any())

    @property
    def precision(self) -> Tensor:
        """Inverse of the shrunk covariance within classes, shape `(dims, dims)`."""
        return self.whitening.T @ self.whitening

    @torch.no_grad()
    def fit(
        self,
        vectors: Tensor | np.ndarray,
        codes: Tensor | np.ndarray,
        *,
        n_folds: int = 5,
        held_out: Tensor | np.ndarray | None = None,
    ) -> None:
        """Learn where the reference cells are, in float64.

        Parameters
        ----------
        vectors
            Vectors of reference cells, shape `(cells, dims)`.
        codes
            Number of the label of each, shape `(cells,)`; cells below 0 are left out. A label without cells is nowhere.
        n_folds
            The distance of each reference cell is that to the cells of the other folds, two or more. The cells of a
            label are dealt out in turn; a label with a single cell has no distances.
        held_out
            Vectors of other labelled cells, shape `(other cells, dims)`, whose distances are used instead of those
            across folds. Cells that a network was trained on come to lie nearer to each other than new ones.

        Raises
        ------
        ValueError
            If there are fewer than two labelled cells or folds, or shapes, codes or values do not fit.
        """
        n_labels, n_dims = self.means.shape
        points, labels = _on_cpu(vectors).double(), _on_cpu(codes).long()
        others = None if held_out is None else _on_cpu(held_out).double()
        refuse_misfit_cells(points, labels, others, n_labels=n_labels, n_dims=n_dims, n_folds=n_folds)
        points, labels = points[labels >= 0], labels[labels >= 0]
        means, counts = class_means(points, labels, n_labels=n_labels)
        whitening = whitening_of(points, labels, means, counts)
        if others is None:
            lengths = distances_across_folds(points, labels, counts, n_folds=n_folds)
        else:
            lengths = nearest_distances(others, means[counts > 0], whitening)
        shares = torch.linspace(0, 1, len(self.quantiles), dtype=torch.float64)
        self.means.copy_(means)
        self.has_cells.copy_(counts > 0)
        self.whitening.copy_(whitening)
        self.quantiles.copy_(_quantiles(lengths, shares))

    def extend(self, n_labels: int) -> None:
        """Add labels without cells, in place.

        Parameters
        ----------
        n_labels
            How many.
        """
        self.means = torch.cat([self.means, self.means.new_zeros(n_labels, self.means.shape[1])])
        self.has_cells = torch.cat([self.has_cells, self.has_cells.new_zeros(n_labels)])

    def distances(self, vectors: Tensor) -> Tensor:
        """Return the distances themselves.

        Parameters
        ----------
        vectors
            Cell vectors, shape `(cells, dims)`.

        Returns
        -------
        Mahalanobis distances to the nearest class mean, float32, shape `(cells,)`.

        Raises
        ------
        RuntimeError
            Before :meth:`fit`.
        """
        if not self.is_fitted:
            msg = "This ReferenceDistance has not seen any cells. Call fit(vectors, codes) on those of the reference first."
            raise RuntimeError(msg)
        with torch.autocast(vectors.device.type, enabled=False):
            return nearest_distances(vectors.float(), self.means[self.has_cells].float(), self.whitening.float())

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the share of reference cells that are at most as far.

        Parameters
        ----------
        vectors
            Cell vectors, shape `(cells, dims)`.

        Returns
        -------
        Numbers from 0 to 1, float32, shape `(cells,)`; between two percentiles they grow in proportion.

        Raises
        ------
        RuntimeError
            Before :meth:`fit`.
        """
        lengths, quantiles = self.distances(vectors), self.quantiles.float()
        last = len(quantiles) - 1
        below = torch.searchsorted(quantiles, lengths, right=True) - 1  # -1: nearer than all
        lower, upper = quantiles[below.clamp(min=0)], quantiles[(below + 1).clamp(max=last)]
        part = ((lengths - lower) / (upper - lower).clamp(min=torch.finfo(torch.float32).tiny)).clamp(0, 1)
        return torch.where(below < 0, 0, (below + torch.where(below < last, part, 0)) / last).float()


def _on_cpu(values: Tensor | np.ndarray) -> Tensor:
    return torch.as_tensor(values).detach().cpu()


def _quantiles(lengths: Tensor, shares: Tensor) -> Tensor:
    """Quantiles of any number of values: torch has a limit of 16 million."""
    ordered = lengths.sort().values
    position = shares * (len(ordered) - 1)
    lower = position.floor().long()
    upper = (lower + 1).clamp(max=len(ordered) - 1)
    return torch.lerp(ordered[lower], ordered[upper], position - lower)
