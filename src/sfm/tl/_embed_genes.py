from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sfm import _logging as logg
from sfm._docs import COPY, INPUT, doc_params
from sfm._keys import slot_name
from sfm._views import own_data, refuse_copy_of_file
from sfm.checkpoints._resolve import resolve_model
from sfm.data import stream_cells
from sfm.inference._cells import package_versions
from sfm.inference._genes import contextual_gene_vectors, static_gene_vectors
from sfm.inference._precision import Precision, choose_device, choose_precision
from sfm.tl._gene_rows import token_ids_of_var

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from anndata import AnnData

    from sfm.checkpoints import PretrainedCells
    from sfm.protocols import ModelProtocol

_KEY = "X_sfm_genes"


@doc_params(input=INPUT, copy=COPY)
def embed_genes(  # noqa: PLR0913
    adata: AnnData,
    model: str | Path | PretrainedCells | ModelProtocol | None = None,
    *,
    kind: Literal["contextual", "static"] = "contextual",
    layer: str | None = None,
    use_raw: bool = False,
    gene_symbols: str | None = None,
    batch_size: int | Literal["auto"] = "auto",
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Embed genes with a foundation model.

    A contextual vector is that of the gene's token, averaged over the cells that express it and in which it was not cut;
    it is read where the model reads cells (for Geneformer the second to last layer). A static one is what the model has
    for the gene before it sees a cell, the same for all data; :func:`sfm.get.gene_embeddings` returns those of all genes
    of a model.

    Parameters
    ----------
    adata
        Annotated data matrix with raw counts.
    model
        Whatever :func:`sfm.tl.embed` takes, as far as it is a model of :mod:`sfm.nn`, as the published ones are.
    kind
        `"contextual"` or `"static"`.
    {input}
    batch_size, device, precision
        As in :func:`sfm.tl.embed`.
    key_added
        Slot name to use instead of `"X_sfm_genes"`.
    {copy}

    Returns
    -------
    Returns `None` if `copy=False`, else returns an `AnnData` object. Sets the following fields:

    `adata.varm['X_sfm_genes' | key_added]` : :class:`numpy.ndarray` (dtype `float32`, shape `(n_vars, n_dims)`)
        Gene embeddings, in the order of `adata.var`; NaN for genes that the model does not know, and of contextual ones
        for genes that are a token of no cell.
    `adata.uns['X_sfm_genes' | key_added]['params']` : :class:`dict`
        Model, hash of its weights, kind, gene coverage, slot read, precision, device, and versions.

    Raises
    ------
    KeyError
        If `layer` or `gene_symbols` names nothing.
    TypeError
        If `adata` is no AnnData, or `model` has no vectors of genes.
    FileNotFoundError
        If a directory or hub model is not there, or not complete.
    ValueError
        If `kind` is unknown, the values are not raw counts, `adata` is empty, or too few genes are known; or if with
        `use_raw` none of the genes of `adata.var` is in `adata.raw.var`.

    Examples
    --------
    >>> import sfm
    >>> adata = sfm.datasets.toy_cells()
    >>> sfm.tl.embed_genes(adata, kind="static")
    >>> adata.varm["X_sfm_genes"].shape
    (300, 128)
    """
    if kind not in ("contextual", "static"):
        msg = f"Unknown kind={kind!r}. Choose 'contextual' or 'static'."
        raise ValueError(msg)
    key = slot_name(key_added, _KEY)
    refuse_copy_of_file(adata, copy=copy)
    in_precision = choose_precision(precision, device)
    pretrained = resolve_model(model)
    start = logg.info(f"embedding genes ({pretrained.name})")
    where: dict[str, Any] = {"layer": layer, "use_raw": use_raw, "gene_symbols": gene_symbols}
    stream = stream_cells(adata, pretrained.tokenizer, **where, model_name=f"Model {pretrained.name!r}")
    rows = token_ids_of_var(adata, stream.alignment.token_ids, use_raw=use_raw)
    if kind == "static":
        genes = static_gene_vectors(pretrained)
    else:
        compute: dict[str, Any] = {"batch_size": batch_size, "device": device, "precision": in_precision}
        genes = contextual_gene_vectors(pretrained, stream, **compute)

    adata = own_data(adata, copy=copy)
    adata.varm[key] = genes.of(rows)
    adata.uns[key] = {
        "params": {
            **pretrained.params(),
            **stream.params(),
            "kind": kind,
            "layer": layer,
            "use_raw": use_raw,
            "precision": in_precision,
            "device": str(choose_device(device)),
            **package_versions(),
        }
    }
    logg.info("    finished", time=start, deep=f"added\n    {key!r}, gene embeddings (adata.varm)")
    return adata if copy else None
