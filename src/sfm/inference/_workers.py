"""Embedding the blocks of a dask array on the workers of a cluster."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm.auto import tqdm

from sfm._matrix._dask import find_client, is_dask, map_row_blocks
from sfm._state import InputState, refuse_state
from sfm.data._blocks import tokenize_block
from sfm.inference._embed import embed_tokens
from sfm.inference._loop import cell_bar
from sfm.inference._precision import choose_device

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import torch
    from scipy import sparse

    from sfm.checkpoints import PretrainedCells
    from sfm.data._stream import CellStream
    from sfm.protocols import ModelProtocol
    from sfm.tokenizers import Tokenizer

# One forward pass at a time in a process: torch uses its processors, and the precision of products is a global setting.
_FORWARD = Lock()


class EmbeddedBlock(NamedTuple):
    """What became of a block: its state, and unless that is wrong, vectors, and which cells are empty."""

    state: InputState
    vectors: np.ndarray | None
    is_empty: np.ndarray | None


def runs_on_workers(stream: CellStream, device: str | torch.device) -> bool:
    """Whether embedding is left to a cluster: one has the blocks, and this process has no better device."""
    if stream.tokenizer.obs_columns or stream.tokenizer.depends_on_order:  # the workers see counts alone
        return False
    return is_dask(stream.matrix.X) and choose_device(device).type == "cpu" and find_client() is not None


def worker_device(device: str | torch.device) -> str:
    """Ask a worker which device it takes."""
    client: Any = find_client()
    return client.submit(_device_name, str(device), pure=False).result()


def _device_name(device: str) -> str:
    return str(choose_device(device))


def embed_on_workers(
    pretrained: PretrainedCells, stream: CellStream, options: dict[str, Any], *, start: int, stop: int
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield rows, vectors and which cells are empty, block by block; the model goes to each worker once."""
    shared = (pretrained.model, stream.tokenizer, stream.alignment.token_ids, options)
    matrix = stream.matrix
    blocks = map_row_blocks(matrix.X, matrix.slot, embed_block, *shared, start=start, stop=stop)
    with cell_bar(None, stop - start, "Embedding") as progress:
        for rows, block in blocks:
            refuse_state(stream.adata, matrix, block.state, requires=stream.tokenizer.requires, start=rows.start)
            kept = slice(max(rows.start, start), min(rows.stop, stop))
            inside = slice(kept.start - rows.start, kept.stop - rows.start)
            progress.update(kept.stop - kept.start)
            yield kept, block.vectors[inside], block.is_empty[inside]


def embed_block(
    counts: sparse.csr_matrix,
    model: ModelProtocol,
    tokenizer: Tokenizer,
    token_ids: np.ndarray,
    options: dict[str, Any],
) -> EmbeddedBlock:
    """Tokenize and embed some rows if they hold what the tokenizer requires."""
    state, cells, _ = tokenize_block(counts, tokenizer, token_ids)
    if cells is None:
        return EmbeddedBlock(state, None, None)
    with _FORWARD, tqdm(disable=True) as silent:
        vectors = embed_tokens(model, cells, pad_id=tokenizer.vocabulary.pad_id, progress=silent, **options)
    return EmbeddedBlock(state, vectors, cells.lengths <= tokenizer.n_special)
