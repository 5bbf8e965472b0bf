"""Matrices that only say which genes were detected are used with a warning, once."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import dask.array as dask_array
import numpy as np
import pytest

import sfm
from sfm.datasets import toy_cells, toy_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

MODEL = toy_model("values")
LOOKS = r"None of the [\d,]+ values that were looked at in {} is above 1: it looks binarised"

CALLS: dict[str, Callable[[AnnData], object]] = {
    "tokenize": lambda adata: sfm.pp.tokenize(adata, MODEL),
    "embed": lambda adata: sfm.tl.embed(adata, MODEL),
    "annotate": lambda adata: sfm.tl.annotate(adata, cells(200), model=MODEL, method="knn"),
}


def cells(n: int) -> AnnData:
    return toy_cells(400)[:n].copy()


def binarised(n: int, dtype: str = "float32") -> AnnData:
    adata = cells(n)
    adata.X = (adata.X > 0).astype(dtype)
    return adata


def messages(call: Callable[[AnnData], object], adata: AnnData) -> list[str]:
    """What is said in a call, with repetitions."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call(adata)
    return [str(warning.message) for warning in seen if "binarised" in str(warning.message)]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", "bool"])
def test_a_binarised_matrix_is_used_with_one_warning(name: str, dtype: str) -> None:
    adata = binarised(200, dtype)
    assert adata.X.nnz > 5_000
    (message,) = messages(CALLS[name], adata)
    assert message.startswith(f"None of the {adata.X.nnz:,} values that were looked at in adata.X is above 1")
    assert messages(CALLS[name], adata) == []  # said already of this matrix
    assert len(messages(CALLS[name], adata.copy())) == 1


@pytest.mark.parametrize("views", ["both", "expression"])
def test_each_side_of_an_annotation_is_looked_at(views: Any) -> None:
    query, reference = binarised(200), binarised(300)
    options: dict[str, Any] = {"model": MODEL, "method": "knn", "views": views}
    assert len(messages(lambda adata: sfm.tl.annotate(adata, reference, **options), query)) == 2


@pytest.mark.parametrize("container", ["dense", "csc", "dask"])
def test_any_kind_of_matrix_is_looked_at(container: str) -> None:
    adata = binarised(200)
    dense = adata.X.toarray()
    adata.X = {"dense": dense, "csc": adata.X.tocsc(), "dask": dask_array.from_array(dense, chunks=(50, -1))}[container]
    assert len(messages(CALLS["tokenize"], adata)) == 1


@pytest.mark.parametrize("name", CALLS)
def test_one_count_of_two_is_enough_to_be_counts(name: str) -> None:
    adata = binarised(200)
    adata.X.data[7] = 2
    assert messages(CALLS[name], adata) == []


@pytest.mark.parametrize("name", CALLS)
def test_few_ones_may_be_counts(name: str) -> None:
    adata = binarised(20)
    assert 0 < adata.X.nnz < 5_000
    assert messages(CALLS[name], adata) == []


def test_the_slot_is_named_that_was_read() -> None:
    adata = cells(200)
    adata.layers["detected"] = (adata.X > 0).astype(np.float32)
    with pytest.warns(UserWarning, match=LOOKS.format(r"adata\.layers\['detected'\]")):
        sfm.tl.embed(adata, MODEL, layer="detected")
