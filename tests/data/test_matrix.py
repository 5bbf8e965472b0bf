from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from sfm._matrix import select_matrix

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COUNTS = np.random.default_rng(0).poisson(0.5, (11, 6)).astype(np.float32)
FORMATS: dict[str, Callable[[np.ndarray], object]] = {
    "dense": np.array,
    "csr_matrix": sparse.csr_matrix,
    "csr_array": sparse.csr_array,
    "csc_matrix": sparse.csc_matrix,
    "csc_array": sparse.csc_array,
}


def make_adata(X: object) -> ad.AnnData:
    var = pd.DataFrame({"symbol": list("ABCDEF")}, index=[f"gene {i}" for i in range(6)])
    return ad.AnnData(X=X, var=var)


def rebuilt(adata: ad.AnnData, size: int, **options: object) -> np.ndarray:
    return np.vstack([chunk.toarray() for _, chunk in select_matrix(adata, **options).chunks(size)])


@pytest.mark.parametrize("size", [1, 4, 100])
@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS.keys())
def test_chunks_are_the_matrix(make: Callable[[np.ndarray], object], size: int) -> None:
    assert np.array_equal(rebuilt(make_adata(make(COUNTS)), size), COUNTS)


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS.keys())
def test_chunks_of_a_backed_file(make: Callable[[np.ndarray], object], tmp_path: Path) -> None:
    make_adata(make(COUNTS)).write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    assert np.array_equal(rebuilt(backed, 4), COUNTS)
    backed.file.close()


def test_layers_and_raw() -> None:
    adata = make_adata(COUNTS * 0)
    adata.layers["counts"] = COUNTS
    adata.raw = make_adata(COUNTS + 1)
    assert np.array_equal(rebuilt(adata, 4, layer="counts"), COUNTS)
    assert np.array_equal(rebuilt(adata, 4, use_raw=True), COUNTS + 1)
    assert select_matrix(adata, layer="counts").slot == "adata.layers['counts']"
    assert select_matrix(adata, use_raw=True).names_slot == "adata.raw.var_names"


def test_gene_symbols_may_be_categorical_with_gaps() -> None:
    adata = make_adata(COUNTS)
    adata.var["symbol"] = pd.Categorical(["A", None, "C", "A", "E", "F"])
    matrix = select_matrix(adata, gene_symbols="symbol")
    assert matrix.names.tolist() == ["A", "", "C", "A", "E", "F"]
    assert matrix.names_slot == "adata.var['symbol']"


def test_in_memory_csr_is_not_copied() -> None:
    X = sparse.csr_matrix(COUNTS)
    chunks = [chunk for _, chunk in select_matrix(make_adata(X)).chunks(4)]
    assert all(np.shares_memory(chunk.data, X.data) for chunk in chunks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "counts"}, r"Did not find adata.layers\['counts'\]. Layers present: 'spliced'"),
        ({"use_raw": True}, "adata.raw is None"),
        ({"layer": "spliced", "use_raw": True}, "Cannot use layer='spliced' and use_raw=True together"),
        ({"gene_symbols": "symbols"}, r"Did not find adata.var\['symbols'\].*Columns present: 'symbol'"),
    ],
)
def test_missing_slots_are_named(options: dict[str, object], message: str) -> None:
    adata = make_adata(COUNTS)
    adata.layers["spliced"] = COUNTS
    with pytest.raises((KeyError, ValueError), match=message):
        select_matrix(adata, **options)


def test_other_arrays_are_named() -> None:
    adata = make_adata(sparse.csr_matrix(COUNTS))
    matrix = replace(select_matrix(adata), X=adata.to_df())
    with pytest.raises(NotImplementedError, match="adata.X is a DataFrame. Supported: numpy, scipy CSR and CSC"):
        matrix.head(3)


def test_missing_X_is_named() -> None:
    with pytest.raises(ValueError, match="adata.X is None"):
        select_matrix(ad.AnnData(obs=pd.DataFrame(index=["a"])))
