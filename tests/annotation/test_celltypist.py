"""Labels and decision values are those of CellTypist; `scripts/make_celltypist_goldens.py` made the files."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.special import expit

from sfm.annotation._celltypist import _CHUNK, CellTypistReference
from sfm.annotation._celltypist_file import is_celltypist_model
from sfm.annotation._celltypist_scores import cell_totals, log_normalize

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDENS = Path(__file__).parents[1] / "goldens" / "celltypist"
MODELS = sorted(path.stem for path in GOLDENS.glob("*.pkl"))
KINDS = ["counts", "log1p"]
EMPTY = 4  # the cell of the query that has no counts

pytestmark = pytest.mark.filterwarnings(
    "ignore:.* cells express no feature", "ignore:.* names are not unique:UserWarning"
)


def golden_query(kind: str = "counts") -> ad.AnnData:
    with np.load(GOLDENS / "query.npz") as stored:
        shape = len(stored["indptr"]) - 1, len(stored["names"])
        values = stored[kind].astype(np.float32)
        X = sparse.csr_matrix((values, stored["indices"].astype(np.int32), stored["indptr"]), shape=shape)
        adata = ad.AnnData(X)
        adata.var_names = stored["names"].astype(object)
    return adata


def golden(model: str) -> dict[str, np.ndarray]:
    with np.load(GOLDENS / f"{model}.npz") as stored:
        return dict(stored)


def read(model: str = "multiclass") -> CellTypistReference:
    return CellTypistReference.read(GOLDENS / f"{model}.pkl")


def test_there_are_goldens_of_every_kind() -> None:
    assert {"multiclass", "binary", "sgd", "selected", "without_mean", "old_versions"} <= set(MODELS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_labels_and_decision_values_are_those_of_celltypist(model: str, kind: str) -> None:
    said, reference = golden(model), read(model)
    prediction = reference.predict(golden_query(kind))
    np.testing.assert_array_equal(np.array(reference.labels)[prediction.best], said["labels"])
    np.testing.assert_allclose(reference.decision_function(golden_query(kind)), said["decision"], atol=1e-9, rtol=0)
    np.testing.assert_allclose(prediction.probabilities, said["probability"], atol=1e-7, rtol=0)
    assert prediction.probabilities.dtype == np.float32
    assert len(set(said["labels"])) > 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, lambda X: X.toarray()])
def test_the_array_type_does_not_matter(make: Callable[[object], object], kind: str) -> None:
    adata = golden_query(kind)
    adata.X = make(adata.X)
    np.testing.assert_allclose(read().decision_function(adata), golden("multiclass")["decision"], atol=1e-9, rtol=0)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_integer_counts_are_as_good(dtype: type) -> None:
    adata = golden_query()
    adata.X = adata.X.astype(dtype)
    np.testing.assert_allclose(read().decision_function(adata), golden("multiclass")["decision"], atol=1e-9, rtol=0)


@pytest.mark.parametrize("as_dense", [False, True])
def test_a_backed_file_is_as_good(tmp_path: Path, as_dense: bool) -> None:
    adata = golden_query()
    adata.var_names_make_unique()
    adata.X = adata.X.toarray() if as_dense else adata.X
    adata.write_h5ad(tmp_path / "query.h5ad")
    backed = ad.read_h5ad(tmp_path / "query.h5ad", backed="r")
    np.testing.assert_allclose(read().decision_function(backed), golden("multiclass")["decision"], atol=1e-9, rtol=0)
    backed.file.close()


def test_layers_and_raw_are_read() -> None:
    said = golden("multiclass")["decision"]
    adata = golden_query("log1p")
    adata.layers["counts"] = golden_query().X
    adata.raw = golden_query()
    adata.X = sparse.csr_matrix(adata.shape)
    np.testing.assert_allclose(read().decision_function(adata, layer="counts"), said, atol=1e-9, rtol=0)
    np.testing.assert_allclose(read().decision_function(adata, use_raw=True), said, atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_does_not_depend_on_the_others(kind: str) -> None:
    adata, whole = golden_query(kind), read().decision_function(golden_query(kind))
    for cells in ([7], [7, 7], [EMPTY, EMPTY, 7], list(range(29, -1, -1))):
        alone = read().decision_function(adata[cells].copy())
        np.testing.assert_allclose(alone, whole[cells], atol=1e-12, rtol=0)


def test_many_chunks_give_what_one_gives() -> None:
    adata, whole = golden_query(), read().decision_function(golden_query())
    rows = np.tile(np.arange(30), 80)
    rows[: _CHUNK + 10] = EMPTY  # a whole chunk of empty cells
    np.testing.assert_array_equal(read().decision_function(adata[rows].copy()), whole[rows])


def test_the_order_of_the_genes_does_not_matter() -> None:
    adata = golden_query()
    adata.var_names_make_unique()
    shuffled = adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()
    np.testing.assert_allclose(read().decision_function(shuffled), read().decision_function(adata), atol=1e-12, rtol=0)


def test_the_first_of_a_duplicate_name_counts() -> None:
    adata = golden_query("log1p")
    last = adata.var_names[-1]
    assert list(adata.var_names).count(last) == 2
    assert last in read().features
    unlike, dense = adata.copy(), adata.X.toarray()
    dense[:, -1] = 1.5
    unlike.X = sparse.csr_matrix(dense)
    with pytest.warns(UserWarning, match="do not add up to 10,000"):
        decision = read().decision_function(unlike)
    np.testing.assert_array_equal(decision, read().decision_function(adata))


def test_an_empty_cell_has_a_label_and_is_reported() -> None:
    with pytest.warns(UserWarning, match="1 of 30 cells express no feature"):
        prediction = read().predict(golden_query())
    assert prediction.params["n_empty_cells"] == 1
    assert np.isfinite(prediction.probabilities).all()


def model_object(
    coef: np.ndarray, intercept: np.ndarray, mean: np.ndarray, scale: np.ndarray, **more: object
) -> SimpleNamespace:
    n_labels = max(2, len(coef))
    return SimpleNamespace(
        classifier=SimpleNamespace(
            classes_=np.array([f"type {i}" for i in range(n_labels)], dtype=object),
            features=np.array([f"gene{i}" for i in range(coef.shape[1])], dtype=object),
            coef_=coef,
            intercept_=intercept,
        ),
        scaler=SimpleNamespace(mean_=mean, scale_=scale, with_mean=True, **more),
        description={"version": "v1"},
    )


def naive(model: SimpleNamespace, X: np.ndarray) -> np.ndarray:
    """The formula on a dense matrix with a column per feature."""
    z = (X.astype(np.float64) - model.scaler.mean_) / model.scaler.scale_
    z[z > 10] = 10
    decision = z @ model.classifier.coef_.T + model.classifier.intercept_
    return np.column_stack([-decision, decision]) if decision.shape[1] == 1 else decision


@given(st.integers(0, 10_000), st.sampled_from([1, 2, 3, 7]))
def test_any_model_is_evaluated_as_the_dense_formula_has_it(seed: int, n_rows: int) -> None:
    rng = np.random.default_rng(seed)
    n_features = int(rng.integers(2, 30))
    # Means below and above zero and tiny scales: zeros and non-zeros are cut at 10.
    scale = rng.choice([1e-2, 0.3, 2.0], n_features)
    model = model_object(
        rng.normal(size=(n_rows, n_features)), rng.normal(size=n_rows), rng.normal(size=n_features), scale
    )
    X = np.log1p(rng.poisson(0.7, (9, n_features)) * rng.uniform(0.5, 2, (9, 1))).astype(np.float32)
    X[0, 0] = 0.123
    adata = ad.AnnData(sparse.csr_matrix(X))
    adata.var_names = [f"gene{i}" for i in range(n_features)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        decision = CellTypistReference.from_model(model).decision_function(adata)
    np.testing.assert_allclose(decision, naive(model, X), atol=1e-9, rtol=1e-12)


def test_zeros_beyond_the_cut_are_cut() -> None:
    model = model_object(np.array([[1.0], [2.0]]), np.zeros(2), np.array([-5.0]), np.array([0.1]))
    adata = ad.AnnData(np.array([[0.0], [0.0]], dtype=np.float32), var={"names": ["gene0"]})
    adata.var_names = ["gene0"]
    assert CellTypistReference.from_model(model).decision_function(adata).tolist() == [[10, 20], [10, 20]]


def test_the_storage_of_a_sparse_matrix_does_not_matter() -> None:
    adata = golden_query("log1p")
    X = adata.X.tocoo()
    row, col, half = np.tile(X.row, 2), np.tile(X.col, 2), np.tile(X.data / 2, 2)
    order = np.random.default_rng(0).permutation(len(row))
    order = order[np.argsort(row[order], kind="stable")]
    extra = np.flatnonzero(adata.X[0].toarray().ravel() == 0)[:1]  # an explicit zero
    indices = np.concatenate([extra, col[order]]).astype(np.int32)
    indptr = 2 * adata.X.indptr + 1
    indptr[0] = 0
    untidy = sparse.csr_matrix((np.concatenate([[0], half[order]]).astype(np.float32), indices, indptr), shape=X.shape)
    assert not untidy.has_canonical_format
    before = untidy.nnz
    adata.X = untidy
    np.testing.assert_allclose(read().decision_function(adata), golden("multiclass")["decision"], atol=1e-9, rtol=0)
    assert adata.X.nnz == before


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_counts_are_normalised_to_the_last_bit_as_scanpy_does(dtype: type) -> None:
    adata = golden_query()
    adata.X = adata.X.astype(dtype)
    mine = log_normalize(adata.X, cell_totals(adata.X))
    with pytest.warns(UserWarning, match="Some cells have zero counts"):
        sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    np.testing.assert_allclose(mine, adata.X.data, rtol=1e-15, atol=0)
    assert mine.dtype == adata.X.dtype


def test_the_label_is_that_of_the_largest_decision_value_where_probabilities_are_equal() -> None:
    rng = np.random.default_rng(0)
    model = model_object(1e3 * rng.normal(size=(4, 6)), np.zeros(4), np.ones(6), np.full(6, 0.1))
    adata = ad.AnnData(rng.poisson(2, (50, 6)).astype(np.float32))
    adata.var_names = [f"gene{i}" for i in range(6)]
    reference = CellTypistReference.from_model(model)
    prediction = reference.predict(adata)
    best = reference.decision_function(adata).argmax(axis=1)
    np.testing.assert_array_equal(prediction.best, best)
    assert (prediction.probabilities.argmax(axis=1) != best).any()
    np.testing.assert_array_equal(
        prediction.probabilities, expit(reference.decision_function(adata)).astype(np.float32)
    )


def test_a_model_object_is_as_good_as_its_file() -> None:
    parts = read().parts
    model = model_object(parts.coef, parts.intercept, parts.mean, parts.scale)
    model.classifier.classes_, model.classifier.features = np.array(parts.labels), np.array(parts.features)
    assert is_celltypist_model(model)
    reference = CellTypistReference.from_model(model)
    np.testing.assert_array_equal(reference.decision_function(golden_query()), read().decision_function(golden_query()))
    assert reference.params()["reference_hash"] == read().params()["reference_hash"]


def test_a_celltypist_model_is_recognised_by_its_attributes() -> None:
    assert not is_celltypist_model(golden_query())
    assert not is_celltypist_model(read())
    assert not is_celltypist_model("model.pkl")


def test_numbers_as_labels_become_text() -> None:
    model = model_object(np.eye(3), np.zeros(3), np.zeros(3), np.ones(3))
    model.classifier.classes_ = np.array([1, 2, 10])
    assert CellTypistReference.from_model(model).labels == ("1", "2", "10")


def test_provenance_is_plain_and_survives_a_file(tmp_path: Path) -> None:
    adata, reference = golden_query(), read()
    params = {**reference.params(), **reference.predict(adata).params}
    adata.var_names_make_unique()
    adata.uns["sfm_label"] = {"params": params}
    adata.write_h5ad(tmp_path / "annotated.h5ad")
    assert ad.read_h5ad(tmp_path / "annotated.h5ad").uns["sfm_label"]["params"] == params
    assert params["celltypist_version"] == "golden"
    assert params["n_features"] == len(reference.features)
    assert params["n_features_found"] == len(set(golden_query().var_names) & set(reference.features))
    assert params["gene_matching"] == "exact"


def test_the_query_is_left_as_it_was() -> None:
    adata, before = golden_query(), golden_query()
    read().predict(adata)
    np.testing.assert_array_equal(adata.X.data, before.X.data)
    np.testing.assert_array_equal(adata.var_names, before.var_names)
    assert not adata.uns
    assert not adata.obsm
