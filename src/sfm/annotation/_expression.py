"""Expression itself as a view of cells, with principal components that are those of the reference alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from scipy import sparse

from sfm._settings import settings
from sfm._state import InputState, input_state, refuse_state
from sfm.annotation._embed import QUERY, REFERENCE, naming
from sfm.annotation._variable_genes import GeneMoments, most_variable
from sfm.data._encode import gate_coverage, open_matrix
from sfm.genes._ids import parse_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

    from sfm._matrix import CountMatrix
    from sfm.checkpoints import PretrainedCells
    from sfm.genes import GeneAlignment

_N_GENES = 2000
_N_COMPONENTS = 50
_TARGET_SUM = 1e4
# Cells that differ by less than this, summed over all genes, differ by rounding.
_NO_VARIANCE = 1e-9


class _LogBlock(NamedTuple):
    state: InputState
    values: sparse.csr_matrix  # (cells, genes)
    is_empty: np.ndarray  # (cells,)


@dataclass(frozen=True, eq=False)
class SharedCounts:
    """Counts of some genes of an AnnData, read in parts; the genes of both sides are then in the same order."""

    adata: AnnData
    matrix: CountMatrix
    alignment: GeneAlignment
    selection: sparse.csr_matrix
    """Which genes of the matrix are which of those that are read, `(n_vars, n_genes)`."""

    @classmethod
    def open(
        cls,
        adata: AnnData,
        pretrained: PretrainedCells,
        where: dict[str, Any],
        *,
        genes: np.ndarray | None,
        gate: bool = True,
    ) -> Self:
        """Find the genes, given by the token ids of a model, after its gene-coverage gate; reads no count."""
        matrix, alignment = open_matrix(adata, pretrained.tokenizer, **where)
        if gate:
            gate_coverage(alignment, matrix, f"Model {pretrained.name!r}")
        token_ids = alignment.token_ids
        genes = np.unique(token_ids[token_ids >= 0]) if genes is None else genes
        return cls(adata, matrix, alignment, _selection(token_ids, genes))

    @classmethod
    def open_by_name(
        cls, adata: AnnData, pretrained: PretrainedCells, where: dict[str, Any], *, names: np.ndarray
    ) -> Self:
        """Find the genes, given by their sorted names, which no model has to know; reads no count."""
        matrix, alignment = open_matrix(adata, pretrained.tokenizer, **where)
        return cls(adata, matrix, alignment, _selection(comparable_names(matrix), names))

    def log_normalised(self, kept: np.ndarray | None = None) -> Iterator[tuple[slice, _LogBlock]]:
        """Yield rows, and log1p of counts scaled to 10,000 over all genes that are read; of some of these if so asked."""
        columns = None if kept is None or len(kept) == self.selection.shape[1] else kept
        for rows, block in self.matrix.mapped(_log_block, self.selection, columns, size=settings.chunk_size):
            refuse_state(self.adata, self.matrix, block.state, requires="counts", start=rows.start)
            yield rows, block

    def params(self) -> dict[str, Any]:
        """Provenance for `uns`."""
        return {
            "slot": self.matrix.slot,
            "input_state": "counts",
            "gene_names": self.matrix.names_slot,
            **self.alignment.params(),
        }


class ExpressionVectors(NamedTuple):
    """Principal components of the cells of both sides."""

    query: np.ndarray
    """Float32 of shape `(n_query, n_components)`."""
    labelled: np.ndarray
    """Float32 of shape `(n_labelled, n_components)`."""
    is_empty: np.ndarray
    """Which cells of the query have no count, shape `(n_query,)`."""


def comparable_names(matrix: CountMatrix) -> np.ndarray:
    """Names of the genes of a matrix, those that are Ensembl ids without version, `(n_vars,)`."""
    return np.array([parse_name(name).ensembl_id or name.strip() for name in map(str, matrix.names)])


def expression_views(query: SharedCounts, reference: SharedCounts, labelled: np.ndarray) -> ExpressionVectors:
    """Project both sides on the principal components of the labelled cells of the reference.

    Genes are the most variable ones of the labelled cells, and nothing is learnt from the query, so that a cell of it is
    where it is whatever is around it. Values are not divided by their standard deviation: rare counts stay small.
    """
    with naming(REFERENCE):
        genes, values = _variable_expression(reference, labelled)
    mean, components = principal_components(values)
    with naming(QUERY):
        vectors = np.empty((query.matrix.shape[0], components.shape[1]), dtype=np.float32)
        is_empty = np.zeros(len(vectors), dtype=bool)
        for rows, block in query.log_normalised(genes):
            vectors[rows], is_empty[rows] = _project(block.values, mean, components), block.is_empty
    return ExpressionVectors(vectors, _project(values, mean, components), is_empty)


def principal_components(values: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of cells and the directions in which they vary most, `(genes,)` and `(genes, components)`."""
    from sklearn.decomposition import PCA

    n_cells, n_genes = values.shape
    mean = np.bincount(values.indices, weights=values.data, minlength=n_genes) / n_cells
    variance = float((values.data.astype(np.float64) ** 2).sum()) / n_cells - float((mean**2).sum())
    if n_genes <= _N_COMPONENTS or n_cells < 2 or variance <= _NO_VARIANCE:
        return mean, np.eye(n_genes, min(n_genes, _N_COMPONENTS))
    pca = PCA(min(_N_COMPONENTS, n_cells - 1), svd_solver="arpack", random_state=0)
    return mean, pca.fit(values.astype(np.float64)).components_.T


def _variable_expression(counts: SharedCounts, labelled: np.ndarray) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Columns of the most variable genes, and their log-normalised expression in labelled cells, in their order."""
    genes = np.arange(counts.selection.shape[1])
    if len(genes) > _N_GENES:
        moments = GeneMoments(len(genes))
        for rows, block in counts.log_normalised():
            moments.add(block.values[labelled[rows]])
        genes = most_variable(moments, _N_GENES)
    parts = [block.values[labelled[rows]] for rows, block in counts.log_normalised(genes)]
    return genes, sparse.vstack(parts, format="csr")


def _log_block(counts: sparse.csr_matrix, selection: sparse.csr_matrix, columns: np.ndarray | None) -> _LogBlock:
    state = input_state(counts)
    if state.kind != "counts":  # which is refused where it is known whose counts these are
        return _LogBlock(state, counts, np.zeros(0, dtype=bool))
    values = (counts.astype(np.float32) @ selection).tocsr()
    totals = np.asarray(values.sum(axis=1, dtype=np.float64)).ravel()
    if columns is not None:
        values = values[:, columns]
    scale = (_TARGET_SUM / np.where(totals > 0, totals, 1)).astype(np.float32)
    values.data = np.log1p(values.data * np.repeat(scale, np.diff(values.indptr)))
    return _LogBlock(state, values, totals == 0)


def _selection(found: np.ndarray, genes: np.ndarray) -> sparse.csr_matrix:
    """Which genes of a matrix, by id or name, are which of the sorted `genes`, `(n_vars, n_genes)`."""
    rows = np.flatnonzero(np.isin(found, genes))
    columns = np.searchsorted(genes, found[rows])
    ones = np.ones(len(rows), dtype=np.float32)
    return sparse.csr_matrix((ones, (rows, columns)), shape=(len(found), len(genes)))


def _project(values: sparse.csr_matrix, mean: np.ndarray, components: np.ndarray) -> np.ndarray:
    return (values @ components - mean @ components).astype(np.float32)
