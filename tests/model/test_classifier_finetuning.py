"""New labels, frozen weights and adapters: what stays as it was, and what is learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import scvi
import torch

import sfm
from sfm.datasets import toy_cells, toy_model
from sfm.model import CellClassifier, MaskedCellModel

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TRAIN: dict[str, Any] = {
    "batch_size": 8,
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "plan_kwargs": {"lr": 1e-2},
}


def cells(n: int = 120, *, without: str | None = None) -> AnnData:
    adata = toy_cells(n)
    return adata if without is None else adata[adata.obs["cell_type"] != without].copy()


def logits_of(model: CellClassifier, adata: AnnData) -> np.ndarray:
    return model._logits(adata, np.arange(adata.n_obs), batch_size=None)[0]


def adapted(*, lora: dict[str, Any] | None = None, freeze: Any = None, **options: Any) -> CellClassifier:
    scvi.settings.seed = 0
    pretrained = toy_model(max_length=32)
    return CellClassifier.from_pretrained(
        pretrained, cells(), labels_key="cell_type", lora=lora, freeze=freeze, **options
    )


@pytest.fixture(scope="module")
def two_types() -> CellClassifier:
    """A classifier that knows two of the three types; tests leave it as it is."""
    adata = cells(without="type 1")
    CellClassifier.setup_anndata(adata, labels_key="cell_type", max_length=32)
    scvi.settings.seed = 0
    model = CellClassifier(adata, **SIZES)
    model.train(max_epochs=6, **TRAIN)
    return model


def test_unknown_labels_are_an_error_unless_the_model_is_extended(two_types: CellClassifier) -> None:
    with pytest.raises(ValueError, match="'type 1', which the model does not know; it knows 'type 0', 'type 2'"):
        CellClassifier.from_pretrained(two_types, cells(), labels_key="cell_type")


def test_extended_from_pretrained_then_trained_on(two_types: CellClassifier, tmp_path: Path) -> None:
    two_types.save_pretrained(tmp_path)
    adata = cells()
    before = logits_of(two_types, adata)
    model = CellClassifier.from_pretrained(tmp_path, adata, labels_key="cell_type", extend_labels=True)
    assert model.labels == ["type 0", "type 2", "type 1"]
    assert adata.obs["cell_type"].cat.categories.to_list() == ["type 0", "type 1", "type 2"]
    np.testing.assert_allclose(logits_of(model, adata)[:, :2], before, atol=1e-6)
    assert set(model.predict()) == {"type 0", "type 2"}  # the new label is not given by accident
    model.train(max_epochs=6, **TRAIN)
    assert model.classification_report(adata).attrs["macro_f1"] > 0.95


@pytest.mark.parametrize("way", ["from_pretrained", "load"])
def test_extended_in_place_then_trained_on(two_types: CellClassifier, way: str, tmp_path: Path) -> None:
    two_types.save(str(tmp_path / "two"))
    model = CellClassifier.load(str(tmp_path / "two"), adata=cells(without="type 1"), accelerator="cpu")
    adata = cells()
    before = logits_of(model, adata)
    model.extend_labels(["type 1"])
    assert model.labels == ["type 0", "type 2", "type 1"]
    assert model.index_for_label("type 1") == 2
    np.testing.assert_allclose(logits_of(model, adata)[:, :2], before, atol=1e-6)
    with pytest.raises(ValueError, match="'type 1'"):
        model.extend_labels(["type 1"])
    if way == "from_pretrained":
        more = CellClassifier.from_pretrained(model, adata, labels_key="cell_type")
    else:
        model.save(str(tmp_path / "three"))
        more = CellClassifier.load(str(tmp_path / "three"), adata=adata, accelerator="cpu")
    assert more.labels == model.labels
    np.testing.assert_allclose(logits_of(more, adata)[:, :2], before, atol=1e-6)
    more.train(max_epochs=6, **TRAIN)
    assert more.classification_report(adata).attrs["macro_f1"] > 0.95
    more.save_pretrained(tmp_path / "directory")
    assert list(sfm.load(tmp_path / "directory").model.config.id2label.values()) == more.labels


def test_an_extended_model_goes_on_with_its_own_cells(two_types: CellClassifier, tmp_path: Path) -> None:
    two_types.save(str(tmp_path / "saved"))
    model = CellClassifier.load(str(tmp_path / "saved"), adata=cells(without="type 1"), accelerator="cpu")
    model.extend_labels(["other"])
    model.train(max_epochs=1, **TRAIN)
    assert list(model.predict(soft=True).columns) == ["type 0", "type 2", "other"]
    assert (model.predict() == model.adata.obs["cell_type"]).mean() > 0.95


def test_known_labels_need_not_occur(two_types: CellClassifier) -> None:
    adata = cells()
    adata = adata[adata.obs["cell_type"] == "type 2"].copy()
    model = CellClassifier.from_pretrained(two_types, adata, labels_key="cell_type", loss_weights="balanced")
    assert model.labels == ["type 0", "type 2"]
    model.train(max_epochs=1, **TRAIN)


def test_another_head_is_a_new_one(two_types: CellClassifier) -> None:
    model = CellClassifier.from_pretrained(two_types, two_types.adata, labels_key="cell_type", feedforward_sizes=(8,))
    assert model.labels == two_types.labels
    with pytest.raises(RuntimeError, match="Call `train` first"):
        model.predict()


def test_settings_of_a_pretrained_model_can_be_changed_and_misspelt_ones_are_named() -> None:
    options = {"dropout": 0.3, "feedforward_sizes": (8,), "hidden_dropout_prob": 0.2, "loss_weights": {"type 1": 3.0}}
    config = adapted(**options).module.network.config
    assert (config.classifier_dropout, config.feedforward_sizes) == (0.3, [8])
    assert config.backbone_config.hidden_dropout_prob == 0.2
    assert config.label_weights == [1.0, 3.0, 1.0]
    with pytest.raises(TypeError, match="Unknown argument loss_weight='balanced'. Pass .*'loss_weights'"):
        adapted(loss_weight="balanced")


@pytest.mark.parametrize("options", [{}, {"feedforward_sizes": (8,), "sequence_encoder": "gru"}], ids=["plain", "deep"])
def test_a_frozen_backbone_stays_and_is_quiet(options: dict[str, Any]) -> None:
    noisy = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}
    model = adapted(freeze="backbone", **noisy, **options)
    network = model.module.network
    cell = {name: weight.clone() for name, weight in network.cell.named_parameters()}
    head = {name: weight.clone() for name, weight in network.head.named_parameters()}
    minibatch = {"input_ids": torch.randint(4, 100, (4, 20)), "attention_mask": torch.ones(4, 20, dtype=torch.long)}
    model.module.train()
    torch.testing.assert_close(network.cell.encode(**minibatch), network.cell.encode(**minibatch))
    assert network.head.training
    model.train(max_epochs=3, **TRAIN)
    assert all(torch.equal(weight, cell[name]) for name, weight in network.cell.named_parameters())
    assert not any(torch.equal(weight, head[name]) for name, weight in network.head.named_parameters())
    assert model.history["train_loss"].iloc[-1].item() < model.history["train_loss"].iloc[0].item()


def test_without_freezing_dropout_is_on_in_training() -> None:
    model = adapted(hidden_dropout_prob=0.5)
    minibatch = {"input_ids": torch.randint(4, 100, (4, 20)), "attention_mask": torch.ones(4, 20, dtype=torch.long)}
    network = model.module.train().network
    assert not torch.equal(network.encode(**minibatch), network.encode(**minibatch))


# peft asks transformers for an attribute that it has renamed
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_learn_with_the_head_and_are_saved_with_it(tmp_path: Path) -> None:
    model = adapted(lora={"r": 4})
    before = {name: weight.clone() for name, weight in model.module.network.named_parameters()}
    model.train(max_epochs=6, **{**TRAIN, "plan_kwargs": {"lr": 3e-2}})
    parameters = dict(model.module.network.named_parameters())
    changed = {name for name, weight in parameters.items() if not torch.equal(weight, before[name])}
    assert changed == {n for n in parameters if ".lora_" in n or ".modules_to_save." in n}
    assert any("head" in name for name in changed)
    assert model.classification_report(cells()).attrs["accuracy"] > 0.6  # half of that by chance
    soft = model.predict(soft=True)
    model.save(str(tmp_path / "saved"))
    loaded = CellClassifier.load(str(tmp_path / "saved"), adata=cells(), accelerator="cpu")
    np.testing.assert_allclose(loaded.predict(soft=True), soft, atol=1e-5)

    model.save_pretrained(tmp_path / "merged")
    merged = CellClassifier.from_pretrained(tmp_path / "merged", cells(), labels_key="cell_type")
    np.testing.assert_allclose(merged.predict(soft=True), soft, atol=1e-5)

    model.save_adapter(tmp_path / "adapter")
    sizes = [(tmp_path / f).stat().st_size for f in ("adapter/adapter_model.safetensors", "merged/model.safetensors")]
    assert sizes[0] < 0.1 * sizes[1]
    other = adapted(lora={"r": 4})
    other.load_adapter(tmp_path / "adapter")
    np.testing.assert_allclose(logits_of(other, cells()), logits_of(model, cells()), atol=1e-5)
    assert list(other.predict()) == list(model.predict())


def test_pooling_that_is_learnt_is_trained_beside_adapters_and_above_a_frozen_backbone(tmp_path: Path) -> None:
    for options in ({"lora": {"r": 2}}, {"freeze": "backbone"}):
        model = adapted(pooling="attention", **options)
        model.train(max_epochs=1, **TRAIN)
        assert model.module.network.cell.attention_pooling.query.abs().max() > 0
        soft = model.predict(soft=True)
        model.save_pretrained(tmp_path / str(*options))
        again = CellClassifier.from_pretrained(tmp_path / str(*options), cells(), labels_key="cell_type")
        np.testing.assert_allclose(again.predict(soft=True), soft, atol=1e-5)


def test_a_classifier_with_adapters_can_be_extended(tmp_path: Path) -> None:
    model = adapted(lora={"r": 4})
    model.train(max_epochs=2, **TRAIN)
    before = logits_of(model, cells())
    model.extend_labels(["other"])
    np.testing.assert_allclose(logits_of(model, cells())[:, :3], before, atol=1e-6)
    model.train(max_epochs=1, **TRAIN)
    model.save(str(tmp_path / "saved"))
    loaded = CellClassifier.load(str(tmp_path / "saved"), adata=cells(), accelerator="cpu")
    assert loaded.labels[-1] == "other"
    np.testing.assert_allclose(logits_of(loaded, cells()), logits_of(model, cells()), atol=1e-5)
    more = CellClassifier.from_pretrained(model, cells(), labels_key="cell_type", lora={"r": 2})
    np.testing.assert_allclose(logits_of(more, cells()), logits_of(model, cells()), atol=1e-5)


def test_interrupted_training_goes_on(tmp_path: Path) -> None:
    def make() -> CellClassifier:
        adata = cells(60)
        CellClassifier.setup_anndata(adata, labels_key="cell_type", max_length=32)
        scvi.settings.seed = 0
        return CellClassifier(adata, **SIZES)

    options = {**TRAIN, "plan_kwargs": {"lr": 1e-2, "min_lr_ratio": 1.0, "warmup": 0.0}}
    whole, first, second = make(), make(), make()
    whole.train(max_epochs=4, **options)
    first.train(max_epochs=2, checkpoint_dir=tmp_path / "run", **options)
    second.train(max_epochs=4, resume=tmp_path / "run", **options)
    for name in ("validation_loss", "validation_accuracy", "validation_calibration_error", "train_loss"):
        expected = whole.history[name].to_numpy(dtype=float)
        np.testing.assert_allclose(second.history[name].to_numpy(dtype=float), expected, atol=1e-5)
    assert set(second.validation_indices) == set(whole.validation_indices)


def test_training_a_masked_model_and_then_a_classifier_on_the_same_cells(tmp_path: Path) -> None:
    adata = cells(60)
    MaskedCellModel.setup_anndata(adata, max_length=32)
    masked = MaskedCellModel(adata, **SIZES)
    masked.train(max_epochs=1, **TRAIN)
    model = CellClassifier.from_pretrained(masked, adata, labels_key="cell_type")
    np.testing.assert_allclose(model.get_latent_representation(), masked.get_latent_representation(), atol=1e-6)
    model.train(max_epochs=1, **TRAIN)
    assert isinstance(model.predict(), pd.Series)
    assert np.isfinite(masked.get_latent_representation()).all()


@pytest.mark.parametrize(
    ("options", "plan", "expected"),
    [
        pytest.param({}, {}, {3e-4, 1e-2}, id="whole"),
        pytest.param({"lora": {"r": 2}}, {}, {3e-3, 1e-2}, id="adapters"),
        pytest.param({"freeze": "backbone"}, {"head_lr": 1e-3}, {1e-3}, id="head"),
        pytest.param({}, {"lr": 1e-5}, {1e-5}, id="own rate"),
        pytest.param(None, {}, {1e-3}, id="from scratch"),
    ],
)
def test_a_pretrained_body_has_a_lower_learning_rate_than_its_head(
    options: dict[str, Any] | None, plan: dict[str, float], expected: set[float]
) -> None:
    if options is None:
        adata = cells()
        CellClassifier.setup_anndata(adata, labels_key="cell_type", max_length=32)
        model = CellClassifier(adata, **SIZES)
    else:
        model = adapted(**options)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False, plan_kwargs=plan)
    assert {group["initial_lr"] for group in model.trainer.optimizers[0].param_groups} == expected


def status_of(model: Any, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    repr(model)
    return capsys.readouterr().out.partition("Training status: ")[2].strip()


def test_a_new_head_is_not_called_trained_though_the_body_embeds(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = adapted()
    assert status_of(model, capsys) == "Not Trained (pretrained body, new head)"
    assert model.get_latent_representation().shape == (120, 16)
    model.save(str(tmp_path / "model"), save_anndata=True)
    assert status_of(CellClassifier.load(str(tmp_path / "model")), capsys).startswith("Not Trained")
    model.train(max_epochs=1, **TRAIN)
    assert status_of(model, capsys) == "Trained"
    trained_on = CellClassifier.from_pretrained(model, cells(), labels_key="cell_type")
    assert status_of(trained_on, capsys) == "Trained"


def test_other_models_are_trained_once_they_embed(capsys: pytest.CaptureFixture[str]) -> None:
    adata = cells()
    MaskedCellModel.setup_anndata(adata, max_length=32)
    assert status_of(MaskedCellModel(adata, **SIZES), capsys) == "Not Trained"
    assert status_of(MaskedCellModel.from_pretrained(toy_model(max_length=32), adata), capsys) == "Trained"
