"""Accuracy of labels across data sets, and how many are wrong among the cells that keep one, against other tools.

    python benchmarks/annotation_accuracy.py --reference pbmc3k.h5ad --labels cell_type_coarse --leave-out unassigned \
        --query pbmc4k_subset.h5ad:cell_type_coarse --query pbmc_cite_2batch_400.h5mu:cell_type_protein \
        --celltypist PYTHON --figure risk_coverage.png

`--celltypist` names an interpreter whose environment has CellTypist. Cells of the query whose label the reference does not
have are annotated, but not counted.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import mudata
import numpy as np
import pandas as pd
from annotation_rivals import Scvi, celltypist, pca_knn
from sklearn.metrics import accuracy_score, f1_score

import sfm
from sfm.metrics import area_under_risk_coverage, risk_coverage

if TYPE_CHECKING:
    from collections.abc import Callable

METHODS = ["knn", "logreg", "prototype", ["knn", "logreg", "prototype"], "finetune"]


def main() -> None:
    arguments = parse()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    reference = read(arguments.reference)
    labels_key = arguments.labels
    reference = reference[~reference.obs[labels_key].isin(arguments.leave_out).to_numpy()].copy()
    reference.obs[labels_key] = reference.obs[labels_key].astype(str)
    ours = Sfm(arguments.finetune_epochs)
    methods = {f"sfm, {named(method)}": ours.by(method) for method in METHODS if named(method) not in arguments.skip}
    scvi = Scvi()
    methods |= {"PCA and kNN": pca_knn, "scVI and kNN": scvi.knn, "scANVI": scvi.scanvi}
    if arguments.celltypist:
        methods["CellTypist"] = celltypist(arguments.celltypist)
        methods["CellTypist, selected genes"] = celltypist(arguments.celltypist, selection=True)
    curves, rows = {}, []
    for name in arguments.query:
        path, truth_key = name.split(":")
        query = read(path)
        truth = query.obs[truth_key].astype(str).to_numpy()
        counted = np.isin(truth, reference.obs[labels_key].unique())
        query = ad.AnnData(query.X, obs=pd.DataFrame(index=query.obs_names), var=query.var)
        for method, annotate in methods.items():
            if method in arguments.skip:
                continue
            start = time.perf_counter()
            predicted = annotate(reference, query, labels_key)[counted]
            seconds = time.perf_counter() - start
            row = {"query": Path(path).stem, "method": method, **scores(truth[counted], predicted), "seconds": seconds}
            rows.append(row)
            print(row, flush=True)
            correct = predicted["label"].to_numpy() == truth[counted]
            curves[row["query"], method] = risk_coverage(predicted["confidence"].clip(0, 1).to_numpy(), correct)
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    if arguments.figure:
        draw(curves, arguments.figure)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--leave-out", action="append", default=[])
    parser.add_argument("--query", action="append", required=True, help="file:column with the true labels")
    parser.add_argument("--celltypist", help="interpreter that has CellTypist")
    parser.add_argument("--skip", action="append", default=[], help="name of a method")
    parser.add_argument("--finetune-epochs", type=int, help="by default as many as CellClassifier takes")
    parser.add_argument("--figure", type=Path)
    return parser.parse_args()


def read(path: str) -> ad.AnnData:
    adata = mudata.read(path).mod["rna"] if path.endswith(".h5mu") else ad.read_h5ad(path)
    adata.var_names_make_unique()
    return adata


def named(method: str | list[str]) -> str:
    return method if isinstance(method, str) else "consensus"


class Sfm:
    """`sfm.tl.annotate` by several methods; both sides are embedded once for a query, from the genes that they share."""

    def __init__(self, finetune_epochs: int | None) -> None:
        self.finetune_kwargs = {"max_epochs": finetune_epochs}
        self.embedded: dict[int, tuple[ad.AnnData, ad.AnnData]] = {}

    def by(self, method: str | list[str]) -> Callable[..., pd.DataFrame]:
        def annotate(reference: ad.AnnData, query: ad.AnnData, labels_key: str) -> pd.DataFrame:
            options = {"method_kwargs": self.finetune_kwargs}
            if method != "finetune":  # which trains the model, so that there is no embedding yet
                (reference, query), options = self._embed(reference, query), {"use_rep": "X_sfm"}
            adata = sfm.tl.annotate(query, reference, labels_key=labels_key, method=method, copy=True, **options)
            labels = adata.obs["sfm_label"].astype(str)
            return pd.DataFrame({"label": labels, "confidence": adata.obs["sfm_label_confidence"]})

        return annotate

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
        "wrong at 90 %": float(np.interp(0.9, curve["coverage"], curve["risk"])),
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
