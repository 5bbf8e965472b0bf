from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfm.inference._loop import run_tokens

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
    from tqdm.auto import tqdm

    from sfm.inference._minibatches import BatchSize, MinibatchLimits
    from sfm.inference._precision import Precision
    from sfm.nn import CellForSequenceClassification
    from sfm.tokenizers import TokenizedCells


def classify_tokens(
    network: CellForSequenceClassification,
    cells: TokenizedCells,
    *,
    pad_id: int | None,
    batch_size: BatchSize = "auto",
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    progress: tqdm[Any] | None = None,
    limits: MinibatchLimits | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Classify tokenized cells in one pass.

    Returns
    -------
    Logits, float32, shape `(n_obs, num_labels)`, and cell vectors as `network.encode` gives them, float32, shape
    `(n_obs, n_dims)`; both in the order of the cells.
    """
    classifier: Any = network

    def compute(minibatch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        vectors = classifier.encode(**minibatch)
        return classifier.output_layer(classifier.features(vectors)).logits, vectors

    logits, vectors = run_tokens(
        network,
        compute,
        cells,
        pad_id=pad_id,
        doing="Annotating",
        batch_size=batch_size,
        device=device,
        precision=precision,
        progress=progress,
        limits=limits,
    )
    return logits, vectors
