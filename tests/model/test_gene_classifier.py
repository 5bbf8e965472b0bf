from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
import torch

import sfm
from sfm.checkpoints._weights import weights_hash
from sfm.datasets import toy_cells, toy_model
from sfm.model._gene_classifier import GeneClassifier
from sfm.nn._masking import IGNORED
from sfm.tl._annotate_genes import annotate_genes

if TYPE_CHECKING:
    from pathlib import Path

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TRAIN = {"accelerator": "cpu", "enable_progress_bar": False}
LABELS = ["cytoplasmic", "mitochondrial", "ribosomal"]


def labelled_cells(n_cells: int = 60) -> ad.AnnData:
    """Cells whose genes have a label by their name, but for every tenth."""
    adata = toy_cells(n_cells)
    prefix = adata.var_names.str[:2]
    kind = np.where(prefix == "RP", "ribosomal", np.where(prefix == "MT", "mitochondrial", "cytoplasmic"))
    adata.var["kind"] = pd.Series(kind, index=adata.var_names).where(np.arange(adata.n_vars) % 10 > 0)
    return adata


@pytest.fixture
def model() -> GeneClassifier:
    adata = labelled_cells()
    GeneClassifier.setup_anndata(adata, gene_labels_key="kind", max_length=64)
    scvi.settings.seed = 0
    return GeneClassifier(adata, **SIZES)


def shuffled(adata: ad.AnnData) -> ad.AnnData:
    """The same cells without labels, genes in another order and named by Ensembl id."""
    fresh = ad.AnnData(adata.X.copy(), obs=adata.obs[["cell_type"]], var=adata.var[["ensembl_id"]])
    fresh.var_names = fresh.var["ensembl_id"]
    return fresh[:, np.random.default_rng(0).permutation(fresh.n_vars)].copy()


def by_ensembl_id(table: pd.DataFrame, adata: ad.AnnData) -> pd.DataFrame:
    return table.set_axis(adata.var.loc[table.index, "ensembl_id"])


def test_life_cycle(model: GeneClassifier, tmp_path: Path) -> None:
    model.train(max_epochs=2, **TRAIN)
    metrics = {"validation_accuracy", "validation_macro_f1", "validation_calibration_error", "validation_loss"}
    assert metrics | {"train_loss"} <= set(model.history)
    assert model.labels == LABELS
    table = model.predict_genes(soft=True)
    assert list(table.columns) == LABELS
    assert list(table.index) == list(model.adata.var_names)
    best = model.predict_genes()
    assert best.dropna().equals(table.dropna().idxmax(axis=1).astype(object).rename("kind"))
    assert best.isna().equals(table.isna().any(axis=1))

    model.save(str(tmp_path / "saved"))
    query = shuffled(model.adata)
    loaded = GeneClassifier.load(str(tmp_path / "saved"), adata=query, accelerator="cpu")
    assert loaded.labels == LABELS
    pd.testing.assert_frame_equal(loaded.gene_labels, model.gene_labels)
    again = loaded.predict_genes(soft=True).loc[by_ensembl_id(table, model.adata).index]
    np.testing.assert_allclose(again, table, atol=1e-5)
    loaded.train(max_epochs=1, **TRAIN)
    assert len(loaded.history["validation_loss"]) == 3


def test_genes_are_held_out_and_not_cells(model: GeneClassifier) -> None:
    model.train(max_epochs=1, train_size=0.7, validation_size=0.2, **TRAIN)
    parts = model.gene_labels
    assert len(parts) == model.adata.var["kind"].notna().sum()
    shares = parts["part"].value_counts(normalize=True)
    np.testing.assert_allclose(shares[["train", "validation", "held out"]], [0.7, 0.2, 0.1], atol=0.02)
    common = parts[parts["label"] != "mitochondrial"]
    for _, genes in common.groupby("label", observed=True):
        assert (genes["part"] == "validation").mean() == pytest.approx(0.2, abs=0.05)

    minibatch = {"input_ids": torch.arange(model.vocabulary.size)[None]}
    minibatch["attention_mask"] = torch.ones_like(minibatch["input_ids"])
    token_of = dict(zip(model.vocabulary.gene_ids, model.vocabulary.token_ids, strict=True))
    for training, part in ((True, "train"), (False, "validation")):
        model.module.train(training)
        labels = model.module.make_example(minibatch)["labels"][0].numpy()
        genes = parts[parts["part"] == part]
        assert set(np.flatnonzero(labels != IGNORED)) == {token_of[gene] for gene in genes.index}
        assert [LABELS[labels[token_of[gene]]] for gene in genes.index] == genes["label"].to_list()
    splitter = model.trainer.datamodule
    assert np.array_equal(splitter.train_idx, np.arange(60))


