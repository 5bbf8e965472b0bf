from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sfm import _logging as logg
from sfm._docs import COPY, INPUT, doc_params
from sfm._keys import slot_name
from sfm._views import own_data, refuse_copy_of_file
from sfm.checkpoints._resolve import resolve_model
from sfm.data import stream_cells
from sfm.inference._cells import package_versions
from sfm.inference._genes import cell_model
from sfm.inference._loop import run_tokens
from sfm.inference._precision import Precision, choose_device, choose_precision
from sfm.inference._windows import over_windows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch
    from anndata import AnnData
    from torch import Tensor

    from sfm.checkpoints import PretrainedCells

_KEY = "sfm_llh"
_DOING = "Likelihoods"


@doc_params(input=INPUT, copy=COPY)
def log_likelihood(
    adata: AnnData,
    model: str | Path | PretrainedCells,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_symbols: str | None = None,
    batch_size: int | Literal["auto"] = "auto",
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Say how well a generative model expects each cell.

    The number is what TranscriptFormer (Pearce et al. 2025, bioRxiv 2025.04.25.650731) calls the likelihood of a cell:
    the mean over its genes of the negative log-likelihood of their counts, given the genes before. Low is expected.

    Parameters
    ----------
    adata
        Annotated data matrix with raw counts.
    model
        A model with a likelihood of counts, as :func:`sfm.load` takes it: TranscriptFormer.
    {input}
    batch_size, device, precision
        As in :func:`sfm.tl.embed`.
    key_added
        Slot name to use instead of `"sfm_llh"`.
    {copy}

    Returns
    -------
    Returns `None` if `copy=False`, else returns an `AnnData` object. Sets the following fields:

    `adata.obs['sfm_llh' | key_added]` : :class:`pandas.Series` (dtype `float32`)
        Negative log-likelihood per gene, in nats; NaN for cells without a known gene.
    `adata.uns['sfm_llh' | key_added]['params']` : :class:`dict`
        Model, hash of its weights, gene coverage, slot read, precision, device, and versions.

    Raises
    ------
    KeyError
        If `layer` or `gene_symbols` names nothing.
    TypeError
        If `adata` is no AnnData, or the model has no likelihood of counts.
    FileNotFoundError
        If a directory or hub model is not there, or not complete.
    ValueError
        If the values are not raw counts, `adata` is empty, or too few genes are known.
    """
    key = slot_name(key_added, _KEY)
    refuse_copy_of_file(adata, copy=copy)
    in_precision = choose_precision(precision, device)
    pretrained = resolve_model(model)
    compute = _likelihood(pretrained)
    start = logg.info(f"computing likelihoods ({pretrained.name})")
    where: dict[str, Any] = {"layer": layer, "use_raw": use_raw, "gene_symbols": gene_symbols}
    stream = stream_cells(adata, pretrained.tokenizer, **where, model_name=f"Model {pretrained.name!r}")
    losses = np.empty(stream.n_obs, dtype=np.float32)
    cell = cell_model(pretrained)
    options: dict[str, Any] = {"pad_id": pretrained.vocabulary.pad_id, "doing": _DOING, "precision": in_precision}
    run = partial(run_tokens, cell, compute, **options)
    for rows, _, (part,) in over_windows(run, cell, stream, doing=_DOING, batch_size=batch_size, device=device):
        losses[rows] = part

    adata = own_data(adata, copy=copy)
    adata.obs[key] = losses
    adata.uns[key] = {
        "params": {
            **pretrained.params(),
            **stream.params(),
            "layer": layer,
            "use_raw": use_raw,
            "precision": in_precision,
            "device": str(choose_device(device)),
            **package_versions(),
        }
    }
    logg.info("    finished", time=start, deep=f"added\n    {key!r}, negative log-likelihood per gene (adata.obs)")
    return adata if copy else None


def _likelihood(pretrained: PretrainedCells) -> Callable[[dict[str, Tensor]], tuple[Tensor]]:
    from sfm.nn.architectures import get_architecture

    cell = cell_model(pretrained)
    of_minibatch = get_architecture(cell.config.architecture).negative_log_likelihood
    if of_minibatch is None:
        msg = (
            f"Model {pretrained.name!r} has no likelihood of counts. Load one that has, such as "
            "`sfm.load('transcriptformer-sapiens')`."
        )
        raise TypeError(msg)
    return lambda minibatch: (of_minibatch(cell, **minibatch),)
