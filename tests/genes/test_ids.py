from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfm.genes import id_styles
from sfm.genes._ids import dominant_style, parse_name, species_of_id, species_of_names, species_of_symbols


@pytest.mark.parametrize(
    ("name", "style", "ensembl_id"),
    [
        ("CD3E", "symbol", ""),
        ("AL627309.1", "symbol", ""),
        ("HLA-DRB1", "symbol", ""),
        ("ENSA", "symbol", ""),
        ("ENSG0000019885", "symbol", ""),
        ("ENSG00000198851", "ensembl", "ENSG00000198851"),
        ("ensg00000198851", "ensembl", "ENSG00000198851"),
        ("ENSMUSG00000032093", "ensembl", "ENSMUSG00000032093"),
        ("ENSRNOG00000016714", "ensembl", "ENSRNOG00000016714"),
        ("ENSG00000198851.12", "ensembl_versioned", "ENSG00000198851"),
        ("ENSG00000002586_PAR_Y", "ensembl_versioned", "ENSG00000002586"),
        ("ENSG00000002586.20_PAR_Y", "ensembl_versioned", "ENSG00000002586"),
        ("RP11-309M23.1_ENSG00000237531", "compound", "ENSG00000237531"),
        ("ENSG00000237531|X", "compound", "ENSG00000237531"),
        ("CD3E_ENSG00000198851.12", "compound", "ENSG00000198851"),
        ("ENSG00000198851.12_CD3E", "compound", "ENSG00000198851"),
        ("", "empty", ""),
        ("nan", "empty", ""),
    ],
)
def test_name_is_taken_apart(name: str, style: str, ensembl_id: str) -> None:
    assert id_styles([name]).tolist() == [style]
    assert parse_name(name)[:2] == (style, ensembl_id)


@given(st.text())
def test_any_text_has_a_style(name: str) -> None:
    parsed = parse_name(name)
    assert bool(parsed.ensembl_id) == (parsed.style in {"ensembl", "ensembl_versioned", "compound"})


@given(st.integers(0, 10**11 - 1), st.integers(0, 99))
def test_version_and_case_do_not_matter(number: int, version: int) -> None:
    gene_id = f"ENSG{number:011d}"
    name = f"{gene_id}.{version}"
    assert parse_name(name).ensembl_id == parse_name(name.lower()).ensembl_id == gene_id


def test_no_names_have_no_style() -> None:
    assert id_styles([]).shape == (0,)
    assert dominant_style([]) == "mixed"


@pytest.mark.parametrize(
    ("styles", "expected"),
    [
        (["symbol"] * 9 + ["ensembl"], "symbol"),
        (["symbol"] * 5 + ["ensembl"] * 5, "mixed"),
        (["ensembl"] * 2 + ["empty"] * 8, "ensembl"),
        (["ensembl_versioned"], "ensembl_versioned"),
        (["compound"] * 3, "mixed"),
    ],
)
def test_dominant_style(styles: list[str], expected: str) -> None:
    assert dominant_style(styles) == expected


def test_species_of_ids_and_symbols() -> None:
    assert species_of_id("ENSG00000198851") == "human"
    assert species_of_id("ENSMUSG00000032093") == "mouse"
    assert species_of_id("ENSRNOG00000016714") == "ENSRNOG"
    assert species_of_symbols(["CD3E", "MS4A1"]) == "human"
    assert species_of_symbols(["Cd3e", "Ms4a1", "GAPDH"]) == "mouse"
    assert species_of_symbols(["gene_1", "gene_2"]) is None


def test_species_of_a_mixed_set() -> None:
    names = ["CD3E", "ENSRNOG00000016714", "ENSRNOG00000016715"]
    assert species_of_names([parse_name(name) for name in names], ["CD3E"]) == ("ENSRNOG", "human")
    assert species_of_names([], []) == (None, None)
