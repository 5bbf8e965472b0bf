from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sfm import _logging as logg
from sfm.annotation._cell_views import CellViews, Side, computed_views, stored_views
from sfm.annotation._embed import QUERY, REFERENCE
from sfm.annotation._provenance import DEFAULT_REP, both_embedded
from sfm.annotation._reference import Prediction
from sfm.annotation._vector_annotator import VectorAnnotator

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from anndata import AnnData

    from sfm.annotation._calibration import Calibration
    from sfm.annotation._cell_views import Views
    from sfm.annotation._labels import ReferenceLabels
    from sfm.inference._precision import Precision


@dataclass(eq=False)
class LabelledCells:
    """Labelled cells as a reference: labels go from their vectors to those of the query, in one view or two."""

    reference: AnnData
    read: ReferenceLabels
    where: dict[str, Any]
    """Which matrix and gene names of the reference are read."""
    methods: Sequence[str]
    """Names of classifiers of vectors."""
    model: Any = None
    use_rep: str | None = None
    views: Views | None = None
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
        cells = self._views(adata, where, compute)
        annotator = VectorAnnotator(
            cells.labelled,
            self.read.codes,
            n_labels=len(self.labels),
            methods=self.methods,
            calibration=self.calibration,
            options=self.options,
        )
        self.found = {**cells.found, "views": "both" if len(cells.query) > 1 else next(iter(cells.query))}
        self.found |= annotator.report
        found = annotator.classify(cells.query)
        vectors = list(cells.query.values())
        return Prediction(
            probabilities=found.probabilities,
            novelty=None if annotator.novelty is None else annotator.novelty(vectors),
            vectors=vectors[0],
            params=cells.params,
            codes=found.best,
            is_empty=cells.is_empty,
            votes=found.votes,
        )

    def params(self) -> dict[str, Any]:
        """Provenance for `uns`."""
        return {
            "reference": "labelled cells",
            "n_reference_cells": int(self.read.labelled.sum()),
            **self.found,
        }

    def _views(self, adata: AnnData, where: dict[str, Any], compute: dict[str, Any]) -> CellViews:
        """What both sides are compared by: vectors that are stored, or new ones, and expression."""
        query, reference = Side(adata, where, QUERY), Side(self.reference, self.where, REFERENCE)
        labelled = self.read.labelled
        if self.use_rep is not None:
            return stored_views(query, reference, labelled, self.use_rep, expression=False)
        if self.model is None and self.views != "expression" and both_embedded(adata, self.reference):
            made = stored_views(query, reference, labelled, DEFAULT_REP, expression=self.views != "model")
            if self.views is None and "expression" not in made.query:
                logg.info(f"    only the vectors in obsm[{DEFAULT_REP!r}] are compared: no counts that go with them")
            if self.views != "both" or "expression" in made.query:
                return made
        options: dict[str, Any] = {"model": self.model, "views": self.views or "both", "compute": compute}
        return computed_views(query, reference, labelled, **options)
