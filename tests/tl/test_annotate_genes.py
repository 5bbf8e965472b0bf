from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from anndata.tests.helpers import assert_equal

import sfm
from sfm.checkpoints import PretrainedCells
from sfm.datasets import toy_cells, toy_model
from sfm.nn import CellConfig, CellForTokenClassification
from sfm.tl._annotate_genes import annotate_genes

if TYPE_CHECKING:
    from pathlib import Path

KEY = "sfm_gene_label"
LABELS = ["kind 10", "kind 9", "neither"]
SLOTS = ("confidence", "n_cells")


def gene_model(tokenizer: str = "rank", *, labels: list[str] | None = None, **settings: Any) -> PretrainedCells:
    """A tiny model with random weights, large enough that genes differ."""
    toy = toy_model(tokenizer, max_length=64)
    config = toy.model.config.to_dict() | {"id2label": dict(enumerate(labels or LABELS)), "label2id": None, **settings}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = CellForTokenClassification(CellConfig.from_dict(config)).eval()
        if hasattr(network.head, "classifier"):
            torch.nn.init.normal_(network.head.classifier.weight)
    return PretrainedCells(network, toy.tokenizer, name="toy gene labels")


@pytest.fixture(params=["rank", "bins", "values"])
def model(request: pytest.FixtureRequest) -> PretrainedCells:
    return gene_model(request.param)


def by_gene(adata: ad.AnnData) -> pd.DataFrame:
    """Everything that was written, by name of the gene."""
    written = adata.var[[f"{KEY}_{slot}" for slot in SLOTS]].join(adata.varm[f"{KEY}_probabilities"])
    return written.assign(label=adata.var[KEY].astype(object))


def assert_same(left: ad.AnnData, right: ad.AnnData) -> None:
    a, b = by_gene(left), by_gene(right).loc[left.var_names]
    assert (a["label"].isna() == b["label"].isna()).all()
    assert (a[f"{KEY}_n_cells"] == b[f"{KEY}_n_cells"]).all()
    np.testing.assert_allclose(a[LABELS], b[LABELS], atol=1e-5)
    assert (a["label"].dropna() == b["label"].dropna()).mean() > 0.99


def test_probabilities_are_the_mean_over_the_cells(model: PretrainedCells, toy: ad.AnnData) -> None:
    annotate_genes(toy, model)
    network, cells = model.model, sfm.data.encode_cells(toy, model.tokenizer, model_name="toy").cells
    found: dict[int, list[np.ndarray]] = {}
    with torch.no_grad():
        for cell in cells:
            values = None if cell.values is None else cell.values[None]
            logits = network(cell.input_ids[None], cell.attention_mask[None], values).logits[0]
            for token, probabilities in zip(cell.input_ids.tolist(), logits.softmax(dim=1).numpy(), strict=True):
                found.setdefault(token, []).append(probabilities)
    token_ids = sfm.genes.align_genes(toy.var_names, model.vocabulary).token_ids
    for gene, token in zip(toy.var_names, token_ids, strict=True):
        assert toy.var.loc[gene, f"{KEY}_n_cells"] == len(found.get(token, []))
        if token in found:
            expected = np.mean(found[token], axis=0)
            np.testing.assert_allclose(toy.varm[f"{KEY}_probabilities"].loc[gene], expected, atol=1e-5)
            assert toy.var.loc[gene, KEY] == LABELS[expected.argmax()]
            assert toy.var.loc[gene, f"{KEY}_confidence"] == pytest.approx(expected.max(), abs=1e-5)
        else:
            assert toy.var.loc[gene, [KEY, f"{KEY}_confidence"]].isna().all()
    assert 0 < (toy.var[f"{KEY}_n_cells"] == 0).sum() < toy.n_vars, "the example has genes of both kinds"


def test_types_of_the_slots(model: PretrainedCells, toy: ad.AnnData) -> None:
    annotate_genes(toy, model)
    assert toy.var[KEY].cat.categories.isin(LABELS).all()
    assert list(toy.var[KEY].cat.categories) == [
        name for name in ["kind 9", "kind 10", "neither"] if (toy.var[KEY] == name).any()
    ]
    assert toy.var[f"{KEY}_confidence"].dtype == np.float32
    assert toy.var[f"{KEY}_n_cells"].dtype == np.int64
    table = toy.varm[f"{KEY}_probabilities"]
    assert list(table.columns) == LABELS
    assert set(table.dtypes) == {np.dtype("float32")}
    np.testing.assert_allclose(table.dropna().sum(axis=1), 1, atol=1e-5)
    params = toy.uns[KEY]["params"]
    assert params["model"] == "toy gene labels"
    assert params["n_genes_labelled"] == (toy.var[f"{KEY}_n_cells"] > 0).sum()
    assert params["slot"] == "adata.X"


@pytest.mark.parametrize("batch_size", [1, 7, "auto"])
def test_order_and_minibatch_size_do_not_matter(model: PretrainedCells, toy: ad.AnnData, batch_size: Any) -> None:
    annotate_genes(toy, model, batch_size=16)
    rng = np.random.default_rng(0)
    other = toy_cells(60)[rng.permutation(60), rng.permutation(300)].copy()
    annotate_genes(other, model, batch_size=batch_size)
    assert_same(toy, other)


def test_names_of_genes_do_not_matter(model: PretrainedCells, toy: ad.AnnData) -> None:
    annotate_genes(toy, model)
    other = toy_cells(60)
    annotate_genes(other, model, gene_symbols="ensembl_id", key_added=KEY)
    assert_same(toy, other)


