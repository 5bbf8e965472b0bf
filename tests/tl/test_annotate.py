"""The promises of `tl.annotate`: each cell for itself, only the documented slots, and a record of how."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import anndata as ad
import networkx as nx
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from natsort import natsorted
from scipy import sparse

import sfm
from sfm.annotation import Prediction
from sfm.datasets import toy_model

from .conftest import CELLS, METHODS, TYPES, classifier, labels_of, sharpened, truth

if TYPE_CHECKING:
    from pathlib import Path

    from sfm.checkpoints import PretrainedCells

SLOTS = {"sfm_label", "sfm_label_confidence", "sfm_label_novelty"}


@pytest.mark.parametrize("method", [*METHODS, METHODS])
@pytest.mark.parametrize("calibration", ["temperature", "isotonic"])
def test_labels_are_right_and_slots_agree(
    labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells, method: Any, calibration: Any
) -> None:
    sfm.tl.annotate(query, labelled, model=model, method=method, calibration=calibration)
    assert (labels_of(query) == truth(query)).mean() > 0.9
    probabilities = query.obsm["sfm_label_probabilities"]
    assert probabilities.columns.to_list() == TYPES
    assert probabilities.index.equals(query.obs_names)
    assert (probabilities.dtypes == np.float32).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    at_label = probabilities.to_numpy()[np.arange(query.n_obs), probabilities.columns.get_indexer(labels_of(query))]
    np.testing.assert_allclose(at_label, query.obs["sfm_label_confidence"], atol=1e-6)
    for slot in ("confidence", "novelty"):
        values = query.obs[f"sfm_label_{slot}"]
        assert values.dtype == np.float32
        assert values.between(0, 1).all()
    categories = query.obs["sfm_label"].cat.categories.to_list()
    assert categories == natsorted(set(labels_of(query)))


def annotated(adata: ad.AnnData, method: Any) -> ad.AnnData:
    sfm.tl.annotate(adata, CELLS[:150].copy(), model=toy_model("values"), method=method)
    return adata


@cache
def annotated_together(*methods: str) -> ad.AnnData:
    """All cells of the query at once."""
    return annotated(CELLS[150:].copy(), methods[0] if len(methods) == 1 else list(methods))


@pytest.mark.parametrize("method", [*METHODS, METHODS])
@settings(max_examples=5)
@given(rows=st.lists(st.integers(150, 219), min_size=2, max_size=30, unique=True))
def test_a_label_depends_on_the_cell_alone(method: Any, rows: list[int]) -> None:
    few = annotated(CELLS[rows].copy(), method)
    among_all = annotated_together(*([method] if isinstance(method, str) else method))[few.obs_names]
    assert np.array_equal(labels_of(few), labels_of(among_all))
    for slot, tolerance in [("confidence", 1e-4), ("novelty", 0.02)]:
        key = f"sfm_label_{slot}"
        np.testing.assert_allclose(few.obs[key], among_all.obs[key], atol=tolerance)
    np.testing.assert_allclose(
        few.obsm["sfm_label_probabilities"], among_all.obsm["sfm_label_probabilities"], atol=1e-4
    )


def test_order_and_names_of_genes_do_not_matter(
    labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells
) -> None:
    other = query[:, ::-1].copy()
    other.var_names = other.var["ensembl_id"]
    for adata in (query, other):
        sfm.tl.annotate(adata, labelled, model=model)
    np.testing.assert_allclose(other.obsm["sfm_label_probabilities"], query.obsm["sfm_label_probabilities"], atol=1e-4)


def test_genes_that_one_side_lacks_have_no_influence(
    labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells
) -> None:
    """As if the reference had been measured on the panel of the query."""
    panel = query[:, ::2].copy()
    also = panel.copy()
    with pytest.warns(UserWarning, match="coverage is below"):
        sfm.tl.annotate(panel, labelled, model=model)
    with pytest.warns(UserWarning, match="coverage is below"):
        sfm.tl.annotate(also, labelled[:, ::2].copy(), model=model)
    assert panel.uns["sfm_label"]["params"]["n_shared_genes"] == 150
    np.testing.assert_allclose(panel.obsm["sfm_label_probabilities"], also.obsm["sfm_label_probabilities"], atol=1e-5)
    np.testing.assert_allclose(panel.obs["sfm_label_novelty"], also.obs["sfm_label_novelty"], atol=0.02)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.parametrize(
    "options", [{}, {"method": "knn"}, {"min_confidence": 0.7, "label_tree": dict.fromkeys(TYPES, "any")}]
)
def test_only_the_documented_slots_change_and_they_are_saved(
    labelled: ad.AnnData,
    query: ad.AnnData,
    model: PretrainedCells,
    tmp_path: Path,
    suffix: str,
    options: dict[str, Any],
) -> None:
    before, reference_before = query.copy(), labelled.copy()
    sfm.tl.annotate(query, labelled, model=model, **options)
    assert set(query.obs) == SLOTS | (set() if options.get("method") == "knn" else {"sfm_label_consensus"})
    assert set(query.obsm) == {"sfm_label_probabilities"}
    assert set(query.uns) == {"sfm_label"}
    assert not query.layers
    assert (query.X != before.X).nnz == 0
    assert query.var.equals(before.var)
    assert labelled.obs.equals(reference_before.obs)
    assert (labelled.X != reference_before.X).nnz == 0
    assert not (labelled.uns)
    assert not (labelled.obsm)
    assert not (labelled.obsp)

    getattr(query, f"write_{suffix}")(tmp_path / f"cells.{suffix}")
    loaded = getattr(ad, f"read_{suffix}")(tmp_path / f"cells.{suffix}")
    pd.testing.assert_frame_equal(loaded.obs, query.obs)
    pd.testing.assert_frame_equal(loaded.obsm["sfm_label_probabilities"], query.obsm["sfm_label_probabilities"])
    params, expected = dict(loaded.uns["sfm_label"]["params"]), query.uns["sfm_label"]["params"]
    assert params.keys() == expected.keys()
    for key, value in expected.items():
        assert list(params[key]) == value if isinstance(value, list) else params[key] == value


def test_provenance(labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells) -> None:
    sfm.tl.annotate(query, labelled, model=model, min_confidence=0.6, max_novelty=0.95)
    params = query.uns["sfm_label"]["params"]
    expected = {
        "reference": "labelled cells",
        "model": model.name,
        "method": "knn+logreg+lda",
        "labels_key": "cell_type",
        "labels": TYPES,
        "n_reference_cells": 150,
        "n_held_out": 150,
        "calibration": "temperature",
        "min_confidence": 0.6,
        "max_novelty": 0.95,
        "n_rejected": int((labels_of(query) == "unknown").sum()),
        "slot": "adata.X",
        "n_shared_genes": 300,
        "vocabulary_hash": model.vocabulary.content_hash,
    }
    assert {key: params[key] for key in expected} == expected
    assert params["held_out_accuracy"] > 0.7
    assert 0 <= params["expected_calibration_error"] < 0.15
    assert all(v is None or isinstance(v, bool | int | float | str | list) for v in params.values())


@pytest.mark.parametrize("views", ["both", "model"])
def test_several_methods_vote(labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells, views: Any) -> None:
    each = []
    for method in METHODS:
        sfm.tl.annotate(query, labelled, model=model, method=method, views=views)
        each.append((labels_of(query), query.obsm["sfm_label_probabilities"].to_numpy()))
    assert "sfm_label_consensus" not in query.obs
    sfm.tl.annotate(query, labelled, model=model, method=METHODS, views=views)
    votes = np.array([labels for labels, _ in each]) == labels_of(query)
    np.testing.assert_allclose(query.obs["sfm_label_consensus"], votes.mean(axis=0), atol=1e-6)
    probabilities = query.obsm["sfm_label_probabilities"].to_numpy()
    if views == "model":  # with both, what is averaged was not seen yet
        mean = np.mean([part for _, part in each], axis=0)
        np.testing.assert_allclose(probabilities, sharpened(mean, query), atol=1e-4)
    sfm.tl.annotate(query, labelled, model=model, method="knn")
    assert "sfm_label_consensus" not in query.obs


def test_three_methods_vote_by_default(labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells) -> None:
    sfm.tl.annotate(query, labelled, model=model)
    sfm.tl.annotate(query, labelled, model=model, method=["knn", "logreg", "lda"], key_added="named")
    assert np.array_equal(query.obsm["named_probabilities"], query.obsm["sfm_label_probabilities"])
    assert query.uns["sfm_label"] == query.uns["named"]
    accuracy = {key: value for key, value in query.uns["named"]["params"].items() if key.startswith("held_out_acc")}
    assert set(accuracy) == {"held_out_accuracy", *(f"held_out_accuracy_{name}" for name in ("knn", "logreg", "lda"))}
    assert min(accuracy.values()) > 0.7


def test_rejection_leaves_confidence_and_probabilities(
    labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells
) -> None:
    sfm.tl.annotate(query, labelled, model=model, key_added="all")
    sfm.tl.annotate(query, labelled, model=model, min_confidence=0.8, max_novelty=0.9, key_added="sure")
    rejected = (query.obs["all_confidence"] < 0.8) | (query.obs["all_novelty"] > 0.9)
    assert 0 < rejected.sum() < query.n_obs
    assert np.array_equal(labels_of(query, "sure"), np.where(rejected, "unknown", labels_of(query, "all")))
    assert query.obs["sure_confidence"].equals(query.obs["all_confidence"].rename("sure_confidence"))
    assert query.obsm["sure_probabilities"].equals(query.obsm["all_probabilities"])


def test_cells_of_a_type_that_the_reference_lacks_are_novel(query: ad.AnnData, model: PretrainedCells) -> None:
    known = CELLS[:150][CELLS.obs["cell_type"][:150] != "type 2"].copy()
    sfm.tl.annotate(query, known, model=model)
    novelty = query.obs["sfm_label_novelty"]
    assert novelty[truth(query) == "type 2"].median() > novelty[truth(query) != "type 2"].median() + 0.2


def test_empty_cells_are_unknown(labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells) -> None:
    query.X = sparse.diags((~np.isin(np.arange(query.n_obs), [3, 40])).astype(np.float32)) @ query.X
    with pytest.warns(UserWarning, match="2 of 70 cells have no count on a known gene; they are labelled 'unknown'"):
        sfm.tl.annotate(query, labelled, model=model)
    assert np.flatnonzero(labels_of(query) == "unknown").tolist() == [3, 40]


def test_label_tree(labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells) -> None:
    tree = nx.DiGraph([("cell", "first"), ("cell", "type 2"), ("first", "type 0"), ("first", "type 1")])
    sfm.tl.annotate(query, labelled, model=model)
    probabilities = query.obsm["sfm_label_probabilities"]
    threshold = float(query.obs["sfm_label_confidence"].quantile(0.7))
    sfm.tl.annotate(query, labelled, model=model, label_tree=tree, min_confidence=threshold)
    first = probabilities[["type 0", "type 1"]].sum(axis=1)
    best = probabilities.idxmax(axis=1).to_numpy()
    broader = np.where((first >= threshold) & (best != "type 2"), "first", "unknown")
    expected = np.where(probabilities.max(axis=1) >= threshold, best, broader)
    assert np.array_equal(labels_of(query), expected)
    assert {"first", "unknown"} <= set(expected)


@pytest.mark.parametrize("method", ["knn", METHODS])
def test_a_cluster_has_one_label(labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells, method: Any) -> None:
    query.obs["cluster"] = pd.Categorical(truth(query)).rename_categories(["x", "y", "z"])
    sfm.tl.annotate(query, labelled, model=model, method=method, majority_voting="cluster")
    assert np.array_equal(labels_of(query), truth(query))
    consensus = query.obs["sfm_label_consensus"]
    assert consensus.dtype == np.float32
    assert (query.obs["sfm_label_consensus"].groupby(query.obs["cluster"], observed=True).nunique() == 1).all()
    assert (consensus > 0.7).all()


def test_clusters_can_be_made(labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells) -> None:
    pytest.importorskip("igraph")
    sfm.tl.annotate(query, labelled, model=model, majority_voting=True)
    assert (labels_of(query) == truth(query)).mean() > 0.9
    assert set(query.obs) == SLOTS | {"sfm_label_consensus"}
    assert set(query.obsm) == {"sfm_label_probabilities"}
    assert not query.obsp
    first = query.obs.copy()
    sfm.tl.annotate(query, labelled, model=model, majority_voting=True)
    pd.testing.assert_frame_equal(query.obs, first)


def test_stored_vectors_are_used(labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells) -> None:
    sfm.tl.annotate(query, labelled, model=model, views="model", key_added="new")
    for adata in (query, labelled):
        sfm.tl.embed(adata, model)
        del adata.X
    sfm.tl.annotate(query, labelled, key_added="found")
    sfm.tl.annotate(query, labelled, use_rep="X_sfm", key_added="named")
    for key in ("found", "named"):
        np.testing.assert_allclose(query.obsm[f"{key}_probabilities"], query.obsm["new_probabilities"], atol=1e-5)
        assert query.uns[key]["params"]["use_rep"] == "X_sfm"
        assert query.uns[key]["params"]["weights_hash"] == query.uns["new"]["params"]["weights_hash"]
    assert query.uns["new"]["params"]["use_rep"] is None


def test_stored_vectors_survive_a_file(
    labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells, tmp_path: Path
) -> None:
    for adata in (query, labelled):
        sfm.tl.embed(adata, model)
    labelled.write_h5ad(tmp_path / "reference.h5ad")
    sfm.tl.annotate(query, ad.read_h5ad(tmp_path / "reference.h5ad"))
    assert query.uns["sfm_label"]["params"]["use_rep"] == "X_sfm"


def test_layer_raw_and_reference_options(labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells) -> None:
    sfm.tl.annotate(query, labelled, model=model)
    expected = query.obsm["sfm_label_probabilities"]
    logged, normalised = labelled.copy(), query.copy()
    logged.layers["counts"], normalised.raw = logged.X.copy(), normalised.copy()
    for adata in (logged, normalised):
        sc.pp.normalize_total(adata)
        sc.pp.log1p(adata)
    sfm.tl.annotate(query, logged, model=model, reference_kwargs={"layer": "counts"})
    np.testing.assert_allclose(query.obsm["sfm_label_probabilities"], expected, atol=1e-5)
    sfm.tl.annotate(normalised, labelled, model=model, use_raw=True, reference_kwargs={})
    np.testing.assert_allclose(normalised.obsm["sfm_label_probabilities"], expected, atol=1e-5)
    query.layers["counts"] = query.X.copy()
    sfm.tl.annotate(query, logged, model=model, layer="counts")
    np.testing.assert_allclose(query.obsm["sfm_label_probabilities"], expected, atol=1e-5)
    assert query.uns["sfm_label"]["params"]["slot"] == "adata.layers['counts']"


def test_copy_view_and_key(labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells) -> None:
    result = sfm.tl.annotate(query, labelled, model=model, copy=True)
    assert set(result.obs) >= SLOTS
    assert not (set(query.obs))
    assert not (query.uns)
    assert not (query.obsm)
    view = query[:20]
    with pytest.warns(UserWarning, match="view"):
        sfm.tl.annotate(view, labelled, model=model, key_added="type")
    assert np.array_equal(labels_of(view, "type"), labels_of(result)[:20])
    assert set(view.obs) == {"type", "type_confidence", "type_novelty", "type_consensus"}
    assert set(view.uns) == {"type"}


@pytest.mark.parametrize("backed", ["query", "reference"])
def test_backed_files(
    labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells, tmp_path: Path, backed: str
) -> None:
    expected = sfm.tl.annotate(query, labelled, model=model, copy=True)
    sides = {"query": query, "reference": labelled}
    sides[backed].write_h5ad(tmp_path / "cells.h5ad")
    sides[backed] = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    sfm.tl.annotate(sides["query"], sides["reference"], model=model)
    np.testing.assert_allclose(
        sides["query"].obsm["sfm_label_probabilities"], expected.obsm["sfm_label_probabilities"], atol=1e-5
    )
    sides[backed].file.close()


def test_a_reference_may_be_the_data_itself(model: PretrainedCells) -> None:
    """Unlabelled cells are annotated from the labelled ones beside them."""
    adata = CELLS.copy()
    known = np.arange(adata.n_obs) < 150
    adata.obs["partly"] = adata.obs["cell_type"].where(known)
    with pytest.warns(UserWarning, match="The reference is adata itself. Its 150 labelled cells"):
        sfm.tl.annotate(adata, adata, model=model, labels_key="partly")
    assert adata.uns["sfm_label"]["params"]["n_reference_cells"] == 150
    separate = sfm.tl.annotate(CELLS[150:].copy(), CELLS[:150].copy(), model=model, copy=True)
    np.testing.assert_allclose(
        adata[~known].obsm["sfm_label_probabilities"], separate.obsm["sfm_label_probabilities"], atol=1e-4
    )


@pytest.mark.parametrize("how", ["loaded", "directory", "path"])
def test_a_classifier_is_a_reference(query: ad.AnnData, model: PretrainedCells, tmp_path: Path, how: str) -> None:
    network = classifier(model)
    network.save_pretrained(tmp_path)
    reference: Any = {"loaded": network, "directory": str(tmp_path), "path": tmp_path}[how]
    sfm.tl.annotate(query, reference)
    with torch.inference_mode():
        tokens = sfm.pp.tokenize(query, model, copy=True)
        ids = torch.zeros(query.n_obs, tokens.obsm["tokens"].shape[1], dtype=torch.long)
        ids += torch.from_numpy(tokens.obsm["tokens"].toarray())
        values = torch.from_numpy(tokens.obsm["tokens_values"].toarray())
        logits = network.model(ids, (ids > 0).long(), values).logits
    np.testing.assert_allclose(query.obsm["sfm_label_probabilities"], logits.softmax(dim=1), atol=1e-5)
    assert labels_of(query).tolist() == [TYPES[i] for i in logits.argmax(dim=1)]
    assert len(set(labels_of(query))) > 1
    assert query.uns["sfm_label"]["params"]["reference"] == "classifier"
    assert "sfm_label_novelty" not in query.obs


def test_a_label_that_means_rejected_is_warned_of(query: ad.AnnData, model: PretrainedCells) -> None:
    with pytest.warns(UserWarning, match="The reference has a label 'unknown', which is also what rejected cells get"):
        sfm.tl.annotate(query, classifier(model, ["type 0", "type 1", "unknown"]))


def test_a_classifier_brings_its_temperature_and_its_distance(query: ad.AnnData, model: PretrainedCells) -> None:
    network = classifier(model)
    sfm.tl.annotate(query, network)
    before = np.log(query.obsm["sfm_label_probabilities"].to_numpy())
    network.model.temperature.fill_(2.0)
    sfm.tl.embed(query, network)
    network.model.distance.fit(torch.from_numpy(query.obsm["X_sfm"]), torch.from_numpy(np.arange(query.n_obs) % 3))
    sfm.tl.annotate(query, network)
    after = np.log(query.obsm["sfm_label_probabilities"].to_numpy())
    np.testing.assert_allclose(after[:, 0] - after[:, 1], (before[:, 0] - before[:, 1]) / 2, atol=1e-3)
    assert query.uns["sfm_label"]["params"]["temperature"] == 2.0
    novelty = network.model.distance(torch.from_numpy(query.obsm["X_sfm"])).numpy()
    np.testing.assert_allclose(query.obs["sfm_label_novelty"], novelty, atol=0.02)


def test_whatever_has_the_members_of_a_reference(query: ad.AnnData) -> None:
    class MostCounts:
        """Labels cells by their number of counts, without any model."""

        labels = ("few", "many")

        def predict(self, adata: ad.AnnData, *, layer: str | None = None, **_: Any) -> Prediction:
            counts = np.asarray((adata.X if layer is None else adata.layers[layer]).sum(axis=1)).ravel()
            many = (counts / counts.max()).astype(np.float32)
            return Prediction(np.stack([1 - many, many], axis=1))

        def params(self) -> dict[str, Any]:
            return {"reference": "counts"}

    sfm.tl.annotate(query, MostCounts(), min_confidence=0.6)
    counts = np.asarray(query.X.sum(axis=1)).ravel()
    many = counts / counts.max()
    expected = np.where(np.maximum(many, 1 - many) < 0.6, "unknown", np.where(many > 0.5, "many", "few"))
    assert np.array_equal(labels_of(query), expected)
    assert query.uns["sfm_label"]["params"]["reference"] == "counts"
    query.obs["cluster"] = "one"
    sfm.tl.annotate(query, MostCounts(), majority_voting="cluster")
    assert query.obs["sfm_label"].nunique() == 1


@pytest.mark.parametrize("with_pca", [True, False])
def test_clusters_for_a_reference_without_vectors(query: ad.AnnData, with_pca: bool) -> None:
    pytest.importorskip("igraph")

    class Truth:
        """Right for three in four cells, and says nothing of the others."""

        labels = tuple(TYPES)

        def predict(self, adata: ad.AnnData, **_: Any) -> Prediction:
            known = np.eye(3, dtype=np.float32)[[TYPES.index(name) for name in truth(adata)]]
            return Prediction(np.where(np.arange(adata.n_obs)[:, None] % 4 > 0, known, 1 / 3).astype(np.float32))

        def params(self) -> dict[str, Any]:
            return {}

    if with_pca:
        query.obsm["X_pca"] = np.eye(3)[[TYPES.index(name) for name in truth(query)]] + 0.01 * query.X[:, :3].toarray()
    before = query.copy()
    sfm.tl.annotate(query, Truth(), min_confidence=0.5, majority_voting=True)
    voted = labels_of(query) != "unknown"
    assert voted.mean() > 0.5
    assert (labels_of(query) == truth(query))[voted].mean() > 0.9
    assert (query.X != before.X).nnz == 0
    assert set(query.obsm) == {*before.obsm, "sfm_label_probabilities"}


@pytest.mark.slow
def test_a_trained_model_is_a_reference(labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells) -> None:
    trained = sfm.model.CellClassifier.from_pretrained(model, labelled.copy(), labels_key="cell_type")
    trained.train(2, accelerator="cpu", enable_progress_bar=False)
    sfm.tl.annotate(query, trained)
    assert query.obsm["sfm_label_probabilities"].columns.to_list() == list(trained.labels)
    np.testing.assert_allclose(
        query.obsm["sfm_label_probabilities"], trained.predict(query.copy(), soft=True), atol=1e-4
    )
    assert query.obs["sfm_label_novelty"].between(0, 1).all()


@pytest.mark.slow
def test_a_model_is_finetuned(labelled: ad.AnnData, query: ad.AnnData, model: PretrainedCells) -> None:
    options = {
        "max_epochs": 10,
        "train_kwargs": {"accelerator": "cpu", "enable_progress_bar": False, "plan_kwargs": {"lr": 1e-2}},
    }
    before = labelled.copy()
    sfm.tl.annotate(query, labelled, model=model, method="finetune", method_kwargs=options)
    assert (labels_of(query) == truth(query)).mean() > 0.9
    assert query.obsm["sfm_label_probabilities"].columns.to_list() == TYPES
    assert labelled.obs.equals(before.obs)
    assert not labelled.uns
    assert not any(key.startswith("_scvi") for key in [*query.uns, *query.obs])
    params = query.uns["sfm_label"]["params"]
    assert (params["reference"], params["n_reference_cells"]) == ("labelled cells", 150)
    both = {"finetune": {**options, "max_epochs": 2}, "knn": {"n_neighbors": 5}}
    sfm.tl.annotate(query, labelled, model=model, method=["knn", "finetune"], method_kwargs=both)
    assert set(query.obs["sfm_label_consensus"].round(3)) <= {0.5, 1.0}
    assert (
        query.uns["sfm_label"]["params"]["expected_calibration_error"] is None
    )  # of neighbours alone, it was measured
