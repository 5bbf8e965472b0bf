"""Totals of genes, by which coverage is judged: of whatever values a model reads."""

from __future__ import annotations

from typing import Literal

import anndata as ad
import dask.array as da
import numpy as np
import pytest
from scipy import sparse

from sfm import GeneVocabulary
from sfm.data import encode_cells, stream_cells
from sfm.tokenizers.published._scfoundation import ScFoundationTokenizer

N_GENES, N_KNOWN = 400, 12
VOCABULARY = GeneVocabulary(
    [f"ENSG{i:011d}" for i in range(N_GENES)],
    special_tokens={"<target>": N_GENES, "<depth>": N_GENES + 1, "<pad>": N_GENES + 2},
)


def panel() -> ad.AnnData:
    """Few genes of the vocabulary, and one that is not in it and not expressed."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(2, (20, N_KNOWN + 1)).astype(np.float32)
    counts[:, -1] = 0
    counts[3] = 0
    names = [*(f"ENSG{i:011d}" for i in range(N_KNOWN)), "ENSG09999999999"]
    return ad.AnnData(sparse.csr_matrix(counts), var={"gene": names}).copy()


@pytest.mark.parametrize("expression", ["counts", "log1p"])
@pytest.mark.parametrize("stored", ["csr", "dask"])
@pytest.mark.filterwarnings("ignore:.*have no count")
def test_coverage_is_of_the_values_that_are_read(expression: Literal["counts", "log1p"], stored: str) -> None:
    adata = panel()
    if expression == "log1p":
        adata.X = sparse.csr_matrix(np.log1p(adata.X.toarray() * 1.7))
    if stored == "dask":
        # A block of one cell without counts is among them.
        adata.X = da.from_array(adata.X.toarray(), chunks=((3, 1, 16), N_KNOWN + 1)).map_blocks(sparse.csr_matrix)
    tokenizer = ScFoundationTokenizer(VOCABULARY, expression=expression)
    streamed = stream_cells(adata, tokenizer, gene_symbols="gene", model_name="the model")
    encoded = encode_cells(adata, tokenizer, gene_symbols="gene", model_name="the model")
    for alignment in (streamed.alignment, encoded.alignment):
        assert alignment.coverage_of == "counts"
        assert alignment.coverage == 1
    assert len(encoded.cells) == adata.n_obs
