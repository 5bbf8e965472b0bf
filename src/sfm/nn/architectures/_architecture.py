from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from sfm.nn._config import CellConfig, Pooling

    MakeModule = Callable[[CellConfig], nn.Module]


@dataclass(frozen=True)
class Architecture:
    """Where a published model differs from sfm's own: functions that make modules of a configuration.

    The backbone is not among them: `CellConfig.backbone_config` says which it is, as ever. What else a model needs to
    know, such as the width of its gene table, is in `CellConfig.architecture_settings`.
    """

    embedder: MakeModule | None = None
    """Makes what maps `(input_ids, values, token_type_ids)` to token embeddings, shape `(cells, tokens, hidden_size)`;
    its attribute `genes` is the table of genes, and its method `gene_vectors` maps token ids to what genes are before any
    context, unless that is the table. `None`: :class:`CellEmbedder`."""
    readout: MakeModule | None = None
    """Makes what maps `(hidden, input_ids, attention_mask)` to cell vectors, for `pooling="published"`."""
    label_pooling: Pooling | None = None
    """How cells are pooled by default to learn labels, where vectors of the readout leave a classifier little to see,
    such as those of length one. `None`: as they are embedded."""
    vector_size: Callable[[CellConfig], int] | None = None
    """Dims of the vectors that the readout makes. `None`: those of the backbone."""
    gene_readout: MakeModule | None = None
    """Makes what maps `(hidden, input_ids, attention_mask)` to vectors of genes in context, shape `(genes, dims)`, and
    their token ids, shape `(genes,)`. `None`: the hidden states of tokens that are genes."""
    gene_vectors: Callable[..., tuple[Tensor, Tensor] | None] | None = None
    """Maps `(model, input_ids, attention_mask, values)` to the same two, where hidden states alone do not tell them; or to
    `None` if this model has none of its own."""
    minibatch_size: int | None = None
    """Cells of a minibatch by default, for models whose cost does not grow with the genes of a cell."""
    gene_head: MakeModule | None = None
    """Makes what maps `(hidden, gene_table)` to logits of all tokens. `None`: :class:`GenePredictionHead`."""
    value_head: MakeModule | None = None
    """Makes what maps `(hidden, input_ids)` to expected values. `None`: :class:`ValueHead`."""
    next_gene_loss: Callable[..., Tensor] | None = None
    """Maps `(model, gene_loss, hidden, input_ids, attention_mask, values, is_predicted)` to the loss of a model that predicts
    more than next genes; `gene_loss` is their mean cross-entropy, and `is_predicted` says of each token but the first whether
    it is among them, shape `(cells, tokens - 1)`. `None`: the cross-entropy alone."""
    negative_log_likelihood: Callable[..., Tensor] | None = None
    """Maps `(model, input_ids, attention_mask, values)` to the mean negative log-likelihood of a gene's count in each
    cell, in nats, shape `(cells,)`; NaN for a cell without genes."""
