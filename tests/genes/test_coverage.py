from __future__ import annotations

import warnings

import pytest

from sfm.genes import GeneVocabulary, align_genes, check_coverage, gene_tables

VOCABULARY = GeneVocabulary(["ENSG00000198851", "ENSG00000156738", "ENSG00000010610"], expression=[0.6, 0.37, 0.03])


def check(names: list[str], vocabulary: GeneVocabulary = VOCABULARY) -> None:
    check_coverage(align_genes(names, vocabulary), slot="adata.var_names", model="Model 'tiny'")


@pytest.mark.parametrize("names", [["CD3E"], ["CD3E", "MS4A1", "CD4"], ["Cd3e"], ["ENSG00000198851.3", "nope"]])
def test_enough_genes_pass_in_silence(names: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(names)


def test_few_genes_warn() -> None:
    with pytest.warns(UserWarning, match=r"below 50 %") as caught:
        check(["MS4A1", "q1", "q2", "q3", "q4", "q5", "q6"])
    message = str(caught[0].message)
    for part in (
        "'tiny'",
        "adata.var_names",
        "gene symbols of human species",
        "1 of 7",
        "37.0 %",
        "'q5'",
        "gene_symbols=",
    ):
        assert part in message
    assert "'q6'" not in message


def test_too_few_genes_raise() -> None:
    with pytest.raises(ValueError, match=r"below 5 %.*1 of 2 genes known, 3\.0 %.*'nope'.*gene_symbols="):
        check(["CD4", "nope"])


def test_no_gene_has_its_own_message() -> None:
    with pytest.raises(ValueError, match=r"knows none of the 2 genes.*'0', '1'.*gene_symbols="):
        check(["0", "1"])


def test_wrong_species_is_named() -> None:
    with pytest.raises(ValueError, match=r"ENSRNOG species.*made for human genes"):
        check(["ENSRNOG00000016714", "ENSRNOG00000016715"])


def test_thresholds_can_be_set() -> None:
    alignment = align_genes(["CD4"], VOCABULARY)
    check_coverage(alignment, slot="adata.var_names", model="Model 'tiny'", warn_below=0.0, error_below=0.0)
    with pytest.raises(ValueError, match="below 50 %"):
        check_coverage(alignment, slot="adata.var_names", model="Model 'tiny'", error_below=0.5)


def test_one_gene_of_a_whole_vocabulary_is_too_few() -> None:
    everything = GeneVocabulary(gene_tables().human.coding_ids())
    with pytest.raises(ValueError, match="knows too few"):
        check(["CD3E", *(f"q{i}" for i in range(100))], everything)
