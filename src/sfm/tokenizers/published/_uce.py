from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy import sparse

from sfm.tokenizers._base import Tokenizer
from sfm.tokenizers._cells import TokenizedCells
from sfm.tokenizers._rows import CountRows, Rows, refuse_not_counts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sfm.genes import GeneVocabulary

# Cells at a time: each gets a thousand tokens, however few genes it has.
_MOST_CELLS = 512


class UCETokenizer(Tokenizer):
    """Genes drawn in proportion to their log expression, and laid out along the chromosomes, as UCE reads cells.

    A cell is `<cls>`, then for each chromosome with drawn genes its token, the genes by position, as often as they were
    drawn, and `<right>`. Genes are drawn with replacement with weights `log1p(count)`. The random numbers are made from
    the cell's own counts, and chromosomes come in one order for all cells. With `reference` genes, and the order of the
    chromosomes, come from one stream of random numbers for all cells, in the order of the columns and of the cells.

    Parameters
    ----------
    vocabulary
        The genes and their token ids, with `<cls>` and `<right>`.
    max_length
        Most tokens of a cell; what is beyond is cut.
    prepend_cls
        Whether each cell starts with the token `<cls>`.
    sample_size
        Genes that are drawn.
    chromosomes
        Token id of the chromosome of each gene, in the order of the vocabulary.
    starts
        Position of each gene on its chromosome, in base pairs.
    reference
        Whether to draw as the original implementation does.
    seed
        Seed of its stream.
    """

    name: ClassVar[str] = "uce"

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        *,
        max_length: int = 1536,
        prepend_cls: bool = True,
        sample_size: int = 1024,
        chromosomes: Sequence[int],
        starts: Sequence[int],
        reference: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(vocabulary, max_length=max_length, prepend_cls=prepend_cls)
        self.sample_size = int(sample_size)
        self.chromosomes = np.asarray(chromosomes, dtype=np.int32)
        self.starts = np.asarray(starts, dtype=np.int64)
        self.reference = bool(reference)
        self.seed = int(seed)
        self.depends_on_order = self.reference
        cls_id = vocabulary.cls_id
        self.first_id = cls_id if prepend_cls and cls_id is not None else -1
        self.right_id = vocabulary.special_tokens["<right>"]
        if not self.chromosomes.size == self.starts.size == len(vocabulary):
            msg = (
                f"{self.chromosomes.size} chromosomes and {self.starts.size} starts for {len(vocabulary)} genes. "
                "Pass one of each per gene."
            )
            raise ValueError(msg)

    def gene_divisors(self) -> np.ndarray | None:
        """Return `None`: genes are not ranked."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, ready for JSON."""
        return {
            **super().to_dict(),
            "sample_size": self.sample_size,
            "chromosomes": self.chromosomes.tolist(),
            "starts": self.starts.tolist(),
            "reference": self.reference,
            "seed": self.seed,
        }

    def __call__(self, counts: np.ndarray | sparse.spmatrix | sparse.sparray, gene_ids: np.ndarray) -> TokenizedCells:
        """Tokenize cells, see :meth:`Tokenizer.__call__`."""
        gene_ids = np.asarray(gene_ids)
        rows = CountRows.of(counts, gene_ids)
        gene_rows = self._rows_of(gene_ids)
        parts = [self._replay(counts, gene_rows)] if self.reference else self._draw(rows, gene_rows)
        lengths = np.concatenate([lengths for _, lengths in parts] or [np.zeros(0, dtype=np.int64)])
        return TokenizedCells(
            np.concatenate([tokens for tokens, _ in parts] or [np.zeros(0, dtype=np.int32)]),
            np.concatenate([[0], np.cumsum(lengths)]),
            max_length=self.max_length,
            metadata=self.params(),
        )

    def _rows_of(self, gene_ids: np.ndarray) -> np.ndarray:
        """Return the gene of each column as a row of the vocabulary, -1 where it is unknown."""
        row_of_token = np.full(self.vocabulary.size + 1, -1, dtype=np.int32)
        row_of_token[self.vocabulary.token_ids] = np.arange(len(self.vocabulary))
        rows = row_of_token[np.clip(gene_ids, -1, self.vocabulary.size)]
        wrong = gene_ids[(rows < 0) & (gene_ids >= 0)]
        if wrong.size:
            msg = (
                f"gene_ids holds {int(wrong[0])!r}, which is no gene of {self.vocabulary!r}. Pass the token_ids of "
                "`sfm.genes.align_genes(names, vocabulary)`, -1 where a gene is unknown."
            )
            raise ValueError(msg)
        return rows

    def _draw(self, rows: CountRows, gene_rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Draw genes by the content of each cell."""
        order = np.lexsort((self.vocabulary.token_ids, self.starts, self.chromosomes)).astype(np.int32)
        place = np.full(order.size + 1, -1, dtype=np.int32)
        place[order] = np.arange(order.size)
        column_place = place[gene_rows]
        return [
            self._lay_out(rows.rows(part).summed(column_place, order.size), order)
            for run in rows.runs()
            for part in _parts(run)
        ]

    def _lay_out(self, run: Rows, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from sfm.tokenizers.published._content import content_seeds
        from sfm.tokenizers.published._uce_kernels import draw_along_chromosomes

        genes = order[run.indices]
        return draw_along_chromosomes(
            self.vocabulary.token_ids[genes],
            self.chromosomes[genes],
            run.data,
            run.indptr,
            content_seeds(genes, run.data, run.indptr),
            self.sample_size,
            self.first_id,
            self.right_id,
            self.max_length,
        )

    def _replay(self, counts: Any, gene_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draw genes as the original implementation does after its random numbers were seeded."""
        stream = np.random.RandomState(self.seed)
        known = gene_rows >= 0
        matrix = sparse.csr_matrix(counts)[:, known]
        refuse_not_counts(matrix.data)
        cells = [
            self._replay_cell(matrix[row].toarray()[0], gene_rows[known], stream) for row in range(matrix.shape[0])
        ]
        lengths = np.array([cell.size for cell in cells], dtype=np.int64)
        return np.concatenate([*cells, np.zeros(0, dtype=np.int32)]), lengths

    def _replay_cell(self, counts: np.ndarray, genes: np.ndarray, stream: np.random.RandomState) -> np.ndarray:
        import torch

        # The rounding of single precision decides which genes some random numbers mean.
        weights = torch.log1p(torch.from_numpy(counts.astype(np.int64)))
        tokens = [self.first_id] if self.prepend_cls else []
        if not weights.any():
            return np.array(tokens, dtype=np.int32)
        shares = (weights / weights.sum()).numpy()
        shares = shares / np.cumsum(shares, dtype=np.float32)[-1]
        drawn = genes[stream.choice(np.arange(genes.size), size=self.sample_size, p=shares, replace=True)]
        chromosomes = np.unique(self.chromosomes[drawn])
        stream.shuffle(chromosomes)
        for chromosome in chromosomes:
            on_it = drawn[self.chromosomes[drawn] == chromosome]
            on_it = on_it[np.argsort(self.starts[on_it])]
            tokens += [chromosome, *self.vocabulary.token_ids[on_it], self.right_id]
        return np.array(tokens[: self.max_length], dtype=np.int32)


def _parts(run: slice) -> Iterator[slice]:
    for start in range(run.start, run.stop, _MOST_CELLS):
        yield slice(start, min(start + _MOST_CELLS, run.stop))
