from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

from sfm._matrix import select_matrix
from sfm._state import check_input_state, input_state

COUNTS = np.random.default_rng(0).poisson(np.random.default_rng(1).gamma(0.3, 3, (40, 60))).astype(np.float32)


def normalised(log: bool = False) -> np.ndarray:
    adata = ad.AnnData(COUNTS.copy())
    sc.pp.normalize_total(adata, target_sum=1e4)
    if log:
        sc.pp.log1p(adata)
    return adata.X


def with_value(value: float) -> np.ndarray:
    changed = COUNTS.copy()
    changed[3, 4] = value
    return changed


STATES = {
    "counts": COUNTS,
    "almost_counts": COUNTS + np.where(COUNTS == 1, np.float32(1e-4), 0),
    "normalized": normalised(),
    "log1p": normalised(log=True),
    "scaled": (normalised(log=True) - 1).astype(np.float32),
    "negative": with_value(-2),
    "not_finite": with_value(np.nan),
}


@pytest.mark.parametrize("make", [np.array, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize(("kind", "values"), STATES.items(), ids=STATES.keys())
def test_state_is_detected(kind: str, values: np.ndarray, make: type) -> None:
    matrix = select_matrix(ad.AnnData(make(values)))
    assert input_state(matrix.head(100)).kind == kind


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16, np.float64, bool])
def test_counts_of_any_dtype(dtype: type) -> None:
    assert input_state(sparse.csr_matrix(COUNTS.astype(dtype))).kind == "counts"


def test_an_empty_matrix_counts_as_counts() -> None:
    assert input_state(sparse.csr_matrix((3, 4))).kind == "counts"


def test_infinity_is_not_finite() -> None:
    assert input_state(sparse.csr_matrix(with_value(np.inf))).kind == "not_finite"


def test_log1p_of_a_gene_panel_is_still_log1p() -> None:
    panel = normalised(log=True)[:, :20]
    assert input_state(sparse.csr_matrix(panel)).kind == "log1p"


def check(adata: ad.AnnData, **options: object) -> None:
    matrix = select_matrix(adata, **options)
    check_input_state(adata, matrix, matrix.head(100))


@pytest.mark.parametrize("kind", [kind for kind in STATES if kind != "counts"])
def test_refusal_names_the_slot_and_where_counts_are(kind: str) -> None:
    adata = ad.AnnData(STATES[kind].copy())
    adata.layers["raw counts"] = COUNTS
    with pytest.raises(ValueError, match=r"adata.X holds .* needed. adata.layers\['raw counts'\] holds counts: pass "):
        check(adata)
    check(adata, layer="raw counts")


def test_refusal_names_X_where_the_layer_was_wrong() -> None:
    adata = ad.AnnData(COUNTS.copy(), layers={"log": STATES["log1p"]})
    with pytest.raises(ValueError, match=r"adata.layers\['log'\] holds log1p.*adata.X holds counts: pass neither"):
        check(adata, layer="log")


def test_refusal_names_the_call_that_restores_counts() -> None:
    adata = ad.AnnData(STATES["scaled"].copy())
    adata.raw = ad.AnnData(STATES["log1p"].copy())
    with pytest.raises(
        ValueError, match=r"`sfm.pp.recover_counts\(adata, use_raw=True\)` restores them from adata.raw.X"
    ):
        check(adata)


def test_refusal_without_a_way_out() -> None:
    with pytest.raises(ValueError, match="No slot of this AnnData holds counts"):
        check(ad.AnnData(STATES["scaled"].copy()))


def check_log1p(adata: ad.AnnData, **options: object) -> None:
    matrix = select_matrix(adata, **options)
    check_input_state(adata, matrix, matrix.head(100), requires="log1p")


@pytest.mark.parametrize("kind", ["counts", "normalized"])
@pytest.mark.parametrize("where", ["X", "layer", "raw"])
def test_refusal_where_log1p_is_needed_names_the_calls_that_make_it(kind: str, where: str) -> None:
    adata = ad.AnnData(STATES[kind if where == "X" else "scaled"].copy())
    if where == "layer":
        adata.layers["other"] = STATES[kind].copy()
    if where == "raw":
        adata.raw = ad.AnnData(STATES[kind].copy())
    with pytest.raises(
        ValueError, match="log1p-normalised values are needed. No slot holds them, but they can be"
    ) as error:
        check_log1p(adata)
    message = str(error.value)
    assert ("normalize_total" in message) == (kind == "counts")
    names: dict[str, object] = {"adata": adata, "sc": sc}
    for call in message.split("`")[1::2]:
        exec(call, names)
    check_log1p(names.get("log1p", adata), **({} if where == "raw" else {"layer": "log1p"}))


@pytest.mark.parametrize("kind", ["scaled", "almost_counts", "negative"])
def test_refusal_where_log1p_is_needed_and_cannot_be_made(kind: str) -> None:
    with pytest.raises(ValueError, match="No slot of this AnnData holds them, or counts to make them from"):
        check_log1p(ad.AnnData(STATES[kind].copy()))


def test_cells_without_counts_are_log1p_as_well() -> None:
    check_log1p(ad.AnnData(sparse.csr_matrix((3, 4), dtype=np.float32)))


def test_almost_integers_are_to_be_rounded() -> None:
    with pytest.raises(ValueError, match=r"almost integers .*such as 1.0001.*round\(\)"):
        check(ad.AnnData(STATES["almost_counts"].copy()))
