from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import initialization as init
from transformers.utils import ModelOutput

from sfm.nn._classification_head import ClassificationHead
from sfm.nn._label_settings import chooses_one_label, is_regression
from sfm.nn._losses import mean_binary_cross_entropy, mean_cross_entropy, mean_squared_error
from sfm.nn._with_head import CellModelWithHead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from sfm.nn._config import CellConfig, ProblemType
    from sfm.nn._distance import ReferenceDistance


@dataclass
class ClassifierOutput(ModelOutput):
    """Output of :class:`CellForSequenceClassification` and :class:`CellForTokenClassification`.

    `loss` is the mean over what is labelled. `logits` has shape `(cells, num_labels)`, `(samples, num_labels)` for labels
    of samples, or `(cells, tokens, num_labels)` for labels of genes. `probabilities`, of the same shape, are calibrated
    by the network's temperature; `None` for regression. `cell_weights` says how much each cell counts in its sample,
    shape `(cells,)`; `token_weights` how much each token counts in its cell with `pooling="attention"`, shape
    `(cells, tokens)`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    probabilities: Tensor | None = None
    cell_weights: Tensor | None = None
    token_weights: Tensor | None = None


class LabellingModel(CellModelWithHead):
    """A cell model that predicts labels: its head, loss, calibrated probabilities, and new labels.

    Parameters
    ----------
    config
        The configuration, with `num_labels` or `id2label`.
    """

    # Directories written before the two were there.
    _keys_to_ignore_on_load_missing = [r"^distance\.", r"^temperature$"]

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        self.head = ClassificationHead(config, width=self._width(config))
        self.distance: ReferenceDistance | None = None
        self.temperature: Tensor | None
        self.register_buffer("temperature", torch.ones(()) if chooses_one_label(config) else None)

    @staticmethod
    def _width(config: CellConfig) -> int:
        """Dims of what is labelled."""
        return config.vector_size

    def _init_own_weights(self, config: CellConfig) -> None:
        if self.temperature is not None:
            init.ones_(self.temperature)

    def features(self, vectors: Tensor) -> Tensor:
        """Run the feed-forward layers of the head.

        Parameters
        ----------
        vectors
            Vectors of cells, samples or genes, shape `(..., dims)`.

        Returns
        -------
        What the output layer sees, shape `(..., features)`, with dropout in training.
        """
        return self.head.features(vectors)

    def output_layer(self, features: Tensor, labels: Tensor | None = None) -> ClassifierOutput:
        """Run the last layer.

        Parameters
        ----------
        features
            What :meth:`features` returned, shape `(..., features)`.
        labels
            Labels, as `forward` takes them.

        Returns
        -------
        Logits and probabilities; with `labels` also the loss.
        """
        logits: Tensor = self.head.classifier(features).float()
        problem_type = self._problem_type(labels)
        return ClassifierOutput(
            loss=None if labels is None else self._loss(logits, labels, problem_type),
            logits=logits,
            probabilities=self._probabilities(logits, problem_type),
        )

    def extend_labels(self, names: Sequence[str]) -> None:
        """Add labels after the old ones, in place; logits of the old ones stay as they are.

        The weights of a new label are the average of those of the old labels and its logit one below their average, so
        that it is never the best before it has been trained (for labels that do not exclude each other, a probability of
        2 % for every cell). An optimizer made before does not know the new weights: make it anew.

        Parameters
        ----------
        names
            Names of the new labels.

        Raises
        ------
        ValueError
            If a name is there already, comes twice or is no text, the outputs are numbers, or adapters were put on the output layer.
        """
        config = self.config
        names = _refuse_unusable_names(names, config)
        if not names:
            return
        heads = [module for module in self.head.modules() if isinstance(module, ClassificationHead)]
        for head in heads:  # adapters keep the original beside the one that is trained
            head.extend(len(names), labels_compete=chooses_one_label(config))
        if self.distance is not None:
            self.distance.extend(len(names))
        if config.label_weights is not None:
            config.label_weights = [*config.label_weights, *[1.0] * len(names)]
        config.id2label = dict(enumerate([*(config.id2label or {}).values(), *names]))
        config.label2id = {name: i for i, name in config.id2label.items()}

    def _problem_type(self, labels: Tensor | None) -> ProblemType:
        if self.config.problem_type is not None:
            return self.config.problem_type
        if is_regression(self.config):
            return "regression"
        several = labels is not None and labels.is_floating_point()
        return "multi_label_classification" if several else "single_label_classification"

    def _loss(self, logits: Tensor, labels: Tensor, problem_type: ProblemType) -> Tensor:
        smoothing, weights = self.config.label_smoothing, self.config.label_weights
        match problem_type:
            case "regression":
                return mean_squared_error(logits, labels.float().reshape(logits.shape))
            case "multi_label_classification":
                return mean_binary_cross_entropy(logits, labels, label_weights=weights, label_smoothing=smoothing)
            case _:
                return mean_cross_entropy(logits, labels, label_weights=weights, label_smoothing=smoothing)

    def _probabilities(self, logits: Tensor, problem_type: ProblemType) -> Tensor | None:
        match problem_type:
            case "regression":
                return None
            case "multi_label_classification":
                return logits.sigmoid()
            case _:
                return (logits if self.temperature is None else logits / self.temperature).softmax(dim=-1)


def _refuse_unusable_names(names: Sequence[str], config: CellConfig) -> list[str]:
    if isinstance(names, str):
        msg = f"names={names!r} is a single name. Pass a list: extend_labels([{names!r}])."
        raise ValueError(msg)
    if is_regression(config):
        msg = "This model predicts numbers, so there are no labels to extend."
        raise ValueError(msg)
    known = set((config.id2label or {}).values())
    for name in names:
        if not isinstance(name, str) or not name.strip():
            msg = f"names has {name!r}, which is no name of a label. Pass text, such as extend_labels(['B', 'T'])."
            raise ValueError(msg)
        if name in known:
            msg = f"Label {name!r} is there already, or comes twice. Pass new labels alone."
            raise ValueError(msg)
        known.add(name)
    return list(names)
