"""New labels after the old ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from sfm.nn import CellForMaskedLM, CellForSequenceClassification, CellForTokenClassification
from sfm.train._freeze import freeze_weights
from sfm.train._lora import add_lora, merged

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sfm.nn import CellConfig

Cells = dict[str, torch.Tensor]

NAMES = {0: "B cell", 1: "T cell", 2: "NK cell"}
NEW = ["Platelet", "DC"]


@pytest.fixture
def tokens(cells: Cells) -> Cells:
    return {key: cells[key] for key in ("input_ids", "attention_mask")}


@pytest.fixture
def make_classifier(make_config: Callable[..., CellConfig]) -> Callable[..., CellForSequenceClassification]:
    def make(**settings: Any) -> CellForSequenceClassification:
        torch.manual_seed(0)
        defaults = {"id2label": NAMES, "head_initializer": "xavier_uniform", "feedforward_sizes": [8]}
        return CellForSequenceClassification(make_config(**defaults | settings)).eval()

    return make


@pytest.mark.parametrize("prepare", ["as it is", "frozen", "adapters", "adapters and a trained head"])
def test_old_logits_stay(
    make_classifier: Callable[..., CellForSequenceClassification], tokens: Cells, prepare: str
) -> None:
    model = make_classifier()
    match prepare:
        case "frozen":
            freeze_weights(model, "backbone")
        case "adapters":
            add_lora(model, {})
        case "adapters and a trained head":
            add_lora(model, {"modules_to_save": ["head"]})
    model.eval()
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    before = model(**tokens).logits.detach()
    model.extend_labels(NEW)
    after = model(**tokens)
    assert after.logits.shape == after.probabilities.shape == (4, 5)
    torch.testing.assert_close(after.logits[:, :3], before, atol=1e-6, rtol=0)
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == trainable
    if prepare.startswith("adapters"):
        torch.testing.assert_close(merged(model)(**tokens).logits, after.logits, atol=1e-6, rtol=0)


def test_old_rows_are_the_same_to_the_bit(make_classifier: Callable[..., CellForSequenceClassification]) -> None:
    model = make_classifier()
    weight, bias = model.head.classifier.weight.clone(), model.head.classifier.bias.clone()
    model.extend_labels(NEW)
    assert torch.equal(model.head.classifier.weight[:3], weight)
    assert torch.equal(model.head.classifier.bias[:3], bias)
    assert model.head.classifier.out_features == 5


@torch.no_grad()
def test_new_labels_never_win_before_training(
    make_classifier: Callable[..., CellForSequenceClassification],
) -> None:
    model = make_classifier()
    model.head.classifier.bias.normal_()
    model.extend_labels(NEW)
    features = 10 * torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
    logits = model.output_layer(torch.cat([features, torch.zeros(1, 8)])).logits
    assert (logits[:, 3:].amax(dim=1) < logits[:, :3].amax(dim=1)).all()


def test_names_go_into_the_configuration(
    make_classifier: Callable[..., CellForSequenceClassification], tokens: Cells, tmp_path: Path
) -> None:
    model = make_classifier(label_weights=[2.0, 3.0, 4.0])
    model.distance.fit(torch.randn(30, 16), torch.arange(30) % 3)
    model.extend_labels(NEW)
    model.extend_labels(["ILC"])
    model.extend_labels([])
    everything = dict(enumerate([*NAMES.values(), *NEW, "ILC"]))
    assert model.config.id2label == everything
    assert model.config.label2id == {name: i for i, name in everything.items()}
    assert model.config.num_labels == 6
    assert model.config.label_weights == [2.0, 3.0, 4.0, 1.0, 1.0, 1.0]
    assert model.distance.has_cells.tolist() == [True, True, True, False, False, False]
    model.save_pretrained(tmp_path)
    loaded = CellForSequenceClassification.from_pretrained(tmp_path).eval()
    assert loaded.config.id2label == everything
    assert torch.equal(loaded(**tokens).logits, model(**tokens).logits)


def test_new_labels_can_be_learnt(make_classifier: Callable[..., CellForSequenceClassification], tokens: Cells) -> None:
    model = make_classifier(classifier_dropout=0.0)
    model.extend_labels(NEW)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    labels = torch.tensor([3, 0, 4, -100])
    for _ in range(60):
        optimizer.zero_grad()
        model(**tokens, labels=labels).loss.backward()
        optimizer.step()
    assert model(**tokens).logits.argmax(dim=1)[:3].tolist() == [3, 0, 4]


@torch.no_grad()
def test_labels_that_do_not_compete_start_improbable(
    make_classifier: Callable[..., CellForSequenceClassification], tokens: Cells
) -> None:
    model = make_classifier(problem_type="multi_label_classification")
    before = model(**tokens).probabilities
    model.extend_labels(NEW)
    after = model(**tokens).probabilities
    torch.testing.assert_close(after[:, :3], before)
    assert (after[:, 3:] < 0.02).all()


@torch.no_grad()
def test_labels_of_genes_are_extended_too(make_config: Callable[..., CellConfig], tokens: Cells) -> None:
    model = CellForTokenClassification(make_config(id2label=NAMES)).eval()
    before = model(**tokens).logits
    model.extend_labels(NEW)
    after = model(**tokens).logits
    assert after.shape == (4, 12, 5)
    torch.testing.assert_close(after[..., :3], before, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (["T cell"], {}, "Label 'T cell' is there already"),
        (["DC", "DC"], {}, "Label 'DC' is there already, or comes twice"),
        *((["DC", name], {}, f"names has {name!r}, which is no name") for name in (3, None, float("nan"), "", " ")),
        ("DC", {}, r"extend_labels\(\['DC'\]\)"),
        (["DC"], {"problem_type": "regression"}, "predicts numbers"),
    ],
)
def test_names_that_cannot_be_added(
    make_classifier: Callable[..., CellForSequenceClassification], names: Any, settings: dict[str, Any], message: str
) -> None:
    model = make_classifier(**settings)
    with pytest.raises(ValueError, match=message):
        model.extend_labels(names)
    assert model.config.id2label == NAMES
    assert model.head.classifier.out_features == 3


def test_an_output_layer_with_adapters_cannot_grow(
    make_classifier: Callable[..., CellForSequenceClassification],
) -> None:
    from peft import LoraConfig

    model = make_classifier()
    model.add_adapter(LoraConfig(r=2, target_modules=["head.classifier"]))
    with pytest.raises(ValueError, match="output layer has become a Linear.*Merge the adapters"):
        model.extend_labels(NEW)
    assert model.config.id2label == NAMES


def test_other_models_have_no_labels(make_config: Callable[..., CellConfig]) -> None:
    assert not hasattr(CellForMaskedLM(make_config()), "extend_labels")
