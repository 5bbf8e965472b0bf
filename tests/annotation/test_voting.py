"""One label per cluster."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from sfm.annotation._voting import agreement, clusters_from_obs, majority


def voted(clusters: list[int], votes: list[int], rejected: list[int] = ()) -> tuple[list[int], list[float]]:  # type: ignore[assignment]
    mask = np.isin(np.arange(len(votes)), rejected)
    labels, share = majority(np.array(clusters), np.array(votes)[:, None], mask)
    assert share.dtype == np.float32
    return labels.tolist(), [round(float(value), 3) for value in share]


def test_all_cells_of_a_cluster_get_the_label_of_most() -> None:
    assert voted([0, 0, 0, 7, 7], [1, 1, 2, 0, 0]) == ([1, 1, 1, 0, 0], [0.667, 0.667, 0.667, 1.0, 1.0])


def test_rejected_cells_do_not_vote_but_count() -> None:
    assert voted([0, 0, 0, 0, 0], [1, 1, 1, 2, 2], rejected=[0, 1]) == ([2] * 5, [0.4] * 5)


def test_a_cluster_of_mostly_rejected_cells_is_unknown() -> None:
    assert voted([0, 0, 0, 1, 1], [1, 1, 1, 2, 2], rejected=[0, 1]) == ([-1, -1, -1, 2, 2], [0.667] * 3 + [1.0] * 2)


def test_half_of_the_cells_are_enough() -> None:
    assert voted([0, 0], [1, 1], rejected=[0]) == ([1, 1], [0.5, 0.5])


def test_cells_on_their_own_keep_their_label() -> None:
    assert voted([0, 1, 2], [2, 0, 1]) == ([2, 0, 1], [1.0, 1.0, 1.0])


def test_each_method_has_a_vote() -> None:
    votes = np.array([[0, 1, 1], [0, 1, 1], [0, 0, 0]])
    labels, share = majority(np.zeros(3, dtype=int), votes, np.zeros(3, dtype=bool))
    assert labels.tolist() == [0, 0, 0]
    np.testing.assert_allclose(share, 5 / 9)


def test_agreement_of_methods() -> None:
    np.testing.assert_allclose(agreement(np.array([[0, 1, 1], [2, 2, 2]]), np.array([1, 2])), [2 / 3, 1])


@pytest.mark.parametrize("dtype", ["category", "object", "float"])
def test_cells_without_a_cluster_are_on_their_own(dtype: str) -> None:
    adata = ad.AnnData(np.zeros((5, 1), dtype=np.float32))
    values = [3, np.nan, 5, 3, np.nan] if dtype == "float" else ["3", None, "5", "3", None]
    adata.obs["cluster"] = pd.Series(values, dtype=dtype).to_numpy() if dtype != "category" else pd.Categorical(values)
    codes = clusters_from_obs(adata, "cluster")
    assert codes[0] == codes[3]
    assert len(np.unique(codes)) == 4
