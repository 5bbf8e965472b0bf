from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import initialization as init

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig


def sequence_encoder(config: CellConfig) -> nn.Module | None:
    """Build the network between backbone and pooling that `config.sequence_encoder` names, if any.

    It maps token vectors `(cells, tokens, dims)` and a mask `(cells, tokens)` to token vectors of the same shape, zero at
    padding, on which padding has no influence whatever side it is on.
    """
    if config.sequence_encoder is None:
        return None
    return TransformerEncoder(config) if config.sequence_encoder == "transformer" else RecurrentEncoder(config)


class RecurrentEncoder(nn.Module):
    """A bidirectional LSTM or GRU, each direction half as wide as the token vectors."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        layer = nn.LSTM if config.sequence_encoder == "lstm" else _GRU
        width, n_layers = config.hidden_size, config.sequence_encoder_layers
        dropout = config.classifier_dropout if n_layers > 1 else 0.0
        self.layers = layer(width, width // 2, n_layers, batch_first=True, bidirectional=True, dropout=dropout)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode token vectors."""
        keep = attention_mask.bool()
        # Tokens to the front, in their order: packed sequences know padding on the right alone.
        order = (~keep).to(torch.int8).argsort(dim=1, stable=True)  # (cells, tokens)
        lengths = keep.sum(dim=1).clamp(min=1).cpu()
        packed = pack_padded_sequence(_reorder(hidden, order), lengths, batch_first=True, enforce_sorted=False)
        encoded, _ = pad_packed_sequence(self.layers(packed)[0], batch_first=True, total_length=hidden.shape[1])
        return _reorder(encoded, order.argsort(dim=1)).masked_fill(~keep.unsqueeze(-1), 0)


class _GRU(nn.GRU):
    def _init_own_weights(self, config: CellConfig) -> None:
        """Start as transformers lets an LSTM start."""
        for name, weight in self.named_parameters():
            if "bias" in name:
                init.zeros_(weight)
            else:
                init.xavier_uniform_(weight)


class TransformerEncoder(nn.Module):
    """Transformer layers that see all tokens; the backbone has told them their positions."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            config.hidden_size,
            config.num_attention_heads,
            dim_feedforward=4 * config.hidden_size,
            dropout=config.classifier_dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        norm = nn.LayerNorm(config.hidden_size)
        self.layers = nn.TransformerEncoder(
            layer, config.sequence_encoder_layers, norm=norm, enable_nested_tensor=False
        )

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode token vectors."""
        keep = attention_mask.bool()
        hidden_from = ~keep
        # A row without tokens attends to its first padding, since softmax over nothing is NaN; it is zero afterwards.
        hidden_from[:, 0] &= keep.any(dim=1)
        encoded: Tensor = self.layers(hidden, src_key_padding_mask=hidden_from)
        return encoded.masked_fill(~keep.unsqueeze(-1), 0)


def _reorder(hidden: Tensor, order: Tensor) -> Tensor:
    return hidden.gather(1, order.unsqueeze(-1).expand_as(hidden))
