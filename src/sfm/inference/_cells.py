"""Embedding the cells of an AnnData window by window, wherever they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from sfm._warn import warn
from sfm.data._stream import CellStream, stream_cells
from sfm.inference._embed import embed_tokens
from sfm.inference._minibatches import MinibatchLimits
from sfm.inference._precision import choose_device, choose_precision
from sfm.inference._windows import over_windows
from sfm.inference._workers import embed_on_workers, runs_on_workers, worker_device

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from anndata import AnnData

    from sfm.checkpoints import PretrainedCells
    from sfm.inference._minibatches import BatchSize
    from sfm.inference._precision import Precision
    from sfm.tokenizers import TokenizedCells, Tokenizer

    Embedded = tuple[slice, np.ndarray, np.ndarray]

#: Packages whose versions vectors may depend on.
PACKAGES = ("sfm-tools", "torch", "transformers", "anndata")


@dataclass(frozen=True, eq=False)
class CellVectors:
    """Vectors of all cells of an AnnData."""

    vectors: np.ndarray
    """Float32 of shape `(n_obs, n_dims)`."""
    params: dict[str, Any]
    """Provenance."""
    is_empty: np.ndarray | None = None
    """Which cells have no count on a known gene, shape `(n_obs,)`; `None` where that is not known."""

    @property
    def n_empty(self) -> int:
        """Cells that are known to have no count on a known gene."""
        return 0 if self.is_empty is None else int(self.is_empty.sum())


def embed_cells(
    pretrained: PretrainedCells,
    cells: AnnData | CellStream,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_symbols: str | None = None,
    pooling: str | None = None,
    batch_size: BatchSize = "auto",
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    out: np.ndarray | None = None,
) -> CellVectors:
    """Embed all cells; memory is that of the vectors and of two windows of tokens.

    Parameters
    ----------
    pretrained
        The model.
    cells
        Annotated data, or what :func:`sfm.data.stream_cells` made of it; then `layer`, `use_raw` and `gene_symbols`
        are not read.
    layer, use_raw, gene_symbols, pooling, batch_size, device, precision
        As in :func:`sfm.tl.embed`.
    out
        Where to write the vectors, float32 of shape `(n_obs, n_dims)`, for example a memory map. Default: a new array.

    Raises
    ------
    ValueError
        As :func:`sfm.tl.embed`, or if `out` has another shape or dtype.
    """
    MinibatchLimits.of(batch_size, choose_device(device))  # a bad one is told before any work
    in_precision = choose_precision(precision, device)
    stream = cells
    if not isinstance(stream, CellStream):
        where: dict[str, Any] = {"layer": layer, "use_raw": use_raw, "gene_symbols": gene_symbols}
        stream = stream_cells(stream, pretrained.tokenizer, **where, model_name=f"Model {pretrained.name!r}")
    vectors, empty = out, np.zeros(stream.n_obs, dtype=bool)
    windows = embed_windows(
        pretrained, stream, pooling=pooling, batch_size=batch_size, device=device, precision=in_precision
    )
    for rows, part, part_empty in windows:
        if vectors is None:
            vectors = np.empty((stream.n_obs, part.shape[1]), dtype=np.float32)
        _refuse_other_shape(vectors, (stream.n_obs, part.shape[1]))
        vectors[rows], empty[rows] = part, part_empty
    used = worker_device(device) if runs_on_workers(stream, device) else device
    params = {**stream.params(), **compute_params(pretrained, pooling=pooling, device=used, precision=in_precision)}
    return CellVectors(np.asarray(vectors), params, empty)


def embed_windows(
    pretrained: PretrainedCells,
    stream: CellStream,
    *,
    pooling: str | None = None,
    batch_size: BatchSize = "auto",
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    start: int = 0,
    stop: int | None = None,
) -> Iterator[Embedded]:
    """Yield runs of rows, their float32 vectors and which of the cells are empty, in order, with one progress bar.

    The runs are the windows of the stream; or the blocks of a dask array that is embedded where its blocks are.

    Parameters
    ----------
    pretrained
        The model.
    stream
        The cells.
    pooling, batch_size, device, precision
        As in :func:`sfm.tl.embed`.
    start, stop
        As in :meth:`sfm.data.CellStream.windows`.
    """
    stop = stream.n_obs if stop is None else stop
    options: dict[str, Any] = {"pooling": pooling, "precision": choose_precision(precision, device)}
    if runs_on_workers(stream, device):
        options |= {"batch_size": batch_size, "device": device}
        yield from embed_on_workers(pretrained, stream, options, start=start, stop=stop)
        return
    run = partial(embed_tokens, pretrained.model, pad_id=pretrained.vocabulary.pad_id, **options)
    where: dict[str, Any] = {"batch_size": batch_size, "device": device, "start": start, "stop": stop}
    for rows, cells, vectors in over_windows(run, pretrained.model, stream, doing="Embedding", **where):
        yield rows, vectors, is_empty(cells, pretrained.tokenizer)


def _refuse_other_shape(out: np.ndarray, shape: tuple[int, int]) -> None:
    if out.shape != shape or out.dtype != np.float32:
        msg = f"out has shape {out.shape!r} and dtype {out.dtype.name!r}; the vectors are float32 of shape {shape!r}."
        raise ValueError(msg)


def is_empty(cells: TokenizedCells, tokenizer: Tokenizer) -> np.ndarray:
    """Return which cells have no count on a known gene; shape `(cells,)`."""
    return cells.lengths <= tokenizer.n_special


def compute_params(
    pretrained: PretrainedCells,
    *,
    pooling: str | None = None,
    device: str | torch.device,
    precision: Precision,
    **_: Any,
) -> dict[str, Any]:
    """Provenance of how a network ran."""
    return {
        "pooling": pooling or getattr(getattr(pretrained.model, "config", None), "pooling", None),
        "precision": choose_precision(precision, device),
        "device": str(choose_device(device)),
    }


def embedding_params(
    pretrained: PretrainedCells, source: dict[str, Any], *, layer: str | None, use_raw: bool, n_empty: int
) -> dict[str, Any]:
    """Provenance of an embedding for `uns`, as :func:`sfm.tl.embed` writes it.

    Parameters
    ----------
    pretrained
        The model.
    source
        What :func:`embed_cells` returned as `params`.
    layer, use_raw
        What was asked for.
    n_empty
        Cells without a count on a known gene.
    """
    return {
        **pretrained.params(),
        **source,
        "layer": layer,
        "use_raw": use_raw,
        "n_empty_cells": n_empty,
        **package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Provenance of the packages that results depend on."""
    return {f"{name}_version": version(name) for name in PACKAGES}


def report_empty(n_empty: int, n_obs: int) -> None:
    """Warn of cells without any gene."""
    if n_empty:
        msg = f"{n_empty} of {n_obs} cells have no count on a known gene; they all get the vector of an empty cell."
        warn(msg)


def report_constant(vectors: np.ndarray, n_obs: int | None = None) -> None:
    """Warn if all cells have the same vector; the extremes of each dimension are enough, with the number of cells."""
    n_obs = len(vectors) if n_obs is None else n_obs
    if n_obs > 1 and np.ptp(vectors, axis=0).max() < 1e-6:
        warn(f"All {n_obs} cells got the same vector. Check that the counts and genes are what the model expects.")
