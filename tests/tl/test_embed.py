"""The promises of `tl.embed`: a vector depends on its cell alone, and nothing else of the AnnData changes."""

from __future__ import annotations

import re
from io import StringIO
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import sfm
from sfm.datasets import toy_cells, toy_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sfm.checkpoints import PretrainedCells

TOLERANCE = {"atol": 1e-5, "rtol": 0}


def embedding(adata: ad.AnnData, model: Any, **options: Any) -> np.ndarray:
    sfm.tl.embed(adata, model, key_added="X", **options)
    return adata.obsm["X"]


@pytest.fixture(scope="module")
def reference(toy_pretrained: PretrainedCells) -> np.ndarray:
    return embedding(toy_cells(60), toy_pretrained)


def chosen_cells(rows: list[int]) -> ad.AnnData:
    """The cells in these rows, some perhaps more than once, under new names."""
    adata = toy_cells(60)
    return ad.AnnData(adata.X[rows], var=adata.var)


@settings(max_examples=15)
@given(rows=st.lists(st.integers(0, 59), min_size=1, max_size=60), batch_size=st.sampled_from([1, 3, 16, "auto"]))
def test_vector_depends_on_the_cell_alone(
    toy_pretrained: PretrainedCells, reference: np.ndarray, rows: list[int], batch_size: int | str
) -> None:
    """Any subset, in any order, with repeats, at any minibatch size."""
    adata = chosen_cells(rows)
    if len(set(rows)) == 1 and len(rows) > 1:
        return  # all the same cell: warned of, tested below
    np.testing.assert_allclose(embedding(adata, toy_pretrained, batch_size=batch_size), reference[rows], **TOLERANCE)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_gene_order_does_not_matter(toy_pretrained: PretrainedCells, reference: np.ndarray, seed: int) -> None:
    adata = toy_cells(60)
    adata = adata[:, np.random.default_rng(seed).permutation(adata.n_vars)].copy()
    np.testing.assert_allclose(embedding(adata, toy_pretrained), reference, **TOLERANCE)


def with_ensembl_ids(adata: ad.AnnData) -> ad.AnnData:
    adata.var_names = adata.var["ensembl_id"]
    return adata


def with_versions(adata: ad.AnnData) -> ad.AnnData:
    adata.var_names = adata.var["ensembl_id"] + ".7"
    return adata


def with_mixed_styles(adata: ad.AnnData) -> ad.AnnData:
    symbols = np.arange(adata.n_vars) % 2 == 0
    adata.var_names = np.where(symbols, adata.var_names, adata.var["ensembl_id"])
    return adata


def with_unknown_genes(adata: ad.AnnData) -> ad.AnnData:
    extra = ad.AnnData(sparse.csr_matrix(np.full((adata.n_obs, 3), 50, dtype=np.float32)))
    extra.obs_names, extra.var_names = adata.obs_names, ["no gene 1", "no gene 2", ""]
    return ad.concat([extra, adata], axis=1)


def with_split_genes(adata: ad.AnnData) -> ad.AnnData:
    """Counts of each gene spread over two columns of the same name."""
    counts = adata.X.toarray()
    first = np.floor(counts / 2)
    return ad.AnnData(
        np.hstack([first, counts - first]), obs=adata.obs, var={"name": [*adata.var_names, *adata.var_names]}
    )


@pytest.mark.parametrize("change", [with_ensembl_ids, with_versions, with_mixed_styles, with_unknown_genes])
def test_names_do_not_matter(toy_pretrained: PretrainedCells, reference: np.ndarray, change: Any) -> None:
    np.testing.assert_allclose(embedding(change(toy_cells(60)), toy_pretrained), reference, **TOLERANCE)


def test_duplicate_genes_are_summed(toy_pretrained: PretrainedCells, reference: np.ndarray) -> None:
    vectors = embedding(with_split_genes(toy_cells(60)), toy_pretrained, gene_symbols="name")
    np.testing.assert_allclose(vectors, reference, **TOLERANCE)


@pytest.mark.parametrize("make", [np.array, sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix, sparse.csc_array])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_array_types(toy_pretrained: PretrainedCells, reference: np.ndarray, make: Any, dtype: type) -> None:
    adata = toy_cells(60)
    adata.X = make(adata.X.toarray().astype(dtype))
    np.testing.assert_allclose(embedding(adata, toy_pretrained), reference, **TOLERANCE)