def test_padding_has_no_label(model: GeneClassifier) -> None:
    model.module.set_labels(np.zeros(model.vocabulary.size), np.zeros(model.vocabulary.size))
    minibatch = {"input_ids": torch.full((1, 3), 9), "attention_mask": torch.tensor([[1, 1, 0]])}
    assert model.module.make_example(minibatch)["labels"].tolist() == [[0, 0, IGNORED]]


def test_validation_loss_is_that_of_the_network(model: GeneClassifier) -> None:
    model.train(max_epochs=1, **TRAIN)
    module = model.module.eval()
    minibatch = next(iter(model.trainer.datamodule.train_dataloader()))
    with torch.no_grad():
        _, predicted, output = module(minibatch)
        example = module.make_example(minibatch)
        whole = module.network(**example)
    known = example["labels"] != IGNORED
    assert 0 < known.sum() == len(predicted["labels"])
    torch.testing.assert_close(output.loss, whole.loss)
    # Parts may be of different order only in their tokens, never in their cells.
    torch.testing.assert_close(predicted["logits"], whole.logits[known], atol=1e-5, rtol=0)
    assert predicted["labels"].equal(example["labels"][known])


def test_labels_are_learnt() -> None:
    adata = labelled_cells()
    GeneClassifier.setup_anndata(adata, gene_labels_key="kind", max_length=64)
    scvi.settings.seed = 0
    model = GeneClassifier(adata, loss_weights="balanced", **SIZES)
    model.train(max_epochs=20, plan_kwargs={"lr": 2e-2}, **TRAIN)
    seen = model.gene_labels.query("part == 'train'").set_index("symbol")["label"].astype(object)
    predicted = model.predict_genes().reindex(seen.index).dropna()
    assert len(predicted) > 100
    assert (predicted == seen[predicted.index]).mean() > 0.95
    assert np.isfinite(model.history["validation_loss"].to_numpy(dtype=float)).all()


def test_labels_may_come_as_a_mapping(model: GeneClassifier) -> None:
    adata = labelled_cells()
    known = adata.var.dropna()
    mapping = dict(zip(known["ensembl_id"], known["kind"], strict=True)) | {"no gene": "ribosomal"}
    del adata.var["kind"]
    GeneClassifier.setup_anndata(adata, gene_labels=mapping, max_length=64)
    other = GeneClassifier(adata, **SIZES)
    pd.testing.assert_frame_equal(other.gene_labels, model.gene_labels)
    assert other.gene_labels["part"].isna().all()


def test_order_of_labels() -> None:
    adata = labelled_cells()
    adata.var["kind"] = pd.Categorical(adata.var["kind"], categories=["unused", *LABELS[::-1]])
    GeneClassifier.setup_anndata(adata, gene_labels_key="kind", max_length=64)
    assert GeneClassifier(adata, **SIZES).labels == LABELS[::-1]
    GeneClassifier.setup_anndata(adata, gene_labels_key="kind", labels=["nuclear", *LABELS], max_length=64)
    assert GeneClassifier(adata, **SIZES).labels == ["nuclear", *LABELS]
    GeneClassifier.setup_anndata(adata, gene_labels_key="kind", unlabeled_category="cytoplasmic", max_length=64)
    model = GeneClassifier(adata, **SIZES)
    assert model.labels == LABELS[:0:-1]
    assert "cytoplasmic" not in set(model.gene_labels["label"])


def test_labels_of_raw_genes() -> None:
    adata = labelled_cells()
    adata.raw = adata
    adata = adata[:, ::7].copy()
    del adata.var["kind"]
    GeneClassifier.setup_anndata(adata, gene_labels_key="kind", use_raw=True, max_length=64)
    model = GeneClassifier(adata, **SIZES)
    model.train(max_epochs=1, **TRAIN)
    assert list(model.predict_genes().index) == list(adata.raw.var_names)


def test_data_are_not_written_to(model: GeneClassifier) -> None:
    assert list(model.adata.var) == ["ensembl_id", "kind"]
    model.train(max_epochs=1, **TRAIN)
    query = shuffled(model.adata)
    model.predict_genes(query)
    assert not query.obsm
    assert not query.uns
    assert list(query.var) == ["ensembl_id"]


