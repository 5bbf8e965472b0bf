from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.utils import ModelOutput

from sfm._docs import MINIBATCH, doc_params
from sfm.nn._heads import PairHead, gene_head
from sfm.nn._losses import mean_cross_entropy
from sfm.nn._masking import IGNORED
from sfm.nn._pair_prediction import refuse_without_segments
from sfm.nn._with_head import CellModelWithHead

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig


@dataclass
class PreTrainingOutput(ModelOutput):
    """Output of :class:`CellForPreTraining`.

    `loss` is the sum of `masked_loss` and `pair_loss`, each given with its labels. `logits` are those of
    :class:`MaskedCellOutput`, `pair_logits` those of :class:`PairPredictionOutput`, shape `(cells, 2)`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    pair_logits: Tensor | None = None
    masked_loss: Tensor | None = None
    pair_loss: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class CellForPreTraining(CellModelWithHead):
    """Predict hidden genes, and whether the two cells of a sequence belong together, as BERT (Devlin et al. 2019) does.

    Pairs are drawn by :func:`sample_pairs`, joined by :func:`join_pairs` and masked by :func:`mask_tokens`, in this
    order.

    Parameters
    ----------
    config
        The configuration, with `type_vocab_size=2` and a `sep_token_id`.

    Raises
    ------
    ValueError
        If the configuration lacks token types or the separator.
    """

    def __init__(self, config: CellConfig) -> None:
        refuse_without_segments(config, "CellForPreTraining")
        super().__init__(config)
        self.head = nn.ModuleDict({"genes": gene_head(config), "pairs": PairHead(config)})
        self.post_init()

    @doc_params(minibatch=MINIBATCH)
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        values: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        token_type_ids: Tensor | None = None,
        pair_labels: Tensor | None = None,
        **kwargs: Any,
    ) -> PreTrainingOutput:
        """Predict genes and pairs; with labels also the losses.

        Parameters
        ----------
        {minibatch}
        labels
            True token ids at hidden genes, -100 elsewhere, same shape.
        token_type_ids
            0 for the first cell and 1 for the second, same shape.
        pair_labels
            1 where the cells of a pair belong together, 0 where they do not, -100 where unknown, shape `(cells,)`.
        kwargs
            Passed to the backbone.
        """
        output, vectors = self.read(input_ids, attention_mask, values, token_type_ids=token_type_ids, **kwargs)
        hidden: Any = output.last_hidden_state
        if labels is not None and self.config.sparse_prediction:
            chosen = labels != IGNORED
            hidden, labels = hidden[chosen], labels[chosen]
        logits = self.head["genes"](hidden, self.cell.embedder.genes.weight)
        pair_logits = self.head["pairs"](vectors).float()
        masked_loss = None if labels is None else mean_cross_entropy(logits, labels)
        pair_loss = None if pair_labels is None else mean_cross_entropy(pair_logits, pair_labels)
        losses = [loss for loss in (masked_loss, pair_loss) if loss is not None]
        return PreTrainingOutput(
            loss=sum(losses[1:], losses[0]) if losses else None,
            logits=logits,
            pair_logits=pair_logits,
            masked_loss=masked_loss,
            pair_loss=pair_loss,
            last_hidden_state=output.last_hidden_state,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )
