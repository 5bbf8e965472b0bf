"""Loading from the hub, by id and by name, against a server on this machine that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import sfm
from sfm.checkpoints._hub import parse_hub_id
from sfm.datasets import toy_model

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GENEFORMER = Path(__file__).parents[1] / "goldens" / "geneformer" / "A_v1"
V1 = "ctheodoris/Geneformer/Geneformer-V1-10M"


def contents(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def make_handler(repositories: Path) -> type[BaseHTTPRequestHandler]:
    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            parts = self.path.split("?")[0].strip("/").split("/")
            is_api = parts[:2] == ["api", "models"]
            repository = "/".join(parts[2:4] if is_api else parts[:2])
            files = contents(repositories / repository)
            path = "/".join(parts[4:])
            if is_api and files and parts[-1] in ("main", COMMIT):
                self.answer(json.dumps(tree(files) if "tree" in parts else about(repository, files)).encode())
            elif parts[2:3] == ["resolve"] and path in files:
                self.answer(files[path].read_bytes(), whole=repository != "lab/broken" or path != "model.safetensors")
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def answer(self, content: bytes, *, whole: bool = True) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content if whole else content[:1000])
                self.close_connection = not whole

        def log_message(self, *_: object) -> None:
            pass

    return Hub


def about(repository: str, files: dict[str, Path]) -> dict[str, object]:
    return {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}


def tree(files: dict[str, Path]) -> list[dict[str, object]]:
    return [{"type": "file", "path": name, "size": path.stat().st_size, "oid": COMMIT} for name, path in files.items()]


def make_repositories(folder: Path) -> None:
    """A model of sfm's own, and Geneformer's repository with what should and what should not be fetched."""
    toy_model().save_pretrained(folder / "lab" / "toy")
    for file in ("evil.pkl", "last.ckpt", "modeling.py"):
        (folder / "lab" / "toy" / file).write_bytes(b"never fetched")
    shutil.copytree(folder / "lab" / "toy", folder / "lab" / "broken")
    (folder / "lab" / "nothing").mkdir()
    (folder / "lab" / "nothing" / "README.md").write_text("# Nothing")

    top = folder / "ctheodoris" / "Geneformer"
    shutil.copytree(GENEFORMER / "model", top / "Geneformer-V1-10M")
    shutil.copytree(GENEFORMER / "dicts", top / "geneformer" / "gene_dictionaries_30m")
    (top / "geneformer" / "tokenizer.py").write_text("raise SystemExit")
    (top / "Geneformer-V1-10M" / "training_args.bin").write_bytes(b"never fetched")
    (top / "model.safetensors").write_bytes(b"another model")

    shutil.copytree(GENEFORMER / "model", folder / "lab" / "finetuned")
    shutil.copytree(GENEFORMER / "dicts", folder / "lab" / "finetuned", dirs_exist_ok=True)
    (folder / "lab" / "finetuned" / "model.safetensors").unlink()


@contextmanager
def serve(repositories: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(repositories))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


# In a process of its own: huggingface_hub reads its settings once, at import.
SCRIPT = """
import json, sys, sfm

def attempt(name, revision=None):
    try:
        pretrained = sfm.load(name, revision=revision)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return [pretrained.name, pretrained.revision, pretrained.params()["weights_hash"]]

