from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scvi import REGISTRY_KEYS

from sfm._docs import INPUT, doc_params
from sfm.model._base import TokenModel
from sfm.model._labels import LabelsField
from sfm.model._loss_weights import LossWeights, weights_of_labels
from sfm.model._samples import SampleField, refuse_unusable_labels
from sfm.model._setup import category_fields, choose_setup_tokenizer
from sfm.nn import CellConfig
from sfm.train._splitter import SAMPLE_KEY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData

    from sfm.checkpoints import PretrainedCells
    from sfm.genes import GeneVocabulary
    from sfm.nn import CellForSequenceClassification, CellModelWithHead
    from sfm.tokenizers import Tokenizer


class LabelledModel(TokenModel):
    """A model whose data have labels, and whose network has an output for each of them."""

    head_is_trained_: bool
    body_is_pretrained_: bool

    @classmethod
    @doc_params(input=INPUT)
    def setup_anndata(  # type: ignore[override]  # noqa: PLR0913  # labels are needed
        cls,
        adata: AnnData,
        layer: str | None = None,
        *,
        labels_key: str,
        unlabeled_category: str | int | None = None,
        sample_key: str | None = None,
        labels: Sequence[str] | None = None,
        use_raw: bool = False,
        gene_symbols: str | None = None,
        tokenizer: str | Tokenizer | PretrainedCells | dict[str, Any] | None = "rank",
        vocabulary: GeneVocabulary | dict[str, Any] | None = None,
        max_length: int | None = None,
        batch_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Tokenize the counts, and register the tokens and the labels.

        Writes what :meth:`MaskedCellModel.setup_anndata` writes, `obs['_scvi_labels']` with numbers of labels, -1 for
        unlabelled cells, and `obs['_scvi_sample']` with numbers of samples.

        Parameters
        ----------
        adata
            Annotated data matrix with raw counts.
        {input}
        labels_key
            Column of `adata.obs` with the labels. Cells with NaN or an empty name are unlabelled: they are not trained
            on, but can be predicted. Whole numbers become names of classes, with a warning.
        unlabeled_category
            Label that means unlabelled as well, for example `"unknown"`.
        sample_key
            Column of `adata.obs` with the sample that a cell is from. The labels are then those of samples.
        labels
            Names of the labels in their order, for labels that do not occur in these data. Default: those that occur,
            in the order of the column's categories where it has any, and else in natural order.
        tokenizer
            As in :func:`sfm.pp.tokenize`.
        vocabulary
            As in :func:`sfm.pp.tokenize`.
        max_length
            Longest token sequence, special tokens included.
        batch_key
            Column of `adata.obs` with the biological batch.
        kwargs
            Passed to scvi-tools when a saved model is loaded.

        Raises
        ------
        KeyError
            If `labels_key` or `sample_key` names nothing.
        ValueError
            If there are fewer than two labels, labels look like measurements, are not among `labels`, or differ within
            a sample, or a cell is from no sample.
        """
        where = {"layer": layer, "use_raw": use_raw, "gene_symbols": gene_symbols}
        chosen = choose_setup_tokenizer(adata, tokenizer, vocabulary, max_length=max_length, **where)
        label_args: dict[str, Any] = {
            "unlabeled_category": unlabeled_category,
            "labels": None if labels is None else list(labels),
        }
        fields: list[Any] = [LabelsField(labels_key, **label_args), *category_fields(batch_key, None)]
        if sample_key is not None:
            fields.append(SampleField(sample_key))
        if "source_registry" not in kwargs:  # data that a saved model is loaded with need no labels
            refuse_unusable_labels(adata, labels_key, sample_key=sample_key, **label_args)
        setup_args = {"labels_key": labels_key, **label_args, "sample_key": sample_key, "batch_key": batch_key}
        cls._register(adata, chosen, fields, where=where, setup_args=setup_args, **kwargs)

    @property
    def labels(self) -> list[str]:
        """Names of the labels, in the order of the network's outputs."""
        return list((self._network.config.id2label or {}).values())

    @property
    def sample_key(self) -> str | None:
        """Column of `adata.obs` with samples, if labels are those of samples."""
        key: str | None = self.registry["setup_args"]["sample_key"]
        return key

    @property
    def _network(self) -> CellForSequenceClassification:
        network: Any = self.module.network
        return network

    def label_for_index(self, index: int) -> str:
        """Return the name of a label.

        Parameters
        ----------
        index
            Its number among the network's outputs, from 0.

        Raises
        ------
        IndexError
            If there is no such label.
        """
        labels = self.labels
        if index not in range(len(labels)):
            msg = f"There is no label {index!r}. The {len(labels)} labels have the numbers 0 to {len(labels) - 1}."
            raise IndexError(msg)
        return labels[index]

    def index_for_label(self, name: str) -> int:
        """Return the number of a label among the network's outputs.

        Parameters
        ----------
        name
            Name of the label.

        Raises
        ------
        KeyError
            If there is no such label.
        """
        labels = self.labels
        if name not in labels:
            msg = f"There is no label {name!r}. The labels are {', '.join(map(repr, labels))}."
            raise KeyError(msg)
        return labels.index(name)

    def extend_labels(self, names: Sequence[str]) -> None:
        """Add labels after the old ones; what the model says of those stays the same until it is trained.

        To train on, give data with the new labels: `CellClassifier.from_pretrained(model, adata, labels_key=...)`, or
        `save` the model and `load` it with them.

        Parameters
        ----------
        names
            Names of the new labels.

        Raises
        ------
        ValueError
            If a name is there already, comes twice, or is no text.
        """
        self._network.extend_labels(names)
        self._set_labels()

    def load_adapter(self, directory: str | Path) -> None:
        """Replace the LoRA adapters and the head by those that :meth:`save_adapter` wrote.

        The temperature is no part of them, so that probabilities are not calibrated; `save_pretrained` keeps it.

        Parameters
        ----------
        directory
            Where they are.

        Raises
        ------
        ValueError
            If the model was made without `lora=`, or the adapters do not fit it.
        """
        super().load_adapter(directory)
        self._network.temperature.fill_(1.0)  # type: ignore[union-attr]
        self.head_is_trained_ = True

    def _set_labels(self) -> None:
        """Let the registry name the labels that the network has: they are saved with it."""
        registered = self.registry["field_registries"][REGISTRY_KEYS.LABELS_KEY]
        registered["state_registry"]["categorical_mapping"] = np.array(self.labels, dtype=object)
        registered["summary_stats"] = {f"n_{REGISTRY_KEYS.LABELS_KEY}": len(self.labels)}
        self.registry["setup_args"]["labels"] = self.labels
        if self.adata is not None:
            for field in self.adata_manager.fields:
                if isinstance(field, LabelsField):
                    field.labels = self.labels

    def _with_labels(self, config: CellConfig, loss_weights: LossWeights | None) -> CellConfig:
        """Configuration with the labels that were set up, and their weights in the loss."""
        state = self.registry["field_registries"][REGISTRY_KEYS.LABELS_KEY]["state_registry"]
        labels = [str(name) for name in state["categorical_mapping"]]
        settings = config.to_dict()
        settings["id2label"] = dict(enumerate(labels))
        settings["label2id"] = {name: i for i, name in enumerate(labels)}
        settings["label_weights"] = weights_of_labels(loss_weights, labels, self._label_counts(len(labels)))
        settings["problem_type"] = "single_label_classification"
        kind = settings.get("sample_pooling") or "attention"
        settings["sample_pooling"] = None if self.sample_key is None else kind
        return CellConfig.from_dict(settings)

    def _label_counts(self, n_labels: int) -> np.ndarray:
        """How many cells, or samples, have each label."""
        if self.adata is None:  # a datamodule has counted them
            state = self.registry["field_registries"][REGISTRY_KEYS.LABELS_KEY]["state_registry"]
            return np.asarray(state.get("n_cells", np.zeros(n_labels)), dtype=np.int64)
        codes = self.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY).ravel()
        if self.sample_key is not None:
            samples = self.adata_manager.get_from_registry(SAMPLE_KEY).ravel()
            codes = np.unique(np.stack([samples, codes]), axis=1)[1]
        return np.bincount(codes[codes >= 0], minlength=n_labels)

    def _refuse_without_labels(self, datamodule: Any) -> None:
        self._register_again()
        if datamodule is not None:
            self._refuse_other_labels(datamodule)
        elif self.adata is not None and not self._label_counts(len(self.labels)).any():
            key = self.registry["setup_args"]["labels_key"]
            msg = f"No cell has a label in adata.obs[{key!r}], so there is nothing to train on. Load other data."
            raise ValueError(msg)

    def _refuse_other_labels(self, datamodule: Any) -> None:
        """Raise unless a datamodule has the labels of the model, and let it leave out cells without any."""
        if self.sample_key is not None:
            msg = "Labels of samples need all their cells together, which a datamodule does not keep. Train on an AnnData."
            raise NotImplementedError(msg)
        entry = datamodule.source.categories.get("label_index")
        if entry is None or list(entry.names) != self.labels:
            found = "no labels" if entry is None else f"the labels {', '.join(map(repr, entry.names))}"
            msg = (
                f"The datamodule has {found}, but the model {', '.join(map(repr, self.labels))}. Make the model with "
                "registry=datamodule.registry of a datamodule with labels_key=."
            )
            raise ValueError(msg)
        datamodule.labeled_only = True

    def _lora_settings(self, network: CellModelWithHead, lora: dict[str, Any]) -> dict[str, Any]:
        """Train the head, and a pooling that has weights, beside the adapters, and save them together."""
        learnt = ["head", *(["attention_pooling"] if network.config.pooling == "attention" else [])]
        return {"modules_to_save": learnt, **lora}
