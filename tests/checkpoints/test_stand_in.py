"""Files that stand in for a download: git-lfs pointers and web pages are named as such."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import sfm
from sfm.checkpoints._stand_in import refuse_stand_in
from sfm.checkpoints._torch_archive import read_torch_archive
from sfm.checkpoints._torch_files import read_torch_file
from sfm.datasets import toy_model

GOLDENS = Path(__file__).parents[1] / "goldens"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = "<!DOCTYPE html><html>Google Drive - Virus scan warning</html>"
TEXTS = {
    "git-lfs pointer": (LFS, r"is no {kind} but a git-lfs pointer.*'version https://git-lfs.*Run `git lfs pull`"),
    "web page": (PAGE, r"is no {kind} but a web page, which begins with '<!DOCTYPE html>.*Download .* again"),
    "text": (
        "404: not found – sorry\n" * 50,
        r"is no {kind} but text, which begins with '404: not found.*Download .* again",
    ),
}
FILES = {
    "scgpt/model": "best_model.pt",
    "cellplm": "20230926_85M.best.ckpt",
    "uce/model_files": "2layer_model.torch",
    "transcriptformer/checkpoint": "model_weights.pt",
    "nicheformer/checkpoint": "nicheformer.ckpt",
    "state_se/checkpoint": "se_tiny_epoch16.ckpt",
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("folder", FILES)
@pytest.mark.parametrize("trust_pickle", [False, True])
def test_a_file_of_torch_that_is_text(folder: str, text: str, trust_pickle: bool, tmp_path: Path) -> None:
    shutil.copytree(GOLDENS / folder, tmp_path / "model")
    (tmp_path / "model" / FILES[folder]).write_text(TEXTS[text][0])
    with pytest.raises(ValueError, match=TEXTS[text][1].format(kind="torch file")) as error:
        sfm.load(tmp_path / "model", trust_pickle=trust_pickle)
    assert "trust_pickle" not in str(error.value)
    assert FILES[folder] in str(error.value)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("trust_pickle", [False, True])
def test_pickled_weights_that_are_text(text: str, trust_pickle: bool, tmp_path: Path) -> None:
    shutil.copytree(GOLDENS / "geneformer" / "A_v1", tmp_path / "v1")
    (tmp_path / "v1" / "model" / "model.safetensors").unlink()
    (tmp_path / "v1" / "model" / "pytorch_model.bin").write_text(TEXTS[text][0])
    with pytest.raises(ValueError, match=r"pytorch_model\.bin' " + TEXTS[text][1].format(kind="torch file")):
        sfm.load(tmp_path / "v1" / "model", trust_pickle=trust_pickle)


@pytest.mark.parametrize("text", ["git-lfs pointer", "web page"])
def test_safetensors_that_are_text(text: str, tmp_path: Path) -> None:
    toy_model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_text(TEXTS[text][0])
    with pytest.raises(ValueError, match=TEXTS[text][1].format(kind="safetensors file")):
        sfm.load(tmp_path)


@pytest.mark.parametrize("text", ["git-lfs pointer", "web page"])
@pytest.mark.parametrize("file", ["config.json", "cell_tokenizer.json"])
def test_settings_that_are_not_json(text: str, file: str, tmp_path: Path) -> None:
    toy_model().save_pretrained(tmp_path)
    (tmp_path / file).write_text(TEXTS[text][0])
    with pytest.raises(ValueError, match=TEXTS[text][1].format(kind="JSON file")):
        sfm.load(tmp_path)


@pytest.mark.parametrize("text", ["git-lfs pointer", "web page"])
def test_a_dictionary_that_is_text(text: str, tmp_path: Path) -> None:
    shutil.copytree(GOLDENS / "geneformer" / "A_v2", tmp_path / "v2")
    (tmp_path / "v2" / "dicts" / "token_dictionary_gc104M.pkl").write_text(TEXTS[text][0])
    with pytest.raises(ValueError, match=TEXTS[text][1].format(kind="pickle")):
        sfm.load(tmp_path / "v2" / "model")


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04abc", b"\x80\x02}q\x00.", b"\x89HDF\r\n", b"caf\xc3 is no UTF-8", b"zeros\x00\x00"],
)
def test_what_is_no_text_is_left_to_its_reader(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    refuse_stand_in(tmp_path / "file", what="a file", kind="torch file")


def test_a_character_that_is_cut_is_still_text(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("ä" * 400 + "x" + "ä" * 400)
    (tmp_path / "odd").write_text("x" + "ä" * 800)
    for name in ("file", "odd"):
        with pytest.raises(ValueError, match="is no torch file but text"):
            refuse_stand_in(tmp_path / name, what="a file", kind="torch file")


class Other:
    """What no file of weights should hold."""


@pytest.mark.parametrize("read", [read_torch_file, read_torch_archive])
def test_a_file_of_torch_with_other_objects_is_still_refused_as_such(read: Any, tmp_path: Path) -> None:
    torch.save({"a": Other()}, tmp_path / "file.pt")
    with pytest.raises(ValueError, match=r"could run any code.*trust_pickle=True"):
        read(tmp_path / "file.pt", what="the weights")
