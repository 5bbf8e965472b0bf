"""Bad input: an error that names the slot, the value and the fix, and unchanged data."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import sfm
from sfm.datasets import toy_cells, toy_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CELLS = toy_cells(60)
MODEL = toy_model("values")


def reference() -> ad.AnnData:
    return CELLS[:40].copy()


def query() -> ad.AnnData:
    return CELLS[40:].copy()


def logged(adata: ad.AnnData) -> ad.AnnData:
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    return adata


def with_labels(values: Any) -> ad.AnnData:
    adata = reference()
    adata.obs["cell_type"] = values
    return adata


def with_other_genes() -> ad.AnnData:
    """Genes of the model, but none of those of the query."""
    adata, vocabulary = reference(), MODEL.vocabulary
    own = set(adata.var["ensembl_id"])
    order = np.argsort(-np.asarray(vocabulary.expression))
    ranked = [vocabulary.gene_ids[i] for i in order if vocabulary.gene_ids[i] not in own]
    adata.var_names = ranked[: adata.n_vars]
    return adata


def without_known_genes(adata: ad.AnnData) -> ad.AnnData:
    adata.var_names = [f"gene {i}" for i in range(adata.n_vars)]
    return adata


def embedded(adata: ad.AnnData, model: Any, **options: Any) -> ad.AnnData:
    sfm.tl.embed(adata, model, **options)
    return adata


def with_foreign_vectors(adata: ad.AnnData) -> ad.AnnData:
    adata.obsm["X_other"] = np.ones((adata.n_obs, 3))
    return adata


Case = tuple["Callable[[], ad.AnnData]", "Callable[[], Any]", dict[str, Any], type[Exception], str]
CASES: dict[str, Case] = {
    "missing labels": (query, reference, {"labels_key": "type"}, KeyError, r"reference has no obs\['type'\]. Columns"),
    "one class": (query, lambda: with_labels("B"), {}, ValueError, "only the label 'B'"),
    "no labels": (query, lambda: with_labels(None), {}, ValueError, "no label at all"),
    "measurements": (
        query,
        lambda: with_labels(np.linspace(0, 1, 40)),
        {},
        ValueError,
        "obs.'cell_type'. of the reference holds numbers such as",
    ),
    "no shared gene": (query, with_other_genes, {}, ValueError, "no gene of the model in common .*in the query and"),
    "query unknown": (
        lambda: without_known_genes(query()),
        reference,
        {},
        ValueError,
        "^The query: Model .* knows none",
    ),
    "reference unknown": (
        query,
        lambda: without_known_genes(reference()),
        {},
        ValueError,
        "^The reference .its options are reference_kwargs=.: Model .* knows none",
    ),
    "query logged": (lambda: logged(query()), reference, {}, ValueError, "^The query: adata.X holds log1p"),
    "reference logged": (query, lambda: logged(reference()), {}, ValueError, "^The reference .*: adata.X holds log1p"),
    "query layer": (query, reference, {"layer": "c", "reference_kwargs": {}}, KeyError, r"The query: .*layers\['c'\]"),
    "reference layer": (query, reference, {"reference_kwargs": {"layer": "c"}}, KeyError, r"The reference .*\['c'\]"),
    "unknown option": (
        query,
        reference,
        {"reference_kwargs": {"x": 1}},
        TypeError,
        "reference_kwargs has 'x'. It takes",
    ),
    "empty query": (lambda: query()[:0].copy(), reference, {}, ValueError, "^The query: adata has 0 cells"),
    "empty reference": (query, lambda: reference()[:0].copy(), {}, ValueError, "no label at all"),
    "confidence": (query, reference, {"min_confidence": 1.5}, ValueError, "min_confidence=1.5 is not between 0 and 1"),
    "confidence NaN": (query, reference, {"min_confidence": np.nan}, ValueError, "min_confidence=nan is not between"),
    "novelty": (query, reference, {"max_novelty": -0.1}, ValueError, "max_novelty=-0.1 is not between 0 and 1"),
    "method": (query, reference, {"method": "svm"}, ValueError, "Unknown method='svm'. Choose one or several of 'fine"),
    "no method": (query, reference, {"method": []}, ValueError, r"method=\[\] names none, or one twice"),
    "twice": (query, reference, {"method": ["knn", "knn"]}, ValueError, "names none, or one twice"),
    "method option": (
        query,
        reference,
        {"method": "knn", "method_kwargs": {"k": 3}},
        TypeError,
        "'k', which method='knn' does not take",
    ),
    "options of one of three": (
        query,
        reference,
        {"method_kwargs": {"n_neighbors": 3}},
        TypeError,
        "here 'knn', 'logreg', 'lda', pass a dictionary for each by its name",
    ),
    "options by method": (
        query,
        reference,
        {"method": ["knn", "logreg"], "method_kwargs": {"n_neighbors": 3}},
        TypeError,
        r"method_kwargs\['n_neighbors'\]: with several methods, here 'knn', 'logreg', pass a dictionary for each",
    ),
    "calibration": (query, reference, {"calibration": "platt"}, ValueError, "Unknown calibration='platt'"),
    "clusters": (query, reference, {"majority_voting": "leiden"}, KeyError, "majority_voting='leiden': did not find"),
    "voting type": (query, reference, {"majority_voting": 3}, TypeError, "majority_voting=3 is neither True nor"),
    "tree": (query, reference, {"label_tree": {"type 0": "x"}}, ValueError, "label_tree lacks 2 of the 3 labels"),
    "key": (query, reference, {"key_added": "a/b"}, ValueError, "key_added='a/b' cannot be the name of a slot"),
    "text": (query, reference, {"min_confidence": "0.5"}, ValueError, "min_confidence='0.5' is not between 0 and 1"),
    "file": (query, lambda: "cells.h5ad", {}, ValueError, "is a file of cells. Read it first: `anndata.read_h5ad"),
    "two sources": (query, reference, {"use_rep": "X_sfm"}, ValueError, "model= and use_rep='X_sfm' were both given"),
    "batch size": (query, reference, {"batch_size": 0}, ValueError, "batch_size=0 is neither"),
    "precision": (query, reference, {"precision": "fp8"}, ValueError, "precision='fp8'"),
    "missing vectors": (
        query,
        reference,
        {"model": None, "use_rep": "X_sfm"},
        KeyError,
        r"Did not find obsm\['X_sfm'\] in the query and in the reference. Run `sfm.tl.embed",
    ),
    "vectors of one side": (
        lambda: embedded(query(), MODEL),
        reference,
        {"model": None, "use_rep": "X_sfm"},
        KeyError,
        r"Did not find obsm\['X_sfm'\] in the reference",
    ),
    "another model": (
        lambda: embedded(query(), MODEL),
        lambda: embedded(reference(), toy_model("values", seed=1)),
        {"model": None},
        ValueError,
        r"obsm\['X_sfm'\] was not made in the same way .*: weights_hash '.*' and '.*'. Embed both with one model",
    ),
    "another tokenizer": (
        lambda: embedded(query(), MODEL),
        lambda: embedded(reference(), toy_model("rank")),
        {"model": None, "use_rep": "X_sfm"},
        ValueError,
        "tokenizer 'values' and 'rank'",
    ),
    "another pooling": (
        lambda: embedded(query(), MODEL),
        lambda: embedded(reference(), MODEL, pooling="max"),
        {"model": None},
        ValueError,
        "pooling 'mean' and 'max'",
    ),
    "vectors of unknown origin": (
        lambda: with_foreign_vectors(query()),
        lambda: with_foreign_vectors(reference()),
        {"model": None, "use_rep": "X_other"},
        ValueError,
        r"neither the query nor the reference says in uns\['X_other'\]\['params'\] how the vectors were made",
    ),
    "finetune on vectors": (
        query,
        reference,
        {"model": None, "use_rep": "X_sfm", "method": "finetune"},
        ValueError,
        "method='finetune' reads counts, not vectors",
    ),
    "no classifier": (
        query,
        lambda: MODEL,
        {"model": None},
        ValueError,
        "is a CellForMaskedLM, which has no labels. Pass",
    ),
    "bundled model": (query, lambda: "sfm-mini", {"model": None}, ValueError, "reference='sfm-mini' .* has no labels"),
    "no such name": (query, lambda: "no-model", {"model": None}, ValueError, "Unknown model 'no-model'"),
    "no such file": (query, lambda: "no.pkl", {"model": None}, (FileNotFoundError, ValueError), "no.pkl"),  # type: ignore[dict-item]
    "None": (
        query,
        lambda: None,
        {},
        TypeError,
        "reference is a NoneType, which has no labels to give. Pass a labelled",
    ),
    "number": (query, lambda: 3, {}, TypeError, "reference is a int"),
    "network alone": (query, lambda: MODEL.model, {}, TypeError, "reference is a CellForMaskedLM"),
}


@pytest.mark.parametrize(("make", "make_reference", "options", "error", "message"), CASES.values(), ids=CASES.keys())
def test_error_is_clear_and_nothing_changes(
    make: Callable[[], ad.AnnData],
    make_reference: Callable[[], Any],
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    adata, labelled = make(), make_reference()
    before = adata.copy()
    with pytest.raises(error, match=message):
        sfm.tl.annotate(adata, labelled, **{"model": MODEL, **options})
    assert set(adata.obsm) == set(before.obsm)
    assert adata.uns.keys() == before.uns.keys()
    assert adata.obs.equals(before.obs)
    assert np.array_equal(adata.X.toarray(), before.X.toarray())


@pytest.mark.parametrize(
    "options",
    [
        {"model": "sfm-mini"},
        {"method": "logreg"},
        {"use_rep": "X_sfm"},
        {"method_kwargs": {"C": 1}},
        {"calibration": "isotonic"},
    ],
)
def test_options_of_labelled_cells_are_refused_for_other_references(options: dict[str, Any]) -> None:
    class Constant:
        labels = ("a", "b")

        def predict(self, adata: ad.AnnData, **_: Any) -> Any:
            raise AssertionError

        def params(self) -> dict[str, Any]:
            return {}

    name = next(iter(options))
    with pytest.raises(
        ValueError, match=f"{name}=.* goes with labelled cells as reference, but reference is a Constant"
    ):
        sfm.tl.annotate(query(), Constant(), **options)


def test_mudata_is_told_to_pass_a_modality() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of mudata, about its next defaults
        mdata = mudata.MuData({"rna": toy_cells(10)})
    with pytest.raises(TypeError, match=r"adata is a MuData, not an AnnData. Pass one modality.*mdata\['rna'\]"):
        sfm.tl.annotate(mdata, reference())
    with pytest.raises(TypeError, match=r"reference is a MuData.* Pass one modality, for example `mdata\['rna'\]`"):
        sfm.tl.annotate(query(), mdata)


def test_numbers_are_names_of_labels_with_a_warning() -> None:
    labelled = with_labels(CELLS[:40].obs["cell_type"].cat.codes.to_numpy())
    adata = query()
    with pytest.warns(UserWarning, match="holds whole numbers; they are taken as names"):
        sfm.tl.annotate(adata, labelled, model=MODEL)
    assert set(adata.obs["sfm_label"]) <= {"0", "1", "2"}


def test_a_label_with_one_cell_can_be_given() -> None:
    values = CELLS[:40].obs["cell_type"].astype(str).to_numpy().astype(object)
    values[7] = "rare"
    adata = CELLS[7:8].copy()
    with pytest.warns(UserWarning, match="have one reference cell only"):
        sfm.tl.annotate(
            adata, with_labels(values), model=MODEL, method=["knn", "lda"], method_kwargs={"knn": {"n_neighbors": 1}}
        )
    assert adata.obs["sfm_label"].to_list() == ["rare"]
    assert adata.uns["sfm_label"]["params"]["n_held_out"] == 39


def test_cells_without_a_label_are_no_reference() -> None:
    values = CELLS[:40].obs["cell_type"].to_numpy().astype(object)
    values[::2] = None
    partly, only = query(), query()
    sfm.tl.annotate(partly, with_labels(values), model=MODEL)
    sfm.tl.annotate(only, reference()[1::2].copy(), model=MODEL)
    assert partly.uns["sfm_label"]["params"]["n_reference_cells"] == 20
    np.testing.assert_allclose(partly.obsm["sfm_label_probabilities"], only.obsm["sfm_label_probabilities"], atol=1e-5)


@pytest.mark.filterwarnings("ignore:No cell of the reference could be held out:UserWarning")
def test_two_cells_of_two_labels_are_a_reference() -> None:
    pair = reference()[[int(np.flatnonzero(CELLS.obs["cell_type"][:40] == t)[0]) for t in ("type 0", "type 1")]].copy()
    adata = query()
    with pytest.warns(UserWarning, match="2 labels .* have one reference cell only"):
        sfm.tl.annotate(adata, pair, model=MODEL)
    assert set(adata.obs["sfm_label"]) <= {"type 0", "type 1"}
    assert "sfm_label_novelty" not in adata.obs
    assert adata.uns["sfm_label"]["params"]["expected_calibration_error"] is None


def test_a_query_far_from_the_reference_is_reported() -> None:
    """Cells of which every gene is expressed alike, as no cell of the reference is."""
    adata = query()
    counts = np.zeros(adata.shape, dtype=np.float32)
    counts[:, 250:] = np.random.default_rng(0).poisson(50, (adata.n_obs, 50))
    adata.X = counts
    with pytest.warns(UserWarning, match=r"\d+ % of the cells are further from the reference than 99 % of its own"):
        sfm.tl.annotate(adata, reference(), model=MODEL)


def test_few_shared_genes_are_reported() -> None:
    other = with_other_genes()
    names = other.var_names.to_numpy().copy()
    names[:10] = CELLS.var["ensembl_id"].to_numpy()[290:]
    other.var_names = names
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sfm.tl.annotate(query(), other, model=MODEL)
    messages = [str(warning.message) for warning in caught]
    assert any("Query and reference share 10 genes of the model" in message for message in messages)


def test_clusters_without_igraph_are_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfm.annotation._clusters.find_spec", lambda _: None)
    with pytest.raises(ImportError, match="needs igraph") as caught:
        sfm.tl.annotate(query(), reference(), model=MODEL, majority_voting=True)
    assert "pip install igraph" in "".join(caught.value.__notes__)


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        ([" B cell", "T/NK", "Ünïcode ß"], [" B cell", "T|NK", "Ünïcode ß"]),
        ([".", "..", "_index"], ["|.", "|..", "|_index"]),
    ],
)
def test_labels_with_odd_names_are_untouched_and_saved(names: list[str], columns: list[str], tmp_path: Path) -> None:
    labelled = with_labels(pd.Categorical(CELLS[:40].obs["cell_type"]).rename_categories(names))
    adata = query()
    sfm.tl.annotate(adata, labelled, model=MODEL)
    assert adata.uns["sfm_label"]["params"]["labels"] == names
    assert adata.obsm["sfm_label_probabilities"].columns.to_list() == columns
    assert set(adata.obs["sfm_label"]) <= set(names)
    for suffix in ("h5ad", "zarr"):
        getattr(adata, f"write_{suffix}")(tmp_path / f"cells.{suffix}")
    loaded = ad.read_zarr(tmp_path / "cells.zarr")
    pd.testing.assert_frame_equal(loaded.obsm["sfm_label_probabilities"], adata.obsm["sfm_label_probabilities"])
