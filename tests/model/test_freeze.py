from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import scvi
import torch

from sfm.datasets import toy_cells
from sfm.model import MaskedCellModel
from sfm.nn import BACKBONES
from sfm.nn._layers import backbone_layers

if TYPE_CHECKING:
    from pathlib import Path

TRAIN = {"max_epochs": 1, "batch_size": 16, "accelerator": "cpu", "enable_progress_bar": False}


def make(freeze: object, backbone: str = "bert") -> MaskedCellModel:
    adata = toy_cells(30)
    MaskedCellModel.setup_anndata(adata, tokenizer="bins", max_length=32)
    scvi.settings.seed = 0
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return MaskedCellModel(adata, backbone=backbone, freeze=freeze, **sizes)


def changed_by_training(model: MaskedCellModel) -> set[str]:
    before = {name: weight.clone() for name, weight in model.module.network.named_parameters()}
    model.train(plan_kwargs={"lr": 1e-2}, **TRAIN)
    return {name for name, weight in model.module.network.named_parameters() if not torch.equal(weight, before[name])}


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("freeze", ["embeddings", 0, 1, 2, "backbone"])
def test_frozen_weights_stay(freeze: str | int, backbone: str) -> None:
    model = make(freeze, backbone)
    network = model.module.network
    changed = changed_by_training(model)
    names = {module: name for name, module in network.named_modules()}
    n_frozen = {"embeddings": 0, "backbone": 2}.get(freeze, freeze)
    for i, layer in enumerate(backbone_layers(network.cell.backbone)):
        assert any(name.startswith(f"{names[layer]}.") for name in changed) == (i >= n_frozen)
    assert not any(name.startswith("cell.embedder.") for name in changed)
    assert any(name.startswith("head.") for name in changed)
    if freeze == "backbone":
        assert all(name.startswith("head.") for name in changed)


def test_without_freeze_all_weights_change() -> None:
    model = make(None)
    assert changed_by_training(model) == {name for name, _ in model.module.network.named_parameters()}


@pytest.mark.parametrize("freeze", ["head", -1, 3, True, 0.5])
def test_unknown_rule_is_named(freeze: object) -> None:
    with pytest.raises(ValueError, match=f"freeze={freeze!r}"):
        make(freeze)


def test_frozen_model_keeps_frozen_after_loading(tmp_path: Path) -> None:
    model = make("embeddings")
    model.train(**TRAIN)
    model.save(str(tmp_path / "saved"))
    loaded = MaskedCellModel.load(str(tmp_path / "saved"), adata=model.adata, accelerator="cpu")
    assert changed_by_training(loaded).isdisjoint({"cell.embedder.genes.weight", "cell.embedder.values.table.weight"})


def test_head_has_its_own_learning_rate() -> None:
    model = make(None)
    before = {name: weight.clone() for name, weight in model.module.network.named_parameters()}
    model.train(plan_kwargs={"lr": 0.0, "head_lr": 1e-2, "weight_decay": 0.0}, **TRAIN)
    changed = {n for n, weight in model.module.network.named_parameters() if not torch.equal(weight, before[n])}
    assert changed
    assert all(name.startswith("head.") for name in changed)
