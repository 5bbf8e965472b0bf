from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfm.model._base import TokenModel
from sfm.nn import CellConfig, backbone_config
from sfm.train._module import MaskedCellModule

if TYPE_CHECKING:
    from anndata import AnnData

    from sfm.nn._config import Pooling


class MaskedCellModel(TokenModel):
    """Masked gene model, trained from scratch on the user's cells or from a pretrained one.

    Some genes of each cell are hidden, and a transformer learns to name them from the rest (Devlin et al. 2019;
    for cells Theodoris et al. 2023).

    Parameters
    ----------
    adata
        Data that :meth:`setup_anndata` was called on.
    registry
        Registry of a saved model, when loading without data.
    backbone
        A model type of transformers, see :func:`sfm.get.backbones`.
    hidden_size
        Width of the backbone, and of a cell's vector.
    num_hidden_layers
        Layers of the backbone.
    num_attention_heads
        Attention heads per layer.
    pooling
        How token vectors become the cell's vector.
    mask_probability
        Share of genes to hide in training.
    config
        Dictionary of a complete :class:`sfm.nn.CellConfig`, instead of the sizes.
    backbone_kwargs
        Further settings of the backbone, for example `hidden_dropout_prob=0.0`.

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

    _module_cls = MaskedCellModule

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        backbone: str = "bert",
        hidden_size: int = 256,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 4,
        pooling: Pooling = "mean",
        mask_probability: float = 0.15,
        config: dict[str, Any] | None = None,
        **backbone_kwargs: Any,
    ) -> None:
        super().__init__(adata, registry)
        if config is None:
            sizes = {
                "hidden_size": hidden_size,
                "num_hidden_layers": num_hidden_layers,
                "num_attention_heads": num_attention_heads,
                **backbone_kwargs,
            }
            backbone_settings = backbone_config(backbone, max_length=self.tokenizer.max_length, **sizes)
            cell_config = CellConfig.for_tokenizer(self.tokenizer, backbone_settings, pooling=pooling)
        else:
            cell_config = CellConfig.from_dict(config)
        self.module = self._module_cls(cell_config, mask_probability=mask_probability)
        sizes_text = f"{cell_config.num_hidden_layers} layers, {cell_config.hidden_size} dims"
        self._model_summary_string = (
            f"MaskedCellModel: {cell_config.backbone_config.model_type}, {sizes_text}, {len(self.vocabulary)} genes, "
            f"tokenizer {self.tokenizer.name!r}"
        )
        self.init_params_ = self._get_init_params(locals())
