"""What cells of query and reference are compared by: vectors of a model, expression, or both."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from sfm._matrix import select_matrix
from sfm._settings import settings
from sfm._state import input_state
from sfm.annotation._embed import embed_cells, naming
from sfm.annotation._expression import SharedCounts, comparable_names, expression_views
from sfm.annotation._overlap import shared_genes, shared_names
from sfm.annotation._provenance import stored_vectors
from sfm.checkpoints._resolve import resolve_model
from sfm.genes import align_genes
from sfm.genes._coverage import knows_enough

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData

    from sfm._matrix import CountMatrix
    from sfm.checkpoints import PretrainedCells
    from sfm.genes import GeneAlignment, GeneVocabulary

Views = Literal["both", "model", "expression"]

VIEWS: tuple[Views, ...] = get_args(Views)

_PROBE_ROWS = 256


@dataclass(frozen=True, eq=False)
class Side:
    """The query or the reference, and which of its matrices is read."""

    adata: AnnData
    where: dict[str, Any]

    name: str
    """What errors call it."""

    def matrix(self) -> CountMatrix:
        """That matrix."""
        return select_matrix(self.adata, **self.where)

    def genes(self, vocabulary: GeneVocabulary) -> GeneAlignment:
        """Its genes, matched to a vocabulary."""
        with naming(self.name):
            return align_genes(self.matrix().names, vocabulary)


@dataclass(eq=False)
class CellViews:
    """Vectors of the cells of both sides, by the name of the view."""

    query: dict[str, np.ndarray]
    """Float32 of shape `(n_query, n_dims)`."""
    labelled: dict[str, np.ndarray]
    """Of the labelled cells alone, float32 of shape `(n_labelled, n_dims)`."""
    params: dict[str, Any]
    """Provenance of the query."""
    found: dict[str, Any] = field(default_factory=dict)
    """What else is to be recorded."""
    is_empty: np.ndarray | None = None

    def add_known(
        self,
        query: Side,
        reference: Side,
        labelled: np.ndarray,
        pretrained: PretrainedCells,
        genes: np.ndarray | None,
        *,
        views: Views,
        compute: dict[str, Any],
    ) -> None:
        """Compare by the genes that the model knows and both sides have."""
        self.found["n_shared_genes"] = None if genes is None else int(genes.size)
        if views != "expression":
            with naming(query.name):
                vectors = embed_cells(query.adata, pretrained, query.where, compute=compute, genes=genes)
            of_reference = vectors
            if reference.adata is not query.adata or reference.where != query.where:
                with naming(reference.name):
                    of_reference = embed_cells(
                        reference.adata, pretrained, reference.where, compute=compute, genes=genes
                    )
            self.query["model"], self.labelled["model"] = vectors.vectors, of_reference.vectors[labelled]
            self.params, self.is_empty = {**pretrained.params(), **vectors.params}, vectors.is_empty
        if views != "model":
            self.add_expression(query, reference, labelled, pretrained, genes)

    def add_expression(
        self, query: Side, reference: Side, labelled: np.ndarray, pretrained: PretrainedCells, genes: np.ndarray | None
    ) -> None:
        """Compare expression too, of the genes that both sides have."""
        gate = not self.query  # or the gate was passed before
        with naming(query.name):
            of_query = SharedCounts.open(query.adata, pretrained, query.where, genes=genes, gate=gate)
        with naming(reference.name):
            of_reference = SharedCounts.open(reference.adata, pretrained, reference.where, genes=genes, gate=gate)
        self._project(of_query, of_reference, labelled)

    def add_expression_by_name(
        self, query: Side, reference: Side, labelled: np.ndarray, pretrained: PretrainedCells
    ) -> None:
        """Compare expression of the genes that have the same name on both sides, whether a model knows them or not."""
        names = shared_names(*(np.unique(comparable_names(side.matrix())) for side in (query, reference)))
        of_query, of_reference = (
            SharedCounts.open_by_name(side.adata, pretrained, side.where, names=names) for side in (query, reference)
        )
        self.found["n_shared_genes"] = int(names.size)
        self._project(of_query, of_reference, labelled)

    def _project(self, query: SharedCounts, reference: SharedCounts, labelled: np.ndarray) -> None:
        vectors = expression_views(query, reference, labelled)
        self.query["expression"], self.labelled["expression"] = vectors.query, vectors.labelled
        self.params = {**query.params(), **self.params}
        self.is_empty = vectors.is_empty if self.is_empty is None else self.is_empty


def computed_views(
    query: Side, reference: Side, labelled: np.ndarray, *, model: Any, views: Views, compute: dict[str, Any]
) -> CellViews:
    """Embed both sides, read their expression, or do both, with the genes that they share."""
    pretrained = resolve_model(model)
    made = CellViews({}, {}, {"vocabulary_hash": pretrained.vocabulary.content_hash}, {"use_rep": None})
    alignments = [side.genes(pretrained.vocabulary) for side in (query, reference)]
    known = all(knows_enough(alignment, settings.min_gene_coverage) for alignment in alignments)
    if views == "expression" and not known:
        made.add_expression_by_name(query, reference, labelled, pretrained)
        return made
    genes = _genes_of_both(alignments, pretrained.vocabulary)
    with _hint_unless(known):
        made.add_known(query, reference, labelled, pretrained, genes, views=views, compute=compute)
    return made


def stored_views(query: Side, reference: Side, labelled: np.ndarray, use_rep: str, *, expression: bool) -> CellViews:
    """Take the vectors that both sides have, and read their expression as well if that is wanted and possible."""
    vectors, of_reference = stored_vectors(query.adata, reference.adata, use_rep)
    found = {"use_rep": use_rep}
    made = CellViews({"model": vectors.vectors}, {"model": of_reference.vectors[labelled]}, vectors.params, found)
    if not expression:
        return made
    # Which genes they have in common is known by the vocabulary of the model, and only the bundled one is at hand.
    pretrained = resolve_model(None)
    sides = (query, reference)
    if vectors.params.get("vocabulary_hash") == pretrained.vocabulary.content_hash and all(map(_holds_counts, sides)):
        genes = _genes_of_both([side.genes(pretrained.vocabulary) for side in sides], pretrained.vocabulary)
        if genes is not None:
            made.add_expression(query, reference, labelled, pretrained, genes)
            made.found["n_shared_genes"] = int(genes.size)
    return made


def _genes_of_both(alignments: Sequence[GeneAlignment], vocabulary: GeneVocabulary) -> np.ndarray | None:
    """Token ids of the genes that both sides have. Genes that one side lacks would tell the two apart."""
    of_query, of_reference = [np.unique(ids[ids >= 0]) for ids in (alignment.token_ids for alignment in alignments)]
    # Without any gene, the coverage gate has the better message.
    return shared_genes(of_query, of_reference, vocabulary) if of_query.size and of_reference.size else None


@contextmanager
def _hint_unless(known: bool) -> Iterator[None]:  # noqa: FBT001
    """Say what can be done without a model, where the model does not know the genes."""
    try:
        yield
    except ValueError as error:
        if known:
            raise
        msg = f"{error.args[0]} Or compare expression alone, for which no model has to know the genes: `views='expression'`."
        raise ValueError(msg) from error


def _holds_counts(side: Side) -> bool:
    try:
        head = side.matrix().head(_PROBE_ROWS)
    except (KeyError, ValueError):  # the slot is not there: the vectors alone were asked for
        return False
    return input_state(head).kind == "counts"
