"""The page about annotation runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import scanpy as sc

import sfm

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "goldens" / "celltypist" / "multiclass.pkl"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive:UserWarning")  # the page shows plots
@pytest.mark.filterwarnings("ignore:CellTypistReference knows few:UserWarning")  # the page names a larger model
def test_examples_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    shutil.copy(GOLDEN, "Immune_All_Low.pkl")
    reference, adata, more_cells = (sfm.datasets.toy_cells(60, seed=seed) for seed in (0, 1, 2))
    for cells in (reference, adata, more_cells):
        sc.pp.downsample_counts(
            cells, counts_per_cell=120
        )  # few tokens per cell, for the model of the page is not tiny
        cells.obs["cell_type"] = cells.obs["cell_type"].cat.rename_categories(["CD4 T", "CD8 T", "B"])
    adata.obs["donor"] = [f"donor {i % 6}" for i in range(60)]
    adata.obs["disease"] = np.where(adata.obs["donor"] < "donor 3", "ill", "well")
    adata.var["dosage_sensitive"] = np.where(np.arange(adata.n_vars) % 2, "yes", "no")
    more_cells.obs["cell_type"] = more_cells.obs["cell_type"].astype(str).replace("B", "NK")
    names: dict[str, Any] = {"adata": adata, "reference": reference, "more_cells": more_cells}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "annotation.md").read_text(), flags=re.DOTALL)
    assert len(blocks) > 8
    for block in blocks:
        # On cells of three types that are drawn apart a single pass teaches enough.
        exec(re.sub(r"\.train\((max_epochs=5)?\)", ".train(max_epochs=1, accelerator='cpu')", block), names)
    labels = set(names["adata"].obs["sfm_label"]) - {"unknown"}
    assert labels
    assert all(label.startswith("type ") for label in labels), "the last labels are those of the CellTypist model"
