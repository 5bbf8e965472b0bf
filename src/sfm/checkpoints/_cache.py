"""Where downloads are kept, and whether there may be any."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Folder of all downloads beside those from the hub: `SFM_CACHE`, or `sfm` in the user's cache folder."""
    chosen = os.environ.get("SFM_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sfm"


def model_folder(name: str) -> Path:
    """Folder for the files of a model of the catalogue that are not on the hub."""
    return cache_folder() / "models" / name


def is_offline() -> bool:
    """Whether the user has set `HF_HUB_OFFLINE`, which holds for all downloads here."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
