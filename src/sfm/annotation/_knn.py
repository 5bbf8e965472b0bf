from __future__ import annotations

from typing import Self

import numpy as np
from scipy.special import softmax

from sfm.annotation._classifier import VectorClassifier
from sfm.annotation._neighbors import nearest_cells, unit_vectors
from sfm.annotation._prototype import label_directions, prototype_logits
from sfm.annotation._settings import checked_switch, is_number
from sfm.annotation._whitening import WithinClassWhitening

# Far below any difference of similarities that means something, so that it decides only between equals.
_TIE = 1e-6
# Between the extremes: 1 loses labels that are close to each other, 0 those whose cells are not around one mean.
_WEIGHT_OF_REST = 0.7


class NearestNeighbors(VectorClassifier):
    """Votes of the most similar reference cells, found exactly by cosine similarity.

    A neighbour votes with how much more similar it is than the first one that has no vote. So a cell that comes in or
    drops out at the edge of the neighbourhood changes nothing. A small share of the votes is given out by similarity to
    the mean of each label: it tells cells apart whose neighbours all agree, and leaves no label impossible.

    Parameters
    ----------
    n_neighbors
        How many reference cells vote.
    weight_of_means
        Share of the votes that the means of the labels have, above 0 and at most 1.
    whiten
        Compare cells after :class:`WithinClassWhitening` instead of as they are, with somewhat less weight on the
        directions in which the labels do not differ.
    """

    def __init__(self, n_neighbors: int = 30, *, weight_of_means: float = 0.1, whiten: bool = True) -> None:
        if not isinstance(n_neighbors, int | np.integer) or isinstance(n_neighbors, bool) or n_neighbors < 1:
            msg = f"n_neighbors={n_neighbors!r}: at least one neighbour has to vote. Pass a whole number from 1 on."
            raise ValueError(msg)
        if not is_number(weight_of_means) or not 0 < weight_of_means <= 1:
            msg = f"weight_of_means={weight_of_means!r} is not a share above 0 and at most 1."
            raise ValueError(msg)
        self.n_neighbors = int(n_neighbors)
        self.weight_of_means = weight_of_means
        self.whitening = (
            WithinClassWhitening(weight_of_rest=_WEIGHT_OF_REST) if checked_switch("whiten", whiten) else None
        )

    def fit(self, vectors: np.ndarray, codes: np.ndarray, *, n_labels: int) -> Self:
        """Keep the reference cells."""
        if self.whitening is not None:
            vectors = self.whitening.fit(vectors, codes)(vectors)
        self.reference, self.codes = unit_vectors(vectors), codes
        self.prototypes = label_directions(self.reference, codes, n_labels=n_labels)
        return self

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """Return the logarithm of the share of votes, shape `(cells, n_labels)`."""
        query = unit_vectors(vectors if self.whitening is None else self.whitening(vectors))
        rows, similarities = nearest_cells(query, self.reference, self.n_neighbors + 1)
        weights = similarities[:, :-1] - similarities[:, -1:] + _TIE  # (cells, neighbours)
        votes = np.zeros((len(query), len(self.prototypes)), dtype=np.float32)
        np.add.at(votes, (np.arange(len(query))[:, None], self.codes[rows[:, :-1]]), weights)
        votes /= votes.sum(axis=1, keepdims=True)
        by_mean = softmax(prototype_logits(query, self.prototypes), axis=1)
        return np.log((1 - self.weight_of_means) * votes + self.weight_of_means * by_mean)