def test_minibatch_size_does_not_matter(model: GeneClassifier) -> None:
    model.train(max_epochs=1, **TRAIN)
    table = model.predict_genes(soft=True)
    np.testing.assert_allclose(model.predict_genes(soft=True, batch_size=3), table, atol=1e-5)


def test_save_pretrained_annotates_and_trains_on(model: GeneClassifier, tmp_path: Path) -> None:
    model.train(max_epochs=1, **TRAIN)
    model.save_pretrained(tmp_path)
    table = model.predict_genes(soft=True)
    for source in (model, tmp_path, sfm.load(tmp_path)):
        adata = labelled_cells()
        annotate_genes(adata, source)
        np.testing.assert_allclose(adata.varm["sfm_gene_label_probabilities"], table, atol=1e-5)
        assert list(adata.varm["sfm_gene_label_probabilities"].columns) == LABELS

    again = GeneClassifier.from_pretrained(tmp_path, labelled_cells(), gene_labels_key="kind")
    np.testing.assert_allclose(again.predict_genes(soft=True), table, atol=1e-5)
    fewer = labelled_cells()
    fewer.var["kind"] = fewer.var["kind"].replace("mitochondrial", np.nan)
    again = GeneClassifier.from_pretrained(tmp_path, fewer, gene_labels_key="kind")
    assert again.labels == LABELS
    np.testing.assert_allclose(again.predict_genes(soft=True), table, atol=1e-5)


def test_other_labels_get_a_new_head(model: GeneClassifier) -> None:
    model.train(max_epochs=1, **TRAIN)
    adata = labelled_cells()
    adata.var["kind"] = adata.var["kind"].replace("mitochondrial", "mtDNA")
    other = GeneClassifier.from_pretrained(model, adata, gene_labels_key="kind")
    assert other.labels == ["cytoplasmic", "mtDNA", "ribosomal"]
    with pytest.raises(RuntimeError, match="head of this GeneClassifier is new"):
        other.predict_genes()


