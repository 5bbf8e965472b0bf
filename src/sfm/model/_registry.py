"""Making a model of data that are no AnnData."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData

    from sfm.checkpoints import PretrainedCells

# Recorded with the tokenizer, or no setting.
_NOT_RECORDED = ("adata", "max_length", "kwargs")


def complete_registry(registry: dict[str, Any], model_class: Any) -> dict[str, Any]:
    """Return the registry of a datamodule as that of a model class, which can set up an AnnData by it.

    Raises
    ------
    ValueError
        If `setup_anndata` of this class needs what the datamodule does not have.
    """
    if not model_class.takes_datamodules:
        msg = f"{model_class.__name__} needs an AnnData: a datamodule does not have all that it learns from."
        raise ValueError(msg)
    given = registry["setup_args"]
    parameters = inspect.signature(model_class.setup_anndata).parameters
    needed = {name: p.default for name, p in parameters.items() if name not in _NOT_RECORDED}
    missing = [
        name for name, default in needed.items() if given.get(name) is None and default is inspect.Parameter.empty
    ]
    if missing:
        msg = (
            f"{model_class.__name__} needs {missing[0]}=, which the datamodule was made without. Make it with "
            f"{missing[0]}= if it takes that, or set the model up with an AnnData."
        )
        raise ValueError(msg)
    setup_args = {name: given.get(name, default) for name, default in needed.items()}
    return {**registry, "model_name": model_class.__name__, "setup_args": setup_args}


def split_setup(model_class: Any, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split keyword arguments into those of `setup_anndata` and those of the class itself."""
    names = inspect.signature(model_class.setup_anndata).parameters
    own = {name: value for name, value in kwargs.items() if name in names}
    return own, {name: value for name, value in kwargs.items() if name not in names}


def set_up(model_class: Any, adata: AnnData | None, pretrained: PretrainedCells, **setup_kwargs: Any) -> None:
    """Set up data for a pretrained model.

    Raises
    ------
    ValueError
        If there are none.
    """
    if adata is None:
        msg = "There are no data to go on with. Pass adata=, or registry= of a datamodule."
        raise ValueError(msg)
    model_class.setup_anndata(adata, tokenizer=pretrained, **setup_kwargs)


def refuse_other_registry(
    registry: dict[str, Any], pretrained: PretrainedCells, adata: AnnData | None, setup_kwargs: dict[str, Any]
) -> None:
    """Raise unless a registry is of data that the pretrained model can read, and all that is known of them.

    Raises
    ------
    ValueError
        If there is an AnnData as well, or the data are tokenized otherwise.
    TypeError
        If there are settings that belong to an AnnData.
    """
    if adata is not None:
        msg = "adata= and registry= are both given. Pass the data to train on, one of them."
        raise ValueError(msg)
    if setup_kwargs:
        name, value = next(iter(setup_kwargs.items()))
        msg = f"{name}={value!r} belongs to an AnnData. With registry=, pass it to the datamodule."
        raise TypeError(msg)
    own = registry["setup_args"]
    tokenizer = pretrained.tokenizer
    if own["tokenizer"] != tokenizer.to_dict() or own["vocabulary"] != tokenizer.vocabulary.to_dict():
        msg = (
            f"The datamodule was made with another tokenizer or vocabulary than {pretrained.name!r} has, {tokenizer!r}. "
            "Make it with tokenizer= that model."
        )
        raise ValueError(msg)


def refuse_other_data(model: Any, datamodule: Any) -> None:
    """Raise unless there are data to train a model on, tokenized as its own were."""
    if datamodule is None:
        if model.adata is None:
            msg = "The model was made without data. Pass datamodule=, or load it with adata=."
            raise ValueError(msg)
        return
    other = getattr(datamodule, "tokenizer", model.tokenizer)
    if other.params() != model.tokenizer.params():
        msg = (
            f"The cells of the datamodule are tokenized by {other!r}, those of the model by {model.tokenizer!r}. Make "
            "the datamodule with tokenizer=model.tokenizer, or the model with registry=datamodule.registry."
        )
        raise ValueError(msg)
