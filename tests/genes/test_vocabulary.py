from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from sfm.genes import GeneVocabulary

if TYPE_CHECKING:
    from pathlib import Path

POSITIVE = st.floats(min_value=1e-300, max_value=1e300)


@st.composite
def vocabularies(draw: st.DrawFn) -> GeneVocabulary:
    names = draw(st.lists(st.text(min_size=1), unique=True, max_size=8))
    n = len(names)
    token_ids = draw(st.none() | st.permutations(range(10, 10 + 2 * n)).map(lambda ids: ids[:n]))
    medians = draw(st.none() | st.lists(POSITIVE, min_size=n, max_size=n))
    shares = st.lists(st.floats(1e-6, 1e6), min_size=n, max_size=n)
    return GeneVocabulary(
        names,
        symbols=draw(st.none() | st.lists(st.text(), min_size=n, max_size=n)),
        token_ids=token_ids,
        medians=medians,
        expression=draw(st.none() | shares) if n else None,
        species=draw(st.sampled_from([None, "human", "mouse", "zebrafish"])),
    )


def full() -> dict[str, Any]:
    return {
        "gene_ids": ["A", "B", "C"],
        "symbols": ["a", "", "c"],
        "token_ids": [9, 5, 70],
        "special_tokens": {"<pad>": 1, "<cls>": 60_000},
        "medians": [0.1, 2.0, 1 / 3],
        "expression": [1.0, 2.0, 4.0],
        "species": "zebrafish",
    }


@given(vocabularies())
def test_dictionary_round_trip_is_exact(vocabulary: GeneVocabulary) -> None:
    again = GeneVocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict())))
    assert again == vocabulary
    assert again.to_dict() == vocabulary.to_dict()


def test_file_round_trip(tmp_path: Path) -> None:
    vocabulary = GeneVocabulary(**full())
    vocabulary.save(tmp_path / "v.json")
    again = GeneVocabulary.load(tmp_path / "v.json")
    assert again == vocabulary
    assert again.symbols == vocabulary.symbols
    np.testing.assert_array_equal(again.expression, vocabulary.expression)


def test_copy_is_equal() -> None:
    vocabulary = GeneVocabulary(**full())
    assert copy.deepcopy(vocabulary) == vocabulary


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gene_ids", ["A", "B", "D"]),
        ("symbols", ["a", "b", "c"]),
        ("token_ids", [9, 5, 71]),
        ("special_tokens", {"<pad>": 2, "<cls>": 60_000}),
        ("medians", [0.1, 2.0, np.nextafter(1 / 3, 1)]),
        ("medians", None),
        ("expression", [1.0, 2.0, 5.0]),
        ("expression", None),
        ("species", "human"),
    ],
)
def test_every_field_enters_the_hash(field: str, value: object) -> None:
    assert GeneVocabulary(**full() | {field: value}) != GeneVocabulary(**full())


def test_hash_is_the_same_on_every_platform() -> None:
    assert GeneVocabulary(**full()).content_hash == "3bc79de2957e994fe5f57bbfdfdc748617b9909090c29754cea4b499b7f3d706"


def test_defaults() -> None:
    vocabulary = GeneVocabulary(["ENSG00000198851", "ENSG00000156738.20", "ENSG99999999999"])
    assert vocabulary.species == "human"
    assert vocabulary.symbols == ("CD3E", "MS4A1", "")
    assert vocabulary.token_ids.tolist() == [4, 5, 6]
    assert vocabulary.token_ids.dtype == np.int32
    assert (vocabulary.pad_id, vocabulary.mask_id, vocabulary.cls_id, vocabulary.eos_id) == (0, 1, 2, 3)
    assert (len(vocabulary), vocabulary.size) == (3, 7)


def test_other_names_are_their_own_symbols() -> None:
    vocabulary = GeneVocabulary(["CD3E", "x"], special_tokens={})
    assert vocabulary.symbols == ("CD3E", "x")
    assert vocabulary.species is None
    assert vocabulary.token_ids.tolist() == [0, 1]
    assert vocabulary.pad_id is None


def test_published_vocabularies_may_have_gaps() -> None:
    vocabulary = GeneVocabulary(**full())
    assert vocabulary.size == 60_001
    assert vocabulary.pad_id == 1
    assert vocabulary.mask_id is None
    frame = vocabulary.to_frame()
    assert frame.index.tolist() == [1, 5, 9, 70, 60_000]
    assert frame["gene"].tolist() == ["<pad>", "B", "A", "C", "<cls>"]
    assert frame["special"].tolist() == [True, False, False, False, True]
    assert frame.loc[5, "median"] == 2.0


def test_expression_is_scaled_to_one() -> None:
    expression = GeneVocabulary(**full()).expression
    np.testing.assert_allclose(expression, [1 / 7, 2 / 7, 4 / 7])


