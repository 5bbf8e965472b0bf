from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

# scvi-tools 1.4 reads rich.pretty without importing it.
import rich.pretty  # noqa: F401
from scvi.data import AnnDataManager
from scvi.model.base import UnsupervisedTrainingMixin

from sfm._docs import INPUT, doc_params
from sfm.inference import embed_tokens
from sfm.inference._precision import matmul_precision
from sfm.model._pretrained import PretrainedModel
from sfm.model._rebuilt import RebuiltModule
from sfm.model._registry import refuse_other_data
from sfm.model._setup import category_fields, choose_setup_tokenizer, write_tokens
from sfm.train._checkpoint import TrainingCheckpoint, find_checkpoint
from sfm.train._memory import checkpointed_activations
from sfm.train._plan import CellTrainingPlan
from sfm.train._runner import TokenTrainRunner
from sfm.train._sharding import choose_strategy
from sfm.train._splitter import TokenDataSplitter
from sfm.train.callbacks import as_lightning_callbacks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from lightning.pytorch import LightningDataModule
    from scvi.data.fields import BaseAnnDataField

    from sfm.checkpoints import PretrainedCells
    from sfm.genes import GeneVocabulary
    from sfm.nn import CellConfig
    from sfm.tokenizers import Tokenizer


# As scvi-tools' heuristic, but from 20 epochs and not 400: transformers take far longer for a cell.
_MAX_EPOCHS, _MANY_CELLS = 20, 20_000


