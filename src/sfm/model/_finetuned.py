from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sfm.model._classifier import CellClassifier

if TYPE_CHECKING:
    from anndata import AnnData

    from sfm.checkpoints import PretrainedCells


def finetuned_classifier(
    pretrained: PretrainedCells,
    adata: AnnData,
    *,
    labels_key: str,
    max_epochs: int | None = None,
    train_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> PretrainedCells:
    """Make a classifier of a pretrained model and train it on labelled cells, which are changed.

    Parameters
    ----------
    pretrained
        The model to start from.
    adata
        Counts and labels. scvi-tools writes into it, and the counts are let go once they are tokens.
    labels_key
        Column of `adata.obs` with the labels.
    max_epochs
        Passes over the cells.
    train_kwargs
        Further arguments of :meth:`CellClassifier.train`.
    kwargs
        Further arguments of :meth:`CellClassifier.from_pretrained`.

    Returns
    -------
    The trained network with its tokenizer.
    """
    model = CellClassifier.from_pretrained(pretrained, adata, labels_key=labels_key, **kwargs)
    adata.X = None  # training reads tokens alone
    model.train(max_epochs, **(train_kwargs or {}))
    return replace(model.as_pretrained(), name=f"{pretrained.name} (finetuned)")
