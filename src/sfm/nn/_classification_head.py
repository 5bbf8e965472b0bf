from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from sfm.nn._sample_pooling import SamplePooling
from sfm.nn._sequence_encoder import sequence_encoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from sfm.nn._config import CellConfig

# Logit by which a new label is less likely than the average of the old ones, or in itself where labels do not compete.
_BELOW_AVERAGE = 1.0
_UNLIKELY = 4.0
#: Value of `classifier_layers` in `CellConfig.architecture_settings`, for hidden layers like those of scGPT.
RELU_AND_NORM = "relu_and_norm"


class _Linear(nn.Linear):
    """A linear layer that starts as `config.head_initializer` says."""

    def _init_own_weights(self, config: CellConfig) -> None:
        match config.head_initializer:
            case "xavier_uniform":
                init.xavier_uniform_(self.weight)
            case "xavier_normal":
                init.xavier_normal_(self.weight)


class _OutputLayer(_Linear):
    """The last layer, which alone may start from zeros: hidden layers of zeros would never get a gradient."""

    def _init_own_weights(self, config: CellConfig) -> None:
        super()._init_own_weights(config)
        if config.head_initializer == "zeros":
            init.zeros_(self.weight)


class ClassificationHead(nn.Module):
    """All weights that a classifier has of its own: sequence encoder, sample pooling, feed-forward and output layer.

    They are parts of one module, so that freezing the backbone, adapters and embedding treat them alike.
    """

    def __init__(self, config: CellConfig, *, width: int) -> None:
        super().__init__()
        self.sequence_encoder = sequence_encoder(config)
        self.sample_pooling = None if config.sample_pooling is None else SamplePooling(config, config.sample_pooling)
        self.dropout = nn.Dropout(config.classifier_dropout)
        widths = [width, *config.feedforward_sizes]
        self.feedforward = nn.ModuleList(map(_Linear, widths, widths[1:]))
        self.activation: Callable[[Tensor], Tensor]
        self.activation = torch.tanh if config.feedforward_activation == "tanh" else F.gelu
        self.feedforward_norms: nn.ModuleList | None = None
        if config.architecture_settings.get("classifier_layers") == RELU_AND_NORM:
            self.activation = F.relu
            self.feedforward_norms = nn.ModuleList(map(nn.LayerNorm, widths[1:]))
        self.classifier = _OutputLayer(widths[-1], config.num_labels or 0)

    def encode_sequence(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Map token vectors `(cells, tokens, dims)` to others of that shape."""
        return hidden if self.sequence_encoder is None else self.sequence_encoder(hidden, attention_mask)

    def features(self, vectors: Tensor) -> Tensor:
        """Map `(..., dims)` to `(..., features)`, what the output layer sees."""
        vectors = self.dropout(vectors)
        for i, layer in enumerate(self.feedforward):
            vectors = self.activation(layer(vectors))
            if self.feedforward_norms is not None:
                vectors = self.feedforward_norms[i](vectors)
            vectors = self.dropout(vectors)
        return vectors

    def forward(self, vectors: Tensor) -> Tensor:
        """Map `(..., dims)` to `(..., num_labels)`."""
        return self.classifier(self.features(vectors))

    @torch.no_grad()
    def extend(self, n_labels: int, *, labels_compete: bool) -> None:
        """Add outputs after the old ones, in place."""
        if not isinstance(self.classifier, nn.Linear):
            msg = (
                f"The output layer has become a {type(self.classifier).__name__}, which cannot grow. Merge the adapters "
                "first, and keep the output layer out of their target_modules."
            )
            raise ValueError(msg)
        weight, bias = self.classifier.weight, self.classifier.bias
        if labels_compete:  # the average of the old logits never exceeds the highest of them
            new_weight = weight.mean(dim=0, keepdim=True).expand(n_labels, -1)
            new_bias = (bias.mean() - _BELOW_AVERAGE).expand(n_labels)
        else:
            new_weight, new_bias = weight.new_zeros(n_labels, weight.shape[1]), bias.new_full((n_labels,), -_UNLIKELY)
        self.classifier.weight = _grown(weight, new_weight)
        self.classifier.bias = _grown(bias, new_bias)
        self.classifier.out_features += n_labels


def _grown(old: Tensor, rows: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.cat([old.detach(), rows]), requires_grad=old.requires_grad)
