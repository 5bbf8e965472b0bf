from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
import scvi
import torch

import sfm
from sfm.datasets import toy_cells
from sfm.model import CausalCellModel
from sfm.tokenizers import TokenizedCells
from sfm.train._splitter import registered_tokens

if TYPE_CHECKING:
    from pathlib import Path

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TRAIN = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="module")
def model() -> CausalCellModel:
    adata = toy_cells(60)
    CausalCellModel.setup_anndata(adata, max_length=64)
    scvi.settings.seed = 0
    model = CausalCellModel(adata, **SIZES)
    model.train(max_epochs=15, batch_size=6, plan_kwargs={"lr": 3e-2}, **TRAIN)
    return model


@pytest.fixture(scope="module")
def generated(model: CausalCellModel) -> ad.AnnData:
    return model.generate_cells(20, prompt=["LYZ", "CST3"], seed=1)


@pytest.mark.parametrize("tokenizer", ["rank", "bins", "values"])
@pytest.mark.parametrize("backbone", ["llama", "bert", "qwen3"])
def test_life_cycle(backbone: str, tokenizer: str, tmp_path: Path) -> None:
    adata = toy_cells(60)
    CausalCellModel.setup_anndata(adata, tokenizer=tokenizer, max_length=32)
    model = CausalCellModel(adata, backbone=backbone, **SIZES)
    model.train(max_epochs=2, plan_kwargs={"lr": 1e-2}, **TRAIN)
    loss = model.history["train_loss"].to_numpy(dtype=float).ravel()
    assert loss[-1] < loss[0]
    vectors = model.get_latent_representation()
    model.save(str(tmp_path / "saved"))
    loaded = CausalCellModel.load(str(tmp_path / "saved"), adata=adata, accelerator="cpu")
    np.testing.assert_allclose(loaded.get_latent_representation(), vectors, atol=1e-5)
    model.save_pretrained(tmp_path / "directory")
    sfm.tl.embed(adata, tmp_path / "directory")
    np.testing.assert_allclose(adata.obsm["X_sfm"], vectors, atol=1e-5)
    again = CausalCellModel.from_pretrained(tmp_path / "directory", adata)
    np.testing.assert_allclose(again.get_latent_representation(), vectors, atol=1e-5)


def test_loss_is_that_of_the_next_gene(model: CausalCellModel) -> None:
    """Against the log-probabilities of one cell, position by position."""
    cells = registered_tokens(model.adata_manager)
    tokens = torch.from_numpy(cells[[0]].input_ids.astype(np.int64))[None]
    minibatch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    module = model.module.eval()
    with torch.no_grad():
        loss = module(minibatch)[2].loss
        ended = torch.cat([tokens, torch.tensor([[3]])], dim=1)[:, :64]  # <eos>, unless the cell was cut
        scores = module.network(ended, torch.ones_like(ended)).logits.log_softmax(dim=-1)
    expected = -scores[0, torch.arange(ended.shape[1] - 1), ended[0, 1:]].mean()
    torch.testing.assert_close(loss, expected)


def test_generated_cells_are_well_formed(model: CausalCellModel, generated: ad.AnnData) -> None:
    assert generated.shape == (20, len(model.vocabulary))
    tokens = TokenizedCells.from_obsm(generated.obsm["tokens"])
    prompt = sfm.genes.align_genes(["LYZ", "CST3"], model.vocabulary).token_ids
    for i in range(20):
        ids = tokens[[i]].input_ids
        assert len(set(ids.tolist())) == len(ids)
        assert ids[:3].tolist() == [model.vocabulary.cls_id, *prompt]
        assert model.vocabulary.eos_id not in ids
    assert generated.obs["n_genes"].tolist() == (tokens.lengths - 1).tolist()
    assert (generated.X > 0).sum(axis=1).A1.tolist() == generated.obs["n_genes"].tolist()
    assert generated.obs["complete"].tolist() == (tokens.lengths < 64).tolist()


def test_expression_gives_the_order_again(model: CausalCellModel, generated: ad.AnnData) -> None:
    again = model.tokenizer(generated.X, model.vocabulary.token_ids)
    assert np.array_equal(again.input_ids, TokenizedCells.from_obsm(generated.obsm["tokens"]).input_ids)


