"""Expression from the order of genes, and generated tokens as an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from sfm._matrix import select_matrix
from sfm.genes import align_genes
from sfm.tokenizers import TokenizedCells

if TYPE_CHECKING:
    from typing import Any

    from sfm.genes import GeneVocabulary
    from sfm.tokenizers import Tokenizer

# Cells that the mean expression per rank is computed from.
PROFILE_CELLS = 2000
# Ranks differ by this factor at least, far above the resolution of float32.
_STEP = 1 - 1e-5


def rank_profile(adata: AnnData, cells: TokenizedCells, tokenizer: Tokenizer, **where: Any) -> np.ndarray:
    """Mean expression of the gene at each rank, in counts per ten thousand over the gene's divisor, falling.

    The relation of rank and expression is what turns generated orders into expression again (as in Cell2Sentence, Levine
    et al. 2024, which fits a line to the logarithms; here it is the mean itself).
    """
    matrix = select_matrix(adata, **where)
    token_ids = align_genes(matrix.names, tokenizer.vocabulary).token_ids
    divisors = _divisors(tokenizer)
    special = list(tokenizer.vocabulary.special_tokens.values())
    sums, seen = np.zeros(tokenizer.max_length), np.zeros(tokenizer.max_length)
    for rows, counts in matrix.chunks():
        for i in range(rows.start, min(rows.stop, PROFILE_CELLS)):
            begin, end = counts.indptr[i - rows.start : i - rows.start + 2]
            expression = np.zeros(tokenizer.vocabulary.size)
            ids = token_ids[counts.indices[begin:end]]
            np.add.at(expression, ids[ids >= 0], counts.data[begin:end][ids >= 0])
            genes = cells[[i]].input_ids
            genes = genes[~np.isin(genes, special)]
            sums[: len(genes)] += expression[genes] / divisors[genes] * (1e4 / max(expression.sum(), 1))
            seen[: len(genes)] += 1
        if rows.stop >= PROFILE_CELLS:
            break
    return _falling(sums / np.maximum(seen, 1))


def generated_cells(sequences: list[np.ndarray], tokenizer: Tokenizer, profile: np.ndarray) -> AnnData:
    """Make an AnnData of token sequences, with the expression that their order implies."""
    vocabulary = tokenizer.vocabulary
    special = list(vocabulary.special_tokens.values())
    genes = [sequence[~np.isin(sequence, special)] for sequence in sequences]
    lengths = np.array([len(ids) for ids in genes])
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.concatenate(genes) if genes else np.zeros(0, dtype=np.int64)
    ranks = np.concatenate([np.arange(n) for n in lengths]) if genes else ids
    column_of = np.full(vocabulary.size, -1)
    column_of[vocabulary.token_ids] = np.arange(len(vocabulary))
    values = (profile[ranks] * _divisors(tokenizer)[ids]).astype(np.float32)
    X = sparse.csr_matrix((values, column_of[ids], indptr), shape=(len(genes), len(vocabulary)))
    X.sort_indices()
    adata = AnnData(X, obs=_obs(sequences, lengths, vocabulary), var=_var(vocabulary))
    tokens = [_without_end(sequence, vocabulary) for sequence in sequences]
    ends = np.cumsum([0, *map(len, tokens)])
    cells = TokenizedCells(np.concatenate(tokens).astype(np.int32), ends, max_length=tokenizer.max_length)
    adata.obsm["tokens"] = cells.to_obsm()[0]
    adata.uns["tokens"] = {"params": tokenizer.params()}
    return adata


def _obs(sequences: list[np.ndarray], lengths: np.ndarray, vocabulary: GeneVocabulary) -> pd.DataFrame:
    ended = [vocabulary.eos_id is not None and vocabulary.eos_id in sequence for sequence in sequences]
    names = [f"generated_{i}" for i in range(len(sequences))]
    return pd.DataFrame({"n_genes": lengths, "complete": ended}, index=names)


def _var(vocabulary: GeneVocabulary) -> pd.DataFrame:
    frame = vocabulary.to_frame()
    frame = frame[~frame["special"]].reset_index().set_index("token_id").loc[vocabulary.token_ids]
    return frame.reset_index().set_index("gene")[["symbol", "token_id"]]


def _without_end(sequence: np.ndarray, vocabulary: GeneVocabulary) -> np.ndarray:
    """Tokens as the tokenizer would give them: without `<eos>` and the padding behind it."""
    return sequence[~np.isin(sequence, [i for i in (vocabulary.eos_id, vocabulary.pad_id) if i is not None])]


def _divisors(tokenizer: Tokenizer) -> np.ndarray:
    """What counts are divided by for ranking, by token id."""
    divisors = np.ones(tokenizer.vocabulary.size)
    own = tokenizer.gene_divisors()
    if own is not None:
        divisors[tokenizer.vocabulary.token_ids] = own
    return divisors


def _falling(profile: np.ndarray) -> np.ndarray:
    """Cut what rises with the rank (few cells reach the last ones), so that the order can be read off again."""
    for k in range(1, len(profile)):
        limit = profile[k - 1] * _STEP
        profile[k] = min(profile[k], limit) if profile[k] > 0 else limit
    return profile
