"""The body of any model under the head of a classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

import sfm
from sfm.model._transfer import transfer_weights
from sfm.nn import (
    OBJECTIVES,
    CellConfig,
    CellForMaskedLM,
    CellForSequenceClassification,
    CellForTokenClassification,
    CellModel,
)
from sfm.train._lora import add_lora, has_lora, merged

if TYPE_CHECKING:
    from collections.abc import Callable

Cells = dict[str, torch.Tensor]

OLD = {0: "B cell", 1: "T cell", 2: "NK cell"}


@pytest.fixture
def tokens(cells: Cells) -> Cells:
    return {key: cells[key] for key in ("input_ids", "attention_mask")}


@pytest.fixture
def make_classifier(make_config: Callable[..., CellConfig]) -> Callable[..., CellForSequenceClassification]:
    def make(seed: int = 0, **settings: Any) -> CellForSequenceClassification:
        torch.manual_seed(seed)
        defaults = {"id2label": OLD, "head_initializer": "xavier_uniform"}
        return CellForSequenceClassification(make_config(**defaults | settings)).eval()

    return make


def head_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items() if not name.startswith("cell.")}


@pytest.mark.parametrize("name", [*OBJECTIVES, "bare"])
@pytest.mark.parametrize("adapters", [False, True])
@torch.no_grad()
def test_the_body_of_every_model_is_taken(
    make_config: Callable[..., CellConfig], cells: Cells, name: str, adapters: bool
) -> None:
    settings: dict[str, Any] = {"sizes": {"is_causal": name == "next gene"}, "type_vocab_size": 2}
    settings["value_embedding"] = "continuous"
    torch.manual_seed(0)
    model_class = CellModel if name == "bare" else OBJECTIVES[name].model
    pretrained = model_class(make_config("llama", num_labels=4, **settings)).eval()
    torch.manual_seed(1)
    network = CellForSequenceClassification(make_config("llama", id2label=OLD, **settings)).eval()
    if adapters:
        add_lora(network, {"modules_to_save": ["head"]})
        network.eval()
    head = head_of(network)
    assert not torch.allclose(network.encode(**cells), pretrained.encode(**cells))
    transfer_weights(network, pretrained, source="a model")
    torch.testing.assert_close(network.encode(**cells), pretrained.encode(**cells), atol=1e-6, rtol=0)
    assert all(torch.equal(tensor, head[key]) for key, tensor in head_of(network).items())
    assert has_lora(network) == adapters


@torch.no_grad()
def test_the_head_is_taken_if_the_labels_are_the_same(
    make_classifier: Callable[..., CellForSequenceClassification], tokens: Cells
) -> None:
    settings = {"sequence_encoder": "gru", "pooling": "attention", "feedforward_sizes": [8]}
    pretrained = make_classifier(**settings)
    pretrained.temperature.fill_(1.7)
    pretrained.distance.fit(torch.randn(30, 16), torch.arange(30) % 3)
    network = make_classifier(1, **settings)
    transfer_weights(network, pretrained, source="a model")
    weights = pretrained.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())
    torch.testing.assert_close(network(**tokens).logits, pretrained(**tokens).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("adapters", [False, True])
@torch.no_grad()
def test_rows_are_taken_by_the_names_of_their_labels(
    make_classifier: Callable[..., CellForSequenceClassification], tokens: Cells, adapters: bool
) -> None:
    pretrained = make_classifier()
    pretrained.distance.fit(torch.randn(30, 16), torch.arange(30) % 3)
    names = ["DC", "T cell", "NK cell", "Platelet", "B cell"]
    network = make_classifier(1, id2label=dict(enumerate(names)))
    if adapters:
        add_lora(network, {"modules_to_save": ["head"]})
        network.eval()
    transfer_weights(network, pretrained, source="a model")
    where = [names.index(name) for name in OLD.values()]
    logits, old = network(**tokens).logits, pretrained(**tokens).logits
    torch.testing.assert_close(logits[:, where], old, atol=1e-6, rtol=0)
    assert (logits.argmax(dim=1).unsqueeze(1) == torch.tensor(where)).any(dim=1).all(), "new labels never win"
    assert torch.equal(network.distance.means[where], pretrained.distance.means)
    assert network.distance.has_cells.tolist() == [False, True, True, False, True]
    vectors = pretrained.encode(**tokens)
    torch.testing.assert_close(network.distance(vectors), pretrained.distance(vectors))
    # The same as if the old network had been extended.
    pretrained.extend_labels(["DC", "Platelet"])
    order = [pretrained.config.label2id[name] for name in names]
    torch.testing.assert_close(logits, pretrained(**tokens).logits[:, order], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"id2label": {0: "B cell", 1: "T cell", 2: "DC"}},
        {"id2label": {0: "B cell", 1: "T cell"}},
        {"pooling": "max"},
        {"feedforward_sizes": [8]},
        {"sequence_encoder": "lstm"},
        {"problem_type": "multi_label_classification"},
    ],
)
@torch.no_grad()
def test_another_head_stays_as_initialised(
    make_classifier: Callable[..., CellForSequenceClassification], tokens: Cells, settings: dict[str, Any]
) -> None:
    pretrained = make_classifier()
    network = make_classifier(1, **settings)
    head = head_of(network)
    transfer_weights(network, pretrained, source="a model")
    assert all(torch.equal(tensor, head[name]) for name, tensor in head_of(network).items())
    body = pretrained.cell.state_dict()
    assert all(torch.equal(tensor, body[name]) for name, tensor in network.cell.state_dict().items())


@torch.no_grad()
def test_labels_of_genes_are_no_labels_of_cells(
    make_config: Callable[..., CellConfig], make_classifier: Callable[..., CellForSequenceClassification]
) -> None:
    network = make_classifier()
    head = head_of(network)
    transfer_weights(network, CellForTokenClassification(make_config(id2label=OLD)), source="a model")
    assert all(torch.equal(tensor, head[name]) for name, tensor in head_of(network).items())


@torch.no_grad()
def test_pooling_by_attention_is_taken_where_both_have_it(
    make_config: Callable[..., CellConfig], make_classifier: Callable[..., CellForSequenceClassification], tokens: Cells
) -> None:
    attending = CellModel(make_config(pooling="attention")).eval()
    attending.attention_pooling.query.normal_()
    plain = CellModel(make_config()).eval()
    for pretrained, pooling in ((attending, "attention"), (plain, "attention"), (attending, "mean")):
        network = make_classifier(1, pooling=pooling)
        transfer_weights(network, pretrained, source="a model")
        expected = pretrained if pretrained is attending else plain
        same = pooling if pretrained is attending else "mean"  # where pooling by attention starts
        torch.testing.assert_close(network.encode(**tokens), expected.encode(**tokens, pooling=same), atol=1e-6, rtol=0)


def test_pooling_by_attention_is_trained_beside_adapters(
    make_config: Callable[..., CellConfig], make_classifier: Callable[..., CellForSequenceClassification], tokens: Cells
) -> None:
    pretrained = CellModel(make_config()).eval()
    network = make_classifier(1, pooling="attention", sequence_encoder="lstm")
    add_lora(network, {"modules_to_save": ["head", "attention_pooling"]})
    transfer_weights(network, pretrained, source="a model")
    network(**tokens, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    trained = {name for name, weight in network.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert any("attention_pooling.modules_to_save" in name for name in trained)
    assert any("head.modules_to_save.default.sequence_encoder" in name for name in trained)
    assert not any("original_module" in name for name in trained)
    with torch.no_grad():
        network.cell.attention_pooling.modules_to_save["default"].query.normal_()
        network.eval()
        torch.testing.assert_close(merged(network)(**tokens).logits, network(**tokens).logits, atol=1e-6, rtol=0)
        assert network(**tokens).token_weights.std() > 0


@torch.no_grad()
def test_adapters_of_the_pretrained_network_are_merged(
    make_config: Callable[..., CellConfig], make_classifier: Callable[..., CellForSequenceClassification], tokens: Cells
) -> None:
    pretrained = CellForMaskedLM(make_config()).eval()
    add_lora(pretrained, {"init_lora_weights": False})
    pretrained.eval()
    network = make_classifier(1)
    transfer_weights(network, pretrained, source="a model")
    torch.testing.assert_close(network.encode(**tokens), merged(pretrained).encode(**tokens), atol=1e-6, rtol=0)
    torch.testing.assert_close(network.encode(**tokens), pretrained.encode(**tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("backbone", "settings", "message"),
    [
        ("bert", {"sizes": {"hidden_size": 32}}, "hidden_size=16 instead of 32"),
        ("bert", {"sizes": {"num_attention_heads": 2}}, "num_attention_heads=4 instead of 2"),
        ("bert", {"sizes": {"is_causal": True}}, "is_causal=False instead of True"),
        ("bert", {"type_vocab_size": 2}, r"1 unexpected \(cell.embedder.segments.weight\)"),
        ("bert", {"value_embedding": "bins"}, r"1 unexpected \(cell.embedder.values.table.weight\)"),
        ("llama", {}, "model_type='bert' instead of 'llama'"),
    ],
)
def test_another_body_is_refused_and_changes_nothing(
    make_config: Callable[..., CellConfig],
    make_classifier: Callable[..., CellForSequenceClassification],
    backbone: str,
    settings: dict[str, Any],
    message: str,
) -> None:
    network = make_classifier()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ValueError, match=message) as error:
        transfer_weights(network, CellForMaskedLM(make_config(backbone, **settings)), source="a model")
    assert "'a model'" in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_bundled_model_loads_and_can_be_taken(tokens: Cells) -> None:
    """It was written before classifiers had these settings."""
    mini: Any = sfm.load("sfm-mini").model
    settings = mini.config.to_dict() | {"id2label": OLD, "label2id": {name: i for i, name in OLD.items()}}
    network = CellForSequenceClassification(CellConfig.from_dict(settings)).eval()
    transfer_weights(network, mini, source="sfm-mini")
    with torch.no_grad():
        torch.testing.assert_close(network.encode(**tokens), mini.encode(**tokens), atol=1e-6, rtol=0)
