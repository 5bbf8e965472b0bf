from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal

from sfm import _logging as logg
from sfm._docs import INPUT, doc_params
from sfm._keys import embedding_keys
from sfm.checkpoints._resolve import resolve_model
from sfm.data._open import open_cells
from sfm.data._stream import stream_cells
from sfm.files._assembly import assemble, clear, is_complete
from sfm.files._errors import reading, writing
from sfm.files._lock import only_writer
from sfm.files._paths import choose_paths, refuse_existing
from sfm.files._run import FileRun
from sfm.inference._minibatches import MinibatchLimits
from sfm.inference._plan import plan_embedding
from sfm.inference._precision import choose_device, choose_precision

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd
    import torch
    from anndata import AnnData

    from sfm.checkpoints import PretrainedCells
    from sfm.data._stream import CellStream
    from sfm.files._fingerprint import Fingerprint
    from sfm.files._parts import EmbeddingParts
    from sfm.files._paths import FilePaths
    from sfm.inference._plan import EmbeddingPlan
    from sfm.inference._precision import Precision
    from sfm.nn._config import Pooling
    from sfm.protocols import ModelProtocol
    from sfm.tokenizers import Tokenizer


@doc_params(input=INPUT)
def embed_file(  # noqa: PLR0913
    path: str | Path,
    model: str | Path | PretrainedCells | ModelProtocol | None = None,
    out: str | Path | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_symbols: str | None = None,
    pooling: Pooling | None = None,
    batch_size: int | Literal["auto"] = "auto",
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    key_added: str | None = None,
    copy_input: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Path | EmbeddingPlan:
    """Embed the cells of a file, however many, and go on where an interrupted run ended.

    The file is read in windows of :attr:`sfm.settings.window_size <sfm.settings>` cells, so that memory does not grow with
    their number. The vectors of each window are stored in the folder `<out>.parts` as soon as they are computed. A run
    that is killed, at whatever moment, loses one window at most: the same call goes on after the last one, and its output
    is the same to the byte as if there had been no interruption. Where the input was changed in between, as to mend it,
    the vectors of windows whose cells are as they were are kept. Vectors are those of :func:`sfm.tl.embed`.

    Parameters
    ----------
    path
        Cells with raw counts: `.h5ad`, or `.zarr` of format 2 or 3. It is only read.
    model
        As for :func:`sfm.tl.embed`.
    out
        File to write, `.h5ad` or `.zarr`. By default `<name>_embedded` beside the input, in its format. It appears when
        it is complete.
    tokenizer
        Tokenizer for a `model` that does not bring its own.
    {input}
    pooling
        How token vectors become the cell's vector, as for :func:`sfm.tl.embed`.
    batch_size
        Cells per minibatch; `"auto"` fills minibatches of cells of similar length up to a number of tokens.
    device
        Torch device; `"auto"` takes CUDA, then MPS, then the CPU.
    precision
        `"fp32"` (also `"auto"`) or `"bf16"`, as for :func:`sfm.tl.embed`.
    key_added
        Slot name to use instead of `"X_sfm"`.
    copy_input
        Write all that the input holds as well; `out` must then have its format. Otherwise `out` holds `obs` and what
        is listed below.
    overwrite
        Replace `out` if it exists, and parts of a run with another input file, another model or other options. Parts of
        the same run are used all the same.
    dry_run
        Write nothing, and return what the run would cost.

    Returns
    -------
    Path of the file written; with `dry_run=True` an :class:`~sfm.EmbeddingPlan`. The file has these slots:

    `adata.obsm['X_sfm' | key_added]` : :class:`numpy.ndarray` (dtype `float32`, shape `(n_obs, n_dims)`)
        Cell embeddings, in the order of `adata.obs`.
    `adata.uns['X_sfm' | key_added]['params']` : :class:`dict`
        The same as :func:`sfm.tl.embed` writes.

    Raises
    ------
    FileNotFoundError
        If the file, the folder of `out` or the model is not there.
    FileExistsError
        If `out` exists, without `overwrite`; or is a folder that is no zarr store.
    BlockingIOError
        If another process is writing `out`.
    PermissionError
        If the folder of `out` cannot be written to.
    OSError
        If the disk is full, or the input cannot be read to its end. What was finished is kept.
    KeyError
        If `layer` or `gene_symbols` names nothing.
    TypeError
        If `model` is nothing that can embed.
    ValueError
        If `out` is the input or not of a known format; if there are parts of a run with another input file, another
        model or other options; and for what :func:`sfm.tl.embed` raises it. What was finished is kept.

    Examples
    --------
    >>> import anndata as ad
    >>> import sfm
    >>> folder = getfixture("tmp_path")
    >>> sfm.datasets.toy_cells().write_h5ad(folder / "cells.h5ad")
    >>> sfm.embed_file(folder / "cells.h5ad").name
    'cells_embedded.h5ad'
    >>> ad.read_h5ad(folder / "cells_embedded.h5ad").obsm["X_sfm"].shape
    (100, 128)
    """
    paths = choose_paths(path, out, copy_input=copy_input)
    embedding_keys(key_added)  # raises for what no slot can be called
    chosen = choose_device(device)
    MinibatchLimits.of(batch_size, chosen)  # raises for what is no size
    where = {"layer": layer, "use_raw": use_raw, "gene_symbols": gene_symbols}
    compute = {
        "pooling": pooling,
        "batch_size": batch_size,
        "device": str(chosen),
        "precision": choose_precision(precision, chosen),
    }
    if dry_run:
        return _plan(paths, resolve_model(model, tokenizer=tokenizer), where, compute)
    with only_writer(paths.parts):
        if not is_complete(paths):
            refuse_existing(paths, overwrite=overwrite)
        pretrained = resolve_model(model, tokenizer=tokenizer)
        output = {"key_added": key_added, "copy_input": copy_input}
        start = logg.info(f"embedding the cells of {str(path)!r} ({pretrained.name})")
        _run(paths, pretrained, where, compute, output, overwrite=overwrite)
    logg.info("    finished", time=start, deep=f"wrote\n    {str(paths.out)!r}")
    return paths.out


def _run(
    paths: FilePaths,
    pretrained: PretrainedCells,
    where: dict[str, Any],
    compute: dict[str, Any],
    output: dict[str, Any],
    *,
    overwrite: bool,
) -> None:
    with _cells_of(paths) as adata:
        stream = _stream(paths, adata, pretrained, where)
        run = FileRun(paths, pretrained, stream, adata.shape, where, compute, output)
        fingerprint = run.fingerprint()
        parts = run.parts()
        if not is_complete(paths, fingerprint):
            refuse_existing(paths, overwrite=overwrite)
            run.begin(parts, fingerprint, overwrite=overwrite)
            _complete(run, parts, adata.obs, fingerprint)
        clear(paths, parts)


def _complete(run: FileRun, parts: EmbeddingParts, obs: pd.DataFrame, fingerprint: Fingerprint) -> None:
    """Compute what is missing, and put all together."""
    try:
        run.embed(parts)
    finally:
        if not parts.begun():
            parts.clear()
    run.refuse_changed_input(fingerprint)
    params = run.params(parts)
    keys = embedding_keys(run.output["key_added"])
    run.refuse_small_disk(parts)
    with writing(run.paths):
        assemble(run.paths, parts, obs, fingerprint, keys=keys, params=params, copy_input=run.output["copy_input"])


@contextmanager
def _cells_of(paths: FilePaths) -> Iterator[AnnData]:
    with ExitStack() as stack:
        with reading(paths):
            adata = stack.enter_context(open_cells(paths.source))
        yield adata


def _stream(paths: FilePaths, adata: AnnData, pretrained: PretrainedCells, where: dict[str, Any]) -> CellStream:
    with reading(paths):
        return stream_cells(adata, pretrained.tokenizer, **where, model_name=f"Model {pretrained.name!r}")


def _plan(
    paths: FilePaths, pretrained: PretrainedCells, where: dict[str, Any], compute: dict[str, Any]
) -> EmbeddingPlan:
    with _cells_of(paths) as adata:
        return plan_embedding(pretrained, _stream(paths, adata, pretrained, where), **compute, in_memory=False)
