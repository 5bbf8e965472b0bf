"""What the default of `sfm.tl.annotate` was chosen on: pairs of data sets that none of its accuracies is quoted from.

    python benchmarks/annotation_development.py --folder DATA

Each pair is annotated three times: as measured; with fewer counts, a bias per gene and counts of other cells, as chemistries and
laboratories differ; and with labels of gates on surface markers. These are gated on half of the counts of the marker genes,
drawn at random, and annotated from the other half, so that labels do not come from clusters of the expression that they are
compared by. Prints means of accuracy, macro-F1 and area under risk and coverage, and in how many queries each way is ahead
of nearest neighbours.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from annotation_accuracy import scores
from scipy import sparse

import sfm

LABELS = {"pbmc3k": "cell_type_coarse"}
OTHER_LABELS = "cell_type_derived"
NO_LABEL = ("unassigned", "ambiguous", "nan")
SMALL = ("pbmc1k_v2", "pbmc1k_v3")
PAIRS = [
    *[("pbmc3k", query) for query in (*SMALL, "pbmc5k_cite_hvg_rna", "pbmc_frozen_donorA", "malt_rna_1k")],
    *[(reference, "pbmc3k") for reference in (*SMALL, "pbmc5k_cite_hvg_rna", "pbmc_frozen_donorA", "malt_rna_1k")],
    SMALL,
    SMALL[::-1],
    ("pbmc1k_v3", "pbmc5k_cite_hvg_rna"),
    ("pbmc5k_cite_hvg_rna", "pbmc1k_v3"),
]
WAYS: dict[str, dict[str, Any]] = {
    "knn": {"method": "knn"},
    "knn, model alone": {"method": "knn", "views": "model"},
    "knn, logreg": {"method": ["knn", "logreg"]},
    "default": {},
}
MARKERS = {
    "T": ["CD3D", "CD3E", "CD3G"],
    "CD8": ["CD8A", "CD8B"],
    "CD4": ["CD4"],
    "NK": ["KLRF1", "NCAM1"],
    "B": ["MS4A1", "CD19"],
    "CD14": ["CD14"],
    "CD16": ["FCGR3A"],
    "CSF1R": ["CSF1R"],
    "FCER1A": ["FCER1A"],
    "CD1C": ["CD1C"],
}


def degraded(query: ad.AnnData, rng: np.random.Generator) -> ad.AnnData:
    """At most 1,500 counts per cell in the median, a tenth of them from all cells, and genes caught unequally well."""
    counts = sparse.csr_matrix(query.X, dtype=np.float64)
    caught = counts.multiply(np.exp(rng.normal(0, 0.5, counts.shape[1]))).tocsr()
    ambient = np.asarray(caught.sum(axis=0)).ravel() / caught.sum()
    depth = np.asarray(counts.sum(axis=1)).ravel()
    depth *= min(1, 1500 / np.median(depth))
    rows = []
    for i, total in enumerate(depth):
        own = caught[i].toarray().ravel()
        rows.append(sparse.csr_matrix(rng.poisson(total * (0.9 * own / max(own.sum(), 1) + 0.1 * ambient))))
    return ad.AnnData(sparse.vstack(rows, format="csr").astype(np.float32), obs=query.obs, var=query.var)


def gated(query: ad.AnnData, rng: np.random.Generator) -> ad.AnnData:
    """Cells within a gate, without the half of the markers' counts that it was drawn on."""
    counts = sparse.csc_matrix(query.X, dtype=np.float32)
    seen = {}
    for marker, names in MARKERS.items():
        columns = np.flatnonzero(query.var_names.isin(names))
        drawn = rng.binomial(counts[:, columns].toarray().astype(int), 0.5)
        seen[marker] = drawn.sum(axis=1)
        counts[:, columns] = counts[:, columns] - sparse.csc_matrix(drawn)
    labels = gate(pd.DataFrame(seen))
    inside = (labels != "").to_numpy()
    obs = pd.DataFrame({"label": labels[inside].to_numpy()}, index=query.obs_names[inside])
    return ad.AnnData(counts.tocsr()[inside], obs=obs, var=query.var)


