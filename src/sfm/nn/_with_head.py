from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfm._docs import MINIBATCH, doc_params
from sfm.nn._model import CellModel
from sfm.nn._pretrained import CellModelOutput, CellPreTrainedModel

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sfm.nn._config import CellConfig, Pooling


class CellModelWithHead(CellPreTrainedModel):
    """A cell model with an output layer on top; embedding goes past the head.

    Parameters
    ----------
    config
        The configuration.
    """

    def __init__(self, config: CellConfig) -> None:
        super().__init__(config)
        self.cell = CellModel(config)

    @property
    def cells_together(self) -> int | None:
        """How many cells are run together, see :class:`CellModel`."""
        return self.cell.cells_together

    @property
    def minibatch_size(self) -> int | None:
        """Cells of a minibatch by default, see :class:`CellModel`."""
        return self.cell.minibatch_size

    def get_input_embeddings(self) -> nn.Module:
        """Return the gene embedding."""
        return self.cell.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the gene embedding.

        Parameters
        ----------
        value
            An embedding with one row per token id.
        """
        self.cell.set_input_embeddings(value)

    @doc_params(minibatch=MINIBATCH)
    def read(
        self, input_ids: Tensor, attention_mask: Tensor, values: Tensor | None = None, **kwargs: Any
    ) -> tuple[CellModelOutput, Tensor]:
        """Run the backbone and pool, for the heads that look at whole cells.

        Parameters
        ----------
        {minibatch}
        kwargs
            Passed to the backbone, and `token_type_ids` and `position_ids` as in :meth:`CellModel.forward`.

        Returns
        -------
        The output of the cell model, and cell vectors of shape `(cells, dims)`.
        """
        output = self.cell(input_ids, attention_mask, values, **kwargs)
        return output, self.cell.pool(output.last_hidden_state, input_ids, attention_mask, pooling=None)

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
        """Embed cells without running the head, as :meth:`CellModel.encode` does.

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
        return self.cell.encode(input_ids, attention_mask, values, pooling=pooling, **kwargs)
