"""The layers of a backbone, whatever transformers calls them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel


def backbone_layers(backbone: PreTrainedModel) -> nn.ModuleList:
    """Return the layers of a backbone: the list of modules that is as long as the configuration says."""
    return _find_layers(backbone)[2]


@contextmanager
def first_layers(backbone: PreTrainedModel, hidden_layer: int) -> Iterator[None]:
    """Leave out the layers above one of the hidden states, which nobody would read.

    Parameters
    ----------
    backbone
        The backbone; one without a norm after its last layer.
    hidden_layer
        Index of the hidden state; -1 is the last.
    """
    if hidden_layer == -1:
        yield
        return
    parent, name, layers = _find_layers(backbone)
    n_kept = hidden_layer if hidden_layer >= 0 else len(layers) + 1 + hidden_layer
    if not 0 <= n_kept <= len(layers):
        msg = f"hidden_layer={hidden_layer!r}, but a backbone of {len(layers)} layers has hidden states 0 to {len(layers)}."
        raise ValueError(msg)
    setattr(parent, name, layers[:n_kept])
    try:
        yield
    finally:
        setattr(parent, name, layers)


def _find_layers(backbone: PreTrainedModel) -> tuple[nn.Module, str, nn.ModuleList]:
    n_layers = backbone.config.num_hidden_layers
    for parent in backbone.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == n_layers:
                return parent, name, child
    msg = f"Did not find the layers of a {type(backbone).__name__}; it has no list of {n_layers} modules."
    raise ValueError(msg)
