from __future__ import annotations

from typing import TYPE_CHECKING

import anndata
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfm.genes import GeneVocabulary, align_genes, gene_tables
from sfm.genes._alignment import FATES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HUMAN = gene_tables().human
CODING = HUMAN.coding_ids()
VOCABULARY = GeneVocabulary(CODING)
BY_SYMBOL = GeneVocabulary([HUMAN.symbols[gene_id] for gene_id in CODING], species="human")
MOUSE = GeneVocabulary(gene_tables().mouse.coding_ids())
CD3E, MS4A1, SEPTIN1 = (HUMAN.ids[symbol] for symbol in ("CD3E", "MS4A1", "SEPTIN1"))

STYLES: dict[str, Callable[[str], str]] = {
    "symbol": lambda gene_id: HUMAN.symbols[gene_id],
    "ensembl": lambda gene_id: gene_id,
    "versioned": lambda gene_id: f"{gene_id}.7",
    "lower": str.lower,
    "compound": lambda gene_id: f"{HUMAN.symbols[gene_id]}_{gene_id}",
    "compound_reversed": lambda gene_id: f"{gene_id}|{HUMAN.symbols[gene_id]}",
}


@pytest.mark.parametrize(
    ("name", "fate", "gene"),
    [
        (CD3E, "exact", CD3E),
        (f"{CD3E}.3", "version_stripped", CD3E),
        (f"{CD3E}.3_PAR_Y", "version_stripped", CD3E),
        (f"X_{CD3E}", "version_stripped", CD3E),
        (CD3E.lower(), "version_stripped", CD3E),
        ("CD3E", "via_symbol", CD3E),
        ("SEPT1", "previous_symbol", SEPTIN1),
        ("CD99_ENSG00000292348", "via_symbol", "ENSG00000002586"),
        ("ENSG99999999999_CD3E", "via_symbol", CD3E),
        ("ENSMUSG00000032093", "ortholog", CD3E),
        ("ENSRNOG00000016714", "other_species", ""),
        ("cd3e", "unknown", ""),
        ("ENSG99999999999", "unknown", ""),
        ("", "unknown", ""),
    ],
)
def test_fate_of_one_gene(name: str, fate: str, gene: str) -> None:
    alignment = align_genes([name], VOCABULARY)
    assert alignment.fate["fate"].tolist() == [fate]
    assert alignment.fate["gene"].tolist() == [gene]
    assert (alignment.token_ids[0] == -1) == (gene == "")


def test_ids_find_symbols_the_vocabulary_was_not_given() -> None:
    vocabulary = GeneVocabulary([CD3E], symbols=[""], species="human")
    assert align_genes(["CD3E"], vocabulary).fate["fate"].tolist() == ["via_ensembl_id"]


def test_older_vocabularies_are_found_by_current_names() -> None:
    vocabulary = GeneVocabulary(["SEPT1", "CD3E"], species="human")
    alignment = align_genes(["SEPTIN1", SEPTIN1, "SEPT1", CD3E], vocabulary)
    assert alignment.token_ids.tolist() == [4, 4, 4, 5]
    assert alignment.fate["fate"].tolist() == ["previous_symbol", "previous_symbol", "exact", "via_symbol"]


def test_genes_known_by_id_are_not_found_by_another_genes_previous_symbol() -> None:
    vocabulary = GeneVocabulary([CD3E], symbols=["SEPT1"])
    assert align_genes(["SEPTIN1", SEPTIN1], vocabulary).n_known == 0


def test_current_symbol_beats_previous_one() -> None:
    vocabulary = GeneVocabulary(["SEPT1", "SEPTIN1"], species="human")
    assert align_genes(["SEPTIN1", "SEPT1", SEPTIN1], vocabulary).token_ids.tolist() == [5, 4, 5]


def test_shared_symbol_goes_to_the_lowest_token_id() -> None:
    vocabulary = GeneVocabulary(["x", "y"], symbols=["s", "s"], token_ids=[9, 5])
    assert align_genes(["s"], vocabulary).token_ids.tolist() == [5]


def test_shared_symbol_goes_to_the_gene_it_means() -> None:
    vocabulary = GeneVocabulary(["ENSG00000292348", "ENSG00000002586"])
    assert vocabulary.symbols == ("CD99", "CD99")
    assert align_genes(["CD99"], vocabulary).token_ids.tolist() == [5]


def test_without_species_only_names_count() -> None:
    vocabulary = GeneVocabulary(["x", "SEPTIN1", "y"], symbols=["a", "b", "c"])
    names = ["x", "a", "SEPTIN1", "SEPT1", SEPTIN1, "x-1"]
    expected = ["exact", "via_symbol", "exact", "unknown", "unknown", "made_unique"]
    assert align_genes(names, vocabulary).fate["fate"].tolist() == expected


def test_suffix_is_only_removed_if_the_base_is_there() -> None:
    alignment = align_genes(["CD3E", "CD3E-1", "CD3E.2", "MS4A1-1", "NKX2-1"], VOCABULARY)
    fates = ["via_symbol", "made_unique", "made_unique", "unknown", "via_symbol"]
    assert alignment.fate["fate"].tolist() == fates
    assert alignment.fate["duplicate"].tolist() == [True, True, True, False, False]
    assert np.unique(alignment.token_ids[:3]).size == 1


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("vocabulary", [VOCABULARY, BY_SYMBOL], ids=["by_id", "by_symbol"])
def test_every_style_gives_the_same_tokens(style: str, vocabulary: GeneVocabulary) -> None:
    alignment = align_genes([STYLES[style](gene_id) for gene_id in CODING], vocabulary)
    np.testing.assert_array_equal(alignment.token_ids, vocabulary.token_ids)
    assert alignment.species == "human"
    assert alignment.coverage == 1.0
    assert not alignment.fate["duplicate"].any()


@given(st.lists(st.sampled_from(sorted(HUMAN.symbols)), min_size=1, max_size=30, unique=True), st.data())
def test_style_does_not_matter_for_part_of_a_vocabulary(gene_ids: list[str], data: st.DataObject) -> None:
    by_symbol = {HUMAN.symbols[gene_id]: gene_id for gene_id in gene_ids}
    chosen = data.draw(st.lists(st.sampled_from(sorted(by_symbol.values())), unique=True))
    vocabulary = GeneVocabulary(chosen, species="human")
    names = [f"{gene_id}.1" for gene_id in by_symbol.values()]
    expected = align_genes(by_symbol.values(), vocabulary).token_ids
    np.testing.assert_array_equal(align_genes(names, vocabulary).token_ids, expected)
    # Species of the symbols follows from most of them, so that human ones are added to be sure.
    symbols = [*by_symbol, "CD3E", "MS4A1", "SEPTIN1"] + [HUMAN.symbols[gene_id] for gene_id in CODING[:30]]
    np.testing.assert_array_equal(align_genes(symbols, vocabulary).token_ids[: len(names)], expected)


@given(st.permutations(["CD3E", "CD3E-1", "SEPT1", f"{MS4A1}.4", "ENSMUSG00000032093", "nope", "", "CD3E"]))
def test_order_of_genes_does_not_matter(names: list[str]) -> None:
    alignment = align_genes(names, VOCABULARY)
    reference = align_genes(sorted(names), VOCABULARY)
    fates = dict(zip(reference.fate.index, reference.fate.to_records(index=False).tolist(), strict=True))
    assert all(
        fates[name] == row for name, row in zip(names, alignment.fate.to_records(index=False).tolist(), strict=True)
    )
    assert alignment.params() == reference.params()


def test_mouse_symbols_find_human_orthologs() -> None:
    alignment = align_genes(["Cd3e", "Ms4a1", "Sept1", "Gm12345"], VOCABULARY)
    assert alignment.species == "mouse"
    assert alignment.fate["fate"].tolist() == ["ortholog", "ortholog", "ortholog", "unknown"]
    assert alignment.fate["gene"].tolist() == [CD3E, MS4A1, SEPTIN1, ""]


def test_human_names_find_mouse_orthologs() -> None:
    cd3e = gene_tables().mouse.ids["Cd3e"]
    alignment = align_genes(["CD3E", CD3E, "SEPT1", "HLA-DQA2"], MOUSE)
    assert alignment.species == "human"
    assert alignment.fate["fate"].tolist()[:3] == ["ortholog"] * 3
    assert alignment.fate["gene"].tolist()[:2] == [cd3e, cd3e]
    assert alignment.fate["duplicate"].tolist()[:3] == [True, True, False]


def test_mouse_ids_and_symbols_give_the_same_tokens() -> None:
    mouse = gene_tables().mouse
    by_id = align_genes(mouse.ids.values(), VOCABULARY)
    by_symbol = align_genes(mouse.ids, VOCABULARY)
    np.testing.assert_array_equal(by_id.token_ids, by_symbol.token_ids)
    assert by_id.n_known > 15_000


def test_symbols_alone_do_not_make_a_gene_murine() -> None:
    alignment = align_genes(["CD3E", "MS4A1", "Cd3e"], VOCABULARY)
    assert alignment.species == "human"
    assert alignment.fate["fate"].tolist() == ["via_symbol", "via_symbol", "unknown"]


def test_coverage_prefers_expected_expression() -> None:
    genes = ["a", "b", "c", "d"]
    with_expression = GeneVocabulary(genes, expression=[7, 1, 1, 1])
    names, totals = ["a", "a", "x"], [1, 2, 3]
    assert align_genes(names, with_expression, totals=totals).coverage == pytest.approx(0.7)
    assert align_genes(names, GeneVocabulary(genes), totals=totals).coverage == pytest.approx(0.5)
    assert align_genes(names, GeneVocabulary(genes)).coverage == pytest.approx(0.25)
    assert align_genes(names, GeneVocabulary(genes), totals=[0, 0, 0]).coverage_of == "genes"


def test_totals_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"totals has shape \(2,\) for 3 names"):
        align_genes(["a", "b", "c"], VOCABULARY, totals=[1.0, 2.0])


def test_no_genes() -> None:
    alignment = align_genes([], VOCABULARY)
    assert alignment.token_ids.shape == (0,)
    assert (alignment.n_known, alignment.coverage, alignment.species) == (0, 0.0, None)


def test_table_and_record() -> None:
    alignment = align_genes(["CD3E", "ENSRNOG00000016714"], VOCABULARY)
    assert alignment.fate.index.tolist() == ["CD3E", "ENSRNOG00000016714"]
    assert alignment.fate.columns.tolist() == ["id_style", "fate", "gene", "token_id", "duplicate"]
    assert alignment.fate["fate"].cat.categories.tolist() == list(FATES)
    assert alignment.token_ids.dtype == np.int32
    assert "\n" not in alignment.summary()
    assert "1 of 2 genes known" in alignment.summary()
    assert all(type(value) in {bool, int, float, str} for value in alignment.params().values())
    assert alignment.params()["gene_tables"] == gene_tables().version


def counts_per_gene(adata: anndata.AnnData) -> np.ndarray:
    return np.asarray(adata.X.sum(axis=0), dtype=np.float64).ravel()


def test_symbols_and_ids_of_pbmc_agree(shared_data: Path) -> None:
    adata = anndata.read_h5ad(shared_data / "pbmc1k_v3.h5ad")
    ids = adata.var["ensembl_id"].astype(str)
    by_symbol = align_genes(adata.var_names, VOCABULARY, totals=counts_per_gene(adata))
    by_id = align_genes(ids, VOCABULARY, totals=counts_per_gene(adata))
    assert min(by_symbol.coverage, by_id.coverage) > 0.93
    different = (by_symbol.token_ids != by_id.token_ids) & (ids != "").to_numpy()
    assert different.sum() <= 3


def test_old_symbols_are_brought_up_to_date(shared_data: Path) -> None:
    adata = anndata.read_h5ad(shared_data / "pbmc3k.h5ad")
    alignment = align_genes(adata.var_names, VOCABULARY, totals=counts_per_gene(adata))
    assert (alignment.fate["fate"] == "previous_symbol").sum() > 1_000
    assert alignment.coverage > 0.96


def test_mouse_data_on_a_human_vocabulary(shared_data: Path) -> None:
    adata = anndata.read_h5ad(shared_data / "mouse_hpc_spring.h5ad")
    alignment = align_genes(adata.var_names, VOCABULARY, totals=counts_per_gene(adata))
    assert alignment.species == "mouse"
    assert alignment.coverage > 0.93
