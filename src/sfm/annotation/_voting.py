"""One label per cluster of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData


def clusters_from_obs(adata: AnnData, key: str) -> np.ndarray:
    """Read a clustering as whole numbers; each cell without a cluster gets one of its own."""
    if key not in adata.obs:
        known = ", ".join(map(repr, adata.obs.columns)) or "none"
        msg = (
            f"majority_voting={key!r}: did not find adata.obs[{key!r}]. Columns present: {known}. Run `sc.tl.leiden`, or "
            "pass majority_voting=True to have clusters made."
        )
        raise KeyError(msg)
    codes = adata.obs[key].astype("category").cat.codes.to_numpy().astype(np.int64)
    alone = np.flatnonzero(codes < 0)
    codes[alone] = codes.max(initial=-1) + 1 + np.arange(len(alone))
    return codes


def majority(clusters: np.ndarray, votes: np.ndarray, rejected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give all cells of a cluster the label that has most votes in it.

    Parameters
    ----------
    clusters
        Number of the cluster of each cell, shape `(cells,)`.
    votes
        Number of the label that each method chose for each cell, shape `(cells, methods)`.
    rejected
        Cells that do not vote, shape `(cells,)`.

    Returns
    -------
    Number of the label of each cell, -1 where most cells of the cluster were rejected; and the share of the votes in the
    cluster, those of rejected cells included, that are for it. Of labels with equally many votes the first is taken.
    """
    _, clusters = np.unique(clusters, return_inverse=True)
    n_clusters, n_labels = int(clusters.max()) + 1, int(votes.max(initial=0)) + 1
    counts = np.zeros((n_clusters, n_labels), dtype=np.int64)
    heard = ~rejected
    np.add.at(counts, (clusters[heard][:, None], votes[heard]), 1)
    n_votes = np.bincount(clusters, minlength=n_clusters) * votes.shape[1]
    n_rejected = np.bincount(clusters, weights=rejected, minlength=n_clusters) * votes.shape[1]
    most = counts.max(axis=1)
    unknown = n_rejected > n_votes / 2
    labels = np.where(unknown, -1, counts.argmax(axis=1))
    share = np.where(unknown, n_rejected, most) / n_votes
    return labels[clusters], share[clusters].astype(np.float32)


def agreement(votes: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Share of the methods that chose the label of each cell, float32 of shape `(cells,)`."""
    return (votes == codes[:, None]).mean(axis=1).astype(np.float32)
