from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from sfm._matrix import select_matrix
from sfm._registry import Registry
from sfm.annotation._embed import QUERY, REFERENCE, known_genes, naming
from sfm.annotation._network import NetworkReference, is_classifier
from sfm.annotation._overlap import shared_genes
from sfm.checkpoints._resolve import resolve_model
from sfm.genes import align_genes

if TYPE_CHECKING:
    import torch

    from sfm.annotation._labels import ReferenceLabels
    from sfm.annotation._reference import Prediction
    from sfm.checkpoints import PretrainedCells
    from sfm.genes import GeneVocabulary
    from sfm.inference._precision import Precision

LABELS_KEY = "label"

# Training stands above this part of sfm, so it is reached by name.
TRAINERS = Registry("method", {"finetune": "sfm.model._finetuned:finetuned_classifier"})


@dataclass(eq=False)
class FinetunedReference:
    """Labelled cells as a reference: a classifier is made of the model and trained on the genes that both sides have."""

    reference: AnnData
    read: ReferenceLabels
    where: dict[str, Any]
    """Which matrix and gene names of the reference are read."""
    model: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of the training."""
    found: dict[str, Any] = field(default_factory=dict, init=False)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels."""
        return self.read.names

    def predict(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        use_raw: bool = False,
        gene_symbols: str | None = None,
        batch_size: int | Literal["auto"] = "auto",
        device: str | torch.device = "auto",
        precision: Precision = "auto",
    ) -> Prediction:
        """Train, and annotate cells, as :meth:`sfm.annotation.Reference.predict` says."""
        where: dict[str, Any] = {"layer": layer, "use_raw": use_raw, "gene_symbols": gene_symbols}
        pretrained = resolve_model(self.model)
        self._refuse_other_labels(pretrained)
        with naming(QUERY):
            of_query = known_genes(adata, pretrained.vocabulary, where)
        with naming(REFERENCE):
            of_reference = known_genes(self.reference, pretrained.vocabulary, self.where)
        both = of_query.size and of_reference.size
        genes = shared_genes(of_query, of_reference, pretrained.vocabulary) if both else None
        with naming(REFERENCE):
            cells = self._training_cells(pretrained.vocabulary, genes)
            trained = TRAINERS.load("finetune")(pretrained, cells, labels_key=LABELS_KEY, **self.options)
        network = NetworkReference(trained, genes=genes)
        self.found = {**network.params(), "n_shared_genes": None if genes is None else int(genes.size)}
        with naming(QUERY):
            prediction = network.predict(adata, **where, batch_size=batch_size, device=device, precision=precision)
        return prediction.in_order_of(network.labels, self.labels)

    def params(self) -> dict[str, Any]:
        """Provenance for `uns`."""
        return {
            **self.found,
            "reference": "labelled cells",
            "n_reference_cells": int(self.read.labelled.sum()),
        }

    def _refuse_other_labels(self, pretrained: PretrainedCells) -> None:
        """Raise if the model is a classifier of something else, whose labels would come on top."""
        if not is_classifier(pretrained.model):
            return
        own = NetworkReference(pretrained).labels
        if set(own) != set(self.labels):
            other = sorted(set(own) ^ set(self.labels))[0]
            msg = (
                f"model={pretrained.name!r} is a classifier with other labels than the reference, such as {other!r}. "
                "Pass it as reference, or train it on: `sfm.model.CellClassifier.from_pretrained(model, labelled, "
                "labels_key=..., extend_labels=True)`."
            )
            raise ValueError(msg)

    def _training_cells(self, vocabulary: GeneVocabulary, genes: np.ndarray | None) -> AnnData:
        """Return the labelled cells in an AnnData of their own, since setting up a model writes into it."""
        matrix = select_matrix(self.reference, **self.where)
        token_ids = align_genes(matrix.names, vocabulary).token_ids
        columns = np.flatnonzero(token_ids >= 0 if genes is None else np.isin(token_ids, genes))
        chunks = [counts[self.read.labelled[rows]][:, columns] for rows, counts in matrix.chunks()]
        names = pd.Categorical.from_codes(self.read.codes, list(self.labels))
        obs = pd.DataFrame({LABELS_KEY: names}, index=self.reference.obs_names[self.read.labelled])
        return AnnData(sparse.vstack(chunks, format="csr"), obs=obs, var=pd.DataFrame(index=matrix.names[columns]))
