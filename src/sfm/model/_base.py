from __future__ import annotations

import warnings
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

# scvi-tools 1.4 reads rich.pretty without importing it.
import rich.pretty  # noqa: F401
from scvi.data import AnnDataManager
from scvi.model.base import BaseModelClass, UnsupervisedTrainingMixin

from sfm._docs import INPUT, doc_params
from sfm.checkpoints import PretrainedCells
from sfm.checkpoints._resolve import resolve_model
from sfm.checkpoints._weights import load_weights
from sfm.data import encode_cells
from sfm.model._safety import frames_from_history, plain_values, refuse_unsafe_pickle
from sfm.model._setup import category_fields, tokenizer_from_setup, write_tokens
from sfm.pp._choose import choose_tokenizer
from sfm.tl._inference import embed_tokens
from sfm.train._plan import CellTrainingPlan
from sfm.train._splitter import TokenDataSplitter, registered_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from anndata import AnnData

    from sfm.genes import GeneVocabulary
    from sfm.tokenizers import Tokenizer


# As scvi-tools' heuristic, but from 20 epochs and not 400: transformers take far longer for a cell.
_MAX_EPOCHS, _MANY_CELLS = 20, 20_000


class TokenModel(UnsupervisedTrainingMixin, BaseModelClass):
    """What the model classes share: tokens in, scvi-tools' life cycle around, Hugging Face directories out."""

    _data_splitter_cls = TokenDataSplitter
    _training_plan_cls = CellTrainingPlan

    @classmethod
    @doc_params(input=INPUT)
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        *,
        use_raw: bool = False,
        gene_symbols: str | None = None,
        tokenizer: str | Tokenizer | PretrainedCells | dict[str, Any] | None = "rank",
        vocabulary: GeneVocabulary | dict[str, Any] | None = None,
        max_length: int | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Tokenize the counts and register the tokens.

        Writes the tokens to `adata.obsm['_sfm_tokens_<hash>']` (and `..._values` for tokenizers with values), where the
        hash is that of the tokenizer and its vocabulary, and scvi-tools' own keys (`uns['_scvi_uuid']`,
        `uns['_scvi_manager_uuid']`, and `obs['_scvi_batch']`, `obs['_scvi_labels']` for the categories that are named).

        Parameters
        ----------
        adata
            Annotated data matrix with raw counts.
        {input}
        tokenizer
            As in :func:`sfm.pp.tokenize`.
        vocabulary
            As in :func:`sfm.pp.tokenize`.
        max_length
            Longest token sequence, special tokens included.
        batch_key
            Column of `adata.obs` with the biological batch.
        labels_key
            Column of `adata.obs` with the cell labels.
        kwargs
            Passed to scvi-tools when a saved model is loaded.
        """
        where = {"layer": layer, "use_raw": use_raw, "gene_symbols": gene_symbols}
        if isinstance(tokenizer, dict):  # a saved model brings its own
            chosen = tokenizer_from_setup({"tokenizer": tokenizer, "vocabulary": vocabulary})
        elif isinstance(vocabulary, dict):
            msg = "vocabulary= is a dict. Pass `sfm.GeneVocabulary.from_dict(vocabulary)`."
            raise TypeError(msg)
        else:
            chosen, _ = choose_tokenizer(adata, tokenizer, vocabulary=vocabulary, max_length=max_length, **where)
        # Recorded as plain values: loading with other data must use this vocabulary, not make a new one.
        tokenizer, vocabulary = chosen.to_dict(), chosen.vocabulary.to_dict()
        setup_method_args = cls._get_setup_method_args(
            **{"cls": cls, "adata": adata, **where, "tokenizer": tokenizer, "vocabulary": vocabulary},
            batch_key=batch_key,
            labels_key=labels_key,
        )
        fields = write_tokens(adata, chosen, **where) + category_fields(batch_key, labels_key)
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer that the model was set up with."""
        return tokenizer_from_setup(self.registry["setup_args"])

    @property
    def vocabulary(self) -> GeneVocabulary:
        """Gene vocabulary that the model was set up with."""
        return self.tokenizer.vocabulary

    def train(self, max_epochs: int | None = None, *, batch_size: int = 32, **kwargs: Any) -> None:
        """Train the model.

        Parameters
        ----------
        max_epochs
            Passes over the training cells. Default: 20 up to 20,000 cells, and fewer for more.
        batch_size
            Cells per minibatch.
        kwargs
            Whatever `train` of scvi-tools' models takes: `accelerator`, `devices`, `train_size`, `validation_size`,
            `early_stopping`, `plan_kwargs` (see :class:`sfm.train._plan.CellTrainingPlan`), `datasplitter_kwargs`, and
            settings of the Lightning trainer such as `precision`, `callbacks`, `gradient_clip_val` or
            `accumulate_grad_batches`.
        """
        if max_epochs is None and self.adata is not None:
            max_epochs = max(1, round(_MAX_EPOCHS * min(1, _MANY_CELLS / self.adata.n_obs)))
        splitter = {"pad_id": self.vocabulary.pad_id, **(kwargs.pop("datasplitter_kwargs", None) or {})}
        kwargs.setdefault("gradient_clip_val", 1.0)
        kwargs.setdefault("log_every_n_steps", 1)
        if (kwargs.get("train_size") or 0) < 1 and kwargs.get("validation_size") != 0:
            kwargs.setdefault("check_val_every_n_epoch", 1)
        self.module.train()  # a loaded model is in evaluation mode
        if self.history_ is None:
            self.is_trained_ = False  # pretrained elsewhere: scvi-tools would look for a history to extend
        super().train(max_epochs=max_epochs, batch_size=batch_size, datasplitter_kwargs=splitter, **kwargs)

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Embed cells.

        Parameters
        ----------
        adata
            Data to embed, read with the layer and gene names that `setup_anndata` was given; it is not written to.
            Default: the data the model was set up with.
        indices
            Rows to embed, or a boolean mask. Default: all.
        batch_size
            Cells per minibatch. Default: as many as fit a number of tokens.

        Returns
        -------
        Cell vectors, float32, shape `(n_cells, n_dims)`, in the order of `indices`.
        """
        self._check_if_trained(warn=False)
        if adata is None:
            if self.adata is None:
                msg = "The model was loaded without data. Pass adata=."
                raise ValueError(msg)
            cells = registered_tokens(self.adata_manager)
        else:
            args = self.registry["setup_args"]
            where = {name: args[name] for name in ("layer", "use_raw", "gene_symbols")}
            cells = encode_cells(adata, self.tokenizer, model_name=type(self).__name__, **where).cells
        if indices is not None:
            cells = cells[np.asarray(indices)]
        return embed_tokens(
            self.module.network,
            cells,
            pad_id=self.vocabulary.pad_id,
            batch_size=batch_size or "auto",
            device=self.device,
        )

    def as_pretrained(self) -> PretrainedCells:
        """Return the network with its tokenizer, as :func:`sfm.load` would."""
        return PretrainedCells(self.module.network, self.tokenizer, name=type(self).__name__)

    def save_pretrained(
        self, directory: str | Path, *, card: str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Write a directory that :func:`sfm.load` and :meth:`from_pretrained` read: safetensors and JSON, no pickle.

        Parameters
        ----------
        directory
            Where to write; made if missing.
        card
            Text of the model card, written as `README.md`.
        dtype
            Type of the weights on disk, for example `torch.float16` to halve the size.
        """
        self.as_pretrained().save_pretrained(directory, card=card, dtype=dtype)

    @classmethod
    def from_pretrained(cls, model: str | Path | PretrainedCells | None, adata: AnnData, **setup_kwargs: Any) -> Self:
        """Continue from a pretrained model on new data.

        Parameters
        ----------
        model
            Whatever :func:`sfm.load` takes, or its result; `None` for the bundled model.
        adata
            Data to set up, with the tokenizer and vocabulary of the model.
        setup_kwargs
            Further arguments of `setup_anndata`: `layer`, `use_raw`, `gene_symbols`, `batch_key`, `labels_key`.

        Returns
        -------
        A model with the pretrained weights, ready to embed with or to train on.
        """
        pretrained = resolve_model(model)
        cls.setup_anndata(adata, tokenizer=pretrained, **setup_kwargs)
        network: Any = pretrained.model
        loaded = cls(adata, config=network.config.to_dict())
        load_weights(loaded.module.network, network.state_dict(), source=pretrained.name)
        loaded.is_trained_ = True
        loaded.module.eval()
        return loaded

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

    def _get_user_attributes(self) -> list[tuple[str, Any]]:
        """What `save` stores, as plain values: others would need the full unpickler."""
        return [(name, plain_values(value)) for name, value in super()._get_user_attributes() if name.endswith("_")]
