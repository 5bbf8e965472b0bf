from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers.utils import ModelOutput

from sfm._docs import MINIBATCH, doc_params
from sfm.nn._heads import gene_head
from sfm.nn._losses import mean_cross_entropy
from sfm.nn._masking import IGNORED
from sfm.nn._with_head import CellModelWithHead

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig


@dataclass
class MaskedCellOutput(ModelOutput):
    """Output of :class:`CellForMaskedLM`.

    `loss` is the mean cross-entropy in nats over hidden genes. `logits` has shape `(hidden genes, vocab_size)` in row
    order when labels were given and the configuration says `sparse_prediction`, else `(cells, tokens, vocab_size)`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class CellForMaskedLM(CellModelWithHead):
    """Predict hidden genes from the rest of the cell.

    The output weights are the gene embedding itself, with a bias per gene.

    Parameters
    ----------
    config
        The configuration.
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        self.head = gene_head(config)
        self.post_init()

    @doc_params(minibatch=MINIBATCH)
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        values: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedCellOutput:
        """Predict genes; with `labels` also the loss.

        Parameters
        ----------
        {minibatch}
        labels
            True token ids at hidden genes, -100 elsewhere, same shape (see :func:`mask_tokens`).
        kwargs
            Passed to the backbone.
        """
        output = self.cell(input_ids, attention_mask, values, **kwargs)
        hidden = output.last_hidden_state
        if labels is not None and self.config.sparse_prediction:
            chosen = labels != IGNORED
            hidden, labels = hidden[chosen], labels[chosen]
        logits = self.head(hidden, self.cell.embedder.genes.weight)
        return MaskedCellOutput(
            loss=None if labels is None else mean_cross_entropy(logits, labels),
            logits=logits,
            last_hidden_state=output.last_hidden_state,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )
