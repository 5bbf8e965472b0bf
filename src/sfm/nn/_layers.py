"""The layers of a backbone, whatever transformers calls them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from sfm.nn._read_tokens import take_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
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


@contextmanager
def tokens_after_attention(backbone: PreTrainedModel, hidden_layer: int, positions: Tensor) -> Iterator[None]:
    """Let the layer of a BERT that makes one of the hidden states leave out all but some tokens after its attention.

    Parameters
    ----------
    backbone
        The backbone.
    hidden_layer
        Index of the hidden state; -1 is the last, and 0, which no layer makes, is not possible.
    positions
        Positions of the tokens that are kept, shape `(cells, positions)`.
    """
    layer: Any = backbone_layers(backbone)[hidden_layer - 1 if hidden_layer > 0 else hidden_layer]
    hook = layer.attention.output.register_forward_pre_hook(
        lambda _, tensors: tuple(take_tokens(tensor, positions) for tensor in tensors)
    )
    try:
        yield
    finally:
        hook.remove()


def _find_layers(backbone: PreTrainedModel) -> tuple[nn.Module, str, nn.ModuleList]:
    n_layers = backbone.config.num_hidden_layers
    for parent in backbone.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == n_layers:
                return parent, name, child
    msg = f"Did not find the layers of a {type(backbone).__name__}; it has no list of {n_layers} modules."
    raise ValueError(msg)