def test_more_cells_are_averaged(toy: ad.AnnData) -> None:
    model = gene_model()
    first, second = toy[:20].copy(), toy[20:].copy()
    for part in (toy, first, second):
        annotate_genes(part, model)
    n = [part.var[f"{KEY}_n_cells"].to_numpy()[:, None] for part in (first, second)]
    sums = [np.nan_to_num(part.varm[f"{KEY}_probabilities"]) * m for part, m in zip((first, second), n, strict=True)]
    seen = (n[0] + n[1]).ravel() > 0
    expected = (sums[0] + sums[1])[seen] / (n[0] + n[1])[seen]
    np.testing.assert_allclose(toy.varm[f"{KEY}_probabilities"][seen], expected, atol=1e-5)


def test_columns_of_one_gene_get_one_result(toy: ad.AnnData) -> None:
    names = toy.var_names.to_list()
    twin = ad.AnnData(toy.X.copy(), obs=toy.obs, var=pd.DataFrame(index=[*names[:-1], toy.var["ensembl_id"].iloc[0]]))
    annotate_genes(twin, gene_model())
    first, last = by_gene(twin).iloc[0], by_gene(twin).iloc[-1]
    assert first[f"{KEY}_n_cells"] > 0
    pd.testing.assert_series_equal(first, last, check_names=False)


def test_unknown_genes_are_missing(toy: ad.AnnData) -> None:
    toy.var_names = [*toy.var_names[:-2], "NOT-A-GENE", "NOR-THIS"]
    annotate_genes(toy, gene_model())
    unknown = by_gene(toy).loc[["NOT-A-GENE", "NOR-THIS"]]
    assert unknown[["label", f"{KEY}_confidence", *LABELS]].isna().all(axis=None)
    assert (unknown[f"{KEY}_n_cells"] == 0).all()


def test_raw_is_read_and_its_genes_found_by_name(toy: ad.AnnData) -> None:
    model = gene_model()
    annotate_genes(toy, model)
    other = toy_cells(60)
    other.raw = other
    other = other[:, np.random.default_rng(0).permutation(300)[:40]].copy()
    other.X = other.X * 0.5  # no counts there
    other.var["elsewhere"] = True
    annotate_genes(other, model, use_raw=True)
    assert_same(other, toy)
    assert list(other.raw.var.columns) == ["ensembl_id"]
    assert other.uns[KEY]["params"]["slot"] == "adata.raw.X"


def test_raw_without_a_common_gene_is_refused(toy: ad.AnnData) -> None:
    toy.raw = toy
    toy.var_names = [f"other-{i}" for i in range(toy.n_vars)]
    before = toy.copy()
    with pytest.raises(ValueError, match=r"None of the 300 genes .* Pass `adata.raw.to_adata\(\)`"):
        annotate_genes(toy, gene_model(), use_raw=True)
    assert_equal(toy, before)


def test_copy_and_key_added(toy: ad.AnnData) -> None:
    before = toy.copy()
    written = annotate_genes(toy, gene_model(), key_added="kind", copy=True)
    assert_equal(toy, before)
    assert set(written.var) - set(toy.var) == {"kind", "kind_confidence", "kind_n_cells"}
    assert set(written.varm) == {"kind_probabilities"}
    assert set(written.uns) == {"kind"}
    assert_equal(written.X, toy.X)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_slots_survive_writing(toy: ad.AnnData, tmp_path: Path, suffix: str) -> None:
    annotate_genes(toy, gene_model())
    path = tmp_path / f"genes.{suffix}"
    getattr(toy, f"write_{suffix}")(path)
    again = getattr(ad, f"read_{suffix}")(path)
    pd.testing.assert_frame_equal(by_gene(again), by_gene(toy))
    assert dict(again.uns[KEY]["params"]).keys() == toy.uns[KEY]["params"].keys()


def test_directory_and_network_are_models(toy: ad.AnnData, tmp_path: Path) -> None:
    model = gene_model()
    annotate_genes(toy, model)
    model.save_pretrained(tmp_path)
    for source, options in ((tmp_path, {}), (model.model, {"tokenizer": model.tokenizer})):
        other = toy_cells(60)
        annotate_genes(other, source, **options)
        assert_same(toy, other)


def test_cells_without_known_genes_are_no_matter(toy: ad.AnnData) -> None:
    model = gene_model()
    annotate_genes(toy, model)
    other = toy_cells(60)
    empty = ad.AnnData(other.X[:2] * 0, var=other.var)
    other = ad.concat([empty, other], merge="same")
    annotate_genes(other, model)
    assert_same(toy, other)


@pytest.mark.parametrize("source", ["sfm-mini", toy_model()], ids=["name", "loaded"])
def test_other_models_are_refused(toy: ad.AnnData, source: Any) -> None:
    before = toy.copy()
    with pytest.raises(
        TypeError, match=r"does not label genes; sfm.nn.CellForTokenClassification does. Pass a trained"
    ):
        annotate_genes(toy, source)
    assert_equal(toy, before)


def test_labels_that_do_not_exclude_each_other_are_refused(toy: ad.AnnData) -> None:
    with pytest.raises(TypeError, match=r"problem_type='multi_label_classification', 3 outputs"):
        annotate_genes(toy, gene_model(problem_type="multi_label_classification"))


def test_scaled_values_are_refused_and_nothing_is_written(toy: ad.AnnData) -> None:
    toy.X = toy.X * 0.5
    before = toy.copy()
    with pytest.raises(ValueError, match=r"adata.X holds"):
        annotate_genes(toy, gene_model())
    assert_equal(toy, before)
