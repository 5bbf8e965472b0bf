"""Names and numbers as transformers' callbacks expect them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

# What Lightning modules and scvi-tools put before or behind the name of a metric.
_STAGES = {"eval": ("validation", "val", "valid"), "test": ("test",)}


def transformers_name(name: str, prefix: Literal["eval", "test"]) -> str:
    """Name of a metric in transformers: `validation_loss` is `eval_loss`, `elbo_validation` is `eval_elbo`."""
    for stage in _STAGES[prefix]:
        name = name.removeprefix(f"{stage}_").removesuffix(f"_{stage}")
    return f"{prefix}_{name}"


def metric_of(metrics: Mapping[str, float], name: str) -> float | None:
    """Value of `metric_for_best_model`; `None` if it is the loss, which is the default, and there is none."""
    key = name if name.startswith("eval_") else f"eval_{name}"
    if key in metrics or key == "eval_loss":
        return metrics.get(key)
    known = ", ".join(repr(known.removeprefix("eval_")) for known in metrics if known.startswith("eval_"))
    msg = f"metric_for_best_model={name!r} is not among the metrics of the validation. Choose from {known}."
    raise ValueError(msg)
