"""Class means, and the covariance within classes, shrunk so that it can be inverted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

# Smallest variance in any direction, as a share of the mean. Layer norms leave directions without any, in which the
# rounding of half precision alone would make a cell look far.
_FLOOR = 1e-2


def class_means(points: Tensor, labels: Tensor, *, n_labels: int) -> tuple[Tensor, Tensor]:
    """Return means `(labels, dims)`, zeros for labels without cells, and numbers of cells `(labels,)`."""
    counts = torch.bincount(labels, minlength=n_labels)
    sums = points.new_zeros(n_labels, points.shape[1]).index_add(0, labels, points)
    return sums / counts.clamp(min=1).unsqueeze(1), counts


def whitening_of(points: Tensor, labels: Tensor, means: Tensor, counts: Tensor) -> Tensor:
    """Return the matrix `W` for which `W x` has the unit matrix as its covariance within classes, `(dims, dims)`."""
    several = counts[labels] > 1
    # The mean of few cells lies too near to them: each class is stretched as its unbiased variance asks for.
    stretch = (counts / (counts - 1).clamp(min=1)).sqrt()[labels]
    deviations = ((points - means[labels]) * stretch.unsqueeze(1))[several]
    if not bool(deviations.any()):  # no class with two different cells: that of all cells must do
        deviations = points - points.mean(dim=0)
    variances, directions = torch.linalg.eigh(shrunk_covariance(deviations))
    mean = variances.mean()
    if mean <= 0:  # all cells are equal
        return torch.eye(points.shape[1], dtype=points.dtype)
    return directions.T / variances.clamp(min=_FLOOR * mean).sqrt().unsqueeze(1)


def shrunk_covariance(deviations: Tensor) -> Tensor:
    """Covariance of centred rows `(cells, dims)`, shrunk towards a sphere as Ledoit and Wolf (2004) do."""
    n = len(deviations)
    fourth = float(deviations.square().sum(dim=1).square().mean())
    return shrunk_to_sphere(deviations.T @ deviations / n, fourth=fourth, n_cells=n)


def shrunk_to_sphere(covariance: Tensor, *, fourth: float, n_cells: int, at_least: float = 0.0) -> Tensor:
    """Shrink the covariance of `n_cells` rows, of whose squared lengths `fourth` is the mean square."""
    sphere = covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)
    spread = float((covariance - sphere).square().sum())
    noise = (fourth - float(covariance.square().sum())) / n_cells
    share = min(max(noise / spread, 0.0), 1.0) if spread > 0 else 1.0
    return covariance + max(share, at_least) * (sphere - covariance)


def nearest_distances(points: Tensor, means: Tensor, whitening: Tensor) -> Tensor:
    """Mahalanobis distance of points `(cells, dims)` to the nearest of the means `(labels, dims)`, shape `(cells,)`."""
    center = means.mean(dim=0)
    white, white_means = (points - center) @ whitening.T, (means - center) @ whitening.T
    # Expanding the square would be faster, and lose what is small beside the distance of the classes.
    return torch.cdist(white, white_means, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)


def distances_across_folds(points: Tensor, labels: Tensor, counts: Tensor, *, n_folds: int) -> Tensor:
    """Distance of each cell to the nearest mean of the cells in other folds; a label's only cell is left out."""
    several = counts[labels] > 1
    fold = _rank_within(labels) % n_folds
    if not bool(several.any()):
        several, fold = torch.ones_like(several), torch.arange(len(labels)) % n_folds
    found = []
    for number in range(n_folds):
        held = (fold == number) & several
        if bool(held.any()):
            means, n_cells = class_means(points[~held], labels[~held], n_labels=len(counts))
            whitening = whitening_of(points[~held], labels[~held], means, n_cells)
            found.append(nearest_distances(points[held], means[n_cells > 0], whitening))
    return torch.cat(found)


def _rank_within(labels: Tensor) -> Tensor:
    """How many earlier cells have the same label, shape `(cells,)`."""
    order = labels.argsort(stable=True)
    starts = torch.searchsorted(labels[order], labels[order])
    return torch.empty_like(labels).scatter(0, order, torch.arange(len(labels)) - starts)


def refuse_misfit_cells(
    points: Tensor, labels: Tensor, held_out: Tensor | None, *, n_labels: int, n_dims: int, n_folds: int
) -> None:
    """Raise for cells that nothing can be learnt from."""
    for name, matrix in (("vectors", points), ("held_out", held_out)):
        if matrix is None:
            continue
        if matrix.ndim != 2 or matrix.shape[1] != n_dims or (name == "held_out" and not len(matrix)):
            msg = f"{name} has shape {tuple(matrix.shape)}, but cells of {n_dims} dimensions are wanted: (cells, {n_dims})."
            raise ValueError(msg)
        if not bool(torch.isfinite(matrix).all()):
            msg = f"{name} holds NaN or infinity. Leave those cells out."
            raise ValueError(msg)
    if labels.shape != points.shape[:1]:
        msg = f"There are {len(points)} vectors, but codes has shape {tuple(labels.shape)}. Pass one code per vector."
        raise ValueError(msg)
    if len(labels) and int(labels.max()) >= n_labels:
        msg = f"codes goes up to {int(labels.max())}, but there are {n_labels} labels, counted from 0."
        raise ValueError(msg)
    if int((labels >= 0).sum()) < 2:
        msg = f"Of {len(labels)} cells {int((labels >= 0).sum())} have a label. Two or more are needed."
        raise ValueError(msg)
    if n_folds < 2:
        msg = f"n_folds={n_folds!r}: a cell is compared with those of other folds, so there must be two or more."
        raise ValueError(msg)
