"""Reading weights without executing anything, and saying what was read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from sfm.checkpoints._files import PICKLES, WEIGHTS
from sfm.checkpoints._stand_in import refuse_stand_in
from sfm.checkpoints._torch_files import read_torch_file

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


@dataclass(frozen=True)
class LoadReport:
    """Which weights of a file went where."""

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    wrong_shape: list[str]

    @property
    def complete(self) -> bool:
        """Whether every weight of the model came from the file, and nothing was left over."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    def __str__(self) -> str:
        """One line with the counts, and the names of what did not match."""
        parts = [f"{len(self.matched)} matched"]
        for label, names in [
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", self.wrong_shape),
        ]:
            if names:
                shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
                parts.append(f"{len(names)} {label} ({shown})")
        return ", ".join(parts)


def read_weights(directory: Path, *, trust_pickle: bool = False) -> dict[str, Tensor]:
    """Read the weights of a model directory."""
    path = directory / WEIGHTS
    if path.exists():
        return read_safetensors(path)
    pickles = sorted(p for p in directory.iterdir() if p.suffix in PICKLES)
    if not pickles:
        msg = f"Did not find {WEIGHTS!r} in {str(directory)!r}. A model directory is written by `save_pretrained`."
        raise FileNotFoundError(msg)
    if not trust_pickle:
        msg = (
            f"{str(directory)!r} holds its weights as {pickles[0].name!r}, a pickle, which can run any code when it is "
            f"opened. Save the model again as {WEIGHTS!r}, or pass trust_pickle=True to `sfm.load` if you trust its "
            "source."
        )
        raise ValueError(msg)
    weights: dict[str, Tensor] = read_torch_file(pickles[0], what="the weights of the model", trust_pickle=True)
    return weights


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the weights of a file, which cannot hold code."""
    with path.open("rb") as file:
        start = file.read(9)
    # Eight bytes of length, then a JSON object; pickles open with \x80, torch archives with the zip signature.
    if start[8:] != b"{" and (start[:1] == b"\x80" or start[:4] == b"PK\x03\x04"):
        msg = f"{str(path)!r} is a pickle, not safetensors, and was not opened. Ask its author for safetensors weights."
        raise ValueError(msg)
    try:
        return load_file(path)
    except SafetensorError as error:
        refuse_stand_in(path, what="the weights", kind="safetensors file", any_text=False)
        msg = f"{str(path)!r} cannot be read as safetensors ({error}). It may be truncated: download or save it again."
        raise ValueError(msg) from error


def load_weights(model: nn.Module, weights: dict[str, Tensor], *, source: str) -> LoadReport:
    """Copy weights into a model, as float32; refuse unless all of them fit."""
    own = model.state_dict()
    shapes = {name for name in weights if name in own and weights[name].shape != own[name].shape}
    report = LoadReport(
        matched=sorted(name for name in weights if name in own and name not in shapes),
        missing=sorted(own.keys() - weights.keys()),
        unexpected=sorted(weights.keys() - own.keys()),
        wrong_shape=sorted(shapes),
    )
    if not report.complete:
        msg = (
            f"The weights in {source!r} do not fit {type(model).__name__} as its configuration describes it: {report}. "
            "Nothing was loaded, since a model with random parts gives meaningless vectors."
        )
        raise ValueError(msg)
    model.load_state_dict(
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    )
    return report


def weights_hash(model: object) -> str | None:
    """SHA-256 over names, shapes and values of all weights, equal before and after saving; `None` if not torch."""
    if not isinstance(model, nn.Module):
        return None
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
