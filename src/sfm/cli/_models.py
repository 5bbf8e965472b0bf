from __future__ import annotations

from typing import TYPE_CHECKING

from sfm.checkpoints import list_models
from sfm.cli._output import show

if TYPE_CHECKING:
    from argparse import Namespace

    import pandas as pd


def run(args: Namespace) -> None:
    """Print the models that can be named."""
    models = list_models()
    show(models.to_json(orient="index", indent=1) if args.json else as_text(models))


def as_text(models: pd.DataFrame) -> str:
    """Return the columns that one chooses by as a table."""
    shown = models[["size", "context", "dims", "commercial_use", "licence", "species", "source"]]
    commercial_use = models["commercial_use"].map({True: "yes", False: "no"}).fillna("not said")
    shown = shown.assign(
        size=models["size"].map(short_number, na_action="ignore"),
        **{column: models[column].astype("string").fillna("") for column in ("context", "dims")},
        commercial_use=commercial_use,
        source=models["source"].str.removeprefix("https://"),
    ).rename_axis(index=None)
    for column in ("commercial_use", "licence", "species", "source"):
        shown[column] = shown[column].str.ljust(shown[column].str.len().max())
    lines = shown.fillna("").to_string(justify="left").splitlines()
    return "\n".join(line.rstrip() for line in lines)


def short_number(number: int) -> str:
    """Return a number as in 10.3M."""
    divisor, unit = (10**9, "B") if number >= 10**9 else (10**6, "M")
    return f"{number / divisor:.3g}{unit}"
