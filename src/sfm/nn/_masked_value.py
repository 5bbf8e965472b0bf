from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import ModelOutput

from sfm._docs import MINIBATCH, doc_params
from sfm.nn._heads import value_head
from sfm.nn._likelihood import negative_binomial_log_likelihood, zero_inflated_log_likelihood
from sfm.nn._losses import mean_over_known, mean_squared_error
from sfm.nn._with_head import CellModelWithHead

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig


@dataclass
class MaskedValueOutput(ModelOutput):
    """Output of :class:`CellForMaskedValue`.

    `loss` is the mean over hidden values of the squared error, or of the negative log-likelihood in nats. `logits` holds
    the expected values, in the units of the labels; it has shape `(hidden values,)` in row order when labels were given
    and the configuration says `sparse_prediction`, else `(cells, tokens)`. Of the same shape, with a likelihood of
    counts, are `dispersion` (inverse overdispersion of the negative binomial) and `zero_probability` (of the additional
    zeros).
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    dispersion: Tensor | None = None
    zero_probability: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class CellForMaskedValue(CellModelWithHead):
    """Predict the hidden expression of genes that are themselves visible, from the rest of the cell.

    `config.value_likelihood` says how. `"mse"` fits whatever the values are: the log-normalised expression of
    :class:`sfm.tokenizers.ValueTokenizer`, or the bins of :class:`sfm.tokenizers.BinTokenizer`. `"nb"` and `"zinb"`
    (as in scVI, Lopez et al. 2018) need counts as labels: pass them to :func:`mask_values`, which takes for example what
    :func:`counts_from_values` returns.

    Parameters
    ----------
    config
        The configuration, with a value embedding.

    Raises
    ------
    ValueError
        If the configuration has no value embedding.
    """

    def __init__(self, config: CellConfig) -> None:
        if config.value_embedding is None:
            msg = (
                "CellForMaskedValue predicts expression values, but value_embedding=None. Tokenize with 'values' or "
                "'bins', and make the configuration with CellConfig.for_tokenizer."
            )
            raise ValueError(msg)
        super().__init__(config)
        self.head = value_head(config)
        self.post_init()

    @doc_params(minibatch=MINIBATCH)
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        values: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        library_size: Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedValueOutput:
        """Predict expression; with `labels` also the loss.

        Parameters
        ----------
        {minibatch}
        labels
            True values at hidden positions, NaN elsewhere, same shape (see :func:`mask_values`); counts with the
            likelihoods of counts.
        library_size
            Counts of each cell, shape `(cells,)`, for the likelihoods of counts. By default visible values and labels
            are summed, which is right where the values are counts themselves.
        kwargs
            Passed to the backbone.
        """
        output = self.cell(input_ids, attention_mask, values, **kwargs)
        hidden, genes = output.last_hidden_state, input_ids
        size = _library_size(attention_mask, values, labels, library_size).expand_as(input_ids)
        if labels is not None and self.config.sparse_prediction:
            chosen = ~torch.isnan(labels)
            hidden, genes, size, labels = hidden[chosen], genes[chosen], size[chosen], labels[chosen]
        value, log_dispersion, zero_logits = self.head(hidden, genes)
        expected, log_mean = value, value
        if log_dispersion is not None:
            log_mean = value + size.log()
            expected = log_mean.exp()
        if zero_logits is not None:
            expected = expected * torch.sigmoid(-zero_logits)
        return MaskedValueOutput(
            loss=None if labels is None else _loss(labels, log_mean, log_dispersion, zero_logits),
            logits=expected,
            dispersion=None if log_dispersion is None else log_dispersion.exp(),
            zero_probability=None if zero_logits is None else torch.sigmoid(zero_logits),
            last_hidden_state=output.last_hidden_state,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )


def _library_size(attention_mask: Tensor, values: Tensor | None, labels: Tensor | None, given: Tensor | None) -> Tensor:
    """Library sizes as a column, shape `(cells, 1)`, one or more."""
    if given is None:
        parts = [tensor.float().nan_to_num().clamp(min=0) for tensor in (values, labels) if tensor is not None]
        given = (sum(parts, torch.zeros(())) * attention_mask).sum(dim=1)
    return given.float().clamp(min=1).unsqueeze(1)


def _loss(labels: Tensor, value: Tensor, log_dispersion: Tensor | None, zero_logits: Tensor | None) -> Tensor:
    if log_dispersion is None:
        return mean_squared_error(value, labels)
    counts = labels.float().nan_to_num()
    if zero_logits is None:
        likelihood = negative_binomial_log_likelihood(counts, value, log_dispersion)
    else:
        likelihood = zero_inflated_log_likelihood(counts, value, log_dispersion, zero_logits)
    return mean_over_known(-likelihood, labels)
