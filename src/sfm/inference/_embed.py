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
    from sfm.protocols import ModelProtocol
    from sfm.tokenizers import TokenizedCells


def embed_tokens(
    model: ModelProtocol,
    cells: TokenizedCells,
    *,
    pad_id: int | None,
    pooling: str | None = None,
    batch_size: BatchSize = "auto",
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    progress: tqdm[Any] | None = None,
    limits: MinibatchLimits | None = None,
) -> np.ndarray:
    """Embed tokenized cells; one float32 row per cell, in order, zeros for cells without tokens."""
    options = {} if pooling is None else {"pooling": pooling}
    (vectors,) = run_tokens(
        model,
        lambda minibatch: (_encode(model, minibatch, options),),
        cells,
        pad_id=pad_id,
        doing="Embedding",
        batch_size=batch_size,
        device=device,
        precision=precision,
        progress=progress,
        limits=limits,
    )
    vectors[cells.lengths == 0] = 0
    return vectors


def _encode(model: ModelProtocol, minibatch: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    vectors = model.encode(**minibatch, **options)
    n_cells = minibatch["input_ids"].shape[0]
    if vectors.ndim != 2 or vectors.shape[0] != n_cells:
        msg = (
            f"{type(model).__name__}.encode returned shape {tuple(vectors.shape)} for {n_cells} cells; "
            "sfm.ModelProtocol asks for (cells, dims)."
        )
        raise ValueError(msg)
    return vectors
