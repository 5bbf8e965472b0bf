"""What a query may be: its gene names, its values, and what is said of those that do not fit."""

from __future__ import annotations

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

import sfm
from sfm.annotation._celltypist import _CHUNK, CellTypistReference
from sfm.genes import gene_tables


def log1p(adata: ad.AnnData, target_sum: float = 1e4) -> ad.AnnData:
    adata = adata.copy()
    sc.pp.normalize_total(adata, target_sum=target_sum)
    sc.pp.log1p(adata)
    return adata


def model_of(features: list[str], X: np.ndarray) -> SimpleNamespace:
    """A model with random coefficients on z-scores of log1p values."""
    rng = np.random.default_rng(0)
    classifier = SimpleNamespace(
        classes_=np.array(["a", "b", "c"]),
        features=np.array(features, dtype=object),
        coef_=rng.normal(size=(3, len(features))),
        intercept_=rng.normal(size=3),
    )
    scaler = SimpleNamespace(mean_=X.mean(axis=0), scale_=X.std(axis=0) + 0.1, with_mean=True)
    return SimpleNamespace(classifier=classifier, scaler=scaler, description={})


@pytest.fixture
def reference(toy: ad.AnnData) -> CellTypistReference:
    """A model of the symbols of the toy cells."""
    return CellTypistReference.from_model(model_of(toy.var_names.tolist(), log1p(toy).X.toarray()))


def test_ensembl_ids_find_symbols(toy: ad.AnnData, reference: CellTypistReference) -> None:
    said = reference.decision_function(toy)
    prediction = reference.predict(toy, gene_symbols="ensembl_id")
    np.testing.assert_allclose(reference.decision_function(toy, gene_symbols="ensembl_id"), said, atol=1e-9, rtol=0)
    np.testing.assert_array_equal(prediction.best, said.argmax(axis=1))
    assert prediction.params["gene_matching"] == "aligned"
    assert prediction.params["id_style"] == "ensembl"
    assert reference.predict(toy).params["gene_matching"] == "exact"


def test_symbols_find_ensembl_ids(toy: ad.AnnData, reference: CellTypistReference) -> None:
    of_ids = CellTypistReference.from_model(model_of(toy.var["ensembl_id"].tolist(), log1p(toy).X.toarray()))
    np.testing.assert_allclose(of_ids.decision_function(toy), reference.decision_function(toy), atol=1e-9, rtol=0)
    assert of_ids.predict(toy).params["gene_matching"] == "aligned"


def test_mouse_genes_find_their_human_orthologs(toy: ad.AnnData, reference: CellTypistReference) -> None:
    orthologs = gene_tables().human.orthologs
    toy.var["mouse"] = [orthologs.get(symbol, f"none{i}") for i, symbol in enumerate(toy.var_names)]
    found = np.flatnonzero(toy.var["mouse"].isin(set(orthologs.values())).to_numpy())
    assert found.size > 200
    params = reference.predict(toy, gene_symbols="mouse").params
    assert params["gene_matching"] == "aligned"
    assert params["species"] == "mouse"
    assert params["n_features_found"] > 0.9 * found.size


def test_exact_names_win_where_most_are_exact(toy: ad.AnnData, reference: CellTypistReference) -> None:
    said = reference.decision_function(toy[:, :200].copy())
    mixed = toy.var_names.to_numpy(dtype=object, copy=True)
    mixed[200:] = toy.var["ensembl_id"].iloc[200:]  # what CellTypist would not find
    toy.var["mixed"] = mixed
    found = reference.predict(toy, gene_symbols="mixed").params
    assert (found["gene_matching"], found["n_features_found"]) == ("exact", 200)
    assert said.shape == (60, 3)


def test_a_panel_is_matched_exactly(toy: ad.AnnData, reference: CellTypistReference) -> None:
    panel = toy[:, 5:65].copy()
    with pytest.warns(UserWarning, match=r"60 of its 300 features are in adata.var_names \(60 genes\).*below 50 %"):
        params = reference.predict(panel).params
    assert params["gene_matching"] == "exact"


def test_counts_of_genes_that_mean_one_feature_are_added(toy: ad.AnnData, reference: CellTypistReference) -> None:
    said = reference.decision_function(toy)
    counts = toy.X.toarray()
    halves = np.floor(counts / 2)
    names = [f"{gene}.{version}" for version in (1, 2) for gene in toy.var["ensembl_id"]]
    for make in (sparse.csr_matrix, np.asarray):
        split = ad.AnnData(make(np.hstack([halves, counts - halves])))
        split.var_names = names
        np.testing.assert_allclose(reference.decision_function(split), said, atol=1e-4, rtol=0)
        np.testing.assert_allclose(reference.decision_function(log1p(split)), said, atol=1e-4, rtol=0)


def test_previous_symbols_are_brought_up_to_date() -> None:
    tables = gene_tables().human
    renamed = [(old, tables.symbols[gene]) for old, gene in tables.previous.items() if gene in tables.symbols][:80]
    old, new = (list(names) for names in zip(*dict.fromkeys(renamed), strict=True))
    old, new = zip(*{now: (was, now) for was, now in zip(old, new, strict=True)}.values(), strict=True)
    rng = np.random.default_rng(0)
    adata = ad.AnnData(sparse.csr_matrix(rng.poisson(3, (10, len(old))).astype(np.float32)))
    adata.var_names = list(old)
    reference = CellTypistReference.from_model(model_of(list(new), log1p(adata).X.toarray()))
    params = reference.predict(adata).params
    assert (params["gene_matching"], params["n_features_found"]) == ("aligned", len(old))