def test_backed_file(toy_pretrained: PretrainedCells, reference: np.ndarray, tmp_path: Path) -> None:
    toy_cells(60).write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    np.testing.assert_allclose(embedding(backed, toy_pretrained), reference, **TOLERANCE)
    backed.file.close()


def test_layer_and_raw(toy_pretrained: PretrainedCells, reference: np.ndarray) -> None:
    adata = toy_cells(60)
    adata.raw, adata.layers["counts"] = adata.copy(), adata.X.copy()
    sc.pp.normalize_total(adata)
    for options in ({"layer": "counts"}, {"use_raw": True}):
        np.testing.assert_allclose(embedding(adata, toy_pretrained, **options), reference, **TOLERANCE)


def test_stored_tokens_give_the_same_vectors(toy_pretrained: PretrainedCells, reference: np.ndarray) -> None:
    adata = toy_cells(60)
    sfm.pp.tokenize(adata, toy_pretrained)
    sliced = adata[::-2].copy()
    del sliced.X
    np.testing.assert_allclose(embedding(sliced, toy_pretrained, tokens_key="tokens"), reference[::-2], **TOLERANCE)


def test_empty_cells_are_defined_and_reported(toy_pretrained: PretrainedCells, reference: np.ndarray) -> None:
    adata = toy_cells(60)
    adata.X = sparse.diags((~np.isin(np.arange(60), [3, 40])).astype(np.float32)) @ adata.X
    with pytest.warns(UserWarning, match="2 of 60 cells have no count on a known gene"):
        vectors = embedding(adata, toy_pretrained)
    assert vectors.shape == reference.shape
    assert np.isfinite(vectors).all()
    assert np.array_equal(vectors[3], vectors[40])
    others = np.setdiff1d(np.arange(60), [3, 40])
    np.testing.assert_allclose(vectors[others], reference[others], **TOLERANCE)
    assert adata.uns["X"]["params"]["n_empty_cells"] == 2


def test_constant_embedding_is_reported() -> None:
    adata = chosen_cells([5, 5, 5])
    with pytest.warns(UserWarning, match="All 3 cells got the same vector"):
        sfm.tl.embed(adata, toy_model())


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_only_the_documented_slots_change_and_they_are_saved(
    toy_pretrained: PretrainedCells, tmp_path: Path, suffix: str
) -> None:
    adata = toy_cells(60)
    before = adata.copy()
    sfm.tl.embed(adata, toy_pretrained)
    assert set(adata.obsm) == {"X_sfm"}
    assert set(adata.uns) == {"X_sfm"}
    assert adata.obsm["X_sfm"].dtype == np.float32
    assert adata.obsm["X_sfm"].flags.c_contiguous
    assert (adata.X != before.X).nnz == 0
    assert adata.obs.equals(before.obs)
    assert adata.var.equals(before.var)

    getattr(adata, f"write_{suffix}")(tmp_path / f"cells.{suffix}")
    loaded = getattr(ad, f"read_{suffix}")(tmp_path / f"cells.{suffix}")
    assert np.array_equal(loaded.obsm["X_sfm"], adata.obsm["X_sfm"])
    assert dict(loaded.uns["X_sfm"]["params"]) == adata.uns["X_sfm"]["params"]


def test_provenance(toy_pretrained: PretrainedCells) -> None:
    adata = toy_cells(60)
    adata.layers["counts"] = adata.X
    sfm.tl.embed(adata, toy_pretrained, layer="counts")
    params = adata.uns["X_sfm"]["params"]
    expected = {
        "model": toy_pretrained.name,
        "revision": None,
        "tokenizer": toy_pretrained.tokenizer.name,
        "vocabulary_hash": toy_pretrained.vocabulary.content_hash,
        "layer": "counts",
        "slot": "adata.layers['counts']",
        "pooling": "mean",
        "precision": "fp32",
    }
    assert {key: params[key] for key in expected} == expected
    assert len(params["weights_hash"]) == 64
    assert 0.5 < params["coverage"] <= 1
    assert params["torch_version"] == torch.__version__.split("+")[0] or params["torch_version"] == torch.__version__
    assert all(value is None or isinstance(value, bool | int | float | str) for value in params.values())


