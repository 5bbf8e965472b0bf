"""Pretrain the bundled `sfm-mini` and write its card.

    python scripts/pretrain_mini.py --data FOLDER --out src/sfm/resources/sfm_mini

`FOLDER` holds the h5ad files named in PRETRAINING and EVALUATION below: raw counts, `var["ensembl_id"]`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import scanpy as sc
import scvi
import torch
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, svds
from sklearn.metrics import silhouette_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

import sfm
from sfm.genes import GeneVocabulary, align_genes, gene_tables
from sfm.model import MaskedCellModel
from sfm.tokenizers import RankTokenizer

if TYPE_CHECKING:
    from sfm.checkpoints import PretrainedCells

PRETRAINING = {
    "pbmc3k": "blood, 10x 3' v1",
    "pbmc_frozen_donorA": "frozen blood, 10x 3' v1",
    "pbmc1k_v2": "blood, 10x 3' v2",
    "pbmc1k_v3": "blood, 10x 3' v3",
    "malt_rna_1k": "MALT lymphoma, 10x 3' v3",
    "pbmc5k_cite_hvg_rna": "blood, 10x 3' v3, 4,000 variable genes only",
    "tumor_copykat": "breast tumour, 10x",
    "fetal_pancreas_cimseq": "fetal pancreas, Smart-seq2",
    "cell_lines_cimseq": "three cell lines, Smart-seq2",
}
# None of these cells is in a pretraining set; pbmc_cite_2batch_400 would overlap pbmc5k_cite_hvg_rna.
EVALUATION = {
    "pbmc4k_subset.h5ad": "cell_type",
    "pbmc_hao_1k.h5ad": "cell_type_derived",
    "pbmc_5prime_1k.h5ad": "cell_type_derived",
    "pbmc_eccite_500.h5mu": "cell_type_protein",
}
MIN_CELLS = 10  # a gene is kept if it is seen in this many cells
MAX_LENGTH = 512
SIZES = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "hidden_act": "relu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def named_genes() -> GeneVocabulary:
    """Human protein-coding genes and immune-receptor segments, one per symbol."""
    human = gene_tables().human
    kinds = ("protein_coding", "immune_receptor")
    genes = [gene for gene, kind in human.biotypes.items() if kind in kinds and human.ids[human.symbols[gene]] == gene]
    return GeneVocabulary(sorted(genes), species="human")


def aligned_counts(path: Path, vocabulary: GeneVocabulary) -> sparse.csr_matrix:
    """Counts of one file over the genes of the vocabulary."""
    adata = ad.read_h5ad(path)
    ids = adata.var["ensembl_id"].astype(str)
    names = np.where(ids == "", adata.var_names, ids)
    tokens = align_genes(names, vocabulary).token_ids
    known = np.flatnonzero(tokens >= 0)
    columns = np.searchsorted(vocabulary.token_ids, tokens[known])
    shape = (adata.n_vars, len(vocabulary))
    onto = sparse.csr_matrix((np.ones(len(known), dtype=np.float32), (known, columns)), shape=shape)
    return sparse.csr_matrix(adata.X @ onto)


def read_corpus(folder: Path) -> ad.AnnData:
    """All pretraining cells over the genes that are seen often enough."""
    vocabulary = named_genes()
    parts = {name: aligned_counts(folder / f"{name}.h5ad", vocabulary) for name in PRETRAINING}
    X = sparse.vstack(list(parts.values()), format="csr")
    obs = pd.DataFrame({"source": np.repeat(list(parts), [part.shape[0] for part in parts.values()])})
    obs.index = obs.index.astype(str)
    adata = ad.AnnData(X, obs=obs, var=pd.DataFrame({"symbol": vocabulary.symbols}, index=list(vocabulary.gene_ids)))
    return adata[:, X.getnnz(axis=0) >= MIN_CELLS].copy()


def per_10k(X: sparse.csr_matrix) -> sparse.csr_matrix:
    """Counts per ten thousand of the cell."""
    totals = np.asarray(X.sum(axis=1)).ravel()
    return sparse.csr_matrix(sparse.diags(1e4 / np.maximum(totals, 1)) @ X)


def mini_vocabulary(corpus: ad.AnnData) -> GeneVocabulary:
    """The genes of the corpus with their medians and mean expression."""
    medians = GeneVocabulary.from_adata(corpus)
    order = {gene: i for i, gene in enumerate(medians.gene_ids)}
    rows = [order[gene] for gene in corpus.var_names]
    return GeneVocabulary(
        list(corpus.var_names),
        symbols=list(corpus.var["symbol"]),
        medians=medians.medians[rows].astype(np.float32),
        expression=np.asarray(per_10k(corpus.X).mean(axis=0)).ravel().astype(np.float32),
        species="human",
    )


def coexpression_vectors(X: sparse.csr_matrix, dims: int) -> np.ndarray:
    """Right singular vectors of the standardised log expression, weighted: genes that go together lie together."""
    L = per_10k(X)
    L.data = np.log1p(L.data)
    mean = np.asarray(L.mean(axis=0)).ravel()
    std = np.sqrt(np.maximum(np.asarray(L.multiply(L).mean(axis=0)).ravel() - mean**2, 0))
    L, mean = sparse.csr_matrix(L @ sparse.diags(1 / (std + 0.1))), mean / (std + 0.1)
    # Centring a sparse matrix without making it dense.
    centred = LinearOperator(
        L.shape,
        matvec=lambda v: L @ v - mean @ v,
        rmatvec=lambda u: L.T @ u - mean * u.sum(),
        matmat=lambda v: L @ v - mean @ v,
        rmatmat=lambda u: L.T @ u - np.outer(mean, u.sum(axis=0)),
        dtype=np.float64,
    )
    _, weights, vectors = svds(centred, k=dims, random_state=0)
    vectors = vectors.T * np.sqrt(weights)
    return vectors / vectors.std()


def pretrain(corpus: ad.AnnData, epochs: int) -> tuple[MaskedCellModel, PretrainedCells]:
    """Train a model; also return the same model with random weights, for comparison."""
    scvi.settings.seed = 0
    tokenizer = RankTokenizer(mini_vocabulary(corpus), max_length=MAX_LENGTH)
    MaskedCellModel.setup_anndata(corpus, tokenizer=tokenizer)
    untrained = MaskedCellModel(corpus, **SIZES).as_pretrained()
    model = MaskedCellModel(corpus, **SIZES)
    genes = model.module.network.cell.embedder.genes.weight
    with torch.no_grad():
        start = coexpression_vectors(corpus.X, SIZES["hidden_size"])
        genes[tokenizer.vocabulary.token_ids.astype(np.int64)] = torch.from_numpy(0.1 * start).float()
    model.train(
        max_epochs=epochs,
        batch_size=16,
        train_size=0.95,
        accelerator="cpu",
        enable_progress_bar=False,
        plan_kwargs={"lr": 5e-4},
    )
    return model, untrained


def pca(adata: ad.AnnData) -> np.ndarray:
    """Run scanpy's usual recipe: 2,000 variable genes, 50 components."""
    adata = adata.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=2000)
    sc.pp.scale(adata, max_value=10)
    return sc.pp.pca(adata.X[:, adata.var["highly_variable"]], n_comps=50)


