"""Directories as scModelForge saves them, made here with the modules of torch that its encoder consists of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import sfm

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

_CLOSE = {"rtol": 1e-4, "atol": 1e-5}
_SIZE, _LENGTH = 16, 64


class _Encoder(nn.Module):
    """The published network: what `config.json` and the names of weights stand for."""

    def __init__(self, vocab_size: int, *, with_values: bool) -> None:
        super().__init__()
        self.embedding = nn.Module()
        self.embedding.gene_embedding = nn.Embedding(vocab_size, _SIZE, padding_idx=0)
        self.embedding.position_embedding = nn.Embedding(_LENGTH, _SIZE)
        if with_values:
            self.embedding.expression_proj = nn.Linear(1, _SIZE)
        self.embedding.layer_norm = nn.LayerNorm(_SIZE, eps=1e-12)
        layer = nn.TransformerEncoderLayer(
            _SIZE, 2, 32, activation="gelu", batch_first=True, norm_first=True, layer_norm_eps=1e-12
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Module()
        self.head.dense = nn.Linear(_SIZE, _SIZE)
        self.head.layer_norm = nn.LayerNorm(_SIZE, eps=1e-12)
        self.head.decoder = nn.Linear(_SIZE, vocab_size)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, input_ids: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        parts = self.embedding
        embedded = parts.gene_embedding(input_ids) + parts.position_embedding(torch.arange(input_ids.shape[1]))
        if hasattr(parts, "expression_proj"):
            embedded = embedded + parts.expression_proj(values.unsqueeze(-1))
        hidden = self.encoder(parts.layer_norm(embedded))
        head = self.head
        return hidden, head.decoder(head.layer_norm(nn.functional.gelu(head.dense(hidden))))


def _genes(adata: AnnData) -> dict[str, int]:
    return {gene: place + 4 for place, gene in enumerate(adata.var_names[::-1])}


def _save(directory: Path, adata: AnnData, *, with_values: bool = True, **changes: Any) -> _Encoder:
    torch.manual_seed(0)
    genes = _genes(adata)
    network = _Encoder(len(genes) + 4, with_values=with_values).eval()
    settings = {
        "architecture": "transformer_encoder",
        "vocab_size": len(genes) + 4,
        "hidden_dim": _SIZE,
        "num_layers": 2,
        "num_heads": 2,
        "ffn_dim": 32,
        "dropout": 0.1,
        "max_seq_len": _LENGTH,
        "pooling": "cls",
        "activation": "gelu",
        "use_expression_values": with_values,
    }
    of_tokens = {"strategy": "rank_value", "max_genes": 2048, "prepend_cls": True}
    content = {
        "scmodelforge_version": "0.1.0",
        "model_type": changes.pop("model_type", "transformer_encoder"),
        "tokenizer_config": of_tokens | changes.pop("tokenizer_config", {}),
        "model_config": settings | changes,
    }
    (directory / "config.json").write_text(json.dumps(content))
    (directory / "gene_vocab.json").write_text(json.dumps(genes))
    save_file(network.state_dict(), directory / "model.safetensors")
    return network


@torch.no_grad()
@pytest.mark.parametrize("with_values", [True, False], ids=["with values", "without values"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_vectors_and_logits_are_those_of_the_encoder(
    tmp_path: Path, toy: AnnData, pooling: str, *, with_values: bool
) -> None:
    network = _save(tmp_path, toy, with_values=with_values, pooling=pooling)
    pretrained = sfm.load(tmp_path)
    sfm.tl.embed(toy, pretrained, key_added="X")
    genes = _genes(toy)
    for row in range(4):
        counts = np.asarray(toy.X[row].todense()).ravel()
        ids = np.array([genes[name] for name in toy.var_names])
        order = [i for i in np.lexsort((ids, -counts)) if counts[i]][: _LENGTH - 1]
        input_ids = torch.tensor([[3, *ids[order]]])
        values = torch.tensor([[0.0, *np.log1p(counts[order] / counts.sum() * 1e4)]], dtype=torch.float32)
        hidden, logits = network(input_ids, values)
        expected = hidden[0, 0] if pooling == "cls" else hidden[0].mean(dim=0)
        np.testing.assert_allclose(toy.obsm["X"][row], expected, **_CLOSE)
        model: Any = pretrained.model
        given = values if with_values else None
        torch.testing.assert_close(
            model(input_ids, torch.ones_like(input_ids), given).logits, logits, rtol=1e-4, atol=1e-5
        )


def test_a_cell_has_the_same_vector_whatever_it_is_run_with(tmp_path: Path, toy: AnnData) -> None:
    _save(tmp_path, toy)
    pretrained = sfm.load(tmp_path)
    sfm.tl.embed(toy, pretrained, key_added="X", batch_size=1)
    order = np.random.default_rng(0).permutation(toy.n_obs)
    other = toy[order].copy()[:, ::-1].copy()
    sfm.tl.embed(other, pretrained, key_added="X", batch_size=7)
    np.testing.assert_allclose(other.obsm["X"], toy.obsm["X"][order], **_CLOSE)


def test_saved_models_come_back_with_the_same_vectors(tmp_path: Path, toy: AnnData) -> None:
    _save(tmp_path, toy, pooling="mean")
    pretrained = sfm.load(tmp_path)
    pretrained.save_pretrained(tmp_path / "ours")
    sfm.tl.embed(toy, pretrained, key_added="before")
    sfm.tl.embed(toy, tmp_path / "ours", key_added="after")
    np.testing.assert_array_equal(toy.obsm["after"], toy.obsm["before"])


def test_it_is_trained_further_and_fine_tuned(tmp_path: Path, toy: AnnData) -> None:
    _save(tmp_path, toy)
    weights = sfm.load(tmp_path).model.state_dict()
    model = sfm.model.MaskedCellModel.from_pretrained(tmp_path, toy)
    model.train(max_epochs=1, accelerator="cpu", batch_size=32)
    own = model.module.network.state_dict()
    assert not own["head.genes.weight"].equal(weights["head.genes.weight"])
    toy.obs["label"] = np.where(np.arange(toy.n_obs) % 2, "a", "b")
    classifier = sfm.model.CellClassifier.from_pretrained(tmp_path, toy, labels_key="label", lora={})
    classifier.train(max_epochs=1, accelerator="cpu", batch_size=32)
    own = classifier.module.network.state_dict()
    assert any("attention.qkv.lora_A" in name for name in own)
    assert own["cell.embedder.genes.weight"].equal(weights["cell.embedder.genes.weight"])


def test_a_list_of_genes_and_torch_weights_are_read_as_well(tmp_path: Path, toy: AnnData) -> None:
    network = _save(tmp_path, toy)
    expected = sfm.load(tmp_path)
    (tmp_path / "gene_vocab.json").write_text(json.dumps(list(toy.var_names[::-1])))
    (tmp_path / "model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    assert sfm.load(tmp_path).params() == expected.params()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "masked_autoencoder"}, "model_type 'masked_autoencoder'"),
        ({"attention": {"type": "gene_bias"}}, "attention 'gene_bias'"),
        ({"tokenizer_config": {"strategy": "binned_expression"}}, "strategy 'binned_expression'"),
        ({"vocab_size": 7}, "304 tokens, but the model has 7"),
        ({"hidden_dim": None}, "no 'hidden_dim'"),
        ({"num_layers": 3}, "missing"),
    ],
)
def test_other_models_and_vocabularies_are_refused(
    tmp_path: Path, toy: AnnData, changes: dict[str, Any], message: str
) -> None:
    _save(tmp_path, toy, **changes)
    with pytest.raises(ValueError, match=message):
        sfm.load(tmp_path)


def test_missing_and_damaged_files_are_named(tmp_path: Path, toy: AnnData) -> None:
    _save(tmp_path, toy)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:500])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        sfm.load(tmp_path)
    weights.write_bytes(whole)
    (tmp_path / "gene_vocab.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        sfm.load(tmp_path)
    (tmp_path / "gene_vocab.json").write_text("3")
    with pytest.raises(ValueError, match="neither a table of token ids nor a list"):
        sfm.load(tmp_path)
    (tmp_path / "gene_vocab.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"gene_vocab\.json"):
        sfm.load(tmp_path)
