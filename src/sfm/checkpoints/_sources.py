"""Where the files of a model are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class BundledSource:
    """A model that comes with the package."""

    page: str = "bundled"


@dataclass(frozen=True)
class RemoteFile:
    """A file with an address of its own."""

    url: str
    path: str
    """Where it goes in the folder of the model; for an archive, the folder that it becomes."""
    sha256: str | None = None
    md5: str | None = None
    """Where its page states no better hash; enough against damage, not against forgery."""
    size: int | None = None
    """Length in bytes."""
    archive: bool = False
    """Whether it is a tar archive, to be unpacked."""


@dataclass(frozen=True)
class HubSource:
    """Files of a repository on the Hugging Face hub."""

    repo: str
    files: tuple[str, ...]
    """Paths from the top of the repository, or glob patterns of them."""
    subfolder: str = ""
    """Folder of the model itself."""
    revision: str | None = None
    companions: tuple[RemoteFile, ...] = ()
    """Files that the model needs and its repository lacks."""

    @property
    def page(self) -> str:
        """Address of the page."""
        tree = f"/tree/{self.revision or 'main'}/{self.subfolder}" if self.subfolder else ""
        return f"https://huggingface.co/{self.repo}{tree}"


@dataclass(frozen=True)
class UrlSource:
    """Files that can be fetched from their addresses."""

    page: str
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True)
class ManualSource:
    """Files that only a browser can fetch."""

    page: str
    files: tuple[str, ...]
    """Paths in the folder of the model."""
    note: str = ""
    """Where on the page they are."""
    elsewhere: tuple[tuple[str, str], ...] = ()
    """Those that are on another page, with that page."""

    def place_of(self, file: str) -> str:
        """Page that one of the files is on, and where on it."""
        note = f" ({self.note})" if self.note else ""
        return dict(self.elsewhere).get(file, f"{self.page}{note}")


Source = BundledSource | HubSource | UrlSource | ManualSource


@dataclass(frozen=True)
class CatalogueEntry:
    """A model that can be named in `model=`. What its authors do not say is `None` or empty."""

    name: str
    family: str
    source: Source
    size: int | None = None
    """Number of parameters, rounded; frozen gene embeddings included."""
    species: str = ""
    gene_ids: str = ""
    """`"ensembl"` or `"symbol"`."""
    context: int | None = None
    """Genes of a cell that are read, at most."""
    dims: int | None = None
    """Length of a cell's vector."""
    licence: str = ""
    """Of the weights; where only that of the code is known, that with `(code)`."""
    commercial_use: bool | None = None
    citation: str = ""
    description: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of :func:`sfm.load` for this model, unless they are given."""
