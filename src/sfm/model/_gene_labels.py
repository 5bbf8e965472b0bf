"""Labels of genes, by gene of a vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from natsort import natsorted

from sfm import _logging as logg
from sfm._categories import category_names, name_of, names_in_order
from sfm._matrix import select_matrix
from sfm._warn import warn
from sfm.genes import align_genes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from sfm.genes import GeneVocabulary

_SHOWN = 5


def read_gene_labels(
    adata: AnnData,
    vocabulary: GeneVocabulary,
    *,
    gene_labels_key: str | None = None,
    gene_labels: Mapping[str, str] | None = None,
    unlabeled_category: Any = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_symbols: str | None = None,
    **_: Any,
) -> tuple[dict[str, str], list[str]]:
    """Read labels as `setup_anndata` is given them.

    Returns
    -------
    Labels by gene id of the vocabulary, and the names of the labels: in the order of the categories, or natural order.

    Raises
    ------
    KeyError
        If there is no such column.
    TypeError
        If neither or both of `gene_labels_key` and `gene_labels` are given.
    ValueError
        If the labels are measurements, differ for one gene, or fewer than two occur.
    """
    if (gene_labels_key is None) == (gene_labels is None):
        found = "Neither" if gene_labels is None else "Both"
        msg = (
            f"{found} of gene_labels_key= and gene_labels= were given. Pass one of them: a column of adata.var, or labels "
            "by name of the gene."
        )
        raise TypeError(msg)
    if gene_labels_key is None:
        labels, slot = pd.Series(dict(gene_labels or {}), dtype=object), "gene_labels="
        names = labels.index.to_numpy().astype(str)
    else:
        labels, slot = _column(adata, gene_labels_key, use_raw=use_raw)
        names = select_matrix(adata, layer=layer, use_raw=use_raw, gene_symbols=gene_symbols).names
    texts = category_names(labels, slot=slot)
    if unlabeled_category is not None:
        texts = texts.mask(texts == name_of(unlabeled_category))
    by_gene = _by_gene(align_genes(names, vocabulary).fate["gene"].to_numpy(), texts, slot)
    occurring = [label for label in names_in_order(labels) if label in set(by_gene.values())]
    if len(occurring) < 2:
        found = f"a single label, {occurring[0]!r}," if occurring else "no label"
        msg = f"{slot} has {found} among the genes that the model knows. A classifier needs two labels or more."
        raise ValueError(msg)
    return by_gene, occurring


def _column(adata: AnnData, key: str, *, use_raw: bool) -> tuple[pd.Series, str]:
    """Return a column of the genes that are read, and its slot."""
    var, slot = (adata.raw.var, "adata.raw.var") if use_raw else (adata.var, "adata.var")
    if key not in var:
        known = ", ".join(map(repr, var.columns)) or "none"
        msg = f"Did not find {slot}[{key!r}] (gene_labels_key=). Columns present: {known}."
        raise KeyError(msg)
    return var[key], f"{slot}[{key!r}]"


def _by_gene(gene_ids: np.ndarray, texts: pd.Series, slot: str) -> dict[str, str]:
    """Labels by gene id of the vocabulary; genes that are not in it are left out."""
    pairs = pd.DataFrame({"gene": gene_ids, "label": texts.to_numpy()}).dropna()
    unknown = pairs["gene"] == ""
    if unknown.any():
        logg.info(f"{int(unknown.sum())} labelled genes of {slot} are not known to the model and are left out")
    pairs = pairs[~unknown].drop_duplicates()
    twice = pairs[pairs["gene"].duplicated(keep=False)]
    if len(twice):
        gene = twice["gene"].iloc[0]
        found = " and ".join(map(repr, natsorted(twice.loc[twice["gene"] == gene, "label"])[:2]))
        msg = f"{slot} gives gene {gene!r}, which occurs under several names, the labels {found}. Keep one of them."
        raise ValueError(msg)
    return dict(zip(pairs["gene"], pairs["label"], strict=True))


def warn_of_single_genes(counts: np.ndarray, labels: Sequence[str]) -> None:
    """Warn of labels that one gene alone has, which cannot be held out."""
    alone = [label for label, n in zip(labels, counts, strict=True) if n == 1]
    if alone:
        shown = ", ".join(map(repr, alone[:_SHOWN])) + (", ..." if len(alone) > _SHOWN else "")
        warn(f"One gene each has the label {shown}. It is trained on, but never held out, so that no metric covers it.")


def label_codes(gene_labels: Mapping[str, str], labels: Sequence[str], vocabulary: GeneVocabulary) -> np.ndarray:
    """Label of each token id as a number, -1 where there is none, shape `(vocab_size,)`."""
    code = {label: i for i, label in enumerate(labels)}
    codes = np.full(vocabulary.size, -1, dtype=np.int64)
    codes[vocabulary.token_ids] = [code.get(gene_labels.get(gene, ""), -1) for gene in vocabulary.gene_ids]
    return codes


def ordered_labels(occurring: list[str], labels: Sequence[str] | None) -> list[str]:
    """Return the names that were asked for, which must include those that occur."""
    if labels is None:
        return occurring
    unknown = [label for label in occurring if label not in labels]
    if unknown:
        msg = f"There are genes with the labels {unknown!r}, which are not among labels={list(labels)!r}. Rename them, or add them."
        raise ValueError(msg)
    return list(labels)
