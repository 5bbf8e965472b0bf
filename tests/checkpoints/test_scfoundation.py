"""scFoundation, against numbers of its reference implementation on a tiny random checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import sfm
from sfm._settings import settings
from sfm.data import encode_cells
from sfm.data._loader import collate
from sfm.inference import embed_tokens
from sfm.nn.architectures._scfoundation import contextual_genes

pytestmark = [
    pytest.mark.filterwarnings("ignore::sfm.checkpoints._licence.NonCommercialWarning"),
    pytest.mark.filterwarnings("ignore:.*knows few of the genes:UserWarning"),
]

_GOLDEN = Path(__file__).parents[1] / "goldens" / "scfoundation"
_N_GENES = 19_264
_TARGET, _DEPTH = _N_GENES, _N_GENES + 1
_CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scfoundation")
    (folder / "models").mkdir()
    shutil.copy(_GOLDEN / "models.ckpt", folder / "models")
    named = {int(i): name for i, name in json.loads((_GOLDEN / "named_genes.json").read_text()).items()}
    names = [named.get(i, f"G{i}") for i in range(_N_GENES)]
    pd.DataFrame({"gene_name": names, "index": range(_N_GENES)}).to_csv(
        folder / "OS_scRNA_gene_index.19264.tsv", sep="\t", index=False
    )
    return folder


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(_GOLDEN / "expected.npz") as file:
        return dict(file)


@pytest.fixture
def adata() -> ad.AnnData:
    return ad.read_h5ad(_GOLDEN / "input.h5ad")


@pytest.fixture(scope="module")
def pretrained(directory: Path) -> sfm.PretrainedCells:
    return sfm.load(directory)


def _vectors(adata: ad.AnnData, model: Any, **options: Any) -> np.ndarray:
    sfm.tl.embed(adata, model, gene_symbols="gene_name", key_added="X", **options)
    return adata.obsm["X"]


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize(
    ("run", "options"),
    [
        ("cell_all_t4", {}),
        ("cell_max_t4", {"cell_pooling": "max"}),
        ("cell_all_f1", {"target": "f1"}),
        ("rde_all_a5", {"part": "rde", "target": "a5"}),
    ],
)
def test_vectors_are_those_of_the_reference(
    directory: Path,
    adata: ad.AnnData,
    expected: dict[str, np.ndarray],
    run: str,
    options: dict[str, str],
    reference: bool,
) -> None:
    vectors = _vectors(adata, sfm.load(directory, reference=reference, **options))
    np.testing.assert_allclose(vectors, expected[run], **_CLOSE)
    # What the documentation says of the two modes.
    assert np.abs(vectors - expected[run]).max() < 2e-6


def _from_values(pretrained: Any, values: np.ndarray, target: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Embed cells with any value of genes and read depths, as the tokenizer would not make them."""
    tokens, numbers, ends = [], [], [0]
    for row, of_target, of_depth in zip(values, target, depth, strict=True):
        genes = np.flatnonzero(row > 0)
        tokens += [*genes, _TARGET, _DEPTH]
        numbers += [*row[genes], of_target, of_depth]
        ends.append(len(tokens))
    cells = sfm.TokenizedCells(np.array(tokens), np.array(ends), values=np.array(numbers), max_length=_N_GENES + 2)
    return embed_tokens(pretrained.model, cells, pad_id=pretrained.vocabulary.pad_id)


def _aligned(adata: ad.AnnData, pretrained: Any) -> np.ndarray:
    alignment = sfm.genes.align_genes(adata.var["gene_name"], pretrained.vocabulary)
    known = alignment.token_ids >= 0
    aligned = np.zeros((adata.n_obs, _N_GENES))
    counts = adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)
    np.add.at(aligned.T, alignment.token_ids[known], counts.T[known])
    return aligned


def test_the_network_gives_the_vectors_of_values_that_were_normalised_before(
    pretrained: Any, expected: dict[str, np.ndarray]
) -> None:
    values = _aligned(ad.read_h5ad(_GOLDEN / "input_lognorm.h5ad"), pretrained)
    vectors = _from_values(pretrained, values, np.full(16, 4.0), np.log10(values.sum(axis=1)))
    np.testing.assert_allclose(vectors, expected["cell_all_t4_prenorm"], **_CLOSE)


