"""Labels of a reference: what is read, left out, and refused."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from sfm.annotation._labels import read_labels


def labelled(values: Any) -> ad.AnnData:
    adata = ad.AnnData(np.zeros((len(values), 1), dtype=np.float32))
    adata.obs["label"] = values
    return adata


@pytest.mark.parametrize("dtype", ["object", "category", "string"])
def test_names_are_kept_and_sorted_naturally(dtype: str) -> None:
    names = ["type 10", "type 2", " spaced ", "type 10", "type 2", " spaced "]
    read = read_labels(labelled(pd.array(names, dtype=dtype)), "label")
    assert read.names == (" spaced ", "type 2", "type 10")
    assert [read.names[code] for code in read.codes] == names
    assert read.labelled.all()


@pytest.mark.parametrize("missing", [None, np.nan, "", "  "])
@pytest.mark.parametrize("dtype", ["object", "category"])
def test_cells_without_a_label_are_left_out(missing: Any, dtype: str) -> None:
    read = read_labels(labelled(pd.Series(["a", missing, "b", "a", "b"], dtype=object).to_numpy(dtype=object)), "label")
    assert read.labelled.tolist() == [True, False, True, True, True]
    assert read.codes.tolist() == [0, 1, 0, 1]


def test_number_of_cells_without_a_label_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr("sfm.annotation._labels.logg.info", written.append)
    read_labels(labelled(pd.Categorical(["a", None, "b", "a", "b"])), "label")
    assert written == ["    1 of 5 reference cells have no label and are left out"]


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        (["unknown", "unknown"], "'unknown'"),
        (["Unknown", "UNKNOWN "], "'UNKNOWN ' or 'Unknown'"),
    ],
)
def test_unknown_is_not_a_label_however_it_is_written(texts: list[str], shown: str) -> None:
    with pytest.warns(UserWarning, match=f"2 cells of the reference are labelled {shown} in .* rejected cells"):
        read = read_labels(labelled(["a", texts[0], "b", "a", "b", texts[1]]), "label")
    assert read.names == ("a", "b")
    assert read.labelled.tolist() == [True, False, True, True, True, False]


@pytest.mark.parametrize(
    "missing", [pd.Series([np.nan]), pd.Series([None], dtype=object), pd.Series([pd.NA], dtype="string")]
)
def test_missing_values_that_became_text_are_left_out(missing: pd.Series) -> None:
    text = missing.astype(object).map(str).iloc[0]
    with pytest.warns(UserWarning, match=f"1 cells of the reference are labelled {text!r} in .* written as text"):
        read = read_labels(labelled(["a", text, "b", "a", "b"]), "label")
    assert read.names == ("a", "b")
    assert read.labelled.tolist() == [True, False, True, True, True]


@pytest.mark.parametrize("name", ["unknown 2", "Unknown T", "nan cell", "NA", "none"])
def test_names_that_only_resemble_missing_ones_are_labels(name: str) -> None:
    assert read_labels(labelled(["a", name, "a", name]), "label").labelled.all()


@pytest.mark.parametrize(
    "values", [[1, 2, 1, 10, 2, 10], [1.0, 2.0, 1.0, 10.0, 2.0, 10.0], pd.Categorical([1, 2, 1, 10, 2, 10])]
)
def test_whole_numbers_are_names_with_a_warning(values: Any) -> None:
    with pytest.warns(
        UserWarning, match=r"obs\['label'\] of the reference holds whole numbers; they are taken as names"
    ):
        read = read_labels(labelled(values), "label")
    assert read.names == ("1", "2", "10")
    assert read.codes.tolist() == [0, 1, 0, 2, 1, 2]


def test_numbers_may_be_missing() -> None:
    with pytest.warns(UserWarning, match="holds whole numbers"):
        read = read_labels(labelled([1.0, np.nan, 2.0, 1.0, 2.0]), "label")
    assert read.names == ("1", "2")


def test_booleans_are_names() -> None:
    assert read_labels(labelled([True, False, True, False]), "label").names == ("False", "True")


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (
            [0.5, 1.5, 2.5],
            ValueError,
            "obs.'label'. of the reference holds numbers such as 0.5: measurements rather than labels",
        ),
        (["a", "a", "a"], ValueError, "only the label 'a' in obs.'label'. .3 labelled cells.. Two labels are needed"),
        (["a", "a", None], ValueError, "only the label 'a'"),
        ([None, None], ValueError, "no label at all in obs.'label'. .0 labelled cells"),
    ],
)
def test_labels_that_will_not_do_are_refused(values: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_labels(labelled(values), "label")


def test_a_column_that_is_there_twice_is_named() -> None:
    reference = labelled(["a", "b"])
    reference.obs = pd.concat([reference.obs, reference.obs], axis=1)
    with pytest.raises(ValueError, match=r"obs\['label'\] of the reference is there 2 times"):
        read_labels(reference, "label")


def test_a_missing_column_is_named_with_those_that_are_there() -> None:
    with pytest.raises(KeyError, match=r"The reference has no obs\['cell_type'\]. Columns present: 'label'"):
        read_labels(labelled(["a", "b"]), "cell_type")


def test_a_label_with_one_cell_is_kept_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"1 labels in obs\['label'\] have one reference cell only \('b'\)"):
        read = read_labels(labelled(["a", "a", "b"]), "label")
    assert read.names == ("a", "b")
