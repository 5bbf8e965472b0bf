"""Archives of torch are read without importing or running what they name."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from sfm.checkpoints._torch_archive import read_torch_archive
from sfm.checkpoints._unpickler import Record

GOLDENS = Path(__file__).parents[1] / "goldens"
WHAT = "a thing to test"


class Malicious:
    """Unpickling this writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.marker,)


class Plain:
    """An object of a package that is not there when the file is read."""

    def __init__(self) -> None:
        self.inner = {"width": 3}
        self.tensor = torch.arange(2.0)


def read(path: Path, **options: object) -> object:
    return read_torch_archive(path, what=WHAT, **options)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
)
def test_tensors_are_those_that_torch_reads(tmp_path, dtype):
    whole = torch.arange(24).reshape(4, 6).to(dtype)
    saved = {
        "whole": whole,
        "part": whole[1:3, ::2],
        "transposed": whole.T,
        "one": whole[0, 0],
        "none": whole[:0],
        "repeated": whole[:1].expand(5, 6),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    torch.save(saved, tmp_path / "file.pt")
    found, expected = read(tmp_path / "file.pt"), torch.load(tmp_path / "file.pt", weights_only=True)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].stride() == tensor.stride()
        torch.testing.assert_close(found[name], tensor.detach(), rtol=0, atol=0)


def test_plain_objects_come_back(tmp_path):
    nested = defaultdict(list, a=[1, 2.5, None, True, "text", (1, 2), {3}, b"bytes", 2**70])
    saved = OrderedDict(nested=nested, numbers=np.arange(3), scalar=np.float64(2), size=torch.Size([1, 2]))
    torch.save(saved, tmp_path / "file.pt")
    found = read(tmp_path / "file.pt")
    assert found["nested"] == dict(nested)
    assert found["numbers"].tolist() == [0, 1, 2]
    assert (found["scalar"], found["size"]) == (2, (1, 2))


def test_what_is_changed_stays_in_memory(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "file.pt")
    before = (tmp_path / "file.pt").read_bytes()
    read(tmp_path / "file.pt")["a"].fill_(7)
    assert (tmp_path / "file.pt").read_bytes() == before


def test_objects_of_inert_packages_are_records_without_behaviour(tmp_path):
    torch.save({"object": Plain()}, tmp_path / "file.pt")
    package = Plain.__module__.partition(".")[0]
    found = read(tmp_path / "file.pt", inert=(package,))["object"]
    assert isinstance(found, Record)
    assert not isinstance(found, Plain)
    assert found.inner == {"width": 3}
    assert found.tensor.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"names '.*Plain', which a thing to test has no need of.*nothing was"):
        read(tmp_path / "file.pt")


def test_omegaconf_is_read_without_omegaconf():
    path = GOLDENS / "state_se" / "checkpoint" / "se_tiny_epoch16.ckpt"
    found = read(path, inert=("omegaconf", "typing"))
    assert isinstance(found["hyper_parameters"]["cfg"], Record)
    assert found["hyper_parameters"]["nhead"] == 4
    with pytest.raises(ValueError, match="names 'omegaconf"):
        read(path)


def evil(*, module: str, name: str, arguments: tuple[object, ...]) -> bytes:
    """Return a pickle that calls a function by name."""
    return b"\x80\x02" + f"c{module}\n{name}\n".encode() + pickle.dumps(arguments, protocol=2)[2:-1] + b"R."


@pytest.mark.parametrize("inert", [(), ("posix",), ("omegaconf",)])
@pytest.mark.parametrize("kind", ["object", "system", "getattr"])
def test_nothing_is_executed(tmp_path, kind, inert):
    marker = tmp_path / "executed"
    path = tmp_path / "file.pt"
    if kind == "object":
        torch.save({"weights": torch.ones(2), "extra": Malicious(marker)}, path)
    else:
        command = (f"touch {marker}",)
        content = (
            evil(module=os.name, name="system", arguments=command)
            if kind == "system"
            else evil(module="builtins", name="getattr", arguments=(os.name, "system"))
        )
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
    if kind == "system" and "posix" in inert:
        assert isinstance(read(path, inert=inert), Record)
    else:
        with pytest.raises(ValueError, match="nothing was executed or loaded"):
            read(path, inert=inert)
    assert not marker.exists()


def test_trust_is_needed_to_run_what_is_in_a_file(tmp_path):
    marker = tmp_path / "executed"
    torch.save({"extra": Malicious(marker)}, tmp_path / "file.pt")
    read(tmp_path / "file.pt", trust_pickle=True)
    assert marker.exists()


def test_one_file_cannot_change_how_the_next_is_read(tmp_path):
    # Sets an attribute of the class that it is handed for a storage.
    content = b"\x80\x02ctorch\nFloatStorage\nN}X\x05\x00\x00\x00dtypeNs\x86b."
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("archive/data.pkl", content)
    read(tmp_path / "evil.pt")
    torch.save({"a": torch.ones(2)}, tmp_path / "file.pt")
    assert read(tmp_path / "file.pt")["a"].tolist() == [1, 1]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_files_are_named(tmp_path, share):
    torch.save({"a": torch.ones(1000)}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "file.pt").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="file.pt' cannot be read as a thing to test.*may be truncated"):
        read(tmp_path / "file.pt")


def tampered(tmp_path: Path, change: object, *, compression: int = zipfile.ZIP_STORED) -> Path:
    torch.save({"a": torch.ones(8)}, tmp_path / "whole.pt")
    path = tmp_path / "tampered.pt"
    with zipfile.ZipFile(tmp_path / "whole.pt") as source, zipfile.ZipFile(path, "w", compression) as target:
        for name in source.namelist():
            content = change(name, source.read(name))
            if content is not None:
                target.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda name, content: content[:8] if "/data/" in name else content, "has fewer than 8 numbers"),
        (lambda name, content: None if "/data/" in name else content, "no item named"),
        (lambda name, content: None if name.endswith("data.pkl") else content, "not one of torch"),
        (lambda name, content: b"big" if name.endswith("byteorder") else content, "not little-endian"),
        (lambda name, content: content[:-20] if name.endswith("data.pkl") else content, "cannot be read"),
    ],
)
def test_archives_that_contradict_themselves_are_refused(tmp_path, change, reason):
    with pytest.raises(ValueError, match=reason):
        read(tampered(tmp_path, change))


def test_tensors_beyond_their_storage_are_refused(tmp_path):
    def longer(name: str, content: bytes) -> bytes:
        # The shape (8,), as BININT1 8 in a tuple of one.
        return content.replace(b"K\x08\x85", b"K\x7f\x85", 1) if name.endswith("data.pkl") else content

    with pytest.raises(ValueError, match="out of bounds"):
        read(tampered(tmp_path, longer))


def test_compressed_archives_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is compressed"):
        read(tampered(tmp_path, lambda _, content: content, compression=zipfile.ZIP_DEFLATED))


def test_old_files_hold_tensors_alone(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert read(tmp_path / "old.pt")["a"].tolist() == [1, 1]
    marker = tmp_path / "executed"
    torch.save({"a": Malicious(marker)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="more than tensors and plain objects"):
        read(tmp_path / "old.pt")
    assert not marker.exists()
    with pytest.raises(FileNotFoundError, match=r"Did not find 'none.pt'.*a thing to test"):
        read(tmp_path / "none.pt")
