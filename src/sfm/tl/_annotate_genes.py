from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from sfm import _logging as logg
from sfm._docs import COPY, INPUT, doc_params
from sfm._keys import slot_name
from sfm._views import own_data
from sfm.annotation._network import refuse_untrained
from sfm.checkpoints._resolve import resolve_model
from sfm.data import encode_cells
from sfm.inference._cells import package_versions
from sfm.inference._precision import Precision, choose_device, choose_precision
from sfm.tl._gene_probabilities import gene_probabilities, token_classifier
from sfm.tl._gene_rows import token_ids_of_var

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from anndata import AnnData

    from sfm.checkpoints import PretrainedCells
    from sfm.tl._gene_probabilities import GeneProbabilities
    from sfm.tokenizers import Tokenizer

_KEY = "sfm_gene_label"


@doc_params(input=INPUT, copy=COPY)
def annotate_genes(  # noqa: PLR0913
    adata: AnnData,
    model: str | Path | PretrainedCells | Any,
    *,
    tokenizer: Tokenizer | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_symbols: str | None = None,
    batch_size: int | Literal["auto"] = "auto",
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Label genes with a model that reads them in the context of their cells.

    The model gives each gene of each cell probabilities of its labels, for example dosage-sensitive or not (Theodoris et
    al. 2023). Those of a gene are averaged over all cells in which it is among the tokens: with long cells and a short
    `max_length` these are the cells in which it ranks high. The order of cells and genes and the minibatch size do not
    matter. Only the average is kept, never the probabilities of single cells.

    Parameters
    ----------
    adata
        Annotated data matrix with raw counts.
    model
        A model that labels genes: a trained :class:`sfm.model.GeneClassifier`, the directory or hub id that its
        `save_pretrained` wrote, the result of :func:`sfm.load`, or a :class:`sfm.nn.CellForTokenClassification` together
        with `tokenizer`.
    tokenizer
        Tokenizer for a `model` that does not bring its own.
    {input}
    batch_size
        Cells per minibatch, as in :func:`sfm.tl.embed`.
    device
        Torch device; `"auto"` takes CUDA, then MPS, then the CPU.
    precision
        `"fp32"` (also `"auto"`) or `"bf16"`, as in :func:`sfm.tl.embed`.
    key_added
        Slot name to use instead of `"sfm_gene_label"`.
    {copy}

    Returns
    -------
    Returns `None` if `copy=False`, else returns an `AnnData` object. Sets the following fields, in which genes that the
    model does not know, or that are in no cell's tokens, are missing (NaN). With `use_raw` the cells are read from
    `adata.raw`, whose own genes cannot be written to: the genes of `adata.var` get the result of the gene of the same
    name in `adata.raw.var`. Genes that are the same to the model get the same result.

    `adata.var['sfm_gene_label' | key_added]` : :class:`pandas.Series` (dtype `category`)
        Most probable label, with naturally sorted categories.
    `adata.var['sfm_gene_label_confidence' | key_added + '_confidence']` : :class:`pandas.Series` (dtype `float32`)
        Mean probability of that label.
    `adata.var['sfm_gene_label_n_cells' | key_added + '_n_cells']` : :class:`pandas.Series` (dtype `int64`)
        Number of cells that were averaged over.
    `adata.varm['sfm_gene_label_probabilities' | key_added + '_probabilities']` : :class:`pandas.DataFrame` (`float32`)
        Mean probabilities, with a column per label.
    `adata.uns['sfm_gene_label' | key_added]['params']` : :class:`dict`
        Model, hash of its weights, tokenizer, gene coverage, slot read, precision, device, and versions.

    Raises
    ------
    RuntimeError
        If the head of `model` has not been trained.
    KeyError
        If `layer` or `gene_symbols` names nothing.
    TypeError
        If `adata` is no AnnData, or `model` nothing that labels genes.
    FileNotFoundError
        If a directory or hub model is not there, or not complete.
    ValueError
        If the values are not raw counts, `adata` is empty, too few genes are known, or with `use_raw` none of the genes
        of `adata.var` is in `adata.raw.var`; or if the files of the model are damaged.

    Examples
    --------
    >>> import sfm
    >>> adata = sfm.datasets.toy_cells()
    >>> adata.var["kind"] = ["ribosomal" if name.startswith("RP") else "other" for name in adata.var_names]
    >>> sfm.model.GeneClassifier.setup_anndata(adata, gene_labels_key="kind", max_length=64)
    >>> sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> model = sfm.model.GeneClassifier(adata, **sizes)
    >>> model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    >>> sfm.tl.annotate_genes(adata, model)
    >>> adata.varm["sfm_gene_label_probabilities"].columns.to_list()
    ['other', 'ribosomal']
    """
    key = slot_name(key_added, _KEY)
    refuse_untrained(model)
    in_precision = choose_precision(precision, device)
    pretrained = resolve_model(model, tokenizer=tokenizer)
    network = token_classifier(pretrained.model, name=pretrained.name)
    start = logg.info(f"annotating genes ({pretrained.name})")
    encoded = encode_cells(
        adata,
        pretrained.tokenizer,
        layer=layer,
        use_raw=use_raw,
        gene_symbols=gene_symbols,
        model_name=f"Model {pretrained.name!r}",
    )
    token_ids = token_ids_of_var(adata, encoded.alignment.token_ids, use_raw=use_raw)
    where: dict[str, Any] = {"batch_size": batch_size, "device": device, "precision": in_precision}
    by_token = gene_probabilities(network, encoded.cells, pad_id=pretrained.vocabulary.pad_id, **where)
    genes = by_token[token_ids]

    adata = own_data(adata, copy=copy)
    _write(adata, genes, key)
    adata.uns[key] = {
        "params": {
            **pretrained.params(),
            **encoded.params(),
            "labels": list(genes.labels),
            "layer": layer,
            "use_raw": use_raw,
            "precision": in_precision,
            "device": str(choose_device(device)),
            "n_genes_labelled": int((genes.n_cells > 0).sum()),
            **package_versions(),
        }
    }
    logg.info("    finished", time=start, deep=f"added\n    {key!r}, labels of genes (adata.var)")
    return adata if copy else None


def _write(adata: AnnData, genes: GeneProbabilities, key: str) -> None:
    from natsort import natsorted

    best, confidence = genes.best()
    given = natsorted({label for label in best if label is not None})
    adata.var[key] = pd.Categorical(best, categories=given)
    adata.var[f"{key}_confidence"] = confidence.astype(np.float32)
    adata.var[f"{key}_n_cells"] = genes.n_cells
    adata.varm[f"{key}_probabilities"] = genes.frame(adata.var_names)
