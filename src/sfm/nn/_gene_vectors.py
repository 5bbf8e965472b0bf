"""What a cell model makes of genes, in their cells and before any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfm._docs import MINIBATCH, doc_params
from sfm.nn._layers import first_layers
from sfm.nn.architectures import get_architecture

if TYPE_CHECKING:
    from torch import Tensor


class GeneVectors:
    """Part of :class:`CellModel`."""

    if TYPE_CHECKING:
        config: Any
        embedder: Any
        backbone: Any
        gene_readout: Any
        is_gene: Any
        __call__: Any

    @doc_params(minibatch=MINIBATCH)
    def gene_vectors(
        self, input_ids: Tensor, attention_mask: Tensor, values: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Embed the genes of cells in their context.

        Parameters
        ----------
        {minibatch}
        kwargs
            Passed to the backbone.

        Returns
        -------
        Vectors of all genes of all cells, shape `(genes, dims)`, from the layer that cells are read from, and their token
        ids, shape `(genes,)`.
        """
        of_architecture = get_architecture(self.config.architecture).gene_vectors
        found = None if of_architecture is None else of_architecture(self, input_ids, attention_mask, values)
        if found is not None:
            return found
        with first_layers(self.backbone, self.config.hidden_layer):
            hidden = self(input_ids, attention_mask, values, **kwargs).last_hidden_state
        if self.gene_readout is not None:
            return self.gene_readout(hidden, input_ids, attention_mask)
        is_gene = self.is_gene(input_ids, attention_mask)
        return hidden[is_gene], input_ids[is_gene]

    def static_gene_vectors(self, token_ids: Tensor) -> Tensor:
        """Return the vectors of genes before any context.

        Parameters
        ----------
        token_ids
            Token ids of genes, shape `(genes,)`.

        Returns
        -------
        The gene's part of what the embedder makes of a token, shape `(genes, dims)`.
        """
        of_genes = getattr(self.embedder, "gene_vectors", self.embedder.genes)
        vectors: Tensor = of_genes(token_ids)
        return vectors
