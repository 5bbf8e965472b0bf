"""Bad input: an error that names the slot, the value and the fix, and an unchanged AnnData."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import mudata
import numpy as np
import pytest
import scanpy as sc

import sfm
from sfm.datasets import toy_cells, toy_model

if TYPE_CHECKING:
    from collections.abc import Callable

    import anndata as ad


def logged() -> ad.AnnData:
    adata = toy_cells(30)
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    return adata


def with_value(value: float) -> ad.AnnData:
    adata = toy_cells(30)
    adata.X[2, 3] = value
    return adata


def with_late_value(value: float) -> ad.AnnData:
    """One value in the last cell, beyond the rows that are looked at first."""
    adata = toy_cells(300)
    adata.X.data[-3] = value
    return adata


def renamed(names: list[str]) -> ad.AnnData:
    adata = toy_cells(30)
    adata.var_names = names
    return adata


def almost() -> ad.AnnData:
    adata = toy_cells(30)
    adata.X.data[:5] += 1e-3
    return adata


def with_other_tokens() -> ad.AnnData:
    adata = toy_cells(30)
    sfm.pp.tokenize(adata, "rank")
    return adata


def with_one_known_gene() -> ad.AnnData:
    adata = toy_cells(30)
    return renamed([adata.var_names[150], *(f"gene {i}" for i in range(299))])


CASES: dict[str, tuple[Callable[[], ad.AnnData], dict[str, Any], str]] = {
    "log1p": (logged, {}, r"adata.X holds log1p.*`sfm.pp.recover_counts\(adata\)`.*layer='counts'"),
    "nan": (lambda: with_value(np.nan), {}, "adata.X holds values that are NaN or infinite"),
    "infinite": (lambda: with_value(np.inf), {}, "adata.X holds values that are NaN or infinite"),
    "late": (
        lambda: with_late_value(np.nan),
        {},
        r"infinite \(less than 0.01% of .*, first in cell 'cell_299', but raw",
    ),
    "negative": (lambda: with_value(-3), {}, r"adata.X holds negative values \(such as -3.0\)"),
    "almost integers": (almost, {}, "adata.X holds almost integers.*round"),
    "no cells": (lambda: toy_cells(30)[:0].copy(), {}, "adata has 0 cells and 300 genes"),
    "no genes": (lambda: toy_cells(30)[:, :0].copy(), {}, "adata has 30 cells and 0 genes"),
    "missing layer": (lambda: toy_cells(30), {"layer": "counts"}, r"adata.layers\['counts'\]"),
    "no raw": (lambda: toy_cells(30), {"use_raw": True}, "adata.raw is None"),
    "missing symbols": (lambda: toy_cells(30), {"gene_symbols": "symbol"}, r"adata.var\['symbol'\]"),
    "no known gene": (lambda: renamed([f"gene {i}" for i in range(300)]), {}, "adata.var_names"),
    "one known gene": (with_one_known_gene, {}, "adata.var_names.*1 of 300"),
    "rat": (lambda: renamed([f"ENSRNOG{i:011d}" for i in range(300)]), {}, "ENSRNOG"),
    "missing tokens": (lambda: toy_cells(30), {"tokens_key": "tokens"}, r"adata.obsm\['tokens'\].*sfm.pp.tokenize"),
    "other vocabulary": (with_other_tokens, {"tokens_key": "tokens"}, r"adata.obsm\['tokens'\].*another vocabulary"),
    "batch size": (lambda: toy_cells(30), {"batch_size": 0}, "batch_size=0 is neither"),
    "precision": (lambda: toy_cells(30), {"precision": "fp8"}, "precision='fp8'"),
    "pooling": (lambda: toy_cells(30), {"pooling": "median"}, "pooling='median'"),
}


@pytest.mark.parametrize(("make", "options", "message"), CASES.values(), ids=CASES.keys())
def test_error_is_clear_and_nothing_changes(
    make: Callable[[], ad.AnnData], options: dict[str, Any], message: str
) -> None:
    adata = make()
    before = adata.copy()
    with pytest.raises((ValueError, KeyError), match=message):
        sfm.tl.embed(adata, toy_model(), **options)
    assert set(adata.obsm) == set(before.obsm)
    assert adata.uns.keys() == before.uns.keys()
    assert not adata.layers
    assert np.array_equal(adata.X.toarray(), before.X.toarray(), equal_nan=True)


def test_scaled_data_with_logged_raw() -> None:
    """The usual end of a scanpy notebook: scaled X, log1p-normalised raw."""
    adata = logged()
    adata.raw = adata
    adata.X = adata.X.toarray()
    sc.pp.scale(adata)
    with pytest.raises(ValueError, match=r"adata.X holds scaled.*`sfm.pp.recover_counts\(adata, use_raw=True\)`"):
        sfm.tl.embed(adata, toy_model())


@pytest.mark.parametrize("model", [3, object(), print])
def test_what_cannot_embed_is_named(model: Any) -> None:
    with pytest.raises(TypeError, match=f"of type {type(model).__name__} cannot embed cells"):
        sfm.tl.embed(toy_cells(30), model)


def test_the_coverage_that_is_refused_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sfm.settings, "min_gene_coverage", 0.999)
    with pytest.raises(ValueError, match=r"knows too few of the genes: coverage is below 99.9 %"):
        sfm.tl.embed(toy_cells(30), toy_model())


def test_low_coverage_warns() -> None:
    adata = toy_cells(30)
    expected = toy_model().vocabulary.expression
    share = np.cumsum(np.sort(expected)[::-1])
    n_genes = int(np.searchsorted(share, 0.3))
    with pytest.warns(UserWarning, match="%"):
        sfm.tl.embed(adata[:, :n_genes].copy(), toy_model())


def test_mudata_is_told_to_pass_a_modality() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of mudata, about its next defaults
        mdata = mudata.MuData({"rna": toy_cells(10)})
    for function in (sfm.tl.embed, sfm.pp.tokenize):
        with pytest.raises(TypeError, match=r"adata is a MuData, not an AnnData. Pass one modality.*mdata\['rna'\]"):
            function(mdata, toy_model())
