"""Vectors of reference and query, computed from the genes that both have."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from sfm._matrix import select_matrix
from sfm.annotation._reference_arguments import of_reference
from sfm.data import stream_cells
from sfm.genes import align_genes
from sfm.inference import _cells as inference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from scipy import sparse

    from sfm.checkpoints import PretrainedCells
    from sfm.genes import GeneVocabulary
    from sfm.inference._cells import CellVectors
    from sfm.tokenizers import TokenizedCells, Tokenizer

QUERY = "The query"
REFERENCE = "The reference (its options are reference_kwargs=)"

_ERRORS = (KeyError, TypeError, NotImplementedError, ValueError)


class SharedGenes:
    """A tokenizer that sees some genes only; others have no influence at all, not on library sizes either.

    Parameters
    ----------
    tokenizer
        The tokenizer.
    token_ids
        Token ids of the genes that it sees; `None` for all.
    """

    def __init__(self, tokenizer: Tokenizer, token_ids: np.ndarray | None) -> None:
        self.tokenizer = tokenizer
        self.vocabulary = tokenizer.vocabulary
        self.requires = tokenizer.requires
        self.obs_columns = tokenizer.obs_columns
        self.context_value = tokenizer.context_value
        self.depends_on_order = tokenizer.depends_on_order
        self.n_special = tokenizer.n_special
        self.context_tokens = tokenizer.context_tokens
        self.token_ids = token_ids

    def __call__(self, counts: sparse.csr_matrix, gene_ids: np.ndarray) -> TokenizedCells:
        """Tokenize cells."""
        if self.token_ids is not None:
            gene_ids = np.where(np.isin(gene_ids, self.token_ids), gene_ids, -1).astype(gene_ids.dtype)
        return self.tokenizer(counts, gene_ids)


@contextmanager
def naming(which: str) -> Iterator[None]:
    """Say in errors which of two AnnData they are about, and which argument mends it."""
    try:
        yield
    except _ERRORS as error:
        kind = next(kind for kind in _ERRORS if isinstance(error, kind))
        found = str(error.args[0])
        msg = f"{which}: {of_reference(found) if which == REFERENCE else found}"
        raise kind(msg) from error


def known_genes(adata: AnnData, vocabulary: GeneVocabulary, where: dict[str, Any]) -> np.ndarray:
    """Token ids of the genes of `adata` that a vocabulary knows, sorted."""
    token_ids = align_genes(select_matrix(adata, **where).names, vocabulary).token_ids
    return np.unique(token_ids[token_ids >= 0])


def embed_cells(
    adata: AnnData,
    pretrained: PretrainedCells,
    where: dict[str, Any],
    *,
    compute: dict[str, Any],
    genes: np.ndarray | None = None,
) -> CellVectors:
    """Embed cells as :func:`sfm.tl.embed` does, from some genes only if so asked; writes nothing."""
    tokenizer: Any = SharedGenes(pretrained.tokenizer, genes)
    stream = stream_cells(adata, tokenizer, **where, model_name=f"Model {pretrained.name!r}")
    return inference.embed_cells(pretrained, stream, **compute)
