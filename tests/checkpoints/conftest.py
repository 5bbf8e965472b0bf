"""A file server on this machine, which can be told to fail."""

from __future__ import annotations

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from sfm.checkpoints import _licence
from sfm.checkpoints._entries import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class FileServer(ThreadingHTTPServer):
    """Serves a folder, with byte ranges, and breaks off or lies where a test says so."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        #: Path and byte range of each request.
        self.requests: list[tuple[str, str | None]] = []
        #: Bytes of the body after which the connection is closed, for each of the next requests.
        self.breaks: list[int] = []
        self.ranges = True
        self.etags = True
        self.status: int | None = None
        self.claimed_length: int | None = None
        #: Paths that are found elsewhere.
        self.redirects: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.requests.append((self.path.strip("/"), wanted))
        path = self.server.folder / self.path.strip("/")
        if self.path.strip("/") in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}/{self.server.redirects[self.path.strip('/')]}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        status = self.server.status or (200 if path.is_file() else 404)
        content = path.read_bytes() if status == 200 else b""
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        headers = {"ETag": etag} if self.server.etags else {}
        unchanged = self.headers["If-Range"] in (None, etag)
        if wanted and self.server.ranges and unchanged and status == 200:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            status = 206 if start < len(content) else 416
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            if status == 416:
                headers["Content-Range"] = f"bytes */{len(content)}"
            content = content[start:]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(self.server.claimed_length or len(content)))
        self.end_headers()
        self.wfile.write(content[: self.server.breaks.pop(0)] if self.server.breaks else content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def file_server(tmp_path: Path) -> Iterator[FileServer]:
    """Server of the folder `served`."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = FileServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _licences_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the licences of all families had been shown before, which happens once per process."""
    monkeypatch.setattr(_licence, "_shown", {entry.family for entry in CATALOGUE})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty cache of downloads."""
    monkeypatch.setenv("SFM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if HF_HUB_OFFLINE had been set before Python started."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
