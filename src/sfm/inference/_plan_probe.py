"""Short runs that show how fast tokens are made, and how fast a model is at each length."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from sfm.inference._embed import embed_tokens
from sfm.inference._plan_memory import MemoryPeak
from sfm.inference._prepare import prepared
from sfm.tokenizers import TokenizedCells

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from sfm.checkpoints import PretrainedCells
    from sfm.data._stream import CellStream
    from sfm.inference._minibatches import MinibatchLimits

_WINDOWS = 3
# Seconds after which no further minibatch is tried.
_BUDGET = 3.0
_MOST_MINIBATCHES = 64


@dataclass(frozen=True, eq=False)
class TokenProbe:
    """Tokens of some windows of cells."""

    windows: list[TokenizedCells]
    n_obs: int
    seconds_per_cell: float
    extra_memory: int

    @property
    def n_cells(self) -> int:
        """Cells that were tokenized."""
        return sum(map(len, self.windows))

    @property
    def n_tokens(self) -> int:
        """Their tokens."""
        return sum(window.input_ids.size for window in self.windows)


def probe_tokens(cells: CellStream | TokenizedCells) -> TokenProbe:
    """Tokenize all cells, or three windows: the first, the middle and the last full one."""
    if isinstance(cells, TokenizedCells):
        return TokenProbe([cells], len(cells), 0.0, 0)
    size = cells.window_size
    n_windows = -(-cells.n_obs // size)
    chosen = range(n_windows) if n_windows <= _WINDOWS else (0, n_windows // 2, cells.n_obs // size - 1)
    with MemoryPeak() as memory:
        windows, rates = [], []
        for i in chosen:
            window, seconds = _timed(partial(_window, cells, i * size))
            windows.append(window)
            rates.append(seconds / len(window))
        if len(rates) == 1:  # the first one also paid for the compilation of kernels
            rates.append(_timed(partial(_window, cells, 0))[1] / len(windows[0]))
    return TokenProbe(windows, cells.n_obs, float(np.mean(rates[1:])), memory.extra)


def _window(cells: CellStream, start: int) -> TokenizedCells:
    stop = min(start + cells.window_size, cells.n_obs)
    ((_, window),) = cells.windows(start=start, stop=stop)
    return window


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


@dataclass(frozen=True, eq=False)
class ForwardProbe:
    """How the cells of some windows are split into minibatches, and what those cost."""

    seconds: float
    """For all minibatches of the windows."""
    n_minibatches: int
    tokens_per_minibatch: int
    """Padding included."""
    n_dims: int
    extra_memory: int


def probe_forward(
    pretrained: PretrainedCells,
    windows: list[TokenizedCells],
    limits: MinibatchLimits,
    *,
    pooling: str | None,
    device: torch.device,
    precision: Any,
) -> ForwardProbe:
    """Run some minibatches, from the shortest cells to the longest, for some seconds."""
    minibatches = sorted(_split(windows, limits), key=lambda minibatch: minibatch.longest)
    padded = np.array([minibatch.n_tokens for minibatch in minibatches])
    # Where the middle of each stands among all tokens, from 0 to 1: what minibatches are spread over, and summed by.
    place = (np.cumsum(padded) - padded / 2) / padded.sum()
    options: dict[str, Any] = {"pooling": pooling, "device": device, "precision": precision, "limits": limits}

    def run(index: int) -> np.ndarray:
        minibatch = minibatches[index]
        cells = windows[minibatch.window][minibatch.rows]
        silent = tqdm(disable=True)
        return embed_tokens(pretrained.model, cells, pad_id=pretrained.vocabulary.pad_id, progress=silent, **options)

    costs: dict[int, float] = {}
    with prepared(pretrained.model, device, precision), MemoryPeak() as memory:
        vectors = run(0)  # the first call is slower than those that follow
        start = time.perf_counter()
        for wanted in _spread(_MOST_MINIBATCHES):
            index = int(np.abs(place - wanted).argmin())
            if index not in costs:
                costs[index] = _timed(partial(run, index))[1] / padded[index]
            if len(costs) > 1 and time.perf_counter() - start > _BUDGET:
                break
    tried = sorted(costs)
    per_token = np.interp(place, place[tried], [costs[index] for index in tried])
    return ForwardProbe(
        seconds=float((per_token * padded).sum()),
        n_minibatches=len(minibatches),
        tokens_per_minibatch=int(padded.max()),
        n_dims=vectors.shape[1],
        extra_memory=memory.extra,
    )


@dataclass(frozen=True, eq=False)
class _Minibatch:
    window: int
    rows: np.ndarray
    longest: int

    @property
    def n_tokens(self) -> int:
        """Tokens, padding included."""
        return max(self.longest, 1) * len(self.rows)


def _split(windows: list[TokenizedCells], limits: MinibatchLimits) -> Iterator[_Minibatch]:
    for i, window in enumerate(windows):
        lengths = window.lengths
        for rows in limits.split(lengths):
            yield _Minibatch(i, rows, int(lengths[rows].max()))


def _spread(n: int) -> Iterator[float]:
    """Yield places from 0 to 1: the ends, and then those furthest from the ones before (van der Corput)."""
    yield from (1.0, 0.0)
    for i in range(1, n - 1):
        place, scale, rest = 0.0, 0.5, i
        while rest:
            place, scale, rest = place + scale * (rest % 2), scale / 2, rest // 2
        yield place
