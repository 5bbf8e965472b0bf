"""Settings of classifiers that contradict each other are refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfm.nn._config import CellConfig


def refuse_contradicting_labels(
    *,
    num_labels: int | None = None,
    id2label: dict[Any, str] | None = None,
    label2id: dict[str, int] | None = None,
    problem_type: str | None = None,
    **_: Any,
) -> None:
    """Raise where transformers would take one and drop the other."""
    # Keys that were read from a file are strings; there `from_pretrained(..., num_labels=)` replaces the labels.
    written_by_hand = id2label if id2label and all(isinstance(number, int) for number in id2label) else None
    if written_by_hand and num_labels is not None and len(written_by_hand) != num_labels:
        msg = f"num_labels={num_labels!r}, but id2label names {len(written_by_hand)} labels. Leave num_labels out."
        raise ValueError(msg)
    if problem_type == "single_label_classification" and num_labels == 1:
        msg = f"{problem_type=} needs two labels or more, but num_labels=1. Count all labels, or choose 'regression'."
        raise ValueError(msg)
    if id2label is not None and label2id is not None:
        inverse = {label: int(number) for number, label in id2label.items()}
        if inverse != {label: int(number) for label, number in label2id.items()}:
            msg = "label2id is not the inverse of id2label. Leave label2id out."
            raise ValueError(msg)


def refuse_misfit_head(config: CellConfig) -> None:
    """Raise for a head that cannot be built, or a loss that has no meaning."""
    if not 0 <= config.label_smoothing < 1:
        msg = f"label_smoothing={config.label_smoothing!r} is not a share. Choose a number from 0 to below 1."
        raise ValueError(msg)
    if any(size < 1 for size in config.feedforward_sizes):
        msg = f"feedforward_sizes={config.feedforward_sizes!r} has a layer without outputs. Choose positive widths."
        raise ValueError(msg)
    if config.label_weights is not None:
        _refuse_misfit_weights(config.label_weights, config.num_labels or 0)
    if is_regression(config) and (config.label_smoothing or config.label_weights is not None):
        setting = "label_smoothing" if config.label_smoothing else "label_weights"
        msg = (
            f"{setting}={getattr(config, setting)!r} has no meaning for regression, which has no labels. Leave it out."
        )
        raise ValueError(msg)
    if config.sequence_encoder is not None:
        _refuse_misfit_encoder(config)


def is_regression(config: CellConfig) -> bool:
    """Whether the outputs are numbers."""
    return config.problem_type == "regression" or (config.problem_type is None and config.num_labels == 1)


def chooses_one_label(config: CellConfig) -> bool:
    """Whether one of several labels is predicted, which is assumed where the problem type is not stated."""
    return config.problem_type in (None, "single_label_classification") and (config.num_labels or 0) > 1


def _refuse_misfit_weights(weights: list[float], n_labels: int) -> None:
    if len(weights) != n_labels:
        msg = f"label_weights has {len(weights)} weights for {n_labels} labels. Pass one weight per label, in their order."
        raise ValueError(msg)
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        msg = f"label_weights={weights!r} must be finite, none of them negative, and at least one of them positive."
        raise ValueError(msg)


def _refuse_misfit_encoder(config: CellConfig) -> None:
    kind, width, n_heads = config.sequence_encoder, config.hidden_size, config.num_attention_heads
    if config.sequence_encoder_layers < 1:
        msg = f"sequence_encoder_layers={config.sequence_encoder_layers!r}: it needs a layer, or sequence_encoder=None."
        raise ValueError(msg)
    if kind != "transformer" and width % 2:
        msg = f"sequence_encoder={kind!r} shares hidden_size={width!r} between two directions. Choose an even size."
        raise ValueError(msg)
    if kind == "transformer" and width % n_heads:
        msg = (
            f"sequence_encoder={kind!r} shares hidden_size={width!r} among num_attention_heads={n_heads!r}, which does "
            "not come out even. Choose 'lstm' or 'gru', or other sizes."
        )
        raise ValueError(msg)
