from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from transformers import AutoConfig, PreTrainedConfig

from sfm.nn._backbone import backbone_config as make_backbone_config

if TYPE_CHECKING:
    from sfm.tokenizers import Tokenizer

Pooling = Literal["mean", "cls", "last", "max"]
ValueEmbedding = Literal["bins", "continuous"]


class CellConfig(PreTrainedConfig):
    """Configuration of a cell model: a gene vocabulary in front of any transformers backbone.

    Parameters
    ----------
    vocab_size
        Number of token ids, special tokens included.
    backbone_config
        Configuration of the backbone: a transformers configuration, its dictionary with `model_type`, or `None` for a
        BERT of default size.
    pooling
        How token vectors become a cell vector: their `"mean"`, the `"cls"` token, the `"last"` token, or the `"max"`
        per dimension. Mean and max leave special tokens out.
    value_embedding
        How expression values enter: `"bins"` (one vector per bin), `"continuous"` (a small network on the value), or
        `None` where only the order of the genes carries expression.
    n_bins
        Number of bins, zero included, with `value_embedding="bins"`.
    pad_token_id
        Token id of padding; `None` if any will do, since padding is never attended to.
    mask_token_id
        Token id of hidden genes.
    cls_token_id
        Token id that stands for the cell, or `None`.
    special_token_ids
        All token ids that are not genes. Default: those above.
    sparse_prediction
        Whether training computes logits at hidden genes only, which saves most of its memory.
    initializer_range
        Standard deviation of the initial gene embeddings.
    kwargs
        Whatever :class:`transformers.PreTrainedConfig` takes.
    """

    model_type: ClassVar[str] = "sfm_cell"
    sub_configs: ClassVar[dict[str, type]] = {"backbone_config": AutoConfig}

    def __init__(  # noqa: PLR0913
        self,
        vocab_size: int = 32,
        backbone_config: PreTrainedConfig | dict[str, Any] | None = None,
        *,
        pooling: Pooling = "mean",
        value_embedding: ValueEmbedding | None = None,
        n_bins: int = 51,
        pad_token_id: int | None = 0,
        mask_token_id: int | None = 1,
        cls_token_id: int | None = 2,
        special_token_ids: list[int] | None = None,
        sparse_prediction: bool = True,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.backbone_config = _as_config(backbone_config)
        self.pooling = pooling
        self.value_embedding = value_embedding
        self.n_bins = n_bins
        self.mask_token_id = mask_token_id
        self.cls_token_id = cls_token_id
        named = [pad_token_id, mask_token_id, cls_token_id]
        self.special_token_ids = special_token_ids or sorted({i for i in named if i is not None})
        self.sparse_prediction = sparse_prediction
        self.initializer_range = initializer_range
        self.pad_token_id = pad_token_id
        super().__init__(**kwargs)

    @classmethod
    def for_tokenizer(cls, tokenizer: Tokenizer, backbone_config: PreTrainedConfig, **kwargs: Any) -> Self:
        """Make the configuration of a model that reads the tokens of `tokenizer`.

        Parameters
        ----------
        tokenizer
            The tokenizer; its vocabulary gives the token ids, its values the value embedding.
        backbone_config
            Configuration of the backbone.
        kwargs
            Further settings.

        Returns
        -------
        The configuration.
        """
        vocabulary = tokenizer.vocabulary
        return cls(
            vocab_size=vocabulary.size,
            backbone_config=backbone_config,
            pad_token_id=vocabulary.pad_id,
            mask_token_id=vocabulary.mask_id,
            cls_token_id=vocabulary.cls_id,
            special_token_ids=sorted(vocabulary.special_tokens.values()),
            value_embedding=tokenizer.value_kind,
            n_bins=getattr(tokenizer, "n_bins", 51),
            **kwargs,
        )

    @property
    def hidden_size(self) -> int:
        """Width of the backbone, and of a cell's vector."""
        return int(self.backbone_config.hidden_size)

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the backbone."""
        return int(self.backbone_config.num_hidden_layers)

    @property
    def num_attention_heads(self) -> int:
        """Attention heads per layer of the backbone."""
        return int(self.backbone_config.num_attention_heads)


def _as_config(config: PreTrainedConfig | dict[str, Any] | None) -> PreTrainedConfig:
    if config is None:
        return make_backbone_config()
    if isinstance(config, PreTrainedConfig):
        return config
    settings = dict(config)
    if "model_type" not in settings:
        msg = (
            f"backbone_config has no 'model_type' (keys: {sorted(settings)!r}). Add it, or use sfm.nn.backbone_config."
        )
        raise ValueError(msg)
    return AutoConfig.for_model(settings.pop("model_type"), **settings)
