"""CellTypist models as references."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from anndata import AnnData
from scipy.special import expit

from sfm._docs import INPUT, doc_params
from sfm._matrix import select_matrix
from sfm._warn import warn
from sfm.annotation._celltypist_file import ModelParts, model_parts, read_parts
from sfm.annotation._celltypist_genes import FeatureMatch, check_features, match_features
from sfm.annotation._celltypist_scores import SparseScorer
from sfm.annotation._celltypist_values import check_values
from sfm.annotation._reference import Prediction

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from sfm._matrix import CountMatrix
    from sfm._state import InputState, StateKind
    from sfm.inference._precision import Precision

_CHUNK = 512  # cells at a time, so that what is calculated for their non-zeros stays small


class _Scores(NamedTuple):
    decision: np.ndarray  # (cells, labels), float64
    match: FeatureMatch
    matrix: CountMatrix
    state: StateKind
    n_empty: int


@dataclass(frozen=True, eq=False)
class CellTypistReference:
    """A CellTypist model, evaluated without CellTypist and without scikit-learn.

    Labels and decision values are those of CellTypist 1.7.1 (Dominguez Conde et al., 2022, Science 376, eabl5197) on the
    same input: genes are matched by name and the first of each name counts, genes that the query lacks are left out
    altogether, values are z-scored and cut at 10 from above, and the label is the one with the largest decision value.
    It is calculated exactly, but on the non-zeros alone. Cells may hold counts, which are normalised here, or what
    CellTypist wants, which is log1p of counts scaled to 10,000 per cell.

    Where names match badly, because they are Ensembl ids, previous symbols or those of another species, they are
    brought together by :func:`sfm.genes.align_genes`; the counts of genes that mean the same feature are then added.

    Parameters
    ----------
    parts
        What of the model decides its labels.
    name
        What to call the model in messages.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import numpy as np
    >>> import sfm
    >>> adata = sfm.datasets.toy_cells()
    >>> genes, ones = adata.var_names.to_numpy(), np.ones(adata.n_vars)
    >>> model = SimpleNamespace(  # stands for a celltypist.models.Model
    ...     classifier=SimpleNamespace(
    ...         classes_=np.array(["B cell", "T cell"]), features=genes, coef_=ones[None], intercept_=np.zeros(1)
    ...     ),
    ...     scaler=SimpleNamespace(mean_=ones, scale_=ones, with_mean=True),
    ...     description={"version": "v1"},
    ... )
    >>> reference = sfm.annotation.CellTypistReference.from_model(model)
    >>> reference
    CellTypistReference(2 labels, 300 features, version 'v1')
    >>> reference.decision_function(adata).shape
    (100, 2)
    """

    parts: ModelParts = field(repr=False)
    name: str = "The CellTypist model"

    @classmethod
    def read(cls, path: str | Path) -> CellTypistReference:
        """Read a model that CellTypist wrote; nothing in the file is executed, and scikit-learn is not needed.

        Parameters
        ----------
        path
            File that `model.write(path)` wrote, or the name of a model that
            `celltypist.models.download_models` has fetched.

        Returns
        -------
        The model as a reference.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is no CellTypist model, is damaged, or names anything that such a model has no need of.
        """
        found, parts = read_parts(path)
        return cls(parts, name=f"CellTypist model {found.name!r}")

    @classmethod
    def from_model(cls, model: Any) -> CellTypistReference:
        """Take over a `celltypist.models.Model` in memory.

        Parameters
        ----------
        model
            Object with the attributes `classifier`, `scaler` and `description`. It is not kept.

        Returns
        -------
        The model as a reference.

        Raises
        ------
        ValueError
            If the model is not trained, or its parts do not belong together.
        """
        parts = model_parts(model.classifier, model.scaler, model.description, name="The model object")
        return cls(parts)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the cell types, in the order of the model."""
        return self.parts.labels

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the genes that the model uses, in its order."""
        return self.parts.features

    @property
    def description(self) -> dict[str, str]:
        """Version, date, details, source and address of the model, those that its authors filled in."""
        return dict(self.parts.description)

    def params(self) -> dict[str, Any]:
        """Return provenance of the reference for `uns`: plain values that h5ad and zarr can hold."""
        described = {f"celltypist_{key}": text for key, text in self.parts.description.items()}
        return {
            "reference": "celltypist",
            "reference_name": self.name,
            "reference_hash": self._digest(),
            "n_labels": len(self.labels),
            "n_features": len(self.features),
            **described,
        }

    @doc_params(input=INPUT)
    def decision_function(
        self, adata: AnnData, *, layer: str | None = None, use_raw: bool = False, gene_symbols: str | None = None
    ) -> np.ndarray:
        """Return the decision values, which are what CellTypist calls its decision matrix.

        Parameters
        ----------
        adata
            Annotated data matrix with counts, or log1p of counts scaled to 10,000 per cell.
        {input}

        Returns
        -------
        Decision values, float64 of shape `(n_obs, n_labels)`.

        Raises
        ------
        TypeError
            If `adata` is no AnnData.
        KeyError
            If `layer` or `gene_symbols` names nothing.
        ValueError
            If `adata` is empty, holds other values, or shares too few genes with the model.
        """
        return self._scores(adata, layer=layer, use_raw=use_raw, gene_symbols=gene_symbols).decision

    @doc_params(input=INPUT)
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
        """Annotate cells as CellTypist does in its mode `"best match"`.

        Parameters
        ----------
        adata
            Annotated data matrix with counts, or log1p of counts scaled to 10,000 per cell.
        {input}
        batch_size
            Not used: no network is run.
        device
            Not used.
        precision
            Not used; calculations are in float64.

        Returns
        -------
        Probabilities of each label by itself, as CellTypist has them, so that those of a cell do not add up to 1, and
        the label with the largest decision value.

        Raises
        ------
        TypeError
            If `adata` is no AnnData.
        KeyError
            If `layer` or `gene_symbols` names nothing.
        ValueError
            If `adata` is empty, holds other values, or shares too few genes with the model.
        """
        scores = self._scores(adata, layer=layer, use_raw=use_raw, gene_symbols=gene_symbols)
        return Prediction(
            probabilities=expit(scores.decision).astype(np.float32),
            codes=scores.decision.argmax(axis=1),
            params={
                "slot": scores.matrix.slot,
                "input_state": scores.state,
                "gene_names": scores.matrix.names_slot,
                **scores.match.params(),
                "n_empty_cells": scores.n_empty,
            },
        )

    def _scores(self, adata: AnnData, **where: Any) -> _Scores:
        _refuse_no_cells(adata)
        matrix = select_matrix(adata, **where)
        match = match_features(matrix.names.tolist(), self.parts)
        check_features(match, adata, matrix, self.parts, model=self.name)
        scorer = SparseScorer(self.parts, match)
        decision = np.empty((matrix.shape[0], self.parts.coef.shape[0]))
        state: InputState | None = None
        n_empty = 0
        for rows, values in matrix.chunks(_CHUNK):
            state = check_values(adata, matrix, values, before=state)
            decision[rows], n_expressed = scorer.scores(values, counts=state is None or state.kind == "counts")
            n_empty += int((n_expressed == 0).sum())
        if n_empty:
            msg = f"{n_empty} of {matrix.shape[0]} cells express no feature of the model; they all get the same label."
            warn(msg)
        if decision.shape[1] == 1:  # two labels share one row of coefficients
            decision = np.column_stack([-decision, decision])
        return _Scores(decision, match, matrix, state.kind if state else "counts", n_empty)

    def _digest(self) -> str:
        """SHA-256 of everything that decides labels."""
        digest = hashlib.sha256("\0".join([*self.labels, "", *self.features]).encode())
        for numbers in (self.parts.coef, self.parts.intercept, self.parts.mean, self.parts.scale):
            digest.update(np.ascontiguousarray(numbers, dtype="<f8").tobytes())
        digest.update(bytes([self.parts.with_mean]))
        return digest.hexdigest()

    def __repr__(self) -> str:
        version = self.parts.description.get("version")
        extra = f", version {version!r}" if version else ""
        return f"CellTypistReference({len(self.labels)} labels, {len(self.features)} features{extra})"


def _refuse_no_cells(adata: object) -> None:
    if not isinstance(adata, AnnData):
        hint = " Pass one modality, for example `mdata['rna']`." if type(adata).__name__ == "MuData" else ""
        msg = f"adata is a {type(adata).__name__}, not an AnnData.{hint}"
        raise TypeError(msg)
    if 0 in adata.shape:
        msg = f"adata has {adata.n_obs} cells and {adata.n_vars} genes; there is nothing to annotate."
        raise ValueError(msg)
