"""From probabilities to the label that a cell is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sfm.annotation._voting import agreement, majority

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sfm.annotation._reference import Prediction
    from sfm.annotation._tree import LabelHierarchy

# What a label has to reach in a tree where no other threshold is asked for.
_MORE_LIKELY_THAN_NOT = 0.5


@dataclass(frozen=True, eq=False)
class Decision:
    """What cells are called."""

    names: Sequence[str]
    codes: np.ndarray
    """Number of the name of each cell, -1 for those that are rejected, shape `(cells,)`."""
    consensus: np.ndarray | None
    """Share of the votes for it, float32 of shape `(cells,)`."""


def decide(
    prediction: Prediction,
    labels: Sequence[str],
    *,
    min_confidence: float | None,
    max_novelty: float | None,
    hierarchy: LabelHierarchy | None,
    clusters: np.ndarray | None,
) -> Decision:
    """Reject, roll up and vote, in this order."""
    names, codes = list(labels), prediction.best.copy()
    if hierarchy is not None:
        threshold = _MORE_LIKELY_THAN_NOT if min_confidence is None else min_confidence
        names, codes = hierarchy.roll_up(prediction.probabilities, codes, labels, threshold)
    elif min_confidence is not None:
        codes[prediction.confidence < min_confidence] = -1
    codes[_out_of_reach(prediction, max_novelty)] = -1
    several = prediction.votes is not None and prediction.votes.shape[1] > 1
    if clusters is not None:
        votes = prediction.votes if several and hierarchy is None else codes[:, None]
        return Decision(names, *majority(clusters, np.asarray(votes), codes < 0))
    votes = prediction.votes if several else None
    return Decision(names, codes, None if votes is None else agreement(votes, prediction.best))


def _out_of_reach(prediction: Prediction, max_novelty: float | None) -> np.ndarray:
    """Say which cells are empty, or too far from the reference."""
    far = np.zeros(len(prediction.probabilities), dtype=bool)
    if prediction.is_empty is not None:
        far |= prediction.is_empty
    if max_novelty is not None and prediction.novelty is not None:
        far |= prediction.novelty > max_novelty
    return far