def gate(seen: pd.DataFrame) -> pd.Series:
    """Labels by counts of markers; empty where no gate fits."""
    no_t, t_cell = seen["T"] == 0, seen["T"] >= 2
    lymphoid_only, no_b = seen["CD14"] == 0, seen["B"] == 0
    gates = {
        "CD8 T": t_cell & (seen["CD8"] >= 2) & (seen["CD4"] == 0) & no_b & lymphoid_only,
        "CD4 T": t_cell & (seen["CD4"] >= 1) & (seen["CD8"] == 0) & no_b & lymphoid_only,
        "NK": no_t & (seen["NK"] >= 1) & no_b & lymphoid_only,
        "B": no_t & (seen["B"] >= 2) & lymphoid_only,
        "CD14 Mono": no_t & (seen["CD14"] >= 2) & (seen["CD16"] == 0) & no_b,
        "FCGR3A Mono": no_t & (seen["CD16"] >= 2) & (seen["NK"] == 0) & (seen["CSF1R"] >= 1) & lymphoid_only,
        "DC": no_t & (seen["FCER1A"] >= 1) & (seen["CD1C"] >= 1) & lymphoid_only,
    }
    labels = pd.Series("", index=seen.index)
    for name, inside in gates.items():
        labels[inside] = name
    return labels


def read(folder: Path, name: str, n_cells: int, rng: np.random.Generator) -> ad.AnnData:
    """Some cells of a file, with their labels in `obs["label"]`."""
    adata = ad.read_h5ad(folder / f"{name}.h5ad")
    adata.var_names_make_unique()
    labels = adata.obs[LABELS.get(name, OTHER_LABELS)].astype(str).to_numpy()
    adata = ad.AnnData(adata.X, obs=pd.DataFrame({"label": labels}, index=adata.obs_names), var=adata.var[[]])
    adata = adata[~np.isin(labels, NO_LABEL)]
    return adata[np.sort(rng.permutation(adata.n_obs)[:n_cells])].copy()


def compare(folder: Path, names: tuple[str, str], n_cells: int) -> list[dict[str, Any]]:
    """Annotate the three queries of one pair in all ways."""
    rng = np.random.default_rng(0)
    reference, query = (read(folder, name, n_cells, rng) for name in names)
    genes = reference.var_names.intersection(query.var_names)
    reference = sfm.tl.embed(reference[:, genes], copy=True)
    markers = np.isin(genes, sum(MARKERS.values(), [])).sum()
    queries = {"as measured": query, "degraded": degraded(query, rng)}
    if markers > len(sum(MARKERS.values(), [])) // 2:
        queries["gated"] = gated(query, rng)
    rows = []
    for kind, cells in queries.items():
        adata = sfm.tl.embed(cells[:, genes], copy=True)
        truth = adata.obs.pop("label").to_numpy()
        counted = np.isin(truth, reference.obs["label"].unique())
        for way, options in WAYS.items():
            sfm.tl.annotate(adata, reference, labels_key="label", **options)
            found = adata.obs[["sfm_label", "sfm_label_confidence"]].set_axis(["label", "confidence"], axis=1)
            found["label"] = found["label"].astype(str)
            measured = scores(truth[counted], found[counted])
            rows.append({"pair": " > ".join(names), "query": kind, "way": way, **measured})
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Compare all pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="folder with the files")
    parser.add_argument("--cells", type=int, default=1500, help="at most as many of each file")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [row for pair in PAIRS for row in compare(arguments.folder, pair, arguments.cells)]
    table = pd.DataFrame(rows)
    measures = ["accuracy", "macro-F1", "area under risk-coverage"]
    print(table.groupby(["query", "way"], sort=False)[measures].mean().round(3).to_string())
    for measure in measures:
        wide = table.pivot_table(index=["query", "pair"], columns="way", values=measure, sort=False)
        ahead = wide.sub(wide["knn"], axis=0) * (-1 if measure.startswith("area") else 1)
        print(measure, "ahead of and behind knn:")
        print((ahead > 0).groupby("query").sum().astype(str) + ":" + (ahead < 0).groupby("query").sum().astype(str))


if __name__ == "__main__":
    main()
