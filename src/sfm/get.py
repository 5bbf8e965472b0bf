"""Tables of what there is, and of what was done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from sfm._matrix import select_matrix
from sfm._state import arguments, probe, slots

if TYPE_CHECKING:
    from anndata import AnnData

    from sfm.checkpoints import PretrainedCells
    from sfm.genes import GeneVocabulary

__all__ = ["backbones", "gene_embeddings", "gene_fate", "input_states", "objectives", "tokenizers"]


def tokenizers() -> pd.DataFrame:
    """List the tokenizers that can be named.

    Returns
    -------
    A data frame indexed by name: what input they require, whether they have values, and a description.

    Examples
    --------
    >>> import sfm
    >>> sfm.get.tokenizers().index.tolist()
    ['bins', 'rank', 'values']
    """
    from sfm.tokenizers import TOKENIZERS

    classes = {name: TOKENIZERS.load(name) for name in TOKENIZERS.names()}
    rows = {
        name: {
            "requires": tokenizer.requires,
            "has_values": tokenizer.has_values,
            "description": (tokenizer.__doc__ or "").strip().splitlines()[0],
        }
        for name, tokenizer in classes.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("tokenizer")


def backbones() -> pd.DataFrame:
    """List the backbones that are tested; other text models of transformers with `inputs_embeds` can be named too.

    Returns
    -------
    A data frame indexed by name: whether it can be causal, as next-gene modelling needs it, whether groups of attention
    heads can share keys and values (`num_key_value_heads`), the kind of positions, and a description.

    Examples
    --------
    >>> import sfm
    >>> sfm.get.backbones().loc["bert", "positions"]
    'learned'
    """
    from sfm.nn import BACKBONES
    from sfm.nn._backbone import describe

    rows = {name: describe(name) | {"description": text} for name, text in BACKBONES.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("backbone")


def objectives() -> pd.DataFrame:
    """List what the models of :mod:`sfm.nn` can be trained for.

    Returns
    -------
    A data frame indexed by name: the class, the class of transformers that loads it (`None` without one), the arguments
    of `forward` that give the loss, what the configuration needs, and a description.

    Examples
    --------
    >>> import sfm
    >>> sfm.get.objectives().loc["next gene", "model"]
    'CellForCausalLM'
    """
    from sfm.nn import OBJECTIVES

    rows = {
        name: {
            "model": row.model.__name__,
            "auto_class": None if row.auto_class is None else row.auto_class.__name__,
            "labels": ", ".join(row.labels),
            "needs": ", ".join(row.needs),
            "description": row.description,
        }
        for name, row in OBJECTIVES.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("objective")


def input_states(adata: AnnData) -> pd.DataFrame:
    """Show what kind of values each matrix of `adata` holds, judged by its first rows.

    Parameters
    ----------
    adata
        Annotated data matrix.

    Returns
    -------
    A data frame indexed by slot: its state (`"counts"`, `"almost_counts"`, `"normalized"`, `"log1p"`, `"scaled"`,
    `"negative"`, `"not_finite"`, or `None` where it cannot be read), and the arguments that make sfm read it.

    Examples
    --------
    >>> import scanpy as sc
    >>> import sfm
    >>> sfm.get.input_states(sc.datasets.pbmc68k_reduced())
                  state     arguments
    slot
    adata.X      scaled
    adata.raw.X   log1p  use_raw=True
    """
    rows = [(slot, probe(adata, options), arguments(options)) for slot, options in slots(adata)]
    return pd.DataFrame(rows, columns=["slot", "state", "arguments"]).set_index("slot")


def gene_fate(
    adata: AnnData,
    model: str | PretrainedCells | GeneVocabulary | None = None,
    *,
    use_raw: bool = False,
    gene_symbols: str | None = None,
) -> pd.DataFrame:
    """Show what becomes of each gene of `adata` in a model's vocabulary.

    Parameters
    ----------
    adata
        Annotated data matrix; only its gene names are read.
    model
        Whatever :func:`sfm.tl.embed` takes as `model`, or a vocabulary.
    use_raw
        Look at the genes of `adata.raw`.
    gene_symbols
        Column of `adata.var` that holds gene symbols or Ensembl ids.

    Returns
    -------
    A data frame with one row per gene, in the order of `adata.var`: the style of its name, its fate (how it was
    matched, or why not), the gene of the vocabulary, its token id, and whether it shares the token with another gene
    (their counts are summed).

    Examples
    --------
    >>> import sfm
    >>> adata = sfm.datasets.toy_cells()
    >>> sfm.get.gene_fate(adata)["fate"].value_counts().index[0]
    'via_symbol'
    """
    from sfm.checkpoints._resolve import resolve_model
    from sfm.genes import GeneVocabulary, align_genes

    vocabulary = model if isinstance(model, GeneVocabulary) else resolve_model(model).vocabulary
    names = select_matrix(adata, use_raw=use_raw, gene_symbols=gene_symbols).names
    return align_genes(names, vocabulary).fate


def gene_embeddings(model: str | PretrainedCells | None = None) -> pd.DataFrame:
    """Return what a model has for each of its genes before it sees a cell.

    Parameters
    ----------
    model
        Whatever :func:`sfm.tl.embed` takes as `model`, as far as it is a model of :mod:`sfm.nn`.

    Returns
    -------
    A data frame of float32 with one row per gene of the vocabulary, indexed by its id there, and one column per dim.

    Raises
    ------
    TypeError
        If the model has no vectors of genes.

    Examples
    --------
    >>> import sfm
    >>> sfm.get.gene_embeddings().loc["ENSG00000198851"].shape
    (128,)
    """
    from sfm.checkpoints._resolve import resolve_model
    from sfm.inference._genes import static_gene_vectors

    pretrained = resolve_model(model)
    vocabulary = pretrained.vocabulary
    vectors = static_gene_vectors(pretrained).of(vocabulary.token_ids)
    return pd.DataFrame(vectors, index=pd.Index(vocabulary.gene_ids, name="gene"))
