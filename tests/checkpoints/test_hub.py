"""Loading by hub id, against a server on this machine that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from sfm.datasets import toy_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def about(folder: Path) -> dict[str, object]:
    files = [{"rfilename": path.name} for path in folder.iterdir()]
    return {"id": "lab/toy", "sha": COMMIT, "siblings": files}


def listing(folder: Path) -> list[dict[str, object]]:
    return [
        {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": COMMIT} for path in folder.iterdir()
    ]


def make_handler(folder: Path) -> type[BaseHTTPRequestHandler]:
    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            parts = self.path.split("?")[0].strip("/").split("/")
            if parts[:4] == ["api", "models", "lab", "toy"] and parts[-1] in ("main", COMMIT):
                self.answer(json.dumps(listing(folder) if "tree" in parts else about(folder)).encode())
            elif parts[:3] == ["lab", "toy", "resolve"] and (folder / parts[-1]).exists():
                self.answer((folder / parts[-1]).read_bytes())
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()

        def answer(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "repository"
    toy_model().save_pretrained(folder)
    (folder / "evil.pkl").write_bytes(b"never fetched")
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(folder))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


# In a process of its own: huggingface_hub reads its settings once, at import.
SCRIPT = """
import json, sys, sfm
pretrained = sfm.load(sys.argv[1], revision=None if len(sys.argv) < 3 else sys.argv[2])
print(json.dumps([pretrained.name, pretrained.revision, pretrained.params()["weights_hash"]]))
"""


def load_in_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_hub_id(hub: str, tmp_path: Path) -> None:
    online = load_in_process("lab/toy", HF_ENDPOINT=hub, HF_HOME=str(tmp_path / "home"))
    assert online.returncode == 0, online.stderr
    name, revision, weights_hash = json.loads(online.stdout)
    assert (name, revision) == ("lab/toy", COMMIT)
    assert weights_hash == toy_model().params()["weights_hash"]
    assert not list(tmp_path.glob("home/**/evil.pkl"))

    offline = load_in_process("lab/toy", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "home"))
    assert json.loads(offline.stdout) == [name, revision, weights_hash], offline.stderr


@pytest.mark.parametrize("arguments", [("lab/other",), ("lab/toy", "v9")])
def test_what_the_hub_does_not_have(hub: str, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = load_in_process(*arguments, HF_ENDPOINT=hub, HF_HOME=str(tmp_path / "home"))
    assert result.returncode == 1
    assert f"FileNotFoundError: Could not fetch '{arguments[0]}'" in result.stderr.splitlines()[-1]
