"""Files of models are read without running them, whatever is in them."""

from __future__ import annotations

import os
import pickle
import subprocess
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sfm.annotation._celltypist import CellTypistReference
from sfm.checkpoints._unpickler import Record, read_pickle

MODEL = Path(__file__).parents[1] / "goldens" / "celltypist" / "multiclass.pkl"
PROTOCOLS = [2, 3, 4, 5]


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: object, *args: object, state: object = None) -> None:
        self.call = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


def write(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def named_global(module: str, name: str, *args: bytes) -> bytes:
    """A pickle of protocol 2 that calls a global with texts."""
    texts = b"".join(b"X" + len(text).to_bytes(4, "little") + text for text in args)
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + texts + b"tR."


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("function", [os.system, subprocess.check_output, eval, exec], ids=lambda f: f.__name__)
def test_a_call_in_a_pickle_is_not_made(tmp_path: Path, function: object, protocol: int) -> None:
    target = tmp_path / "written"
    command = f"touch {target}" if function is os.system else f"open({str(target)!r}, 'w').close()"
    call = Calls(function, ["touch", str(target)] if function is subprocess.check_output else command)
    path = write(tmp_path / "model.pkl", {"Model": call, "Scaler_": None, "description": {}}, protocol)
    with pytest.raises(ValueError, match=r"names '.*(system|check_output|eval|exec)'.* was not executed"):
        CellTypistReference.read(path)
    assert not target.exists()
    pickle.loads(path.read_bytes())
    assert target.exists()  # what it would have done


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("numpy.testing", "measure"),
        ("numpy.f2py", "compile"),
        ("numpy.f2py.crackfortran", "getlincoef"),
        ("numpy", "load"),
        ("numpy", "fromfile"),
        ("numpy._core.multiarray", "fromfile"),
        ("numpy.core.multiarray", "_reconstruct.__class__"),
        ("numpy.lib._npyio_impl", "load"),
        ("numpyro", "ndarray"),
        ("sklearnx", "LogisticRegression"),
        ("builtins", "getattr"),
        ("copyreg", "_reconstructor"),
    ],
)
def test_what_only_looks_like_numpy_or_scikit_learn_is_refused(tmp_path: Path, module: str, name: str) -> None:
    target = tmp_path / "written"
    path = tmp_path / "model.pkl"
    path.write_bytes(named_global(module, name, f"open({str(target)!r}, 'w')".encode()))
    with pytest.raises(ValueError, match=rf"names '{module}.{name}'.* was not executed"):
        CellTypistReference.read(path)
    assert not target.exists()


def test_classes_of_scikit_learn_become_records_and_are_not_imported(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(named_global("sklearn.no_such_module", "Anything", b"argument"))
    record = read_pickle(path, what="a test", inert=["sklearn"])
    assert isinstance(record, Record)
    assert record.origin == "sklearn.no_such_module.Anything"
    with pytest.raises(ValueError, match=r"a pickle of a sklearn.no_such_module.Anything"):
        CellTypistReference.read(path)


def forged(dtype: object, values: object, shape: tuple[int, ...] = (1,)) -> Calls:
    reconstruct = np.zeros(1).__reduce__()[0]
    return Calls(reconstruct, np.ndarray, (0,), b"b", state=(1, shape, dtype, False, values))


class ForgedDType:
    """A dtype whose state says something else than its name."""

    def __init__(self, code: str, state: tuple[object, ...]) -> None:
        self.call = (np.dtype, (code, False, True), state)

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


@pytest.mark.parametrize(
    "content",
    [
        # An array of objects whose pointers are taken from bytes, in four ways.
        forged(np.dtype("O"), b"\x41" * 8),
        Calls(np.ndarray, (1,), "O", b"\x41" * 8),
        forged(ForgedDType("V8", (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)), b"\x41" * 8),
        Calls(np.float64(1).__reduce__()[0], np.dtype("O"), b"\x41" * 8),
        # More or other values than bytes were given for.
        forged(np.dtype("f8"), b"\x00" * 8, shape=(1000,)),
        forged(np.dtype("f8"), b"\x00" * 8, shape=(-1, -1)),
        forged(np.dtype("f8"), [1.0]),
        forged("f8", b"\x00" * 8),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array(["2020-01-01"], dtype="M8[D]"),
    ],
)
def test_forged_and_special_arrays_are_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(ValueError, match="cannot be read as a test"):
        read_pickle(write(tmp_path / "model.pkl", content), what="a test")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(5.0),
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array(["a", "bcd"]),
        np.array(["a", None, 3], dtype=object),
        np.array([b"a", b"bc"]),
        np.array([True, False]),
        np.zeros((0, 3)),
        np.array(2.5),
        np.arange(3, dtype=">i4"),
        np.float32(2.5),
        np.int64(3),
        np.bool_(True),
    ],
    ids=repr,
)
def test_arrays_come_back_equal(tmp_path: Path, array: np.ndarray, core: str, protocol: int) -> None:
    content = {"array": array, "again": [array, "text"]}
    path = write(tmp_path / "arrays.pkl", content, protocol)
    if protocol == 2:  # where names of modules stand as lines
        path.write_bytes(path.read_bytes().replace(b"cnumpy._core.", f"c{core}.".encode()))
    read = read_pickle(path, what="a test")
    for found in (read["array"], read["again"][0]):
        np.testing.assert_array_equal(np.asarray(found), array)
        assert np.asarray(found).dtype.newbyteorder("=") == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.999])