def scores(vectors: np.ndarray, labels: pd.Series) -> tuple[float, float]:
    """Accuracy of 15 nearest neighbours on held-out cells, and silhouette."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    accuracy = cross_val_score(KNeighborsClassifier(15), vectors, labels, cv=folds).mean()
    return float(accuracy), float(silhouette_score(vectors, labels))


def evaluate(folder: Path, models: dict[str, PretrainedCells]) -> list[str]:
    """Measure on cells that were not trained on; returns the lines of a table."""
    lines = ["| set | labels | representation | kNN accuracy | silhouette |", "|---|---|---|---|---|"]
    for name, labels_key in EVALUATION.items():
        path = folder / name
        adata = mudata.read(path)["rna"] if path.suffix == ".h5mu" else ad.read_h5ad(path)
        labels = adata.obs[labels_key].astype(object)
        counts = labels.value_counts()
        adata = adata[labels.isin(counts.index[counts >= 10])].copy()
        labels = adata.obs[labels_key].astype(str)
        vectors = {"PCA": pca(adata)}
        for title, model in models.items():
            sfm.tl.embed(adata, model)
            vectors[title] = adata.obsm["X_sfm"]
        for title, matrix in vectors.items():
            accuracy, silhouette = scores(matrix, labels)
            lines.append(f"| {name} | {labels_key} | {title} | {accuracy:.3f} | {silhouette:.3f} |")
    return lines


def write_card(path: Path, template: Path, corpus: ad.AnnData, model: MaskedCellModel, table: list[str]) -> None:
    """Fill the numbers into the card."""
    sources = corpus.obs["source"].value_counts(sort=False)
    seen = [f"| {name} | {sources[name]:,} | {what} |" for name, what in PRETRAINING.items()]
    losses = model.history["validation_loss"].iloc[:, 0].astype(float)
    text = template.read_text()
    for name, value in {
        "n_cells": f"{corpus.n_obs:,}",
        "n_genes": f"{corpus.n_vars:,}",
        "n_parameters": f"{sum(weight.numel() for weight in model.module.parameters()) / 1e6:.1f} million",
        "loss": f"{losses.iloc[-1]:.2f}",
        "sources": "\n".join(["| set | cells | what |", "|---|---|---|", *seen]),
        "scores": "\n".join(table),
    }.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    path.write_text(text)


def main() -> None:
    """Pretrain, write the model, then measure and write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args()
    # "medium" is still float32 on CPUs without bf16 tile units, and faster than the default on AMD.
    torch.set_float32_matmul_precision("medium")
    corpus = read_corpus(args.data)
    model, untrained = pretrain(corpus, args.epochs)
    model.save_pretrained(args.out, dtype=torch.float16)
    table = evaluate(args.data, {"sfm-mini": sfm.load(args.out), "random weights": untrained})
    write_card(args.out / "README.md", Path(__file__).with_name("mini_card.md"), corpus, model, table)


if __name__ == "__main__":
    main()