def test_no_gene_in_common_names_both_sides_and_the_column_that_helps(
    toy: ad.AnnData, reference: CellTypistReference
) -> None:
    toy.var["symbol"] = toy.var_names
    toy.var["number"] = np.arange(toy.n_vars)
    first = toy.var_names[0]
    toy.var_names = [f"feature_{i}" for i in range(toy.n_vars)]
    with pytest.raises(ValueError, match=rf"no gene.*'feature_0', .*features are '{first}', .*gene_symbols='symbol'"):
        reference.predict(toy)
    assert reference.predict(toy, gene_symbols="symbol").codes is not None
    del toy.var["symbol"]
    with pytest.raises(ValueError, match=r"If var has a column of gene symbols .* pass it as gene_symbols="):
        reference.predict(toy)


def test_too_few_genes_are_refused_unless_that_is_wanted(
    toy: ad.AnnData, reference: CellTypistReference, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = toy[:, 290:291].copy()
    with pytest.raises(ValueError, match=r"too few genes.*1 of its 300 features.*sfm.settings.min_gene_coverage"):
        reference.predict(one)
    monkeypatch.setattr(sfm.settings, "min_gene_coverage", 0.0)
    with pytest.warns(UserWarning, match="few genes|express no feature"):
        assert len(reference.predict(one).best) == 60


def test_scaled_values_are_refused_and_raw_is_named(toy: ad.AnnData, reference: CellTypistReference) -> None:
    adata = log1p(toy)
    adata.raw = adata.copy()
    adata.X = adata.X.toarray()
    sc.pp.scale(adata)
    with pytest.raises(ValueError, match=r"scaled .*raw counts or log1p-normalised values are needed.*use_raw=True"):
        reference.predict(adata)
    said = reference.decision_function(log1p(toy))
    np.testing.assert_array_equal(reference.decision_function(adata, use_raw=True), said)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_values_that_mean_nothing_are_refused(toy: ad.AnnData, reference: CellTypistReference, value: float) -> None:
    toy.X.data[100] = value
    with pytest.raises(ValueError, match="adata.X holds"):
        reference.predict(toy)


def test_normalised_values_without_logarithm_are_refused(toy: ad.AnnData, reference: CellTypistReference) -> None:
    sc.pp.normalize_total(toy, target_sum=1e4)
    with pytest.raises(ValueError, match=r"normalised values .*`sfm.pp.recover_counts\(adata\)`"):
        reference.predict(toy)


def test_log1p_values_beyond_ten_thousand_are_refused(toy: ad.AnnData, reference: CellTypistReference) -> None:
    adata = log1p(toy, target_sum=1e6)
    adata.layers["counts"] = toy.X
    with pytest.raises(ValueError, match=r"adata.X holds values up to 1\d\.\d+.*target_sum=1e4.*pass layer='counts'"):
        reference.predict(adata)
    assert len(reference.predict(adata, layer="counts").best) == 60


@pytest.mark.parametrize("target_sum", [3e3, 9_990])
def test_log1p_values_of_another_sum_give_a_warning(
    toy: ad.AnnData, reference: CellTypistReference, target_sum: float
) -> None:
    with pytest.warns(UserWarning, match=r"60 of the first 60 cells do not add up to 10,000.*median (3,000|9,990)"):
        reference.predict(log1p(toy, target_sum))


def test_equal_cells_of_log1p_values_are_log1p_values(toy: ad.AnnData, reference: CellTypistReference) -> None:
    said = reference.decision_function(log1p(toy))
    same = ad.AnnData(log1p(toy).X[[3, 3, 3]], var=toy.var)
    np.testing.assert_allclose(reference.decision_function(same), said[[3, 3, 3]], atol=1e-12, rtol=0)


def test_counts_and_log1p_values_are_not_mixed(toy: ad.AnnData, reference: CellTypistReference) -> None:
    rows = np.arange(_CHUNK) % 60
    many = sparse.vstack([toy.X[rows], log1p(toy).X]).tocsr()
    with pytest.raises(ValueError, match="in some rows and"):
        reference.predict(ad.AnnData(many, var=toy.var))


def test_a_query_without_counts_has_labels_of_empty_cells(toy: ad.AnnData, reference: CellTypistReference) -> None:
    toy.X = sparse.csr_matrix(toy.shape, dtype=np.float32)
    with pytest.warns(UserWarning, match="60 of 60 cells express no feature"):
        prediction = reference.predict(toy)
    assert len(set(prediction.best.tolist())) == 1


def test_other_things_are_refused(toy: ad.AnnData, reference: CellTypistReference) -> None:
    with pytest.raises(TypeError, match="adata is a ndarray, not an AnnData"):
        reference.predict(toy.X.toarray())
    with pytest.raises(ValueError, match="0 cells and 300 genes"):
        reference.predict(toy[[]].copy())
    with pytest.raises(KeyError, match="Did not find adata.layers"):
        reference.predict(toy, layer="none")
    with pytest.raises(KeyError, match="Did not find adata.var"):
        reference.predict(toy, gene_symbols="none")
