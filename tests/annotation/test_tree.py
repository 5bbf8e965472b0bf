"""Labels fall back on broader ones."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest

from sfm.annotation._tree import LabelHierarchy

LABELS = ["CD4 T", "CD8 T", "B", "Mono"]
PARENTS = {"CD4 T": "T", "CD8 T": "T", "T": "lymphoid", "B": "lymphoid", "lymphoid": "cell", "Mono": "cell"}
NESTED = {"cell": {"lymphoid": {"T": ["CD4 T", "CD8 T"], "B": None}, "Mono": {}}}
GRAPH = nx.DiGraph([(parent, child) for child, parent in PARENTS.items()])
PROBABILITIES = np.array(
    [
        [0.90, 0.05, 0.03, 0.02],  # sure
        [0.40, 0.35, 0.15, 0.10],  # a T cell
        [0.35, 0.20, 0.30, 0.15],  # lymphoid
        [0.30, 0.10, 0.15, 0.45],  # nothing above is enough but everything
        [0.05, 0.05, 0.10, 0.80],
    ],
    dtype=np.float32,
)


def rolled_up(tree: Any, threshold: float, labels: list[str] = LABELS) -> list[str | None]:
    names, chosen = LabelHierarchy.read(tree, labels).roll_up(PROBABILITIES, PROBABILITIES.argmax(1), labels, threshold)
    return [None if code < 0 else names[code] for code in chosen]


@pytest.mark.parametrize("tree", [PARENTS, NESTED, GRAPH], ids=["parents", "children", "graph"])
def test_the_most_specific_label_that_is_probable_enough(tree: Any) -> None:
    assert rolled_up(tree, 0.6) == ["CD4 T", "T", "lymphoid", None, "Mono"]
    assert rolled_up(tree, 0.0) == ["CD4 T", "CD4 T", "CD4 T", "Mono", "Mono"]
    assert rolled_up(tree, 0.93) == ["T", None, None, None, None]


@pytest.mark.parametrize("threshold", np.linspace(0, 1, 9))
def test_a_higher_threshold_never_makes_a_label_more_specific(threshold: float) -> None:
    hierarchy = LabelHierarchy.read(PARENTS, LABELS)
    depth = {None: 9, **{name: i for label in LABELS for i, name in enumerate(hierarchy.path(label))}}
    lower, higher = rolled_up(PARENTS, threshold), rolled_up(PARENTS, min(1, threshold + 0.1))
    assert all(depth[a] <= depth[b] for a, b in zip(lower, higher, strict=True))


def test_labels_of_a_forest_have_their_own_roots() -> None:
    forest = {"T": ["CD4 T", "CD8 T"], "B": None, "Mono": None}
    assert rolled_up(forest, 0.7) == ["CD4 T", "T", None, None, "Mono"]
    as_parents = {"CD4 T": "T", "CD8 T": "T", "B": None, "Mono": None}
    assert rolled_up(as_parents, 0.7) == rolled_up(forest, 0.7)


def test_a_label_may_be_above_another() -> None:
    labels = ["T", "CD8 T", "B", "Mono"]
    assert rolled_up({"CD8 T": "T", "B": None, "Mono": None, "T": None}, 0.7, labels) == ["T", "T", None, None, "Mono"]


def test_scores_that_do_not_sum_to_one_give_no_more_than_one() -> None:
    names, chosen = LabelHierarchy.read(PARENTS, LABELS).roll_up(
        np.full((1, 4), 0.9, dtype=np.float32), np.array([0]), LABELS, 1.0
    )
    assert names[chosen[0]] == "T"


@pytest.mark.parametrize(
    ("tree", "error", "message"),
    [
        ({"CD4 T": "T"}, ValueError, "label_tree lacks 3 of the 4 labels of the reference, such as 'CD8 T'"),
        ({}, ValueError, "lacks 4 of the 4 labels"),
        ({**PARENTS, "lymphoid": "T"}, ValueError, "goes round in a circle"),
        ({"T": {"CD4 T": None}, "X": ["CD4 T"]}, ValueError, "'CD4 T' has two parents, 'T' and 'X'"),
        (nx.DiGraph([("T", "CD4 T"), ("X", "CD4 T")]), ValueError, "'CD4 T' has two parents"),
        (nx.Graph([("T", "CD4 T")]), TypeError, "label_tree is a Graph. Pass a dictionary"),
        ([("T", "CD4 T")], TypeError, "label_tree is a list"),
        ({"T": {"CD4 T": 3}}, TypeError, "label_tree has 3 below 'CD4 T'"),
    ],
)
def test_a_tree_that_will_not_do_is_refused(tree: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LabelHierarchy.read(tree, LABELS)