print(json.dumps([attempt(*arguments) for arguments in json.loads(sys.argv[1])]))
"""


def attempts(*calls: tuple[str, ...], home: Path, **environment: str) -> list[Any]:
    """What `sfm.load` gives for each call: name, revision and hash of the weights, or the error."""
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(calls)],
        env={
            **os.environ,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_XET": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def fetched(home: Path, repository: str) -> set[str]:
    folder = home / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots" / COMMIT
    return set(contents(folder))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def online(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Any]:
    """What comes of each call where there is a server; one process makes all of them, since each has to import torch."""
    repositories = tmp_path_factory.mktemp("repositories")
    make_repositories(repositories)
    calls = [
        ("lab/toy",),
        ("lab/other",),
        ("lab/toy", "v9"),
        ("lab/broken",),
        ("geneformer-v1-10m",),
        (V1,),
        ("lab/finetuned",),
        ("lab/nothing",),
        ("ctheodoris/Geneformer/nothing",),
        ("tahoebio/Tahoe-x1",),
    ]
    with serve(repositories) as hub:
        return dict(zip(calls, attempts(*calls, home=home, HF_ENDPOINT=hub), strict=True))


@pytest.fixture(scope="module")
def offline(home: Path, online: dict[tuple[str, ...], Any]) -> dict[tuple[str, ...], Any]:
    """What comes of calls once the server is gone."""
    assert online
    calls = [("lab/toy",), ("lab/other",), ("geneformer-v1-10m",), ("geneformer-v2-104m",)]
    return dict(zip(calls, attempts(*calls, home=home, HF_HUB_OFFLINE="1"), strict=True))


def test_a_repository_in_our_layout(
    home: Path, online: dict[tuple[str, ...], Any], offline: dict[tuple[str, ...], Any]
) -> None:
    assert online["lab/toy",] == ["lab/toy", COMMIT, toy_model().params()["weights_hash"]]
    assert fetched(home, "lab/toy") == {
        "config.json",
        "model.safetensors",
        "vocabulary.json",
        "cell_tokenizer.json",
    }
    assert online["lab/other",].startswith("FileNotFoundError: Could not fetch 'lab/other' from")
    assert online["lab/toy", "v9"].startswith("FileNotFoundError: Could not fetch 'lab/toy' at revision 'v9'")
    assert online["lab/broken",].startswith(
        "ConnectionError: The download of 'lab/broken' from the Hugging Face hub broke"
    )

    assert offline["lab/toy",] == online["lab/toy",]
    assert offline["lab/other",].startswith("FileNotFoundError: Could not fetch 'lab/other'")
    assert "HF_HUB_OFFLINE forbids downloads" in offline["lab/other",]


def test_a_published_repository_by_name_and_by_id(
    home: Path, online: dict[tuple[str, ...], Any], offline: dict[tuple[str, ...], Any]
) -> None:
    direct = sfm.load(GENEFORMER / "model").params()["weights_hash"]
    assert online["geneformer-v1-10m",] == ["geneformer-v1-10m", COMMIT, direct]
    assert online[V1,] == [V1, COMMIT, direct]
    assert fetched(home, "ctheodoris/Geneformer") == {
        "Geneformer-V1-10M/config.json",
        "Geneformer-V1-10M/model.safetensors",
        *(f"geneformer/gene_dictionaries_30m/{path.name}" for path in (GENEFORMER / "dicts").iterdir()),
    }
    # Where there are no safetensors, the pickled weights are fetched, and read without running anything.
    assert online["lab/finetuned",] == ["lab/finetuned", COMMIT, direct]
    assert "FileNotFoundError" in online["lab/nothing",]
    assert "is not a model directory" in online["lab/nothing",]
    nothing = online["ctheodoris/Geneformer/nothing",]
    assert nothing.startswith("FileNotFoundError: There are no files of a model")
    assert "'geneformer-v1-10m'" in nothing
    assert online["tahoebio/Tahoe-x1",].startswith("FileNotFoundError: Could not fetch 'tahoebio/Tahoe-x1'")

    assert offline["geneformer-v1-10m",] == online["geneformer-v1-10m",]
    assert offline["geneformer-v2-104m",].startswith("FileNotFoundError")
    assert "HF_HUB_OFFLINE" in offline["geneformer-v2-104m",]


def test_a_file_that_the_repository_lacks_is_named(tmp_path: Path) -> None:
    repositories = tmp_path / "repositories"
    make_repositories(repositories)
    dictionary = "geneformer/gene_dictionaries_30m/gene_median_dictionary_gc30M.pkl"
    (repositories / "ctheodoris" / "Geneformer" / dictionary).unlink()
    with serve(repositories) as hub:
        [error] = attempts(("geneformer-v1-10m",), home=tmp_path / "home", HF_ENDPOINT=hub)
    assert error.startswith("FileNotFoundError: 'ctheodoris/Geneformer' lacks")
    assert dictionary in error


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("org/name", ("org/name", "")),
        ("org/name/folder", ("org/name", "folder")),
        ("org/name.v1/a/b-c", ("org/name.v1", "a/b-c")),
        ("name", None),
        ("../name", None),
        ("org/name/..", None),
        ("/org/name", None),
        ("org//name", None),
        ("org/name?x", None),
    ],
)
def test_hub_ids(text: str, parts: tuple[str, str] | None) -> None:
    assert parse_hub_id(text) == parts
