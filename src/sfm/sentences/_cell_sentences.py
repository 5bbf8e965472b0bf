from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pandas as pd

from sfm import _logging as logg
from sfm._docs import COPY, INPUT, doc_params
from sfm._keys import slot_name
from sfm._views import own_data, refuse_copy_of_file
from sfm.data import encode_cells

if TYPE_CHECKING:
    from anndata import AnnData


@doc_params(input=INPUT, copy=COPY)
def cell_sentences(
    adata: AnnData,
    *,
    n_genes: int = 200,
    species: Literal["human", "mouse"] = "human",
    layer: str | None = None,
    use_raw: bool = False,
    gene_symbols: str | None = None,
    key_added: str = "cell_sentence",
    copy: bool = False,
) -> AnnData | None:
    """Write each cell as a sentence: upper-case symbols of its genes, the most expressed first (Levine et al. 2024, ICML).

    Genes with equal counts are in alphabetical order, so the sentence of a cell depends on that cell alone. Genes may be
    named by symbol or Ensembl id; those without a symbol are left out.

    Parameters
    ----------
    adata
        Annotated data matrix with raw counts.
    n_genes
        Most genes of a sentence.
    species
        Species of the symbols.
    {input}
    key_added
        Column to write.
    {copy}

    Returns
    -------
    Returns `None` if `copy=False`, else returns an `AnnData` object. Sets the following field:

    `adata.obs['cell_sentence' | key_added]` : :class:`pandas.Series` (dtype `object`)
        Symbols with spaces between them; empty for a cell without any.

    Raises
    ------
    KeyError
        If `layer` or `gene_symbols` names nothing.
    ValueError
        If the values are not raw counts, too few genes are known, or `n_genes` or `species` is none.

    Examples
    --------
    >>> import sfm
    >>> adata = sfm.datasets.toy_cells()
    >>> sfm.sentences.cell_sentences(adata, n_genes=3)
    >>> adata.obs["cell_sentence"].iloc[0]
    'RPS18 RPS27A MT-CO2'
    """
    from sfm.checkpoints.cell_sentences import symbol_vocabulary
    from sfm.tokenizers.published._cell_sentences import CountTokenizer

    if n_genes < 2:
        msg = f"n_genes={n_genes!r} leaves no sentence. Pass 2 or more."
        raise ValueError(msg)
    key = slot_name(key_added, "cell_sentence")
    refuse_copy_of_file(adata, copy=copy)
    start = logg.info("writing cell sentences")
    ranking = CountTokenizer(symbol_vocabulary(species), max_length=n_genes)
    encoded = encode_cells(
        adata,
        ranking,
        layer=layer,
        use_raw=use_raw,
        gene_symbols=gene_symbols,
        model_name="The table of symbols",
    )
    sentences = ranking.sentences(encoded.cells)
    adata = own_data(adata, copy=copy)
    adata.obs[key] = pd.Series(sentences, index=adata.obs_names, dtype=object)
    logg.info("    finished", time=start, deep=f"added\n    {key!r}, cell sentences (adata.obs)")
    return adata if copy else None
