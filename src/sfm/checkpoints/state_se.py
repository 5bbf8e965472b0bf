"""The state embedding of STATE (Adduri et al. 2025, bioRxiv 2025.06.26.661135).

A directory holds a checkpoint of Lightning, whose settings are objects of omegaconf, and the protein embeddings of the
genes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sfm import _logging as logg
from sfm.checkpoints._family import Family
from sfm.checkpoints._layout import NeededFile
from sfm.checkpoints._names import rename
from sfm.checkpoints._pretrained import PretrainedCells
from sfm.checkpoints._torch_archive import read_torch_archive
from sfm.checkpoints._unpickler import Record
from sfm.checkpoints._weights import load_weights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from sfm.checkpoints._names import Names
    from sfm.genes import GeneVocabulary
    from sfm.nn import CellConfig

_PROTEINS = "protein_embeddings.pt"
_PAGE = "the repository 'arcinstitute/SE-600M' of the Hugging Face hub"
# Their objects are settings and places of files; what they could do is not needed.
_INERT = ("omegaconf", "typing", "antlr4", "vci", "state", "pathlib", "lightning", "pytorch_lightning", "enum")
_PAD_LENGTH = 2048
# What compiling adds to names.
_COMPILED = "_orig_mod."

_LAYER = "transformer_encoder.layers.{}"
_NAMES: Names = {
    "cls_token": "embedder.cls_token",
    "dataset_token": "embedder.dataset_token",
    "encoder.0.{}": "embedder.project.{}",
    "encoder.1.{}": "embedder.norm.{}",
    "count_encoder.{}": "embedder.count_encoder.{}",
    "bin_encoder.weight": "embedder.bins.weight",
    f"{_LAYER}.qkv_proj.{{}}": "backbone.layers.{}.attention.qkv.{}",
    f"{_LAYER}.out_proj.{{}}": "backbone.layers.{}.attention.output.{}",
    f"{_LAYER}.linear1.{{}}": "backbone.layers.{}.up.{}",
    f"{_LAYER}.linear2.{{}}": "backbone.layers.{}.down.{}",
    f"{_LAYER}.norm1.{{}}": "backbone.layers.{}.attention_norm.{}",
    f"{_LAYER}.norm2.{{}}": "backbone.layers.{}.feedforward_norm.{}",
    "decoder.0.intermediate_dense.{}": "readout.up.{}",
    "decoder.0.dense.{}": "readout.down.{}",
    "decoder.0.layer_norm.{}": "readout.norm.{}",
    "decoder.1.{}": "readout.output.{}",
    "dataset_embedder.{}": "readout.dataset.{}",
    # The same tensors as `encoder`, and the objectives of pretraining.
    "gene_embedding_layer.{}": None,
    "binary_decoder.{}": None,
    "dataset_encoder.{}": None,
    # The file of protein embeddings takes its place.
    "pe_embedding.weight": None,
}


def recognise(directory: Path) -> bool:
    """Whether there is a checkpoint of Lightning with protein embeddings, or one that the authors named."""
    found = _checkpoints(directory)
    return bool(found) and ((directory / _PROTEINS).is_file() or any(path.name.startswith("se") for path in found))


def read(
    directory: Path,
    *,
    name: str,
    revision: str | None,
    trust_pickle: bool,
    weights: str | None = None,
    dataset_dims: bool = True,
    max_length: int | None = None,
    filler: str = "vocabulary",
    reference: bool = False,
    seed: int = 0,
) -> PretrainedCells:
    """Read a state embedding.

    Parameters
    ----------
    directory
        Where the checkpoint and `protein_embeddings.pt` are.
    name, revision, trust_pickle
        As in :func:`sfm.load`.
    weights
        Which checkpoint, if there are several. Default: the last epoch.
    dataset_dims
        Whether vectors end in the ten numbers that stand for the data set.
    max_length
        Most tokens of a cell. Default: those of the checkpoint.
    filler
        Which genes fill cells up, see :class:`~sfm.tokenizers.published._state_se.StateTokenizer`.
    reference, seed
        Whether to tokenize as the authors do, and the seed of the random order.
    """
    from sfm.nn import CellModel
    from sfm.tokenizers.published._state_se import StateTokenizer

    path = _checkpoint(directory, weights)
    content = _read_checkpoint(path, trust_pickle=trust_pickle)
    tensors = {key.replace(_COMPILED, ""): tensor for key, tensor in content["state_dict"].items()}
    proteins = _read_proteins(directory, content, tensors["encoder.0.weight"].shape[1])
    vocabulary = make_vocabulary(list(proteins), reference=reference)
    length = max_length or _pad_length(content) + 1
    config = make_config(tensors, content["hyper_parameters"], vocabulary, dataset_dims=dataset_dims, max_length=length)
    table = config.architecture_settings["table_segments"][0][1]
    model = CellModel(config)
    renamed = rename(tensors, _NAMES if dataset_dims else {**_NAMES, "dataset_embedder.{}": None})
    load_weights(model, renamed | {"embedder.genes.weight": _stack(proteins, table)}, source=str(path))
    tokenizer = StateTokenizer(vocabulary, max_length=length, filler=filler, reference=reference, seed=seed)  # type: ignore[arg-type]
    return PretrainedCells(model.eval(), tokenizer, name=name, revision=revision)


def make_config(
    tensors: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    vocabulary: GeneVocabulary,
    *,
    dataset_dims: bool,
    max_length: int,
) -> CellConfig:
    """Make the configuration of the model whose weights and settings these are."""
    from sfm.nn import CellConfig
    from sfm.nn.architectures._encoder import EncoderConfig

    hidden_size, width = tensors["encoder.0.weight"].shape
    layers = {match[1] for key in tensors if (match := re.match(r"transformer_encoder\.layers\.(\d+)\.", key))}
    backbone = EncoderConfig(
        hidden_size=hidden_size,
        num_hidden_layers=len(layers),
        num_attention_heads=settings["nhead"],
        intermediate_size=tensors["transformer_encoder.layers.0.linear1.weight"].shape[0],
        hidden_act="gelu",
        max_position_embeddings=max_length,
        hidden_dropout_prob=settings.get("dropout") or 0.0,
    )
    special = vocabulary.special_tokens
    return CellConfig(
        vocab_size=vocabulary.size,
        backbone_config=backbone,
        architecture="state_se",
        architecture_settings={
            "table_width": width,
            "table_segments": [[0, len(vocabulary)]],
            "dataset_token_id": special["<dataset>"],
            "count_sizes": [tensors["count_encoder.0.weight"].shape[0], tensors["count_encoder.2.weight"].shape[0]],
            "decoder_size": tensors["decoder.0.intermediate_dense.weight"].shape[0],
            "cell_size": tensors["decoder.1.weight"].shape[0],
            "dataset_size": tensors["dataset_embedder.weight"].shape[0] if dataset_dims else 0,
        },
        pooling="published",
        value_embedding="continuous",
        pad_token_id=special["<pad>"],
        mask_token_id=None,
        cls_token_id=special["<cls>"],
        special_token_ids=sorted(special.values()),
    )


def make_vocabulary(genes: list[str], *, reference: bool) -> GeneVocabulary:
    """Make the vocabulary of the genes with protein embeddings, in the order of their file."""
    from sfm.genes import GeneVocabulary

    n_genes = len(genes)
    return GeneVocabulary(
        genes,
        token_ids=range(n_genes),
        special_tokens={"<cls>": n_genes, "<dataset>": n_genes + 1, "<pad>": n_genes + 2},
        matching="exact" if reference else "all",
        species="human",
    )


def _checkpoints(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.ckpt"), key=lambda path: (_epoch(path), path.name))


def _epoch(path: Path) -> int:
    found = re.search(r"epoch=?(\d+)", path.name)
    return int(found[1]) if found else -1


def _checkpoint(directory: Path, wanted: str | None) -> Path:
    if wanted is not None:
        return directory / wanted
    path = _checkpoints(directory)[-1]
    logg.hint(f"reading {path.name!r}")
    return path


def _read_checkpoint(path: Path, *, trust_pickle: bool) -> dict[str, Any]:
    what = "a checkpoint of STATE's state embedding"
    content = read_torch_archive(path, what=what, inert=_INERT, trust_pickle=trust_pickle)
    parts = content if isinstance(content, dict) else {}
    settings, tensors = parts.get("hyper_parameters"), parts.get("state_dict")
    if not isinstance(settings, dict) or not isinstance(tensors, dict) or "nhead" not in settings:
        msg = f"{str(path)!r} is not {what}: it lacks 'state_dict', or the 'nhead' of 'hyper_parameters'. Download it from {_PAGE}."
        raise ValueError(msg)
    needed = ("cls_token", "dataset_token", "encoder.0.weight", "count_encoder.2.weight", "dataset_embedder.weight")
    found = {name.replace(_COMPILED, "") for name in tensors}
    missing = [key for key in needed if key not in found]
    if missing:
        msg = f"{str(path)!r} is not {what} that reads counts and data sets: it has no {missing[0]!r}."
        raise ValueError(msg)
    return parts


def _read_proteins(directory: Path, content: Mapping[str, Any], width: int) -> dict[str, Tensor]:
    path = directory / _PROTEINS
    proteins = content.get("protein_embeds_dict")
    if path.is_file() or not proteins:
        if not path.is_file():
            msg = (
                f"Did not find {_PROTEINS!r} in {str(directory)!r}, the protein embeddings of STATE's state embedding. "
                f"Download it from {_PAGE} as well."
            )
            raise FileNotFoundError(msg)
        proteins = read_torch_archive(path, what="protein embeddings of STATE")
    found: dict[str, Tensor] = proteins if isinstance(proteins, dict) else {}
    widths = {tuple(vector.shape) for vector in found.values()}
    if widths != {(width,)}:
        msg = (
            f"{str(path)!r} holds vectors of shape {sorted(widths)!r}, but the model reads protein embeddings of {width} "
            f"dims. Download the file from {_PAGE}, where the checkpoint is from."
        )
        raise ValueError(msg)
    return found


def _stack(proteins: Mapping[str, Tensor], n_genes: int) -> Tensor:
    """Return the vectors as one table, filled row by row since they may be views of a file."""
    import torch

    rows = list(proteins.values())
    table = torch.empty(n_genes, rows[0].shape[0])
    for row, vector in enumerate(rows):
        table[row] = vector
    return table


def _pad_length(content: Mapping[str, Any]) -> int:
    """Return the tokens of a cell, without that of the data set."""
    settings = _plain(content["hyper_parameters"].get("cfg"))
    found = (settings.get("dataset") or {}) if isinstance(settings, dict) else {}
    return int(found.get("pad_length") or _PAD_LENGTH)


def _plain(node: Any) -> Any:
    """Return the dictionaries, lists and values in records of omegaconf."""
    if isinstance(node, Record):
        fields = vars(node)
        return _plain(fields["_content"] if "_content" in fields else fields.get("_val"))
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    return node


STATE_SE = Family(
    name="state_se",
    title="STATE's state embedding",
    recognise=recognise,
    read=read,
    patterns=("*.ckpt", _PROTEINS, "config.yaml"),
    options={
        "weights": "name of the checkpoint, if there are several; by default that of the last epoch",
        "dataset_dims": "False leaves out the ten numbers that stand for the data set",
        "max_length": "most tokens of a cell, 2049 by default",
        "filler": "'measured' fills cells up with genes of the data set alone, for panels of few genes",
        "reference": "True tokenizes as the authors do, which depends on the order of genes and on chance",
        "seed": "seed of the random order in reference mode, 0 by default",
    },
    layouts=((NeededFile(("*.ckpt",), "the checkpoint"), NeededFile((_PROTEINS,), "the vectors of proteins")),),
)
