from __future__ import annotations

import inspect
from typing import TypeVar

T = TypeVar("T")

_MEANING = {
    "trainer": "The Lightning trainer.",
    "pl_module": "The Lightning module.",
    "outputs": "What the training step returned.",
    "batch": "The minibatch.",
    "batch_idx": "Its number within the epoch.",
    "optimizer": "The optimizer.",
    "exception": "What was raised.",
    "stage": "The trainer's stage.",
    "args": "The minibatch, what its step returned, and its number.",
}


def describe_hooks(cls: type[T]) -> type[T]:
    """Describe the parameters of Lightning's hooks, which are the same for all of them."""
    for name, function in vars(cls).items():
        if name.startswith("on_") or name == "teardown":
            listed = [parameter for parameter in inspect.signature(function).parameters if parameter != "self"]
            described = "\n".join(f"{parameter}\n    {_MEANING[parameter]}" for parameter in listed)
            function.__doc__ = f"{function.__doc__}\n\nParameters\n----------\n{described}"
    return cls
