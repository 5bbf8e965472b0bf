"""The order of the genes, against the plainest way to find it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import sfm
from sfm.tokenizers import BinTokenizer, RankTokenizer, ValueTokenizer


def plain_order(counts: np.ndarray, gene_ids: np.ndarray, medians: dict[int, float]) -> list[list[int]]:
    cells = []
    for row in counts:
        totals: dict[int, float] = {}
        for count, token in zip(row.tolist(), gene_ids.tolist(), strict=True):
            if token >= 0:
                totals[token] = totals.get(token, 0.0) + count
        expressed = [token for token, count in totals.items() if count > 0]
        cells.append(sorted(expressed, key=lambda token: (-(totals[token] / medians[token]), token)))
    return cells


def medians_by_token(tokenizer: sfm.tokenizers.Tokenizer) -> dict[int, float]:
    vocabulary = tokenizer.vocabulary
    use_medians = isinstance(tokenizer, RankTokenizer) and vocabulary.medians is not None
    medians = vocabulary.medians if use_medians else np.ones(len(vocabulary))
    return dict(zip(vocabulary.token_ids.tolist(), medians.tolist(), strict=True))


def tokens_of(cells: sfm.TokenizedCells) -> list[list[int]]:
    return [part.tolist() for part in np.split(cells.input_ids, cells.indptr[1:-1])]


MANY = 8000


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, sfm.GeneVocabulary]:
    """Counts of a few, or of very many, sizes for columns that may be unknown or share a gene."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    n_genes, n_columns, n_cells = draw(st.integers(1, 90)), draw(st.integers(1, 120)), draw(st.integers(1, 8))
    token_ids = rng.choice(np.arange(4, 400), size=n_genes, replace=False)
    medians = draw(st.sampled_from([None, (1.0,), (0.5, 1.0, 2.0, 4.0), tuple(rng.lognormal(size=n_genes))]))
    vocabulary = sfm.GeneVocabulary(
        [f"gene{i}" for i in range(n_genes)],
        token_ids=token_ids,
        medians=None if medians is None else rng.choice(medians, size=n_genes),
    )
    gene_ids = rng.choice(np.append(token_ids, -1), size=n_columns, replace=draw(st.booleans()) or n_columns > n_genes)
    sizes = draw(
        st.sampled_from([(0, 1), (0, 1, 2, 3), (0, 0, 0, 1, 9, 40), (0, 1e6, 1e6 + 1, 7e9), (0, 0.5, 0.25, 1, 2**-9)])
    )
    return rng.choice(sizes, size=(n_cells, n_columns)), gene_ids, vocabulary


@settings(max_examples=150, deadline=None)
@given(case=cases(), tokenizer_class=st.sampled_from([RankTokenizer, BinTokenizer, ValueTokenizer]))
def test_order_is_the_plain_one(
    case: tuple[np.ndarray, np.ndarray, sfm.GeneVocabulary], tokenizer_class: type[sfm.tokenizers.Tokenizer]
) -> None:
    counts, gene_ids, vocabulary = case
    tokenizer = tokenizer_class(vocabulary, prepend_cls=False)
    cells = tokenizer(sparse.csr_matrix(counts), gene_ids)
    assert tokens_of(cells) == plain_order(counts, gene_ids, medians_by_token(tokenizer))


@pytest.mark.parametrize(
    "kind", ["counts", "large counts", "close counts", "fractions", "equal fractions", "float32 fractions"]
)
@pytest.mark.parametrize("tokenizer_class", [RankTokenizer, ValueTokenizer])
def test_many_genes(kind: str, tokenizer_class: type[sfm.tokenizers.Tokenizer]) -> None:
    rng = np.random.default_rng(5)
    n_genes = 3000
    vocabulary = sfm.GeneVocabulary([f"gene{i}" for i in range(n_genes)], medians=rng.integers(1, 50, n_genes) / 7)
    expressed = rng.random((20, n_genes)) < 0.4
    drawn = {
        "counts": np.floor(rng.lognormal(1, 1.5, expressed.shape)),
        "large counts": rng.integers(0, 10**7, expressed.shape),
        "close counts": 10**9 + rng.integers(0, 50, expressed.shape),
        "fractions": rng.random(expressed.shape) * 5,
        "equal fractions": rng.choice([0.25, 0.5], expressed.shape),
        "float32 fractions": (rng.random(expressed.shape) * 3).astype(np.float32),
    }[kind]
    counts = np.where(expressed, drawn, 0)
    gene_ids = rng.permutation(vocabulary.token_ids)
    tokenizer = tokenizer_class(vocabulary, prepend_cls=False)
    cells = tokenizer(sparse.csr_matrix(counts), gene_ids)
    assert tokens_of(cells) == plain_order(counts, gene_ids, medians_by_token(tokenizer))


def test_counts_above_those_of_the_sampled_cells() -> None:
    rng = np.random.default_rng(0)
    vocabulary = sfm.GeneVocabulary([f"gene{i}" for i in range(30)], medians=rng.lognormal(size=30))
    counts = rng.integers(0, 2, size=(3000, 30)).astype(float)
    counts[rng.integers(0, 3000, 200), rng.integers(0, 30, 200)] = rng.integers(2, 3000, 200)
    tokenizer = RankTokenizer(vocabulary, prepend_cls=False)
    cells = tokenizer(sparse.csr_matrix(counts), vocabulary.token_ids)
    assert tokens_of(cells) == plain_order(counts, vocabulary.token_ids, medians_by_token(tokenizer))


@pytest.mark.parametrize("sample", ["pbmc3k.h5ad", "mouse_hpc_spring.h5ad"])
def test_real_cells(shared_data: object, sample: str) -> None:
    import anndata

    counts = sparse.csr_matrix(anndata.read_h5ad(shared_data / sample).X[:300])  # type: ignore[operator]
    rng = np.random.default_rng(0)
    vocabulary = sfm.GeneVocabulary(
        [f"gene{i}" for i in range(counts.shape[1])], medians=rng.choice([1, 1.5, 2, 7], size=counts.shape[1])
    )
    gene_ids = rng.permutation(vocabulary.token_ids)
    medians = vocabulary.medians[gene_ids - gene_ids.min()]
    cells = RankTokenizer(vocabulary, max_length=MANY)(counts, gene_ids)
    for i in range(0, 300, 7):
        row = counts[i]
        order = np.lexsort((gene_ids[row.indices], -(row.data.astype(float) / medians[row.indices])))
        assert np.array_equal(cells[[i]].input_ids[1:], gene_ids[row.indices][order][: MANY - 1])
