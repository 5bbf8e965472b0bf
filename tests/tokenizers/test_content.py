"""Random choices that follow from a cell's content."""

from __future__ import annotations

import numpy as np
import pytest

from sfm.tokenizers.published._content import content_seeds, hashed_keys, sample_rows, uniform


def cells(n_cells=300, n_genes=50, seed=0):
    rng = np.random.default_rng(seed)
    tokens = np.concatenate([rng.permutation(1000)[:n_genes] for _ in range(n_cells)])
    return tokens, rng.geometric(0.5, tokens.size).astype(float), np.arange(n_cells + 1) * n_genes


def test_the_order_of_genes_and_stored_zeros_change_no_seed_and_no_key():
    tokens, counts, indptr = cells()
    order = np.concatenate([start + np.random.default_rng(start).permutation(50) for start in indptr[:-1]])
    seeds = content_seeds(tokens, counts, indptr)
    np.testing.assert_array_equal(content_seeds(tokens[order], counts[order], indptr), seeds)
    keys = hashed_keys(seeds, tokens, indptr)
    np.testing.assert_array_equal(hashed_keys(seeds, tokens[order], indptr), keys[order])
    with_zeros = np.insert(tokens, indptr[1:], 1001), np.insert(counts, indptr[1:], 0.0)
    np.testing.assert_array_equal(content_seeds(*with_zeros, indptr + np.arange(indptr.size)), seeds)
    np.testing.assert_array_equal(
        content_seeds(tokens, -0.0 * counts, indptr), content_seeds(tokens, 0 * counts, indptr)
    )


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.uint16])
def test_types_of_numbers_change_no_seed(dtype):
    tokens, counts, indptr = cells()
    seeds = content_seeds(tokens, counts, indptr)
    np.testing.assert_array_equal(content_seeds(tokens.astype(np.int32), counts.astype(dtype), indptr), seeds)


def test_cells_that_differ_in_one_count_or_gene_have_other_seeds():
    tokens, counts, indptr = cells()
    seeds = content_seeds(tokens, counts, indptr)
    more, other = counts.copy(), tokens.copy()
    more[indptr[:-1]] += 1
    other[indptr[:-1]] = 1001
    swapped = counts.copy()
    swapped[indptr[:-1]], swapped[indptr[:-1] + 1] = counts[indptr[:-1] + 1], counts[indptr[:-1]]
    differs = counts[indptr[:-1]] != counts[indptr[:-1] + 1]
    assert len({*seeds, *content_seeds(tokens, more, indptr), *content_seeds(other, counts, indptr)}) == 900
    assert np.all(content_seeds(tokens, swapped, indptr)[differs] != seeds[differs])


def test_keys_are_uniform_and_those_of_two_cells_independent():
    tokens = np.tile(np.arange(2000), 20)
    indptr = np.arange(21) * 2000
    seeds = content_seeds(tokens, np.repeat(np.arange(1.0, 21.0), 2000), indptr)
    numbers = uniform(hashed_keys(seeds, tokens, indptr)).reshape(20, 2000)
    assert 0 <= numbers.min() < numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    assert np.all(np.abs(counts - 2000) < 5 * np.sqrt(2000))
    correlations = np.corrcoef(numbers)[np.triu_indices(20, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(2000)
    other = uniform(hashed_keys(seeds + np.uint64(1), tokens, indptr))
    assert abs(np.corrcoef(other, numbers.ravel())[0, 1]) < 5 / np.sqrt(40_000)


def test_a_sample_has_the_lowest_keys_of_each_row():
    rng = np.random.default_rng(0)
    indptr = np.array([0, 3, 3, 10, 15, 40])
    keys = rng.integers(0, 2**63, 40).astype(np.uint64)
    chosen = sample_rows(keys, indptr, 5)
    for start, stop in zip(indptr[:-1], indptr[1:], strict=True):
        inside = chosen[start:stop]
        assert inside.sum() == min(stop - start, 5)
        assert set(keys[start:stop][inside]) == set(np.sort(keys[start:stop])[:5])
