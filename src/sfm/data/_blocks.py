"""Tokenizing the rows of a matrix in order, part by part, where the parts are."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sfm._state import InputState, input_state, refuse_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from scipy import sparse

    from sfm._matrix import CountMatrix
    from sfm._state import StateKind
    from sfm.tokenizers import TokenizedCells, Tokenizer


class TokenizedBlock(NamedTuple):
    """What became of a run of rows: their state, and unless that is wrong, tokens; and totals if wanted."""

    state: InputState
    cells: TokenizedCells | None
    totals: np.ndarray | None


class CountedBlock(NamedTuple):
    """State of a run of rows, and unless that is wrong, the total of each gene, shape `(n_vars,)`."""

    state: InputState
    totals: np.ndarray


def tokenize_block(counts: sparse.csr_matrix, tokenizer: Tokenizer, token_ids: np.ndarray) -> TokenizedBlock:
    """Tokenize some rows if they hold what the tokenizer requires."""
    state = input_state(counts)
    return TokenizedBlock(state, tokenizer(counts, token_ids) if state.fits((tokenizer.requires,)) else None, None)


def tokenize_and_count_block(counts: sparse.csr_matrix, tokenizer: Tokenizer, token_ids: np.ndarray) -> TokenizedBlock:
    """Tokenize some rows and sum the counts of each gene, if they hold what the tokenizer requires."""
    state, cells, _ = tokenize_block(counts, tokenizer, token_ids)
    return TokenizedBlock(state, cells, None if cells is None else gene_totals(counts))


def count_block(counts: sparse.csr_matrix, requires: StateKind) -> CountedBlock:
    """Sum the values of each gene over some rows, if they are what is required."""
    state = input_state(counts)
    return CountedBlock(state, gene_totals(counts) if state.fits((requires,)) else np.zeros(counts.shape[1]))


def gene_totals(counts: sparse.csr_matrix) -> np.ndarray:
    """Sum the values of each gene; float64 of shape `(n_vars,)`."""
    totals: np.ndarray = np.bincount(counts.indices, weights=counts.data, minlength=counts.shape[1])
    return totals


def tokenized_blocks(
    adata: AnnData,
    matrix: CountMatrix,
    tokenizer: Tokenizer,
    token_ids: np.ndarray,
    *,
    with_totals: bool = False,
    size: int | None = None,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[tuple[slice, TokenizedBlock]]:
    """Yield row slices and their tokens, in order, each after the input-state gate.

    Blocks of a dask array are tokenized where they are made and come as they are, so the first may begin before
    `start` and the last end after `stop`; other matrices are read `size` rows at a time.
    """
    function = tokenize_and_count_block if with_totals else tokenize_block
    blocks = matrix.mapped(function, tokenizer, token_ids, size=size, start=start, stop=stop)
    for rows, block in blocks:
        refuse_state(adata, matrix, block.state, requires=tokenizer.requires, start=rows.start)
        yield rows, _with_context(block, tokenizer, adata, rows)
        del block  # or it would be held while the next is made


def _with_context(block: TokenizedBlock, tokenizer: Tokenizer, adata: AnnData, rows: slice) -> TokenizedBlock:
    """Put the tokens that say what is known of each cell in front of its genes."""
    context = tokenizer.context_tokens(adata.obs.iloc[rows]) if tokenizer.obs_columns else None
    if context is None or block.cells is None:
        return block
    return block._replace(cells=block.cells.with_prefix(context, value=tokenizer.context_value))


def all_totals(adata: AnnData, matrix: CountMatrix, tokenizer: Tokenizer) -> np.ndarray:
    """Sum the values of each gene over all rows, after the input-state gate."""
    totals = np.zeros(matrix.shape[1])
    for rows, block in matrix.mapped(count_block, tokenizer.requires):
        refuse_state(adata, matrix, block.state, requires=tokenizer.requires, start=rows.start)
        totals += block.totals
    return totals
