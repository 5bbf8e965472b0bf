"""What labels may look like, and what is said of those that cannot be learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import scvi

from sfm.datasets import toy_cells
from sfm.model import CellClassifier

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TRAIN: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "plan_kwargs": {"lr": 1e-2}}


def cells(labels: Any = None, n: int = 30) -> AnnData:
    adata = toy_cells(n)
    if labels is not None:
        adata.obs["label"] = labels
    return adata


def set_up(adata: AnnData, **setup: Any) -> CellClassifier:
    CellClassifier.setup_anndata(adata, **{"labels_key": "label", "max_length": 32, **setup})
    scvi.settings.seed = 0
    return CellClassifier(adata, **SIZES)


def repeated(*labels: object) -> list[object]:
    return [labels[i % len(labels)] for i in range(30)]


@pytest.mark.parametrize(
    ("labels", "setup", "error", "message"),
    [
        pytest.param(None, {}, KeyError, r"labels_key='label' in adata.obs, which has 'cell_type'", id="missing"),
        pytest.param(repeated("a"), {}, ValueError, "a single label, 'a', among 30 cells", id="one class"),
        pytest.param([np.nan] * 30, {}, ValueError, "no label among 30 cells", id="no label"),
        pytest.param(
            repeated("a", "?"), {"unlabeled_category": "?"}, ValueError, "a single label, 'a'", id="one class left"
        ),
        pytest.param(
            np.linspace(0, 1, 30), {}, ValueError, "measurements rather than labels. .*`pandas.cut`", id="measured"
        ),
        pytest.param(
            repeated("a", "b", "c"), {"labels": ["b", "a"]}, ValueError, "'c', which the model does not know", id="new"
        ),
        pytest.param(repeated("1", 1), {}, ValueError, "labels of different types with one name: '1'", id="types"),
        pytest.param(
            repeated("a", "b"), {"sample_key": "donor"}, KeyError, "sample_key='donor' in adata.obs", id="no samples"
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:adata.obs.* holds whole numbers")
def test_labels_that_cannot_be_learnt_are_named_and_nothing_is_written(
    labels: Any, setup: dict[str, Any], error: type[Exception], message: str
) -> None:
    adata = cells(labels)
    columns = list(adata.obs)
    with pytest.raises(error, match=message):
        set_up(adata, **setup)
    assert list(adata.obs) == columns
    assert not adata.obsm
    assert not adata.uns


def test_a_class_with_one_cell_is_trained_on_and_never_held_out() -> None:
    adata = cells(["rare", *repeated("a", "b")[1:]])
    with pytest.warns(
        UserWarning, match=r"Labels of adata.obs\['label'\] that a single cell has: 'rare'.*never held out"
    ):
        model = set_up(adata)
    for seed in range(5):
        scvi.settings.seed = seed
        model.train(max_epochs=1, train_size=0.5, **TRAIN)
        assert 0 in model.train_indices
        assert set(adata.obs["label"].iloc[model.train_indices]) == {"rare", "a", "b"}
    assert model.labels == ["a", "b", "rare"]


@pytest.mark.parametrize("categorical", [False, True])
@pytest.mark.parametrize("missing", [np.nan, None, "unknown"], ids=str)
def test_unlabelled_cells_are_not_trained_on_but_predicted(missing: object, categorical: bool) -> None:
    labels = repeated("a", "b", missing)
    adata = cells(pd.Categorical(labels) if categorical else labels)
    model = set_up(adata, unlabeled_category="unknown")
    assert model.labels == ["a", "b"]
    unlabelled = np.flatnonzero([label not in ("a", "b") for label in labels])
    model.train(max_epochs=2, **TRAIN)
    used = np.concatenate([model.train_indices, model.validation_indices])
    assert sorted(used) == sorted(set(range(30)) - set(unlabelled))
    assert len(model.predict()) == 30
    assert model.classification_report(indices=np.arange(30)).attrs["n"] == 20
    with pytest.raises(ValueError, match="None of these 10 cells has a label"):
        model.classification_report(indices=unlabelled)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        pytest.param(repeated(10, 9, 2), ["2", "9", "10"], id="integers"),
        pytest.param(repeated(1.0, 0.0, np.nan), ["0", "1"], id="integers with gaps"),
        pytest.param(pd.Categorical(repeated(3, 1)), ["1", "3"], id="categories"),
    ],
)
def test_whole_numbers_become_names_with_a_warning(labels: Any, names: list[str]) -> None:
    adata = cells(labels)
    with pytest.warns(UserWarning, match="taken as names of classes, not as quantities"):
        model = set_up(adata)
    assert model.labels == names


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        pytest.param(repeated("c10", "c9"), ["c9", "c10"], id="natural order"),
        pytest.param(
            pd.Categorical(repeated("low", "high"), ["low", "medium", "high"]), ["low", "high"], id="own order"
        ),
        pytest.param(repeated(True, False), ["False", "True"], id="booleans"),
        pytest.param(repeated("a", " ", "b", ""), ["a", "b"], id="empty names"),
    ],
)
def test_labels_are_those_that_occur_in_a_sensible_order(labels: Any, names: list[str]) -> None:
    assert set_up(cells(labels)).labels == names


def test_labels_may_be_named_in_advance() -> None:
    model = set_up(cells(repeated("a", "b")), labels=["c", "b", "a"])
    model.train(max_epochs=1, **TRAIN)
    assert list(model.predict(soft=True).columns) == ["c", "b", "a"]


def test_numbers_of_labels_stay_when_another_model_is_set_up_on_the_same_data() -> None:
    adata = cells(repeated("a", "b"))
    first = set_up(adata, labels=["b", "a"])
    first.train(max_epochs=2, **TRAIN)
    before = first.classification_report(indices=np.arange(30)).attrs
    set_up(adata, labels_key="cell_type")
    first.train(max_epochs=1, plan_kwargs={"lr": 0.0}, **{k: v for k, v in TRAIN.items() if k != "plan_kwargs"})
    assert first.classification_report(indices=np.arange(30)).attrs["accuracy"] == before["accuracy"]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        pytest.param({"rare": 5.0}, "names .'rare'., which are no labels. The labels are 'a', 'b'", id="unknown"),
        pytest.param({"a": -1.0}, "are not positive numbers", id="negative"),
        pytest.param("balance", "Unknown loss_weights='balance'. Pass 'balanced'", id="misspelt"),
    ],
)
def test_loss_weights_that_do_not_fit_are_named(weights: Any, message: str) -> None:
    adata = cells(repeated("a", "b"))
    CellClassifier.setup_anndata(adata, labels_key="label", max_length=32)
    with pytest.raises(ValueError, match=message):
        CellClassifier(adata, loss_weights=weights, **SIZES)


def test_balanced_weights_follow_the_counts() -> None:
    adata = cells(["a"] * 20 + ["b"] * 5 + [np.nan] * 5)
    CellClassifier.setup_anndata(adata, labels_key="label", max_length=32)
    network = CellClassifier(adata, loss_weights="balanced", **SIZES).module.network
    assert network.config.label_weights == pytest.approx([25 / (2 * 20), 25 / (2 * 5)])
    named = CellClassifier(adata, loss_weights={"b": 5.0}, **SIZES).module.network
    assert named.config.label_weights == [1.0, 5.0]


def test_a_weight_makes_a_label_likelier() -> None:
    """Labels that say nothing about the cells are predicted by their frequency, and by their weight."""

    def share_of_b(**options: Any) -> float:
        adata = cells(repeated("a", "a", "a", "b", "a"))
        CellClassifier.setup_anndata(adata, labels_key="label", max_length=32)
        scvi.settings.seed = 0
        model = CellClassifier(adata, **options, **SIZES)
        model.train(max_epochs=10, train_size=1.0, **{**TRAIN, "plan_kwargs": {"lr": 3e-3}})
        return float(model.predict(soft=True)["b"].mean())

    plain, weighted, balanced = share_of_b(), share_of_b(loss_weights={"b": 20.0}), share_of_b(loss_weights="balanced")
    assert plain < 0.35 < balanced < weighted


def test_data_that_a_model_is_loaded_with_may_lack_labels_but_not_know_others(tmp_path: Path) -> None:
    model = set_up(cells(repeated("a", "b")))
    model.train(max_epochs=1, **TRAIN)
    model.save(str(tmp_path / "saved"))
    with pytest.warns(UserWarning, match="all cells are unlabelled"):
        loaded = CellClassifier.load(str(tmp_path / "saved"), adata=cells(), accelerator="cpu")
    assert len(loaded.predict()) == 30
    with pytest.raises(ValueError, match="No cell has a label"):
        loaded.train(max_epochs=1, **TRAIN)
    some = CellClassifier.load(str(tmp_path / "saved"), adata=cells(repeated("b", np.nan)), accelerator="cpu")
    assert some.labels == ["a", "b"]
    with pytest.raises(ValueError, match="'c', which the model does not know; it knows 'a', 'b'"):
        CellClassifier.load(str(tmp_path / "saved"), adata=cells(repeated("a", "c")), accelerator="cpu")


def test_counts_and_coverage_are_checked_before_predicting() -> None:
    model = set_up(cells(repeated("a", "b")))
    model.train(max_epochs=1, **TRAIN)
    query = toy_cells(10)
    query.X.data *= 0.5
    with pytest.raises(ValueError, match="adata.X holds"):
        model.predict(query)
    query = toy_cells(10)
    query.var_names = [f"other {i}" for i in range(query.n_vars)]
    with pytest.raises(ValueError, match="CellClassifier"):
        model.predict(query)


def test_labels_that_the_model_does_not_know_count_as_missed() -> None:
    model = set_up(cells(repeated("a", "b")))
    model.train(max_epochs=1, **TRAIN)
    report = model.classification_report(cells(repeated("a", "b", "c")))
    assert report.loc["c"].to_dict() == {"precision": 0, "recall": 0, "f1": 0, "support": 10}
    assert report.attrs["accuracy"] <= 20 / 30
    assert report["support"].sum() == report.attrs["n"] == 30


@pytest.mark.parametrize("text", ["nan", "None", "<NA>"])
def test_missing_values_that_became_text_are_classes_with_a_warning(text: str) -> None:
    with pytest.warns(UserWarning, match=f"10 cells have the label '{text}' .* pass unlabeled_category='{text}'"):
        CellClassifier.setup_anndata(adata := cells(repeated("a", "b", text)), labels_key="label", max_length=32)
    assert (adata.obs["_scvi_labels"] >= 0).all()
    CellClassifier.setup_anndata(adata, labels_key="label", unlabeled_category=text, max_length=32)
    assert (adata.obs["_scvi_labels"] < 0).sum() == 10
