"""CellPLM, against numbers of its reference implementation on a tiny random checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse

import sfm
from sfm.data import encode_cells
from sfm.data._loader import collate

_GOLDEN = Path(__file__).parents[1] / "goldens" / "cellplm"
_EMPTY = 2
_CLOSE = {"rtol": 1e-4, "atol": 1e-5}
pytestmark = pytest.mark.filterwarnings("ignore:1 of 16 cells have no count:UserWarning")


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(_GOLDEN / "expected.npz") as file:
        return dict(file)


@pytest.fixture
def adata() -> ad.AnnData:
    adata = ad.read_h5ad(_GOLDEN / "input.h5ad")
    adata.var_names_make_unique()
    return adata


@pytest.fixture(scope="module")
def pretrained() -> sfm.PretrainedCells:
    return sfm.load(_GOLDEN)


def _vectors(adata: ad.AnnData, model: Any, **options: Any) -> np.ndarray:
    sfm.tl.embed(adata, model, key_added="X", **options)
    return adata.obsm["X"]


def _alone(adata: ad.AnnData) -> ad.AnnData:
    """Return the cells that have counts."""
    return adata[np.delete(np.arange(adata.n_obs), _EMPTY)].copy()


@pytest.mark.parametrize("together", [0, 5])
@torch.no_grad()
def test_cells_together_have_the_vectors_of_the_reference_and_its_draws(
    adata: ad.AnnData, expected: dict[str, np.ndarray], together: int
) -> None:
    reference = sfm.load(_GOLDEN, reference=True, cells_together=together)
    vectors = _vectors(adata, reference, batch_size=3)  # which does not matter: all cells are one minibatch
    np.testing.assert_allclose(vectors, expected[f"emb_batch{together}"], **_CLOSE)
    cells = encode_cells(adata, reference.tokenizer, model_name="CellPLM").cells
    minibatch = collate(cells, np.arange(16), pad_id=reference.vocabulary.pad_id)
    model: Any = reference.model
    hidden = model(**minibatch).last_hidden_state
    np.testing.assert_allclose(hidden[:, 0], expected[f"pre_latent_batch{together}"], **_CLOSE)
    logits = model.readout.cluster(hidden[:, 0])
    np.testing.assert_allclose(logits, expected[f"cluster_logits_batch{together}"], **_CLOSE)
    drawn = (logits + model.readout._noise(minibatch["input_ids"][:, 0])).argmax(dim=1)
    np.testing.assert_array_equal(drawn, expected[f"cluster_drawn_batch{together}"])
    assert (drawn != logits.argmax(dim=1)).any()


def test_other_seeds_give_other_draws(adata: ad.AnnData, expected: dict[str, np.ndarray]) -> None:
    vectors = _vectors(adata, sfm.load(_GOLDEN, reference=True, seed=1))
    assert np.abs(vectors - expected["emb_batch0"]).max() > 0.1


def test_batches_are_run_apart_in_the_reference_mode(adata: ad.AnnData) -> None:
    reference = sfm.load(_GOLDEN, reference=True, batch_key="donor")
    adata.obs["donor"] = ["a", "b"] * 8
    model: Any = reference.model

    def hidden(cells: ad.AnnData) -> torch.Tensor:
        tokens = encode_cells(cells, reference.tokenizer, model_name="CellPLM").cells
        minibatch = collate(tokens, np.arange(cells.n_obs), pad_id=reference.vocabulary.pad_id)
        with torch.no_grad():
            return model(**minibatch).last_hidden_state[:, 0]

    whole = hidden(adata)
    torch.testing.assert_close(whole[1::2], hidden(adata[1::2].copy()), rtol=1e-4, atol=1e-5)
    del adata.obs["donor"]
    assert (whole - hidden(adata)).abs().max() > 1e-3


def test_levels_are_the_same_tokens_in_whatever_parts_cells_are_read(adata: ad.AnnData) -> None:
    tokenizer = sfm.load(_GOLDEN, reference=True).tokenizer
    adata.obs["batch"] = list("abcb") * 4
    whole, part = tokenizer.context_tokens(adata.obs), tokenizer.context_tokens(adata.obs[5:])
    assert whole is not None
    np.testing.assert_array_equal(part, whole[5:])
    assert len(np.unique(whole)) == 3
    assert whole.min() >= tokenizer.vocabulary.size


@pytest.mark.parametrize("reference", [True, False])
def test_genes_have_the_mean_vector_of_the_cells_that_express_them(
    adata: ad.AnnData,
    reference: bool,
) -> None:
    loaded: Any = sfm.load(_GOLDEN, reference=reference)
    sfm.tl.embed_genes(adata, loaded)
    gene = int(np.flatnonzero(np.isfinite(adata.varm["X_sfm_genes"]).all(axis=1))[0])
    cells = encode_cells(adata, loaded.tokenizer, model_name="CellPLM").cells
    minibatch = collate(cells, np.arange(16), pad_id=loaded.vocabulary.pad_id)
    with torch.no_grad():
        hidden = loaded.model(**minibatch).last_hidden_state[:, 0]
    token = sfm.genes.align_genes(adata.var_names, loaded.vocabulary).token_ids[gene]
    expressed = (minibatch["input_ids"] == token).any(dim=1)
    np.testing.assert_allclose(adata.varm["X_sfm_genes"][gene], hidden[expressed].mean(dim=0), **_CLOSE)


def test_the_modes_differ_as_the_documentation_says(
    adata: ad.AnnData, pretrained: Any, expected: dict[str, np.ndarray]
) -> None:
    difference = np.abs(_vectors(adata, pretrained) - expected["emb_batch0"]).max(axis=1)
    assert round(float(np.median(np.delete(difference, _EMPTY))), 2) == 0.42
    assert round(float(np.delete(difference, _EMPTY).max()), 2) == 0.69


def test_a_cell_has_the_same_vector_whatever_it_is_run_with(pretrained: Any, adata: ad.AnnData) -> None:
    vectors = _vectors(adata, pretrained, batch_size=1)
    rng = np.random.default_rng(0)
    order, genes = rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)
    shuffled = adata[order].copy()[:, genes].copy()
    np.testing.assert_allclose(_vectors(shuffled, pretrained, batch_size=7), vectors[order], **_CLOSE)
    np.testing.assert_allclose(_vectors(adata[3:6].copy(), pretrained), vectors[3:6], **_CLOSE)
    assert np.ptp(vectors, axis=0).max() > 0.1


@torch.no_grad()
def test_a_cell_alone_has_the_vector_that_the_network_gives_for_a_group_of_one(
    adata: ad.AnnData, pretrained: Any
) -> None:
    groups = sfm.load(_GOLDEN, reference=True, cells_together=1)
    model: Any = groups.model
    model.readout.seed = None
    np.testing.assert_allclose(_vectors(_alone(adata), groups), _vectors(_alone(adata), pretrained), **_CLOSE)


@pytest.mark.parametrize("convert", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_tokens_do_not_depend_on_how_counts_are_stored(pretrained: Any, convert: Any) -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.7, (9, 20)).astype(np.int64)
    gene_ids = rng.permutation(62)[:20].astype(np.int32)
    gene_ids[4] = -1
    plain = pretrained.tokenizer(counts, gene_ids)
    columns = rng.permutation(20)
    other = pretrained.tokenizer(convert(counts[:, columns].astype(np.float32)), gene_ids[columns])
    np.testing.assert_array_equal(other.input_ids, plain.input_ids)
    np.testing.assert_array_equal(other.values, plain.values)


def test_columns_of_the_same_gene_are_summed(pretrained: Any) -> None:
    cells = pretrained.tokenizer(np.array([[1, 2, 4, 0], [0, 0, 0, 0]]), np.array([3, -1, 3, 5]))
    assert cells.input_ids.tolist() == [3]
    assert cells.lengths.tolist() == [1, 0]
    np.testing.assert_allclose(cells.values, np.log1p([5]), rtol=1e-6)


def test_the_genes_with_the_lowest_counts_are_cut(pretrained: Any) -> None:
    tokenizer = type(pretrained.tokenizer)(pretrained.vocabulary, max_length=2)
    assert tokenizer(np.array([[1, 4, 2, 4]]), np.array([9, 8, 7, 6])).input_ids.tolist() == [6, 8]


def test_empty_cells_are_all_zero_and_reported(pretrained: Any, adata: ad.AnnData) -> None:
    with pytest.warns(UserWarning, match="1 of 16 cells"):
        vectors = _vectors(adata, pretrained)
    assert not vectors[_EMPTY].any()
    assert np.isfinite(vectors).all()


@pytest.mark.parametrize("reference", [True, False])
def test_saved_models_come_back_with_the_same_vectors_and_tokens(
    adata: ad.AnnData,
    tmp_path: Path,
    reference: bool,
) -> None:
    loaded = sfm.load(_GOLDEN, reference=reference)
    loaded.save_pretrained(tmp_path)
    again = sfm.load(tmp_path)
    assert again.tokenizer.params() == loaded.tokenizer.params()
    np.testing.assert_array_equal(_vectors(adata.copy(), again), _vectors(adata, loaded))


@pytest.mark.parametrize("lora", [None, {}])
def test_classifiers_are_trained_on_it(adata: ad.AnnData, lora: Any) -> None:
    adata = _alone(adata)
    adata.obs["label"] = np.where(np.arange(15) % 2, "a", "b")
    before = {name: tensor.clone() for name, tensor in sfm.load(_GOLDEN).model.state_dict().items()}
    classifier = sfm.model.CellClassifier.from_pretrained(_GOLDEN, adata, labels_key="label", lora=lora)
    classifier.train(max_epochs=1, train_size=0.8, accelerator="cpu", batch_size=8)
    own = classifier.module.network.state_dict()
    changed = {
        name for name, tensor in before.items() if f"cell.{name}" in own and not own[f"cell.{name}"].equal(tensor)
    }
    adapted = {name.split(".lora_")[0] for name in own if ".lora_A." in name}
    if lora is None:
        assert {"embedder.genes.weight", "backbone.layers.0.attention.query.weight", "readout.mean.weight"} <= changed
    else:
        assert not changed
        parts = ("query", "key", "value", "output")
        assert adapted == {f"cell.backbone.layers.{i}.attention.{part}" for i in (0, 1) for part in parts}
    assert set(classifier.predict()) <= {"a", "b"}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for path in _GOLDEN.glob("2023*"):
        shutil.copy(path, tmp_path)
    return tmp_path


def test_a_missing_or_other_configuration_is_refused(copy: Path) -> None:
    path = copy / "20230926_85M.config.json"
    settings = json.loads(path.read_text())
    for change, message in [
        ({"gene_list": settings["gene_list"][:-1]}, "62 genes, but its configuration lists 61"),
        ({"enc_mod": "performer"}, "'enc_mod': 'performer'"),
        ({"enc_layers": 3}, "missing"),
    ]:
        path.write_text(json.dumps(settings | change))
        with pytest.raises(ValueError, match=message):
            sfm.load(copy)
    del settings["gene_list"]
    path.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="no 'gene_list'"):
        sfm.load(copy)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"20230926_85M\.config\.json"):
        sfm.load(copy)


def test_truncated_other_and_several_files_are_refused(copy: Path) -> None:
    path = copy / "20230926_85M.best.ckpt"
    whole = path.read_bytes()
    shutil.copy(path, copy / "2024.best.ckpt")
    with pytest.raises(ValueError, match="several versions"):
        sfm.load(copy)
    (copy / "2024.best.ckpt").unlink()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated"):
        sfm.load(copy)
    torch.save({"cell": {}}, path)
    with pytest.raises(ValueError, match="so it is no CellPLM"):
        sfm.load(copy)
    with pytest.raises(ValueError, match="is not a checkpoint of Geneformer, but a checkpoint of CellPLM"):
        sfm.load(copy, family="geneformer")
