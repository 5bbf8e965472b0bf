"""scGPT (Cui et al. 2024, Nature Methods 21, 1470-1480), whole-human and organ models, and ones fine-tuned from them.

A directory holds `args.json`, `vocab.json` and the weights, `best_model.pt`, and that of a model which was fine-tuned to
label cells perhaps the names of the labels, in `id2type.json` or in the `results.pkl` of the authors' tutorial.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfm.checkpoints._family import Family
from sfm.checkpoints._layout import NeededFile
from sfm.checkpoints._names import rename
from sfm.checkpoints._pretrained import PretrainedCells, read_json
from sfm.checkpoints._scgpt_labels import LABEL_FILES, hidden_sizes, label_head_names, n_labels_of, read_labels
from sfm.checkpoints._token_file import read_token_file
from sfm.checkpoints._torch_files import read_torch_file
from sfm.checkpoints._weights import load_weights, read_safetensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from sfm.checkpoints._names import Names
    from sfm.genes import GeneVocabulary
    from sfm.nn import CellConfig

_WEIGHTS = ("best_model.pt", "model.pt", "model.safetensors")
_SIZES = ("embsize", "nlayers", "nheads", "d_hid")
_LAYER = "transformer_encoder.layers.{}"
_OWN_LAYER = "cell.backbone.layers.{}"

_NAMES: Names = {
    "encoder.embedding.weight": "cell.embedder.genes.weight",
    "encoder.enc_norm.{}": "cell.embedder.gene_norm.{}",
    "value_encoder.linear1.{}": "cell.embedder.expand.{}",
    "value_encoder.linear2.{}": "cell.embedder.project.{}",
    "value_encoder.norm.{}": "cell.embedder.value_norm.{}",
    "bn.num_batches_tracked": None,
    "bn.{}": "cell.embedder.input_norm.{}",
    # Three ways to write the same attention: of two versions of flash-attn, and of torch.
    f"{_LAYER}.self_attn._impl.Wqkv.{{}}": f"{_OWN_LAYER}.attention.qkv.{{}}",
    f"{_LAYER}.self_attn._impl.out_proj.{{}}": f"{_OWN_LAYER}.attention.output.{{}}",
    f"{_LAYER}.self_attn.Wqkv.{{}}": f"{_OWN_LAYER}.attention.qkv.{{}}",
    f"{_LAYER}.self_attn.in_proj_{{}}": f"{_OWN_LAYER}.attention.qkv.{{}}",
    f"{_LAYER}.self_attn.out_proj.{{}}": f"{_OWN_LAYER}.attention.output.{{}}",
    f"{_LAYER}.linear1.{{}}": f"{_OWN_LAYER}.up.{{}}",
    f"{_LAYER}.linear2.{{}}": f"{_OWN_LAYER}.down.{{}}",
    f"{_LAYER}.norm1.{{}}": f"{_OWN_LAYER}.attention_norm.{{}}",
    f"{_LAYER}.norm2.{{}}": f"{_OWN_LAYER}.feedforward_norm.{{}}",
    "decoder.fc.0.{}": "head.layers.0.{}",
    "decoder.fc.2.{}": "head.layers.1.{}",
    "decoder.fc.4.{}": "head.output.{}",
    # What only its own pretraining and fine-tuning compute.
    "decoder.zero_logit.{}": None,
    "mvc_decoder.{}": None,
    "flag_encoder.{}": None,
    "batch_encoder.{}": None,
    "grad_reverse_discriminator.{}": None,
    "cls_decoder.{}": None,
}


def recognise(directory: Path) -> bool:
    """Whether the settings or the weights have the names of scGPT; reading says what else is missing."""
    if (directory / "args.json").is_file():
        return "embsize" in read_json(directory / "args.json")
    # What the authors' tutorial of fine-tuning leaves behind has other files.
    layouts = [("vocab.json", "best_model.pt"), ("vocab.json", "model.pt", "results.pkl")]
    return any(all((directory / name).is_file() for name in names) for names in layouts)


def read(
    directory: Path,
    *,
    name: str,
    revision: str | None,
    trust_pickle: bool,
    max_length: int | None = None,
    domain: int | None = None,
    labels: Sequence[str] | None = None,
    reference: bool = False,
    seed: int = 0,
) -> PretrainedCells:
    """Read a pretrained model, or a fine-tuned one, with its output layer if it labels cells.

    Parameters
    ----------
    directory
        Where the three files are.
    name, revision, trust_pickle
        As in :func:`sfm.load`.
    max_length
        Most tokens of a cell. Default: that of pretraining, 1200.
    domain
        Which batch norm to apply, in a model that was fine-tuned with one for each of several domains.
    labels
        Names of the labels of a model that was fine-tuned to label cells, in the order of its output layer. Default: those
        of a file beside the weights, or numbers. An empty list leaves that layer out.
    reference
        Draw bins and samples at random, as scGPT does, and match genes by exact symbol alone.
    seed
        Seed of these draws.
    """
    from sfm.tokenizers.published._scgpt import ScGPTTokenizer

    args = read_args(directory)
    weights = _read_weights(directory, trust_pickle=trust_pickle)
    n_rows = weights["encoder.embedding.weight"].shape[0]
    vocabulary = read_token_file(directory / "vocab.json", n_rows, matching="exact" if reference else "all")
    n_labels = n_labels_of(weights)
    if labels and n_labels < 2:
        msg = f"labels={labels!r}, but {str(directory)!r} has no output layer for labels. Leave it out."
        raise ValueError(msg)
    is_classifier = n_labels > 1 and (labels is None or len(labels) > 0)
    tokenizer = ScGPTTokenizer(
        vocabulary,
        max_length=args.get("max_seq_len", 1200) if max_length is None else max_length,
        n_bins=51 if reference else args.get("n_bins", 51),  # scGPT reads the other number nowhere
        reference=reference,
        seed=seed,
        cls_value=0.0 if is_classifier else -2.0,  # what scGPT gives <cls> to be fine-tuned, and to embed
    )
    weights = _chosen_domain(weights, domain)
    input_norm = _input_norm(weights)
    config = make_config(args, vocabulary, tokenizer.max_length, input_norm)
    if is_classifier:
        model, weights = _classifier(config, weights, read_labels(directory, n_labels, labels))
    else:
        model, weights = _value_model(config, weights)
    load_weights(model, weights, source=str(directory))
    return PretrainedCells(model.eval(), tokenizer, name=name, revision=revision)


def read_args(directory: Path) -> dict[str, Any]:
    """Read the settings of training."""
    path = directory / "args.json"
    if not path.is_file():
        msg = (
            f"Did not find 'args.json' in {str(directory)!r}. It says how many attention heads the model has, which the "
            "weights do not: download it from the folder of 'best_model.pt', or copy it from that of the pretrained model if "
            "this one was fine-tuned from it."
        )
        raise FileNotFoundError(msg)
    args = read_json(path)
    missing = [key for key in _SIZES if key not in args]
    if missing:
        msg = f"{str(path)!r} does not say {missing[0]!r}. Download the file that belongs to the weights."
        raise ValueError(msg)
    if args["embsize"] % args["nheads"]:
        msg = f"{str(path)!r} has embsize={args['embsize']!r} and nheads={args['nheads']!r}, which does not divide it. Download it again."
        raise ValueError(msg)
    style = args.get("input_emb_style", "continuous")
    if style != "continuous":
        msg = f"{str(path)!r} has input_emb_style={style!r}; only 'continuous', that of all published models, is known."
        raise ValueError(msg)
    return args


def make_config(
    args: Mapping[str, Any], vocabulary: GeneVocabulary, max_length: int, input_norm: str | None
) -> CellConfig:
    """Make the configuration of the model that `args.json` describes."""
    from sfm.nn import CellConfig
    from sfm.nn.architectures._encoder import EncoderConfig

    dropout = float(args.get("dropout", 0.0))
    backbone = EncoderConfig(
        hidden_size=args["embsize"],
        num_hidden_layers=args["nlayers"],
        num_attention_heads=args["nheads"],
        intermediate_size=args["d_hid"],
        max_position_embeddings=max_length,
        hidden_dropout_prob=dropout,
    )
    settings: dict[str, Any] = {"value_dropout": dropout}
    return CellConfig(
        vocab_size=vocabulary.size,
        backbone_config=backbone,
        architecture="scgpt",
        architecture_settings=settings if input_norm is None else {**settings, "input_norm": input_norm},
        pooling="published",
        value_embedding="bins",
        pad_token_id=vocabulary.pad_id,
        mask_token_id=None,
        cls_token_id=vocabulary.cls_id,
        special_token_ids=sorted(vocabulary.special_tokens.values()),
    )


def _value_model(config: CellConfig, weights: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """Make the model with the decoder of values, where there is one that reads genes alone, and name its weights."""
    from sfm import nn

    weights = rename(weights, _NAMES)
    decoder = weights.get("head.layers.0.weight")
    if decoder is None or decoder.shape[1] != config.hidden_size:  # a decoder that reads the domain, too
        weights = {key.removeprefix("cell."): tensor for key, tensor in weights.items() if not key.startswith("head.")}
        return nn.CellModel(config), weights
    return nn.CellForMaskedValue(config), weights


def _classifier(config: CellConfig, weights: dict[str, Tensor], labels: list[str]) -> tuple[Any, dict[str, Tensor]]:
    """Make a classifier with the layers of scGPT's, which looks at the undivided `<cls>`, and name its weights."""
    from sfm import nn
    from sfm.nn._classification_head import RELU_AND_NORM

    sizes = hidden_sizes(weights)
    settings = {**config.to_dict(), "pooling": "cls", "feedforward_sizes": sizes, "classifier_dropout": 0.0}
    settings["architecture_settings"] = {**config.architecture_settings, "classifier_layers": RELU_AND_NORM}
    settings |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    settings["problem_type"] = "single_label_classification"
    model = nn.CellForSequenceClassification(nn.CellConfig.from_dict(settings))
    weights = {key: tensor for key, tensor in weights.items() if not key.startswith("decoder.")}
    renamed = rename(weights, {**label_head_names(len(sizes)), **_NAMES})
    # What sfm's classifiers have beyond those layers.
    own = model.state_dict()
    return model, renamed | {key: own[key] for key in own if key == "temperature" or key.startswith("distance.")}


