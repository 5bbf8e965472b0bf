from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from sfm.data._block_split import block_bounds
from sfm.data._sources import place_of

if TYPE_CHECKING:
    import numpy as np


class FiledCells(ABC):
    """Cells that are from one or several files, one file after the other."""

    #: Cells of each file.
    sizes: list[int]

    @property
    @abstractmethod
    def sources(self) -> list[dict[str, Any]]:
        """Describe the files, in order."""

    def place_of(self, row: int) -> str:
        """Return the number of a cell in its file, and the name of that.

        Parameters
        ----------
        row
            Number of the cell among all.
        """
        return place_of(row, self.sources)

    def block_bounds(self, block_size: int) -> np.ndarray:
        """Divide the cells into blocks, none of which spans two files.

        Parameters
        ----------
        block_size
            Most cells in a block.

        Returns
        -------
        Block `i` has the cells `bounds[i]` to `bounds[i + 1]`; int64.
        """
        return block_bounds(self.sizes, block_size)
