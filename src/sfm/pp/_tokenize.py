from __future__ import annotations

from typing import TYPE_CHECKING

from sfm import _logging as logg
from sfm._docs import COPY, INPUT, doc_params
from sfm._keys import token_keys
from sfm._views import own_data, refuse_copy_of_file
from sfm.data import encode_cells
from sfm.pp._choose import choose_tokenizer

if TYPE_CHECKING:
    from anndata import AnnData

    from sfm.checkpoints import PretrainedCells
    from sfm.genes import GeneVocabulary
    from sfm.tokenizers import Tokenizer


@doc_params(input=INPUT, copy=COPY)
def tokenize(
    adata: AnnData,
    tokenizer: str | Tokenizer | PretrainedCells | None = None,
    *,
    vocabulary: GeneVocabulary | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_symbols: str | None = None,
    max_length: int | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Turn the counts of each cell into tokens.

    A cell's tokens depend on that cell and the vocabulary alone: not on the other cells, the order of the genes,
    genes the vocabulary does not know, or whether genes are named by symbol or Ensembl id. Exact ties are broken by
    token id. Tokenizing once and passing `tokens_key=` to :func:`sfm.tl.embed` saves repeating it.

    Counts are read some rows at a time, so they may be larger than memory: `X` or a layer a dask array of numpy or scipy
    sparse blocks, which is tokenized where its blocks are made, or a matrix in an h5ad file (`backed="r"`) or zarr store.
    The tokens of all cells are in memory.

    Parameters
    ----------
    adata
        Annotated data matrix with raw counts.
    tokenizer
        `None` for that of the bundled model; a name from :func:`sfm.list_models`, a directory or hub id, or a
        :class:`sfm.PretrainedCells` for that of the model; `"rank"`, `"bins"` or `"values"` (see
        :func:`sfm.get.tokenizers`), or a :class:`sfm.tokenizers.Tokenizer`.
    vocabulary
        Gene vocabulary for `"rank"`, `"bins"` and `"values"`. Default: one made from the genes of `adata`, of any
        species.
    {input}
    max_length
        Longest token sequence, special tokens included; the genes that rank lowest are cut. Default: the model's, or
        2,048.
    key_added
        Slot name to use instead of `"tokens"`.
    {copy}

    Returns
    -------
    Returns `None` if `copy=False`, else returns an `AnnData` object. Sets the following fields:

    `adata.obsm['tokens' | key_added]` : :class:`scipy.sparse.csr_matrix` (dtype `int32`, shape `(n_obs, max_length)`)
        Token ids; the column is the position in the cell's sequence, and padding is not stored.
    `adata.obsm['tokens_values' | key_added + '_values']` : :class:`scipy.sparse.csr_matrix` (dtype `float32`)
        Expression value of each token, in the same layout; only for tokenizers that have values, and removed by others.
    `adata.uns['tokens' | key_added]['params']` : :class:`dict`
        Tokenizer, hash of the vocabulary, slot read, and how many genes were matched.

    Raises
    ------
    KeyError
        If `layer` or `gene_symbols` names nothing.
    ValueError
        If the values are not raw counts, `adata` is empty, or too few genes are known.

    Examples
    --------
    >>> import sfm
    >>> adata = sfm.datasets.toy_cells()
    >>> sfm.pp.tokenize(adata, "rank", max_length=64)
    >>> adata.obsm["tokens"].shape
    (100, 64)
    """
    keys = token_keys(key_added)
    refuse_copy_of_file(adata, copy=copy)
    chosen, model_name = choose_tokenizer(
        adata,
        tokenizer,
        vocabulary=vocabulary,
        layer=layer,
        use_raw=use_raw,
        gene_symbols=gene_symbols,
        max_length=max_length,
    )
    start = logg.info(f"tokenizing cells ({chosen.name})")
    encoded = encode_cells(
        adata, chosen, layer=layer, use_raw=use_raw, gene_symbols=gene_symbols, model_name=model_name
    )
    adata = own_data(adata, copy=copy)
    tokens, values = encoded.cells.to_obsm()
    adata.obsm[keys.obsm] = tokens
    if values is not None:
        adata.obsm[keys.values] = values
    elif keys.values in adata.obsm:
        del adata.obsm[keys.values]  # of tokens that were there before
    adata.uns[keys.uns] = {"params": {**chosen.params(), **encoded.params()}}
    logg.info("    finished", time=start, deep=f"added\n    {keys.obsm!r}, token ids (adata.obsm)")
    return adata if copy else None