def test_copy_and_view() -> None:
    adata = toy_cells(60)
    result = sfm.tl.embed(adata, toy_model(), copy=True)
    assert "X_sfm" in result.obsm
    assert not adata.obsm
    assert not adata.uns
    view = adata[:10]
    with pytest.warns(UserWarning, match="view"):
        sfm.tl.embed(view, toy_model())
    np.testing.assert_allclose(view.obsm["X_sfm"], result.obsm["X_sfm"][:10], **TOLERANCE)
    assert not adata.obsm


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "max"])
def test_poolings_differ_and_are_recorded(pooling: str) -> None:
    adata = toy_cells(60)
    sfm.tl.embed(adata, toy_model(), pooling=pooling)
    sfm.tl.embed(adata, toy_model(), pooling="mean", key_added="X_mean")
    assert adata.uns["X_sfm"]["params"]["pooling"] == pooling
    assert np.allclose(adata.obsm["X_sfm"], adata.obsm["X_mean"]) == (pooling == "mean")


def test_bf16_is_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfm.inference._precision.EMULATE_BF16", True)
    adata = toy_cells(60)
    fp32, bf16 = (embedding(adata, toy_model(), precision=p).copy() for p in ("fp32", "bf16"))
    cosine = (fp32 * bf16).sum(1) / np.linalg.norm(fp32, axis=1) / np.linalg.norm(bf16, axis=1)
    assert cosine.min() > 0.999
    assert bf16.dtype == np.float32


def test_any_model_with_the_protocol() -> None:
    class CountTokens:
        """Not a torch module, only the two methods."""

        def forward(self, input_ids: Any, attention_mask: Any, values: Any = None, labels: Any = None, **_: Any) -> Any:
            return attention_mask

        def encode(self, input_ids: Any, attention_mask: Any, values: Any = None, **_: Any) -> Any:
            return attention_mask.sum(dim=1, keepdim=True)

    adata = toy_cells(60)
    tokenizer = toy_model().tokenizer
    with pytest.raises(ValueError, match="CountTokens does not say how its cells are tokenized. Pass its tokenizer="):
        sfm.tl.embed(adata, CountTokens())
    sfm.tl.embed(adata, CountTokens(), tokenizer=tokenizer)
    sfm.pp.tokenize(adata, tokenizer)
    assert np.array_equal(adata.obsm["X_sfm"][:, 0], adata.obsm["tokens"].getnnz(axis=1))


def test_model_is_left_as_it_was() -> None:
    pretrained = toy_model()
    pretrained.model.train()
    sfm.tl.embed(toy_cells(60), pretrained)
    assert pretrained.model.training
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.fixture
def scanpy_log() -> Iterator[StringIO]:
    before = sc.settings.logfile, sc.settings.verbosity
    sc.settings.logfile = StringIO()
    yield sc.settings.logfile
    sc.settings.logfile, sc.settings.verbosity = before


@pytest.mark.parametrize(("verbosity", "delay", "shown"), [(1, 0.0, True), (0, 0.0, False), (1, 60.0, False)])
def test_progress_on_long_work_unless_silenced(
    scanpy_log: StringIO,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verbosity: int,
    delay: float,
    shown: bool,
) -> None:
    monkeypatch.setattr("sfm.inference._loop._PROGRESS_DELAY", delay)
    sc.settings.verbosity = verbosity
    sfm.tl.embed(toy_cells(60), toy_model())
    assert ("Embedding" in capsys.readouterr().err) == shown
    assert scanpy_log.getvalue() == ""


@pytest.mark.parametrize(
    ("verbosity", "expected"),
    [
        (1, r""),
        (2, r"embedding cells \(toy bert \(rank\)\)\n    finished \(0:00:\d\d\)\n"),
        (3, r"embedding cells .*: added\n    'X_sfm', cell embeddings \(adata.obsm\)\n"),
    ],
)
def test_log_follows_scanpy_verbosity(scanpy_log: StringIO, verbosity: int, expected: str) -> None:
    sc.settings.verbosity = verbosity
    sfm.tl.embed(toy_cells(60), toy_model())
    assert re.fullmatch(expected, scanpy_log.getvalue(), flags=re.DOTALL)


def test_a_dry_run_writes_nothing(toy_pretrained: PretrainedCells) -> None:
    adata = toy_cells(60)
    sfm.pp.tokenize(adata, toy_pretrained)
    for options in ({}, {"tokens_key": "tokens"}):
        plan = sfm.tl.embed(adata, toy_pretrained, dry_run=True, **options)
        assert (plan.n_cells, plan.n_dims) == (60, 16)
        assert plan.n_tokens == adata.obsm["tokens"].nnz
    assert "X_sfm" not in adata.obsm
    assert "X_sfm" not in adata.uns
    with pytest.raises(ValueError, match="copy=True and dry_run=True: a dry run writes nothing"):
        sfm.tl.embed(adata, toy_pretrained, dry_run=True, copy=True)
