"""Reading CellTypist models: files, without running them, and objects, without importing CellTypist."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sfm.checkpoints._unpickler import Record, read_pickle

WHAT = "a CellTypist model"
# A seeded generator among a classifier's settings.
_GENERATORS = {
    ("numpy.random._pickle", "__randomstate_ctor"): Record,
    ("numpy.random._pickle", "__bit_generator_ctor"): Record,
    ("numpy.random._mt19937", "MT19937"): Record,
}
_ADMITTED = {("datetime", "datetime"): datetime, **_GENERATORS}
# Some compiled losses of scikit-learn name their module without its package.
_INERT = ("sklearn", "_loss", "celltypist", "pandas")
_PARTS = ("Model", "Scaler_", "description")
_DESCRIBED = ("version", "date", "details", "source", "url")


class ModelParts(NamedTuple):
    """What of a CellTypist model decides its labels."""

    labels: tuple[str, ...]
    features: tuple[str, ...]
    coef: np.ndarray  # (labels, features), or (1, features) for two labels
    intercept: np.ndarray
    mean: np.ndarray  # (features,)
    scale: np.ndarray
    with_mean: bool
    description: dict[str, str]


def is_celltypist_model(thing: object) -> bool:
    """Whether an object looks like a `celltypist.models.Model`."""
    return all(hasattr(thing, name) for name in ("classifier", "scaler", "description"))


def read_parts(path: str | Path) -> tuple[Path, ModelParts]:
    """Read a file that CellTypist wrote; a bare name is also looked for where CellTypist keeps its models."""
    found = _find(Path(path))
    content = read_pickle(found, what=WHAT, admitted=_ADMITTED, inert=_INERT)
    if isinstance(content, dict) and set(_PARTS) <= content.keys():
        return found, model_parts(*(content[name] for name in _PARTS), name=repr(str(path)))
    if is_celltypist_model(content):
        return found, model_parts(content.classifier, content.scaler, content.description, name=repr(str(path)))
    msg = (
        f"{str(path)!r} is not {WHAT}, but a pickle of {_describe(content)}. CellTypist writes models with "
        "`model.write(path)`."
    )
    raise ValueError(msg)


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    folder = Path(os.environ.get("CELLTYPIST_FOLDER", Path.home() / ".celltypist"), "data", "models")
    if path.name == str(path) and (folder / path).is_file():
        return folder / path
    msg = (
        f"Did not find the CellTypist model {str(path)!r}, nor that name in {str(folder)!r}. Pass the path of a file "
        f"that `model.write(path)` wrote, or fetch it with `celltypist.models.download_models(model={path.name!r})`."
    )
    raise FileNotFoundError(msg)


def _describe(content: object) -> str:
    if isinstance(content, Record):
        return f"a {content.origin}"
    if isinstance(content, dict):
        keys = ", ".join(repr(key)[:40] for key in list(content)[:3])
        return f"a dict with {len(content)} keys ({keys})" if content else "an empty dict"
    return f"a {type(content).__name__.removeprefix('Pickled').lower()}"


def model_parts(classifier: Any, scaler: Any, description: Any, *, name: str) -> ModelParts:
    """Take a classifier and a scaler of scikit-learn apart, of any version, or records of them; check what is taken."""
    features = _names(classifier, "features", name)
    coef = np.atleast_2d(_numbers(classifier, "coef_", name))
    intercept = _numbers(classifier, "intercept_", name).ravel()
    with_mean = bool(getattr(scaler, "with_mean", True))
    has_mean = with_mean or getattr(scaler, "mean_", None) is not None
    parts = ModelParts(
        labels=_names(classifier, "classes_", name),
        features=features,
        coef=coef,
        intercept=np.repeat(intercept, len(coef)) if intercept.size == 1 else intercept,
        mean=_numbers(scaler, "mean_", name) if has_mean else np.zeros(len(features)),
        scale=_numbers(scaler, "scale_", name),
        with_mean=with_mean,
        description=_texts(description if isinstance(description, dict) else {}),
    )
    _check(parts, name)
    return parts


def _texts(description: dict[str, Any]) -> dict[str, str]:
    known = {key: description.get(key) for key in _DESCRIBED}
    return {
        key: str(value)
        for key, value in known.items()
        if isinstance(value, str | int | float | datetime) and str(value)
    }


def _attribute(owner: Any, attribute: str, name: str) -> Any:
    value = getattr(owner, attribute, None)
    if value is None:
        msg = f"{name} is not {WHAT}: its {type(owner).__name__} has no {attribute!r}. Was it trained?"
        raise ValueError(msg)
    return value


def _names(owner: Any, attribute: str, name: str) -> tuple[str, ...]:
    value = np.asarray(_attribute(owner, attribute, name), dtype=object)
    if value.ndim != 1 or not all(isinstance(item, str | int | float | np.generic) for item in value.tolist()):
        msg = f"{name} is not {WHAT}: the {attribute!r} of its {type(owner).__name__} holds no names."
        raise ValueError(msg)
    return tuple(map(str, value.tolist()))


def _numbers(owner: Any, attribute: str, name: str) -> np.ndarray:
    value = _attribute(owner, attribute, name)
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        msg = f"{name} is not {WHAT}: the {attribute!r} of its {type(owner).__name__} holds no numbers."
        raise ValueError(msg) from None


def _check(parts: ModelParts, name: str) -> None:
    """Raise unless the parts belong together and every number can be calculated with."""
    n_rows = 1 if len(parts.labels) == 2 and len(parts.coef) == 1 else len(parts.labels)
    n_features = len(parts.features)
    shapes = {
        "coef_": (parts.coef.shape, (n_rows, n_features)),
        "intercept_": (parts.intercept.shape, (n_rows,)),
        "mean_": (parts.mean.shape, (n_features,)),
        "scale_": (parts.scale.shape, (n_features,)),
    }
    damage = [
        f"{attribute} has shape {shape}, not {wanted}"
        for attribute, (shape, wanted) in shapes.items()
        if shape != wanted
    ]
    if len(parts.labels) < 2:
        damage.append(f"it has {len(parts.labels)} cell types, and choosing takes two")
    unique = {"features": parts.features, "cell types": parts.labels}
    damage += [f"its {what} are not unique" for what, names in unique.items() if len(set(names)) < len(names)]
    numbers = {"coef_": parts.coef, "intercept_": parts.intercept, "mean_": parts.mean, "scale_": parts.scale}
    damage += [f"{key} holds values that are NaN or infinite" for key, x in numbers.items() if not np.isfinite(x).all()]
    if not damage and (parts.scale <= 0).any():
        damage.append(f"scale_ is not above 0 for {parts.features[int(np.argmax(parts.scale <= 0))]!r}")
    if damage:
        msg = f"{name} cannot be used: {'; '.join(damage)}. Train, convert or download the model again."
        raise ValueError(msg)
