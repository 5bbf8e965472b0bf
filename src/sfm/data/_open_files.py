from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from sfm._matrix import select_matrix
from sfm.data._open import open_cells

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData

    from sfm._matrix import CountMatrix

# Files that a process keeps open at once.
_MOST_OPEN = 16


class OpenFiles:
    """Files of cells, which are opened when they are needed; a copy, or a child process, opens them itself.

    Parameters
    ----------
    paths
        The files.
    where
        `layer`, `use_raw` and `gene_symbols`.
    """

    def __init__(self, paths: Sequence[Path], where: dict[str, Any]) -> None:
        self.paths = paths
        self.where = where
        self._open: dict[int, tuple[ExitStack, AnnData, CountMatrix]] = {}
        self._process = os.getpid()

    def __getitem__(self, i: int) -> tuple[AnnData, CountMatrix]:
        """Open a file, or return it if this process has it open."""
        if self._process != os.getpid():  # handles of HDF5 must not be shared with a parent
            self._open, self._process = {}, os.getpid()
        if i not in self._open:
            while len(self._open) >= _MOST_OPEN:
                self._open.pop(next(iter(self._open)))[0].close()
            stack = ExitStack()
            adata = stack.enter_context(open_cells(self.paths[i]))
            self._open[i] = stack, adata, select_matrix(adata, **self.where)
        return self._open[i][1:]

    def close(self) -> None:
        """Close all; they are opened again when they are needed."""
        while self._open:
            self._open.popitem()[1][0].close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}
