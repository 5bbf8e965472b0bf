"""Finished parts of an embedding on disk: what makes a run resumable."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sfm.files._paths import PARTS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    import numpy as np

_RUN, _NEW = "run.json", ".new"


@dataclass(frozen=True)
class Part:
    """Vectors of consecutive cells."""

    start: int
    vectors: np.ndarray
    """Float32 of shape `(cells, dims)`."""
    n_empty: int
    """Cells without a count on a known gene."""
    tokens_hash: str
    """What :func:`~sfm.files._fingerprint.hash_tokens` says of the cells."""

    @property
    def stop(self) -> int:
        """Row after the last."""
        return self.start + len(self.vectors)


class EmbeddingParts:
    """A folder with a file per window of cells, and the description of the run they belong to.

    A file gets its name when it is complete and on the disk; its vectors carry a checksum.

    Parameters
    ----------
    folder
        The folder.
    n_obs
        Cells in all.
    window_size
        Cells per part.
    """

    def __init__(self, folder: Path, *, n_obs: int, window_size: int) -> None:
        self.folder = folder
        self.n_obs = n_obs
        self.window_size = window_size

    def run(self) -> dict[str, Any] | None:
        """Return the description of the run that began here, `None` if none did."""
        try:
            run: dict[str, Any] = json.loads((self.folder / _RUN).read_text())
        except FileNotFoundError:
            return None
        return run

    def begin(self, run: dict[str, Any]) -> None:
        """Write the description of the run."""
        write_whole(self.folder / _RUN, json.dumps(run, indent=1).encode())

    def write(self, part: Part) -> None:
        """Store a part."""
        about = {
            "start": str(part.start),
            "n_empty": str(part.n_empty),
            "tokens": part.tokens_hash,
            "sha256": hashlib.sha256(part.vectors.tobytes()).hexdigest(),
        }
        write_whole(self._file(part.start), save({"vectors": part.vectors}, metadata=about))

    def read(self, start: int) -> Part | None:
        """Return the part that begins at a row, `None` if it is missing or damaged."""
        try:
            with safe_open(self._file(start), framework="np") as file:
                about, vectors = file.metadata() or {}, file.get_tensor("vectors")
        except (OSError, SafetensorError):
            return None
        n_cells = min(self.window_size, self.n_obs - start)
        sound = about.get("sha256") == hashlib.sha256(vectors.tobytes()).hexdigest()
        if not sound or about["start"] != str(start) or len(vectors) != n_cells:
            return None
        return Part(start, vectors, int(about["n_empty"]), about.get("tokens", ""))

    def finished(self) -> list[slice]:
        """Rows that sound parts hold, as few slices as possible."""
        return self._rows(are_finished=True)

    def missing(self) -> list[slice]:
        """Rows that no sound part holds, as few slices as possible."""
        return self._rows(are_finished=False)

    def _rows(self, *, are_finished: bool) -> list[slice]:
        found: list[slice] = []
        for start in range(0, self.n_obs, self.window_size):
            if (self.read(start) is not None) != are_finished:
                continue
            stop = min(start + self.window_size, self.n_obs)
            adjoins = found and found[-1].stop == start
            found.append(slice(found.pop().start if adjoins else start, stop))
        return found

    def __iter__(self) -> Iterator[Part]:
        """Yield all parts in order."""
        for start in range(0, self.n_obs, self.window_size):
            part = self.read(start)
            if part is None:
                msg = f"{str(self._file(start))!r} was damaged or removed. Run the same call again to compute it anew."
                raise OSError(msg)
            yield part

    def begun(self) -> bool:
        """Whether any part was stored."""
        return bool(self._stored())

    def bytes_left(self) -> int:
        """Bytes that are still to be written: parts, and the vectors of all of them once more."""
        stored = [path.stat().st_size for path in self._stored()]
        n_parts = -(-self.n_obs // self.window_size)
        return max(stored) * (2 * n_parts - len(stored))

    def keep(self, starts: Collection[int]) -> int:
        """Remove all parts but those that begin at some rows, and return how many were removed."""
        stale = self._stored() - {self._file(start) for start in starts}
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def clear(self) -> None:
        """Remove what belongs to the run; files of others stay."""
        for path in [*self._stored(), self.folder / _RUN, *self.folder.glob(f"*{_NEW}")]:
            path.unlink(missing_ok=True)

    def _stored(self) -> set[Path]:
        return set(self.folder.glob(PARTS))

    def _file(self, start: int) -> Path:
        return self.folder / PARTS.replace("*", f"{start:012d}")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that has its name only once it is on the disk."""
    new = path.with_name(path.name + _NEW)
    try:
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put names on the disk, where the system can do that to a folder."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
