"""From the counts of an AnnData to tokens: the one path that every function takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from sfm._docs import INPUT, doc_params
from sfm._matrix import select_matrix
from sfm._settings import settings
from sfm._state import check_input_state
from sfm.genes import align_genes, check_coverage
from sfm.tokenizers import TokenizedCells

if TYPE_CHECKING:
    from scipy import sparse

    from sfm._matrix import CountMatrix
    from sfm._state import InputState
    from sfm.genes import GeneAlignment
    from sfm.tokenizers import Tokenizer


@dataclass(frozen=True)
class EncodedCells:
    """Tokens of every cell in obs order, and how the genes were matched."""

    cells: TokenizedCells
    alignment: GeneAlignment
    state: InputState
    slot: str
    names_slot: str

    def params(self) -> dict[str, Any]:
        """Provenance for `uns`."""
        return {
            "slot": self.slot,
            "input_state": self.state.kind,
            "gene_names": self.names_slot,
            **self.alignment.params(),
        }


@doc_params(input=INPUT)
def encode_cells(
    adata: AnnData,
    tokenizer: Tokenizer,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_symbols: str | None = None,
    model_name: str,
) -> EncodedCells:
    """Tokenize all cells of `adata` after the gene-coverage and the input-state gate; writes nothing.

    Parameters
    ----------
    adata
        Annotated data matrix with raw counts.
    tokenizer
        The tokenizer, with its vocabulary.
    {input}
    model_name
        What messages call the owner of the vocabulary.

    Returns
    -------
    The tokens of every cell, in obs order, and how the genes were matched.

    Raises
    ------
    TypeError
        If `adata` is no AnnData.
    KeyError
        If `layer` or `gene_symbols` names nothing.
    ValueError
        If `adata` is empty, the values are not what the tokenizer requires, or too few genes are known.
    """
    _refuse_other_types(adata)
    _refuse_empty(adata)
    matrix = select_matrix(adata, layer=layer, use_raw=use_raw, gene_symbols=gene_symbols)
    alignment = align_genes(matrix.names, tokenizer.vocabulary)
    # Without expected expression in the vocabulary, coverage is judged by the counts, which are seen chunk by chunk.
    some_known = 0 < alignment.n_known < len(alignment)
    needs_totals = some_known and tokenizer.vocabulary.expression is None
    totals = np.zeros(matrix.shape[1]) if needs_totals else None
    parts = []
    for rows, counts in matrix.chunks():
        state = check_input_state(adata, matrix, counts, requires=tokenizer.requires)
        if rows.start == 0 and totals is None:
            _gate_coverage(alignment, matrix, model_name)
        parts.append(tokenizer(counts, alignment.token_ids))
        if totals is not None:
            totals += _gene_totals(counts)
    if totals is not None:
        alignment = align_genes(matrix.names, tokenizer.vocabulary, totals=totals)
        _gate_coverage(alignment, matrix, model_name)
    cells = TokenizedCells.concatenate(parts)
    return EncodedCells(cells, alignment, state=state, slot=matrix.slot, names_slot=matrix.names_slot)


def _gene_totals(counts: sparse.csr_matrix) -> np.ndarray:
    return np.bincount(counts.indices, weights=counts.data, minlength=counts.shape[1])


def _gate_coverage(alignment: GeneAlignment, matrix: CountMatrix, model_name: str) -> None:
    check_coverage(
        alignment,
        slot=matrix.names_slot,
        model=model_name,
        warn_below=settings.warn_gene_coverage,
        error_below=settings.min_gene_coverage,
    )


def _refuse_other_types(adata: object) -> None:
    """Raise unless `adata` is an AnnData."""
    if isinstance(adata, AnnData):
        return
    hint = " Pass one modality, for example `mdata['rna']`." if type(adata).__name__ == "MuData" else ""
    msg = f"adata is a {type(adata).__name__}, not an AnnData.{hint}"
    raise TypeError(msg)


def _refuse_empty(adata: AnnData) -> None:
    if 0 in adata.shape:
        msg = f"adata has {adata.n_obs} cells and {adata.n_vars} genes; there is nothing to tokenize."
        raise ValueError(msg)
