from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sfm._docs import INPUT, doc_params
from sfm._matrix import select_matrix
from sfm.annotation._network import refuse_untrained
from sfm.genes import align_genes
from sfm.model._base import TokenModel
from sfm.model._gene_labels import label_codes, ordered_labels, read_gene_labels, warn_of_single_genes
from sfm.model._loss_weights import weights_of_labels
from sfm.model._setup import category_fields, choose_setup_tokenizer
from sfm.nn import CellConfig
from sfm.nn._masking import IGNORED
from sfm.tl._gene_probabilities import gene_probabilities

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from sfm.checkpoints import PretrainedCells
    from sfm.genes import GeneVocabulary
    from sfm.model._loss_weights import LossWeights
    from sfm.tokenizers import Tokenizer


class GeneLabelledModel(TokenModel):
    """The labels of genes that a model was set up with, and what it says of genes."""

    head_is_trained_: bool

    @classmethod
    @doc_params(input=INPUT)
    def setup_anndata(  # type: ignore[override]  # noqa: PLR0913
        cls,
        adata: AnnData,
        layer: str | None = None,
        *,
        gene_labels_key: str | None = None,
        gene_labels: Mapping[str, str] | None = None,
        unlabeled_category: str | int | None = None,
        labels: Sequence[str] | None = None,
        use_raw: bool = False,
        gene_symbols: str | None = None,
        tokenizer: str | Tokenizer | PretrainedCells | dict[str, Any] | None = "rank",
        vocabulary: GeneVocabulary | dict[str, Any] | None = None,
        max_length: int | None = None,
        batch_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Tokenize the counts, and register the tokens and the labels of genes.

        Writes what :meth:`MaskedCellModel.setup_anndata` writes, and nothing to `adata.var`. The labels are kept with the
        model, which therefore can be loaded with data that do not have them.

        Parameters
        ----------
        adata
            Annotated data matrix with raw counts.
        {input}
        gene_labels_key
            Column of `adata.var` (of `adata.raw.var` with `use_raw`) with the labels. Genes with NaN are unlabelled:
            they are not trained on, but can be predicted.
        gene_labels
            Labels by name of the gene, symbol or Ensembl id, instead of a column.
        unlabeled_category
            Label that means unlabelled as well, for example `"unknown"`.
        labels
            Names of the labels in their order, for labels that do not occur in these data. Default: those that occur,
            in the order of the column's categories where it has any, and else in natural order.
        tokenizer
            As in :func:`sfm.pp.tokenize`.
        vocabulary
            As in :func:`sfm.pp.tokenize`.
        max_length
            Longest token sequence, special tokens included.
        batch_key
            Column of `adata.obs` with the biological batch.
        kwargs
            Passed to scvi-tools when a saved model is loaded.

        Raises
        ------
        KeyError
            If `gene_labels_key` names nothing.
        TypeError
            If neither or both of `gene_labels_key` and `gene_labels` are given.
        ValueError
            If there are fewer than two labels, labels look like measurements, are not among `labels`, or one gene has
            several.
        """
        where = {"layer": layer, "use_raw": use_raw, "gene_symbols": gene_symbols}
        chosen = choose_setup_tokenizer(adata, tokenizer, vocabulary, max_length=max_length, **where)
        if "source_registry" not in kwargs:  # a saved model brings labels of its own
            given: dict[str, Any] = {"gene_labels_key": gene_labels_key, "gene_labels": gene_labels, **where}
            gene_labels, occurring = read_gene_labels(
                adata, chosen.vocabulary, unlabeled_category=unlabeled_category, **given
            )
            labels = ordered_labels(occurring, labels)
            codes = label_codes(gene_labels, labels, chosen.vocabulary)
            warn_of_single_genes(np.bincount(codes[codes >= 0], minlength=len(labels)), labels)
        setup_args = {
            "gene_labels_key": gene_labels_key,
            "gene_labels": dict(gene_labels or {}),
            "unlabeled_category": unlabeled_category,
            "labels": list(labels or ()),
            "batch_key": batch_key,
        }
        cls._register(adata, chosen, category_fields(batch_key, None), where=where, setup_args=setup_args, **kwargs)

    @property
    def labels(self) -> list[str]:
        """Names of the labels, in the order of the network's outputs."""
        config: Any = self.module.network.config
        return list((config.id2label or {}).values())

    @property
    def gene_labels(self) -> pd.DataFrame:
        """Labelled genes that the model knows, by gene id of its vocabulary.

        Columns: `symbol`, `label`, and `part`, which says what training used the gene for: `"train"`, `"validation"`, or
        `"held out"`; missing before training.
        """
        ids, codes = np.array(self.vocabulary.gene_ids, dtype=object), self._codes()[self.vocabulary.token_ids]
        module: Any = self.module
        parts = np.full(self.vocabulary.size, "held out", dtype=object)
        for name, buffer in (("train", module.train_labels), ("validation", module.validation_labels)):
            parts[(buffer != IGNORED).cpu().numpy()] = name
        if (parts == "held out").all():
            parts[:] = None
        known = codes >= 0
        columns = {
            "symbol": np.array(self.vocabulary.symbols, dtype=object)[known],
            "label": pd.Categorical.from_codes(codes[known], categories=self._label_names()),
            "part": pd.Categorical(
                parts[self.vocabulary.token_ids][known], categories=["train", "validation", "held out"]
            ),
        }
        return pd.DataFrame(columns, index=pd.Index(ids[known], name="gene"))

    def predict_genes(
        self, adata: AnnData | None = None, *, soft: bool = False, batch_size: int | None = None
    ) -> pd.Series | pd.DataFrame:
        """Predict labels of genes, averaged over the cells in which each is among the tokens.

        :func:`sfm.tl.annotate_genes` writes the same into an AnnData.

        Parameters
        ----------
        adata
            Data to predict from, read with the layer and gene names that `setup_anndata` was given; it is not written
            to. Default: the data the model was set up with.
        soft
            Return probabilities of all labels instead of the best label.
        batch_size
            Cells per minibatch. Default: as many as fit a number of tokens.

        Returns
        -------
        Names of labels, or with `soft` a table of probabilities, float32, with a column per label. The index holds the
        names of the genes that are read, in their order. Genes that the model does not know, or that are in no cell's
        tokens, are missing.

        Raises
        ------
        RuntimeError
            If the head has not been trained.
        """
        refuse_untrained(self)
        cells = self._cells(adata)
        data = self.adata if adata is None else adata
        args = self.registry["setup_args"]
        where = {name: args[name] for name in ("layer", "use_raw", "gene_symbols")}
        token_ids = align_genes(select_matrix(data, **where).names, self.vocabulary).token_ids
        network: Any = self.module.network
        how: dict[str, Any] = {"batch_size": batch_size or "auto", "device": self.device}
        genes = gene_probabilities(network, cells, pad_id=self.vocabulary.pad_id, **how)[token_ids]
        names = data.raw.var_names if args["use_raw"] else data.var_names
        if soft:
            return genes.frame(names)
        return pd.Series(genes.best()[0], index=names, name=args["gene_labels_key"])

    def _label_names(self) -> list[str]:
        return list(self.registry["setup_args"]["labels"])

    def _codes(self) -> np.ndarray:
        """Label of each token id as a number, -1 where there is none."""
        return label_codes(self.registry["setup_args"]["gene_labels"], self._label_names(), self.vocabulary)

    def _with_labels(self, config: CellConfig, loss_weights: LossWeights | None) -> CellConfig:
        """Configuration with the labels that were set up, and their weights in the loss."""
        labels, codes = self._label_names(), self._codes()
        settings = config.to_dict()
        settings["id2label"] = dict(enumerate(labels))
        settings["label2id"] = {name: i for i, name in enumerate(labels)}
        counts = np.bincount(codes[codes >= 0], minlength=len(labels))
        settings["label_weights"] = weights_of_labels(loss_weights, labels, counts)
        settings["problem_type"] = "single_label_classification"
        settings["sample_pooling"] = None
        return CellConfig.from_dict(settings)
