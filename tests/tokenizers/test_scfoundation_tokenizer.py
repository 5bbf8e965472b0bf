"""Tokens of scFoundation: all expressed genes by token id, and two read depths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from sfm import GeneVocabulary
from sfm.tokenizers.published._scfoundation import ScFoundationTokenizer

_TARGET, _DEPTH = 60, 61
_VOCABULARY = GeneVocabulary(
    [f"G{i}" for i in range(60)], token_ids=range(60), special_tokens={"<target>": 60, "<depth>": 61, "<pad>": 62}
)


@pytest.fixture
def tokenizer() -> ScFoundationTokenizer:
    return ScFoundationTokenizer(_VOCABULARY)


@pytest.mark.parametrize("convert", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_tokens_do_not_depend_on_how_counts_are_stored(tokenizer: Any, convert: Any) -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.5, (9, 40)).astype(np.float64)
    gene_ids = rng.permutation(_TARGET)[:40].astype(np.int32)
    gene_ids[[3, 17]] = -1
    plain = tokenizer(counts, gene_ids)
    # The counts of one gene in two columns, explicit zeros, another order, another type.
    split = np.concatenate([counts, np.zeros_like(counts[:, :1])], axis=1)
    split[:, 40] = np.floor(split[:, 0] / 2)
    split[:, 0] -= split[:, 40]
    columns = rng.permutation(41)
    ids = np.append(gene_ids, gene_ids[0])[columns]
    matrix = convert(split[:, columns].astype(np.float32))
    if sparse.issparse(matrix):
        matrix = matrix + convert(np.ones(matrix.shape, dtype=np.float32))
        matrix.data -= 1
    other = tokenizer(matrix, ids)
    np.testing.assert_array_equal(other.input_ids, plain.input_ids)
    np.testing.assert_array_equal(other.values, plain.values)
    np.testing.assert_array_equal(other.indptr, plain.indptr)


def test_tokens_are_all_expressed_genes_and_the_read_depths(tokenizer: Any) -> None:
    cells = tokenizer(np.array([[0, 3, 1], [0, 0, 0], [1, 0, 0]]), np.array([7, 5, 2]))
    assert [cells[i].input_ids.tolist() for i in range(3)] == [[2, 5, _TARGET, _DEPTH], [], [7, _TARGET, _DEPTH]]
    np.testing.assert_allclose(cells[0].values, [np.log1p(2500), np.log1p(7500), 4, np.log10(4)], rtol=1e-6)
    # One count: its log is 0, which the reference leaves out, and then pools the wrong tokens.
    np.testing.assert_allclose(cells[2].values, [np.log1p(1e4), 4, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("target", "of_target"), [("t4", 4.0), ("t3.5", 3.5), ("f2", np.log10(20)), ("a5", 6.0), ("a-1", 0.0)]
)
def test_the_target_depth_is_a_number_a_multiple_or_added(target: str, of_target: float) -> None:
    cells = ScFoundationTokenizer(_VOCABULARY, target=target)(np.array([[10]]), np.array([0]))
    assert cells.values is not None
    np.testing.assert_allclose(cells.values[1:], [of_target, 1.0], rtol=1e-6, atol=1e-7)


def test_the_genes_with_the_lowest_counts_are_cut() -> None:
    cells = ScFoundationTokenizer(_VOCABULARY, max_length=4)(
        np.array([[1, 4, 2, 4], [0, 1, 1, 1]]), np.array([9, 8, 7, 6])
    )
    assert cells[0].input_ids.tolist() == [6, 8, _TARGET, _DEPTH]
    assert cells[1].input_ids.tolist() == [6, 7, _TARGET, _DEPTH]
    np.testing.assert_allclose(cells[0].values[-1], np.log10(11), rtol=1e-6)


def test_a_vocabulary_without_read_depths_is_refused() -> None:
    with pytest.raises(ValueError, match="no '<target>'"):
        ScFoundationTokenizer(GeneVocabulary(["G0"]))
