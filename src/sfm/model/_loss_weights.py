from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LossWeights = dict[str, float] | Literal["balanced"]


def weights_of_labels(
    loss_weights: Mapping[str, float] | Literal["balanced"] | None, labels: Sequence[str], counts: np.ndarray
) -> list[float] | None:
    """Return the weight of each label in the loss, or `None` for equal ones.

    Parameters
    ----------
    loss_weights
        Weights of some labels, where others have 1; `"balanced"` for `n / (k * count)` with `n` labelled cells and `k`
        labels, as in scikit-learn, where labels that do not occur have 1.
    labels
        Names of all labels.
    counts
        How often each of them occurs.
    """
    if loss_weights is None:
        return None
    if isinstance(loss_weights, str):
        if loss_weights != "balanced":
            msg = f"Unknown loss_weights={loss_weights!r}. Pass 'balanced', or a dict such as {{{labels[0]!r}: 5.0}}."
            raise ValueError(msg)
        occurring = counts > 0
        balanced = counts.sum() / np.maximum(occurring.sum() * counts, 1)
        return [float(weight) for weight in np.where(occurring, balanced, 1.0)]
    unknown = [name for name in loss_weights if name not in labels]
    if unknown:
        msg = f"loss_weights= names {unknown!r}, which are no labels. The labels are {', '.join(map(repr, labels))}."
        raise ValueError(msg)
    wrong = {name: weight for name, weight in loss_weights.items() if not (math.isfinite(weight) and weight > 0)}
    if wrong:
        msg = f"loss_weights={wrong!r} are not positive numbers. Leave cells unlabelled to train without them."
        raise ValueError(msg)
    return [float(loss_weights.get(name, 1.0)) for name in labels]