def test_repr_is_one_line() -> None:
    assert "\n" not in repr(GeneVocabulary(**full()))
    assert "3 genes" in repr(GeneVocabulary(**full()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gene_ids": ["A", "B", "A"]}, "'A' is there 2 times"),
        ({"gene_ids": ["A", "", "C"]}, "gene_ids[1] is ''"),
        ({"symbols": ["a"]}, "symbols has 1 entries for 3"),
        ({"token_ids": [9, 9, 70]}, "'A' and 'B' both have token id 9"),
        ({"token_ids": [9, 1, 70]}, "'<pad>' and 'B' both have token id 1"),
        ({"token_ids": [9, -2, 70]}, "that of 'B' is -2"),
        ({"token_ids": [9, 2.5, 70]}, "that of 'B' is 2.5"),
        ({"token_ids": [9, 2]}, "token_ids has shape (2,)"),
        ({"special_tokens": {"<pad>": 1, "<cls>": 1}}, "'<pad>' and '<cls>' both have token id 1"),
        ({"special_tokens": {"<pad>": -1}}, "special_tokens['<pad>'] is -1"),
        ({"medians": [1.0, 0.0, 1.0]}, "medians[1] is 0.0"),
        ({"medians": [1.0, np.nan, 1.0]}, "medians[1] is nan"),
        ({"medians": [1.0]}, "medians has shape (1,)"),
        ({"expression": [1.0, -1.0, 1.0]}, "expression[1] is -1.0"),
        ({"expression": [0.0, 0.0, 0.0]}, "expression sums to 0"),
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        GeneVocabulary(**full() | fields)
    assert message in str(error.value)


def test_one_text_is_no_list_of_genes() -> None:
    with pytest.raises(TypeError, match="is one text"):
        GeneVocabulary("CD3E")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"gene\ttoken\n", "not JSON"),
        (b"\x80\x04\x95", "not JSON"),
        (b"[1, 2]", "'format' is 'list'"),
        (b'{"CD3E": 1}', "'format' is None"),
        (b'{"format": "sfm-gene-vocabulary", "version": 99}', "Update sfm-tools"),
        (b'{"format": "sfm-gene-vocabulary", "version": 1, "gene_ids": []}', "lacks"),
    ],
)
def test_other_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        GeneVocabulary.load(path)
    assert "v.json" in str(error.value)


def counts() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.poisson(2.0, (40, 6)) * rng.integers(0, 2, (40, 6))).astype(np.float32)


ARRAYS = {
    "dense": np.asarray,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "int": lambda X: sparse.csr_matrix(X.astype(np.int64)),
}


def adata_of(X: Any, names: list[str]) -> AnnData:
    adata = AnnData(X)
    adata.var_names = names
    return adata


@pytest.mark.parametrize("array", ARRAYS)
def test_medians_of_adata(array: str) -> None:
    X = counts()
    X[:, 4] = 0
    vocabulary = GeneVocabulary.from_adata(adata_of(ARRAYS[array](X), list("FEDCBA")))
    assert vocabulary.gene_ids == tuple("ABCDEF")
    totals = X.sum(axis=1, dtype=np.float64, keepdims=True)
    normalised = X[:, ::-1] / np.where(totals > 0, totals, 1) * 1e4
    expected = [np.median(gene[gene > 0]) if gene.any() else 1.0 for gene in normalised.T]
    np.testing.assert_array_equal(vocabulary.medians, expected)
    assert vocabulary.medians[1] == 1.0


def test_medians_of_backed_adata(tmp_path: Path) -> None:
    import anndata

    adata = adata_of(sparse.csr_matrix(counts()), list("FEDCBA"))
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert GeneVocabulary.from_adata(backed) == GeneVocabulary.from_adata(adata)
    backed.file.close()


def test_order_of_genes_and_cells_does_not_matter() -> None:
    adata = adata_of(sparse.csr_matrix(counts()), list("FEDCBA"))
    shuffled = adata[::-1, [3, 0, 5, 1, 2, 4]].copy()
    assert GeneVocabulary.from_adata(shuffled) == GeneVocabulary.from_adata(adata)


def test_columns_of_the_same_gene_are_summed() -> None:
    X = counts()
    adata = adata_of(X, list("ABCDEF"))
    adata.var["symbol"] = ["A", "B", "A", "", "C", "C"]
    merged = np.stack([X[:, 0] + X[:, 2], X[:, 1], X[:, 4] + X[:, 5], X[:, 3]], axis=1)
    expected = GeneVocabulary.from_adata(adata_of(merged, ["A", "B", "C", "Z"]))
    vocabulary = GeneVocabulary.from_adata(adata, gene_symbols="symbol")
    assert vocabulary.gene_ids == ("A", "B", "C")
    np.testing.assert_array_equal(vocabulary.medians, expected.medians[:3])


def test_chunks_do_not_change_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    import sfm

    adata = adata_of(sparse.csr_matrix(counts()), list("FEDCBA"))
    whole = GeneVocabulary.from_adata(adata)
    monkeypatch.setattr(sfm.settings, "chunk_size", 7)
    assert GeneVocabulary.from_adata(adata) == whole


def test_adata_without_gene_names_is_refused() -> None:
    adata = adata_of(counts(), list("ABCDEF"))
    adata.var["symbol"] = ""
    with pytest.raises(ValueError, match=r"adata\.var\['symbol'\]"):
        GeneVocabulary.from_adata(adata, gene_symbols="symbol")


def test_species_of_adata_is_guessed() -> None:
    X = np.ones((2, 2), dtype=np.float32)
    assert GeneVocabulary.from_adata(adata_of(X, ["Cd3e", "Ms4a1"]), medians=False).species == "mouse"
    assert GeneVocabulary.from_adata(adata_of(X, ["CD3E", "MS4A1"]), medians=False).species == "human"
    assert GeneVocabulary.from_adata(adata_of(X, ["q1", "q2"]), medians=False).species is None
