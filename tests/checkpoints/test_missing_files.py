"""Directories that are no model: what is missing is named, and what they look like."""

from __future__ import annotations

import re
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest

import sfm
from sfm.checkpoints._family import FAMILIES, families, recognised
from sfm.checkpoints._layout import compare
from sfm.datasets import toy_model

GOLDENS = Path(__file__).parents[1] / "goldens"
DICTIONARIES = GOLDENS / "geneformer" / "A_v2" / "dicts"
FOLDERS = {
    "geneformer": "geneformer/A_v2/model",
    "nicheformer": "nicheformer/checkpoint",
    "nicheformer of the hub": "nicheformer/checkpoint_hf",
    "uce": "uce/model_files",
    "state_se": "state_se/checkpoint",
    "scgpt": "scgpt/model",
    "tahoe_x1": "tahoe_x1/70m-model",
    "transcriptformer": "transcriptformer/checkpoint",
    "cellplm": "cellplm",
}
# Files without which directories were not recognised.
DECISIVE = [
    ("geneformer", "model.safetensors"),
    ("geneformer", "config.json"),
    ("transcriptformer", "config.json"),
    ("nicheformer of the hub", "config.json"),
    ("nicheformer", "nicheformer.ckpt"),
    ("cellplm", "20230926_85M.best.ckpt"),
    ("state_se", "se_tiny_epoch16.ckpt"),
    ("uce", "2layer_model.torch"),
]


def pattern_of(family: str, file: str) -> str:
    """What names a file in messages: its name, or what all such files end in."""
    return {"cellplm": ".best.ckpt", "state_se": "*.ckpt", "uce": "*.torch"}.get(family, file)


def copy(family: str, folder: Path, without: str | None = None) -> Path:
    shutil.copytree(GOLDENS / FOLDERS[family], folder)
    if without is not None:
        (folder / without).unlink()
    return folder


@pytest.mark.parametrize(("family", "file"), DECISIVE)
@pytest.mark.parametrize("named", [False, True])
def test_the_missing_file_and_the_family_are_named(family: str, file: str, named: bool, tmp_path: Path) -> None:
    directory = copy(family, tmp_path / "model", without=file)
    name = family.split()[0]
    options = {"family": name} if named else {}
    with pytest.raises(FileNotFoundError) as error:
        sfm.load(directory, **options)
    message = str(error.value)
    assert pattern_of(family, file) in message
    assert FAMILIES.load(name).title in message
    assert "vocabulary.json" not in message
    assert "Download" in message


def test_options_of_the_family_do_not_hide_what_is_missing(tmp_path: Path) -> None:
    for file in ("model.safetensors", "config.json"):
        directory = copy("geneformer", tmp_path / file, without=file)
        with pytest.raises(FileNotFoundError, match=rf"Geneformer.*{file}|{file}.*Geneformer"):
            sfm.load(directory, dictionaries=DICTIONARIES)


@pytest.mark.parametrize("family", FOLDERS)
def test_a_whole_checkpoint_has_all_files_of_its_layout(family: str) -> None:
    directory = GOLDENS / FOLDERS[family]
    found = recognised(directory)
    assert found is not None
    assert found.name == family.split()[0]
    assert any(not compare(directory, layout).missing for layout in found.layouts)


def test_all_families_say_what_they_need_and_download_it() -> None:
    for family in families():
        assert family.layouts
        for layout in family.layouts:
            for file in layout:
                assert any(fnmatch(name, pattern) for name in file.names for pattern in family.patterns), family.name


def test_several_families_that_it_could_be_are_all_named(tmp_path: Path) -> None:
    directory = copy("nicheformer of the hub", tmp_path / "model", without="config.json")
    with pytest.raises(FileNotFoundError) as error:
        sfm.load(directory)
    assert "of Nicheformer, which also needs 'config.json'" in str(error.value)
    assert "of scGPT, which also needs 'args.json'" in str(error.value)


@pytest.mark.parametrize("inside", ["model", "a/model"])
@pytest.mark.parametrize("options", [{}, {"family": "scgpt"}, {"max_length": 5}])
def test_the_folder_of_the_model_is_named(inside: str, options: dict[str, object], tmp_path: Path) -> None:
    copy("scgpt", tmp_path / "up" / inside)
    (tmp_path / "up" / "input.h5ad").touch()
    expected = rf"'{inside}' \(scGPT\) is a model: pass '{re.escape(str(tmp_path / 'up' / inside))}'"
    if "family" in options:
        expected = "is not a checkpoint of scGPT.*" + expected
    with pytest.raises(FileNotFoundError, match=expected):
        sfm.load(tmp_path / "up", **options)


def test_several_folders_with_models_are_named(tmp_path: Path) -> None:
    copy("scgpt", tmp_path / "first")
    toy_model().save_pretrained(tmp_path / "second")
    copy("scgpt", tmp_path / "third", without="args.json")
    (tmp_path / "third" / "config.json").write_text("damaged")
    with pytest.raises(
        FileNotFoundError,
        match=r"'first' \(scGPT\), 'second' \(written by `save_pretrained`\).* are models: pass '.*first'",
    ):
        sfm.load(tmp_path)


def test_a_directory_of_something_else_is_likened_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5", "architectures": ["T5Model"]}')
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(FileNotFoundError) as error:
        sfm.load(tmp_path)
    assert "looks most like" not in str(error.value)
    assert "['vocabulary.json', 'cell_tokenizer.json'] missing, found ['config.json', 'model.safetensors']" in str(
        error.value
    )


def test_the_settings_of_another_model_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match=r"not a checkpoint of Geneformer: 'config\.json' \(its settings\) is that of"):
        sfm.load(tmp_path, family="geneformer")


def test_options_for_a_model_that_was_saved_by_sfm_are_refused_as_before(tmp_path: Path) -> None:
    toy_model().save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="options such as 'dictionaries' mean nothing"):
        sfm.load(tmp_path, dictionaries="x")
    with pytest.raises(
        ValueError, match="not a checkpoint of scGPT, but written by `save_pretrained`: leave out family="
    ):
        sfm.load(tmp_path, family="scgpt")


@pytest.mark.parametrize("named", [False, True])
def test_an_unfinished_directory_of_sfm_is_not_taken_for_a_language_model(named: bool, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "sfm_cell", "architectures": ["CellForCausalLM"]}')
    (tmp_path / "model.safetensors").touch()
    if named:
        with pytest.raises(ValueError, match="'config.json' .* is that of another model"):
            sfm.load(tmp_path, family="cell_sentences")
    else:
        with pytest.raises(FileNotFoundError, match="'vocabulary.json', 'cell_tokenizer.json'. missing"):
            sfm.load(tmp_path)


def test_a_language_model_without_its_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"]}')
    with pytest.raises(FileNotFoundError, match=r"Did not find 'tokenizer\.json'.*splits text"):
        sfm.load(tmp_path)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("nowhere", "is not there"),
        ("empty", r"has no 'token_dictionary\*\.pkl'"),
        ("token_dictionary_gc104M.pkl", "is a file"),
    ],
)
def test_dictionaries_that_are_not_where_they_should_be(given: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copy(DICTIONARIES / "token_dictionary_gc104M.pkl", tmp_path)
    path = str(tmp_path / given)
    with pytest.raises(FileNotFoundError, match=rf"dictionaries='{re.escape(path)}' {why}\. Pass the folder"):
        sfm.load(GOLDENS / FOLDERS["geneformer"], dictionaries=path)
