"""Labels of cells and of samples, and of genes in their cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfm._docs import MINIBATCH, doc_params
from sfm.nn._distance import ReferenceDistance
from sfm.nn._label_settings import chooses_one_label
from sfm.nn._labelling import ClassifierOutput, LabellingModel

if TYPE_CHECKING:
    from torch import Tensor

    from sfm.nn._config import CellConfig, Pooling
    from sfm.nn._pretrained import CellModelOutput

SAMPLES = """\
sample_index
    Number of the sample of each cell, shape `(cells,)`, where labels belong to samples; needs `config.sample_pooling`."""


class CellForSequenceClassification(LabellingModel):
    """Predict labels of cells: one of several, any of several, or numbers.

    Tokens go through embedder and backbone, an optional sequence encoder, pooling (:meth:`encode` stops here), where
    labels belong to samples a second pooling of their cells (:meth:`pool_samples`), feed-forward layers
    (:meth:`forward_tokens` stops here), and :meth:`output_layer`.

    `config.problem_type` says what is predicted, and where it is `None` the labels do: one output means `"regression"`,
    whole numbers mean `"single_label_classification"` (assumed without labels), other numbers
    `"multi_label_classification"`.

    Where labels exclude each other, two more things are kept with the weights. The buffer `temperature` is what logits
    are divided by for the probabilities, so that those can be calibrated on held-out cells (Guo et al. 2017); `logits`
    themselves are not divided. The sub-module `distance`, a :class:`ReferenceDistance`, says how far a cell is from those
    that the network was trained on.

    The loss is the mean over labelled cells. With `config.label_weights` each counts by the weight of its label, and the
    sum is still divided by the number of cells, unlike in torch, so that parts of a minibatch add up.

    Parameters
    ----------
    config
        The configuration, with `num_labels` or `id2label`.

    Examples
    --------
    >>> import torch
    >>> from sfm.nn import CellConfig, CellForSequenceClassification, backbone_config
    >>> sizes = backbone_config("bert", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, max_length=64)
    >>> model = CellForSequenceClassification(CellConfig(10, sizes, id2label={0: "B cell", 1: "T cell"})).eval()
    >>> output = model(torch.tensor([[2, 4, 5]]), torch.ones(1, 3, dtype=torch.long), labels=torch.tensor([1]))
    >>> output.probabilities.shape
    torch.Size([1, 2])
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        if chooses_one_label(config):
            self.distance = ReferenceDistance(config.num_labels or 0, config.vector_size)
        self.post_init()

    @doc_params(minibatch=MINIBATCH)
    def read(
        self, input_ids: Tensor, attention_mask: Tensor, values: Tensor | None = None, **kwargs: Any
    ) -> tuple[CellModelOutput, Tensor]:
        """Run the backbone and the sequence encoder, and pool.

        Parameters
        ----------
        {minibatch}
        kwargs
            Passed to the backbone, and `pooling` to choose another than that of the configuration.

        Returns
        -------
        The output of the cell model, with the token vectors that are pooled, and cell vectors of shape `(cells, dims)`.
        """
        pooling: Pooling | None = kwargs.pop("pooling", None)
        output = self.cell(input_ids, attention_mask, values, **kwargs)
        output.last_hidden_state = self.head.encode_sequence(output.last_hidden_state, attention_mask)
        return output, self.cell.pool(output.last_hidden_state, input_ids, attention_mask, pooling=pooling)

    @doc_params(minibatch=MINIBATCH)
    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        values: Tensor | None = None,
        *,
        pooling: Pooling | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Embed cells as the classifier sees them: after the sequence encoder, where there is one.

        Parameters
        ----------
        {minibatch}
        pooling
            Another pooling than that of the configuration.
        kwargs
            Passed to the backbone.

        Returns
        -------
        Cell vectors, shape `(cells, dims)`; zeros for a cell without tokens.
        """
        return self.read(input_ids, attention_mask, values, pooling=pooling, **kwargs)[1]

    def pool_samples(
        self, vectors: Tensor, sample_index: Tensor, *, n_samples: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Turn the vectors of cells into one vector per sample, as `config.sample_pooling` says.

        `"attention"` is the gated attention of multiple instance learning (Ilse et al. 2018). A sample depends on its own
        cells alone, in any order.

        Parameters
        ----------
        vectors
            Cell vectors, shape `(cells, dims)`.
        sample_index
            Number of the sample of each cell, counted from 0, shape `(cells,)`.
        n_samples
            Number of samples. Default: one more than the highest of `sample_index`.

        Returns
        -------
        Sample vectors, shape `(samples, dims)`, zeros for a sample without cells; and how much each cell counts in its
        sample, float32, shape `(cells,)`, which sums to one per sample. With `"max"` that is the share of the dimensions
        in which the cell is the highest.

        Raises
        ------
        ValueError
            If the configuration has no `sample_pooling`, or there is not one number from 0 upwards per cell.
        """
        if self.head.sample_pooling is None:
            msg = (
                "sample_index was given, but this model labels cells: sample_pooling=None. Configure it with "
                "sample_pooling='attention', 'mean' or 'max'."
            )
            raise ValueError(msg)
        if sample_index.shape != vectors.shape[:1] or bool((sample_index < 0).any()):
            msg = (
                f"sample_index of shape {tuple(sample_index.shape)} must have a number from 0 upwards for each of "
                f"{len(vectors)} cells. Leave cells without a sample out."
            )
            raise ValueError(msg)
        n_samples = int(sample_index.max()) + 1 if n_samples is None else n_samples
        return self.head.sample_pooling(vectors, sample_index.long(), n_samples=n_samples)

    @doc_params(minibatch=MINIBATCH, samples=SAMPLES)
    def forward_tokens(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        values: Tensor | None = None,
        *,
        sample_index: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Run everything but the last layer.

        Parameters
        ----------
        {minibatch}
        {samples}
        kwargs
            Passed to the backbone.

        Returns
        -------
        What :meth:`output_layer` sees, shape `(cells, features)`, or `(samples, features)` with `sample_index`.
        """
        _, vectors = self.read(input_ids, attention_mask, values, **kwargs)
        if sample_index is not None:
            vectors, _ = self.pool_samples(vectors, sample_index)
        return self.features(vectors)

    @doc_params(minibatch=MINIBATCH, samples=SAMPLES)
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        values: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        sample_index: Tensor | None = None,
        **kwargs: Any,
    ) -> ClassifierOutput:
        """Predict labels; with `labels` also the loss.

        Parameters
        ----------
        {minibatch}
        labels
            For one of several the number of the label, -100 if unknown, shape `(cells,)`; for any of several 0 or 1 per
            label, and for regression the numbers, NaN if unknown, shape `(cells, num_labels)`. With one number per cell
            `(cells,)` will do. With `sample_index` there is one row per sample.
        {samples}
        kwargs
            Passed to the backbone.
        """
        output, vectors = self.read(input_ids, attention_mask, values, **kwargs)
        hidden: Any = output.last_hidden_state
        cell_weights = None
        if sample_index is not None:
            vectors, cell_weights = self.pool_samples(vectors, sample_index)
        result = self.output_layer(self.features(vectors), labels)
        result.cell_weights = cell_weights
        if self.config.pooling == "attention":
            result.token_weights = self.cell.pooling_weights(hidden, input_ids, attention_mask)
        result.last_hidden_state = hidden
        result.hidden_states, result.attentions = output.hidden_states, output.attentions
        return result


class CellForTokenClassification(LabellingModel):
    """Predict a label for each gene in the context of its cell, for example its dosage sensitivity.

    The head is that of :class:`CellForSequenceClassification`, without pooling.

    Parameters
    ----------
    config
        The configuration, with `num_labels` or `id2label`.
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        self.post_init()

    @staticmethod
    def _width(config: CellConfig) -> int:
        """Dims of a gene's vector."""
        return config.hidden_size

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
        hidden = self.head.encode_sequence(output.last_hidden_state, attention_mask)
        result = self.output_layer(self.features(hidden), labels)
        result.last_hidden_state = hidden
        result.hidden_states, result.attentions = output.hidden_states, output.attentions
        return result
