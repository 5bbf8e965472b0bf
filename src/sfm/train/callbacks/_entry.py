from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from transformers import TrainerCallback

from sfm.train.callbacks._adapter import TrainerCallbackAdapter
from sfm.train.callbacks._report import reporting_callbacks

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from transformers import TrainingArguments


def as_lightning_callbacks(
    callbacks: Callback | TrainerCallback | type[TrainerCallback] | Iterable[Any] | None,
    *,
    report_to: str | Iterable[str] | None = None,
    training_arguments: TrainingArguments | dict[str, Any] | None = None,
    output_dir: str | Path | None = None,
) -> list[Callback]:
    """Make Lightning callbacks of Lightning's and transformers' callbacks.

    Parameters
    ----------
    callbacks
        Lightning callbacks, transformers callbacks or their classes, in any order.
    report_to
        Names of transformers' reporting integrations, for example `"tensorboard"` or `["mlflow", "wandb"]`; `"all"` for
        every one that is installed, `"none"` for none. Default: those that `training_arguments` names.
    training_arguments
        Settings for the transformers callbacks, see :class:`~sfm.train.callbacks.TrainerCallbackAdapter`.
    output_dir
        Where the transformers callbacks write. Default: that of `training_arguments`, else the trainer's
        `default_root_dir`.

    Returns
    -------
    The Lightning callbacks in their order and, behind them, one adapter with all transformers callbacks, if there are
    any: those of `report_to` first, as in :class:`transformers.Trainer`.

    Raises
    ------
    TypeError
        If one of the callbacks is of neither kind.
    ValueError
        If a name in `report_to` is not known.
    ImportError
        If `report_to` names a package that is not installed.

    Examples
    --------
    >>> from lightning.pytorch.callbacks import Timer
    >>> from transformers import PrinterCallback
    >>> [type(callback).__name__ for callback in as_lightning_callbacks([PrinterCallback, Timer()])]
    ['Timer', 'TrainerCallbackAdapter']
    """
    if callbacks is None:
        callbacks = []
    elif isinstance(callbacks, Callback | TrainerCallback | type):
        callbacks = [callbacks]
    native: list[Callback] = []
    foreign: list[TrainerCallback] = []
    for callback in callbacks:
        made = callback() if isinstance(callback, type) and issubclass(callback, TrainerCallback) else callback
        if isinstance(made, Callback):
            native.append(made)
        elif isinstance(made, TrainerCallback):
            foreign.append(made)
        else:
            raise TypeError(_neither(callback))
    if report_to is None:
        report_to = _reports_of(training_arguments)
    foreign = [*reporting_callbacks(report_to), *foreign]
    if not foreign:
        return native
    return [
        *native,
        TrainerCallbackAdapter(foreign, training_arguments=training_arguments, output_dir=output_dir),
    ]


def _reports_of(given: TrainingArguments | dict[str, Any] | None) -> str | Iterable[str] | None:
    return given.get("report_to") if isinstance(given, dict) else getattr(given, "report_to", None)


def _neither(callback: object) -> str:
    msg = (
        f"callbacks= holds {callback!r}, which is neither a Lightning callback (`lightning.pytorch.Callback`) nor a "
        "transformers callback (`transformers.TrainerCallback`)."
    )
    if isinstance(callback, type) and issubclass(callback, Callback):
        return f"{msg} It is a Lightning class: pass an instance, `{callback.__name__}(...)`."
    if isinstance(callback, str):
        return f"{msg} Reporting integrations are named in report_to={callback!r}."
    return msg
