"""scGPT models that were fine-tuned to label cells, against the decoder written out in plain torch."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from torch.nn import functional as F

import sfm
from sfm.data._loader import collate
from sfm.genes import align_genes

GOLDEN = Path(__file__).parents[1] / "goldens" / "scgpt"
SYMBOLS = {"gene_symbols": "feature_name"}
NAMES = ["B cell", "NK cell", "T cell"]
TRAIN = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture
def adata() -> ad.AnnData:
    adata = ad.read_h5ad(GOLDEN / "input.h5ad")
    adata.X.data = np.maximum(np.rint(adata.X.data), 1)
    return adata


@pytest.fixture(params=[0, 2], ids=["output layer alone", "two hidden layers"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model as the authors' tutorial leaves it, but for the names of its labels."""
    return finetuned(tmp_path / "model", n_hidden=request.param)


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    return finetuned(tmp_path / "model")


def finetuned(folder: Path, *, n_hidden: int = 2, n_labels: int = 3) -> Path:
    shutil.copytree(GOLDEN / "model", folder)
    (folder / "best_model.impl_layout.pt").unlink()
    generator = torch.Generator().manual_seed(0)
    weights = weights_of(folder)
    for i in range(n_hidden):
        linear, norm = f"cls_decoder._decoder.{3 * i}", f"cls_decoder._decoder.{3 * i + 2}"
        weights[f"{linear}.weight"] = torch.randn(32, 32, generator=generator) / 6
        weights[f"{norm}.weight"] = torch.rand(32, generator=generator) + 0.5
        for name in (linear, norm):
            weights[f"{name}.bias"] = torch.randn(32, generator=generator)
    weights["cls_decoder.out_layer.weight"] = torch.randn(n_labels, 32, generator=generator) / 6
    weights["cls_decoder.out_layer.bias"] = torch.randn(n_labels, generator=generator)
    torch.save(weights, folder / "best_model.pt")
    return folder


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "best_model.pt", weights_only=True)


def plain_logits(folder: Path, first_tokens: torch.Tensor) -> torch.Tensor:
    """Logits of the file's decoder: linear layers, each but the last followed by ReLU and a layer norm."""
    w, x, i = weights_of(folder), first_tokens, 0
    while f"cls_decoder._decoder.{i}.weight" in w:
        x = torch.relu(F.linear(x, w[f"cls_decoder._decoder.{i}.weight"], w[f"cls_decoder._decoder.{i}.bias"]))
        x = F.layer_norm(
            x, x.shape[-1:], w[f"cls_decoder._decoder.{i + 2}.weight"], w[f"cls_decoder._decoder.{i + 2}.bias"]
        )
        i += 3
    return F.linear(x, w["cls_decoder.out_layer.weight"], w["cls_decoder.out_layer.bias"])


def minibatch_of(pretrained, adata: ad.AnnData) -> dict[str, torch.Tensor]:
    token_ids = align_genes(adata.var["feature_name"].to_numpy(), pretrained.vocabulary).token_ids
    return collate(
        pretrained.tokenizer(adata.X, token_ids), np.arange(adata.n_obs), pad_id=pretrained.vocabulary.pad_id
    )


def logits_of(pretrained, adata: ad.AnnData) -> torch.Tensor:
    with torch.inference_mode():
        return pretrained.model(**minibatch_of(pretrained, adata)).logits


def test_logits_are_those_of_the_decoder_in_the_file(folder, adata):
    pretrained = sfm.load(folder, labels=NAMES)
    minibatch = minibatch_of(pretrained, adata)
    assert minibatch["values"][:, 0].eq(0).all()  # <cls>, as it is when scGPT is fine-tuned
    body = sfm.load(GOLDEN / "model").model.cell
    with torch.inference_mode():
        first_tokens = body(**minibatch).last_hidden_state[:, 0]
    logits = logits_of(pretrained, adata)
    torch.testing.assert_close(logits, plain_logits(folder, first_tokens), rtol=1e-5, atol=1e-5)
    assert logits.std(dim=0).min() > 1e-3  # cells differ


def test_cells_are_annotated_with_the_names_that_are_given(folder, adata):
    pretrained = sfm.load(folder, labels=NAMES)
    sfm.tl.annotate(adata, pretrained, **SYMBOLS)
    expected = logits_of(pretrained, adata).softmax(dim=1).numpy()
    table = adata.obsm["sfm_label_probabilities"]
    assert table.columns.tolist() == NAMES
    np.testing.assert_allclose(table, expected, atol=1e-5)
    assert adata.obs["sfm_label"].tolist() == [NAMES[i] for i in expected.argmax(axis=1)]


@pytest.mark.parametrize("keys", [str, int], ids=["text", "numbers"])
@pytest.mark.parametrize("file", ["id2type.json", "results.pkl"])
def test_names_are_read_from_a_file_beside_the_weights(deep, file, keys):
    by_number = {keys(i): NAMES[i] for i in (2, 0, 1)}
    if file == "id2type.json":
        (deep / file).write_text(json.dumps(by_number))
    else:
        found = {"test/accuracy": np.float64(0.9)}
        results = {"predictions": np.arange(4), "labels": np.arange(4), "results": found, "id_maps": by_number}
        (deep / file).write_bytes(pickle.dumps(results))
    assert list(sfm.load(deep).model.config.id2label.values()) == NAMES
    assert list(sfm.load(deep, labels=["x", "y", "z"]).model.config.id2label.values()) == ["x", "y", "z"]


def test_the_folder_of_the_authors_tutorial_is_recognised_and_what_it_lacks_is_named(deep):
    (deep / "best_model.pt").rename(deep / "model.pt")
    (deep / "results.pkl").write_bytes(pickle.dumps({"id_maps": dict(enumerate(NAMES))}))
    assert list(sfm.load(deep).model.config.id2label.values()) == NAMES
    (deep / "args.json").unlink()
    with pytest.raises(FileNotFoundError, match="Did not find 'args.json'.*copy it from that of the pretrained model"):
        sfm.load(deep)


