from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from natsort import natsorted

from sfm._keys import column_names
from sfm.annotation._labels import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from sfm._keys import AnnotationKeys
    from sfm.annotation._decision import Decision
    from sfm.annotation._reference import Prediction


def write_annotation(
    adata: AnnData, keys: AnnotationKeys, labels: Sequence[str], prediction: Prediction, decision: Decision
) -> None:
    """Write the slots of :func:`sfm.tl.annotate` but `uns`."""
    names = np.array([*decision.names, UNKNOWN], dtype=object)[decision.codes]
    adata.obs[keys.label] = pd.Categorical(names, categories=natsorted(set(names)))
    adata.obs[keys.confidence] = prediction.confidence.astype(np.float32)
    for slot, values in [(keys.novelty, prediction.novelty), (keys.consensus, decision.consensus)]:
        if values is not None:
            adata.obs[slot] = values.astype(np.float32)
        elif slot in adata.obs and keys.uns in adata.uns:  # of an earlier call with other options
            del adata.obs[slot]
    adata.obsm[keys.probabilities] = pd.DataFrame(
        prediction.probabilities, index=adata.obs_names, columns=column_names(labels), dtype=np.float32
    )