@pytest.mark.parametrize("file_format", ["h5ad", "zarr"])
def test_generated_cells_can_be_written_and_embedded(
    model: CausalCellModel, generated: ad.AnnData, file_format: str, tmp_path: Path
) -> None:
    path = tmp_path / f"cells.{file_format}"
    getattr(generated, f"write_{file_format}")(path)
    read = getattr(ad, f"read_{file_format}")(path)
    assert np.array_equal(read.X.data, generated.X.data)
    sfm.tl.embed(read, model, tokens_key="tokens")
    assert np.isfinite(read.obsm["X_sfm"]).all()


def test_seed_decides_and_nothing_else_is_disturbed(model: CausalCellModel) -> None:
    def draw(seed: int | None, batch_size: int = 64) -> np.ndarray:
        return model.generate_cells(6, seed=seed, max_genes=20, batch_size=batch_size).X.toarray()

    state = torch.get_rng_state()
    assert np.array_equal(draw(0), draw(0))
    assert not np.array_equal(draw(0), draw(1))
    assert not np.array_equal(draw(None), draw(None))
    assert torch.equal(torch.get_rng_state(), state)


def test_greedy_cells_are_equal_and_options_are_obeyed(model: CausalCellModel) -> None:
    greedy = model.generate_cells(3, temperature=0, max_genes=10)
    assert (greedy.obs["n_genes"] <= 10).all()
    assert np.array_equal(greedy.X[[0]].toarray(), greedy.X[[2]].toarray())
    likeliest = model.generate_cells(3, top_k=1, max_genes=10)
    assert np.array_equal(likeliest.X.toarray(), greedy.X.toarray())


def test_model_learns_what_ranks_first(model: CausalCellModel) -> None:
    """The genes that open generated cells are those that open real ones, far more often than by chance."""
    cells = registered_tokens(model.adata_manager)
    real = np.concatenate([cells[[i]].input_ids[1:11] for i in range(60)])
    generated = model.generate_cells(40, max_genes=10, seed=3)
    tokens = TokenizedCells.from_obsm(generated.obsm["tokens"])
    drawn = np.concatenate([tokens[[i]].input_ids[1:] for i in range(40)])
    by_chance = len(np.unique(real)) / len(model.vocabulary)
    assert np.isin(drawn, np.unique(real)).mean() > (1 + by_chance) / 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        pytest.param({"prompt": ["NOT_A_GENE"]}, ValueError, "does not know 'NOT_A_GENE'", id="unknown gene"),
        pytest.param({"prompt": "LYZ"}, TypeError, r"Pass a list of genes, prompt=\['LYZ'\]", id="string"),
        pytest.param({"prompt": ["LYZ", "LYZ"]}, ValueError, "names a gene twice", id="twice"),
        pytest.param({"n": 0}, ValueError, "n=0 cells", id="no cells"),
    ],
)
def test_bad_arguments_are_named(
    model: CausalCellModel, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.generate_cells(**{"n": 2, **options})


def test_values_are_not_generated() -> None:
    adata = toy_cells(30)
    CausalCellModel.setup_anndata(adata, tokenizer="bins", max_length=32)
    model = CausalCellModel(adata, **SIZES)
    model.train(max_epochs=1, **TRAIN)
    with pytest.raises(ValueError, match="'bins' tokenizer have values, which are not generated"):
        model.generate_cells(2)


def test_loaded_model_generates_the_same_without_data(model: CausalCellModel, tmp_path: Path) -> None:
    model.save(str(tmp_path / "saved"))
    loaded = CausalCellModel.load(str(tmp_path / "saved"), adata=False, accelerator="cpu")
    assert np.array_equal(
        loaded.generate_cells(3, max_genes=10).X.toarray(), model.generate_cells(3, max_genes=10).X.toarray()
    )


def test_backbone_that_cannot_be_causal_is_refused() -> None:
    adata = toy_cells(30)
    CausalCellModel.setup_anndata(adata, max_length=32)
    with pytest.raises(ValueError, match="modernbert"):
        CausalCellModel(adata, backbone="modernbert", **SIZES)
