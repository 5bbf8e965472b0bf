from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from scvi.model.base import BaseModelClass

from sfm._warn import warn
from sfm.checkpoints import PretrainedCells
from sfm.checkpoints._resolve import resolve_model
from sfm.checkpoints._weights import load_weights
from sfm.data import encode_cells
from sfm.model._registry import complete_registry, refuse_other_registry, set_up
from sfm.model._safety import refuse_unsafe_pickle
from sfm.model._setup import tokenizer_from_setup
from sfm.model._transfer import transfer_weights
from sfm.nn import CellModel
from sfm.train._history import frames_from_history, plain_values
from sfm.train._lora import base_weights, has_lora, load_adapter, merged, save_adapter
from sfm.train._splitter import registered_tokens

if TYPE_CHECKING:
    import torch
    from anndata import AnnData

    from sfm.tokenizers import TokenizedCells, Tokenizer
    from sfm.train._freeze import Freeze
    from sfm.train._module import CellModule


class PretrainedModel(BaseModelClass):
    """Reading and writing models: whole ones, LoRA adapters, and scvi-tools' own files."""

    module: CellModule
    #: Whether it can be trained on a datamodule.
    takes_datamodules: ClassVar[bool] = True

    def __init__(self, adata: AnnData | None = None, registry: dict[str, Any] | None = None) -> None:
        if registry is not None and "model_name" not in registry:  # that of a datamodule
            registry = complete_registry(registry, type(self))
        super().__init__(adata, registry)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer that the model was set up with."""
        return tokenizer_from_setup(self.registry["setup_args"])

    @property
    def summary_string(self) -> str:
        """What `print` shows: sizes, and whether the model is trained; embedding needs no trained head, labels do."""
        if self.is_trained_ and not getattr(self, "head_is_trained_", True):
            return f"{self._model_summary_string}\nTraining status: Not Trained (pretrained body, new head)"
        return str(super().summary_string)

    def as_pretrained(self) -> PretrainedCells:
        """Return the network with its tokenizer, as :func:`sfm.load` would."""
        return PretrainedCells(self.module.network, self.tokenizer, name=type(self).__name__)

    def _cells(self, adata: AnnData | None) -> TokenizedCells:
        """Tokens of the data the model was set up with, or of other data, after the gates."""
        if adata is None:
            if self.adata is None:
                msg = "The model was loaded without data. Pass adata=."
                raise ValueError(msg)
            return registered_tokens(self.adata_manager)
        args = self.registry["setup_args"]
        where = {name: args[name] for name in ("layer", "use_raw", "gene_symbols")}
        return encode_cells(adata, self.tokenizer, model_name=type(self).__name__, **where).cells

    def save_pretrained(
        self, directory: str | Path, *, card: str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Write a directory that :func:`sfm.load` and :meth:`from_pretrained` read: safetensors and JSON, no pickle.

        LoRA adapters are merged into the weights that they adapt; :meth:`save_adapter` writes them alone.

        Parameters
        ----------
        directory
            Where to write; made if missing.
        card
            Text of the model card, written as `README.md`.
        dtype
            Type of the weights on disk, for example `torch.float16` to halve the size.
        """
        if not getattr(self, "head_is_trained_", True):
            warn(
                "The head of this classifier is new: whoever loads the directory gets random labels. Call `train` first."
            )
        pretrained = self.as_pretrained()
        if has_lora(self.module.network):
            pretrained = replace(pretrained, model=merged(self.module.network))
        pretrained.save_pretrained(directory, card=card, dtype=dtype)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | PretrainedCells | None,
        adata: AnnData | None = None,
        *,
        registry: dict[str, Any] | None = None,
        lora: dict[str, Any] | None = None,
        freeze: Freeze | None = None,
        **setup_kwargs: Any,
    ) -> Self:
        """Continue from a pretrained model on new data.

        Parameters
        ----------
        model
            Whatever :func:`sfm.load` takes, or its result; `None` for the bundled model.
        adata
            Data to set up, with the tokenizer and vocabulary of the model.
        registry
            Instead of `adata`, the registry of a :class:`sfm.train.CellDataModule` to train on, made with
            `tokenizer=model`.
        lora
            Settings of LoRA adapters to train instead of the weights, as for the class itself.
        freeze
            Weights to keep as they are, as for the class itself.
        setup_kwargs
            Further arguments of `setup_anndata`: `layer`, `use_raw`, `gene_symbols`, `batch_key`, `labels_key`.

        Returns
        -------
        A model with the pretrained weights, ready to embed with or to train on.

        Raises
        ------
        ValueError
            If there are no data, or those of the datamodule are tokenized otherwise.
        """
        pretrained = resolve_model(model)
        network: Any = pretrained.model
        if registry is None:
            set_up(cls, adata, pretrained, **setup_kwargs)
        else:
            refuse_other_registry(registry, pretrained, adata, setup_kwargs)
            setup_kwargs = registry["setup_args"]
        options = cls._options_for(network, setup_kwargs)
        make: Any = cls
        loaded: Self = make(adata, registry, config=network.config.to_dict(), lora=lora, freeze=freeze, **options)
        if isinstance(network, CellModel):  # published without a head for this objective, which starts anew
            transfer_weights(loaded.module.network, network, source=pretrained.name)
        else:
            weights = network.state_dict()
            if has_lora(loaded.module.network):
                weights = base_weights(loaded.module.network, weights)
            load_weights(loaded.module.network, weights, source=pretrained.name)
        loaded.is_trained_ = True
        loaded.module.eval()
        return loaded

    @classmethod
    def _options_for(cls, network: Any, setup_kwargs: dict[str, Any]) -> dict[str, Any]:
        """Further arguments of the class that follow from a pretrained network and from what was set up."""
        return {}

    def save_adapter(self, directory: str | Path) -> None:
        """Write the LoRA adapters alone, a small part of the model, in the layout of peft.

        Parameters
        ----------
        directory
            Where to write; made if missing.

        Raises
        ------
        ValueError
            If the model was made without `lora=`.
        """
        self._refuse_without_lora()
        save_adapter(self.module.network, directory)

    def load_adapter(self, directory: str | Path) -> None:
        """Replace the LoRA adapters by those that :meth:`save_adapter` wrote, for the same pretrained model.

        Parameters
        ----------
        directory
            Where they are.

        Raises
        ------
        ValueError
            If the model was made without `lora=`, or the adapters do not fit it.
        """
        self._refuse_without_lora()
        load_adapter(self.module.network, directory)
        self.is_trained_ = True

    def merge_adapter(self) -> None:
        """Make the LoRA adapters part of the weights that they adapt; cell vectors stay the same.

        Raises
        ------
        ValueError
            If the model was made without `lora=`.
        """
        self._refuse_without_lora()
        self.module.network = merged(self.module.network)
        self.init_params_["kwargs" if "lora" in self.init_params_["kwargs"] else "non_kwargs"]["lora"] = None

    def _refuse_without_lora(self) -> None:
        if not has_lora(self.module.network):
            msg = f"This {type(self).__name__} has no adapters. Pass lora=dict(r=8) when it is made."
            raise ValueError(msg)

    @classmethod
    def load(cls, dir_path: str, adata: AnnData | None = None, *, prefix: str | None = None, **kwargs: Any) -> Self:
        """Load a model that `save` wrote.

        Nothing in the file is executed: it is refused if it holds more than weights and settings.

        Parameters
        ----------
        dir_path
            Directory that `save` wrote.
        adata
            Data to set up in the same way, genes in any order or naming. `None` for the data saved with the model,
            `False` for none.
        prefix
            Prefix of the file names.
        kwargs
            Whatever `load` of scvi-tools' models takes.

        Returns
        -------
        The model.

        Raises
        ------
        FileNotFoundError
            If there is no saved model.
        ValueError
            If the file is damaged or unsafe, or was written by another class.
        """
        refuse_unsafe_pickle(Path(dir_path) / f"{prefix or ''}model.pt")
        with warnings.catch_warnings():
            # The vocabulary says which genes count; coverage is checked when the data are tokenized.
            warnings.filterwarnings("ignore", message=".*var_names.* does not match")
            loaded = super().load(dir_path, adata, prefix=prefix, **kwargs)
        loaded.history_ = frames_from_history(loaded.history_)
        return loaded

    def get_var_names(self, *, legacy_mudata_format: bool = False) -> Any:
        """Return the genes of the data, or those of the vocabulary where there are no data.

        Parameters
        ----------
        legacy_mudata_format
            As in scvi-tools.
        """
        if self.adata is None:
            return np.array(self.vocabulary.gene_ids)
        return super().get_var_names(legacy_mudata_format=legacy_mudata_format)

    def _get_user_attributes(self) -> list[tuple[str, Any]]:
        """What `save` stores, as plain values: others would need the full unpickler."""
        return [(name, plain_values(value)) for name, value in super()._get_user_attributes() if name.endswith("_")]