def test_a_truncated_file_is_named_as_such(tmp_path: Path, share: float) -> None:
    content = MODEL.read_bytes()
    path = tmp_path / "cut.pkl"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cut.pkl' (cannot be read as|is empty).*(download|Download)"):
        CellTypistReference.read(path)


def test_a_garbled_file_does_no_harm(tmp_path: Path) -> None:
    rng, content = np.random.default_rng(0), np.frombuffer(MODEL.read_bytes(), dtype=np.uint8)
    path = tmp_path / "garbled.pkl"
    refused = 0
    for _ in range(200):
        changed = content.copy()
        where = rng.integers(2, len(content), 20)
        changed[where] = rng.integers(256, size=20)
        path.write_bytes(changed.tobytes())
        try:
            CellTypistReference.read(path)
        except ValueError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"hello, world", "no pickle"),
        (b"PK\x03\x04....", "a zip archive, such as torch writes"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x1f\x8b\x08\x00", "compressed with gzip"),
        (b'{"a": 1}', "text, perhaps JSON"),
    ],
)
def test_a_file_that_is_no_pickle_is_told_apart(tmp_path: Path, start: bytes, kind: str) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(start)
    with pytest.raises(ValueError, match=f"is {kind}, not a CellTypist model"):
        CellTypistReference.read(path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ([1, 2], "a list"),
        ({"weights": 1, "bias": 2}, r"a dict with 2 keys \('weights', 'bias'\)"),
        ({}, "an empty dict"),
        (np.arange(3), "a array"),
        ("text", "a str"),
    ],
)
def test_another_pickle_is_named(tmp_path: Path, content: object, kind: str) -> None:
    with pytest.raises(ValueError, match=rf"is not a CellTypist model, but a pickle of {kind}"):
        CellTypistReference.read(write(tmp_path / "other.pkl", content))


def test_a_pickle_of_another_class_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it is a pickle that names 'collections.OrderedDict'"):
        CellTypistReference.read(write(tmp_path / "other.pkl", OrderedDict(a=1)))


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLTYPIST_FOLDER", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"'Immune.pkl'.*download_models\(model='Immune.pkl'\)"):
        CellTypistReference.read("Immune.pkl")


def test_a_bare_name_is_found_where_celltypist_keeps_its_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELLTYPIST_FOLDER", str(tmp_path))
    folder = tmp_path / "data" / "models"
    folder.mkdir(parents=True)
    (folder / "Immune.pkl").write_bytes(MODEL.read_bytes())
    assert CellTypistReference.read("Immune.pkl").labels == CellTypistReference.read(MODEL).labels


def sound_model() -> SimpleNamespace:
    classifier = SimpleNamespace(
        classes_=np.array(["a", "b", "c"]),
        features=np.array(["G1", "G2"]),
        coef_=np.ones((3, 2)),
        intercept_=np.zeros(3),
    )
    scaler = SimpleNamespace(mean_=np.zeros(2), scale_=np.ones(2), with_mean=True)
    return SimpleNamespace(classifier=classifier, scaler=scaler, description={})


@pytest.mark.parametrize(
    ("part", "attribute", "value", "message"),
    [
        ("scaler", "scale_", np.array([1.0, 0.0]), "scale_ is not above 0 for 'G2'"),
        ("scaler", "mean_", np.array([1.0, np.nan]), "mean_ holds values that are NaN"),
        ("scaler", "mean_", np.zeros(3), r"mean_ has shape \(3,\), not \(2,\)"),
        ("scaler", "scale_", None, "has no 'scale_'"),
        ("scaler", "scale_", np.ones(1), r"scale_ has shape \(1,\)"),
        ("scaler", "mean_", None, "has no 'mean_'"),
        ("classifier", "coef_", np.ones((2, 2)), r"coef_ has shape \(2, 2\), not \(3, 2\)"),
        ("classifier", "coef_", np.full((3, 2), np.inf), "coef_ holds values that are NaN or infinite"),
        ("classifier", "coef_", "none", "holds no numbers"),
        ("classifier", "coef_", None, r"has no 'coef_'. Was it trained\?"),
        ("classifier", "features", np.array(["G1", "G1"]), "its features are not unique"),
        ("classifier", "features", 5, "'features' of its SimpleNamespace holds no names"),
        ("classifier", "features", np.array(["G1", None], dtype=object), "holds no names"),
        ("classifier", "classes_", np.array([1, "1", "2"], dtype=object), "its cell types are not unique"),
        ("classifier", "classes_", np.array(["a"]), "it has 1 cell types, and choosing takes two"),
        ("classifier", "intercept_", np.zeros(2), r"intercept_ has shape \(2,\)"),
    ],
)
def test_a_damaged_model_is_refused(part: str, attribute: str, value: object, message: str) -> None:
    model = sound_model()
    assert CellTypistReference.from_model(model).labels == ("a", "b", "c")
    setattr(getattr(model, part), attribute, value)
    with pytest.raises(ValueError, match=message):
        CellTypistReference.from_model(model)
