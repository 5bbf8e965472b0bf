from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sfm import _logging as logg
from sfm._docs import COPY, INPUT, doc_params
from sfm._keys import embedding_keys, token_keys
from sfm._views import own_data, refuse_copy_of_file
from sfm.checkpoints._resolve import resolve_model
from sfm.data import stream_cells
from sfm.inference import embed_tokens
from sfm.inference._cells import (
    CellVectors,
    compute_params,
    embed_cells,
    embedding_params,
    is_empty,
    report_constant,
    report_empty,
)
from sfm.inference._precision import Precision, choose_precision
from sfm.tokenizers import TokenizedCells

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from anndata import AnnData

    from sfm.checkpoints import PretrainedCells
    from sfm.inference._plan import EmbeddingPlan
    from sfm.nn._config import Pooling
    from sfm.protocols import ModelProtocol
    from sfm.tokenizers import Tokenizer


@doc_params(input=INPUT, copy=COPY)
def embed(  # noqa: PLR0913
    adata: AnnData,
    model: str | Path | PretrainedCells | ModelProtocol | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    tokens_key: str | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_symbols: str | None = None,
    pooling: Pooling | None = None,
    batch_size: int | Literal["auto"] = "auto",
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    key_added: str | None = None,
    copy: bool = False,
    dry_run: bool = False,
) -> AnnData | EmbeddingPlan | None:
    """Embed cells with a foundation model.

    The vector of a cell depends on that cell and the model alone: not on the other cells, their order, the minibatch
    size, padding, the order of the genes, or genes that the model does not know. Counts are needed; genes may be named
    by symbol or Ensembl id, previous symbols are brought up to date, and mouse genes are mapped to human orthologs for
    human models.

    Cells are read, tokenized and embedded a window at a time (`settings.window_size`), so `adata` may be larger than
    memory: `X` or a layer a dask array of numpy or scipy sparse blocks, or a matrix in an h5ad file (`backed="r"`) or
    zarr store. With a client of `dask.distributed`, the workers that have the blocks of a dask array tokenize them, and
    embed them too unless this process has a GPU.

    Continue with `sc.pp.neighbors(adata, use_rep="X_sfm")` and draw with :func:`scanpy.pl.umap`.

    Parameters
    ----------
    adata
        Annotated data matrix with raw counts.
    model
        `None` for the bundled `"sfm-mini"`, a name from :func:`sfm.list_models`, a directory written by
        `save_pretrained`, a hub id (`"org/name"`), the result of :func:`sfm.load`, a trained model of `sfm.model`, or any
        :class:`sfm.ModelProtocol` together with `tokenizer`.
    tokenizer
        Tokenizer for a `model` that does not bring its own.
    tokens_key
        Slot in `adata.obsm` with tokens from :func:`sfm.pp.tokenize` to use, instead of tokenizing now. They must have
        been made with the vocabulary of the model.
    {input}
    pooling
        How token vectors become the cell's vector, if not as the model says: `"mean"`, `"cls"`, `"last"` or `"max"`.
    batch_size
        Cells per minibatch; `"auto"` fills minibatches of cells of similar length up to a number of tokens.
    device
        Torch device; `"auto"` takes CUDA, then MPS, then the CPU.
    precision
        `"fp32"` (also `"auto"`), or `"bf16"`, which is faster on recent hardware, but lets minibatch mates change a
        vector a little.
    key_added
        Slot name to use instead of `"X_sfm"`.
    {copy}
    dry_run
        Embed nothing, but estimate the cost from a probe of some seconds and return it.

    Returns
    -------
    Returns `None` if `copy=False`, else returns an `AnnData` object; with `dry_run=True`, an `EmbeddingPlan`, and
    nothing is written. Sets the following fields:

    `adata.obsm['X_sfm' | key_added]` : :class:`numpy.ndarray` (dtype `float32`, shape `(n_obs, n_dims)`)
        Cell embeddings, in the order of `adata.obs`. Cells without a known gene get the vector of an empty cell, and
        are counted in a warning.
    `adata.uns['X_sfm' | key_added]['params']` : :class:`dict`
        Model, revision, hash of its weights, tokenizer, hash of the vocabulary, gene coverage, slot read, pooling,
        precision, device, and versions.

    Raises
    ------
    KeyError
        If `layer`, `gene_symbols` or `tokens_key` names nothing.
    TypeError
        If `adata` is no AnnData, or `model` nothing that can embed.
    FileNotFoundError
        If a directory or hub model is not there, or not complete.
    ValueError
        If the values are not raw counts, `adata` is empty, too few genes are known, or the tokens belong to another
        vocabulary; or if the name of the model is unknown or its files are damaged.

    Examples
    --------
    >>> import sfm
    >>> adata = sfm.datasets.toy_cells()
    >>> sfm.tl.embed(adata)
    >>> adata.obsm["X_sfm"].shape
    (100, 128)
    """
    _refuse_copy(adata, copy=copy, dry_run=dry_run)
    keys = embedding_keys(key_added)
    where: dict[str, Any] = {"layer": layer, "use_raw": use_raw, "gene_symbols": gene_symbols}
    compute: dict[str, Any] = {
        "pooling": pooling,
        "batch_size": batch_size,
        "device": device,
        "precision": choose_precision(precision, device),
    }
    pretrained = resolve_model(model, tokenizer=tokenizer)
    if dry_run:
        return _plan(adata, tokens_key, pretrained, where, compute)
    start = logg.info(f"embedding cells ({pretrained.name})")
    if tokens_key is None:
        embedded = embed_cells(pretrained, adata, **where, **compute)
    else:
        embedded = _embed_stored(adata, tokens_key, pretrained, compute)
    report_empty(embedded.n_empty, adata.n_obs)
    report_constant(embedded.vectors)

    adata = own_data(adata, copy=copy)
    adata.obsm[keys.obsm] = embedded.vectors
    source = {"tokens_key": tokens_key, **embedded.params}
    params = embedding_params(pretrained, source, layer=layer, use_raw=use_raw, n_empty=embedded.n_empty)
    adata.uns[keys.uns] = {"params": params}
    logg.info("    finished", time=start, deep=f"added\n    {keys.obsm!r}, cell embeddings (adata.obsm)")
    return adata if copy else None


