"""The gene vocabulary: which genes a model knows, and by which token ids."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfm.genes import _fields, _serialise
from sfm.genes._ids import parse_name, species_of_names
from sfm.genes._medians import nonzero_medians

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import ArrayLike

    from sfm.genes._fields import Matching

SPECIAL_TOKENS = {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3}


class GeneVocabulary:
    """The genes that a model knows, with their token ids; not to be changed once made.

    Parameters
    ----------
    gene_ids
        Unique names of the genes: Ensembl ids for models of human cells, any names otherwise.
    symbols
        Symbol of each gene, `''` where unknown. Default: for Ensembl ids the current symbols of the bundled human and
        mouse tables, for other names the names.
    token_ids
        Token id of each gene, unique, not negative; gaps are fine. Default: contiguous after the special tokens.
    special_tokens
        Token ids by name. Default: `<pad>` 0, `<mask>` 1, `<cls>` 2 and `<eos>` 3.
    medians
        Positive scale of each gene by which counts are divided before ranking, in counts per 10,000: the median over
        the cells that express it, as in Geneformer (Theodoris et al., 2023, Nature 618, 616-624).
    expression
        Share of a cell's counts that the model expects on each gene; it is scaled to sum to 1.
    aliases
        Further names that the model itself gives its genes, such as retired ids: gene id by name.
    matching
        Rules by which genes of a data set are found: `"all"` of :func:`~sfm.genes.align_genes`, or as reference
        implementations do, gene ids and aliases alone, `"exact"` or in `"any_case"`.
    species
        `"human"`, `"mouse"` or any other name. Default: what the Ensembl ids say if they all agree, else `None`, and
        then genes are never matched by previous symbols, tables or orthologs.

    Attributes
    ----------
    gene_ids, symbols
        Tuples of text.
    token_ids
        int32 of shape `(n_genes,)`.
    special_tokens
        Dictionary of token ids.
    medians, expression
        float64 of shape `(n_genes,)`, or `None`.
    aliases
        Dictionary of gene ids.
    matching
        Text.
    species
        Text or `None`.

    Raises
    ------
    ValueError
        If names or token ids are not unique, lengths differ, or a number is not what it must be.

    Examples
    --------
    >>> import sfm
    >>> vocabulary = sfm.GeneVocabulary(["ENSG00000198851", "ENSG00000156738"])
    >>> vocabulary
    GeneVocabulary(2 genes, human, size 6, hash 95939624065e)
    >>> len(vocabulary), vocabulary.size, vocabulary.mask_id
    (2, 6, 1)
    >>> vocabulary.symbols
    ('CD3E', 'MS4A1')
    """

    def __init__(
        self,
        gene_ids: Sequence[str],
        *,
        symbols: Sequence[str] | None = None,
        token_ids: ArrayLike | None = None,
        special_tokens: Mapping[str, int] | None = None,
        medians: ArrayLike | None = None,
        expression: ArrayLike | None = None,
        aliases: Mapping[str, str] | None = None,
        matching: Matching = "all",
        species: str | None = None,
    ) -> None:
        self.gene_ids = _fields.unique_names(gene_ids)
        n_genes = len(self.gene_ids)
        self.species = species or _fields.species_of(self.gene_ids)
        self.symbols = _fields.symbols_of(self.gene_ids, symbols)
        self.special_tokens = _fields.special_tokens_of(SPECIAL_TOKENS if special_tokens is None else special_tokens)
        self.token_ids = _fields.token_ids_of(token_ids, self.gene_ids, self.special_tokens)
        self.medians = None if medians is None else _fields.medians_of(medians, n_genes)
        self.expression = None if expression is None else _fields.expression_of(expression, n_genes)
        self.matching = _fields.matching_of(matching)
        self.aliases = _fields.aliases_of(aliases or {}, self.gene_ids)

    @classmethod
    def from_adata(
        cls,
        adata: AnnData,
        *,
        layer: str | None = None,
        use_raw: bool = False,
        gene_symbols: str | None = None,
        medians: bool = True,
    ) -> GeneVocabulary:
        """Make a vocabulary of the genes of `adata`, of any species.

        Genes are sorted by name, so their order in `adata` does not matter; genes with the same name are one, and
        genes without a name are left out. The species is guessed from the names.

        Parameters
        ----------
        adata
            Annotated data with raw counts.
        layer
            Read `adata.layers[layer]` instead of `adata.X`.
        use_raw
            Read `adata.raw` instead of `adata.X`.
        gene_symbols
            Column of `adata.var` that holds the gene names. Default: `adata.var_names`.
        medians
            Whether to compute the medians that ranking needs, which reads all counts once.

        Returns
        -------
        The vocabulary.

        Raises
        ------
        KeyError
            If `layer` or `gene_symbols` names nothing.
        ValueError
            If `layer` and `use_raw` are both given, or no gene has a name.

        Examples
        --------
        >>> import anndata, numpy as np, sfm
        >>> adata = anndata.AnnData(np.array([[1.0, 3.0], [0.0, 5.0]]))
        >>> adata.var_names = ["Ms4a1", "Cd3e"]
        >>> vocabulary = sfm.GeneVocabulary.from_adata(adata)
        >>> vocabulary.gene_ids, vocabulary.species
        (('Cd3e', 'Ms4a1'), 'mouse')
        >>> vocabulary.medians.tolist()
        [8750.0, 2500.0]
        """
        from sfm._matrix import select_matrix

        matrix = select_matrix(adata, layer=layer, use_raw=use_raw, gene_symbols=gene_symbols)
        columns = matrix.names.tolist()
        parsed = {name: parse_name(name) for name in columns}
        genes = sorted(name for name, parts in parsed.items() if parts.style != "empty")
        if not genes:
            msg = f"No gene in {matrix.names_slot} has a name. Pass gene_symbols= with a column of var that has them."
            raise ValueError(msg)
        row = {name: i for i, name in enumerate(genes)}
        column_of = np.array([row.get(name, -1) for name in columns])
        species, _ = species_of_names(list(parsed.values()), [name for name in genes if not parsed[name].ensembl_id])
        return cls(
            genes,
            medians=nonzero_medians(matrix.chunks(), len(genes), column_of) if medians else None,
            species=species,
        )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> GeneVocabulary:
        """Make the vocabulary that :meth:`to_dict` described.

        Parameters
        ----------
        fields
            What :meth:`to_dict` returned.

        Returns
        -------
        A vocabulary equal to the described one.

        Raises
        ------
        ValueError
            If `fields` describes no vocabulary, or one of a newer sfm.
        """
        return cls(**_serialise.arguments(fields))

    @classmethod
    def load(cls, path: str | Path) -> GeneVocabulary:
        """Read a vocabulary that :meth:`save` wrote.

        Parameters
        ----------
        path
            File to read.

        Returns
        -------
        The vocabulary.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file holds no vocabulary.
        """
        return cls.from_dict(_serialise.read(Path(path)))

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as JSON, exact to the last bit.

        Parameters
        ----------
        path
            File to write; an existing one is replaced.
        """
        _serialise.write(self.to_dict(), Path(path))

    def to_dict(self) -> dict[str, Any]:
        """Return the vocabulary in plain types that JSON can hold, exact to the last bit."""
        return _serialise.plain(self)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per token id in ascending order, special tokens included.

        Returns
        -------
        Columns `gene` (gene id or name of the special token), `symbol`, `special`, and where known `median` and
        `expression`, indexed by `token_id`.
        """
        return _serialise.frame(self)

    @property
    def pad_id(self) -> int | None:
        """Token id of `<pad>`, or `None`."""
        return self.special_tokens.get("<pad>")

    @property
    def mask_id(self) -> int | None:
        """Token id of `<mask>`, or `None`."""
        return self.special_tokens.get("<mask>")

    @property
    def cls_id(self) -> int | None:
        """Token id of `<cls>`, or `None`."""
        return self.special_tokens.get("<cls>")

    @property
    def eos_id(self) -> int | None:
        """Token id of `<eos>`, or `None`."""
        return self.special_tokens.get("<eos>")

    @property
    def size(self) -> int:
        """Largest token id + 1: the number of rows of an embedding for this vocabulary."""
        return 1 + max(int(self.token_ids.max(initial=-1)), *self.special_tokens.values(), -1)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of all fields, in hexadecimal; the same on every platform."""
        return _serialise.digest(self)

    def __len__(self) -> int:
        return len(self.gene_ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GeneVocabulary) and self.content_hash == other.content_hash

    def __hash__(self) -> int:
        return hash(self.content_hash)

    def __repr__(self) -> str:
        species = self.species or "species unknown"
        extras = "".join(f", {name}" for name in ("medians", "expression") if getattr(self, name) is not None)
        return f"GeneVocabulary({len(self)} genes, {species}, size {self.size}{extras}, hash {self.content_hash[:12]})"
