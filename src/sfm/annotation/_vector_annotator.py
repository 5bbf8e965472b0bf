from __future__ import annotations

from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

from sfm import _logging as logg
from sfm.annotation._calibration import CalibratedViews, calibration_report
from sfm.annotation._classifier import CLASSIFIERS
from sfm.annotation._held_out import hold_out
from sfm.annotation._novelty import Novelty, Typicality

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sfm.annotation._calibration import Calibration

# Fewer held-out cells say little about probabilities.
_FEW = 50


class VectorAnnotator:
    """Classifiers of cell vectors, calibrated on held-out reference cells, and the distance from these.

    Cells may be given in several views. Each classifier then works on each view by itself, and the probabilities that
    it finds are averaged and calibrated again.

    Parameters
    ----------
    views
        Vectors of the labelled reference cells, shape `(cells, dims)`, by the name of the view. Novelty is judged by the
        first.
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
        self.calibrators = [CalibratedViews(calibration, len(vectors)) for _ in make]
        self.report: dict[str, Any] = {"calibration": calibration, "n_held_out": n_held_out}
        self.novelty: Novelty | None = None
        if n_held_out < _FEW:
            logg.info(f"    only {n_held_out} reference cells could be held out: confidence is hardly calibrated")
        if n_held_out == 0:
            return
        for calibrator, logits in zip(self.calibrators, held_out.logits, strict=True):
            calibrator.fit(logits, held_out.codes)
        self.novelty = Novelty(Typicality().fit(vectors[0], codes), held_out.distances)
        self.report |= self._report(calibration, held_out.logits, held_out.codes)

    def classify(self, views: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return calibrated probabilities, shape `(methods, cells, n_labels)`, and best labels, `(cells, methods)`."""
        found = [
            calibrator([part.logits(views[name]) for part, name in zip(classifiers, self.views, strict=True)])
            for classifiers, calibrator in zip(self.classifiers, self.calibrators, strict=True)
        ]
        return np.stack([part for part, _ in found]), np.stack([best for _, best in found], axis=1)

    def _report(self, kind: Calibration, logits: list[list[np.ndarray]], codes: np.ndarray) -> dict[str, Any]:
        """Calibration of the mean of all methods, and with several, of each."""
        single = len(self.methods) == 1
        found: dict[str, Any] = {}
        for name, calibrator, parts in zip(self.methods, self.calibrators, logits, strict=True):
            suffix = "" if single else f"_{name}"
            for i, (view, fitted) in enumerate(zip(self.views, calibrator.views, strict=True)):
                found[f"temperature{suffix}" + (f"_{view}" if i else "")] = fitted.value
            if calibrator.mean is not None:
                found[f"temperature{suffix}_both"] = calibrator.mean.value
            found |= _plain(calibration_report(kind, [parts], codes), suffix)
        return found if single else {**found, **_plain(calibration_report(kind, logits, codes), "")}


def _plain(report: Any, suffix: str) -> dict[str, Any]:
    return {
        f"expected_calibration_error{suffix}": report.error,
        f"expected_calibration_error_before{suffix}": report.error_before,
        f"held_out_accuracy{suffix}": report.accuracy,
    }


def checked_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return arguments of a classifier, or raise if it does not have them."""
    known = list(signature(CLASSIFIERS.load(name)).parameters)
    unknown = [key for key in options if key not in known]
    if unknown:
        msg = f"method_kwargs has {unknown[0]!r}, which method={name!r} does not take. It takes: {', '.join(known)}."
        raise TypeError(msg)
    return options