@pytest.mark.parametrize("options", [{}, {"freeze": "backbone"}, {"lora": {"r": 2}}, {"feedforward_sizes": [8]}])
def test_from_pretrained_takes_the_body(options: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    adata, pretrained = labelled_cells(30), toy_model(max_length=64)
    model = GeneClassifier.from_pretrained(pretrained, adata, gene_labels_key="kind", **options)
    sfm.tl.embed(adata, pretrained)
    np.testing.assert_allclose(model.get_latent_representation(), adata.obsm["X_sfm"], atol=1e-5)
    before = weights_hash(model.module.network)
    body = {k: v.clone() for k, v in model.module.network.named_parameters() if "cell." in k and "lora" not in k}
    model.train(max_epochs=1, **TRAIN)
    assert weights_hash(model.module.network) != before
    after = dict(model.module.network.named_parameters())
    frozen = all(bool((after[name] == tensor).all()) for name, tensor in body.items())
    assert frozen == bool({"freeze", "lora"} & set(options))

    model.save_pretrained(tmp_path)
    annotate_genes(adata, tmp_path)
    table = model.predict_genes(soft=True)
    np.testing.assert_allclose(adata.varm["sfm_gene_label_probabilities"], table, atol=1e-5)
    model.save(str(tmp_path / "saved"))
    loaded = GeneClassifier.load(str(tmp_path / "saved"), adata=adata, accelerator="cpu")
    np.testing.assert_allclose(loaded.predict_genes(soft=True), table, atol=1e-5)


def test_all_genes_can_be_trained_on(model: GeneClassifier) -> None:
    model.train(max_epochs=1, train_size=1.0, **TRAIN)
    assert (model.gene_labels["part"] == "train").all()
    assert "validation_loss" not in model.history


def test_resuming_keeps_the_genes(model: GeneClassifier, tmp_path: Path) -> None:
    model.train(max_epochs=1, checkpoint_dir=tmp_path, **TRAIN)
    scvi.settings.seed = 1
    other = GeneClassifier(model.adata, **SIZES)
    other.train(max_epochs=2, checkpoint_dir=tmp_path, resume=True, **TRAIN)
    pd.testing.assert_frame_equal(other.gene_labels, model.gene_labels)


def test_early_stopping_watches_the_validation_genes(model: GeneClassifier) -> None:
    options = {"early_stopping": True, "early_stopping_patience": 2, "early_stopping_min_delta": 0.01}
    model.train(max_epochs=20, plan_kwargs={"lr": 0.0}, **options, **TRAIN)
    assert len(model.history["validation_loss"]) < 6


def test_a_single_gene_is_never_held_out() -> None:
    adata = labelled_cells()
    adata.var.loc["TMSB4X", "kind"] = "nuclear"
    with pytest.warns(UserWarning, match="One gene each has the label 'nuclear'"):
        GeneClassifier.setup_anndata(adata, gene_labels_key="kind", max_length=64)
    model = GeneClassifier(adata, **SIZES)
    model.train(max_epochs=1, train_size=0.2, **TRAIN)
    assert model.gene_labels.set_index("symbol").loc["TMSB4X", "part"] == "train"


def test_untrained_models_do_not_predict(model: GeneClassifier) -> None:
    with pytest.raises(RuntimeError, match="its labels would be random. Call `train` first"):
        model.predict_genes()
    with pytest.raises(RuntimeError, match="its labels would be random. Call `train` first"):
        sfm.tl.annotate_genes(toy_cells(20), model)


def refused(match: str, error: type[Exception] = ValueError, adata: ad.AnnData | None = None, **options: Any) -> None:
    adata = labelled_cells() if adata is None else adata
    with pytest.raises(error, match=match):
        GeneClassifier.setup_anndata(adata, max_length=64, **options)
    assert not adata.obsm
    assert not adata.uns


def test_setup_needs_labels() -> None:
    refused("Neither of gene_labels_key= and gene_labels= were given", TypeError)
    refused("Both of gene_labels_key= and", TypeError, gene_labels_key="kind", gene_labels={"CD3E": "a"})
    refused(r"Did not find adata.var\['kinds'\].*'ensembl_id', 'kind'", KeyError, gene_labels_key="kinds")
    refused("gene_labels= has no label among the genes", gene_labels={"no gene": "a", "nor this": "b"})
    refused("a single label, 'a',", gene_labels={"CD3E": "a", "CD3D": "a"})
    refused(r"labels \['cytoplasmic'\], which are not among", gene_labels_key="kind", labels=LABELS[1:])


def test_measurements_are_no_labels() -> None:
    adata = labelled_cells()
    adata.var["mean"] = np.linspace(0, 1, adata.n_vars)
    refused(r"adata.var\['mean'\] holds numbers such as", adata=adata, gene_labels_key="mean")


def test_whole_numbers_are_names() -> None:
    adata = labelled_cells()
    adata.var["kind"] = adata.var["kind"].map({label: i for i, label in enumerate(LABELS)})
    assert adata.var["kind"].dtype == float
    GeneClassifier.setup_anndata(adata, gene_labels_key="kind", max_length=64)
    assert GeneClassifier(adata, **SIZES).labels == ["0", "1", "2"]


def test_one_gene_with_two_labels_is_refused() -> None:
    adata = labelled_cells()
    names = adata.var_names.to_list()
    names[-1] = adata.var["ensembl_id"].iloc[1]
    adata.var_names = names
    adata.var.loc[names[-1], "kind"] = "another"
    refused(
        "which occurs under several names, the labels 'another' and",
        adata=adata,
        gene_labels_key="kind",
        vocabulary=toy_model().vocabulary,
    )


def test_genes_that_are_in_no_cell_are_refused() -> None:
    adata = labelled_cells()
    counts = adata.X.toarray()
    counts[:, :4] = 0
    adata.X = counts
    labels = dict(zip(adata.var_names[:4], ["a", "a", "b", "b"], strict=True))
    GeneClassifier.setup_anndata(adata, gene_labels=labels, max_length=64)
    model = GeneClassifier(adata, **SIZES)
    with pytest.raises(ValueError, match=r"None of the \d labelled genes to train on is among the tokens"):
        model.train(max_epochs=1, **TRAIN)


@pytest.mark.parametrize(
    "shares", [{"train_size": 0}, {"train_size": 1.2}, {"train_size": 0.9, "validation_size": 0.2}]
)
def test_shares_are_checked(model: GeneClassifier, shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="are no shares of the labelled genes"):
        model.train(max_epochs=1, **shares, **TRAIN)


def test_a_new_head_is_not_called_trained(capsys: pytest.CaptureFixture[str]) -> None:
    model = GeneClassifier.from_pretrained(toy_model(max_length=64), labelled_cells(), gene_labels_key="kind")
    repr(model)
    assert "Training status: Not Trained (pretrained body, new head)" in capsys.readouterr().out
