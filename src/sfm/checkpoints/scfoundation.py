"""scFoundation (Hao et al. 2024, Nature Methods 21, 1481-1491).

`models.ckpt` holds three models, of which one is read: for cells, for read-depth enhancement, and for genes. The list of
its 19,264 genes, a table of the authors' code repository, is looked for in the same directory and in the one above.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pandas as pd

from sfm.checkpoints._family import Family
from sfm.checkpoints._layout import NeededFile
from sfm.checkpoints._names import rename
from sfm.checkpoints._pretrained import PretrainedCells
from sfm.checkpoints._torch_files import read_torch_file
from sfm.checkpoints._weights import load_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from sfm.checkpoints._names import Names
    from sfm.genes import GeneVocabulary
    from sfm.nn import CellConfig
    from sfm.tokenizers.published._scfoundation import Expression

Part = Literal["cell", "rde", "gene"]
CellPooling = Literal["all", "max"]

_WEIGHTS = "models.ckpt"
_GENES = "OS_scRNA_gene_index*.tsv"
_WHAT = "the weights of scFoundation"

_NAMES: Names = {
    "pos_emb.{}": "embedder.genes.{}",
    "token_emb.mlp.{}": "embedder.values.expand.{}",
    "token_emb.mlp2.{}": "embedder.values.mix.{}",
    "token_emb.emb.{}": "embedder.values.bins.{}",
    "token_emb.emb_mask.{}": "embedder.hidden.{}",
    # Padding is never attended to.
    "token_emb.emb_pad.{}": None,
    "encoder.transformer_encoder.{}.self_attn.in_proj_{}": "backbone.layers.{}.attention.qkv.{}",
    "encoder.transformer_encoder.{}.self_attn.out_proj.{}": "backbone.layers.{}.attention.output.{}",
    "encoder.transformer_encoder.{}.linear1.{}": "backbone.layers.{}.up.{}",
    "encoder.transformer_encoder.{}.linear2.{}": "backbone.layers.{}.down.{}",
    "encoder.transformer_encoder.{}.norm1.{}": "backbone.layers.{}.attention_norm.{}",
    "encoder.transformer_encoder.{}.norm2.{}": "backbone.layers.{}.feedforward_norm.{}",
    "encoder.norm.{}": "backbone.norm.{}",
    "decoder_embed.{}": "readout.decoder.embed.{}",
    "decoder.performer.net.layers.{}.0.norm.{}": "readout.decoder.layers.{}.attention_norm.{}",
    "decoder.performer.net.layers.{}.0.fn.to_q.{}": "readout.decoder.layers.{}.attention.query.{}",
    "decoder.performer.net.layers.{}.0.fn.to_k.{}": "readout.decoder.layers.{}.attention.key.{}",
    "decoder.performer.net.layers.{}.0.fn.to_v.{}": "readout.decoder.layers.{}.attention.value.{}",
    "decoder.performer.net.layers.{}.0.fn.to_out.{}": "readout.decoder.layers.{}.attention.output.{}",
    "decoder.performer.net.layers.{}.0.fn.fast_attention.projection_matrix": (
        "readout.decoder.layers.{}.attention.projection"
    ),
    "decoder.performer.net.layers.{}.1.norm.{}": "readout.decoder.layers.{}.feedforward_norm.{}",
    "decoder.performer.net.layers.{}.1.fn.fn.w1.{}": "readout.decoder.layers.{}.up.{}",
    "decoder.performer.net.layers.{}.1.fn.fn.w2.{}": "readout.decoder.layers.{}.down.{}",
    "decoder.performer.calls_since_last_redraw": None,
    "decoder.norm.{}": "readout.decoder.decoder_norm.{}",
    "norm.{}": "readout.decoder.norm.{}",
    "to_final.{}": "readout.decoder.to_expression.{}",
}


def recognise(directory: Path) -> bool:
    """Whether there is a `models.ckpt`, here or in the folder `models`."""
    return _weights_path(directory).is_file()


def read(
    directory: Path,
    *,
    name: str,
    revision: str | None,
    trust_pickle: bool,
    part: Part = "cell",
    cell_pooling: CellPooling = "all",
    target: str = "t4",
    expression: Expression = "counts",
    gene_list: str | Path | None = None,
    reference: bool = False,
) -> PretrainedCells:
    """Read one of the three models.

    Parameters
    ----------
    directory
        Where `models.ckpt` is, or a folder `models` with it.
    name, revision, trust_pickle
        As in :func:`sfm.load`.
    part
        Which model: `"cell"` for cell vectors, `"rde"` for those after read-depth enhancement, `"gene"` for gene vectors
        in their cell; that one is read with its decoder.
    cell_pooling
        `"all"` for the vectors of the two read depths, the maximum and the mean over genes, or `"max"`.
    target
        Read depth to bring cells to, see :class:`~sfm.tokenizers.published._scfoundation.ScFoundationTokenizer`.
    expression
        `"counts"`, or `"log1p"` or `"bulk"` for log-normalised expression of cells or of bulk samples, see there.
    gene_list
        The list of genes, if it is elsewhere.
    reference
        Match genes as the authors do, by the symbol alone.
    """
    from sfm.nn import CellModel
    from sfm.tokenizers.published._scfoundation import ScFoundationTokenizer

    _refuse_unknown("part", part, get_args(Part))
    _refuse_unknown("cell_pooling", cell_pooling, get_args(CellPooling))
    settings, state = _read_part(_weights_path(directory), part, trust_pickle=trust_pickle)
    vocabulary = read_vocabulary(directory, len(state["pos_emb.weight"]), gene_list, reference=reference)
    tokenizer = ScFoundationTokenizer(vocabulary, target=target, expression=expression)
    config = make_config(settings, state, vocabulary, cell_pooling=cell_pooling, with_decoder=part == "gene")
    weights = {key: tensor.contiguous() for key, tensor in rename(state, _NAMES).items()}
    if part != "gene":
        weights = {key: tensor for key, tensor in weights.items() if not key.startswith("readout.decoder.")}
    model = CellModel(config)
    load_weights(model, weights, source=str(directory))
    return PretrainedCells(model.eval(), tokenizer, name=name, revision=revision)


def make_config(
    settings: Mapping[str, Any],
    state: Mapping[str, Tensor],
    vocabulary: GeneVocabulary,
    *,
    cell_pooling: CellPooling,
    with_decoder: bool,
) -> CellConfig:
    """Make the configuration of the model that the settings and the sizes of its weights describe."""
    from sfm.nn import CellConfig
    from sfm.nn.architectures._encoder import EncoderConfig
    from sfm.tokenizers.published._scfoundation import DEPTH, TARGET

    encoder, special = settings["encoder"], vocabulary.special_tokens
    backbone = EncoderConfig(
        hidden_size=encoder["hidden_dim"],
        num_hidden_layers=encoder["depth"],
        num_attention_heads=encoder["heads"],
        intermediate_size=len(state["encoder.transformer_encoder.0.linear1.weight"]),
        norm_first=encoder.get("norm_first", False),
        final_norm=True,
        max_position_embeddings=vocabulary.size,
    )
    n_bins, hidden_size = state["token_emb.emb.weight"].shape
    if encoder.get("module_type") != "transformer" or hidden_size != encoder["hidden_dim"]:
        msg = f"{_WHAT!r} describe an encoder of type {encoder.get('module_type')!r} of width {encoder['hidden_dim']}, with embeddings of {hidden_size} dims. Only the published layout is known."
        raise ValueError(msg)
    return CellConfig(
        vocab_size=vocabulary.size,
        backbone_config=backbone,
        architecture="scfoundation",
        architecture_settings={
            "n_genes": len(vocabulary),
            "n_bins": n_bins,
            "bin_alpha": float(settings.get("bin_alpha", 1.0)),
            "cell_pooling": cell_pooling,
            "target_id": special[TARGET],
            "depth_id": special[DEPTH],
            "decoder": _decoder_sizes(settings["decoder"], state) if with_decoder else None,
        },
        pooling="published",
        value_embedding="continuous",
        pad_token_id=vocabulary.pad_id,
        mask_token_id=None,
        cls_token_id=None,
        special_token_ids=sorted(special.values()),
    )


def _decoder_sizes(decoder: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, int]:
    first = "decoder.performer.net.layers.0"
    n_features, head_size = state[f"{first}.0.fn.fast_attention.projection_matrix"].shape
    return {
        "hidden_size": decoder["hidden_dim"],
        "n_layers": decoder["depth"],
        "n_heads": decoder["heads"],
        "head_size": head_size,
        "n_features": n_features,
        "intermediate_size": len(state[f"{first}.1.fn.fn.w1.weight"]),
    }


def read_vocabulary(
    directory: Path, n_rows: int, gene_list: str | Path | None = None, *, reference: bool = False
) -> GeneVocabulary:
    """Read the list of genes, for a table of `n_rows` with the two read depths and padding at the end."""
    from sfm.genes import GeneVocabulary
    from sfm.tokenizers.published._scfoundation import DEPTH, TARGET

    path = _gene_list_path(directory) if gene_list is None else Path(gene_list).expanduser()
    if not path.is_file():
        msg = f"Did not find the list of genes {str(path)!r}. Pass gene_list= with the 'OS_scRNA_gene_index.19264.tsv' of scFoundation."
        raise FileNotFoundError(msg)
    # "NA" and the like are to stay text.
    table = pd.read_csv(path, sep="\t", keep_default_na=False)
    if not {"gene_name", "index"} <= set(table.columns):
        msg = f"{str(path)!r} has the columns {list(table.columns)!r}, not 'gene_name' and 'index'. Download it again."
        raise ValueError(msg)
    n_genes = len(table)
    if n_rows != n_genes + 3:
        msg = f"{str(path)!r} lists {n_genes} genes, but the model has {n_rows - 3}. The list belongs to another model."
        raise ValueError(msg)
    return GeneVocabulary(
        table["gene_name"].astype(str).tolist(),
        token_ids=table["index"].to_numpy(),
        special_tokens={TARGET: n_genes, DEPTH: n_genes + 1, "<pad>": n_genes + 2},
        matching="exact" if reference else "all",
        species="human",
    )


def _gene_list_path(directory: Path) -> Path:
    folder = _weights_path(directory).parent
    places = dict.fromkeys([directory, folder, folder.parent, directory.parent])
    found = next((path for place in places for path in sorted(place.glob(_GENES))), None)
    if found is None:
        msg = (
            f"Did not find 'OS_scRNA_gene_index.19264.tsv' for {str(directory)!r}. Download it from the code repository "
            "'biomap-research/scFoundation' into the folder of 'models.ckpt', or pass gene_list= to `sfm.load`."
        )
        raise FileNotFoundError(msg)
    return found


def _weights_path(directory: Path) -> Path:
    inside = directory / "models" / _WEIGHTS
    return inside if inside.is_file() else directory / _WEIGHTS


def _read_part(path: Path, part: Part, *, trust_pickle: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the merged settings and the weights of a part, named as in the network."""
    content = read_torch_file(path, what=_WHAT, trust_pickle=trust_pickle)
    if not isinstance(content, dict) or part not in content or "state_dict" not in content[part]:
        found = sorted(map(str, content))[:5] if isinstance(content, dict) else type(content).__name__
        msg = f"{str(path)!r} has no part {part!r} with a 'state_dict' (found {found!r}); scFoundation has 'cell', 'rde' and 'gene'. Download it again, or pass the family= that it is of."
        raise ValueError(msg)
    config = content[part]["config"]
    settings = {**config["model_config"][config["model"]], **config["dataset_config"]["rnaseq"]}
    state = {key.removeprefix("model."): tensor for key, tensor in content[part]["state_dict"].items()}
    missing = [key for key in ("pos_emb.weight", "token_emb.emb.weight") if key not in state]
    if missing:
        msg = f"Part {part!r} of {str(path)!r} lacks {missing[0]!r}, so it is no scFoundation. Download it again."
        raise ValueError(msg)
    return settings, state


def _refuse_unknown(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        msg = f"Unknown {option}={value!r}. Choose one of {', '.join(map(repr, choices))}."
        raise ValueError(msg)


SCFOUNDATION = Family(
    name="scfoundation",
    title="scFoundation",
    recognise=recognise,
    read=read,
    patterns=(_WEIGHTS, f"models/{_WEIGHTS}", _GENES),
    options={
        "part": "'cell' (default), 'rde' for read-depth enhancement, 'gene' for gene vectors in their cell",
        "cell_pooling": "'all' (default), four vectors end to end, or 'max'",
        "target": "read depth to bring cells to: 't4' (default), 'f2', 'a5'",
        "expression": "'counts' (default), or 'log1p' or 'bulk' for log-normalised cells or bulk samples",
        "gene_list": "path of OS_scRNA_gene_index.19264.tsv, if it is not with the model",
        "reference": "True matches genes by symbol alone, as the authors do",
    },
    layouts=(
        (NeededFile((_WEIGHTS, f"models/{_WEIGHTS}"), "the weights"), NeededFile((_GENES,), "the order of genes")),
    ),
)