def _read_weights(directory: Path, *, trust_pickle: bool) -> dict[str, Tensor]:
    path = next((directory / name for name in _WEIGHTS if (directory / name).is_file()), directory / _WEIGHTS[0])
    if path.suffix == ".safetensors":
        weights: Any = read_safetensors(path)
    else:
        weights = read_torch_file(path, what="the weights of scGPT", trust_pickle=trust_pickle)
    for wrapper in ("model_state_dict", "state_dict"):
        weights = weights.get(wrapper, weights) if isinstance(weights, dict) else weights
    if isinstance(weights, dict):
        weights = {str(key).removeprefix("module."): tensor for key, tensor in weights.items()}
    if not isinstance(weights, dict) or "encoder.embedding.weight" not in weights:
        msg = f"{str(path)!r} has no 'encoder.embedding.weight', so it does not hold the weights of scGPT. Download it again."
        raise ValueError(msg)
    return weights


def _chosen_domain(weights: dict[str, Tensor], domain: int | None) -> dict[str, Tensor]:
    """Make the batch norm of a domain the only one."""
    numbers = sorted({int(key.split(".")[2]) for key in weights if key.startswith("dsbn.bns.")})
    if not numbers and domain is not None:
        msg = f"domain={domain!r}, but the model has no batch norm for domains. Leave it out."
        raise ValueError(msg)
    if numbers and domain not in numbers:
        msg = (
            f"domain={domain!r}, but this model was fine-tuned with a batch norm for each of {len(numbers)} domains. Pass "
            f"domain= to `sfm.load` with the one that your cells are most like, from {numbers[0]} to {numbers[-1]}."
        )
        raise ValueError(msg)
    chosen = {key: tensor for key, tensor in weights.items() if not key.startswith("dsbn.")}
    prefix = f"dsbn.bns.{domain}."
    return chosen | {f"bn.{key.removeprefix(prefix)}": weights[key] for key in weights if key.startswith(prefix)}


def _input_norm(weights: Mapping[str, Tensor]) -> str | None:
    if "bn.running_mean" not in weights:
        return None
    return "affine" if "bn.weight" in weights else "plain"


SCGPT = Family(
    name="scgpt",
    title="scGPT",
    recognise=recognise,
    read=read,
    patterns=("args.json", "vocab.json", *LABEL_FILES, *_WEIGHTS),
    options={
        "max_length": "most tokens of a cell, 1200 by default",
        "domain": "number of the batch norm to apply, in models fine-tuned with several",
        "labels": "names of the labels of a model that was fine-tuned to label cells; [] reads it without that layer",
        "reference": "True draws bins and samples at random and matches genes by exact symbol, as scGPT does",
        "seed": "seed of these draws, 0 by default",
    },
    layouts=(
        (
            NeededFile(("args.json",), "its settings", decides=True),
            NeededFile(("vocab.json",), "the tokens of genes"),
            NeededFile(_WEIGHTS, "the weights"),
        ),
    ),
)
