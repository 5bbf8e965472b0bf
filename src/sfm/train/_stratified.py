"""Which of the labelled are trained on, and which are held out."""

from __future__ import annotations

import numpy as np


def stratified_split(
    codes: np.ndarray, *, n_held_out: int, n_validation: int, seed: int | None, shuffle: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split rows so that each label is held out in proportion, and never as a whole.

    Parameters
    ----------
    codes
        Label of each row as a number, -1 for unlabelled rows, which are left out.
    n_held_out
        How many labelled rows not to train on; fewer, where labels have too few.
    n_validation
        How many of these are for validation; the others are for testing.
    seed
        Seed of the draw.
    shuffle
        Draw; otherwise the first rows of each label are held out.

    Returns
    -------
    Rows to train on, to validate with and to test with.
    """
    rng = np.random.RandomState(seed)  # as scvi-tools draws its splits
    rows = np.flatnonzero(codes >= 0)
    order = rng.permutation(rows) if shuffle else rows
    order = order[np.argsort(codes[order], kind="stable")]
    labels, sizes = np.unique(codes[order], return_counts=True)
    quota = _in_proportion(sizes, min(n_held_out, int((sizes - 1).sum())))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # within its label
    held_out = rank < np.repeat(quota, sizes)
    # Validation and test rows are interleaved, so that each has its share of every label.
    candidates = order[held_out]
    n_validation = min(n_validation, len(candidates))
    to_validation = _evenly(len(candidates), n_validation)
    return order[~held_out], candidates[to_validation], candidates[~to_validation]


def _in_proportion(sizes: np.ndarray, total: int) -> np.ndarray:
    """Numbers that sum to `total`, in proportion to `sizes` and below each of them."""
    exact = sizes * total / max(sizes.sum(), 1)
    quota = np.minimum(np.floor(exact).astype(np.int64), sizes - 1)
    while quota.sum() < total:
        missing = np.where(quota < sizes - 1, exact - quota, -np.inf)
        quota[missing.argmax()] += 1
    return quota


def _evenly(n: int, n_chosen: int) -> np.ndarray:
    """Mask with `n_chosen` of `n`, at even distances."""
    edges = np.floor(np.arange(n + 1) * n_chosen / max(n, 1)).astype(np.int64)
    return np.diff(edges) > 0
