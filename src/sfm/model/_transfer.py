from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from sfm import _logging as logg
from sfm.checkpoints._weights import load_weights
from sfm.nn import CellForSequenceClassification, CellForTokenClassification
from sfm.nn._label_settings import chooses_one_label, is_regression
from sfm.train._lora import base_weights, has_lora, merged, without_adapter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from sfm.nn import CellConfig, CellModel, CellModelWithHead

    Weights = dict[str, Tensor]

_CLASSIFIERS = (CellForSequenceClassification, CellForTokenClassification)
# What has a row per label.
_ROWS = ("head.classifier.weight", "head.classifier.bias", "distance.means", "distance.has_cells")
# What the head of a classifier means depends on these.
_HEAD_SETTINGS = ("problem_type", "pooling", "sequence_encoder", "sample_pooling", "feedforward_activation")
# Settings of a backbone that say nothing about what it computes from its weights. The shapes of weights hold the rest.
_NO_MATTER = {
    "_attn_implementation",
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "chunk_size_feed_forward",
    "dtype",
    "id2label",
    "initializer_range",
    "label2id",
    "max_position_embeddings",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "transformers_version",
    "use_cache",
}


def transfer_weights(
    network: CellModelWithHead, pretrained_network: CellModelWithHead | CellModel, *, source: str
) -> None:
    """Load the body of any model of :mod:`sfm.nn` into a network with another head, in place.

    The body must fit completely. Weights of pooling by attention are taken if both models have them, and stay as
    initialised otherwise. The head stays as initialised, unless the pretrained network is a classifier of the same class
    and `network` has all of its labels: then its head is taken, the rows of the output layer by name, with temperature
    and distance. New labels start as in :meth:`~sfm.nn.CellForSequenceClassification.extend_labels`.

    Parameters
    ----------
    network
        The network to fill, with or without LoRA adapters.
    pretrained_network
        The network to take from.
    source
        Name of the latter, for messages.

    Raises
    ------
    ValueError
        If weights of the body are missing, left over or of another shape, or the backbones are configured differently.
        Nothing is changed then.
    """
    _refuse_other_backbone(network.config, pretrained_network.config, source=source)
    pretrained: Any = pretrained_network
    if has_lora(pretrained):
        pretrained = merged(pretrained)
    own = {without_adapter(name): tensor for name, tensor in network.state_dict().items() if ".lora_" not in name}
    body = {f"cell.{name}": tensor for name, tensor in getattr(pretrained, "cell", pretrained).state_dict().items()}
    initial = {name: tensor for name, tensor in own.items() if _may_be_new(name)}
    taken = {name: tensor for name, tensor in body.items() if not _may_be_new(name) or name in own}
    head = _head_of(pretrained, network, {name: own[name] for name in own if not name.startswith("cell.")})
    weights = initial | taken | head
    load_weights(network, base_weights(network, weights) if has_lora(network) else weights, source=source)
    logg.hint(f"weights of {source!r}: {len(taken)} of the body and {len(head)} of the head were taken")


def _may_be_new(name: str) -> bool:
    """Whether a weight may be one that the pretrained network does not have."""
    return not name.startswith("cell.") or name.startswith("cell.attention_pooling.")


def _head_of(pretrained: Any, network: Any, own: Mapping[str, Tensor]) -> Weights:
    """Weights of a classifier's head that a network can take, by its own names."""
    if not isinstance(network, _CLASSIFIERS) or type(pretrained) is not type(network):
        return {}
    old, labels = _labels(pretrained.config), _labels(network.config)
    same_labels = old == labels if is_regression(network.config) else set(old) <= set(labels)
    if not same_labels or any(
        getattr(pretrained.config, key) != getattr(network.config, key) for key in _HEAD_SETTINGS
    ):
        return {}
    weights = _with_labels(pretrained, old, labels)
    fits = weights.keys() == own.keys() and all(weights[name].shape == tensor.shape for name, tensor in own.items())
    return weights if fits else {}


def _with_labels(pretrained: Any, old: list[str], labels: list[str]) -> Weights:
    """Weights of a classifier's head, with rows for these labels in this order."""
    added = [label for label in labels if label not in old]
    head, distance = deepcopy(pretrained.head), deepcopy(pretrained.distance)
    if added:
        head.extend(len(added), labels_compete=chooses_one_label(pretrained.config))
    weights: Weights = {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    if distance is not None:
        distance.extend(len(added))
        weights |= {f"distance.{name}": tensor for name, tensor in distance.state_dict().items()}
    if pretrained.temperature is not None:
        weights["temperature"] = pretrained.temperature
    rows = [[*old, *added].index(label) for label in labels]
    return weights | {name: weights[name][rows] for name in _ROWS if name in weights}


def _labels(config: CellConfig) -> list[str]:
    return list((config.id2label or {}).values())


def _refuse_other_backbone(config: CellConfig, pretrained: CellConfig, *, source: str) -> None:
    """Raise where the same weights would compute something else, for example with causal attention."""
    ours, theirs = config.backbone_config.to_dict(), pretrained.backbone_config.to_dict()
    settings = {key for key in ours.keys() & theirs.keys() if key not in _NO_MATTER and "dropout" not in key}
    others = sorted(key for key in settings if ours[key] != theirs[key])
    if others:
        shown = ", ".join(f"{key}={ours[key]!r} instead of {theirs[key]!r}" for key in others[:3])
        msg = (
            f"The backbone is configured otherwise than that of {source!r}: {shown}. Pass the configuration of the "
            "pretrained model, or leave the sizes out."
        )
        raise ValueError(msg)
