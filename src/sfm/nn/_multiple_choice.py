from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import ModelOutput

from sfm.nn._heads import ChoiceHead
from sfm.nn._losses import mean_cross_entropy
from sfm.nn._masking import IGNORED
from sfm.nn._with_head import CellModelWithHead

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig


@dataclass
class MultipleChoiceOutput(ModelOutput):
    """Output of :class:`CellForMultipleChoice`.

    `loss` is the mean cross-entropy in nats over labelled cells. `logits` has shape `(cells, choices)`, with the lowest
    number of float32 for a choice without tokens. All else is per choice: `last_hidden_state` has shape
    `(cells * choices, tokens, dims)`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class CellForMultipleChoice(CellModelWithHead):
    """Choose which of some candidate cells follows, for example the outcome of a perturbation.

    Each choice is a sequence of its own. To show the cell that is followed along with its candidate, join the two with
    :func:`join_pairs`, in a model with `type_vocab_size=2`. :func:`stack_choices` makes the minibatch.

    Parameters
    ----------
    config
        The configuration.
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        self.head = ChoiceHead(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        values: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> MultipleChoiceOutput:
        """Score the choices; with `labels` also the loss.

        Parameters
        ----------
        input_ids
            Token ids, shape `(cells, choices, tokens)`.
        attention_mask
            One where a token stands, same shape; a cell with fewer choices than others has some without any token,
            which are never chosen.
        values
            Expression values, same shape, for models with a value embedding.
        labels
            Number of the right choice, shape `(cells,)`; -100 if unknown. A choice without tokens counts as unknown.
        token_type_ids
            Segment of each token, same shape, for models with token types.
        kwargs
            Passed to the backbone.
        """
        given = {"values": values, "token_type_ids": token_type_ids}
        optional = {key: tensor.flatten(0, 1) for key, tensor in given.items() if tensor is not None}
        output, vectors = self.read(input_ids.flatten(0, 1), attention_mask.flatten(0, 1), **optional, **kwargs)
        absent = attention_mask.sum(dim=2) == 0  # (cells, choices)
        logits = self.head(vectors).view(absent.shape).masked_fill(absent, torch.finfo(torch.float32).min)
        if labels is not None:
            chosen = labels.clamp(min=0).unsqueeze(1)
            labels = labels.masked_fill(absent.gather(1, chosen).squeeze(1), IGNORED)
        return MultipleChoiceOutput(
            loss=None if labels is None else mean_cross_entropy(logits, labels),
            logits=logits,
            last_hidden_state=output.last_hidden_state,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )
