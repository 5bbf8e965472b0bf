"""The catalogue of published models."""

from __future__ import annotations

import re
from typing import Any

import pytest

import sfm
from sfm.checkpoints import _licence
from sfm.checkpoints._catalogue import known_entries
from sfm.checkpoints._entries import CATALOGUE
from sfm.checkpoints._family import FAMILIES
from sfm.checkpoints._licence import NonCommercialWarning, show_licence
from sfm.checkpoints._sources import BundledSource, CatalogueEntry, HubSource, ManualSource, UrlSource

by_name = pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)


def test_names_are_unique_and_speak() -> None:
    names = [entry.name for entry in CATALOGUE]
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)] == []


def test_every_family_that_is_read_has_models() -> None:
    # What scModelForge trains has no names: it is read from directories.
    assert set(FAMILIES.names()) - {"scmodelforge"} <= {entry.family for entry in CATALOGUE}


def test_every_model_that_is_listed_can_be_read() -> None:
    assert {entry.family for entry in known_entries().values()} <= {"sfm", *FAMILIES.names()}


def test_non_commercial_models() -> None:
    refused = {entry.name for entry in CATALOGUE if entry.commercial_use is False}
    assert refused == {"state-se-600m", "scfoundation", "c2s-pythia-160m"}
    allowed = {entry.family for entry in CATALOGUE if entry.commercial_use}
    assert allowed == {"sfm", "geneformer", "transcriptformer", "tahoe_x1", "uce", "cell_sentences"}
    unstated = {entry.family for entry in CATALOGUE if entry.commercial_use is None}
    assert unstated == {"scgpt", "nicheformer", "cellplm", "cell_sentences"}


@by_name
def test_what_is_said_of_commercial_use_goes_with_the_licence(entry: CatalogueEntry) -> None:
    of_weights = bool(entry.licence) and "(code)" not in entry.licence
    assert (entry.commercial_use is not None) == of_weights
    assert (entry.commercial_use is False) == ("NC" in entry.licence or "non-commercial" in entry.licence)


@by_name
def test_files_with_an_address_of_their_own_say_what_they_must_be(entry: CatalogueEntry) -> None:
    files = entry.source.files if isinstance(entry.source, UrlSource) and entry.family == "uce" else ()
    for file in files:
        assert re.fullmatch(r"https://api\.figshare\.com/v2/file/download/\d{8}", file.url)
        assert re.fullmatch(r"[0-9a-f]{32}", file.md5 or "")
        assert file.size


@by_name
def test_nothing_non_commercial_is_bundled(entry: CatalogueEntry) -> None:
    assert not isinstance(entry.source, BundledSource) or entry.commercial_use is True


@by_name
def test_files_stay_in_the_folder_of_the_model(entry: CatalogueEntry) -> None:
    if isinstance(entry.source, BundledSource):
        return
    paths = [file if isinstance(file, str) else file.path for file in entry.source.files]
    assert paths
    assert len(set(paths)) == len(paths)
    assert [path for path in paths if path.startswith(("/", ".")) or ".." in path] == []


@by_name
def test_addresses(entry: CatalogueEntry) -> None:
    source: Any = entry.source
    match source:
        case UrlSource():
            assert all(file.url.startswith("https://") for file in source.files)
        case HubSource():
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", source.repo)
            assert source.page.startswith(f"https://huggingface.co/{source.repo}")
            assert all(file.url.startswith("https://") for file in source.companions)
        case ManualSource():
            assert all("https://" in source.place_of(file) for file in source.files)


@by_name
def test_a_hub_model_fetches_no_code_and_no_model_of_another_folder(entry: CatalogueEntry) -> None:
    if not isinstance(entry.source, HubSource):
        return
    assert [file for file in entry.source.files if file.endswith(".py")] == []
    weights = [file for file in entry.source.files if file.endswith((".safetensors", ".bin", ".ckpt", ".torch"))]
    assert weights
    assert all(file.startswith(entry.source.subfolder) for file in weights)


@by_name
def test_options_are_those_of_the_family(entry: CatalogueEntry) -> None:
    if entry.name in known_entries() and entry.family != "sfm":
        assert set(entry.options) <= set(FAMILIES.load(entry.family).options)
    else:
        assert not entry.options or entry.family not in FAMILIES.names()


def test_list_models() -> None:
    models = sfm.list_models()
    assert models.index.tolist() == list(known_entries())
    assert models.loc["geneformer-v1-10m", ["family", "gene_ids", "context", "dims"]].tolist() == [
        "geneformer",
        "ensembl",
        2048,
        256,
    ]
    assert models[models["commercial_use"].fillna(value=False)].index[0] == "sfm-mini"
    assert models["size"].dropna().between(1e6, 1e11).all()


def test_a_name_that_is_nearly_right() -> None:
    with pytest.raises(ValueError, match=r"Unknown model 'geneformer-v1-10M'\. Did you mean 'geneformer-v1-10m'"):
        sfm.load("geneformer-v1-10M")
    with pytest.raises(ValueError, match=r"Unknown model 'zzz'\. Pass a name from `sfm\.list_models\(\)`"):
        sfm.load("zzz")


@pytest.mark.parametrize("family", ["state_se", "scfoundation"])
def test_a_non_commercial_licence_is_shown_once(
    family: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(_licence, "_shown", set())
    with pytest.warns(NonCommercialWarning, match="excludes commercial use.*https://"):
        show_licence(family)
    show_licence(family)
    show_licence("geneformer")
    assert len(recwarn) == 0


def test_in_a_family_with_several_licences_that_of_the_model_is_shown(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(_licence, "_shown", set())
    for name in ("c2s-scale-gemma-2-2b", "vandijklab/C2S-Scale-Gemma-2-2B", "a folder"):
        show_licence("cell_sentences", name=name)
    assert len(recwarn) == 0
    with pytest.warns(NonCommercialWarning, match="'c2s-pythia-160m' are under the CC-BY-NC-ND-4.0"):
        show_licence("cell_sentences", name="vandijklab/pythia-160m-c2s")
    show_licence("cell_sentences", name="c2s-pythia-160m")
    assert len(recwarn) == 0
