from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationMixin, LogitsProcessorList
from transformers.utils import ModelOutput

from sfm._docs import MINIBATCH, doc_params
from sfm.nn._fitness import attends_backwards_only
from sfm.nn._generation import EachGeneOnce
from sfm.nn._heads import gene_head
from sfm.nn._losses import mean_cross_entropy
from sfm.nn._masking import IGNORED
from sfm.nn._with_head import CellModelWithHead
from sfm.nn.architectures import get_architecture

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Cache

    from sfm.nn._config import CellConfig


@dataclass
class CausalCellOutput(ModelOutput):
    """Output of :class:`CellForCausalLM`.

    `loss` is the mean cross-entropy in nats over the tokens that are labelled and have a token before them. `logits` has
    shape `(those tokens, vocab_size)` in row order when labels were given and the configuration says
    `sparse_prediction`; else `(cells, tokens, vocab_size)`, where position `t` predicts the token at `t + 1`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class CellForCausalLM(CellModelWithHead, GenerationMixin):
    """Predict each gene from those ranked before it, and generate new cells.

    The output weights are the gene embedding itself, with a bias per gene. With a value embedding, a token brings its
    value along, which is visible to the tokens after it; the value of a gene that is still to be predicted is not.

    Parameters
    ----------
    config
        The configuration, with a causal backbone: `backbone_config(..., is_causal=True)`.

    Raises
    ------
    ValueError
        If the backbone is not causal.

    Examples
    --------
    >>> import torch
    >>> from sfm.nn import CellConfig, CellForCausalLM, backbone_config
    >>> sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_length": 8}
    >>> config = CellConfig(20, backbone_config("llama", is_causal=True, **sizes), eos_token_id=3)
    >>> cells = CellForCausalLM(config).generate(num_return_sequences=4, do_sample=True)
    >>> cells.shape[0], cells[0, 0].item()
    (4, 2)
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        if not attends_backwards_only(self.cell.backbone):
            msg = (
                f"CellForCausalLM needs a causal backbone, but {config.backbone_config.model_type!r} as configured sees "
                "both sides, so it would see what it predicts. Make it with sfm.nn.backbone_config(..., is_causal=True); "
                "sfm.get.backbones() says which can be causal."
            )
            raise ValueError(msg)
        self.head = gene_head(config)
        self.post_init()
        self.generation_config.bos_token_id = config.cls_token_id

    @doc_params(minibatch=MINIBATCH)
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        values: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalCellOutput:
        """Predict next genes; with `labels` also the loss.

        Without `attention_mask`, nothing is padding: so does transformers generate.

        Parameters
        ----------
        {minibatch}
        labels
            `input_ids` where a token is to be learned, -100 elsewhere, same shape (see :func:`causal_labels`). The shift
            by one token happens here.
        position_ids
            Position of each token in its cell, same shape; counted by default.
        past_key_values
            Keys and values of earlier tokens; then `input_ids` holds the tokens since, and `attention_mask` covers all.
        use_cache
            Whether to return keys and values.
        logits_to_keep
            Compute the logits of so many last positions, or of these positions; all with 0. Not with `labels`.
        kwargs
            Passed to the backbone.
        """
        if attention_mask is None:
            n_past = 0 if past_key_values is None else past_key_values.get_seq_length()
            attention_mask = input_ids.new_ones(len(input_ids), n_past + input_ids.shape[1])
        output = self.cell(
            input_ids,
            attention_mask,
            values,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        hidden = output.last_hidden_state
        following = shifted = None if labels is None else _next_labels(labels, attention_mask)
        if shifted is None:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            hidden = hidden[:, kept]
        elif self.config.sparse_prediction:
            chosen = shifted != IGNORED
            hidden, shifted = hidden[chosen], shifted[chosen]
        logits = self.head(hidden, self.cell.embedder.genes.weight)
        loss = None if shifted is None else mean_cross_entropy(logits, shifted)
        more = get_architecture(self.config.architecture).next_gene_loss
        if more is not None and following is not None:
            is_predicted = following[:, :-1] != IGNORED
            loss = more(self.cell, loss, output.last_hidden_state, input_ids, attention_mask, values, is_predicted)
        return CausalCellOutput(
            loss=loss,
            logits=logits,
            past_key_values=output.past_key_values,
            last_hidden_state=output.last_hidden_state,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def generate(  # type: ignore[override]
        self, inputs: Tensor | None = None, *, logits_processor: LogitsProcessorList | None = None, **kwargs: Any
    ) -> Any:
        """Generate cells gene by gene; each gene occurs at most once, `<eos>` ends a cell, padding follows it.

        Parameters
        ----------
        inputs
            First tokens of each cell, shape `(cells, tokens)`, padded on the left if their lengths differ, together with
            `attention_mask=`. Default: one cell that starts with `<cls>`; `num_return_sequences=` asks for more.
        logits_processor
            Further rules for the next token.
        kwargs
            Whatever `generate` of transformers takes: `do_sample`, `temperature`, `top_k`, `top_p`, `max_new_tokens`,
            `num_return_sequences`, ... Cells grow as long as the backbone has positions unless a length is given.

        Returns
        -------
        Token ids, shape `(cells, tokens)`, the first tokens included; or what `return_dict_in_generate=True` asks for.

        Raises
        ------
        ValueError
            If the model embeds expression values, which are not generated, or padding is on the right.
        """
        if self.config.value_embedding is not None:
            msg = (
                f"generate() makes genes, not their values, and value_embedding={self.config.value_embedding!r}. Train on "
                "tokens of the 'rank' tokenizer."
            )
            raise ValueError(msg)
        mask = kwargs.get("attention_mask")
        if mask is not None and bool((mask[:, -1] == 0).any()):
            msg = "The first tokens are padded on the right, and a cell grows on the right. Pad them on the left."
            raise ValueError(msg)
        if kwargs.get("generation_config") is None:
            if not kwargs.keys() & {"max_length", "max_new_tokens"}:
                kwargs["max_length"] = self.config.max_position_embeddings
            if kwargs.get("do_sample"):
                kwargs.setdefault("top_k", 0)  # transformers would draw from the 50 likeliest genes alone
        once = EachGeneOnce(
            self.config.special_token_ids,
            eos_token_id=self.config.eos_token_id,
            pad_token_id=self.config.pad_token_id,
        )
        rules = LogitsProcessorList([once, *(logits_processor or [])])
        return super().generate(inputs, logits_processor=rules, **kwargs)  # type: ignore[misc]


def _next_labels(labels: Tensor, attention_mask: Tensor) -> Tensor:
    """Label of the next token at each position; none where padding would have to predict it, or nothing follows."""
    following = torch.full_like(labels, IGNORED)
    following[:, :-1] = labels[:, 1:].masked_fill(attention_mask[:, :-1] == 0, IGNORED)
    return following
