"""Embedding what is missing of a file, part by part."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sfm import _logging as logg
from sfm._warn import warn
from sfm.files._assembly import remove_assembled
from sfm.files._errors import reading, refuse_small_disk, writing
from sfm.files._fingerprint import describe_input, differences, hash_tokens, without_content
from sfm.files._parts import EmbeddingParts, Part
from sfm.inference import embed_tokens
from sfm.inference._cells import PACKAGES, compute_params, embedding_params, is_empty, report_constant, report_empty
from sfm.inference._loop import cell_bar
from sfm.inference._minibatches import MinibatchLimits
from sfm.inference._prepare import prepared

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sfm.checkpoints import PretrainedCells
    from sfm.data._stream import CellStream
    from sfm.files._fingerprint import Fingerprint
    from sfm.files._paths import FilePaths
    from sfm.tokenizers import TokenizedCells


@dataclass(frozen=True, eq=False)
class FileRun:
    """A file, a model, and all options that vectors depend on."""

    paths: FilePaths
    pretrained: PretrainedCells
    stream: CellStream
    shape: tuple[int, int]
    where: dict[str, Any]
    """`layer`, `use_raw` and `gene_symbols`."""
    compute: dict[str, Any]
    """`pooling`, `batch_size`, `device` and `precision`, as they run."""
    output: dict[str, Any]
    """`key_added` and `copy_input`."""

    def fingerprint(self) -> Fingerprint:
        """Return what must not change between the runs that share parts."""
        described = {
            "input": describe_input(self.paths.source, self.shape),
            "model": self.pretrained.params(),
            "option": {**self.where, **self.compute, **self.output},
            "setting": {"window_size": self.stream.window_size},
            "version of": {name: version(name) for name in PACKAGES},
        }
        found: Fingerprint = json.loads(json.dumps(described, default=str))  # as it will be read again
        return found

    def parts(self) -> EmbeddingParts:
        """Return where parts are stored."""
        return EmbeddingParts(self.paths.parts, n_obs=self.stream.n_obs, window_size=self.stream.window_size)

    def begin(self, parts: EmbeddingParts, fingerprint: Fingerprint, *, overwrite: bool) -> None:
        """Go on with parts that are there; raise if they are of another run, unless they may be overwritten."""
        before = parts.run()
        if before is not None and before != fingerprint:
            changed = differences(without_content(fingerprint), without_content(before))
            if not changed:
                self._remove_stale(parts)
            elif overwrite:
                parts.clear()
                logg.info(f"    removed the parts of another run ({'; '.join(changed)})")
            else:
                msg = (
                    f"{str(self.paths.parts)!r} holds parts of another run: {'; '.join(changed)}. Run that call again to "
                    "finish it, or pass overwrite=True to start anew."
                )
                raise ValueError(msg)
        remove_assembled(self.paths)
        if before != fingerprint:
            with writing(self.paths):
                parts.begin(fingerprint)

    def _remove_stale(self, parts: EmbeddingParts) -> None:
        """Remove the parts of cells that are not in the input as they were, now that it was changed."""
        logg.info(f"    {str(self.paths.source)!r} was changed: comparing its cells with those of finished parts")
        kept = set()
        for rows, cells in self._windows(parts.finished()):
            part = parts.read(rows.start)
            if part is not None and part.tokens_hash == hash_tokens(cells):
                kept.add(rows.start)
        n_removed = parts.keep(kept)
        if n_removed:
            warn(
                f"{str(self.paths.source)!r} was changed after {len(kept) + n_removed} parts of the embedding were "
                f"finished. {len(kept)} of them are kept, since their cells are as they were; the others are computed anew."
            )

    def embed(self, parts: EmbeddingParts) -> None:
        """Compute all parts that are missing."""
        missing = parts.missing()
        n_left = sum(rows.stop - rows.start for rows in missing)
        n_done = parts.n_obs - n_left
        if n_done:
            logg.info(f"    resumed: {n_done} of {parts.n_obs} cells were finished before")
        device = torch.device(self.compute["device"])
        limits = MinibatchLimits.of(self.compute["batch_size"], device)
        bar = cell_bar(None, parts.n_obs, "Embedding", initial=n_done)
        with bar as progress, prepared(self.pretrained.model, device, self.compute["precision"]):
            for i, (rows, cells) in enumerate(self._windows(missing)):
                part = self._embed_window(rows, cells, progress=progress, limits=limits)
                with writing(self.paths):
                    parts.write(part)
                if i == 0:
                    self.refuse_small_disk(parts)

    def _windows(self, missing: list[slice]) -> Iterator[tuple[slice, TokenizedCells]]:
        for rows in missing:
            windows = self.stream.windows(start=rows.start, stop=rows.stop)
            while True:
                with reading(self.paths):
                    window = next(windows, None)
                if window is None:
                    break
                yield window

    def _embed_window(self, rows: slice, cells: TokenizedCells, **kwargs: Any) -> Part:
        vectors = embed_tokens(
            self.pretrained.model, cells, pad_id=self.pretrained.vocabulary.pad_id, **self.compute, **kwargs
        )
        n_empty = int(is_empty(cells, self.pretrained.tokenizer).sum())
        return Part(rows.start, np.ascontiguousarray(vectors), n_empty, hash_tokens(cells))

    def refuse_small_disk(self, parts: EmbeddingParts) -> None:
        """Raise if it can be seen that parts or output will not fit on the disk."""
        n_bytes = parts.bytes_left()
        if self.output["copy_input"]:
            n_bytes += describe_input(self.paths.source, self.shape)["size"]
        refuse_small_disk(self.paths, n_bytes)

    def refuse_changed_input(self, fingerprint: Fingerprint) -> None:
        """Raise if the input is not what it was when the run began."""
        changed = differences({"input": describe_input(self.paths.source, self.shape)}, {"input": fingerprint["input"]})
        if changed:
            msg = (
                f"{str(self.paths.source)!r} was changed while it was read: {'; '.join(changed)}. Run the same call again; "
                "the cells that changed are computed anew."
            )
            raise ValueError(msg)

    def params(self, parts: EmbeddingParts) -> dict[str, Any]:
        """Return provenance as :func:`sfm.tl.embed` writes it, and warn of what it warns of."""
        n_empty, low, high = 0, np.inf, -np.inf
        for part in parts:
            n_empty += part.n_empty
            low, high = np.minimum(low, part.vectors.min(axis=0)), np.maximum(high, part.vectors.max(axis=0))
        report_empty(n_empty, parts.n_obs)
        report_constant(np.stack([low, high]), parts.n_obs)
        source = {"tokens_key": None, **self.stream.params(), **compute_params(self.pretrained, **self.compute)}
        options = {"layer": self.where["layer"], "use_raw": self.where["use_raw"], "n_empty": n_empty}
        return embedding_params(self.pretrained, source, **options)
