"""Accuracy of labels across data sets, and how many are wrong among the cells that keep one, against other tools.

    python benchmarks/annotation_accuracy.py --reference pbmc3k.h5ad --labels cell_type_coarse --leave-out unassigned \
        --query pbmc4k_subset.h5ad:cell_type_coarse --query pbmc_cite_2batch_400.h5mu:cell_type_protein \
        --celltypist PYTHON --predictions folder --figure risk_coverage.png

`--celltypist` names an interpreter whose environment has CellTypist. Cells of the query whose label the reference does not
have are annotated, but not counted. What each method predicts is kept in the folder of `--predictions`, and read from there
the next time. The last table compares the default with each other method, cell by cell: which is right alone, and by how much
the areas under risk and coverage differ, with an interval that 95 % of draws of the cells with replacement give.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import mudata
import numpy as np
import pandas as pd
from annotation_rivals import Scvi, celltypist, pca_knn
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score

import sfm
from sfm.metrics import area_under_risk_coverage, risk_coverage

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT = "sfm, default"
OURS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "sfm, model alone": {"views": "model"},
    "sfm, expression alone": {"views": "expression"},
    **{f"sfm, {method}": {"method": method} for method in ("knn", "logreg", "lda", "prototype", "finetune")},
}
COVERAGES = [0.5, 0.75, 0.9, 0.95]
IN_THE_FIGURE = [DEFAULT, "PCA and kNN", "scVI and kNN", "scANVI", "CellTypist", "CellTypist, selected genes"]


def main() -> None:
    arguments = parse()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    reference = read(arguments.reference)
    labels_key = arguments.labels
    reference = reference[~reference.obs[labels_key].isin(arguments.leave_out).to_numpy()].copy()
    reference.obs[labels_key] = reference.obs[labels_key].astype(str)
    ours, scvi = Sfm(arguments.finetune_epochs), Scvi()
    methods = {name: ours.by(**options) for name, options in OURS.items()}
    methods |= {"PCA and kNN": pca_knn, "scVI and kNN": scvi.knn, "scANVI": scvi.scanvi}
    if arguments.celltypist:
        methods["CellTypist"] = celltypist(arguments.celltypist)
        methods["CellTypist, selected genes"] = celltypist(arguments.celltypist, selection=True)
    methods = {name: annotate for name, annotate in methods.items() if name not in arguments.skip}
    curves, rows, right, confidences = {}, [], {}, {}
    for given in arguments.query:
        path, truth_key = given.split(":")
        name, query = Path(path).stem, read(path)
        truth = query.obs[truth_key].astype(str).to_numpy()
        counted = np.isin(truth, reference.obs[labels_key].unique())
        query = ad.AnnData(query.X, obs=pd.DataFrame(index=query.obs_names), var=query.var)
        for method, annotate in methods.items():
            kept = None if arguments.predictions is None else arguments.predictions / f"{name}, {method}.csv"
            predicted = predictions(kept, annotate, reference, query, labels_key)[counted]
            rows.append({"query": name, "method": method, **scores(truth[counted], predicted)})
            print(rows[-1], flush=True)
            right[name, method] = predicted["label"].to_numpy() == truth[counted]
            confidences[name, method] = predicted["confidence"].clip(0, 1).to_numpy()
            curves[name, method] = risk_coverage(confidences[name, method], right[name, method])
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    if DEFAULT in methods:
        print(pairs(right, confidences).round(3).to_string(index=False))
    if arguments.figure:
        draw({key: curve for key, curve in curves.items() if key[1] in IN_THE_FIGURE}, arguments.figure)


def predictions(
    kept: Path | None, annotate: Callable[..., pd.DataFrame], reference: ad.AnnData, query: ad.AnnData, labels_key: str
) -> pd.DataFrame:
    """Labels and confidences, read from a file if it is there, and written to it if not."""
    if kept is not None and kept.exists():
        return pd.read_csv(kept, index_col=0, keep_default_na=False)
    start = time.perf_counter()
    predicted = annotate(reference, query, labels_key)
    print(f"{time.perf_counter() - start:.0f} s", end=" ")
    if kept is not None:
        predicted.to_csv(kept)
    return predicted


def pairs(right: dict[tuple[str, str], np.ndarray], confidences: dict[tuple[str, str], np.ndarray]) -> pd.DataFrame:
    """Cells that only the default has right, that only another method has right, the sign test of these, and areas."""
    rows = []
    for (query, method), theirs in right.items():
        if method == DEFAULT:
            continue
        ours = right[query, DEFAULT]
        only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
        p = binomtest(only_ours, only_ours + only_theirs).pvalue if only_ours + only_theirs else 1.0
        areas = area_differences((confidences[query, DEFAULT], ours), (confidences[query, method], theirs))
        rows.append(
            {"query": query, "method": method, "only default": only_ours, "only it": only_theirs, "p": p} | areas
        )
    return pd.DataFrame(rows)


def area_differences(
    ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray], n_draws: int = 400
) -> dict[str, float]:
    """Area under risk and coverage of the default without that of another method, and the interval of this."""
    rng = np.random.default_rng(0)
    n_cells = len(ours[0])

    def difference(rows: np.ndarray) -> float:
        first, second = (area_under_risk_coverage(*(part[rows] for part in side)) for side in (ours, theirs))
        return first - second

    low, high = np.quantile([difference(rng.integers(n_cells, size=n_cells)) for _ in range(n_draws)], [0.025, 0.975])
    return {"area": difference(np.arange(n_cells)), "from": low, "to": high}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--leave-out", action="append", default=[])
    parser.add_argument("--query", action="append", required=True, help="file:column with the true labels")
    parser.add_argument("--celltypist", help="interpreter that has CellTypist")
    parser.add_argument("--skip", action="append", default=[], help="name of a method")
    parser.add_argument("--finetune-epochs", type=int, help="by default as many as CellClassifier takes")
    parser.add_argument("--predictions", type=Path, help="folder that keeps what was predicted")
    parser.add_argument("--figure", type=Path)
    return parser.parse_args()


def read(path: str) -> ad.AnnData:
    adata = mudata.read(path).mod["rna"] if path.endswith(".h5mu") else ad.read_h5ad(path)
    adata.var_names_make_unique()
    return adata


class Sfm:
    """`sfm.tl.annotate` in several ways; both sides are embedded once for a query, from the genes that they share."""

    def __init__(self, finetune_epochs: int | None) -> None:
        self.finetune_kwargs = {"max_epochs": finetune_epochs}
        self.embedded: dict[int, tuple[ad.AnnData, ad.AnnData]] = {}

    def by(self, **options: Any) -> Callable[..., pd.DataFrame]:
        def annotate(reference: ad.AnnData, query: ad.AnnData, labels_key: str) -> pd.DataFrame:
            if options.get("method") == "finetune":  # which trains the model, so that there is no embedding yet
                adata = self._annotated(reference, query, labels_key, method_kwargs=self.finetune_kwargs, **options)
            else:
                adata = self._annotated(*self._embed(reference, query), labels_key, **options)
            labels = adata.obs["sfm_label"].astype(str)
            return pd.DataFrame({"label": labels, "confidence": adata.obs["sfm_label_confidence"]})

        return annotate

    def _annotated(self, reference: ad.AnnData, query: ad.AnnData, labels_key: str, **options: Any) -> ad.AnnData:
        return sfm.tl.annotate(query, reference, labels_key=labels_key, copy=True, **options)

    def _embed(self, reference: ad.AnnData, query: ad.AnnData) -> tuple[ad.AnnData, ad.AnnData]:
        if id(query) not in self.embedded:
            genes = reference.var_names.intersection(query.var_names)
            sides = tuple(sfm.tl.embed(side[:, genes], copy=True) for side in (reference, query))
            self.embedded = {id(query): sides}
        return self.embedded[id(query)]


def scores(truth: np.ndarray, predicted: pd.DataFrame) -> dict[str, float]:
    label, confidence = predicted["label"].to_numpy(), predicted["confidence"].clip(0, 1).to_numpy()
    correct = label == truth
    curve = risk_coverage(confidence, correct)
    return {
        "cells": len(truth),
        "accuracy": accuracy_score(truth, label),
        "macro-F1": f1_score(truth, label, average="macro", labels=np.unique(truth), zero_division=0),
        "area under risk-coverage": area_under_risk_coverage(confidence, correct),
        **{
            f"wrong at {100 * kept:.0f} %": float(np.interp(kept, curve["coverage"], curve["risk"]))
            for kept in COVERAGES
        },
    }


def draw(curves: dict[tuple[str, str], pd.DataFrame], path: Path) -> None:
    import matplotlib.pyplot as plt

    queries, methods = (list(dict.fromkeys(names)) for names in zip(*curves, strict=True))
    figure, axes = plt.subplots(1, len(queries), figsize=(4.5 * len(queries), 3.6), squeeze=False)
    for axis, query in zip(axes[0], queries, strict=True):
        for number, method in enumerate(methods):
            if (query, method) in curves:
                curve = curves[query, method]
                style = {"lw": 2} if method.startswith("sfm") else {"lw": 1, "ls": "--"}
                axis.plot(curve["coverage"], 100 * curve["risk"], color=f"C{number}", label=method, **style)
        # Below, single cells decide.
        axis.set(title=query, xlabel="share of cells that keep a label", xlim=(0.5, 1), ylim=(0, None))
    axes[0, 0].set_ylabel("wrong labels among them (%)")
    lines = {line.get_label(): line for axis in axes[0] for line in axis.get_lines()}
    figure.legend(
        lines.values(), lines.keys(), frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(0.92, 0.5)
    )
    figure.savefig(path, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
