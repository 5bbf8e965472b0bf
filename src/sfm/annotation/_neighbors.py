"""Exact nearest neighbours by cosine similarity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from sfm.inference._precision import inference_context

if TYPE_CHECKING:
    from collections.abc import Iterator

# Similarities held at a time: 16 MB of float32, so that memory does not grow with the query.
_BLOCK_VALUES = 1 << 22


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length one; rows of zeros stay."""
    vectors = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def nearest_cells(query: np.ndarray, reference: np.ndarray, n_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the most similar reference cells of each query cell, by comparing it with all of them.

    Parameters
    ----------
    query
        Vectors of length one, float32 of shape `(n_query, n_dims)`.
    reference
        Vectors of length one, float32 of shape `(n_reference, n_dims)`.
    n_neighbors
        How many to find; all of them if there are fewer.

    Returns
    -------
    Rows of the reference, int64, and cosine similarities, float32, both of shape `(n_query, n_neighbors)`, the most
    similar first.
    """
    n_neighbors = min(n_neighbors, len(reference))
    rows = np.empty((len(query), n_neighbors), dtype=np.int64)
    similarities = np.empty((len(query), n_neighbors), dtype=np.float32)
    keys = torch.from_numpy(np.ascontiguousarray(reference)).T
    with inference_context(torch.device("cpu"), "fp32"):
        for block in _blocks(len(query), len(reference)):
            similarity = torch.from_numpy(np.ascontiguousarray(query[block])) @ keys  # (query cells, reference cells)
            top = similarity.topk(n_neighbors, dim=1)
            rows[block], similarities[block] = top.indices.numpy(), top.values.numpy()
    return rows, similarities


def _blocks(n_query: int, n_reference: int) -> Iterator[slice]:
    size = max(1, _BLOCK_VALUES // max(1, n_reference))
    return (slice(start, min(start + size, n_query)) for start in range(0, n_query, size))
