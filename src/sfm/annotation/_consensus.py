from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sfm.annotation._calibration import MEASURED
from sfm.annotation._reference import Prediction, Reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData


@dataclass(eq=False)
class Consensus:
    """Several references with the same labels, whose methods have one vote each."""

    references: Sequence[Reference]

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels."""
        return self.references[0].labels

    def predict(self, adata: AnnData, **options: Any) -> Prediction:
        """Annotate cells, as :meth:`sfm.annotation.Reference.predict` says."""
        predictions = [reference.predict(adata, **options) for reference in self.references]
        votes = [part.best[:, None] if part.votes is None else part.votes for part in predictions]
        first, *_ = predictions
        return Prediction(
            probabilities=np.average(
                [part.probabilities for part in predictions], axis=0, weights=[part.shape[1] for part in votes]
            ).astype(np.float32),
            novelty=next((part.novelty for part in predictions if part.novelty is not None), None),
            vectors=first.vectors,
            params=first.params,
            is_empty=first.is_empty,
            votes=np.concatenate(votes, axis=1),
        )

    def params(self) -> dict[str, Any]:
        """Provenance for `uns`; what was measured on one part is not true of the whole."""
        first, *others = [reference.params() for reference in self.references]
        for other in others:
            first |= {f"{key}_finetune": other[key] for key in ("temperature", "weights_hash") if key in other}
        return {**first, **dict.fromkeys(MEASURED)}
