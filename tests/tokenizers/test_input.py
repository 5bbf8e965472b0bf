"""What a tokenizer accepts, and what must not make a difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import sparse

from sfm.tokenizers import RankTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

    import sfm
    from sfm.tokenizers import Tokenizer


def assert_equal(cells: sfm.TokenizedCells, expected: sfm.TokenizedCells) -> None:
    assert np.array_equal(cells.indptr, expected.indptr)
    assert np.array_equal(cells.input_ids, expected.input_ids)
    if expected.values is None:
        assert cells.values is None
    else:
        assert np.array_equal(cells.values, expected.values)


@pytest.fixture
def tokenizer(tokenizer_class: type[Tokenizer], vocabulary: sfm.GeneVocabulary) -> Tokenizer:
    return tokenizer_class(vocabulary, max_length=12)


@pytest.fixture
def expected(tokenizer: Tokenizer, counts: np.ndarray) -> sfm.TokenizedCells:
    return tokenizer(counts, tokenizer.vocabulary.token_ids)


def test_array_types_agree(
    tokenizer: Tokenizer,
    counts: np.ndarray,
    expected: sfm.TokenizedCells,
    as_array: Callable[[np.ndarray], object],
) -> None:
    assert_equal(tokenizer(as_array(counts), tokenizer.vocabulary.token_ids), expected)


def test_input_is_not_modified(
    tokenizer: Tokenizer, counts: np.ndarray, as_array: Callable[[np.ndarray], object]
) -> None:
    array = as_array(counts)
    fields = ["data", "indices", "indptr"] if getattr(array, "format", None) in ("csr", "csc") else []
    before = [getattr(array, field).copy() for field in fields] or [np.array(counts)]
    gene_ids = tokenizer.vocabulary.token_ids.copy()
    tokenizer(array, gene_ids)
    after = [getattr(array, field) for field in fields] or [counts]
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(before, after, strict=True))
    assert np.array_equal(gene_ids, tokenizer.vocabulary.token_ids)


def test_gene_order_does_not_matter(
    tokenizer: Tokenizer, counts: np.ndarray, expected: sfm.TokenizedCells, as_array: Callable[[np.ndarray], object]
) -> None:
    order = np.random.default_rng(2).permutation(counts.shape[1])
    assert_equal(tokenizer(as_array(counts[:, order]), tokenizer.vocabulary.token_ids[order]), expected)


def test_a_gene_may_be_split_over_columns(
    tokenizer: Tokenizer, counts: np.ndarray, expected: sfm.TokenizedCells, as_array: Callable[[np.ndarray], object]
) -> None:
    part = np.floor(counts / 3)
    split = np.hstack([counts - part, part])
    assert_equal(tokenizer(as_array(split), np.tile(tokenizer.vocabulary.token_ids, 2)), expected)


def test_column_order_does_not_change_sums_of_fractions(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(8)
    fractions, gene_ids = rng.random((20, 200)), np.tile(tokenizer.vocabulary.token_ids, 5)
    order = rng.permutation(200)
    assert_equal(tokenizer(fractions[:, order], gene_ids[order]), tokenizer(fractions, gene_ids))


def test_unknown_genes_do_not_matter(
    tokenizer: Tokenizer, counts: np.ndarray, expected: sfm.TokenizedCells, as_array: Callable[[np.ndarray], object]
) -> None:
    unknown = np.random.default_rng(3).integers(0, 200, size=(counts.shape[0], 15))
    gene_ids = np.append(tokenizer.vocabulary.token_ids, np.full(15, -1))
    order = np.random.default_rng(4).permutation(gene_ids.size)
    assert_equal(tokenizer(as_array(np.hstack([counts, unknown])[:, order]), gene_ids[order]), expected)


def test_unknown_columns_are_not_even_checked(
    tokenizer: Tokenizer, counts: np.ndarray, expected: sfm.TokenizedCells
) -> None:
    gene_ids = np.append(tokenizer.vocabulary.token_ids, -1)
    odd = np.hstack([counts, np.full((counts.shape[0], 1), -np.inf)])
    assert_equal(tokenizer(odd, gene_ids), expected)


def test_stored_zeros_are_not_expressed(tokenizer: Tokenizer, counts: np.ndarray, expected: sfm.TokenizedCells) -> None:
    n_cells, n_genes = counts.shape
    full = sparse.csr_matrix(
        (counts.ravel(), np.tile(np.arange(n_genes), n_cells), np.arange(n_cells + 1) * n_genes), shape=counts.shape
    )
    assert full.nnz == counts.size
    assert_equal(tokenizer(full, tokenizer.vocabulary.token_ids), expected)


def test_columns_need_not_be_sorted_nor_unique(
    tokenizer: Tokenizer, counts: np.ndarray, expected: sfm.TokenizedCells
) -> None:
    rng = np.random.default_rng(6)
    rows, columns = np.nonzero(counts)
    shuffled = rng.permutation(rows.size)
    shuffled = shuffled[np.argsort(rows[shuffled], kind="stable")]
    indptr = np.append(0, np.cumsum(np.bincount(rows, minlength=counts.shape[0])))
    parts = (counts[rows, columns][shuffled], columns[shuffled], indptr)
    unsorted = sparse.csr_matrix(parts, shape=counts.shape)
    assert_equal(tokenizer(unsorted, tokenizer.vocabulary.token_ids), expected)
    once = np.floor(unsorted.data / 2)
    doubled = sparse.csr_matrix(
        (np.stack([once, unsorted.data - once], axis=1).ravel(), np.repeat(unsorted.indices, 2), 2 * indptr),
        shape=counts.shape,
    )
    assert_equal(tokenizer(doubled, tokenizer.vocabulary.token_ids), expected)


def test_each_cell_stands_alone(tokenizer: Tokenizer, counts: np.ndarray, expected: sfm.TokenizedCells) -> None:
    rows = np.random.default_rng(7).permutation(counts.shape[0])[:11]
    assert_equal(tokenizer(sparse.csr_matrix(counts[rows]), tokenizer.vocabulary.token_ids), expected[rows])
    for row in rows:
        assert_equal(tokenizer(counts[[row]], tokenizer.vocabulary.token_ids), expected[[row]])


def test_many_cells_are_read_in_runs(tokenizer: Tokenizer, counts: np.ndarray, expected: sfm.TokenizedCells) -> None:
    rows = np.tile(np.arange(counts.shape[0]), 400)
    many = sparse.csr_matrix(counts)[rows]
    assert many.nnz > 2**17
    assert_equal(tokenizer(many, tokenizer.vocabulary.token_ids), expected[rows])


@pytest.mark.parametrize("prepend_cls", [True, False])
def test_a_cut_leaves_the_first_tokens(
    tokenizer_class: type[Tokenizer], vocabulary: sfm.GeneVocabulary, counts: np.ndarray, *, prepend_cls: bool
) -> None:
    full = tokenizer_class(vocabulary, prepend_cls=prepend_cls)(counts, vocabulary.token_ids)
    for max_length in (2, 3, 10, 25):
        tokenizer = tokenizer_class(vocabulary, max_length=max_length, prepend_cls=prepend_cls)
        cut = tokenizer(counts, vocabulary.token_ids)
        assert cut.max_length == max_length
        assert np.array_equal(cut.lengths, np.minimum(full.lengths, max_length))
        kept = np.concatenate([np.arange(n) + start for n, start in zip(cut.lengths, full.indptr[:-1], strict=True)])
        assert np.array_equal(cut.input_ids, full.input_ids[kept])
        if full.values is not None:
            assert np.array_equal(cut.values, full.values[kept])


def test_empty_cells(tokenizer_class: type[Tokenizer], vocabulary: sfm.GeneVocabulary) -> None:
    nothing = sparse.csr_matrix((3, len(vocabulary)))
    assert tokenizer_class(vocabulary)(nothing, vocabulary.token_ids).input_ids.tolist() == [vocabulary.cls_id] * 3
    without = tokenizer_class(vocabulary, prepend_cls=False)(nothing, vocabulary.token_ids)
    assert without.input_ids.size == 0
    assert len(without) == 3


@pytest.mark.parametrize("shape", [(0, 40), (5, 0), (0, 0)])
def test_nothing_at_all(tokenizer: Tokenizer, shape: tuple[int, int], as_array: Callable[[np.ndarray], object]) -> None:
    cells = tokenizer(as_array(np.zeros(shape)), tokenizer.vocabulary.token_ids[: shape[1]])
    assert cells.lengths.tolist() == [1] * shape[0]


def test_no_gene_known(tokenizer: Tokenizer, counts: np.ndarray) -> None:
    cells = tokenizer(counts, np.full(counts.shape[1], -1))
    assert cells.input_ids.tolist() == [tokenizer.vocabulary.cls_id] * counts.shape[0]


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize("split", [False, True])
def test_what_is_no_count_is_refused(tokenizer: Tokenizer, counts: np.ndarray, bad: float, *, split: bool) -> None:
    gene_ids = tokenizer.vocabulary.token_ids
    wrong = counts.copy()
    wrong[3, 5] = bad
    if split:
        wrong, gene_ids = np.hstack([wrong, counts]), np.tile(gene_ids, 2)
    with pytest.raises(ValueError, match=rf"counts holds {bad!r}; .* Pass raw counts"):
        tokenizer(sparse.csr_matrix(wrong), gene_ids)
    assert tokenizer(counts, tokenizer.vocabulary.token_ids).lengths.max() == 12


def test_misfits_are_refused(vocabulary: sfm.GeneVocabulary, counts: np.ndarray) -> None:
    tokenizer = RankTokenizer(vocabulary)
    with pytest.raises(ValueError, match="one integer for each of the 40 columns"):
        tokenizer(counts, vocabulary.token_ids[:-1])
    with pytest.raises(ValueError, match="dtype 'float64'; it must hold one integer"):
        tokenizer(counts, vocabulary.token_ids.astype(float))
    with pytest.raises(ValueError, match="gene_ids holds 11, which is no gene of GeneVocabulary"):
        tokenizer(counts, np.append(vocabulary.token_ids[:-1], 11))
    with pytest.raises(ValueError, match="gene_ids holds 5000, which is no gene"):
        tokenizer(counts, np.append(vocabulary.token_ids[:-1], 5000))
    with pytest.raises(ValueError, match="counts is a list"):
        tokenizer(counts.tolist(), vocabulary.token_ids)
    with pytest.raises(ValueError, match="dtype 'complex128'"):
        tokenizer(counts.astype(complex), vocabulary.token_ids)
