from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sfm.checkpoints._resolve import resolve_model
from sfm.model._adapt import changed_config, has_head_of, labels_of, new_labels, pooling_for_labels
from sfm.model._evaluation import LabelEvaluation
from sfm.model._network import Backbone, cell_config, plain_backbone
from sfm.model._registry import refuse_other_registry, set_up, split_setup
from sfm.model._transfer import transfer_weights
from sfm.train._classification import ClassificationModule, ClassificationPlan
from sfm.train._lora import has_lora
from sfm.train._samples import SampleClassificationModule, SampleDataSplitter
from sfm.train._splitter import LabeledDataSplitter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData

    from sfm.checkpoints import PretrainedCells
    from sfm.model._loss_weights import LossWeights
    from sfm.nn._config import HeadInitializer, Pooling, SamplePoolingKind, SequenceEncoding
    from sfm.train._freeze import Freeze

_BATCH_SIZE, _SAMPLES_PER_MINIBATCH = 32, 4

# Learning rates and passes for fine-tuning the bundled model on some hundreds of cells of pbmc3k.
_BODY_RATE, _LORA_RATE, _HEAD_RATE = 3e-4, 3e-3, 1e-2
_CELLS_SEEN, _FEWEST_AND_MOST_EPOCHS = 20_000, (3, 10)


