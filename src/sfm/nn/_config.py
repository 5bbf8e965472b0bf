from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import numpy as np
from transformers import AutoConfig, PreTrainedConfig

from sfm.nn._backbone import backbone_config as make_backbone_config
from sfm.nn._backbone import register_own_backbone
from sfm.nn._label_settings import refuse_contradicting_labels, refuse_misfit_head
from sfm.nn.architectures import get_architecture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sfm.tokenizers import Tokenizer

Pooling = Literal["mean", "cls", "last", "max", "attention", "published"]
SequenceEncoding = Literal["lstm", "gru", "transformer"]
SamplePoolingKind = Literal["mean", "max", "attention"]
HeadInitializer = Literal["normal", "xavier_uniform", "xavier_normal", "zeros"]
ValueEmbedding = Literal["bins", "continuous"]
ValueLikelihood = Literal["mse", "nb", "zinb"]
PairMode = Literal["joint", "cosine", "contrastive"]
ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]

_CHOICES: dict[str, tuple[str | None, ...]] = {
    "pooling": get_args(Pooling),
    "value_embedding": (None, *get_args(ValueEmbedding)),
    "value_likelihood": get_args(ValueLikelihood),
    "pair_mode": get_args(PairMode),
    "problem_type": (None, *get_args(ProblemType)),
    "sequence_encoder": (None, *get_args(SequenceEncoding)),
    "sample_pooling": (None, *get_args(SamplePoolingKind)),
    "head_initializer": get_args(HeadInitializer),
    "feedforward_activation": ("gelu", "tanh"),
}
_TOKENS = ("pad_token_id", "mask_token_id", "cls_token_id", "eos_token_id", "sep_token_id")


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
        How token vectors become a cell vector: their `"mean"`, the `"cls"` token, the `"last"` token, the `"max"` per
        dimension, or a mean with learnt weights, `"attention"` (see :class:`AttentionPooling`), which objectives on
        whole cells train. Mean, max and attention leave special tokens out. `"published"` is what the published model
        of `architecture` does.
    hidden_layer
        Which output of the backbone is pooled to embed cells, as an index into its hidden states: -1 for the last, -2
        for the one before. Objectives always read the last.
    architecture
        Name of the published model whose embedder, readout and heads stand where sfm's own would, see
        :mod:`sfm.nn.architectures`.
    architecture_settings
        What else these parts need to know: plain numbers, text, lists of them.
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
    eos_token_id
        Token id that ends a generated cell, or `None`.
    sep_token_id
        Token id after each cell of a pair. Default: `eos_token_id`.
    special_token_ids
        All token ids that are not genes. Default: those above.
    type_vocab_size
        Number of segments that token types tell apart: 2 for pairs of cells in one sequence, 0 for no token types.
    sparse_prediction
        Whether training computes logits at labelled genes only, which saves most of its memory.
    initializer_range
        Standard deviation of the initial gene embeddings.
    value_likelihood
        What :class:`CellForMaskedValue` minimises: `"mse"`, or the negative log-likelihood of counts, negative binomial
        (`"nb"`) or with additional zeros (`"zinb"`).
    pair_mode
        How :class:`CellForPairPrediction` compares two cells: `"joint"` reads both as one sequence, `"cosine"` and
        `"contrastive"` compare their vectors.
    pair_margin
        Cosine similarity below which cells that do not belong together count as apart, with `pair_mode="cosine"`.
    pair_temperature
        What cosine similarities are divided by, with `pair_mode="contrastive"`.
    classifier_dropout
        Dropout in front of each layer of a classifier's head.
    sequence_encoder
        A network that classifiers run over the token vectors before pooling: a bidirectional `"lstm"` or `"gru"`, a
        `"transformer"` encoder, or `None`.
    sequence_encoder_layers
        Its layers.
    feedforward_sizes
        Widths of the hidden layers between pooling and the output layer of classifiers.
    sample_pooling
        How :class:`CellForSequenceClassification` turns the cells of a sample into one vector: their `"mean"`, the
        `"max"` per dimension, or gated `"attention"`. `None` for models that label cells.
    feedforward_activation
        What follows each of them: `"gelu"`, or `"tanh"` as in the pooler of BERT.
    head_initializer
        How the linear layers of a classifier's head start: `"normal"` with `initializer_range`, `"xavier_uniform"`,
        `"xavier_normal"` (Glorot and Bengio 2010), or `"zeros"`, where the output layer alone is zero.
    label_smoothing
        Share of the target that a classifier's loss spreads evenly over all labels (Szegedy et al. 2016), from 0 to
        below 1.
    label_weights
        Weight of each label in a classifier's loss, in their order; `None` for equal weights.
    kwargs
        Whatever :class:`transformers.PreTrainedConfig` takes: `num_labels`, `id2label`, `label2id`, `problem_type`, ...

    Raises
    ------
    ValueError
        If a setting is unknown, or settings contradict each other.
    """

    model_type: ClassVar[str] = "sfm_cell"
    sub_configs: ClassVar[dict[str, type]] = {"backbone_config": AutoConfig}
    # Generation starts from what is called the beginning of a sequence elsewhere.
    attribute_map: ClassVar[dict[str, str]] = {"bos_token_id": "cls_token_id"}

    def __init__(  # noqa: PLR0913
        self,
        vocab_size: int = 32,
        backbone_config: PreTrainedConfig | dict[str, Any] | None = None,
        *,
        pooling: Pooling = "mean",
        hidden_layer: int = -1,
        architecture: str | None = None,
        architecture_settings: dict[str, Any] | None = None,
        value_embedding: ValueEmbedding | None = None,
        n_bins: int = 51,
        pad_token_id: int | None = 0,
        mask_token_id: int | None = 1,
        cls_token_id: int | None = 2,
        eos_token_id: int | None = None,
        sep_token_id: int | None = None,
        special_token_ids: list[int] | None = None,
        type_vocab_size: int = 0,
        sparse_prediction: bool = True,
        initializer_range: float = 0.02,
        value_likelihood: ValueLikelihood = "mse",
        pair_mode: PairMode = "joint",
        pair_margin: float = 0.0,
        pair_temperature: float = 0.1,
        classifier_dropout: float = 0.1,
        sequence_encoder: SequenceEncoding | None = None,
        sequence_encoder_layers: int = 1,
        feedforward_sizes: Sequence[int] = (),
        feedforward_activation: Literal["gelu", "tanh"] = "gelu",
        sample_pooling: SamplePoolingKind | None = None,
        head_initializer: HeadInitializer = "normal",
        label_smoothing: float = 0.0,
        label_weights: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.backbone_config = _as_config(backbone_config)
        self.pooling = pooling
        self.hidden_layer = hidden_layer
        self.architecture = architecture
        self.architecture_settings = dict(architecture_settings or {})
        self.value_embedding = value_embedding
        self.n_bins = n_bins
        self.pad_token_id = pad_token_id
        self.mask_token_id = mask_token_id
        self.cls_token_id = cls_token_id
        self.eos_token_id = eos_token_id
        self.sep_token_id = eos_token_id if sep_token_id is None else sep_token_id
        named = {getattr(self, name) for name in _TOKENS} - {None}
        self.special_token_ids = special_token_ids or sorted(named)
        self.type_vocab_size = type_vocab_size
        self.sparse_prediction = sparse_prediction
        self.initializer_range = initializer_range
        self.value_likelihood = value_likelihood
        self.pair_mode = pair_mode
        self.pair_margin = pair_margin
        self.pair_temperature = pair_temperature
        self.classifier_dropout = classifier_dropout
        self.sequence_encoder = sequence_encoder
        self.sequence_encoder_layers = sequence_encoder_layers
        self.feedforward_sizes = [int(size) for size in feedforward_sizes]
        self.feedforward_activation = feedforward_activation
        self.sample_pooling = sample_pooling
        self.head_initializer = head_initializer
        self.label_smoothing = label_smoothing
        self.label_weights = None if label_weights is None else [float(weight) for weight in label_weights]
        refuse_contradicting_labels(**kwargs)
        # What the whole model is asked for is handed down to the backbone, and would replace what that was asked for.
        kwargs.setdefault("attn_implementation", getattr(self.backbone_config, "_attn_implementation", None))
        super().__init__(**kwargs)
        self._refuse_what_does_not_fit()

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
            eos_token_id=vocabulary.eos_id,
            # Gaps between the token ids are no genes either: nothing may be hidden by them, or generated.
            special_token_ids=np.setdiff1d(np.arange(vocabulary.size), vocabulary.token_ids).tolist(),
            value_embedding=tokenizer.value_kind,
            n_bins=getattr(tokenizer, "n_bins", 51),
            **kwargs,
        )

    @property
    def hidden_size(self) -> int:
        """Width of the backbone, and of a token's vector."""
        return int(self.backbone_config.hidden_size)

    @property
    def vector_size(self) -> int:
        """Width of a cell's vector."""
        size = get_architecture(self.architecture).vector_size
        return self.hidden_size if size is None or self.pooling != "published" else size(self)

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the backbone."""
        return int(self.backbone_config.num_hidden_layers)

    @property
    def num_attention_heads(self) -> int:
        """Attention heads per layer of the backbone."""
        return int(self.backbone_config.num_attention_heads)

    @property
    def max_position_embeddings(self) -> int | None:
        """Most tokens that the backbone has positions for, `None` where it says nothing."""
        return getattr(self.backbone_config, "max_position_embeddings", None)

    def _refuse_what_does_not_fit(self) -> None:
        for setting, choices in _CHOICES.items():
            value = getattr(self, setting, None)
            if value not in choices:
                msg = f"Unknown {setting}={value!r}. Choose one of {', '.join(map(repr, choices))}."
                raise ValueError(msg)
        for name in _TOKENS:
            token = getattr(self, name)
            if token is not None and not 0 <= token < self.vocab_size:
                msg = f"{name}={token!r} is not below vocab_size={self.vocab_size!r}. Pass None, or count it in vocab_size."
                raise ValueError(msg)
        if self.pooling == "published" and get_architecture(self.architecture).readout is None:
            msg = (
                f"pooling='published', but architecture={self.architecture!r} says nothing of pooling. Choose another."
            )
            raise ValueError(msg)
        refuse_misfit_head(self)


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
    register_own_backbone(settings["model_type"])
    return AutoConfig.for_model(settings.pop("model_type"), **settings)
