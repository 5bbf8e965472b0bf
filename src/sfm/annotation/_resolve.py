"""What may be passed as a reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anndata import AnnData

from sfm._warn import warn
from sfm.annotation._calibration import CALIBRATIONS
from sfm.annotation._cell_views import VIEWS
from sfm.annotation._classifier import CLASSIFIERS
from sfm.annotation._consensus import Consensus
from sfm.annotation._finetuned import TRAINERS, FinetunedReference
from sfm.annotation._labelled import LabelledCells
from sfm.annotation._labels import UNKNOWN, read_labels
from sfm.annotation._network import NetworkReference, refuse_untrained
from sfm.annotation._reference import Reference
from sfm.annotation._vector_annotator import checked_options
from sfm.checkpoints._pretrained import PretrainedCells
from sfm.checkpoints._resolve import resolve_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sfm.annotation._calibration import Calibration
    from sfm.annotation._cell_views import Views

Method = Literal["knn", "logreg", "lda", "prototype", "finetune"]

# Chosen on development sets, whose labels are of clusters and of gates: they err on different cells.
DEFAULT_METHODS: tuple[Method, ...] = ("knn", "logreg", "lda")

_ACCEPTED = (
    "a labelled AnnData, a `sfm.model.CellClassifier`, the result of `sfm.load`, a directory or hub id of a classifier, "
    "a CellTypist model or the path of its .pkl file, or an object of `sfm.annotation.Reference`"
)


@dataclass(frozen=True)
class LabelledOptions:
    """Arguments of :func:`sfm.tl.annotate` that mean something for labelled cells only."""

    labels_key: str = "cell_type"
    model: Any = None
    method: Method | Sequence[Method] = DEFAULT_METHODS
    method_kwargs: dict[str, Any] | None = None
    use_rep: str | None = None
    views: Views | None = None
    calibration: Calibration = "temperature"
    where: dict[str, Any] = field(default_factory=dict)


def resolve_reference(reference: Any, adata: AnnData, options: LabelledOptions) -> Reference:
    """Turn whatever `reference=` may be into something that annotates cells."""
    methods = _checked_methods(options.method)
    if options.calibration not in CALIBRATIONS:
        msg = f"Unknown calibration={options.calibration!r}. Choose {' or '.join(map(repr, CALIBRATIONS))}."
        raise ValueError(msg)
    if options.views not in (None, *VIEWS):
        msg = f"Unknown views={options.views!r}. Choose one of {', '.join(map(repr, VIEWS))}."
        raise ValueError(msg)
    if isinstance(reference, AnnData):
        return _labelled(reference, adata, options, methods)
    resolved = _trained(reference)
    _refuse_useless(options, reference)
    if UNKNOWN in resolved.labels:
        msg = f"The reference has a label {UNKNOWN!r}, which is also what rejected cells get: the two cannot be told apart."
        warn(msg)
    return resolved


def _trained(reference: Any) -> Reference:
    if isinstance(reference, str | Path) and Path(reference).suffix == ".pkl":
        from sfm.annotation._celltypist import CellTypistReference

        return CellTypistReference.read(reference)
    if isinstance(reference, str | Path) and Path(reference).suffix in (".h5ad", ".zarr"):
        msg = f"reference={str(reference)!r} is a file of cells. Read it first: `anndata.read_{Path(reference).suffix[1:]}(...)`."
        raise ValueError(msg)
    refuse_untrained(reference)
    if isinstance(reference, str | Path | PretrainedCells) or hasattr(reference, "as_pretrained"):
        return NetworkReference(resolve_model(reference))
    if all(hasattr(reference, name) for name in ("classifier", "scaler", "description")):
        from sfm.annotation._celltypist import CellTypistReference

        return CellTypistReference.from_model(reference)
    if isinstance(reference, Reference) and not isinstance(reference, type):
        return reference
    hint = " Pass one modality, for example `mdata['rna']`." if type(reference).__name__ == "MuData" else ""
    msg = f"reference is a {type(reference).__name__}, which has no labels to give. Pass {_ACCEPTED}.{hint}"
    raise TypeError(msg)


def _labelled(reference: AnnData, adata: AnnData, options: LabelledOptions, methods: list[str]) -> Reference:
    if options.model is not None and options.use_rep is not None:
        msg = (
            f"model= and use_rep={options.use_rep!r} were both given: vectors that are there are not made anew. Pass one "
            "of them."
        )
        raise ValueError(msg)
    if options.use_rep is not None and options.views in ("both", "expression"):
        msg = (
            f"use_rep={options.use_rep!r} and views={options.views!r} were both given: only the vectors in that slot are "
            "compared. Leave one of them out."
        )
        raise ValueError(msg)
    settings = _options_by_method(methods, options.method_kwargs)
    read = read_labels(reference, options.labels_key)
    if reference is adata and read.labelled.any():
        msg = (
            f"The reference is adata itself. Its {int(read.labelled.sum())} labelled cells are annotated from a reference "
            "that has them in it, so that how well the labels agree says nothing."
        )
        warn(msg)
    parts: list[Reference] = []
    on_vectors = [name for name in methods if name not in TRAINERS.names()]
    if on_vectors:
        parts.append(
            LabelledCells(
                reference,
                read,
                options.where,
                on_vectors,
                model=options.model,
                use_rep=options.use_rep,
                views=options.views,
                calibration=options.calibration,
                options=settings,
            )
        )
    if len(on_vectors) < len(methods):
        if options.use_rep is not None and not on_vectors:
            msg = f"use_rep={options.use_rep!r}: method='finetune' reads counts, not vectors. Pass model= instead."
            raise ValueError(msg)
        if options.views is not None and not on_vectors:
            msg = f"views={options.views!r}: method='finetune' has none to choose from. Leave views= out."
            raise ValueError(msg)
        parts.append(
            FinetunedReference(
                reference, read, options.where, model=options.model, options=settings.get("finetune", {})
            )
        )
    return parts[0] if len(parts) == 1 else Consensus(parts)


def _checked_methods(method: Method | Sequence[Method]) -> list[str]:
    methods: list[str] = [method] if isinstance(method, str) else [*method]
    known = sorted([*CLASSIFIERS.names(), *TRAINERS.names()])
    wrong = [name for name in methods if name not in known]
    if wrong or not methods or len(set(methods)) < len(methods):
        problem = f"Unknown method={wrong[0]!r}" if wrong else f"method={method!r} names none, or one twice"
        msg = f"{problem}. Choose one or several of {', '.join(map(repr, known))}."
        raise ValueError(msg)
    return methods


def _options_by_method(methods: list[str], options: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Settings of one method, or with several, those of each by its name."""
    if not options:
        return {}
    if len(methods) > 1:
        wrong = [name for name in options if name not in methods or not isinstance(options[name], dict)]
        if wrong:
            msg = (
                f"method_kwargs[{wrong[0]!r}]: with several methods, here {', '.join(map(repr, methods))}, pass a dictionary "
                f"for each by its name, such as method_kwargs={{{methods[0]!r}: {{...}}}}, or choose one, such as "
                f"method={methods[0]!r}."
            )
            raise TypeError(msg)
        by_method = options
    else:
        by_method = {methods[0]: options}
    vectors = {name: checked_options(name, given) for name, given in by_method.items() if name in CLASSIFIERS.names()}
    return {**by_method, **vectors}


def _refuse_useless(options: LabelledOptions, reference: Any) -> None:
    default = LabelledOptions(labels_key=options.labels_key, where=options.where)
    names = ("model", "method", "method_kwargs", "use_rep", "views", "calibration")
    given = [name for name in names if getattr(options, name) != getattr(default, name)]
    if given:
        msg = (
            f"{given[0]}={getattr(options, given[0])!r} goes with labelled cells as reference, but reference is a "
            f"{type(reference).__name__}, which brings its own. Leave {given[0]}= out."
        )
        raise ValueError(msg)
