from __future__ import annotations

import hashlib
import json
from functools import cached_property
from string import Formatter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sfm.tokenizers._base import Tokenizer
from sfm.tokenizers._cells import TokenizedCells

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scipy import sparse
    from tokenizers import Tokenizer as TextTokenizer

    from sfm.genes import GeneVocabulary

#: The texts that published models were trained to go on with, by name. Other words would do them harm.
TEMPLATES = {
    # C2S-Scale and C2S-Pythia (Rizvi et al. 2025): of several of one meaning, the one on the cards of the models.
    "c2s-scale": (
        "The following is a list of {n_genes} gene names ordered by descending expression level in a {organism} cell. Your "
        "task is to give the cell type which this cell belongs to based on its gene expression.\n"
        "Cell sentence: {sentence}.\nThe cell type corresponding to these genes is:"
    ),
    # pythia-160m-c2s (Levine et al. 2024), always with 100 genes: the first of its several.
    "c2s": (
        "Identify the cell type most likely associated with these {n_genes} highly expressed genes listed in descending "
        "order. {sentence} This is the cell type corresponding to these genes: "
    ),
}
_FIELDS = {"sentence", "organism", "n_genes"}


class CountTokenizer(Tokenizer):
    """Genes ordered by count, ties by token id.

    Parameters
    ----------
    vocabulary
        The genes and their token ids.
    max_length
        Most genes of a cell.
    """

    name: ClassVar[str] = "counts"

    def __init__(self, vocabulary: GeneVocabulary, *, max_length: int = 200) -> None:
        super().__init__(vocabulary, max_length=max_length, prepend_cls=False)

    def gene_divisors(self) -> np.ndarray | None:
        """Return `None`: genes are ordered by count."""
        return None

    @cached_property
    def words(self) -> np.ndarray:
        """Upper-case symbol by token id."""
        words = np.empty(self.vocabulary.size, dtype=object)
        words[self.vocabulary.token_ids] = [symbol.upper() for symbol in self.vocabulary.symbols]
        return words

    def sentences(self, genes: TokenizedCells) -> list[str]:
        """Write cells that this tokenizer made as text: symbols with spaces between them."""
        words = self.words[genes.input_ids].tolist()
        starts = genes.indptr.tolist()
        return [" ".join(words[start:end]) for start, end in zip(starts[:-1], starts[1:], strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, ready for JSON."""
        return {"tokenizer": self.name, "max_length": self.max_length}


class SentenceTokenizer(Tokenizer):
    """The words of a text about each cell: symbols of its genes by falling count, within a template.

    Cells as sentences are those of Cell2Sentence (Levine et al. 2024, ICML). Genes with equal counts are in the order of
    the vocabulary. A cell without any gene has no token at all.

    Parameters
    ----------
    vocabulary
        The genes; token ids of sentences have nothing to do with theirs.
    text_tokenizer
        What splits text into the tokens of the language model, in the format of the `tokenizers` library.
    template
        `"c2s-scale"` or `"c2s"` for that of models of these names, or a text with the field `{sentence}`, and if wanted
        `{organism}` and `{n_genes}`.
    organism
        What stands for `{organism}`.
    n_genes
        Most genes of a sentence.
    max_length
        Most tokens of a text, template included; of longer ones the last genes are left out.

    Raises
    ------
    ValueError
        If the template has no `{sentence}`, or other fields.
    """

    name: ClassVar[str] = "cell_sentences"

    def __init__(
        self,
        vocabulary: GeneVocabulary,
        *,
        text_tokenizer: Mapping[str, Any],
        template: str = "c2s-scale",
        organism: str = "Homo sapiens",
        n_genes: int = 200,
        max_length: int = 2048,
    ) -> None:
        super().__init__(vocabulary, max_length=max_length, prepend_cls=False)
        template = TEMPLATES.get(template, template)
        fields = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
        if "sentence" not in fields or fields - _FIELDS:
            known = ", ".join(f"'{{{name}}}'" for name in sorted(_FIELDS))
            names = " or ".join(map(repr, TEMPLATES))
            msg = (
                f"template={template!r} needs '{{sentence}}', and may have no other fields than {known}. For that of a "
                f"published model, pass {names}."
            )
            raise ValueError(msg)
        if n_genes < 1:
            msg = f"n_genes={n_genes!r} leaves no gene. Pass 1 or more."
            raise ValueError(msg)
        self.text_tokenizer = dict(text_tokenizer)
        self.template = template
        self.organism = organism
        self.n_genes = int(n_genes)

    def gene_divisors(self) -> np.ndarray | None:
        """Return `None`: genes are ordered by count."""
        return None

    @cached_property
    def splitter(self) -> TextTokenizer:
        """The tokenizer of text."""
        from tokenizers import Tokenizer as TextTokenizer

        splitter = TextTokenizer.from_str(json.dumps(self.text_tokenizer))
        splitter.no_padding()
        splitter.no_truncation()
        return splitter

    @cached_property
    def ranking(self) -> CountTokenizer:
        """What orders the genes."""
        return CountTokenizer(self.vocabulary, max_length=max(self.n_genes, 2))

    def __call__(self, counts: np.ndarray | sparse.spmatrix | sparse.sparray, gene_ids: np.ndarray) -> TokenizedCells:
        """Tokenize cells, see :meth:`Tokenizer.__call__`."""
        words = [
            sentence.split()[: self.n_genes] for sentence in self.ranking.sentences(self.ranking(counts, gene_ids))
        ]
        texts = [self._text(of_cell) for of_cell in words]
        tokens = [encoded.ids for encoded in self.splitter.encode_batch(texts)]
        parts = [
            np.asarray(self._fitting(of_cell, ids) if of_cell else [], dtype=np.int32)
            for of_cell, ids in zip(words, tokens, strict=True)
        ]
        return TokenizedCells(
            np.concatenate([np.empty(0, dtype=np.int32), *parts]),
            np.cumsum([0, *map(len, parts)]),
            max_length=self.max_length,
            metadata=self.params(),
        )

    def _text(self, words: list[str]) -> str:
        return self.template.format(sentence=" ".join(words), organism=self.organism, n_genes=len(words))

    def _fitting(self, words: list[str], tokens: list[int]) -> list[int]:
        """Leave out the last genes until the text fits."""
        while len(tokens) > self.max_length:
            kept = min(len(words) * self.max_length // len(tokens), len(words) - 1)
            if kept < 1:
                msg = f"The template alone has more than max_length={self.max_length!r} tokens. Shorten it."
                raise ValueError(msg)
            words = words[:kept]
            tokens = self.splitter.encode(self._text(words)).ids
        return tokens

    def with_template(self, template: str) -> SentenceTokenizer:
        """Return the same with another template."""
        return SentenceTokenizer(
            self.vocabulary, **{k: v for k, v in self.to_dict().items() if k != "tokenizer"} | {"template": template}
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, ready for JSON."""
        return {
            "tokenizer": self.name,
            "text_tokenizer": self.text_tokenizer,
            "template": self.template,
            "organism": self.organism,
            "n_genes": self.n_genes,
            "max_length": self.max_length,
        }

    def params(self) -> dict[str, Any]:
        """Provenance for `uns`, with a hash of what splits text."""
        text = json.dumps(self.text_tokenizer, sort_keys=True)
        return {**super().params(), "text_tokenizer_hash": hashlib.sha256(text.encode()).hexdigest()}
