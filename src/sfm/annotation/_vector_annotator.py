from __future__ import annotations

from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sfm import _logging as logg
from sfm._warn import warn
from sfm.annotation._calibration import MEASURED, CalibratedMean, best_labels, calibration_report
from sfm.annotation._classifier import CLASSIFIERS
from sfm.annotation._held_out import hold_out
from sfm.annotation._novelty import Novelty, Typicality

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sfm.annotation._calibration import Calibration

# Fewer held-out cells say little about probabilities.
_FEW = 50


class Judgement(NamedTuple):
    """What cells are found to be."""

    probabilities: np.ndarray
    """Calibrated, float32 of shape `(cells, n_labels)`."""
    best: np.ndarray
    """Number of the best label of each cell, shape `(cells,)`."""
    votes: np.ndarray
    """Number of the label that each method would choose by itself, shape `(cells, methods)`."""


class VectorAnnotator:
    """Classifiers of cell vectors, calibrated on held-out reference cells, and the distance from these.

    Cells may be given in several views. Each classifier then works on each view by itself, and all probabilities are
    averaged and calibrated again.

    Parameters
    ----------
    views
        Vectors of the labelled reference cells, shape `(cells, dims)`, by the name of the view.
    codes
        Number of the label of each, shape `(cells,)`.
    n_labels
        Number of labels.
    methods
        Names of the classifiers.
    calibration
        How logits become probabilities.
    options
        For each classifier, the arguments of its class.
    """

    def __init__(
        self,
        views: dict[str, np.ndarray],
        codes: np.ndarray,
        *,
        n_labels: int,
        methods: Sequence[str],
        calibration: Calibration,
        options: dict[str, dict[str, Any]],
    ) -> None:
        make = [partial(CLASSIFIERS.load(name), **options.get(name, {})) for name in methods]
        self.methods, self.views = list(methods), list(views)
        vectors = list(views.values())
        self.classifiers = [[new().fit(part, codes, n_labels=n_labels) for part in vectors] for new in make]
        held_out = hold_out(make, vectors, codes, n_labels=n_labels)
        n_held_out = len(held_out.codes)
        self.calibrated = CalibratedMean(calibration, len(make) * len(vectors))
        self.report: dict[str, Any] = {"calibration": calibration, "n_held_out": n_held_out, **dict.fromkeys(MEASURED)}
        self.novelty: Novelty | None = None
        if n_held_out == 0:
            msg = (
                "No cell of the reference could be held out, since none shares its label with another: confidence is not "
                "calibrated, and novelty is not known. Pass a reference with several cells of each label."
            )
            warn(msg)
            return
        if n_held_out < _FEW:
            logg.info(f"    only {n_held_out} reference cells could be held out: confidence is hardly calibrated")
        logits = [part for parts in held_out.logits for part in parts]
        self.calibrated.fit(logits, held_out.codes)
        self.novelty = Novelty([Typicality().fit(part, codes) for part in vectors], held_out.distances)
        self.report |= self._report(calibration, logits, held_out.codes)

    def classify(self, views: dict[str, np.ndarray]) -> Judgement:
        """Judge cells, given in the same views."""
        logits = [
            part.logits(views[name]) for parts in self.classifiers for name, part in zip(self.views, parts, strict=True)
        ]
        each = self.calibrated.each(logits)
        return Judgement(self.calibrated.pooled(each), best_labels(logits, each), self._votes(logits, each))

    def _votes(self, logits: list[np.ndarray], each: list[np.ndarray]) -> np.ndarray:
        """Which label each method would choose by itself, shape `(cells, methods)`."""
        n_views = len(self.views)
        starts = range(0, len(logits), n_views)
        return np.stack([best_labels(logits[i : i + n_views], each[i : i + n_views]) for i in starts], axis=1)

    def _report(self, kind: Calibration, logits: list[np.ndarray], codes: np.ndarray) -> dict[str, Any]:
        """Temperatures of all and of each judge, and how good the probabilities of held-out cells are."""
        found: dict[str, Any] = {"temperature": self.calibrated.value}
        if len(logits) > 1:
            names = [f"temperature_{method}_{view}" for method in self.methods for view in self.views]
            found |= {name: judge.value for name, judge in zip(names, self.calibrated.judges, strict=True)}
        if len(self.methods) > 1:
            votes = self._votes(logits, self.calibrated.each(logits))
            right = (votes == codes[:, None]).mean(axis=0).tolist()
            found |= {f"held_out_accuracy_{name}": share for name, share in zip(self.methods, right, strict=True)}
        report = calibration_report(kind, logits, codes)
        return found | dict(zip(MEASURED, (report.error, report.error_before, report.accuracy), strict=True))


def checked_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return arguments of a classifier, or raise if it does not take them or their values."""
    classifier = CLASSIFIERS.load(name)
    known = list(signature(classifier).parameters)
    unknown = [key for key in options if key not in known]
    if unknown:
        msg = f"method_kwargs has {unknown[0]!r}, which method={name!r} does not take. It takes: {', '.join(known)}."
        raise TypeError(msg)
    classifier(**options)
    return options
