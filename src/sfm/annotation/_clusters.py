"""Many small clusters of similar cells."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from sfm._matrix import select_matrix
from sfm._state import input_state

if TYPE_CHECKING:
    from anndata import AnnData

# Resolution by number of cells: clusters should stay small.
_RESOLUTIONS = [(5_000, 5.0), (20_000, 10.0), (40_000, 15.0), (100_000, 20.0), (200_000, 25.0)]
_HIGHEST_RESOLUTION = 30.0
_N_NEIGHBORS = 15
_N_COMPONENTS = 50
_TARGET_SUM = 1e4
# Below this many cells there is nothing to cluster.
_FEW_CELLS = 3


def refuse_without_igraph() -> None:
    """Raise if Leiden clustering cannot run."""
    if find_spec("igraph") is None:
        msg = "majority_voting=True clusters the cells with Leiden, which needs igraph."
        error = ImportError(msg)
        error.add_note(
            "Please install it: `pip install igraph`, or pass majority_voting= with a clustering in adata.obs."
        )
        raise error


def cluster_cells(adata: AnnData, vectors: np.ndarray | None, **where: Any) -> np.ndarray:
    """Cluster cells by their vectors, or by expression if there are none; numbers of clusters, shape `(n_obs,)`."""
    if adata.n_obs < _FEW_CELLS:
        return np.arange(adata.n_obs)
    return over_clusters(expression_vectors(adata, **where) if vectors is None else vectors)


def over_clusters(vectors: np.ndarray) -> np.ndarray:
    """Cluster cells by their vectors with Leiden at a high resolution; numbers of clusters, shape `(cells,)`."""
    import scanpy as sc
    from anndata import AnnData

    from sfm.annotation._exact_neighbors import ExactNeighbors

    n_cells = len(vectors)
    if n_cells < _FEW_CELLS:
        return np.arange(n_cells)
    cells = AnnData(_principal_components(np.asarray(vectors, dtype=np.float32)))
    resolution = next((value for limit, value in _RESOLUTIONS if n_cells < limit), _HIGHEST_RESOLUTION)
    neighbors = ExactNeighbors(n_neighbors=min(_N_NEIGHBORS, n_cells - 1))
    sc.pp.neighbors(cells, use_rep="X", transformer=neighbors, random_state=0)
    sc.tl.leiden(cells, resolution=resolution, flavor="igraph", n_iterations=2, directed=False, random_state=0)
    return cells.obs["leiden"].cat.codes.to_numpy().astype(np.int64)


def expression_vectors(adata: AnnData, **where: Any) -> np.ndarray:
    """Return vectors for references that have none: `adata.obsm["X_pca"]`, or principal components of log counts."""
    if "X_pca" in adata.obsm:
        return np.asarray(adata.obsm["X_pca"])
    import scanpy as sc
    from anndata import AnnData
    from scipy import sparse

    chunks = [values.astype(np.float32) for _, values in select_matrix(adata, **where).chunks()]
    cells = AnnData(sparse.vstack(chunks, format="csr"))
    if input_state(cells.X).kind in ("counts", "almost_counts", "normalized"):
        sc.pp.normalize_total(cells, target_sum=_TARGET_SUM)
        sc.pp.log1p(cells)
    if cells.n_vars <= _N_COMPONENTS:
        return cells.X.toarray()
    sc.pp.pca(cells, n_comps=min(_N_COMPONENTS, cells.n_obs - 1), random_state=0)
    return np.asarray(cells.obsm["X_pca"])


def _principal_components(vectors: np.ndarray) -> np.ndarray:
    """Centre vectors, and keep the directions in which they vary most; distances hardly change, but take less time."""
    center = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    centered = vectors - center
    if vectors.shape[1] <= _N_COMPONENTS:
        return centered
    _, directions = np.linalg.eigh((centered.T @ centered).astype(np.float64))
    return centered @ directions[:, -_N_COMPONENTS:].astype(np.float32)
