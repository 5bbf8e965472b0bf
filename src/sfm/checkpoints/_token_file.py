"""Vocabularies that are JSON objects of token ids by gene."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sfm.checkpoints._pretrained import read_json

if TYPE_CHECKING:
    from pathlib import Path

    from sfm.genes import GeneVocabulary
    from sfm.genes._fields import Matching

_NEEDED = ("<pad>", "<cls>")


def read_token_file(path: Path, n_rows: int, *, matching: Matching, n_spare: int = 0) -> GeneVocabulary:
    """Read a vocabulary of human genes, with `<pad>` and `<cls>`.

    Parameters
    ----------
    path
        The file.
    n_rows
        Rows of the gene embedding that it belongs to.
    matching
        As for :class:`sfm.genes.GeneVocabulary`.
    n_spare
        How many of the rows may have no token.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds something else, or belongs to another model.
    """
    from sfm.genes import GeneVocabulary

    if not path.is_file():
        msg = f"Did not find {path.name!r} in {str(path.parent)!r}, which has the genes of the model. Download it as well."
        raise FileNotFoundError(msg)
    tokens = read_json(path)
    wrong = next((token for token, number in tokens.items() if not isinstance(number, int) or number < 0), None)
    if wrong is not None:
        msg = f"{str(path)!r} has {tokens[wrong]!r} as the token id of {wrong!r}. Download it again."
        raise ValueError(msg)
    missing = [token for token in _NEEDED if token not in tokens]
    if missing:
        msg = f"{str(path)!r} has no {missing[0]!r}. It is not the vocabulary that the model was trained with: download that."
        raise ValueError(msg)
    size = 1 + max(tokens.values())
    if not n_rows - n_spare <= size <= n_rows:
        msg = (
            f"{str(path)!r} has {size} tokens, but the weights beside it have {n_rows}. It is the vocabulary of another "
            "model: download both files from one folder."
        )
        raise ValueError(msg)
    special = {token: number for token, number in tokens.items() if token.startswith("<") and token.endswith(">")}
    genes = sorted(tokens.keys() - special.keys(), key=tokens.__getitem__)
    return GeneVocabulary(
        genes,
        token_ids=[tokens[gene] for gene in genes],
        special_tokens=special,
        matching=matching,
        species="human",
    )
