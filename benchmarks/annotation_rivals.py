"""What others predict for the cells of a query: labels and confidences of PCA with nearest neighbours, scVI, scANVI, CellTypist.

Each function takes a labelled reference and a query with counts in `X`, and returns a data frame with `label` and
`confidence`, indexed by the cells of the query. `annotation_accuracy.py` compares them with sfm.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import torch
from sklearn.neighbors import KNeighborsClassifier

if TYPE_CHECKING:
    from collections.abc import Callable

N_GENES, N_NEIGHBORS, N_COMPS = 2000, 15, 50
UNLABELLED = "unlabelled"

CELLTYPIST = """
import sys
import anndata as ad, celltypist, scanpy as sc
folder, labels_key, selection = sys.argv[1:]
reference, query = (ad.read_h5ad(f"{folder}/{name}.h5ad") for name in ("reference", "query"))
for adata in (reference, query):
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
model = celltypist.train(reference, labels_key, check_expression=False, n_jobs=1, feature_selection=selection == "yes")
predicted = celltypist.annotate(query, model)
table = predicted.predicted_labels[["predicted_labels"]].set_axis(["label"], axis=1)
table["confidence"] = predicted.probability_matrix.max(axis=1)
table.to_csv(f"{folder}/predicted.csv")
"""


def pca_knn(reference: ad.AnnData, query: ad.AnnData, labels_key: str) -> pd.DataFrame:
    """Nearest neighbours in the principal components of both, on the variable genes that they share."""
    both = _concatenate(reference, query, labels_key)
    sc.pp.normalize_total(both, target_sum=1e4)
    sc.pp.log1p(both)
    sc.pp.highly_variable_genes(both, n_top_genes=N_GENES, batch_key="side")
    both = both[:, both.var["highly_variable"]].copy()
    sc.pp.scale(both, max_value=10)
    sc.pp.pca(both, n_comps=N_COMPS, random_state=0)
    return _neighbours(both, both.obsm["X_pca"], labels_key)


class Scvi:
    """Nearest neighbours in the latent space of scVI, and scANVI started from it; both sides, each a batch.

    The model is trained once for a query.
    """

    def __init__(self) -> None:
        self.trained: dict[int, tuple[ad.AnnData, Any]] = {}

    def knn(self, reference: ad.AnnData, query: ad.AnnData, labels_key: str) -> pd.DataFrame:
        both, model = self._train(reference, query, labels_key)
        return _neighbours(both, model.get_latent_representation(), labels_key)

    def scanvi(self, reference: ad.AnnData, query: ad.AnnData, labels_key: str) -> pd.DataFrame:
        import scvi

        both, model = self._train(reference, query, labels_key)
        tuned = scvi.model.SCANVI.from_scvi_model(model, UNLABELLED, adata=both, labels_key=labels_key)
        tuned.train(accelerator="cpu", enable_progress_bar=False)
        soft = tuned.predict(soft=True)[(both.obs["side"] == "query").to_numpy()]
        table = pd.DataFrame({"label": soft.idxmax(axis=1), "confidence": soft.max(axis=1)})
        return table.set_axis(query.obs_names)

    def _train(self, reference: ad.AnnData, query: ad.AnnData, labels_key: str) -> tuple[ad.AnnData, Any]:
        import scvi

        if id(query) in self.trained:
            return self.trained[id(query)]
        scvi.settings.seed = 0
        torch.set_flush_denormal(True)  # numbers near zero slow scVI down tenfold on some CPUs
        both = _concatenate(reference, query, labels_key)
        sc.pp.highly_variable_genes(both, n_top_genes=N_GENES, flavor="seurat_v3", batch_key="side", span=1.0)
        both = both[:, both.var["highly_variable"]].copy()
        scvi.model.SCVI.setup_anndata(both, batch_key="side")
        model = scvi.model.SCVI(both, n_layers=2, n_latent=30)
        model.train(
            max_epochs=100, accelerator="cpu", enable_progress_bar=False, plan_kwargs={"n_epochs_kl_warmup": 50}
        )
        self.trained = {id(query): (both, model)}
        return both, model


def celltypist(python: str, *, selection: bool = False) -> Callable[..., pd.DataFrame]:
    """CellTypist in the environment of another interpreter, with or without its selection of genes."""

    def annotate(reference: ad.AnnData, query: ad.AnnData, labels_key: str) -> pd.DataFrame:
        with tempfile.TemporaryDirectory() as folder:
            for name, adata in (("reference", reference), ("query", query)):
                ad.AnnData(
                    adata.X, obs=adata.obs[[labels_key]] if name == "reference" else None, var=adata.var[[]]
                ).write_h5ad(Path(folder) / f"{name}.h5ad")
            arguments = [folder, labels_key, "yes" if selection else "no"]
            subprocess.run([python, "-P", "-c", CELLTYPIST, *arguments], check=True, capture_output=True)
            return pd.read_csv(Path(folder) / "predicted.csv", index_col=0).set_axis(query.obs_names)

    return annotate


def _concatenate(reference: ad.AnnData, query: ad.AnnData, labels_key: str) -> ad.AnnData:
    """Both on the genes that they share."""
    both = ad.concat({"reference": reference, "query": query}, label="side", index_unique="-")
    labels = np.r_[reference.obs[labels_key].astype(str), np.full(query.n_obs, UNLABELLED)]
    return ad.AnnData(both.X, obs=both.obs.assign(**{labels_key: labels}), var=both.var)[
        :, np.asarray(both.X.sum(axis=0)).ravel() > 0
    ].copy()


def _neighbours(both: ad.AnnData, vectors: np.ndarray, labels_key: str) -> pd.DataFrame:
    known = (both.obs["side"] == "reference").to_numpy()
    classifier = KNeighborsClassifier(N_NEIGHBORS).fit(vectors[known], both.obs[labels_key].astype(str)[known])
    shares = classifier.predict_proba(vectors[~known])
    names = both.obs_names[~known].str.removesuffix("-query")
    return pd.DataFrame({"label": classifier.classes_[shares.argmax(axis=1)], "confidence": shares.max(axis=1)}, names)
