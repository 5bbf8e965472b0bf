"""The output layer that scGPT gets when it is fine-tuned to label cells, and where the names of its labels are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfm._warn import warn
from sfm.checkpoints._pretrained import read_json
from sfm.checkpoints._unpickler import read_pickle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from sfm.checkpoints._names import Names

#: Files beside the weights that name the labels: the second is what the authors' tutorial writes.
LABEL_FILES = ("id2type.json", "results.pkl")

_OUTPUT = "cls_decoder.out_layer.weight"
# A hidden layer is three modules in a row: linear, ReLU, layer norm.
_PER_LAYER = 3


def n_labels_of(weights: Mapping[str, Tensor]) -> int:
    """Return how many labels the output layer has, 0 without one."""
    return len(weights[_OUTPUT]) if _OUTPUT in weights else 0


def hidden_sizes(weights: Mapping[str, Tensor]) -> list[int]:
    """Return the widths of the hidden layers in front of the output layer."""
    keys = (f"cls_decoder._decoder.{_PER_LAYER * i}.weight" for i in range(len(weights)))
    return [len(weights[key]) for key in keys if key in weights]


def label_head_names(n_hidden: int) -> Names:
    """Return the names here of the output layer and of the hidden layers in front of it."""
    names: dict[str, str | None] = {"cls_decoder.out_layer.{}": "head.classifier.{}"}
    for i in range(n_hidden):
        names[f"cls_decoder._decoder.{_PER_LAYER * i}.{{}}"] = f"head.feedforward.{i}.{{}}"
        names[f"cls_decoder._decoder.{_PER_LAYER * i + 2}.{{}}"] = f"head.feedforward_norms.{i}.{{}}"
    return names


def read_labels(directory: Path, n_labels: int, labels: Sequence[str] | None = None) -> list[str]:
    """Return the names of the labels, in the order of the output layer.

    Parameters
    ----------
    directory
        Where the weights are.
    n_labels
        How many there must be.
    labels
        The names, if they are given; no file is read then.

    Raises
    ------
    TypeError
        If `labels` is a string.
    ValueError
        If there are more or fewer names than outputs, a name comes twice, or a file holds something else.
    """
    if labels is not None:
        if isinstance(labels, str):
            msg = f"labels={labels!r} is a string. Pass a list of names, in the order of the output layer."
            raise TypeError(msg)
        return _checked([str(label) for label in labels], n_labels, directory, f"labels={list(labels)!r}")
    path = next((directory / name for name in LABEL_FILES if (directory / name).is_file()), None)
    if path is None:
        msg = (
            f"{str(directory)!r} was fine-tuned to tell {n_labels} labels apart, and no file beside it says which: its "
            f"labels are called '0' to '{n_labels - 1}'. Pass labels= to `sfm.load` with their names, in the order in "
            "which they were numbered (the sorted categories, in the authors' tutorial)."
        )
        warn(msg)
        return [str(i) for i in range(n_labels)]
    return _checked(_names_in(path), n_labels, directory, repr(path.name))


def _names_in(path: Path) -> list[str]:
    """Read numbers and names of labels, and return the names in the order of the numbers."""
    what = "the results of fine-tuning scGPT"
    content: Any = read_json(path) if path.suffix == ".json" else read_pickle(path, what=what)
    if path.suffix != ".json" and isinstance(content, dict):
        content = content.get("id_maps")
    try:
        by_number = {int(number): str(name) for number, name in content.items()}
    except (AttributeError, TypeError, ValueError):
        by_number = {}
    if sorted(by_number) != list(range(len(by_number))) or not by_number:
        msg = (
            f"{str(path)!r} does not number names of labels from 0. Pass labels= to `sfm.load` with the names in their "
            "order; the file is not read then."
        )
        raise ValueError(msg)
    return [by_number[number] for number in range(len(by_number))]


def _checked(names: list[str], n_labels: int, directory: Path, source: str) -> list[str]:
    if len(names) != n_labels:
        msg = (
            f"{source} names {len(names)} labels, but the output layer of {str(directory)!r} has {n_labels}. Pass labels= "
            "to `sfm.load` with one name for each output, in their order."
        )
        raise ValueError(msg)
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        msg = f"{source} names {twice!r} twice. Pass labels= to `sfm.load` with a name of its own for each output."
        raise ValueError(msg)
    return names
