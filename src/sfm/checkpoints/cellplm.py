"""CellPLM (Wen et al. 2024, ICLR; bioRxiv 2023.10.03.560734).

A directory holds `<version>.config.json` with the genes and sizes, and `<version>.best.ckpt` with the weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sfm.checkpoints._family import Family
from sfm.checkpoints._layout import NeededFile
from sfm.checkpoints._names import rename
from sfm.checkpoints._pretrained import PretrainedCells, read_json
from sfm.checkpoints._torch_files import read_torch_file
from sfm.checkpoints._weights import load_weights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from sfm.checkpoints._names import Names
    from sfm.genes import GeneVocabulary
    from sfm.nn import CellConfig

_WEIGHTS, _CONFIG = ".best.ckpt", ".config.json"
_WHAT = "the weights of CellPLM"
_N_HEADS = 8

_NAMES: Names = {
    "embedder.feat_enc.emb": "embedder.genes.weight",
    "embedder.extra_linear.0.{}": "embedder.project.{}",
    "embedder.extra_linear.3.{}": "embedder.norm.{}",
    # Positions are those of cells in tissue, which the published weights do not use.
    "embedder.norm0.{}": None,
    "embedder.pe_enc.{}": None,
    "encoder.layers.{}.self_attn.query_projection.{}": "backbone.layers.{}.attention.query.{}",
    "encoder.layers.{}.self_attn.key_projection.{}": "backbone.layers.{}.attention.key.{}",
    "encoder.layers.{}.self_attn.value_projection.{}": "backbone.layers.{}.attention.value.{}",
    "encoder.layers.{}.self_attn.out_projection.{}": "backbone.layers.{}.attention.output.{}",
    "encoder.layers.{}._ff_block.0.{}": "backbone.layers.{}.up.{}",
    "encoder.layers.{}._ff_block.3.{}": "backbone.layers.{}.down.{}",
    "encoder.layers.{}.norm1.{}": "backbone.layers.{}.attention_norm.{}",
    "encoder.layers.{}.norm2.{}": "backbone.layers.{}.feedforward_norm.{}",
    "pre_latent_norm.norm.{}": "backbone.norm.{}",
    "latent.layers.1.inference.inference_qyx.0.logits.{}": "readout.cluster.{}",
    "latent.layers.1.inference.inference_qzyx.0.{}": "readout.expand.{}",
    "latent.layers.1.inference.inference_qzyx.2.mu.{}": "readout.mean.{}",
    # Variances, priors and the decoder are for training and imputation.
    "latent.{}": None,
    "decoder.{}": None,
}
_KNOWN = {
    "enc_mod": "flowformer",
    "latent_mod": "gmvae",
    "norm": "groupnorm",
    "cat_pe": False,
    "input_covariate": False,
}


def recognise(directory: Path) -> bool:
    """Whether there are weights `*.best.ckpt` of a version; reading says if the configuration is missing."""
    return bool(_versions(directory))


def read(
    directory: Path,
    *,
    name: str,
    revision: str | None,
    trust_pickle: bool,
    batch_key: str = "batch",
    cells_together: int = 0,
    seed: int = 0,
    reference: bool = False,
) -> PretrainedCells:
    """Read the model.

    Parameters
    ----------
    directory
        Where configuration and weights are, or a folder `ckpt` with them.
    name, revision, trust_pickle
        As in :func:`sfm.load`.
    batch_key, cells_together, seed
        With `reference=True`: the column of `obs` whose levels are run apart from each other, how many cells are run
        together (0 for all of a level), and the seed that is set before.
    reference
        Run cells together, so that they influence each other, draw mixture components, and match genes by id alone.
    """
    from sfm.nn import CellModel
    from sfm.tokenizers.published._cellplm import CellPLMTokenizer

    weights_path = _the_version(directory)
    settings = _read_settings(weights_path.with_name(weights_path.name.removesuffix(_WEIGHTS) + _CONFIG))
    state = _read_state(weights_path, trust_pickle=trust_pickle)
    vocabulary = make_vocabulary(settings, len(state["embedder.feat_enc.emb"]), weights_path, reference=reference)
    config = make_config(
        settings,
        state,
        vocabulary,
        reference=reference,
        cells_together=cells_together,
        seed=seed if reference else None,
    )
    weights = rename(state, _NAMES)
    table = weights["embedder.genes.weight"]
    weights["embedder.genes.weight"] = torch.cat([table, table.new_zeros(1, table.shape[1])])  # padding
    model = CellModel(config)
    load_weights(model, weights, source=str(weights_path))
    tokenizer = CellPLMTokenizer(vocabulary, batch_key=batch_key if reference else None)
    return PretrainedCells(model.eval(), tokenizer, name=name, revision=revision)


def make_vocabulary(settings: Mapping[str, Any], n_rows: int, path: Path, *, reference: bool = False) -> GeneVocabulary:
    """Make the vocabulary of the genes that the configuration lists."""
    from sfm.genes import GeneVocabulary

    genes = settings["gene_list"]
    if len(genes) != n_rows:
        msg = f"{str(path)!r} has {n_rows} genes, but its configuration lists {len(genes)}. They are of different versions."
        raise ValueError(msg)
    return GeneVocabulary(
        genes,
        token_ids=range(len(genes)),
        special_tokens={"<pad>": len(genes)},
        matching="exact" if reference else "all",
        species="human",
    )


def make_config(
    settings: Mapping[str, Any],
    state: Mapping[str, Tensor],
    vocabulary: GeneVocabulary,
    *,
    reference: bool = False,
    cells_together: int = 0,
    seed: int | None = None,
) -> CellConfig:
    """Make the configuration of the model that the settings and the sizes of its weights describe."""
    from sfm.nn import CellConfig
    from sfm.nn.architectures._flowformer import FlowformerConfig

    latent = "latent.layers.1.inference.inference_qzyx"
    backbone = FlowformerConfig(
        hidden_size=settings["enc_hid"],
        num_hidden_layers=settings["enc_layers"],
        num_attention_heads=settings.get("enc_head", _N_HEADS),
        intermediate_size=len(state["encoder.layers.0._ff_block.0.weight"]),
        hidden_dropout_prob=settings.get("model_dropout", 0.0),
        together=reference,
        cells_per_group=cells_together,
    )
    latent_size, latent_hidden_size = state[f"{latent}.2.mu.weight"].shape
    of_cells = {
        "n_clusters": len(state["latent.layers.1.inference.inference_qyx.0.logits.weight"]),
        "latent_hidden_size": latent_hidden_size,
        "latent_size": latent_size,
    }
    return CellConfig(
        vocab_size=vocabulary.size,
        backbone_config=backbone,
        architecture="cellplm",
        # Groups are made within a minibatch, so that has to hold all cells.
        architecture_settings=of_cells | ({"cells_together": 0, "seed": seed} if reference else {}),
        pooling="published",
        value_embedding="continuous",
        pad_token_id=vocabulary.pad_id,
        mask_token_id=None,
        cls_token_id=None,
    )


def _versions(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"*{_WEIGHTS}")) or sorted(directory.glob(f"ckpt/*{_WEIGHTS}"))


def _the_version(directory: Path) -> Path:
    versions = _versions(directory)
    if len(versions) > 1:
        msg = f"{str(directory)!r} has the weights of several versions ({', '.join(path.name for path in versions)}). Put each in a folder of its own."
        raise ValueError(msg)
    return versions[0]


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        msg = f"Did not find {path.name!r} in {str(path.parent)!r}, the configuration of CellPLM. Download it as well."
        raise FileNotFoundError(msg)
    settings = read_json(path)
    missing = [key for key in ("gene_list", "enc_hid", "enc_layers") if key not in settings]
    if missing:
        msg = f"{str(path)!r} has no {missing[0]!r}, so it is no configuration of CellPLM. Download it again."
        raise ValueError(msg)
    other = {key: settings[key] for key, value in _KNOWN.items() if settings.get(key, value) != value}
    if other:
        msg = f"{str(path)!r} describes a CellPLM with {other!r}. Only the published one is known, with {_KNOWN!r}."
        raise ValueError(msg)
    return settings


def _read_state(path: Path, *, trust_pickle: bool) -> dict[str, Tensor]:
    content = read_torch_file(path, what=_WHAT, trust_pickle=trust_pickle)
    state = content.get("model_state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or "embedder.feat_enc.emb" not in state:
        msg = f"{str(path)!r} has no 'model_state_dict' with 'embedder.feat_enc.emb', so it is no CellPLM. Download it again, or pass the family= that it is of."
        raise ValueError(msg)
    return state


CELLPLM = Family(
    name="cellplm",
    title="CellPLM",
    recognise=recognise,
    read=read,
    patterns=(f"*{_WEIGHTS}", f"*{_CONFIG}"),
    options={
        "reference": "True runs cells together and draws mixture components, as the authors do",
        "batch_key": "with reference=True, column of obs whose levels are run apart (default 'batch')",
        "cells_together": "with reference=True, how many cells are run together; 0 (default) for all of a level",
        "seed": "with reference=True, seed of the draws (default 0)",
    },
    layouts=((NeededFile((f"*{_WEIGHTS}",), "the weights"), NeededFile((f"*{_CONFIG}",), "its settings")),),
)
