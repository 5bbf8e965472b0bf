from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sfm.annotation._embed import QUERY, REFERENCE, embed_cells, known_genes, naming
from sfm.annotation._overlap import shared_genes
from sfm.annotation._provenance import DEFAULT_REP, both_embedded, stored_vectors
from sfm.annotation._reference import Prediction
from sfm.annotation._vector_annotator import VectorAnnotator
from sfm.checkpoints._resolve import resolve_model
from sfm.inference._cells import CellVectors

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from anndata import AnnData

    from sfm.annotation._calibration import Calibration
    from sfm.annotation._labels import ReferenceLabels
    from sfm.inference._precision import Precision


@dataclass(eq=False)
class LabelledCells:
    """Labelled cells as a reference: they and the query are embedded, and labels go from vectors to vectors."""

    reference: AnnData
    read: ReferenceLabels
    where: dict[str, Any]
    """Which matrix and gene names of the reference are read."""
    methods: Sequence[str]
    """Names of classifiers of vectors."""
    model: Any = None
    use_rep: str | None = None
    calibration: Calibration = "temperature"
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """For each method, the arguments of its class."""
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
        """Annotate cells, as :meth:`sfm.annotation.Reference.predict` says."""
        where = {"layer": layer, "use_raw": use_raw, "gene_symbols": gene_symbols}
        compute: dict[str, Any] = {"batch_size": batch_size, "device": device, "precision": precision}
        query, labelled = self._vectors(adata, where, compute)
        annotator = VectorAnnotator(
            labelled.vectors[self.read.labelled],
            self.read.codes,
            n_labels=len(self.labels),
            methods=self.methods,
            calibration=self.calibration,
            options=self.options,
        )
        self.found |= annotator.report
        probabilities, votes = annotator.classify(query.vectors)
        return Prediction(
            probabilities=probabilities.mean(axis=0),
            novelty=None if annotator.novelty is None else annotator.novelty(query.vectors),
            vectors=query.vectors,
            params=query.params,
            codes=votes[:, 0] if len(self.methods) == 1 else None,
            is_empty=query.is_empty,
            votes=votes,
        )

    def params(self) -> dict[str, Any]:
        """Provenance for `uns`."""
        return {
            "reference": "labelled cells",
            "n_reference_cells": int(self.read.labelled.sum()),
            **self.found,
        }

    def _vectors(
        self, adata: AnnData, where: dict[str, Any], compute: dict[str, Any]
    ) -> tuple[CellVectors, CellVectors]:
        """Vectors of the query and of the reference: those that are stored, or new ones from the genes of both."""
        if self.use_rep is not None or (self.model is None and both_embedded(adata, self.reference)):
            use_rep = self.use_rep or DEFAULT_REP
            self.found["use_rep"] = use_rep
            return stored_vectors(adata, self.reference, use_rep)
        pretrained = resolve_model(self.model)
        vocabulary = pretrained.vocabulary
        with naming(QUERY):
            of_query = known_genes(adata, vocabulary, where)
        with naming(REFERENCE):
            of_reference = known_genes(self.reference, vocabulary, self.where)
        # Genes that one side lacks would tell the two apart. Without any gene, the coverage gate has the better message.
        genes = shared_genes(of_query, of_reference, vocabulary) if of_query.size and of_reference.size else None
        with naming(QUERY):
            query = embed_cells(adata, pretrained, where, compute=compute, genes=genes)
        if self.reference is adata and self.where == where:
            labelled = query
        else:
            with naming(REFERENCE):
                labelled = embed_cells(self.reference, pretrained, self.where, compute=compute, genes=genes)
        self.found |= {"use_rep": None, "n_shared_genes": None if genes is None else int(genes.size)}
        return CellVectors(query.vectors, {**pretrained.params(), **query.params}, query.is_empty), labelled
