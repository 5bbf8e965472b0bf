from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from scvi import settings

from sfm.checkpoints._resolve import resolve_model
from sfm.model._adapt import changed_config, has_head_of
from sfm.model._gene_labelled import GeneLabelledModel
from sfm.model._gene_labels import read_gene_labels
from sfm.model._network import Backbone, cell_config, plain_backbone
from sfm.model._registry import split_setup
from sfm.model._transfer import transfer_weights
from sfm.nn import CellForTokenClassification
from sfm.train._gene_labels import GeneLabelModule, GeneLabelPlan, GeneLabelSplitter, split_genes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData

    from sfm.checkpoints import PretrainedCells
    from sfm.model._loss_weights import LossWeights
    from sfm.nn._config import HeadInitializer, Pooling, SequenceEncoding
    from sfm.train._freeze import Freeze


class GeneClassifier(GeneLabelledModel):
    """Classifier of genes, which reads each of them in the context of its cells (Theodoris et al. 2023).

    The label of a gene, for example whether it is dosage-sensitive, is learnt at each of its tokens, and predicted as
    the average over the cells. Some genes are held out for validation, since a model that has learnt the label of a gene
    in some cells knows it in all others.

    Parameters
    ----------
    adata
        Data that :meth:`setup_anndata` was called on.
    registry
        Registry of a saved model, when loading without data.
    backbone
        A model type of transformers, see :func:`sfm.get.backbones`, or a whole configuration of one.
    hidden_size
        Width of the backbone, and of a gene's vector.
    num_hidden_layers
        Layers of the backbone.
    num_attention_heads
        Attention heads per layer.
    pooling
        How token vectors become the cell's vector, for :meth:`get_latent_representation` alone.
    sequence_encoder
        Network that token vectors go through before the head: `"lstm"`, `"gru"` or `"transformer"`.
    feedforward_sizes
        Widths of hidden layers between a gene's vector and the labels.
    dropout
        Dropout of the head; that of the backbone is a setting of the backbone.
    label_smoothing
        Share of the target probability that is spread over all labels (Szegedy et al. 2016).
    loss_weights
        Weights of labels in the loss, where those that are not named have 1: `{"rare label": 5.0}`. `"balanced"`: in
        inverse proportion to their numbers of genes.
    head_initializer
        How the weights of the head are drawn.
    lora
        Train low-rank adapters and the head instead of all weights, as for :class:`MaskedCellModel`.
    freeze
        Weights that stay as they are, as for :class:`MaskedCellModel`; `"backbone"` leaves the head.
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
    >>> adata.var["kind"] = ["ribosomal" if name.startswith("RP") else "other" for name in adata.var_names]
    >>> sfm.model.GeneClassifier.setup_anndata(adata, gene_labels_key="kind", max_length=64)
    >>> sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> model = sfm.model.GeneClassifier(adata, **sizes)
    >>> model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    >>> model.predict_genes(soft=True).columns.to_list()
    ['other', 'ribosomal']
    """

    takes_datamodules = False  # labels of genes are in `var`
    _data_splitter_cls = GeneLabelSplitter
    _training_plan_cls = GeneLabelPlan

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
        head: dict[str, Any] = {
            "pooling": pooling,
            "sequence_encoder": sequence_encoder,
            "feedforward_sizes": feedforward_sizes,
            "classifier_dropout": dropout,
            "label_smoothing": label_smoothing,
            "head_initializer": head_initializer,
        }
        network = self._with_labels(cell_config(self.tokenizer, backbone, sizes, config=config, **head), loss_weights)
        self._install(lambda: GeneLabelModule(network), lora=lora, freeze=freeze)
        self.head_is_trained_ = False
        self._model_summary_string = f"{self._summary(network)}, {network.num_labels} labels of genes"
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def from_pretrained(  # type: ignore[override]  # labels of genes need an AnnData
        cls,
        model: str | Path | PretrainedCells | Any | None,
        adata: AnnData,
        *,
        lora: dict[str, Any] | None = None,
        freeze: Freeze | None = None,
        **kwargs: Any,
    ) -> Self:
        """Make a classifier of genes from any pretrained model, or train on from one.

        The body is that of the pretrained model, and the head is new. If the pretrained model is a classifier of genes
        that knows all labels of `adata`, its head and its labels are taken as well.

        Parameters
        ----------
        model
            Whatever :func:`sfm.load` takes, or its result, or a model of :mod:`sfm.model`; `None` for the bundled model.
        adata
            Data to set up, with the tokenizer and vocabulary of the model.
        lora
            Settings of LoRA adapters to train, and the head with them, instead of all weights.
        freeze
            Weights to keep as they are, as for the class itself.
        kwargs
            Further arguments of :meth:`setup_anndata`, of which `gene_labels_key` or `gene_labels` is needed, and of the
            class: `loss_weights`, `dropout`, `label_smoothing`, `feedforward_sizes`, ...

        Returns
        -------
        A model to train, or, if `model` is a classifier of these labels, to predict with as well.

        Raises
        ------
        ValueError
            If weights do not fit.
        """
        setup_kwargs, options = split_setup(cls, kwargs)
        loss_weights = options.pop("loss_weights", None)
        pretrained = resolve_model(model)
        network: Any = pretrained.model
        config = changed_config(network.config.to_dict(), options)
        known = _labels_of(network)
        if known and "labels" not in setup_kwargs:
            _, occurring = read_gene_labels(adata, pretrained.vocabulary, **setup_kwargs)
            setup_kwargs["labels"] = known if set(occurring) <= set(known) else None
        cls.setup_anndata(adata, tokenizer=pretrained, **setup_kwargs)
        loaded = cls(adata, config=config, lora=lora, freeze=freeze, loss_weights=loss_weights)
        transfer_weights(loaded.module.network, network, source=pretrained.name)
        loaded.is_trained_ = True
        loaded.head_is_trained_ = loaded.labels == known and has_head_of(
            loaded.module.network, network, n_labels=len(known)
        )
        loaded.module.eval()
        return loaded

    def train(
        self,
        max_epochs: int | None = None,
        *,
        train_size: float = 0.9,
        validation_size: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Train on the labelled genes; see :meth:`MaskedCellModel.train`.

        One gene in ten is held out for validation, of each label in proportion; :attr:`gene_labels` says which. All
        cells are trained on. `history` has, beside the losses, `validation_accuracy`, `validation_macro_f1` and
        `validation_calibration_error` of the validation genes, computed on a tenth of the cells, where a gene counts
        once per cell. What the average over the cells is worth can be seen by comparing :meth:`predict_genes` with
        :attr:`gene_labels`.

        Parameters
        ----------
        max_epochs
            Passes over the cells.
        train_size
            Share of the labelled genes to train on; 1 to validate nothing.
        validation_size
            Share of the labelled genes to validate with. Default: all others.
        kwargs
            Further arguments of :meth:`MaskedCellModel.train`. `early_stopping=True` watches the validation loss; as in
            scvi-tools, the weights are then the last ones, not the best.

        Raises
        ------
        ValueError
            If the shares are no shares, or no labelled gene is in any cell.
        """
        train_labels, validation_labels = split_genes(
            self._codes(), train_size=train_size, validation_size=validation_size, seed=settings.seed
        )
        self._refuse_unseen(train_labels)
        module: Any = self.module
        module.set_labels(train_labels, validation_labels)
        if not (validation_labels >= 0).any():
            kwargs["train_size"] = 1.0
        super().train(max_epochs, **kwargs)
        if self.module is not module:  # rebuilt after sharded training
            self.module.set_labels(train_labels, validation_labels)
        self.head_is_trained_ = True

    def _train_defaults(self, max_epochs: int | None, given: dict[str, Any]) -> dict[str, Any]:
        return {**super()._train_defaults(max_epochs, given), "early_stopping_monitor": "validation_loss"}

    def _refuse_unseen(self, train_labels: Any) -> None:
        """Raise if none of the genes to learn from is in any cell."""
        if not (train_labels[self._cells(None).input_ids] >= 0).any():
            n = int((train_labels >= 0).sum())
            msg = f"None of the {n} labelled genes to train on is among the tokens of any cell. Raise max_length, or label others."
            raise ValueError(msg)

    def _lora_settings(self, network: Any, lora: dict[str, Any]) -> dict[str, Any]:
        """Train the head beside the adapters, and save it with them."""
        return {"modules_to_save": ["head"], **lora}


def _labels_of(network: Any) -> list[str]:
    """Labels of a network that chooses one of several for each gene, none for any other."""
    chooses = isinstance(network, CellForTokenClassification) and network.temperature is not None
    return list(network.config.id2label.values()) if chooses else []
