from __future__ import annotations

from typing import TYPE_CHECKING

from sfm.checkpoints import list_models
from sfm.cli._output import show

if TYPE_CHECKING:
    from argparse import Namespace


def run(args: Namespace) -> None:
    """Print the models that can be named."""
    models = list_models()
    show(models.to_json(orient="index", indent=1) if args.json else models.drop(columns="description").to_string())
