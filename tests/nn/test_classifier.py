"""The parts of a classifier between backbone and output layer, one after another."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForSequenceClassification

import sfm
from sfm.checkpoints import PretrainedCells
from sfm.checkpoints._weights import weights_hash
from sfm.inference import classify_tokens
from sfm.nn import CellConfig, CellForMaskedLM, CellForSequenceClassification, CellForTokenClassification, CellModel
from sfm.tokenizers import RankTokenizer, TokenizedCells

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Cells = dict[str, torch.Tensor]
Make = "Callable[..., CellForSequenceClassification]"

POOLINGS = ["mean", "cls", "last", "max", "attention"]
ENCODERS = [None, "lstm", "gru", "transformer"]
LENGTHS = [12, 7, 4, 0]


@pytest.fixture
def tokens(cells: Cells) -> Cells:
    return {key: cells[key] for key in ("input_ids", "attention_mask")}


@pytest.fixture
def make_classifier(make_config: Callable[..., CellConfig]) -> Callable[..., CellForSequenceClassification]:
    def make(backbone: str = "bert", **settings: Any) -> CellForSequenceClassification:
        torch.manual_seed(0)
        defaults = {"num_labels": 3, "head_initializer": "xavier_uniform", "initializer_range": 0.5}
        model = CellForSequenceClassification(make_config(backbone, **defaults | settings)).eval()
        if model.cell.attention_pooling is not None:  # as if it had been trained; at first it is the mean
            torch.nn.init.normal_(model.cell.attention_pooling.query, std=3.0)
        return model

    return make


def minibatches(tokens: Cells) -> Iterator[tuple[list[int], Cells]]:
    """The same cells together, reversed, alone without padding, and with more padding on either side."""
    everything = list(range(len(LENGTHS)))
    yield everything[::-1], {key: tensor.flip(0) for key, tensor in tokens.items()}
    for padding in [(0, 5), (5, 0)]:
        yield everything, {key: F.pad(tensor, padding) for key, tensor in tokens.items()}
    for row, length in enumerate(LENGTHS):
        alone = {key: tensor[[row], : max(length, 1)] for key, tensor in tokens.items()}
        yield [row], alone
        yield [row], {key: F.pad(tensor, (3, 0)) for key, tensor in alone.items()}


@pytest.mark.parametrize(("pooling", "encoder", "backbone"), list(product(POOLINGS, ENCODERS, ["bert", "llama"])))
@torch.no_grad()
def test_a_cell_depends_on_itself_alone(
    make_classifier: Make, tokens: Cells, pooling: str, encoder: str | None, backbone: str
) -> None:
    model = make_classifier(backbone, pooling=pooling, sequence_encoder=encoder, feedforward_sizes=[8])
    together = model(**tokens)
    vectors = model.encode(**tokens)
    assert vectors.shape == (4, 16)
    assert (vectors[3] == 0).all()
    assert torch.isfinite(together.logits).all()
    for results in (vectors[:3], together.logits[:3]):
        assert (torch.cdist(results, results) + torch.eye(3) > 1e-3).all(), "the cells are told apart"
    for rows, minibatch in minibatches(tokens):
        torch.testing.assert_close(model.encode(**minibatch), vectors[rows], atol=1e-5, rtol=0)
        torch.testing.assert_close(model(**minibatch).logits, together.logits[rows], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("encoder", "backbone"), list(product(ENCODERS, ["bert", "llama"])))
def test_every_weight_is_trained(make_classifier: Make, tokens: Cells, encoder: str | None, backbone: str) -> None:
    model = make_classifier(
        backbone,
        pooling="attention",
        sequence_encoder=encoder,
        sequence_encoder_layers=2,
        feedforward_sizes=[8, 8],
        sample_pooling="attention",
    ).train()
    model(**tokens, labels=torch.tensor([0, 2]), sample_index=torch.tensor([0, 1, 0, 1])).loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    # A softmax does not see what is added to all of its arguments.
    unseen = ("key.bias", "self_attn.in_proj_bias", "sample_pooling.score.bias")
    without = [name for name, gradient in gradients.items() if not gradient.any() and not name.endswith(unseen)]
    assert without == []


@pytest.mark.parametrize("encoder", ENCODERS)
@torch.no_grad()
def test_saving_and_loading_changes_nothing(
    make_classifier: Make, tokens: Cells, tmp_path: Path, encoder: str | None
) -> None:
    model = make_classifier(
        id2label={0: "B cell", 1: "T cell", 2: "NK cell"},
        pooling="attention",
        sequence_encoder=encoder,
        feedforward_sizes=[8],
        sample_pooling="attention",
        label_weights=[1.0, 2.0, 3.0],
        label_smoothing=0.1,
    )
    model.temperature.fill_(1.5)
    model.distance.fit(torch.randn(30, 16), torch.arange(30) % 2)
    model.save_pretrained(tmp_path)
    index = torch.tensor([0, 1, 1, 0])
    labels = torch.tensor([1, 2])
    expected = model(**tokens, labels=labels, sample_index=index)
    for loaded in (
        CellForSequenceClassification.from_pretrained(tmp_path).eval(),
        AutoModelForSequenceClassification.from_pretrained(tmp_path).eval(),
    ):
        assert type(loaded) is CellForSequenceClassification
        assert loaded.config.id2label == model.config.id2label
        output = loaded(**tokens, labels=labels, sample_index=index)
        for key in ("loss", "logits", "probabilities", "cell_weights", "token_weights"):
            # Recurrent layers round otherwise where their weights lie elsewhere in memory.
            torch.testing.assert_close(output[key], expected[key], atol=1e-6, rtol=0)
        weights = model.state_dict()
        assert loaded.state_dict().keys() == weights.keys()
        assert [name for name, tensor in loaded.state_dict().items() if not torch.equal(tensor, weights[name])] == []


@torch.no_grad()
def test_the_base_model_leaves_the_head_out(make_classifier: Make, tokens: Cells, tmp_path: Path) -> None:
    model = make_classifier(pooling="attention")
    model.save_pretrained(tmp_path)
    base = AutoModel.from_pretrained(tmp_path).eval()
    assert type(base) is CellModel
    assert torch.equal(base.encode(**tokens), model.encode(**tokens))


@torch.no_grad()
def test_the_parts_make_up_the_whole(make_classifier: Make, tokens: Cells) -> None:
    model = make_classifier(sequence_encoder="gru", feedforward_sizes=[8, 5])
    whole = model(**tokens)
    features = model.forward_tokens(**tokens)
    assert features.shape == (4, 5)
    assert torch.equal(features, model.features(model.encode(**tokens)))
    assert torch.equal(model.output_layer(features).logits, whole.logits)
    labels = torch.tensor([0, 1, 2, -100])
    assert torch.equal(model.output_layer(features, labels).loss, model(**tokens, labels=labels).loss)


@torch.no_grad()
def test_without_settings_the_head_is_dropout_and_a_linear_layer(make_classifier: Make, tokens: Cells) -> None:
    model = make_classifier()
    head = {name for name in model.state_dict() if not name.startswith(("cell.", "distance."))}
    assert head == {"head.classifier.weight", "head.classifier.bias", "temperature"}
    assert torch.equal(model.forward_tokens(**tokens), model.encode(**tokens))


def test_dropout_is_in_front_of_each_layer(make_classifier: Make) -> None:
    model = make_classifier(feedforward_sizes=[64], classifier_dropout=0.5).train()
    torch.nn.init.constant_(model.head.feedforward[0].bias, 5.0)
    vectors = torch.ones(8, 16)
    dropped = (model.features(vectors) == 0).float().mean()
    assert 0.3 < dropped < 0.7
    model.eval()
    assert (model.features(vectors) != 0).all()
    assert torch.equal(model.features(vectors), model.features(vectors))


@torch.no_grad()
def test_attention_pooling_starts_as_the_mean(make_config: Callable[..., CellConfig], tokens: Cells) -> None:
    model = CellModel(make_config(pooling="attention")).eval()
    torch.testing.assert_close(model.encode(**tokens), model.encode(**tokens, pooling="mean"), atol=1e-6, rtol=0)


@torch.no_grad()
def test_weights_of_tokens_can_be_read(make_classifier: Make, tokens: Cells) -> None:
    model = make_classifier(pooling="attention", sequence_encoder="lstm")
    output = model(**tokens)
    weights, genes = output.token_weights, (tokens["input_ids"] > 3) & (tokens["attention_mask"] == 1)
    assert (weights[~genes] == 0).all()
    assert (weights[genes] > 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    pooled = (weights.unsqueeze(-1) * output.last_hidden_state).sum(dim=1)
    torch.testing.assert_close(pooled, model.encode(**tokens))
    assert make_classifier()(**tokens).token_weights is None


def test_other_models_have_no_weights_for_attention(make_classifier: Make, tokens: Cells) -> None:
    model = make_classifier()
    assert not any("attention_pooling" in name for name in model.state_dict())
    with pytest.raises(ValueError, match="no weights for pooling by 'attention'.*pooling='mean'"):
        model.encode(**tokens, pooling="attention")


@torch.no_grad()
def test_encoders_see_the_order_of_tokens_through_the_backbone(make_classifier: Make, tokens: Cells) -> None:
    """The result is another than without, and each encoder has its own."""
    vectors = [make_classifier(sequence_encoder=encoder).encode(**tokens) for encoder in ENCODERS]
    for i, one in enumerate(vectors):
        for other in vectors[i + 1 :]:
            assert (one - other).abs().max() > 0.01


@pytest.mark.parametrize("initializer", ["normal", "xavier_uniform", "xavier_normal", "zeros"])
def test_initializers(make_classifier: Make, tokens: Cells, initializer: str) -> None:
    model = make_classifier(head_initializer=initializer, feedforward_sizes=[128], initializer_range=0.02)
    hidden, last = model.head.feedforward[0].weight, model.head.classifier.weight
    glorot = (2 / (16 + 128)) ** 0.5
    assert hidden.std().item() == pytest.approx(glorot if "xavier" in initializer else 0.02, rel=0.1)
    assert (hidden.abs().max() <= glorot * 3**0.5).item() or initializer == "xavier_normal"
    assert bool(last.any()) == (initializer != "zeros")
    model(**tokens, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    assert last.grad.any()


@torch.no_grad()
def test_probabilities_are_calibrated_by_the_temperature(make_classifier: Make, tokens: Cells) -> None:
    model = make_classifier()
    before = model(**tokens)
    torch.testing.assert_close(before.probabilities, before.logits.softmax(dim=1))
    model.temperature.fill_(2.0)
    after = model(**tokens)
    assert torch.equal(after.logits, before.logits)
    torch.testing.assert_close(after.probabilities, (before.logits / 2).softmax(dim=1))


@pytest.mark.parametrize(
    ("settings", "probabilities"),
    [
        ({"problem_type": "multi_label_classification"}, True),
        ({"problem_type": "regression"}, False),
        ({"num_labels": 1}, False),
    ],
)
@torch.no_grad()
def test_labels_that_do_not_compete_have_neither_temperature_nor_distance(
    make_classifier: Make, tokens: Cells, settings: dict[str, Any], probabilities: bool
) -> None:
    model = make_classifier(**settings)
    assert model.temperature is None
    assert model.distance is None
    output = model(**tokens)
    if probabilities:
        torch.testing.assert_close(output.probabilities, output.logits.sigmoid())
    else:
        assert output.probabilities is None


@torch.no_grad()
def test_gene_labels_have_the_same_head(make_config: Callable[..., CellConfig], tokens: Cells) -> None:
    config = make_config(num_labels=3, sequence_encoder="gru", feedforward_sizes=[8], label_weights=[1.0, 2.0, 0.5])
    model = CellForTokenClassification(config).eval()
    model.temperature.fill_(3.0)
    labels = (tokens["input_ids"] % 3).masked_fill(tokens["attention_mask"] == 0, -100)
    output = model(**tokens, labels=labels)
    torch.testing.assert_close(output.probabilities, (output.logits / 3).softmax(dim=-1))
    expected = F.cross_entropy(
        output.logits.reshape(-1, 3), labels.reshape(-1), torch.tensor([1.0, 2.0, 0.5]), reduction="sum"
    )
    torch.testing.assert_close(output.loss, expected / (labels != -100).sum())


@torch.no_grad()
def test_classify_tokens_returns_what_the_network_does(make_classifier: Make, tokens: Cells) -> None:
    model = make_classifier(sequence_encoder="lstm", pooling="attention", feedforward_sizes=[8])
    lengths = torch.tensor(LENGTHS)
    flat = tokens["input_ids"][tokens["attention_mask"] == 1].int().numpy()
    indptr = F.pad(lengths.cumsum(0), (1, 0)).numpy()
    logits, vectors = classify_tokens(model, TokenizedCells(flat, indptr, max_length=12), pad_id=0, batch_size=2)
    torch.testing.assert_close(torch.from_numpy(logits), model(**tokens).logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.from_numpy(vectors), model.encode(**tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [None, torch.float16])
@torch.no_grad()
def test_a_model_directory_holds_all_of_it(
    make_config: Callable[..., CellConfig], tmp_path: Path, dtype: torch.dtype | None
) -> None:
    adata = sfm.datasets.toy_cells(40)
    tokenizer = RankTokenizer(sfm.GeneVocabulary(list(adata.var_names)), max_length=32)
    backbone = make_config().backbone_config
    torch.manual_seed(0)
    config = CellConfig.for_tokenizer(
        tokenizer,
        backbone,
        num_labels=3,
        head_initializer="xavier_uniform",
        sequence_encoder="gru",
        pooling="attention",
    )
    model = CellForSequenceClassification(config).eval()
    cells = tokenizer(adata.X, tokenizer.vocabulary.token_ids)
    model.temperature.fill_(1.5)
    expected, vectors = map(torch.from_numpy, classify_tokens(model, cells, pad_id=0))
    model.distance.fit(vectors, torch.arange(40) % 3)
    PretrainedCells(model, tokenizer, name="toy").save_pretrained(tmp_path, dtype=dtype)
    loaded = sfm.load(tmp_path)
    assert loaded.model.temperature == 1.5
    assert loaded.model.distance.is_fitted
    atol = 1e-5 if dtype is None else 0.05
    logits, _ = classify_tokens(loaded.model, cells, pad_id=0)
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=atol, rtol=0)
    torch.testing.assert_close(loaded.model.distance(vectors), model.distance(vectors), atol=atol, rtol=0)
    if dtype is None:
        assert loaded.params()["weights_hash"] == weights_hash(model)


def test_directories_written_before_load(make_classifier: Make, tokens: Cells, tmp_path: Path) -> None:
    """Temperature and distance are at their defaults, and everything else is what it was."""
    from safetensors.torch import load_file, save_file

    model = make_classifier()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    new = {name for name in weights if name == "temperature" or name.startswith("distance.")}
    assert new
    old = {name: tensor for name, tensor in weights.items() if name not in new}
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = CellForSequenceClassification.from_pretrained(tmp_path).eval()
    assert loaded.temperature == 1
    assert not loaded.distance.is_fitted
    assert all(torch.isfinite(tensor).all() for tensor in loaded.state_dict().values())
    assert torch.equal(loaded(**tokens).logits, model(**tokens).logits)


def test_heads_that_are_not_in_a_checkpoint_start_as_in_a_new_model(
    make_classifier: Make, make_config: Callable[..., CellConfig], tmp_path: Path
) -> None:
    """transformers gives what is missing uninitialised memory, and then asks the model to fill it in."""
    CellModel(make_config()).save_pretrained(tmp_path)
    masked = CellForMaskedLM.from_pretrained(tmp_path)
    assert (masked.head.bias == 0).all()
    settings = {"pooling": "attention", "sequence_encoder": "gru", "sample_pooling": "attention"}
    classifier = CellForSequenceClassification.from_pretrained(tmp_path, num_labels=4, **settings)
    assert classifier.temperature == 1
    assert not classifier.distance.is_fitted
    assert (classifier.cell.attention_pooling.query == 0).all()
    for name, weight in classifier.head.named_parameters():
        assert weight.abs().max() < 1, name