def _refuse_copy(adata: AnnData, *, copy: bool, dry_run: bool) -> None:
    if copy and dry_run:
        msg = "copy=True and dry_run=True: a dry run writes nothing, so there is nothing to copy. Pass one of them."
        raise ValueError(msg)
    refuse_copy_of_file(adata, copy=copy)


def _plan(
    adata: AnnData,
    tokens_key: str | None,
    pretrained: PretrainedCells,
    where: dict[str, Any],
    compute: dict[str, Any],
) -> EmbeddingPlan:
    from sfm.inference._plan import plan_embedding

    if tokens_key is not None:
        return plan_embedding(pretrained, _stored_tokens(adata, tokens_key, pretrained)[0], **compute)
    stream = stream_cells(adata, pretrained.tokenizer, **where, model_name=f"Model {pretrained.name!r}")
    return plan_embedding(pretrained, stream, **compute)


def _embed_stored(adata: AnnData, tokens_key: str, pretrained: PretrainedCells, compute: dict[str, Any]) -> CellVectors:
    cells, made_by = _stored_tokens(adata, tokens_key, pretrained)
    vectors = embed_tokens(pretrained.model, cells, pad_id=pretrained.vocabulary.pad_id, **compute)
    return CellVectors(
        vectors, {**made_by, **compute_params(pretrained, **compute)}, is_empty(cells, pretrained.tokenizer)
    )


def _stored_tokens(
    adata: AnnData, tokens_key: str, pretrained: PretrainedCells
) -> tuple[TokenizedCells, dict[str, Any]]:
    keys = token_keys(tokens_key)
    if keys.obsm not in adata.obsm:
        msg = f"Did not find adata.obsm[{keys.obsm!r}]. Run `sfm.pp.tokenize` first, or leave tokens_key out."
        raise KeyError(msg)
    made_by = dict(adata.uns.get(keys.uns, {}).get("params", {}))
    _refuse_other_tokens(made_by, pretrained, slot=f"adata.obsm[{keys.obsm!r}]")
    values = adata.obsm.get(keys.values) if pretrained.tokenizer.has_values else None
    cells = TokenizedCells.from_obsm(adata.obsm[keys.obsm], values)
    own = pretrained.tokenizer.params()
    return cells, {key: value for key, value in made_by.items() if key not in own}


def _refuse_other_tokens(made_by: dict[str, Any], pretrained: PretrainedCells, *, slot: str) -> None:
    """Raise unless the tokens were made as the model's own tokenizer makes them; they may be shorter."""
    fix = f"Leave tokens_key out, or tokenize for the model: `sfm.pp.tokenize(adata, {pretrained.name!r})`."
    own = pretrained.tokenizer.params()
    theirs, ours = str(made_by.get("vocabulary_hash"))[:12], own["vocabulary_hash"][:12]
    if theirs != ours:
        msg = (
            f"{slot} holds tokens of another vocabulary (hash {theirs!r}) than that of model {pretrained.name!r} "
            f"(hash {ours!r}). {fix}"
        )
        raise ValueError(msg)
    different = [key for key in own if key != "max_length" and made_by.get(key) != own[key]]
    different += ["max_length"] * (made_by["max_length"] > own["max_length"])
    if different:
        settings = ", ".join(f"{key} is {made_by.get(key)!r}, not {own[key]!r}" for key in different)
        msg = f"{slot} was tokenized in another way than model {pretrained.name!r} needs: {settings}. {fix}"
        raise ValueError(msg)
