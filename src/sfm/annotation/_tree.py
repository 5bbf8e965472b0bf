"""Labels that belong to broader ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import networkx as nx

LabelTree: TypeAlias = "Mapping[str, Any] | nx.DiGraph"

_SHOWN = 10


@dataclass(frozen=True)
class LabelHierarchy:
    """Labels of a reference and the broader ones above them."""

    parents: dict[str, str]
    everything: str | None = None
    """The one label above all others, which says nothing."""

    @classmethod
    def read(cls, tree: LabelTree, labels: Sequence[str]) -> LabelHierarchy:
        """Read a dictionary of parents, a nested dictionary of children, or a graph with edges from parent to child.

        Raises
        ------
        TypeError
            If it is something else.
        ValueError
            If a label is not in it, a label has two parents, or labels are their own ancestors.
        """
        parents: dict[str, str] = {}
        names: dict[str, None] = {}
        for parent, child in _edges(tree):
            names[child] = None
            if parent is None:
                continue
            names[parent] = None
            if parents.setdefault(child, parent) != parent:
                msg = f"label_tree: {child!r} has two parents, {parents[child]!r} and {parent!r}. Keep one of them."
                raise ValueError(msg)
        _refuse_cycles(parents)
        missing = [label for label in labels if label not in names]
        if missing:
            msg = (
                f"label_tree lacks {len(missing)} of the {len(labels)} labels of the reference, such as {missing[0]!r}. "
                f"It has: {', '.join(map(repr, list(names)[:_SHOWN])) or 'nothing'}. Add them, with None as parent where "
                "nothing is above."
            )
            raise ValueError(msg)
        top = [name for name in names if name not in parents]
        return cls(parents, top[0] if len(top) == 1 and top[0] not in labels else None)

    def path(self, label: str) -> list[str]:
        """Return a label and those above it, the most specific first, without the one above everything."""
        names = [label]
        while (parent := self.parents.get(names[-1])) is not None and parent != self.everything:
            names.append(parent)
        return names

    def roll_up(
        self, probabilities: np.ndarray, best: np.ndarray, labels: Sequence[str], threshold: float
    ) -> tuple[list[str], np.ndarray]:
        """Give each cell the most specific of its best label and the labels above it that is probable enough.

        The probability of a label is the sum over those of the reference that are it or below it, at most 1.

        Returns
        -------
        Names of labels, those of the reference first, and the number of the name of each cell, -1 for none.
        """
        paths = [self.path(label) for label in labels]
        names = list(dict.fromkeys([*labels, *(name for path in paths for name in path)]))
        numbers = [[names.index(name) for name in path] for path in paths]
        below = np.zeros((len(labels), len(names)), dtype=np.float32)
        for label, path in enumerate(numbers):
            below[label, path] = 1
        summed = np.minimum(probabilities @ below, 1)  # (cells, names)
        chosen = np.full(len(best), -1)
        for label in np.unique(best):
            cells = np.flatnonzero(best == label)
            enough = summed[np.ix_(cells, numbers[label])] >= threshold  # (cells, path)
            chosen[cells] = np.where(enough.any(axis=1), np.array(numbers[label])[enough.argmax(axis=1)], -1)
        return names, chosen


def _edges(tree: Any) -> Iterable[tuple[str | None, str]]:
    """Parents and children; `None` is the parent of labels that have none above them."""
    if isinstance(tree, Mapping):
        if all(value is None or isinstance(value, str) for value in tree.values()):
            return [(parent, str(child)) for child, parent in tree.items()]
        return list(_nested_edges(tree))
    if hasattr(tree, "edges") and hasattr(tree, "is_directed") and tree.is_directed():
        edges = [(str(parent), str(child)) for parent, child in tree.edges]
        return [*((None, str(name)) for name in tree.nodes), *edges]
    msg = (
        f"label_tree is a {type(tree).__name__}. Pass a dictionary from label to parent, a nested dictionary from parent "
        "to children, or a networkx.DiGraph with edges from parent to child."
    )
    raise TypeError(msg)


def _nested_edges(tree: Any, parent: str | None = None) -> Iterator[tuple[str | None, str]]:
    children = [tree] if isinstance(tree, str) else tree
    if not isinstance(children, Mapping | list | tuple | set | None):
        msg = f"label_tree has {tree!r} below {parent!r}. Children are a dictionary, a list of labels, or None."
        raise TypeError(msg)
    for child in children or ():
        yield parent, str(child)
        if isinstance(children, Mapping):
            yield from _nested_edges(children[child], str(child))


def _refuse_cycles(parents: dict[str, str]) -> None:
    for start in parents:
        seen, label = {start}, parents[start]
        while label in parents and label not in seen:
            seen.add(label)
            label = parents[label]
        if label in seen:
            msg = f"label_tree goes round in a circle: {label!r} is its own ancestor."
            raise ValueError(msg)