class CellClassifier(LabelEvaluation):
    """Classifier of cells, or of samples: a transformer that learns labels from scratch or from a pretrained model.

    Token vectors may go through a second, recurrent or transformer, encoder; pooling makes a vector of each cell, and
    feed-forward layers turn it into probabilities of the labels. After training these are calibrated by a temperature on
    the validation cells (Guo et al. 2017), and the network remembers where its training cells lie, so that it can tell
    how unlike them a new cell is (Lee et al. 2018).

    With `sample_key`, a sample such as a donor is a list of cells with one label, and a second pooling says how much
    each of its cells counts (attention-based multiple instance learning, Ilse et al. 2018).

    Parameters
    ----------
    adata
        Data that :meth:`setup_anndata` was called on.
    registry
        Registry of a saved model, when loading without data.
    backbone
        A model type of transformers, see :func:`sfm.get.backbones`, or a whole configuration of one.
    hidden_size
        Width of the backbone, and of a cell's vector.
    num_hidden_layers
        Layers of the backbone.
    num_attention_heads
        Attention heads per layer.
    pooling
        How token vectors become the cell's vector.
    sequence_encoder
        Network that token vectors go through before they are pooled: `"lstm"`, `"gru"` or `"transformer"`.
    feedforward_sizes
        Widths of hidden layers between the cell's vector and the labels.
    dropout
        Dropout of the head; that of the backbone is a setting of the backbone.
    label_smoothing
        Share of the target probability that is spread over all labels (Szegedy et al. 2016).
    loss_weights
        Weights of labels in the loss, where those that are not named have 1: `{"rare type": 5.0}`. `"balanced"`: in
        inverse proportion to how often they occur.
    head_initializer
        How the weights of the head are drawn.
    sample_pooling
        With `sample_key`, how vectors of cells become the sample's: their `"mean"`, the `"max"` per dimension, or
        `"attention"`, which learns weights.
    lora
        Train low-rank adapters and the head instead of all weights, as for :class:`MaskedCellModel`.
    freeze
        Weights that stay as they are, as for :class:`MaskedCellModel`; `"backbone"` leaves the head. Parts that are
        frozen have no dropout in training.
    config
        Dictionary of a complete :class:`sfm.nn.CellConfig`, instead of the sizes and of the settings of the head.
    backbone_kwargs
        Further settings of the backbone, for example `hidden_dropout_prob=0.0`.

    Raises
    ------
    ValueError
        If `loss_weights` names what is no label, or a setting of the network is unknown.

    Examples
    --------
    >>> import sfm
    >>> adata = sfm.datasets.toy_cells()
    >>> sfm.model.CellClassifier.setup_anndata(adata, labels_key="cell_type", max_length=64)
    >>> sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> model = sfm.model.CellClassifier(adata, **sizes)
    >>> model.train(max_epochs=5, accelerator="cpu", enable_progress_bar=False)
    >>> adata.obs["predicted"] = model.predict()
    >>> model.predict(soft=True).columns.to_list()
    ['type 0', 'type 1', 'type 2']
    """

    _training_plan_cls = ClassificationPlan

    def __init__(  # noqa: PLR0913
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        backbone: Backbone = "bert",
        hidden_size: int = 256,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 4,
        pooling: Pooling = "mean",
        sequence_encoder: SequenceEncoding | None = None,
        feedforward_sizes: Sequence[int] = (),
        dropout: float = 0.1,
        label_smoothing: float = 0.0,
        loss_weights: LossWeights | None = None,
        head_initializer: HeadInitializer = "normal",
        sample_pooling: SamplePoolingKind = "attention",
        lora: dict[str, Any] | None = None,
        freeze: Freeze | None = None,
        config: dict[str, Any] | None = None,
        **backbone_kwargs: Any,
    ) -> None:
        super().__init__(adata, registry)
        backbone = plain_backbone(backbone)
        feedforward_sizes = list(feedforward_sizes)
        sizes: dict[str, Any] = {
            "hidden_size": hidden_size,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": num_attention_heads,
            **backbone_kwargs,
        }
        settings: dict[str, Any] = {
            "pooling": pooling,
            "sequence_encoder": sequence_encoder,
            "feedforward_sizes": feedforward_sizes,
            "classifier_dropout": dropout,
            "label_smoothing": label_smoothing,
            "head_initializer": head_initializer,
            "sample_pooling": sample_pooling,
        }
        network = cell_config(self.tokenizer, backbone, sizes, config=config, **settings)
        network = self._with_labels(network, loss_weights)
        by_sample = self.sample_key is not None
        make_module = SampleClassificationModule if by_sample else ClassificationModule
        self._data_splitter_cls = SampleDataSplitter if by_sample else LabeledDataSplitter
        self._install(lambda: make_module(network), lora=lora, freeze=freeze)
        self.head_is_trained_ = False
        self.body_is_pretrained_ = False
        self._model_summary_string = f"{self._summary(network)}, {network.num_labels} labels"
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | PretrainedCells | Any | None,
        adata: AnnData | None = None,
        *,
        registry: dict[str, Any] | None = None,
        lora: dict[str, Any] | None = None,
        freeze: Freeze | None = None,
        extend_labels: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Make a classifier of any pretrained model, and train on from a classifier.

        The body is that of the pretrained model, and the head is new. If the pretrained model is a classifier, its
        labels come first, in their order, and with their weights.

        Parameters
        ----------
        model
            Whatever :func:`sfm.load` takes, or its result, or a model of :mod:`sfm.model`; `None` for the bundled model.
        adata
            Data to set up, with the tokenizer and vocabulary of the model.
        registry
            Instead of `adata`, the registry of a :class:`sfm.train.CellDataModule` to train on, made with
            `tokenizer=model` and `labels_key`.
        lora
            Settings of LoRA adapters to train, and the head with them, instead of all weights.
        freeze
            Weights to keep as they are, as for the class itself.
        extend_labels
            Extend a classifier by the labels of `adata` that it does not know, which are an error otherwise. What it
            says of its old labels stays the same until it is trained.
        kwargs
            Further arguments of :meth:`setup_anndata`, of which `labels_key` is needed, and of the class:
            `loss_weights`, `dropout`, `label_smoothing`, `feedforward_sizes`, ... By default a classifier's own.

        Returns
        -------
        A model to train, or, if `model` is a classifier, to predict with as well.

        Raises
        ------
        ValueError
            If there are no data, if they have labels that the classifier does not know, or weights do not fit.
        """
        setup_kwargs, options = split_setup(cls, kwargs)
        loss_weights = options.pop("loss_weights", None)
        pretrained = resolve_model(model)
        network: Any = pretrained.model
        config = changed_config(network.config.to_dict(), pooling_for_labels(network) | options)
        known = labels_of(network)
        if registry is not None:
            refuse_other_registry(registry, pretrained, adata, setup_kwargs)
        else:
            if known and adata is not None:
                new = new_labels(adata, known, **setup_kwargs) if extend_labels else []
                setup_kwargs["labels"] = [*known, *new]
            set_up(cls, adata, pretrained, **setup_kwargs)
        loaded = cls(adata, registry, config=config, lora=lora, freeze=freeze, loss_weights=loss_weights)
        transfer_weights(loaded.module.network, network, source=pretrained.name)
        loaded.is_trained_ = loaded.body_is_pretrained_ = True
        loaded.head_is_trained_ = bool(known) and has_head_of(loaded.module.network, network, n_labels=len(known))
        loaded.module.eval()
        return loaded

    def train(self, max_epochs: int | None = None, *, batch_size: int | None = None, **kwargs: Any) -> None:
        """Train on the labelled cells; see :meth:`MaskedCellModel.train`.

        One cell in ten is held out for validation, of each label in proportion. `history` has, beside the losses,
        `validation_accuracy`, `validation_macro_f1` and `validation_calibration_error` of each epoch. When training is
        over, the temperature is fitted on the validation cells, and `module.network.distance` on the training cells.

        Parameters
        ----------
        max_epochs
            Passes over the training cells. Default: for a pretrained model 10 up to 2,000 cells, and down to 3 for more;
            from scratch as for other models.
        batch_size
            Cells per minibatch, 32 by default; with `sample_key` samples per minibatch, 4 by default, of which each has
            at most `datasplitter_kwargs={"cells_per_sample": 256}` cells, drawn anew in each epoch.
        kwargs
            Further arguments of :meth:`MaskedCellModel.train`. `early_stopping=True` watches the validation loss; as in
            scvi-tools, the weights are then the last ones, not the best. `train_size` and `validation_size` are shares
            of the labelled cells. Unless `plan_kwargs` has `lr`, a pretrained body is trained with 3e-4, LoRA adapters
            with 3e-3, and the head above them with 1e-2.

        Raises
        ------
        ValueError
            If no cell has a label.
        """
        datamodule = kwargs.get("datamodule")
        self._refuse_without_labels(datamodule)
        if batch_size is None:
            batch_size = _BATCH_SIZE if self.sample_key is None else _SAMPLES_PER_MINIBATCH
        kwargs["plan_kwargs"] = self._rates(kwargs.get("plan_kwargs") or {})
        super().train(max_epochs, batch_size=batch_size, **kwargs)
        self.head_is_trained_ = True
        self._fit_confidence(datamodule)

    def _train_defaults(self, max_epochs: int | None, given: dict[str, Any]) -> dict[str, Any]:
        n_obs = self._n_obs(given)
        if max_epochs is None and n_obs is not None and self.body_is_pretrained_ and self.sample_key is None:
            max_epochs = int(np.clip(round(_CELLS_SEEN / n_obs), *_FEWEST_AND_MOST_EPOCHS))
        return {**super()._train_defaults(max_epochs, given), "early_stopping_monitor": "validation_loss"}

    def _rates(self, given: dict[str, Any]) -> dict[str, Any]:
        """Settings of the plan, with learning rates for a body that has to move little below a head that is new."""
        if not self.body_is_pretrained_ or "lr" in given:
            return given
        lr = _LORA_RATE if has_lora(self.module.network) else _BODY_RATE
        return {"lr": lr, "head_lr": _HEAD_RATE, **given}
