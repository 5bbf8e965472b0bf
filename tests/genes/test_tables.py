from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from sfm.genes import gene_tables

ROOT = Path(__file__).parents[2]
TABLES = "src/sfm/resources/genes/gene_tables.tsv.gz"


@pytest.mark.parametrize("species", ["human", "mouse"])
def test_symbols_and_ids_agree(species: str) -> None:
    tables = gene_tables().of(species)
    assert tables is not None
    assert all(tables.symbols[gene_id] == symbol for symbol, gene_id in tables.ids.items())
    assert set(tables.biotypes) <= set(tables.symbols)
    assert 19_000 < len(tables.coding_ids()) < 22_000


@pytest.mark.parametrize("species", ["human", "mouse"])
def test_a_current_symbol_is_never_a_previous_one(species: str) -> None:
    tables = gene_tables().of(species)
    assert tables is not None
    assert not tables.ids.keys() & tables.previous.keys()
    assert len(tables.previous) > 1_000


def test_orthologs_name_genes_of_the_tables() -> None:
    tables = gene_tables()
    assert set(tables.mouse.orthologs.values()) <= set(tables.human.ids)
    assert set(tables.human.orthologs.values()) <= set(tables.mouse.orthologs)
    assert all(tables.mouse.orthologs[mouse] == human for human, mouse in tables.human.orthologs.items())


@pytest.mark.parametrize("name", ["U1", "U6", "7SK", "Y_RNA", "5S_rRNA"])
def test_names_of_rna_families_are_no_orthologs(name: str) -> None:
    tables = gene_tables()
    assert name not in tables.mouse.orthologs
    assert name not in tables.human.orthologs


@pytest.mark.parametrize(
    ("mouse", "human"), [("Cd3e", "CD3E"), ("mt-Co1", "MT-CO1"), ("Malat1", "MALAT1"), ("Hba-a1", "HBA1")]
)
def test_known_orthologs(mouse: str, human: str) -> None:
    assert gene_tables().mouse.orthologs[mouse] == human


@pytest.mark.parametrize(("old", "new"), [("SEPT1", "SEPTIN1"), ("C10orf54", "VSIR"), ("GNB2L1", "RACK1")])
def test_known_previous_symbols(old: str, new: str) -> None:
    tables = gene_tables().human
    assert tables.symbols[tables.previous[old]] == new


def test_symbol_of_a_pseudoautosomal_gene_means_the_x_copy() -> None:
    assert gene_tables().human.ids["CD99"] == "ENSG00000002586"


def test_no_tables_for_other_species() -> None:
    assert gene_tables().of("ENSRNOG") is None
    assert gene_tables().of(None) is None


def test_script_makes_the_bundled_file(shared_data: Path, tmp_path: Path) -> None:
    script = ROOT / "scripts" / "build_gene_tables.py"
    out = tmp_path / "tables.gz"
    command = [sys.executable, str(script), "--source", str(shared_data / "resources"), "--out", str(out)]
    subprocess.run(command, check=True)
    # Compressed bytes may differ between versions of zlib.
    assert gzip.decompress(out.read_bytes()) == gzip.decompress((ROOT / TABLES).read_bytes())