def test_the_network_gives_the_vectors_of_bulk_samples(
    pretrained: Any, adata: ad.AnnData, expected: dict[str, np.ndarray]
) -> None:
    counts = _aligned(adata, pretrained)
    totals = counts.sum(axis=1)
    values = np.log1p(counts / totals[:, None] * np.median(totals))
    depth = np.log10(values.sum(axis=1))
    np.testing.assert_allclose(_from_values(pretrained, values, depth, depth), expected["bulk_all"], **_CLOSE)


@pytest.fixture
def normalised(monkeypatch: pytest.MonkeyPatch) -> ad.AnnData:
    # Coverage of what is no counts is judged by the genes of the vocabulary, of which the golden has few.
    monkeypatch.setattr(settings, "min_gene_coverage", 0.0)
    return ad.read_h5ad(_GOLDEN / "input_lognorm.h5ad")


@pytest.fixture
def bulk(adata: ad.AnnData, pretrained: Any) -> ad.AnnData:
    """Samples on the genes of the model, normalised to their median total."""
    known = sfm.genes.align_genes(adata.var["gene_name"].to_numpy(), pretrained.vocabulary).token_ids >= 0
    samples = adata[:, known].copy()
    totals = samples.X.sum(axis=1).A1
    samples.X = sparse.diags(np.median(totals) / totals) @ samples.X
    samples.X = samples.X.tocsr().log1p()
    return samples


