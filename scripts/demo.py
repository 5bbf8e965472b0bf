"""From cells to a UMAP: embed scanpy's bundled blood cells with the bundled model, beside PCA. Runs offline."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import scanpy as sc
from sklearn.metrics import silhouette_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

import sfm

LABELS = "bulk_labels"


def read_cells() -> sc.AnnData:
    """Read the cells; they come log1p-normalised, so counts are restored first."""
    adata = sc.datasets.pbmc68k_reduced()
    sfm.pp.recover_counts(adata, use_raw=True)
    return adata


def scores(adata: sc.AnnData, representations: dict[str, str]) -> pd.DataFrame:
    """Accuracy of a nearest-neighbour classifier on held-out cells, and silhouette, per representation."""
    labels = adata.obs[LABELS]
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    table = {}
    for name, key in representations.items():
        vectors = adata.obsm[key]
        accuracy = cross_val_score(KNeighborsClassifier(15), vectors, labels, cv=folds).mean()
        table[name] = {"kNN accuracy": accuracy, "silhouette": silhouette_score(vectors, labels)}
    return pd.DataFrame.from_dict(table, orient="index")


def draw(adata: sc.AnnData, path: Path) -> None:
    """Draw the UMAP of the embedding, coloured by label."""
    figure = sc.pl.umap(adata, color=LABELS, title="sfm-mini on pbmc68k_reduced", frameon=False, return_fig=True)
    figure.set_size_inches(7, 4)
    figure.savefig(path, dpi=150, bbox_inches="tight")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the picture and the h5ad")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")
    # Old neighbours and PCA of the file are replaced below; numba and umap warn about their own inner workings.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", module="umap")

    adata = read_cells()
    adata.obsm["X_pca_shipped"] = adata.obsm["X_pca"]
    sfm.tl.embed(adata, layer="counts")
    sc.pp.neighbors(adata, use_rep="X_sfm")
    sc.tl.umap(adata, random_state=0)
    draw(adata, out / "umap.png")
    adata.write_h5ad(out / "pbmc68k_sfm.h5ad")

    params = adata.uns["X_sfm"]["params"]
    table = scores(adata, {"X_sfm": "X_sfm", "PCA": "X_pca_shipped"})
    lines = [
        f"{adata.n_obs} cells, {adata.n_vars} genes; model {params['model']!r}, gene coverage {params['coverage']:.0%}",
        table.round(3).to_string(),
        f"wrote {out / 'umap.png'} and {out / 'pbmc68k_sfm.h5ad'}",
    ]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
