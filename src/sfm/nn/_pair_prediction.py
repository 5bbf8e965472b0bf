from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from transformers.utils import ModelOutput

from sfm._docs import MINIBATCH, doc_params
from sfm.nn._heads import PairHead
from sfm.nn._losses import mean_cross_entropy
from sfm.nn._masking import IGNORED
from sfm.nn._pairs import join_pairs
from sfm.nn._with_head import CellModelWithHead

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig

PAIR = """\
pair_input_ids
    Token ids of the partners, shape `(cells, tokens of theirs)`, where `input_ids` holds the first cells alone.
pair_attention_mask
    One where a token of the partners stands, same shape.
pair_values
    Expression values of the partners, same shape, for models with a value embedding."""


@dataclass
class PairPredictionOutput(ModelOutput):
    """Output of :class:`CellForPairPrediction`.

    `loss` is the mean over labelled pairs. `logits` has shape `(cells, 2)` with `pair_mode="joint"` (apart, together),
    `(cells,)` with `"cosine"` (the cosine similarity), and `(cells, cells)` with `"contrastive"` (cosine similarity of
    each cell with each partner, divided by the temperature). `hidden_states` and `attentions` are those of the first
    cells, or of the joined sequences.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class CellForPairPrediction(CellModelWithHead):
    """Predict whether two cells belong together: same donor, same cluster, one time step and the next.

    `config.pair_mode` says how. `"joint"` reads both cells as one sequence with token types (as BERT's next-sentence
    prediction does, Devlin et al. 2019). The others encode each cell alone and compare the vectors that :meth:`encode`
    returns: `"cosine"` draws vectors of cells that belong together towards each other and pushes others below
    `config.pair_margin`; `"contrastive"` tells the partner of each cell from the partners of all other cells in the
    minibatch (InfoNCE, van den Oord et al. 2018, both ways).

    Parameters
    ----------
    config
        The configuration; with `pair_mode="joint"` it needs `type_vocab_size=2` and a `sep_token_id`.

    Raises
    ------
    ValueError
        If the configuration lacks token types or the separator.
    """

    def __init__(self, config: CellConfig) -> None:
        if config.pair_mode == "joint":
            refuse_without_segments(config, "pair_mode='joint'")
        super().__init__(config)
        # The other modes train the cell vectors themselves.
        self.head = PairHead(config) if config.pair_mode == "joint" else None
        self.post_init()

    @doc_params(minibatch=MINIBATCH, pair=PAIR)
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        values: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        token_type_ids: Tensor | None = None,
        pair_input_ids: Tensor | None = None,
        pair_attention_mask: Tensor | None = None,
        pair_values: Tensor | None = None,
        **kwargs: Any,
    ) -> PairPredictionOutput:
        """Compare pairs of cells; with `labels` also the loss.

        Parameters
        ----------
        {minibatch}
        labels
            1 where the cells of a pair belong together, 0 where they do not, -100 where unknown, shape `(cells,)`.
        token_type_ids
            0 for the first cell and 1 for the second, where `input_ids` already holds both (see :func:`join_pairs`).
        {pair}
        kwargs
            Passed to the backbone.
        """
        minibatch = tokens_of(input_ids, attention_mask, values)
        pair = None
        if pair_input_ids is not None and pair_attention_mask is not None:
            pair = tokens_of(pair_input_ids, pair_attention_mask, pair_values)
        if self.head is not None:
            if pair is not None:
                minibatch = join_for(self.config, minibatch, pair)
            elif token_type_ids is not None:
                minibatch["token_type_ids"] = token_type_ids
            return self._forward_joint(minibatch, labels, kwargs)
        if pair is None:
            msg = (
                f"pair_mode={self.config.pair_mode!r} encodes two cells. Pass pair_input_ids= and pair_attention_mask=."
            )
            raise ValueError(msg)
        return self._forward_apart(minibatch, pair, labels, kwargs)

    def _forward_joint(
        self, minibatch: dict[str, Tensor], labels: Tensor | None, kwargs: dict[str, Any]
    ) -> PairPredictionOutput:
        output, vectors = self.read(**minibatch, **kwargs)
        logits = self.head(vectors).float()  # type: ignore[misc]
        return PairPredictionOutput(
            loss=None if labels is None else mean_cross_entropy(logits, labels),
            logits=logits,
            last_hidden_state=output.last_hidden_state,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def _forward_apart(
        self,
        minibatch: dict[str, Tensor],
        pair: dict[str, Tensor],
        labels: Tensor | None,
        kwargs: dict[str, Any],
    ) -> PairPredictionOutput:
        output, vectors = self.read(**minibatch, **kwargs)
        _, partners = self.read(**pair, **kwargs)
        first, second = (F.normalize(part.float(), dim=1) for part in (vectors, partners))
        if self.config.pair_mode == "cosine":
            logits = (first * second).sum(dim=1)
            loss = None if labels is None else _cosine_loss(logits, labels, margin=self.config.pair_margin)
        else:
            logits = first @ second.T / self.config.pair_temperature
            loss = None if labels is None else _contrastive_loss(logits, labels)
        return PairPredictionOutput(
            loss=loss,
            logits=logits,
            last_hidden_state=output.last_hidden_state,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )


def _cosine_loss(similarity: Tensor, labels: Tensor, *, margin: float) -> Tensor:
    losses = torch.where(labels == 1, 1 - similarity, (similarity - margin).clamp(min=0))
    known = labels != IGNORED
    return losses.masked_fill(~known, 0).sum() / known.sum().clamp(min=1)


def _contrastive_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """InfoNCE from cells to partners and back; pairs that do not belong together serve as contrast only."""
    diagonal = torch.arange(len(labels), device=labels.device)
    targets = torch.where(labels == 1, diagonal, IGNORED)
    return (mean_cross_entropy(logits, targets) + mean_cross_entropy(logits.T, targets)) / 2


def refuse_without_segments(config: CellConfig, why: str) -> None:
    """Raise unless two cells in one sequence can be told apart."""
    if config.type_vocab_size < 2:
        msg = f"{why} needs token types, but type_vocab_size={config.type_vocab_size!r}. Configure type_vocab_size=2."
        raise ValueError(msg)
    if config.sep_token_id is None:
        msg = f"{why} needs a separator, but sep_token_id=None. Configure sep_token_id= or eos_token_id=."
        raise ValueError(msg)


def join_for(config: CellConfig, first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join two minibatches as the configuration wants it."""
    return join_pairs(
        first,
        second,
        sep_token_id=config.sep_token_id,  # type: ignore[arg-type]  # refused at construction
        cls_token_id=config.cls_token_id,
        pad_token_id=config.pad_token_id,
        max_length=config.max_position_embeddings,
    )


def tokens_of(input_ids: Tensor, attention_mask: Tensor, values: Tensor | None) -> dict[str, Tensor]:
    """Collect a minibatch, values only where there are any."""
    minibatch = {"input_ids": input_ids, "attention_mask": attention_mask}
    return minibatch if values is None else minibatch | {"values": values}
