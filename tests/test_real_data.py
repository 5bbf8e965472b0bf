"""`sfm.tl.embed` with the bundled model on real cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

import sfm

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def some_cells(path: Path, n_cells: int) -> ad.AnnData:
    """Evenly spaced cells of a file."""
    adata = ad.read_h5ad(path)
    return adata[np.linspace(0, adata.n_obs - 1, n_cells).astype(int)].copy()


def test_old_symbols(shared_data: Path) -> None:
    """pbmc3k names its genes by symbols of 2015; neighbours in the embedding share the authors' labels."""
    adata = some_cells(shared_data / "pbmc3k.h5ad", 300)
    sfm.tl.embed(adata)
    params = adata.uns["X_sfm"]["params"]
    assert params["coverage"] > 0.95
    assert params["species"] == "human"
    labels = adata.obs["cell_type"].astype(str)
    common = labels.isin(labels.value_counts().index[:6])
    accuracy = cross_val_score(KNeighborsClassifier(15), adata.obsm["X_sfm"][common], labels[common], cv=5).mean()
    assert accuracy > 0.75


def test_symbols_and_ensembl_ids_agree(shared_data: Path) -> None:
    adata = some_cells(shared_data / "pbmc1k_v3.h5ad", 60)
    adata = adata[:, (adata.var["ensembl_id"] != "").to_numpy()].copy()
    sfm.tl.embed(adata, key_added="symbols")
    sfm.tl.embed(adata, gene_symbols="ensembl_id", key_added="ids")
    params = adata.uns["ids"]["params"]
    assert params["gene_names"] == "adata.var['ensembl_id']"
    assert params["id_style"] == "ensembl"
    # One gene of 14,688 (LRTOMT) goes by a symbol that has moved to another id since.
    same = np.isclose(adata.obsm["symbols"], adata.obsm["ids"], atol=1e-5).all(axis=1)
    assert same.mean() > 0.9


def test_mouse_cells_go_by_their_orthologs(shared_data: Path) -> None:
    adata = some_cells(shared_data / "mouse_hpc_spring.h5ad", 60)
    sfm.tl.embed(adata)
    params = adata.uns["X_sfm"]["params"]
    assert params["species"] == "mouse"
    assert params["coverage"] > 0.8
    assert (sfm.get.gene_fate(adata)["fate"] == "ortholog").sum() > 10_000
    assert np.isfinite(adata.obsm["X_sfm"]).all()


def test_half_of_the_expression_missing_is_warned_of(shared_data: Path) -> None:
    adata = some_cells(shared_data / "pbmc5k_cite_hvg_rna.h5ad", 40)
    with pytest.warns(UserWarning, match=r"'sfm-mini' knows few of the genes: coverage is below 50 %.* of 4000 genes"):
        sfm.tl.embed(adata)
    assert 0.3 < adata.uns["X_sfm"]["params"]["coverage"] < 0.5


def test_a_panel_of_another_species_is_refused(shared_data: Path) -> None:
    adata = some_cells(shared_data / "mouse_brain_merfish_tf.h5ad", 40)
    with pytest.raises(ValueError, match="'sfm-mini' knows too few of the genes.*mouse species.*made for human genes"):
        sfm.tl.embed(adata)
    assert not adata.obsm
