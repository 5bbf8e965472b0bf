from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sfm.nn._layers import backbone_layers

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from sfm.nn import CellModelWithHead

Freeze = Literal["embeddings", "backbone"] | int


def freeze_weights(network: CellModelWithHead, freeze: Freeze) -> None:
    """Keep some weights as they are in training.

    Parameters
    ----------
    network
        A model of :mod:`sfm.nn` with a head.
    freeze
        `"embeddings"`: those of genes, values and token types. A number: the embeddings, and that many layers from the
        bottom. `"backbone"`: everything but the head, and the pooling if that has weights.

    Raises
    ------
    ValueError
        If `freeze` is none of these, or the backbone has fewer layers.
    """
    cell = network.cell
    match freeze:
        case "embeddings":
            frozen: list[nn.Module] = [cell.embedder]
        case "backbone":
            # Pooling that is learnt belongs to what is trained; frozen, its query would stay at the mean.
            frozen = [cell.embedder, cell.backbone]
        case int() if not isinstance(freeze, bool):
            frozen = [cell.embedder, *_lowest_layers(cell.backbone, freeze)]
        case _:
            msg = f"Unknown freeze={freeze!r}. Choose 'embeddings', 'backbone', or a number of layers."
            raise ValueError(msg)
    for module in frozen:
        module.requires_grad_(requires_grad=False)


def _lowest_layers(backbone: PreTrainedModel, n: int) -> list[nn.Module]:
    layers = backbone_layers(backbone)
    if not 0 <= n <= len(layers):
        msg = f"freeze={n!r}, but the backbone has {len(layers)} layers. Pass a number from 0 to {len(layers)}."
        raise ValueError(msg)
    # What stands before the layers (positions, their norm) is frozen with them.
    before = [module for name, module in backbone.named_children() if "embed" in name]
    return [*before, *layers[:n]]
