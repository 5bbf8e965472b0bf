from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from sfm._docs import MINIBATCH, doc_params
from sfm.nn._backbone import arguments_of, build_backbone, first_position
from sfm.nn._embedder import CellEmbedder
from sfm.nn._fitness import refuse_misfit
from sfm.nn._gene_vectors import GeneVectors
from sfm.nn._layers import first_layers, tokens_after_attention
from sfm.nn._pooling import AttentionPooling, pool
from sfm.nn._pretrained import CellModelOutput, CellPreTrainedModel
from sfm.nn._read_tokens import end_positions
from sfm.nn.architectures import get_architecture

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sfm.nn._config import CellConfig, Pooling
    from sfm.nn._read_tokens import End

_READS: dict[Pooling, tuple[End, ...]] = {"cls": ("first",), "last": ("last",)}


class CellModel(GeneVectors, CellPreTrainedModel):
    """Gene and value embedding, a transformers backbone, and pooling.

    Parameters
    ----------
    config
        The configuration.

    Examples
    --------
    >>> import torch
    >>> from sfm.nn import CellConfig, CellModel, backbone_config
    >>> sizes = backbone_config("bert", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, max_length=64)
    >>> model = CellModel(CellConfig(vocab_size=10, backbone_config=sizes)).eval()
    >>> model.encode(torch.tensor([[2, 4, 5]]), torch.ones(1, 3, dtype=torch.long)).shape
    torch.Size([1, 16])
    """

    # The heads of models with an objective are left out when only the cell vectors are wanted.
    _keys_to_ignore_on_load_unexpected = [r"^head\.", r"^distance\.", r"^temperature$"]

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        refuse_misfit(config.backbone_config)
        architecture = get_architecture(config.architecture)
        self.embedder: Any = (architecture.embedder or CellEmbedder)(config)
        self.backbone = build_backbone(config.backbone_config)
        self.attention_pooling = AttentionPooling(config) if config.pooling == "attention" else None
        self.gene_readout = None if architecture.gene_readout is None else architecture.gene_readout(config)
        self.readout = None if architecture.readout is None else architecture.readout(config)
        self._arguments = arguments_of(self.backbone)
        self._first_position = first_position(self.backbone)
        self.post_init()

    @property
    def cells_together(self) -> int | None:
        """How many cells are run together, in their order, where a published model lets them influence each other.

        `None` where a cell's vector depends on that cell alone, 0 for all cells at once.
        """
        together: int | None = self.config.architecture_settings.get("cells_together")
        return together

    @property
    def minibatch_size(self) -> int | None:
        """Cells of a minibatch by default; `None` where that is a matter of tokens."""
        return get_architecture(self.config.architecture).minibatch_size

    def get_input_embeddings(self) -> nn.Module:
        """Return the gene embedding."""
        genes: nn.Module = self.embedder.genes
        return genes

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the gene embedding.

        Parameters
        ----------
        value
            An embedding with one row per token id.
        """
        self.embedder.genes = value

    @doc_params(minibatch=MINIBATCH)
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        values: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> CellModelOutput:
        """Run the backbone.

        Parameters
        ----------
        {minibatch}
        labels
            Unused here; the models with an objective read it.
        token_type_ids
            Segment of each token, same shape, for models with token types; all 0 by default.
        position_ids
            Position of each token in its cell, same shape. By default tokens are counted, so that padding may stand on
            either side.
        kwargs
            Passed to the backbone, for example `output_hidden_states=True`.
        """
        embeddings = self.embedder(input_ids, values, token_type_ids)
        if attention_mask.ndim == 2:  # generation with a static cache brings a mask per query
            # A row without tokens attends to its first padding, since softmax over nothing is NaN; pooling ignores it.
            empty = attention_mask.sum(dim=1) == 0
            attention_mask = attention_mask.clone()
            attention_mask[:, 0] = attention_mask[:, 0].masked_fill(empty, 1)
            if position_ids is None:
                position_ids = _positions(attention_mask, input_ids.shape[1])
        if "position_ids" in self._arguments and position_ids is not None:
            kwargs["position_ids"] = position_ids + self._first_position
        if "use_cache" in self._arguments:  # decoders would keep all keys and values by default
            kwargs["use_cache"] = kwargs.get("use_cache") or kwargs.get("past_key_values") is not None
        kwargs["return_dict"] = True
        if getattr(
            self.backbone, "reads_cells", False
        ):  # a few published models look at tokens and values in each layer
            kwargs |= {"input_ids": input_ids, "values": values}
        output = self.backbone(inputs_embeds=embeddings, attention_mask=attention_mask, **kwargs)
        return CellModelOutput(
            last_hidden_state=output.last_hidden_state,
            past_key_values=output.get("past_key_values"),
            hidden_states=output.get("hidden_states"),
            attentions=output.get("attentions"),
        )

    @doc_params(minibatch=MINIBATCH)
    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        values: Tensor | None = None,
        *,
        pooling: Pooling | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Embed cells.

        Parameters
        ----------
        {minibatch}
        pooling
            Another pooling than that of the configuration.
        kwargs
            Passed to the backbone.

        Returns
        -------
        Cell vectors, shape `(cells, dims)`; zeros for a cell without tokens.
        """
        positions = self._positions_read(attention_mask, pooling)
        with ExitStack() as stack:
            if positions is not None and "queries" in self._arguments:
                kwargs["queries"] = positions
            elif positions is not None:
                stack.enter_context(tokens_after_attention(self.backbone, self.config.hidden_layer, positions))
            stack.enter_context(first_layers(self.backbone, self.config.hidden_layer))
            hidden = self(input_ids, attention_mask, values, **kwargs).last_hidden_state
        if positions is not None:
            input_ids, attention_mask = input_ids.gather(1, positions), attention_mask.gather(1, positions)
        return self.pool(hidden, input_ids, attention_mask, pooling=pooling)

    def _positions_read(self, attention_mask: Tensor, pooling: Pooling | None) -> Tensor | None:
        """Return where the tokens stand that a cell is read from, if that spares the backbone the others."""
        backbone = self.backbone.config
        if "queries" in self._arguments:
            can = backbone._attn_implementation in ("eager", "sdpa")
        else:
            can = backbone.model_type == "bert" and self.config.hidden_layer != 0 and not torch.compiler.is_compiling()
        if not can:
            return None
        pooling = self.config.pooling if pooling is None else pooling
        ends = getattr(self.readout, "reads", None) if pooling == "published" else _READS.get(pooling)
        return None if ends is None else end_positions(attention_mask, ends)

    def pool(self, hidden: Tensor, input_ids: Tensor, attention_mask: Tensor, *, pooling: Pooling | None) -> Tensor:
        """Pool token vectors; mean, max and attention over gene tokens only.

        Parameters
        ----------
        hidden
            Token vectors, shape `(cells, tokens, dims)`.
        input_ids
            Token ids, shape `(cells, tokens)`.
        attention_mask
            One where a token stands, same shape.
        pooling
            Another pooling than that of the configuration, or `None`.

        Returns
        -------
        Cell vectors, shape `(cells, dims)`.

        Raises
        ------
        ValueError
            If `pooling` is `"attention"` and the model was configured otherwise, or `"published"` and the model has no
            pooling of its own.
        """
        pooling = self.config.pooling if pooling is None else pooling
        if pooling == "attention":
            return self._attention_pooling()(hidden, self.is_gene(input_ids, attention_mask))
        if pooling == "published":
            return self._readout()(hidden, input_ids, attention_mask)
        mask = self.is_gene(input_ids, attention_mask) if pooling in ("mean", "max") else attention_mask
        return pool(hidden, mask, pooling)

    def pooling_weights(self, hidden: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return how much each token counts in pooling by attention.

        Parameters
        ----------
        hidden
            Token vectors, shape `(cells, tokens, dims)`.
        input_ids
            Token ids, shape `(cells, tokens)`.
        attention_mask
            One where a token stands, same shape.

        Returns
        -------
        Weights, float32, shape `(cells, tokens)`; they sum to one per cell, and special tokens and padding have none.

        Raises
        ------
        ValueError
            If the model pools in another way.
        """
        return self._attention_pooling().weights(hidden, self.is_gene(input_ids, attention_mask))

    def _attention_pooling(self) -> AttentionPooling:
        if self.attention_pooling is None:
            msg = (
                f"This model has no weights for pooling by 'attention': it was configured with "
                f"pooling={self.config.pooling!r}. Choose 'mean', 'cls', 'last' or 'max'."
            )
            raise ValueError(msg)
        return self.attention_pooling

    def _readout(self) -> nn.Module:
        if self.readout is None:
            msg = "Only published models pool as 'published'. Choose 'mean', 'cls', 'last' or 'max'."
            raise ValueError(msg)
        return self.readout

    def is_gene(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Say where genes stand, and neither special tokens nor padding.

        Parameters
        ----------
        input_ids
            Token ids, shape `(cells, tokens)`.
        attention_mask
            One where a token stands, same shape.

        Returns
        -------
        Booleans, same shape.
        """
        special = torch.tensor(self.config.special_token_ids, device=input_ids.device)
        return attention_mask.bool() & torch.isin(input_ids, special, invert=True)


def _positions(attention_mask: Tensor, n_tokens: int) -> Tensor | None:
    """Positions of the last tokens, counted in each cell; `None` where the backbone counts the same for all."""
    # With padding on the right one row of positions serves all cells, which is faster; compiled code cannot look.
    if not torch.compiler.is_compiling() and bool(attention_mask[:, 0].all()):
        return None
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -n_tokens:]
