from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional as F
from transformers.utils import ModelOutput

from sfm._docs import MINIBATCH, doc_params
from sfm.nn._heads import SpanHead
from sfm.nn._losses import mean_cross_entropy
from sfm.nn._masking import IGNORED
from sfm.nn._with_head import CellModelWithHead

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig

# Finite, since the softmax over a cell without genes would otherwise be NaN, and its gradient too.
_EXCLUDED = torch.finfo(torch.float32).min


@dataclass
class QuestionAnsweringOutput(ModelOutput):
    """Output of :class:`CellForQuestionAnswering`.

    `loss` is the mean of the cross-entropies of start and end. `start_logits` and `end_logits` have shape
    `(cells, tokens)`, with the lowest number of float32 wherever no gene stands; `logits` stacks them,
    `(cells, tokens, 2)`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class CellForQuestionAnswering(CellModelWithHead):
    """Find the span of ranked genes that answers a condition token: a contiguous programme of the cell.

    The question is part of the sequence: a special token of the vocabulary (one per condition, for example
    `"<hypoxia>"`) that :func:`insert_token` puts after `<cls>`. Padding and special tokens are never part of an answer.

    Parameters
    ----------
    config
        The configuration; `special_token_ids` lists the condition tokens too.
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        self.head = SpanHead(config)
        self.post_init()

    @doc_params(minibatch=MINIBATCH)
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        values: Tensor | None = None,
        labels: None = None,
        *,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        **kwargs: Any,
    ) -> QuestionAnsweringOutput:
        """Score starts and ends; with both positions also the loss.

        Parameters
        ----------
        {minibatch}
        labels
            Unused: the answer is given by its two ends.
        start_positions
            Column of the first gene of the answer, -100 if there is none, shape `(cells,)`. A column where no gene
            stands counts as none.
        end_positions
            Column of the last gene of the answer, in the same way.
        kwargs
            Passed to the backbone.
        """
        output = self.cell(input_ids, attention_mask, values, **kwargs)
        genes = self.cell.is_gene(input_ids, attention_mask)
        start, end = (logits.masked_fill(~genes, _EXCLUDED) for logits in self.head(output.last_hidden_state))
        loss = None
        if start_positions is not None and end_positions is not None:
            targets = (_known(start_positions, genes), _known(end_positions, genes))
            loss = (mean_cross_entropy(start, targets[0]) + mean_cross_entropy(end, targets[1])) / 2
        return QuestionAnsweringOutput(
            loss=loss,
            logits=torch.stack([start, end], dim=-1),
            start_logits=start,
            end_logits=end,
            last_hidden_state=output.last_hidden_state,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )


class Spans(NamedTuple):
    """Answers of some cells: columns of the first and last gene, -1 without one, and the sum of their logits."""

    start: Tensor
    end: Tensor
    score: Tensor


def best_spans(start_logits: Tensor, end_logits: Tensor, *, max_genes: int | None = None) -> Spans:
    """Find the span of each cell with the highest sum of start and end logits, where the end is not before the start.

    Parameters
    ----------
    start_logits
        Start logits of :class:`CellForQuestionAnswering`, shape `(cells, tokens)`.
    end_logits
        End logits, same shape.
    max_genes
        Most genes of an answer.

    Examples
    --------
    >>> import torch
    >>> from sfm.nn import best_spans
    >>> spans = best_spans(torch.tensor([[0.0, 1.0, 5.0]]), torch.tensor([[9.0, 4.0, 2.0]]))
    >>> spans.start.item(), spans.end.item()
    (0, 0)
    """
    width = start_logits.shape[1] if max_genes is None else max_genes
    padded = F.pad(start_logits.float(), (width - 1, 0), value=_EXCLUDED)
    # The best start among the `width` columns up to each end.
    best, column = F.max_pool1d(padded, width, stride=1, return_indices=True)
    possible = (best > _EXCLUDED) & (end_logits > _EXCLUDED)
    total = (best + end_logits.float()).masked_fill(~possible, float("-inf"))
    score, end = total.max(dim=1)
    start = column.gather(1, end.unsqueeze(1)).squeeze(1) - (width - 1)
    none = torch.isneginf(score)
    return Spans(start.masked_fill(none, -1), end.masked_fill(none, -1), score)


def _known(positions: Tensor, genes: Tensor) -> Tensor:
    """Positions where a gene stands, -100 for all others."""
    inside = (positions >= 0) & (positions < genes.shape[1])
    column = positions.clamp(min=0, max=genes.shape[1] - 1)
    stands = genes.gather(1, column.unsqueeze(1)).squeeze(1)
    return torch.where(inside & stands, positions, IGNORED)
