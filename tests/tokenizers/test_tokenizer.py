"""Settings, names, and tokenizers of one's own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import ClassVar, Literal

import numpy as np
import pytest

import sfm
from sfm.tokenizers import TOKENIZERS, BinTokenizer, RankTokenizer, Tokenizer, get_tokenizer


def test_settings_round_trip_through_json(tokenizer_class: type[Tokenizer], vocabulary: sfm.GeneVocabulary) -> None:
    options = {"max_length": 77, "prepend_cls": False}
    if tokenizer_class is BinTokenizer:
        options["n_bins"] = 11
    tokenizer = tokenizer_class(vocabulary, **options)
    again = Tokenizer.from_dict(json.loads(json.dumps(tokenizer.to_dict())), vocabulary)
    assert type(again) is tokenizer_class
    assert again.to_dict() == tokenizer.to_dict() == {"tokenizer": tokenizer.name, **options}
    assert again.vocabulary is vocabulary
    assert again.params() == {**tokenizer.to_dict(), "vocabulary_hash": vocabulary.content_hash}


def test_repr_names_the_settings(tokenizer_class: type[Tokenizer], vocabulary: sfm.GeneVocabulary) -> None:
    assert "max_length=9, prepend_cls=True" in repr(tokenizer_class(vocabulary, max_length=9))


def test_names() -> None:
    assert {"rank", "bins", "values"} <= set(TOKENIZERS.names())
    for name in ("rank", "bins", "values"):
        assert get_tokenizer(name).name == name
        assert get_tokenizer(name).has_values == (get_tokenizer(name).value_kind is not None)
    with pytest.raises(ValueError, match=r"Unknown tokenizer 'ranks'. Known: .*'rank'"):
        get_tokenizer("ranks")
    with pytest.raises(ValueError, match="no 'tokenizer'"):
        Tokenizer.from_dict({"max_length": 3}, sfm.GeneVocabulary(["A"]))


@pytest.mark.parametrize("max_length", [1, 0, -5])
def test_no_room_for_genes(tokenizer_class: type[Tokenizer], max_length: int) -> None:
    with pytest.raises(ValueError, match=f"max_length={max_length} leaves no room"):
        tokenizer_class(sfm.GeneVocabulary(["A"]), max_length=max_length)


def test_vocabulary_without_cls(tokenizer_class: type[Tokenizer]) -> None:
    vocabulary = sfm.GeneVocabulary(["A", "B"], special_tokens={"<pad>": 0})
    with pytest.raises(ValueError, match=r"no '<cls>' \(special tokens: '<pad>'\). Pass prepend_cls=False"):
        tokenizer_class(vocabulary)
    tokenizer = tokenizer_class(vocabulary, prepend_cls=False)
    assert tokenizer(np.array([[1.0, 2.0]]), vocabulary.token_ids).input_ids.tolist() == [2, 1]


def test_cls_may_be_token_zero() -> None:
    vocabulary = sfm.GeneVocabulary(["A"], special_tokens={"<cls>": 0, "<pad>": 1})
    assert RankTokenizer(vocabulary)(np.array([[1.0]]), vocabulary.token_ids).input_ids.tolist() == [0, 2]


def test_a_cell_keeps_to_the_protocol(tokenizer_class: type[Tokenizer], counts: np.ndarray) -> None:
    vocabulary = sfm.GeneVocabulary([f"gene{i}" for i in range(counts.shape[1])])
    tokenizer = tokenizer_class(vocabulary)
    cell = tokenizer(counts, vocabulary.token_ids)[0]
    assert isinstance(cell, sfm.TokenizedCellProtocol)
    assert cell.metadata == tokenizer.to_dict()


class SquareRootTokenizer(Tokenizer):
    """Order by count, values are roots."""

    name: ClassVar[str] = "roots"
    has_values: ClassVar[bool] = True
    value_kind: ClassVar[Literal["bins", "continuous"] | None] = "continuous"

    def gene_divisors(self) -> np.ndarray | None:
        return self.vocabulary.medians

    def cell_values(self, counts: np.ndarray, indptr: np.ndarray) -> np.ndarray:
        assert indptr[-1] == counts.size
        return np.sqrt(counts).astype(np.float32)


def test_a_tokenizer_of_ones_own(vocabulary: sfm.GeneVocabulary, counts: np.ndarray) -> None:
    cells = SquareRootTokenizer(vocabulary, max_length=6)(counts, vocabulary.token_ids)
    ranked = RankTokenizer(vocabulary, max_length=6)(counts, vocabulary.token_ids)
    assert np.array_equal(cells.input_ids, ranked.input_ids)
    column = {token: i for i, token in enumerate(vocabulary.token_ids.tolist())}
    rows = np.repeat(np.arange(len(cells)), cells.lengths)
    for row, token, value in zip(rows, cells.input_ids.tolist(), cells.values.tolist(), strict=True):
        expected = 0 if token == vocabulary.cls_id else np.sqrt(counts[row, column[token]])
        assert value == pytest.approx(expected)


def test_import_is_light() -> None:
    code = (
        "import anndata, sys; before = set(sys.modules); import sfm.tokenizers; "
        "print(*{'torch', 'numba', 'scanpy', 'transformers'} & (set(sys.modules) - before))"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert shown.strip() == ""
