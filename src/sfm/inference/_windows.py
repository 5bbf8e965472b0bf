"""The loop over the windows of a stream that all computations share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfm.inference._loop import cell_bar
from sfm.inference._minibatches import MinibatchLimits
from sfm.inference._precision import choose_device
from sfm.inference._prepare import in_eval_mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from sfm.data._stream import CellStream
    from sfm.inference._minibatches import BatchSize
    from sfm.tokenizers import TokenizedCells


def over_windows(
    run: Callable[..., Any],
    model: Any,
    stream: CellStream,
    *,
    doing: str,
    batch_size: BatchSize,
    device: str | torch.device,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[tuple[slice, TokenizedCells, Any]]:
    """Yield rows, tokens and results of each window, with one progress bar and what was learnt about memory.

    Parameters
    ----------
    run
        Function of tokenized cells and of `device`, `progress` and `limits`, as those of
        :func:`~sfm.inference._loop.run_tokens`.
    model
        What it computes with; stays on the device from window to window.
    stream
        The cells.
    doing
        Title of the progress bar.
    batch_size, device
        As in :func:`sfm.tl.embed`.
    start, stop
        As in :meth:`sfm.data.CellStream.windows`.
    """
    stop, chosen = stream.n_obs if stop is None else stop, choose_device(device)
    limits = MinibatchLimits.for_model(model, batch_size, chosen)
    with cell_bar(None, stop - start, doing) as progress, in_eval_mode(model, chosen):
        for rows, cells in stream.windows(start=start, stop=stop):
            yield rows, cells, run(cells, device=chosen, progress=progress, limits=limits)
