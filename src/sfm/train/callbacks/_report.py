from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from transformers import integrations

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import TrainerCallback

# Integration: (module that it imports, what pip installs). Those that are not here check for themselves.
_PACKAGES = {
    "azure_ml": ("azureml.core.run", "azureml-core"),
    "clearml": ("clearml", "clearml"),
    "codecarbon": ("codecarbon", "codecarbon"),
    "comet_ml": ("comet_ml", "comet_ml"),
    "dagshub": ("dagshub", "dagshub mlflow"),
    "dvclive": ("dvclive", "dvclive"),
    "flyte": ("flytekit", "flytekit"),
    "mlflow": ("mlflow", "mlflow"),
    "swanlab": ("swanlab", "swanlab"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "trackio": ("trackio", "trackio"),
    "wandb": ("wandb", "wandb"),
}
# codecarbon's own setting. Where it is given, the country need not be asked for over the network.
_COUNTRY = "CODECARBON_COUNTRY_ISO_CODE"
_IN_EXTRA = {"codecarbon", "dvclive", "mlflow", "tensorboard", "trackio", "wandb"}


def reporting_callbacks(report_to: str | Iterable[str] | None) -> list[TrainerCallback]:
    """Make the callbacks of transformers' reporting integrations.

    Parameters
    ----------
    report_to
        Name or names as in :class:`transformers.TrainingArguments`; `"all"` for every one that is installed, `"none"`
        or `None` for none.

    Returns
    -------
    One callback per name.

    Raises
    ------
    ValueError
        If a name is not known.
    ImportError
        If the package is not installed; the message says how to install it.

    Examples
    --------
    >>> [type(callback).__name__ for callback in reporting_callbacks("tensorboard")]
    ['TensorBoardCallback']
    """
    names = [report_to] if isinstance(report_to, str) else list(report_to or [])
    if "all" in names:
        names = integrations.get_available_reporting_integrations()
    names = list(dict.fromkeys(name for name in names if name != "none"))
    for name in names:
        _check(name)
    made: list[TrainerCallback] = []
    for name, cls in zip(names, integrations.get_reporting_integration_callbacks(names), strict=True):
        made.append(_offline_codecarbon() if name == "codecarbon" and os.environ.get(_COUNTRY) else cls())
    return made


def _offline_codecarbon() -> TrainerCallback:
    from sfm.train.callbacks._codecarbon import OfflineCodeCarbonCallback

    return OfflineCodeCarbonCallback()


def _check(name: str) -> None:
    known = sorted(integrations.integration_utils.INTEGRATION_TO_CALLBACK)
    if name not in known:
        msg = f"report_to={name!r} is not known. Known are {', '.join(map(repr, known))}, 'all' and 'none'."
        raise ValueError(msg)
    module, package = _PACKAGES.get(name, (None, None))
    if module is None or _is_installed(module):
        return
    extra = ', or all of the tested ones with `pip install "sfm-tools[loggers]"`' if name in _IN_EXTRA else ""
    msg = f"report_to={name!r} needs {module!r}, which is not installed. Run `pip install {package}`{extra}."
    raise ImportError(msg)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a parent of a dotted name is missing
        return False
