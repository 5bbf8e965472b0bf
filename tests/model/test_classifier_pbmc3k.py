from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
import scvi

import sfm
from sfm.model import CellClassifier

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.filterwarnings("ignore:Labels of .* that a single cell has")
@pytest.mark.slow
def test_the_bundled_model_learns_the_types_of_blood_cells(
    shared_data: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """From 300 cells and with default settings, far better than by the commonest label."""
    adata = ad.read_h5ad(shared_data / "pbmc3k.h5ad")
    adata = adata[np.random.default_rng(0).permutation(adata.n_obs)]
    train, test = adata[:300].copy(), adata[-200:].copy()
    scvi.settings.seed = 0
    model = CellClassifier.from_pretrained("sfm-mini", train, labels_key="cell_type", max_length=96)
    model.train(max_epochs=5, accelerator="cpu", enable_progress_bar=False)
    report = model.classification_report(test)
    for name, value in report.attrs.items():
        record_property(name, value)
    majority = float(test.obs["cell_type"].value_counts(normalize=True).iloc[0])
    assert report.attrs["accuracy"] > majority + 0.25, f"{report.attrs['accuracy']:.3f}, commonest label {majority:.3f}"
    assert report.attrs["macro_f1"] > 0.4

    few = test[:40].copy()
    soft = model.predict(few, soft=True)
    model.save_pretrained(tmp_path / "directory")
    again = CellClassifier.from_pretrained(tmp_path / "directory", train.copy(), labels_key="cell_type", max_length=96)
    np.testing.assert_allclose(again.predict(few, soft=True), soft, atol=1e-5)
    model.save(str(tmp_path / "saved"))
    loaded = CellClassifier.load(str(tmp_path / "saved"), adata=train.copy(), accelerator="cpu")
    np.testing.assert_allclose(loaded.predict(few, soft=True), soft, atol=1e-5)
    assert list(sfm.load(tmp_path / "directory").model.config.id2label.values()) == model.labels
