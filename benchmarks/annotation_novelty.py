"""How well cells are told apart whose type the reference does not have, leaving out one type at a time.

    python benchmarks/annotation_novelty.py --reference pbmc3k.h5ad --labels cell_type_coarse --leave-out unassigned \
        --query pbmc1k_v3.h5ad:cell_type_derived

Prints the area under the ROC curve of novelty, and of 1 - confidence, for cells of the type that was left out against all
others, and how many of both are above a novelty of 0.95 and 0.99. Types with fewer than five cells in the query are not left
out. With the reference as query, one half of its cells annotates the other.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from annotation_accuracy import read
from sklearn.metrics import roc_auc_score

import sfm

if TYPE_CHECKING:
    import anndata as ad

FEWEST = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--leave-out", action="append", default=[])
    parser.add_argument("--query", action="append", default=[], help="file:column with the true labels")
    parser.add_argument("--method", action="append", help="several vote; by default those of `sfm.tl.annotate`")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    reference = read(arguments.reference)
    reference = reference[~reference.obs[arguments.labels].isin(arguments.leave_out).to_numpy()].copy()
    rows = []
    for name in arguments.query or [f"{arguments.reference}:{arguments.labels}"]:
        path, truth_key = name.split(":")
        labelled, query = sides(reference, path, same=path == arguments.reference)
        truth = query.obs[truth_key].astype(str).to_numpy()
        labels = labelled.obs[arguments.labels].astype(str).to_numpy()
        for left_out in np.unique(labels):
            if (truth == left_out).sum() < FEWEST:
                continue
            known = labelled[labels != left_out].copy()
            options = {"labels_key": arguments.labels, **({"method": arguments.method} if arguments.method else {})}
            annotated = sfm.tl.annotate(query, known, copy=True, **options)[np.isin(truth, labels)]
            is_new = truth[np.isin(truth, labels)] == left_out
            rows.append({"query": Path(path).stem, "left out": left_out, **rates(annotated, is_new)})
    table = pd.DataFrame(rows).set_index("query")
    print(table.round(3).to_string())
    print(table.drop(columns="left out").groupby(level=0, sort=False).mean().round(3).to_string())


def sides(reference: ad.AnnData, path: str, *, same: bool) -> tuple[ad.AnnData, ad.AnnData]:
    """Reference and query, embedded from the genes that they share."""
    if same:
        embedded = sfm.tl.embed(reference, copy=True)
        half = np.random.default_rng(0).random(reference.n_obs) < 0.5
        return embedded[half].copy(), embedded[~half].copy()
    query = read(path)
    genes = reference.var_names.intersection(query.var_names)
    return sfm.tl.embed(reference[:, genes], copy=True), sfm.tl.embed(query[:, genes], copy=True)


def rates(annotated: ad.AnnData, is_new: np.ndarray) -> dict[str, float]:
    novelty = annotated.obs["sfm_label_novelty"].to_numpy()
    doubt = 1 - annotated.obs["sfm_label_confidence"].to_numpy()
    found = {"AUROC": roc_auc_score(is_new, novelty), "AUROC of 1 - confidence": roc_auc_score(is_new, doubt)}
    for threshold in (0.95, 0.99):
        found[f"new > {threshold}"] = (novelty[is_new] > threshold).mean()
        found[f"known > {threshold}"] = (novelty[~is_new] > threshold).mean()
    return found


if __name__ == "__main__":
    main()