def test_without_any_names_labels_are_numbers_and_a_warning_says_so(deep):
    with pytest.warns(UserWarning, match=r"tell 3 labels apart.*called '0' to '2'.*Pass labels= to `sfm\.load`"):
        pretrained = sfm.load(deep)
    assert list(pretrained.model.config.id2label.values()) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (["a", "b"], ValueError, r"labels=\['a', 'b'\] names 2 labels, but the output layer of .* has 3"),
        (["a", "b", "a"], ValueError, "names 'a' twice"),
        ("abc", TypeError, "labels='abc' is a string"),
    ],
)
def test_names_that_do_not_fit_are_refused(deep, labels, error, message):
    with pytest.raises(error, match=message):
        sfm.load(deep, labels=labels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"0": "a", "1": "b"}, "'id2type.json' names 2 labels, but the output layer of .* has 3"),
        ({"1": "a", "2": "b", "3": "c"}, "does not number names of labels from 0"),
        ({"B cell": 0, "T cell": 1}, "does not number names of labels from 0"),
    ],
)
def test_a_file_with_other_names_is_refused(deep, content, message):
    (deep / "id2type.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        sfm.load(deep)


def test_a_malicious_file_of_names_is_not_executed(deep, tmp_path):
    marker = tmp_path / "executed"

    class Malicious:
        def __reduce__(self):
            return Path.touch, (marker,)

    (deep / "results.pkl").write_bytes(pickle.dumps({"id_maps": Malicious()}))
    with pytest.raises(ValueError, match="was not executed"):
        sfm.load(deep)
    assert not marker.exists()
    assert sfm.load(deep, labels=NAMES).model.config.num_labels == 3


def test_names_for_a_model_without_labels_are_refused():
    with pytest.raises(ValueError, match="has no output layer for labels"):
        sfm.load(GOLDEN / "model", labels=NAMES)


def test_a_decoder_with_a_layer_missing_is_refused(deep):
    weights = weights_of(deep)
    del weights["cls_decoder._decoder.2.weight"]
    torch.save(weights, deep / "best_model.pt")
    with pytest.raises(ValueError, match=r"1 missing \(head\.feedforward_norms\.0\.weight\)"):
        sfm.load(deep, labels=NAMES)


def test_saving_in_our_layout_keeps_labels_and_logits(folder, adata, tmp_path):
    pretrained = sfm.load(folder, labels=NAMES)
    pretrained.save_pretrained(tmp_path / "saved")
    again = sfm.load(tmp_path / "saved")
    assert again.model.config.id2label == pretrained.model.config.id2label
    assert again.tokenizer.to_dict() == pretrained.tokenizer.to_dict()
    torch.testing.assert_close(logits_of(again, adata), logits_of(pretrained, adata), rtol=0, atol=0)


def test_vectors_of_its_cells_are_undivided_unless_they_are_asked_for(deep, adata):
    pretrained = sfm.load(deep, labels=NAMES)
    sfm.tl.embed(adata, pretrained, key_added="seen", **SYMBOLS)
    sfm.tl.embed(adata, pretrained, key_added="unit", pooling="published", **SYMBOLS)
    seen = adata.obsm["seen"]
    np.testing.assert_allclose(adata.obsm["unit"], seen / np.linalg.norm(seen, axis=1, keepdims=True), atol=1e-6)
    torch.testing.assert_close(
        logits_of(pretrained, adata), plain_logits(deep, torch.from_numpy(seen)), rtol=1e-4, atol=1e-5
    )


def test_new_labels_leave_the_old_logits_as_they_are(folder, adata):
    pretrained = sfm.load(folder, labels=NAMES)
    before = logits_of(pretrained, adata)
    pretrained.model.extend_labels(["monocyte"])
    after = logits_of(pretrained, adata)
    torch.testing.assert_close(after[:, :3], before, rtol=0, atol=1e-6)
    assert after.argmax(dim=1).max() < 3
    adata.obs["kind"] = ["monocyte", *["B cell", "T cell", "DC"] * 5]
    model = sfm.model.CellClassifier.from_pretrained(
        sfm.load(folder, labels=NAMES), adata, labels_key="kind", extend_labels=True, **SYMBOLS
    )
    assert list(model.labels)[:3] == NAMES
    torch.testing.assert_close(logits_of(model.as_pretrained(), adata)[:, :3], before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("lora", [None, {"r": 2}], ids=["all weights", "lora"])
def test_it_is_trained_on_from_its_own_output_layer(deep, adata, lora):
    pretrained = sfm.load(deep, labels=NAMES)
    adata.obs["kind"] = ["B cell", "T cell"] * 8
    model = sfm.model.CellClassifier.from_pretrained(pretrained, adata, labels_key="kind", lora=lora, **SYMBOLS)
    torch.testing.assert_close(logits_of(model.as_pretrained(), adata), logits_of(pretrained, adata))
    model.train(max_epochs=1, **TRAIN)
    assert set(model.predict()) <= set(NAMES)
    assert not torch.equal(logits_of(model.as_pretrained(), adata), logits_of(pretrained, adata))


def test_without_its_output_layer_it_is_a_model_of_values_like_the_pretrained_one(deep, adata):
    pretrained, plain = sfm.load(deep, labels=[]), sfm.load(GOLDEN / "model")
    assert type(pretrained.model) is type(plain.model)
    assert pretrained.params()["weights_hash"] == plain.params()["weights_hash"]
    assert pretrained.tokenizer.to_dict() == plain.tokenizer.to_dict()
