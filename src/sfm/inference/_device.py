"""Moving minibatches to a device and results back, without making it wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor


def to_device(minibatch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copy a minibatch to the device; from pinned memory to CUDA, so that the copy runs beside the computation."""
    if device.type != "cuda":
        return {name: tensor.to(device) for name, tensor in minibatch.items()}
    return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in minibatch.items()}


class DeviceResults:
    """Float32 arrays with a row per cell, filled by what a device computes for some rows.

    CUDA computes while the next minibatch is made, so its results are read one minibatch later.
    """

    def __init__(self, n_cells: int, device: torch.device) -> None:
        self._n_cells = n_cells
        self._device = device
        self._arrays: tuple[np.ndarray, ...] = ()
        self._pending: tuple[np.ndarray, tuple[Tensor, ...], torch.cuda.Event] | None = None

    def add(self, rows: np.ndarray, parts: tuple[Tensor, ...]) -> None:
        """Store the results of some rows."""
        if self._device.type != "cuda":
            self._write(rows, tuple(part.float().cpu() for part in parts))
            return
        copies = tuple(_to_pinned(part.float()) for part in parts)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(self._device))
        self._flush()
        self._pending = (rows, copies, copied)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Return the arrays, when all rows have been added."""
        self._flush()
        return self._arrays

    def _flush(self) -> None:
        if self._pending is not None:
            rows, copies, copied = self._pending
            copied.synchronize()
            self._write(rows, copies)
            self._pending = None

    def _write(self, rows: np.ndarray, parts: tuple[Tensor, ...]) -> None:
        if not self._arrays:
            self._arrays = tuple(np.zeros((self._n_cells, *part.shape[1:]), dtype=np.float32) for part in parts)
        for array, part in zip(self._arrays, parts, strict=True):
            array[rows] = part.numpy()


def _to_pinned(part: Tensor) -> Tensor:
    return torch.empty(part.shape, dtype=part.dtype, pin_memory=True).copy_(part, non_blocking=True)
