"""From the counts of an AnnData to tokens: the one path that every function takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from sfm._docs import INPUT, doc_params
from sfm._matrix import select_matrix
from sfm._settings import settings
from sfm.data._blocks import tokenized_blocks
from sfm.genes import align_genes, check_coverage
from sfm.tokenizers import TokenizedCells

if TYPE_CHECKING:
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
    matrix, alignment = open_matrix(adata, tokenizer, layer=layer, use_raw=use_raw, gene_symbols=gene_symbols)
    needs_totals = coverage_is_of_counts(alignment, tokenizer)
    totals = np.zeros(matrix.shape[1])
    parts: list[TokenizedCells] = []
    size = matrix.shape[0] if tokenizer.depends_on_order else None
    blocks = tokenized_blocks(adata, matrix, tokenizer, alignment.token_ids, with_totals=needs_totals, size=size)
    for rows, block in blocks:
        if rows.start == 0 and not needs_totals:
            gate_coverage(alignment, matrix, model_name)
        if block.totals is not None:
            totals += block.totals
        parts += [] if block.cells is None else [block.cells]
    if needs_totals:
        alignment = align_genes(matrix.names, tokenizer.vocabulary, totals=totals)
        gate_coverage(alignment, matrix, model_name)
    cells = TokenizedCells.concatenate(parts)
    return EncodedCells(cells, alignment, state=block.state, slot=matrix.slot, names_slot=matrix.names_slot)


def open_matrix(adata: AnnData, tokenizer: Tokenizer, **where: Any) -> tuple[CountMatrix, GeneAlignment]:
    """Find the matrix to tokenize and match its genes, without reading counts."""
    _refuse_other_types(adata)
    _refuse_empty(adata)
    matrix = select_matrix(adata, **where)
    return matrix, align_genes(matrix.names, tokenizer.vocabulary)


def coverage_is_of_counts(alignment: GeneAlignment, tokenizer: Tokenizer) -> bool:
    """Whether coverage is judged by the counts, since the vocabulary does not say what expression to expect."""
    return 0 < alignment.n_known < len(alignment) and tokenizer.vocabulary.expression is None


def gate_coverage(alignment: GeneAlignment, matrix: CountMatrix, model_name: str) -> None:
    """Warn or raise if too few genes are known."""
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
