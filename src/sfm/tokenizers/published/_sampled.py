"""Bins of all genes of a cell, of which long cells keep a sample: what scGPT and its descendants read."""

from __future__ import annotations

from abc import abstractmethod
from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from scipy import sparse

from sfm.tokenizers._base import Tokenizer
from sfm.tokenizers._cells import TokenizedCells
from sfm.tokenizers._ranking import tokenize_counts
from sfm.tokenizers._rows import CountRows, refuse_not_counts
from sfm.tokenizers.published._content import content_seeds, hashed_keys, sample_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from sfm.genes import GeneVocabulary

    #: Token ids and values of the genes of one cell.
    CellTokens = tuple[np.ndarray, np.ndarray]


class SampledBinTokenizer(Tokenizer):
    """Genes with the bins of their counts; of a cell with too many a sample, which its content determines.

    A subclass says in :meth:`cell_values` what the bins are, and in :meth:`reference_cells` what the original
    implementation does.

    Parameters
    ----------
    vocabulary
        The genes and their token ids.
    max_length
        Most tokens of a cell, special tokens included. Bins are those among all genes of the cell, cut ones included.
    prepend_cls
        Whether each cell starts with the token `<cls>`, whose value is -2.
    n_bins
        Number of bins, that of zero included.
    reference
        Reproduce the original implementation, with the random numbers that it draws.
    seed
        Seed of these random numbers.
    """

    has_values: ClassVar[bool] = True
    value_kind: ClassVar[Literal["bins", "continuous"] | None] = "bins"
    cls_value: float = -2.0

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        *,
        max_length: int = 1200,
        prepend_cls: bool = True,
        n_bins: int = 51,
        reference: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(vocabulary, max_length=max_length, prepend_cls=prepend_cls)
        if n_bins < 3:
            msg = f"n_bins={n_bins!r} leaves less than two bins for expressed genes. Pass 3 or more."
            raise ValueError(msg)
        self.n_bins = int(n_bins)
        self.reference = bool(reference)
        self.seed = int(seed)
        self.depends_on_order = self.reference

    def gene_divisors(self) -> np.ndarray | None:
        """Return `None`: genes are ordered by count."""
        return None

    @abstractmethod
    def reference_cells(self, counts: sparse.csr_matrix, gene_ids: np.ndarray) -> Iterator[CellTokens]:
        """Yield the genes of each cell as the original implementation would, at most `n_kept` of them."""

    @property
    def n_kept(self) -> int:
        """Most genes of a cell."""
        return self.max_length - int(self.prepend_cls)

    def __call__(self, counts: np.ndarray | sparse.spmatrix | sparse.sparray, gene_ids: np.ndarray) -> TokenizedCells:
        """Tokenize cells, see :meth:`Tokenizer.__call__`."""
        genes = self._as_reference(counts, gene_ids) if self.reference else self._sampled(counts, gene_ids)
        if not self.prepend_cls:
            return genes
        first = np.full((len(genes), 1), self.vocabulary.cls_id or 0)
        return genes.with_prefix(first, value=self.cls_value)

    def _sampled(self, counts: Any, gene_ids: np.ndarray) -> TokenizedCells:
        """Bin all genes of each cell; then keep those whose hashes with the cell's content are lowest."""
        whole = copy(self)
        whole.max_length, whole.prepend_cls = len(self.vocabulary) + 1, False
        cells = tokenize_counts(whole, counts, gene_ids)
        if cells.values is None or cells.lengths.max(initial=0) <= self.n_kept:
            return self._cells(cells.input_ids, cells.indptr, cells.values)
        kept = np.ones(cells.input_ids.size, dtype=bool)
        is_long = cells.lengths > self.n_kept
        long = cells[is_long]
        seeds = content_seeds(long.input_ids, _not_none(long.values), long.indptr)
        keys = hashed_keys(seeds, long.input_ids, long.indptr)
        kept[np.repeat(is_long, cells.lengths)] = sample_rows(keys, long.indptr, self.n_kept)
        indptr = np.concatenate(([0], np.cumsum(np.minimum(cells.lengths, self.n_kept))))
        return self._cells(cells.input_ids[kept], indptr, cells.values[kept])

    def _as_reference(self, counts: Any, gene_ids: np.ndarray) -> TokenizedCells:
        gene_ids = np.asarray(gene_ids)
        matrix = sparse.csr_matrix(CountRows.of(counts, gene_ids).counts)
        self._sampled(matrix[:0], gene_ids)  # for the errors of wrong gene_ids
        refuse_not_counts(matrix.data)
        cells = list(self.reference_cells(matrix, gene_ids))
        indptr = np.cumsum([0, *(ids.size for ids, _ in cells)])
        ids = np.concatenate([np.empty(0, dtype=np.int32), *(ids for ids, _ in cells)])
        values = np.concatenate([np.empty(0, dtype=np.float32), *(values for _, values in cells)])
        return self._cells(ids, indptr, values)

    def _cells(self, input_ids: np.ndarray, indptr: np.ndarray, values: np.ndarray | None) -> TokenizedCells:
        return TokenizedCells(input_ids, indptr, values=values, max_length=self.max_length, metadata=self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, ready for JSON."""
        settings = {**super().to_dict(), "n_bins": self.n_bins, "reference": self.reference}
        return {**settings, "seed": self.seed} if self.reference else settings


def _not_none(values: np.ndarray | None) -> np.ndarray:
    return np.empty(0) if values is None else values


def loader_generator(seed: int) -> torch.Generator:
    """Return torch's generator as it is once a data loader has drawn its own seed from it."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    torch.empty((), dtype=torch.int64).random_(generator=generator)
    return generator


def genes_of(counts: sparse.csr_matrix, gene_ids: np.ndarray, row: int) -> CellTokens:
    """Return token ids and counts, float32, of the stored entries of a row whose genes are known, as they are stored."""
    span = slice(counts.indptr[row], counts.indptr[row + 1])
    ids = gene_ids[counts.indices[span]]
    known = ids >= 0
    return ids[known].astype(np.int32), counts.data[span][known].astype(np.float32)
