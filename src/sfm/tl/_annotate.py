from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from anndata import AnnData

from sfm import _logging as logg
from sfm._docs import COPY, INPUT, doc_params
from sfm._keys import annotation_keys
from sfm._views import own_data
from sfm._warn import warn
from sfm.annotation._clusters import cluster_cells
from sfm.annotation._decision import decide
from sfm.annotation._labels import UNKNOWN
from sfm.annotation._overlap import warn_if_far
from sfm.annotation._resolve import DEFAULT_METHODS, LabelledOptions, resolve_reference
from sfm.annotation._tree import LabelHierarchy
from sfm.annotation._voting import clusters_from_obs
from sfm.data._encode import _refuse_other_types
from sfm.inference._cells import package_versions
from sfm.tl._annotation_options import reference_options, refuse_bad_options
from sfm.tl._annotation_slots import write_annotation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import torch

    from sfm.annotation._calibration import Calibration
    from sfm.annotation._cell_views import Views
    from sfm.annotation._reference import Prediction, Reference
    from sfm.annotation._resolve import Method
    from sfm.annotation._tree import LabelTree
    from sfm.checkpoints import PretrainedCells
    from sfm.inference._precision import Precision
    from sfm.protocols import ModelProtocol


@doc_params(input=INPUT, copy=COPY)
def annotate(  # noqa: PLR0913
    adata: AnnData,
    reference: AnnData | str | Path | PretrainedCells | Reference | Any,
    *,
    labels_key: str = "cell_type",
    model: str | Path | PretrainedCells | ModelProtocol | None = None,
    method: Method | Sequence[Method] = DEFAULT_METHODS,
    method_kwargs: dict[str, Any] | None = None,
    use_rep: str | None = None,
    views: Views | None = None,
    min_confidence: float | None = None,
    max_novelty: float | None = None,
    majority_voting: str | bool | None = None,
    label_tree: LabelTree | None = None,
    calibration: Calibration = "temperature",
    layer: str | None = None,
    use_raw: bool = False,
    gene_symbols: str | None = None,
    reference_kwargs: dict[str, Any] | None = None,
    batch_size: int | Literal["auto"] = "auto",
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Label cells from a reference, with a confidence that can be believed and a way to say `"unknown"`.

    The label of a cell depends on that cell, the genes that were measured, and the reference, but not on the other cells
    of `adata`, except with `majority_voting`.

    With labelled cells as reference, cells are compared by the genes that both sides have, in two views: vectors of a
    foundation model, and expression itself. Confidence is calibrated on reference cells that were held out: of cells that
    are labelled with a confidence of 0.8, four in five should be right, as far as the query is like the reference. How
    well that holds in the reference is `expected_calibration_error` in `adata.uns`. Where query and reference differ, look
    at the novelty of the cells as well.

    Parameters
    ----------
    adata
        Annotated data matrix with the cells to label: raw counts, unless `reference` says otherwise.
    reference
        Where labels come from: a labelled AnnData; a trained `sfm.model.CellClassifier`, the directory or hub id that
        one was saved to, or the result of :func:`sfm.load`; a CellTypist model or the path of its `.pkl` file; or an
        object of your own with the members of :class:`sfm.annotation.Reference`. It is not modified. Cells of an AnnData
        without a label, with an empty one, labelled `"unknown"` in capitals or not, or with a missing value that was
        written as text, such as `"nan"`, are left out of it.
    labels_key
        Column of `reference.obs` with the labels.
    model
        Model that embeds both sides, as for :func:`sfm.tl.embed`, or is trained further with `method="finetune"`.
    method
        How labels are found in an AnnData. `"knn"`: votes of the nearest reference cells by cosine similarity, found
        exactly, with a small share for similarity to the mean of each label. `"logreg"`: multinomial logistic
        regression. `"lda"`: linear discriminant analysis. `"prototype"`: cosine similarity to the mean of each label.
        `"finetune"`: `model` is made a classifier and trained on the reference. All but the last compare cells after
        whitening by the covariance within labels. With several, as by default, the label is that of the highest mean
        probability.
    method_kwargs
        Options of the method: `n_neighbors`, `weight_of_means` and `whiten` for `"knn"`, `C` and `balanced` for
        `"logreg"`, `balanced` for `"lda"`, `whiten` for `"prototype"`, arguments of `CellClassifier.from_pretrained` and
        `train` for `"finetune"`. With several methods a dictionary of such dictionaries, by method.
    use_rep
        Slot of `obsm` with vectors of both sides, instead of embedding them now. They must have been made by
        :func:`sfm.tl.embed` with the same model and settings. By default `"X_sfm"` is used if both sides have it and
        `model` is `None`, unless their genes differ so much that embedding both anew, from shared genes, is better.
    views
        What cells are compared by: vectors of the `"model"`; `"expression"`, which is log1p of counts scaled to 10,000 per
        cell, in principal components of the reference; or `"both"`, the default. The vectors in `use_rep` are compared
        alone, and so are those in `"X_sfm"` if they are not of the bundled model or counts are missing. Genes are those that
        the model knows and both sides have; for `"expression"` alone, where it knows too few, those of the same name.
    min_confidence
        Cells whose best label is less probable than this, from 0 to 1, are `"unknown"`.
    max_novelty
        Cells whose novelty is higher than this, from 0 to 1, are `"unknown"`.
    majority_voting
        Column of `adata.obs` with small clusters, all of whose cells then get the label that most of them have; `True`
        to make clusters with Leiden. Rejected cells do not vote; a cluster of which they are the majority is `"unknown"`.
        Cells without a cluster are on their own.
    label_tree
        Broader labels to fall back on: a dictionary from label to parent, a nested dictionary from parent to children,
        or a :class:`networkx.DiGraph` with edges from parent to child. A cell whose best label is less probable than
        `min_confidence` (0.5 if that is `None`) gets the most specific label above it that reaches it by the sum of
        the probabilities below.
    calibration
        How scores become probabilities with labelled cells: by a `"temperature"` (Guo et al. 2017), or `"isotonic"`
        regression (Zadrozny and Elkan 2002), which needs more reference cells and can correct more.
    {input}
    reference_kwargs
        `layer`, `use_raw` and `gene_symbols` of a reference that is an AnnData, if they are not those of `adata`; `{}` for
        its `X` and `var_names`.
    batch_size
        Cells per minibatch of a network, as for :func:`sfm.tl.embed`.
    device
        Torch device of a network; `"auto"` takes CUDA, then MPS, then the CPU.
    precision
        `"fp32"` (also `"auto"`) or `"bf16"`, as for :func:`sfm.tl.embed`.
    key_added
        Slot name to use instead of `"sfm_label"`.
    {copy}

    Returns
    -------
    Returns `None` if `copy=False`, else returns an `AnnData` object. Sets the following fields:

    `adata.obs['sfm_label' | key_added]` : :class:`pandas.Categorical`
        Labels; `"unknown"` where the cell was rejected, or has no count on a known gene (CellTypist models label these,
        too, as CellTypist does).
    `adata.obs['sfm_label_confidence' | key_added + '_confidence']` : :class:`numpy.ndarray` (dtype `float32`)
        Calibrated probability of the best label of each cell, also where that was rejected; for CellTypist models the
        probability that CellTypist gives, which is calibrated for no query and does not sum to one over the labels.
    `adata.obs['sfm_label_novelty' | key_added + '_novelty']` : :class:`numpy.ndarray` (dtype `float32`)
        Share of reference cells that are at most as far from the rest of the reference, on average of the views; 1 is
        further than all. Not written if the reference cannot tell.
    `adata.obs['sfm_label_consensus' | key_added + '_consensus']` : :class:`numpy.ndarray` (dtype `float32`)
        Share of the votes for the label: of methods, as popV counts them, or with `majority_voting` of the cells of the
        cluster and methods. Not written if there is one method and no `majority_voting`.
    `adata.obsm['sfm_label_probabilities' | key_added + '_probabilities']` : :class:`pandas.DataFrame` (dtype `float32`)
        Calibrated probability of each label of the reference, one column per label; in its name `|` stands for `/`,
        which zarr does not allow.
    `adata.uns['sfm_label' | key_added]['params']` : :class:`dict`
        Reference, model, methods, calibration error, thresholds, number of rejected cells, slot read, and versions.

    Raises
    ------
    RuntimeError
        If `reference` is a classifier that has not been trained.
    KeyError
        If `labels_key`, `use_rep`, `layer`, `gene_symbols` or `majority_voting` names nothing.
    TypeError
        If `adata` is no AnnData, `reference`, `model` or `label_tree` is nothing that will do, or `method_kwargs` has an
        option that the method does not take.
    FileNotFoundError
        If a directory or file is not there.
    ImportError
        If `majority_voting=True` without igraph.
    ValueError
        If the values are not what the reference needs, `adata` is empty, no gene is shared, the reference has fewer than
        two labels or none at all, stored vectors are of different models, or an option has no meaning.

    Examples
    --------
    >>> import sfm
    >>> cells = sfm.datasets.toy_cells(100)
    >>> labelled, adata = cells[:80].copy(), cells[80:].copy()
    >>> sfm.tl.annotate(adata, labelled, labels_key="cell_type")
    >>> bool((adata.obs["sfm_label"].astype(str) == adata.obs["cell_type"].astype(str)).mean() > 0.7)
    True
    >>> adata.obsm["sfm_label_probabilities"].shape
    (20, 3)
    """
    _refuse_other_types(adata)
    refuse_bad_options(
        adata,
        min_confidence=min_confidence,
        max_novelty=max_novelty,
        majority_voting=majority_voting,
        key_added=key_added,
    )
    where: dict[str, Any] = {"layer": layer, "use_raw": use_raw, "gene_symbols": gene_symbols}
    options = LabelledOptions(
        labels_key=labels_key,
        model=model,
        method=method,
        method_kwargs=method_kwargs,
        use_rep=use_rep,
        views=views,
        calibration=calibration,
        where=reference_options(where, reference_kwargs),
    )
    start = logg.info("annotating cells")
    resolved = resolve_reference(reference, adata, options)
    hierarchy = None if label_tree is None else LabelHierarchy.read(label_tree, resolved.labels)
    prediction = resolved.predict(adata, **where, batch_size=batch_size, device=device, precision=precision)
    if prediction.novelty is not None:
        warn_if_far(prediction.novelty)
    decision = decide(
        prediction,
        resolved.labels,
        min_confidence=min_confidence,
        max_novelty=max_novelty,
        hierarchy=hierarchy,
        clusters=_clusters(adata, prediction, where, majority_voting=majority_voting),
    )
    _report_empty(prediction)
    of_reference = resolved.params()
    if max_novelty is not None and prediction.novelty is None:
        _warn_without_novelty(max_novelty, of_reference)

    params = {
        **of_reference,
        **prediction.params,
        "labels": list(resolved.labels),
        "method": _described(method) if isinstance(reference, AnnData) else None,
        "labels_key": labels_key if isinstance(reference, AnnData) else None,
        "min_confidence": min_confidence,
        "max_novelty": max_novelty,
        "majority_voting": majority_voting,
        "label_tree": None if hierarchy is None else [f"{low} < {high}" for low, high in hierarchy.parents.items()],
        "layer": layer,
        "use_raw": use_raw,
        "n_rejected": int((decision.codes < 0).sum()),
        **package_versions(),
    }
    adata = own_data(adata, copy=copy)
    keys = annotation_keys(key_added)
    write_annotation(adata, keys, resolved.labels, prediction, decision)
    adata.uns[keys.uns] = {"params": params}
    logg.info("    finished", time=start, deep=f"added\n    {keys.label!r}, labels of the cells (adata.obs)")
    return adata if copy else None


def _clusters(
    adata: AnnData, prediction: Prediction, where: dict[str, Any], *, majority_voting: str | bool | None
) -> np.ndarray | None:
    if isinstance(majority_voting, str):
        return clusters_from_obs(adata, majority_voting)
    if not majority_voting:
        return None
    return cluster_cells(adata, prediction.vectors, **where)


def _report_empty(prediction: Prediction) -> None:
    n_empty = 0 if prediction.is_empty is None else int(prediction.is_empty.sum())
    if n_empty:
        n_cells = len(prediction.probabilities)
        warn(f"{n_empty} of {n_cells} cells have no count on a known gene; they are labelled {UNKNOWN!r}.")


def _warn_without_novelty(max_novelty: float, of_reference: dict[str, Any]) -> None:
    why = "the reference does not tell how novel a cell is"
    if of_reference.get("n_held_out") == 0:
        why = "novelty is measured on held-out cells of the reference, and none could be held out"
    elif of_reference.get("reference") == "celltypist":
        why = "CellTypist models do not tell how novel a cell is"
    warn(f"max_novelty={max_novelty!r} rejects no cell: {why}. Pass min_confidence= to reject cells by confidence.")


def _described(method: Method | Sequence[Method]) -> str:
    return method if isinstance(method, str) else "+".join(method)
