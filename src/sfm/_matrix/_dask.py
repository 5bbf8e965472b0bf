"""Running a function over the row blocks of a dask array, on whichever scheduler is in use, a few blocks at a time."""

from __future__ import annotations

import sys
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Task = tuple[slice, Any]


def is_dask(X: Any) -> bool:
    """Whether `X` is a dask array; dask is not imported to find out."""
    dask_array = sys.modules.get("dask.array")
    return dask_array is not None and isinstance(X, dask_array.Array)


def find_client() -> Any | None:
    """Return the client of `dask.distributed` that computations go to, `None` if they stay in this process."""
    from dask.base import get_scheduler

    owner = getattr(get_scheduler(), "__self__", None)
    return owner if hasattr(owner, "scatter") else None


def row_blocks(X: Any, slot: str) -> list[slice]:
    """Return the rows of each block of a dask array."""
    sizes = X.chunks[0]
    if any(np.isnan(size) for size in sizes):
        msg = f"{slot} is a dask array with blocks of unknown size. Call its compute_chunk_sizes() first."
        raise ValueError(msg)
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def map_row_blocks(
    X: Any, slot: str, function: Callable[..., Any], *shared: Any, start: int = 0, stop: int | None = None
) -> Iterator[tuple[slice, Any]]:
    """Yield the rows of each block and `function(block, *shared)`, in order.

    The function runs where the blocks are made, on CSR matrices of all columns; `shared` goes to each worker once.
    Only as many blocks as keep the workers busy are under way, so that memory is bounded by the size of a block.

    Parameters
    ----------
    X
        Dask array whose blocks are numpy arrays or scipy sparse matrices.
    slot
        What messages call the array.
    function
        What to compute.
    shared
        Further arguments, the same for all blocks.
    start, stop
        Blocks without a row in this range are left out.
    """
    from dask.delayed import delayed

    rows_of_blocks = row_blocks(X, slot)
    blocks = _blocks(X, rows_of_blocks, range(start, X.shape[0] if stop is None else stop))
    client = find_client()
    sent = shared if client is None else [client.scatter(value, broadcast=True, hash=False) for value in shared]
    apply = delayed(_apply, pure=False)
    tasks = ((rows, apply(function, columns, slot, *sent)) for rows, columns in blocks)
    yield from _in_process(tasks) if client is None else _on_cluster(client, tasks)


def _blocks(X: Any, rows_of_blocks: list[slice], wanted: range) -> Iterator[tuple[slice, list[Any]]]:
    """Yield the rows of each row of blocks that has wanted rows, and the blocks, not computed yet."""
    from dask.delayed import Delayed
    from dask.optimization import cull

    keys = X.__dask_keys__()
    # Optimised once: doing so for every block would look at all blocks every time.
    graph = dict(X.__dask_optimize__(X.__dask_graph__(), keys))
    for rows, columns in zip(rows_of_blocks, keys, strict=True):
        if max(rows.start, wanted.start) < min(rows.stop, wanted.stop):
            own, _ = cull(graph, columns)
            yield rows, [Delayed(key, own) for key in columns]


def _apply(function: Callable[..., Any], columns: list[Any], slot: str, *shared: Any) -> Any:
    return function(blocks_as_csr(columns, slot), *shared)


def blocks_as_csr(columns: list[Any], slot: str) -> sparse.csr_matrix:
    """Put blocks side by side, as CSR."""
    for block in columns:
        if not (isinstance(block, np.ndarray) or sparse.issparse(block)):
            msg = (
                f"{slot} is a dask array whose blocks are of type {type(block).__name__}. "
                "Supported: numpy arrays and scipy sparse matrices."
            )
            raise NotImplementedError(msg)
    matrices = [sparse.csr_matrix(block) for block in columns]
    return matrices[0] if len(matrices) == 1 else sparse.hstack(matrices, format="csr")


def _in_process(tasks: Iterator[Task]) -> Iterator[tuple[slice, Any]]:
    """Compute as many blocks at once as the scheduler has workers."""
    from dask import config
    from dask.base import compute, get_scheduler
    from dask.local import get_sync
    from dask.system import CPU_COUNT

    n_workers = 1 if get_scheduler() is get_sync else config.get("num_workers", None) or CPU_COUNT
    while group := list(islice(tasks, n_workers)):
        results = compute(*(task for _, task in group), traverse=False)
        yield from zip((rows for rows, _ in group), results, strict=True)


def _on_cluster(client: Any, tasks: Iterator[Task]) -> Iterator[tuple[slice, Any]]:
    """Keep two blocks per thread of the cluster under way; hand out results in order."""
    pending: deque[tuple[slice, Any]] = deque()
    try:
        for rows, task in tasks:
            pending.append((rows, client.compute(task)))
            if len(pending) >= 2 * max(sum(client.nthreads().values()), 1):
                yield _result(pending)
        while pending:
            yield _result(pending)
    finally:
        client.cancel([future for _, future in pending])


def _result(pending: deque[tuple[slice, Any]]) -> tuple[slice, Any]:
    rows, future = pending.popleft()
    return rows, future.result()
