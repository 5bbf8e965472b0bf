"""Small generated data and models, for examples and tests; nothing is downloaded."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from anndata import AnnData

    from sfm.checkpoints import PretrainedCells
    from sfm.genes import GeneVocabulary

__all__ = ["toy_cells", "toy_model"]

_N_TYPES = 3


def toy_cells(n_cells: int = 100, *, n_genes: int = 300, seed: int = 0) -> AnnData:
    """Draw counts of three cell types over common human genes.

    Each type overexpresses its own tenth of the genes; depth varies between cells.

    Parameters
    ----------
    n_cells
        Number of cells.
    n_genes
        Number of genes: those that the bundled model expects to be expressed most.
    seed
        Seed of the draw.

    Returns
    -------
    Annotated data with counts in `X` (CSR, float32), symbols as `var_names`, Ensembl ids in `var['ensembl_id']`, and
    `obs['cell_type']`.

    Examples
    --------
    >>> import sfm
    >>> sfm.datasets.toy_cells().shape
    (100, 300)
    """
    from anndata import AnnData

    vocabulary = _vocabulary()
    expression = np.asarray(vocabulary.expression)
    top = np.argsort(-expression, kind="stable")[:n_genes]
    share = expression[top] / expression[top].sum()

    rng = np.random.default_rng(seed)
    types = rng.integers(_N_TYPES, size=n_cells)
    fold = np.where(rng.permutation(n_genes) % 10 == np.arange(_N_TYPES)[:, None], 8.0, 1.0)  # (types, genes)
    profiles = fold * share
    profiles /= profiles.sum(axis=1, keepdims=True)
    depth = rng.lognormal(np.log(1000), 0.4, size=n_cells)
    counts = rng.poisson(profiles[types] * depth[:, None]).astype(np.float32)
    return AnnData(
        X=sparse.csr_matrix(counts),
        obs=pd.DataFrame(
            {"cell_type": pd.Categorical([f"type {i}" for i in types])}, index=[f"cell_{i}" for i in range(n_cells)]
        ),
        var=pd.DataFrame(
            {"ensembl_id": [vocabulary.gene_ids[i] for i in top]}, index=[vocabulary.symbols[i] for i in top]
        ),
    )


def toy_model(
    tokenizer: str = "rank", *, backbone: str = "bert", max_length: int = 128, seed: int = 0
) -> PretrainedCells:
    """Make a very small model with random weights and the vocabulary of the bundled model.

    Parameters
    ----------
    tokenizer
        Name of a tokenizer, see :func:`sfm.get.tokenizers`.
    backbone
        Name of a backbone, see :func:`sfm.get.backbones`.
    max_length
        Longest token sequence, special tokens included.
    seed
        Seed of the weights.

    Returns
    -------
    The model, ready for :func:`sfm.tl.embed`. Its vectors mean nothing.

    Examples
    --------
    >>> import sfm
    >>> sfm.datasets.toy_model("bins").model.config.value_embedding
    'bins'
    """
    import torch

    from sfm.checkpoints import PretrainedCells
    from sfm.nn import CellConfig, CellForMaskedLM, backbone_config
    from sfm.tokenizers import get_tokenizer

    chosen = get_tokenizer(tokenizer)(_vocabulary(), max_length=max_length)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CellConfig.for_tokenizer(chosen, backbone_config(backbone, max_length=max_length, **sizes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CellForMaskedLM(config).eval()
    return PretrainedCells(model, chosen, name=f"toy {backbone} ({tokenizer})")


@cache
def _vocabulary() -> GeneVocabulary:
    """Genes of the bundled model, read once."""
    from sfm.checkpoints._catalogue import DEFAULT_MODEL, bundled_path
    from sfm.checkpoints._files import VOCABULARY
    from sfm.genes import GeneVocabulary

    return GeneVocabulary.load(bundled_path(DEFAULT_MODEL) / VOCABULARY)
