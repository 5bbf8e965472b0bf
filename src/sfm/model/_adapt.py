"""What a pretrained network brings to a classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfm.model._labels import read_labels
from sfm.nn import CellForSequenceClassification
from sfm.nn.architectures import get_architecture

if TYPE_CHECKING:
    from anndata import AnnData

# Arguments of the class that settings of the network have other names for, or the same.
_HEAD = {
    "pooling": "pooling",
    "sequence_encoder": "sequence_encoder",
    "feedforward_sizes": "feedforward_sizes",
    "dropout": "classifier_dropout",
    "label_smoothing": "label_smoothing",
    "head_initializer": "head_initializer",
    "sample_pooling": "sample_pooling",
}


def labels_of(network: Any) -> list[str]:
    """Labels of a network that chooses one of several, none for any other."""
    chooses = isinstance(network, CellForSequenceClassification) and network.temperature is not None
    return list(network.config.id2label.values()) if chooses else []


def changed_config(config: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Configuration of a pretrained network with other settings of its head and its backbone."""
    changed = {**config, "backbone_config": dict(config["backbone_config"])}
    for name, value in options.items():
        if name in _HEAD:
            changed[_HEAD[name]] = list(value) if name == "feedforward_sizes" else value
        elif name in changed["backbone_config"]:
            changed["backbone_config"][name] = value
        else:
            known = ", ".join(map(repr, ["loss_weights", *_HEAD]))
            msg = (
                f"Unknown argument {name}={value!r}. Pass those of setup_anndata, {known}, or settings of the backbone."
            )
            raise TypeError(msg)
    return changed


def pooling_for_labels(network: Any) -> dict[str, Any]:
    """Pooling to learn labels with, where that of a published model is made for embedding alone."""
    config = network.config
    pooling = get_architecture(config.architecture).label_pooling
    embeds_only = config.pooling == "published" and not isinstance(network, CellForSequenceClassification)
    return {"pooling": pooling} if embeds_only and pooling is not None else {}


def has_head_of(network: Any, pretrained: Any, *, n_labels: int) -> bool:
    """Whether the output layer is that of the pretrained network."""
    own, theirs = network.head.classifier.weight[:n_labels], pretrained.head.classifier.weight
    return own.shape == theirs.shape and bool((own == theirs).all())


def new_labels(
    adata: AnnData, known: list[str], *, labels_key: str, unlabeled_category: str | int | None = None, **_: Any
) -> list[str]:
    occurring = read_labels(adata, labels_key, unlabeled_category=unlabeled_category).categories
    return [name for name in occurring if name not in known]