def test_cells_that_were_normalised_before_are_read_as_by_the_reference(
    directory: Path, normalised: ad.AnnData, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    model = sfm.load(directory, expression="log1p")
    np.testing.assert_allclose(_vectors(normalised, model), expected["cell_all_t4_prenorm"], **_CLOSE)
    alone = _vectors(normalised[[3, 7]].copy(), model, batch_size=1)
    np.testing.assert_allclose(alone, expected["cell_all_t4_prenorm"][[3, 7]], **_CLOSE)
    model.save_pretrained(tmp_path)
    again = sfm.load(tmp_path)
    assert again.tokenizer.to_dict() == model.tokenizer.to_dict()
    np.testing.assert_array_equal(_vectors(normalised.copy(), again), normalised.obsm["X"])


@pytest.mark.parametrize("target", ["t4", "f2"])
def test_bulk_samples_are_read_as_by_the_reference_at_their_own_depth(
    directory: Path, bulk: ad.AnnData, expected: dict[str, np.ndarray], target: str
) -> None:
    model = sfm.load(directory, expression="bulk", target=target)
    np.testing.assert_allclose(_vectors(bulk, model), expected["bulk_all"], **_CLOSE)
    np.testing.assert_allclose(_vectors(bulk[[5]].copy(), model), expected["bulk_all"][[5]], **_CLOSE)


@pytest.mark.parametrize("expression", ["counts", "log1p", "bulk"])
def test_a_matrix_in_another_state_is_refused(
    directory: Path, adata: ad.AnnData, normalised: ad.AnnData, expression: Any
) -> None:
    model = sfm.load(directory, expression=expression)
    other, needed = (adata, "log1p-normalised values") if expression != "counts" else (normalised, "raw counts")
    with pytest.raises(ValueError, match=f"but {needed} are needed"):
        _vectors(other, model)
    both = normalised.copy()
    both.layers["counts"] = adata.X.copy()
    sfm.tl.embed(both, model, gene_symbols="gene_name", layer="counts" if expression == "counts" else None)
    assert np.isfinite(both.obsm["X_sfm"]).all()


def test_an_unknown_kind_of_expression_is_refused(directory: Path) -> None:
    with pytest.raises(ValueError, match="Unknown expression='tpm'. Choose one of 'counts', 'log1p', 'bulk'"):
        sfm.load(directory, expression="tpm")


def test_values_are_embedded_as_in_the_reference(pretrained: Any, expected: dict[str, np.ndarray]) -> None:
    values = torch.from_numpy(expected["probe_values"])
    usual = (values < 100).numpy()  # 102 and 103 stand for hidden and padding there
    with torch.no_grad():
        vectors, weights = pretrained.model.embedder.values(values), pretrained.model.embedder.values.weights(values)
    np.testing.assert_allclose(vectors.numpy()[usual], expected["probe_value_emb"][usual], **_CLOSE)
    np.testing.assert_allclose(weights.numpy()[usual], expected["probe_value_weight"][usual], **_CLOSE)
    mask_vector = pretrained.model.embedder.hidden.weight[0].detach()
    np.testing.assert_allclose(mask_vector, expected["probe_value_emb"][list(values).index(102)], **_CLOSE)


@pytest.fixture(scope="module")
def gene_model(directory: Path) -> sfm.PretrainedCells:
    return sfm.load(directory, part="gene")


def _minibatch(adata: ad.AnnData, pretrained: Any, rows: list[int]) -> dict[str, torch.Tensor]:
    cells = encode_cells(adata, pretrained.tokenizer, gene_symbols="gene_name", model_name="scFoundation").cells
    return collate(cells, np.array(rows), pad_id=pretrained.vocabulary.pad_id)


@torch.no_grad()
def test_genes_have_the_vectors_of_the_reference_whatever_the_minibatch(
    gene_model: Any, adata: ad.AnnData, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    rows = [expected["cell_id"].tolist().index(cell) for cell in expected["gene_cells"]]
    vectors = contextual_genes(gene_model.model, **_minibatch(adata, gene_model, rows))
    assert vectors.shape == (2, _N_GENES, 16)
    np.testing.assert_allclose(vectors[:, expected["gene_rows"]], expected["gene_emb_t4"], **_CLOSE)
    alone = contextual_genes(gene_model.model, **_minibatch(adata, gene_model, rows[1:]))
    torch.testing.assert_close(vectors[1:], alone, rtol=1e-4, atol=1e-5)
    gene_model.save_pretrained(tmp_path)
    again = contextual_genes(sfm.load(tmp_path).model, **_minibatch(adata, gene_model, rows[1:]))
    torch.testing.assert_close(alone, again, rtol=0, atol=0)
    assert gene_model.model.readout.decoder.expression(alone).shape == (1, _N_GENES)


def test_only_the_part_for_genes_has_a_decoder(pretrained: Any, adata: ad.AnnData) -> None:
    with pytest.raises(ValueError, match="part='gene'"):
        contextual_genes(pretrained.model, **_minibatch(adata, pretrained, [0]))


def test_a_cell_has_the_same_vector_whatever_it_is_run_with(pretrained: Any, adata: ad.AnnData) -> None:
    vectors = _vectors(adata, pretrained, batch_size=1)
    rng = np.random.default_rng(0)
    order, genes = rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)
    shuffled = adata[order].copy()[:, genes].copy()
    np.testing.assert_allclose(_vectors(shuffled, pretrained, batch_size=7), vectors[order], **_CLOSE)
    subset = adata[3:6].copy()
    np.testing.assert_allclose(_vectors(subset, pretrained), vectors[3:6], **_CLOSE)


def test_empty_cells_are_all_zero_and_reported(pretrained: Any, adata: ad.AnnData) -> None:
    counts = adata.X.toarray() if sparse.issparse(adata.X) else np.array(adata.X)
    counts[5] = 0
    adata.X = counts
    with pytest.warns(UserWarning, match="1 of 16 cells"):
        vectors = _vectors(adata, pretrained)
    assert not vectors[5].any()
    assert np.isfinite(vectors).all()


def test_saved_models_come_back_with_the_same_vectors_and_tokens(
    directory: Path, adata: ad.AnnData, tmp_path: Path
) -> None:
    loaded = sfm.load(directory, target="f2", cell_pooling="max")
    loaded.save_pretrained(tmp_path)
    again = sfm.load(tmp_path)
    assert again.tokenizer.params() == loaded.tokenizer.params()
    np.testing.assert_array_equal(_vectors(adata.copy(), again), _vectors(adata, loaded))


@pytest.mark.parametrize("lora", [None, {}])
def test_classifiers_are_trained_on_it(directory: Path, adata: ad.AnnData, lora: Any) -> None:
    adata.obs["label"] = np.where(np.arange(16) % 2, "a", "b")
    before = {name: tensor.clone() for name, tensor in sfm.load(directory).model.state_dict().items()}
    classifier = sfm.model.CellClassifier.from_pretrained(
        directory, adata, labels_key="label", gene_symbols="gene_name", lora=lora
    )
    classifier.train(max_epochs=1, train_size=0.8, accelerator="cpu", batch_size=8)
    own = classifier.module.network.state_dict()
    changed = {
        name for name, tensor in before.items() if f"cell.{name}" in own and not own[f"cell.{name}"].equal(tensor)
    }
    adapted = {name.split(".lora_")[0] for name in own if ".lora_A." in name}
    if lora is None:
        assert {"embedder.genes.weight", "backbone.layers.0.attention.qkv.weight", "backbone.norm.weight"} <= changed
    else:
        assert not changed
        assert adapted == {f"cell.backbone.layers.{i}.attention.{part}" for i in (0, 1) for part in ("qkv", "output")}
    assert set(classifier.predict()) <= {"a", "b"}


def test_the_gene_list_is_looked_for_asked_for_and_checked(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"OS_scRNA_gene_index\.19264\.tsv.*biomap-research"):
        sfm.load(_only_weights(tmp_path))
    genes = directory / "OS_scRNA_gene_index.19264.tsv"
    assert len(sfm.load(tmp_path, gene_list=genes).vocabulary) == _N_GENES
    with pytest.raises(FileNotFoundError, match="gene_list="):
        sfm.load(tmp_path, gene_list=tmp_path / "none.tsv")
    table = pd.read_csv(genes, sep="\t")
    table[:-1].to_csv(tmp_path / "short.tsv", sep="\t", index=False)
    with pytest.raises(ValueError, match="lists 19263 genes, but the model has 19264"):
        sfm.load(tmp_path, gene_list=tmp_path / "short.tsv")
    table.rename(columns={"index": "number"}).to_csv(tmp_path / "other.tsv", sep="\t", index=False)
    with pytest.raises(ValueError, match="not 'gene_name' and 'index'"):
        sfm.load(tmp_path, gene_list=tmp_path / "other.tsv")


def _only_weights(folder: Path) -> Path:
    shutil.copy(_GOLDEN / "models.ckpt", folder)
    return folder


def test_truncated_and_other_files_are_refused(directory: Path, tmp_path: Path) -> None:
    whole = (_GOLDEN / "models.ckpt").read_bytes()
    (tmp_path / "models.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated"):
        sfm.load(tmp_path)
    torch.save({"model_state_dict": {}}, tmp_path / "models.ckpt")
    with pytest.raises(ValueError, match="has no part 'cell'"):
        sfm.load(tmp_path)
    content = torch.load(_GOLDEN / "models.ckpt", weights_only=True)
    del content["cell"]["state_dict"]["model.encoder.norm.weight"]
    torch.save(content, tmp_path / "models.ckpt")
    with pytest.raises(ValueError, match=r"1 missing \(backbone.norm.weight\)"):
        sfm.load(tmp_path, gene_list=directory / "OS_scRNA_gene_index.19264.tsv")
    with pytest.raises(ValueError, match="is not a checkpoint of Geneformer, but a checkpoint of scFoundation"):
        sfm.load(directory, family="geneformer")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": "genes"}, "part='genes'"),
        ({"cell_pooling": "mean"}, "cell_pooling='mean'"),
        ({"target": "4"}, "target='4'"),
    ],
)
def test_unknown_options_are_refused(directory: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sfm.load(directory, **options)


def test_gene_vectors_are_means_of_all_decoded_genes(
    directory: Path, adata: ad.AnnData, expected: dict[str, np.ndarray]
) -> None:
    gene_model = sfm.load(directory, part="gene")
    rows = [int(np.flatnonzero(adata.obs["cell_id"] == cell)[0]) for cell in expected["gene_cells"]]
    some = adata[rows].copy()
    sfm.tl.embed_genes(some, gene_model, gene_symbols="gene_name")
    token_ids = sfm.get.gene_fate(some, gene_model, gene_symbols="gene_name")["token_id"].to_numpy()
    wanted = dict(zip(expected["gene_rows"].tolist(), expected["gene_emb_t4"].mean(axis=0), strict=True))
    genes = [i for i, token in enumerate(token_ids) if int(token) in wanted]
    assert len(genes) > 20
    theirs = np.stack([wanted[int(token_ids[i])] for i in genes])
    np.testing.assert_allclose(some.varm["X_sfm_genes"][genes], theirs, **_CLOSE)
