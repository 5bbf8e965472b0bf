from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sfm.model._base import TokenModel
from sfm.model._network import Backbone, cell_config, plain_backbone
from sfm.model._pairs import as_pairs, pair_probabilities
from sfm.train._masked import MaskedCellModule
from sfm.train._pairs import PairedCellModule
from sfm.train._values import MaskedValueModule

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from anndata import AnnData

    from sfm.nn._config import Pooling
    from sfm.train._freeze import Freeze
    from sfm.train._pairs import PairKey


Objective = Literal["genes", "values", "pairs"]

_MODULES = {"genes": MaskedCellModule, "values": MaskedValueModule, "pairs": PairedCellModule}


class MaskedCellModel(TokenModel):
    """Masked model of cells, trained from scratch on the user's cells or from a pretrained one.

    Some genes of each cell are hidden, and a transformer learns to name them from the rest (Devlin et al. 2019;
    for cells Theodoris et al. 2023). Or the genes stay, and it learns the expression that was hidden.

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
    objective
        `"genes"`: name hidden genes. `"values"`: predict the hidden expression of genes that are visible, by least
        squares; for the tokenizers `"values"` and `"bins"`. `"pairs"`: name hidden genes, and tell whether two cells are
        from the same group.
    pair_key
        Groups of `objective="pairs"`: the categories that `setup_anndata` was given as `batch_key` or `labels_key`.
    mask_probability
        Share of genes to hide in training.
    lora
        Train low-rank adapters (Hu et al. 2021) instead of the weights: settings of :class:`peft.LoraConfig`, such as
        `dict(r=8, lora_alpha=16)`. `target_modules` may be `"attention"` (default), `"all-linear"` or a list of names.
        Meant for :meth:`from_pretrained`, since the weights that are adapted stay as they are.
    freeze
        Weights that stay as they are: `"embeddings"`, a number of layers from the bottom together with the embeddings,
        or `"backbone"`, which leaves the head.
    config
        Dictionary of a complete :class:`sfm.nn.CellConfig`, instead of the sizes.
    backbone_kwargs
        Further settings of the backbone, for example `hidden_dropout_prob=0.0` or `attn_implementation="eager"`.

    Examples
    --------
    >>> import sfm
    >>> adata = sfm.datasets.toy_cells()
    >>> sfm.model.MaskedCellModel.setup_anndata(adata, max_length=64)
    >>> sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> model = sfm.model.MaskedCellModel(adata, backbone="bert", **sizes)
    >>> model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    >>> adata.obsm["X_masked"] = model.get_latent_representation()
    """

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
        objective: Objective = "genes",
        pair_key: PairKey = "batch",
        mask_probability: float = 0.15,
        lora: dict[str, Any] | None = None,
        freeze: Freeze | None = None,
        config: dict[str, Any] | None = None,
        **backbone_kwargs: Any,
    ) -> None:
        super().__init__(adata, registry)
        backbone = plain_backbone(backbone)
        sizes = {
            "hidden_size": hidden_size,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": num_attention_heads,
            **backbone_kwargs,
        }
        self._refuse_unfit(objective, pair_key)
        options: dict[str, Any] = {"mask_probability": mask_probability}
        settings: dict[str, Any] = {"pooling": pooling}
        if objective == "pairs":  # two cells in one sequence
            options["pair_key"] = pair_key
            settings |= {"type_vocab_size": 2, "n_cells": 2}
        network = cell_config(self.tokenizer, backbone, sizes, config=config, **settings)
        self._install(lambda: _MODULES[objective](network, **options), lora=lora, freeze=freeze)
        self._model_summary_string = self._summary(network)
        self.init_params_ = self._get_init_params(locals())

    def predict_pairs(
        self,
        adata: AnnData | None,
        i: Sequence[int] | np.ndarray,
        j: Sequence[int] | np.ndarray,
        *,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Predict whether two cells are from one group, with `objective="pairs"`.

        Both cells are read as one sequence, in either order, and the mean is taken, so that the result is symmetric. In
        training half of the pairs are from one group, and the probability is to be read accordingly.

        Parameters
        ----------
        adata
            Data with both cells of each pair, read as by :meth:`get_latent_representation`; `None` for the data the
            model was set up with.
        i
            Rows of the first cells.
        j
            Rows of the second cells, as many.
        batch_size
            Pairs per minibatch. Default: as many as fit a number of tokens.

        Returns
        -------
        Probabilities, float32, one per pair.

        Raises
        ------
        ValueError
            If the objective is another, or `i` and `j` differ in length.
        """
        self._check_if_trained(warn=False)
        if not isinstance(self.module, PairedCellModule):
            msg = (
                "This model has no pair head. Make it with objective='pairs', and groups as batch_key= or labels_key=."
            )
            raise ValueError(msg)
        where: dict[str, Any] = {"pad_id": self.vocabulary.pad_id, "device": self.device, "batch_size": batch_size}
        return pair_probabilities(self.module.network, self._cells(adata), *as_pairs(i, j), **where)

    def _refuse_unfit(self, objective: str, pair_key: str) -> None:
        """Raise if the data were set up without what the objective needs."""
        if objective not in _MODULES:
            msg = f"Unknown objective={objective!r}. Choose {', '.join(map(repr, _MODULES))}."
            raise ValueError(msg)
        if objective != "values" and self.vocabulary.mask_id is None:
            msg = (
                f"objective={objective!r} hides genes behind the token '<mask>', which the vocabulary lacks: its model was "
                "not pretrained in this way. To learn labels with it, use `sfm.model.CellClassifier.from_pretrained`."
            )
            raise ValueError(msg)
        if objective == "values" and not self.tokenizer.has_values:
            msg = (
                f"objective='values' predicts expression, but tokens of the {self.tokenizer.name!r} tokenizer have none. "
                "Call setup_anndata with tokenizer='values' or 'bins'."
            )
            raise ValueError(msg)
        if objective == "pairs" and pair_key not in self.registry["field_registries"]:
            msg = (
                f"objective='pairs' with pair_key={pair_key!r} needs these categories. Call setup_anndata with "
                f"{pair_key}_key=, a column of adata.obs."
            )
            raise ValueError(msg)

    @classmethod
    def _options_for(cls, network: Any, setup_kwargs: dict[str, Any]) -> dict[str, Any]:
        names = {"CellForMaskedValue": "values", "CellForPreTraining": "pairs"}
        pair_key = "labels" if setup_kwargs.get("labels_key") and not setup_kwargs.get("batch_key") else "batch"
        return {"objective": names.get(type(network).__name__, "genes"), "pair_key": pair_key}
