from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import sfm
from sfm.datasets import toy_cells, toy_model
from sfm.tokenizers import RankTokenizer, TokenizedCells

if TYPE_CHECKING:
    from pathlib import Path

TOKENIZERS = ["rank", "bins", "values"]


def tokens_of(adata: ad.AnnData, *arguments: Any, **options: Any) -> np.ndarray:
    sfm.pp.tokenize(adata, *arguments, key_added="t", **options)
    return adata.obsm["t"].toarray()


@pytest.mark.parametrize("tokenizer", [None, *TOKENIZERS])
def test_slots(tokenizer: str | None) -> None:
    adata = toy_cells(60)
    before = adata.copy()
    sfm.pp.tokenize(adata, tokenizer, max_length=100)
    has_values = tokenizer in ("bins", "values")
    assert set(adata.obsm) == ({"tokens", "tokens_values"} if has_values else {"tokens"})
    assert set(adata.uns) == {"tokens"}
    assert (adata.X != before.X).nnz == 0
    tokens = adata.obsm["tokens"]
    assert isinstance(tokens, sparse.csr_matrix)
    assert tokens.dtype == np.int32
    assert tokens.shape == (60, 100)
    for row in np.split(tokens.indices, tokens.indptr[1:-1]):
        assert np.array_equal(row, np.arange(len(row)))
    assert (tokens.data > 0).all()
    assert adata.uns["tokens"]["params"]["tokenizer"] == (tokenizer or "rank")


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_saved_tokens_are_the_same_cells(tokenizer: str, suffix: str, tmp_path: Path) -> None:
    adata = toy_cells(60)
    sfm.pp.tokenize(adata, tokenizer)
    getattr(adata, f"write_{suffix}")(tmp_path / f"cells.{suffix}")
    loaded = getattr(ad, f"read_{suffix}")(tmp_path / f"cells.{suffix}")
    assert dict(loaded.uns["tokens"]["params"]) == adata.uns["tokens"]["params"]
    before, after = (TokenizedCells.from_obsm(x.obsm["tokens"], x.obsm.get("tokens_values")) for x in (adata, loaded))
    assert np.array_equal(before.input_ids, after.input_ids)
    assert np.array_equal(before.indptr, after.indptr)
    assert before.values is after.values is None or np.array_equal(before.values, after.values)


def test_each_cell_satisfies_the_protocol() -> None:
    adata = toy_cells(60)
    sfm.pp.tokenize(adata, "bins")
    cell = TokenizedCells.from_obsm(adata.obsm["tokens"], adata.obsm["tokens_values"])[3]
    assert isinstance(cell, sfm.TokenizedCellProtocol)
    assert len(cell.input_ids) == len(cell.attention_mask) == adata.obsm["tokens"][3].nnz


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_own_vocabulary_ignores_the_order_of_genes(tokenizer: str) -> None:
    adata = toy_cells(60)
    other = adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()
    assert np.array_equal(tokens_of(adata, tokenizer), tokens_of(other, tokenizer))


def test_any_species_with_its_own_vocabulary() -> None:
    adata = toy_cells(60)
    adata.var_names = [f"Xelaev{i:05d}" for i in range(300)]
    assert (tokens_of(adata, "rank") > 3).any(axis=1).all()


def test_model_tokenizer_by_any_name(tmp_path: Path) -> None:
    pretrained = toy_model()
    pretrained.save_pretrained(tmp_path)
    expected = tokens_of(toy_cells(60), pretrained)
    for tokenizer in (str(tmp_path), tmp_path, pretrained.tokenizer, sfm.load(tmp_path)):
        assert np.array_equal(tokens_of(toy_cells(60), tokenizer), expected)


def test_max_length_cuts_the_lowest_genes() -> None:
    long, short = tokens_of(toy_cells(60), "rank", max_length=200), tokens_of(toy_cells(60), "rank", max_length=20)
    assert np.array_equal(long[:, :20], short)


def test_tokens_without_values_leave_no_values_of_others() -> None:
    adata = toy_cells(60)
    sfm.pp.tokenize(adata, "bins")
    sfm.pp.tokenize(adata, "rank")
    assert set(adata.obsm) == {"tokens"}


def test_copy() -> None:
    adata = toy_cells(60)
    result = sfm.pp.tokenize(adata, "rank", copy=True)
    assert "tokens" in result.obsm
    assert not adata.obsm


def test_vocabulary_goes_with_a_name() -> None:
    adata = toy_cells(60)
    vocabulary = sfm.GeneVocabulary(list(adata.var_names[:200]))
    sfm.pp.tokenize(adata, "rank", vocabulary=vocabulary)
    assert adata.uns["tokens"]["params"]["vocabulary_hash"] == vocabulary.content_hash
    with pytest.raises(ValueError, match="has its own vocabulary"):
        sfm.pp.tokenize(adata, RankTokenizer(vocabulary), vocabulary=vocabulary)


def test_unknown_tokenizer_is_named() -> None:
    with pytest.raises(ValueError, match=r"Unknown model 'ranks'"):
        sfm.pp.tokenize(toy_cells(60), "ranks")


def test_explicit_layer_is_recorded() -> None:
    adata = toy_cells(60)
    adata.layers["counts"] = adata.X
    sfm.pp.tokenize(adata, layer="counts")
    params = adata.uns["tokens"]["params"]
    assert (params["slot"], params["input_state"]) == ("adata.layers['counts']", "counts")
