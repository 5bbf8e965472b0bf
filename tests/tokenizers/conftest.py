from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import sparse

import sfm

if TYPE_CHECKING:
    from collections.abc import Callable

ARRAYS = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "coo": sparse.coo_matrix,
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
    "dense": np.asarray,
    "fortran": np.asfortranarray,
    "float32": lambda counts: sparse.csr_matrix(counts.astype(np.float32)),
    "int64": lambda counts: sparse.csr_matrix(counts.astype(np.int64)),
    "uint8": lambda counts: sparse.csr_matrix(counts.astype(np.uint8)),
    "int64 indices": lambda counts: _with_int64_indices(sparse.csr_matrix(counts)),
}


def _with_int64_indices(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    counts.indices = counts.indices.astype(np.int64)
    counts.indptr = counts.indptr.astype(np.int64)
    return counts


@pytest.fixture(params=list(ARRAYS))
def as_array(request: pytest.FixtureRequest) -> Callable[[np.ndarray], object]:
    """Conversion of dense float64 counts to one of the array types."""
    return ARRAYS[request.param]


@pytest.fixture(params=["rank", "bins", "values"])
def tokenizer_class(request: pytest.FixtureRequest) -> type[sfm.tokenizers.Tokenizer]:
    return sfm.tokenizers.get_tokenizer(request.param)


@pytest.fixture(scope="session")
def vocabulary() -> sfm.GeneVocabulary:
    """Forty genes with gaps between their token ids and medians that make ties."""
    rng = np.random.default_rng(0)
    return sfm.GeneVocabulary(
        [f"gene{i}" for i in range(40)],
        token_ids=rng.permutation(np.arange(10, 90, 2)),
        medians=rng.choice([0.5, 1.0, 2.0, 3.0, 0.1], size=40),
    )


@pytest.fixture(scope="session")
def counts() -> np.ndarray:
    """Thirty cells of the vocabulary's genes, one of them empty."""
    counts = np.random.default_rng(1).negative_binomial(0.5, 0.2, size=(30, 40)).astype(float)
    counts[7] = 0
    return counts