class TokenModel(UnsupervisedTrainingMixin, RebuiltModule, PretrainedModel):
    """What the model classes share: tokens in, scvi-tools' life cycle around, Hugging Face directories out."""

    _data_splitter_cls = TokenDataSplitter
    _training_plan_cls = CellTrainingPlan
    _train_runner_cls = TokenTrainRunner

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
        chosen = choose_setup_tokenizer(adata, tokenizer, vocabulary, max_length=max_length, **where)
        keys = {"batch_key": batch_key, "labels_key": labels_key}
        cls._register(adata, chosen, category_fields(**keys), where=where, setup_args=keys, **kwargs)

    @classmethod
    def _register(
        cls,
        adata: AnnData,
        tokenizer: Tokenizer,
        categories: list[BaseAnnDataField],
        *,
        where: dict[str, Any],
        setup_args: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        """Write the tokens and register them with other fields; `setup_args` are recorded."""
        # Recorded as plain values: loading with other data must use this vocabulary, not make a new one.
        recorded = {"tokenizer": tokenizer.to_dict(), "vocabulary": tokenizer.vocabulary.to_dict(), **setup_args}
        setup_method_args = cls._get_setup_method_args(cls=cls, adata=adata, **where, **recorded)
        manager = AnnDataManager(
            fields=write_tokens(adata, tokenizer, **where) + categories, setup_method_args=setup_method_args
        )
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    @property
    def vocabulary(self) -> GeneVocabulary:
        """Gene vocabulary that the model was set up with."""
        return self.tokenizer.vocabulary

    def train(  # noqa: PLR0913
        self,
        max_epochs: int | None = None,
        *,
        batch_size: int = 32,
        callbacks: Sequence[Any] = (),
        report_to: str | Sequence[str] | None = None,
        training_arguments: Any = None,
        checkpoint_dir: str | Path | None = None,
        checkpoint_every: int | None = None,
        resume: bool | str | Path = False,
        datamodule: LightningDataModule | None = None,
        gradient_checkpointing: bool = False,
        strategy: Any = "auto",
        **kwargs: Any,
    ) -> None:
        """Train the model.

        Parameters
        ----------
        max_epochs
            Passes over the training cells. Default: 20 up to 20,000 cells, and fewer for more.
        batch_size
            Cells per minibatch. A `datamodule` has its own.
        callbacks
            Callbacks of Lightning and of Hugging Face (:class:`transformers.TrainerCallback`), in any mixture.
        report_to
            Where to report to: names that transformers knows, such as `"tensorboard"`, `"mlflow"` or `"wandb"`. By
            default those of `training_arguments`.
        training_arguments
            What Hugging Face callbacks see as :class:`transformers.TrainingArguments`: an instance, or a dictionary of
            those settings that do not follow from this call, such as `logging_steps` or `metric_for_best_model`.
        checkpoint_dir
            Folder for checkpoints, one after each epoch, of which the two newest are kept, and for what Hugging Face
            callbacks write, which otherwise goes to `scvi.settings.logging_dir`.
        checkpoint_every
            Optimizer steps after which to write a checkpoint within an epoch.
        resume
            `True`: go on from the newest checkpoint in `checkpoint_dir`, or start if there is none. A path: go on from
            that checkpoint, or from the newest in that folder. Nothing in it is executed.
        datamodule
            Cells to train on instead of those that the model was set up with, such as a
            :class:`sfm.train.CellDataModule`. It makes the split, the minibatches and their order.
        gradient_checkpointing
            Compute each layer again in the backward pass instead of keeping its activations.
        strategy
            Lightning's strategy: `"ddp"` for a copy of the model on each device, `"fsdp"` for a share of it on each,
            split by layers of the backbone.
        kwargs
            Whatever `train` of scvi-tools' models takes: `accelerator`, `devices`, `train_size`, `validation_size`,
            `early_stopping`, `plan_kwargs` (see :class:`sfm.train.CellTrainingPlan`), `datasplitter_kwargs`, and
            settings of the Lightning trainer such as `precision`, `gradient_clip_val` or `accumulate_grad_batches`.

        Raises
        ------
        sfm.train.NonFiniteLossError
            If the loss or the gradient becomes NaN or infinite, with the step, the cells and the last good checkpoint.
        FileNotFoundError
            If there is no checkpoint where `resume` says.
        ValueError
            If the model has no data, or those of `datamodule` are tokenized otherwise.
        """
        refuse_other_data(self, datamodule)
        self._register_again()
        given = {**kwargs, "datamodule": datamodule}
        checkpoint = find_checkpoint(resume=resume, checkpoint_dir=checkpoint_dir)
        options = {**self._train_defaults(max_epochs, given), **given, "batch_size": batch_size}
        options["datasplitter_kwargs"] = {
            "pad_id": self.vocabulary.pad_id,
            **(options.get("datasplitter_kwargs") or {}),
        }
        options["callbacks"] = as_lightning_callbacks(
            callbacks, report_to=report_to, training_arguments=training_arguments, output_dir=checkpoint_dir
        )
        if checkpoint_dir is not None:
            options["callbacks"].append(TrainingCheckpoint(checkpoint_dir, every_n_steps=checkpoint_every))
        options |= {"strategy": choose_strategy(strategy), "ckpt_path": checkpoint}
        if self.history_ is None:
            self.is_trained_ = False  # pretrained elsewhere: scvi-tools would look for a history to extend
        self.module.train()  # a loaded model is in evaluation mode
        with (
            checkpointed_activations(self.module.network, enabled=gradient_checkpointing),
            matmul_precision(),  # the plan may change it
            warnings.catch_warnings(),
        ):
            # What is frozen stays in it on purpose.
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode at the start of training")
            super().train(**options)
        self._take_whole_weights()

    def _register_again(self) -> None:
        """Renew the categories in `obs`, which another model may have replaced since these data were set up."""
        if self.adata is not None:
            self.adata_manager.validate()

    def _n_obs(self, given: dict[str, Any]) -> int | None:
        """Cells to train on and to validate with, as far as is known."""
        data: Any = self.adata if given["datamodule"] is None else given["datamodule"]
        return getattr(data, "n_obs", None)

    def _train_defaults(self, max_epochs: int | None, given: dict[str, Any]) -> dict[str, Any]:
        n_obs = self._n_obs(given)
        if max_epochs is None and n_obs is not None:
            max_epochs = max(1, round(_MAX_EPOCHS * min(1, _MANY_CELLS / n_obs)))
        defaults = {"max_epochs": max_epochs, "gradient_clip_val": 1.0, "log_every_n_steps": 1}
        if (given.get("train_size") or 0) < 1 and given.get("validation_size") != 0:
            defaults["check_val_every_n_epoch"] = 1
        return defaults

    def _summary(self, config: CellConfig) -> str:
        """One line for `repr`."""
        sizes = f"{config.num_hidden_layers} layers, {config.hidden_size} dims"
        return (
            f"{type(self).__name__}: {config.backbone_config.model_type}, {sizes}, {len(self.vocabulary)} genes, "
            f"tokenizer {self.tokenizer.name!r}"
        )

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
        cells = self._cells(adata)
        if indices is not None:
            cells = cells[np.asarray(indices)]
        return embed_tokens(
            self.module.network,
            cells,
            pad_id=self.vocabulary.pad_id,
            batch_size=batch_size or "auto",
            device=self.device,
        )
