"""Labels of cells, and of genes in their cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers.utils import ModelOutput

from sfm._docs import MINIBATCH, doc_params
from sfm.nn._heads import ClassificationHead
from sfm.nn._losses import mean_binary_cross_entropy, mean_cross_entropy, mean_squared_error
from sfm.nn._with_head import CellModelWithHead

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig, ProblemType


@dataclass
class ClassifierOutput(ModelOutput):
    """Output of :class:`CellForSequenceClassification` and :class:`CellForTokenClassification`.

    `loss` is the mean over what is labelled. `logits` has shape `(cells, num_labels)`, or `(cells, tokens, num_labels)`
    for labels of genes.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class CellForSequenceClassification(CellModelWithHead):
    """Predict labels of cells: one of several, any of several, or numbers.

    `config.problem_type` says which, and where it is `None` the labels do: one output means `"regression"`, whole
    numbers mean `"single_label_classification"`, other numbers `"multi_label_classification"`.

    Parameters
    ----------
    config
        The configuration, with `num_labels` or `id2label`.
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        self.head = ClassificationHead(config)
        self.post_init()

    @doc_params(minibatch=MINIBATCH)
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        values: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> ClassifierOutput:
        """Predict labels; with `labels` also the loss.

        Parameters
        ----------
        {minibatch}
        labels
            For one of several the number of the label, -100 if unknown, shape `(cells,)`; for any of several 0 or 1 per
            label, and for regression the numbers, NaN if unknown, shape `(cells, num_labels)`. With one number per cell
            `(cells,)` will do.
        kwargs
            Passed to the backbone.
        """
        output, vectors = self.read(input_ids, attention_mask, values, **kwargs)
        logits = self.head(vectors).float()
        return ClassifierOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            last_hidden_state=output.last_hidden_state,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        match self.config.problem_type or _problem_type(logits, labels):
            case "regression":
                return mean_squared_error(logits, labels.float().reshape(logits.shape))
            case "multi_label_classification":
                return mean_binary_cross_entropy(logits, labels.float())
            case _:
                return mean_cross_entropy(logits, labels)


class CellForTokenClassification(CellModelWithHead):
    """Predict a label for each gene in the context of its cell, for example its dosage sensitivity.

    Parameters
    ----------
    config
        The configuration, with `num_labels` or `id2label`.
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        self.head = ClassificationHead(config)
        self.post_init()

    @doc_params(minibatch=MINIBATCH)
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        values: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> ClassifierOutput:
        """Predict labels; with `labels` also the loss.

        Parameters
        ----------
        {minibatch}
        labels
            Number of the label of each gene, -100 where it has none and at special tokens, same shape as `input_ids`.
        kwargs
            Passed to the backbone.
        """
        output = self.cell(input_ids, attention_mask, values, **kwargs)
        logits = self.head(output.last_hidden_state)
        return ClassifierOutput(
            loss=None if labels is None else mean_cross_entropy(logits, labels),
            logits=logits,
            last_hidden_state=output.last_hidden_state,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )


def _problem_type(logits: Tensor, labels: Tensor) -> ProblemType:
    if logits.shape[-1] == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
