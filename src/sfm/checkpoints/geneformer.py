"""Geneformer (Theodoris et al. 2023, Nature 618, 616-624; V2: Chen et al. 2024, bioRxiv 2024.08.16.608180).

A directory holds `config.json` and the weights of a BERT. The dictionaries of genes, tokens and medians, pickles, are
looked for in the same directory, in a folder `dicts` in it, and where the published repository has them: in its folder
`geneformer`, beside that of the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfm.checkpoints._family import Family
from sfm.checkpoints._layout import NeededFile
from sfm.checkpoints._names import rename
from sfm.checkpoints._pretrained import PretrainedCells, read_json
from sfm.checkpoints._torch_files import read_torch_file
from sfm.checkpoints._unpickler import read_pickle
from sfm.checkpoints._weights import load_weights, read_safetensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from sfm.checkpoints._names import Names
    from sfm.genes import GeneVocabulary
    from sfm.nn import CellConfig
    from sfm.tokenizers import Tokenizer

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_TOKENS = "token_dictionary"
_MEDIANS = "gene_median_dictionary"
_ALIASES = "ensembl_mapping_dict"
_SYMBOLS = "gene_name_id_dict"

_NAMES: Names = {
    "bert.embeddings.word_embeddings.weight": "cell.embedder.genes.weight",
    "bert.embeddings.position_ids": None,
    "bert.embeddings.{}": "cell.backbone.embeddings.{}",
    "bert.encoder.{}": "cell.backbone.encoder.{}",
    "cls.predictions.bias": "head.bias",
    "cls.predictions.transform.dense.{}": "head.transform.{}",
    "cls.predictions.transform.LayerNorm.{}": "head.norm.{}",
    # Tied to the gene embedding and to the bias above.
    "cls.predictions.decoder.{}": None,
    "bert.pooler.dense.{}": "head.feedforward.0.{}",
    "classifier.{}": "head.classifier.{}",
}
_CLASSES = {
    "BertForMaskedLM": "CellForMaskedLM",
    "BertForSequenceClassification": "CellForSequenceClassification",
    "BertForTokenClassification": "CellForTokenClassification",
}


def recognise(directory: Path) -> bool:
    """Whether `config.json` is that of a BERT; reading says what else is missing."""
    if not (directory / "config.json").is_file():
        return False
    config = read_json(directory / "config.json")
    return config.get("model_type") == "bert" and (config.get("architectures") or [""])[0] in _CLASSES


def read(
    directory: Path,
    *,
    name: str,
    revision: str | None,
    trust_pickle: bool,
    dictionaries: str | Path | None = None,
    hidden_layer: int = -2,
    reference: bool = False,
) -> PretrainedCells:
    """Read a model of V1 or V2, or one of their fine-tuned classifiers.

    Parameters
    ----------
    directory
        Where `config.json` and the weights are.
    name, revision, trust_pickle
        As in :func:`sfm.load`.
    dictionaries
        Folder of the dictionaries, if they are elsewhere.
    hidden_layer
        Output that cells are embedded with: -2, the second to last, as the authors recommend, or -1, the last.
    reference
        Match genes as the authors do: by id or the mapping dictionary alone, in any case, versions not stripped.
    """
    from sfm import nn

    settings = read_json(directory / "config.json")
    weights_path = _weights_path(directory)
    vocabulary = read_vocabulary(directory, settings["vocab_size"], dictionaries, reference=reference)
    tokenizer = make_tokenizer(vocabulary, settings["max_position_embeddings"])
    weights = rename(_read_weights(weights_path, trust_pickle=trust_pickle), _NAMES)
    cell_class = _CLASSES[settings["architectures"][0]]
    if cell_class == "CellForTokenClassification":  # its pooler is not used
        weights = {key: tensor for key, tensor in weights.items() if not key.startswith("head.feedforward.")}
    if not any(key.startswith("head.") for key in weights):
        cell_class = "CellModel"
        weights = {key.removeprefix("cell."): tensor for key, tensor in weights.items()}
    is_classifier = cell_class == "CellForSequenceClassification"
    config = make_config(settings, vocabulary, hidden_layer=hidden_layer, is_classifier=is_classifier)
    model = getattr(nn, cell_class)(config)
    if is_classifier or cell_class == "CellForTokenClassification":
        # What sfm's classifiers have beyond those of BERT.
        own = model.state_dict()
        weights |= {key: own[key] for key in own if key == "temperature" or key.startswith("distance.")}
    load_weights(model, weights, source=str(directory))
    return PretrainedCells(model.eval(), tokenizer, name=name, revision=revision)


def make_config(
    settings: Mapping[str, Any], vocabulary: GeneVocabulary, *, hidden_layer: int, is_classifier: bool
) -> CellConfig:
    """Make the configuration of the model that `config.json` describes."""
    from transformers import BertConfig

    from sfm.nn import CellConfig

    ignored = ("_name_or_path", "gradient_checkpointing", "architectures", "torch_dtype", "dtype", "use_cache")
    of_bert = {key: value for key, value in settings.items() if key not in ignored}
    labels = {key: settings[key] for key in ("id2label", "label2id", "problem_type") if key in settings}
    backbone = BertConfig(**{**of_bert, "vocab_size": 1, "pad_token_id": 0} | {"id2label": None, "label2id": None})
    if "id2label" in labels:
        labels["id2label"] = {int(key): label for key, label in labels["id2label"].items()}
    if settings["architectures"][0] != "BertForMaskedLM" and len(labels.get("id2label", ())) > 1:
        # Older versions of transformers did not write what they assumed.
        labels["problem_type"] = labels.get("problem_type") or "single_label_classification"
    return CellConfig(
        vocab_size=settings["vocab_size"],
        backbone_config=backbone,
        architecture="geneformer",
        # V1 has no <cls>: its cells are means over genes; its classifiers look at the gene that ranks highest.
        pooling="cls" if vocabulary.cls_id is not None or is_classifier else "mean",
        hidden_layer=hidden_layer,
        pad_token_id=vocabulary.pad_id,
        mask_token_id=vocabulary.mask_id,
        cls_token_id=vocabulary.cls_id,
        eos_token_id=vocabulary.eos_id,
        feedforward_sizes=[settings["hidden_size"]] if is_classifier else (),
        feedforward_activation="tanh" if is_classifier else "gelu",
        classifier_dropout=settings.get("classifier_dropout") or settings.get("hidden_dropout_prob", 0.1),
        **labels,
    )


def make_tokenizer(vocabulary: GeneVocabulary, max_length: int) -> Tokenizer:
    """Make the rank value encoding of V1, of genes alone, or of V2, between `<cls>` and `<eos>`."""
    from sfm.tokenizers import RankTokenizer
    from sfm.tokenizers.published._geneformer import GeneformerTokenizer

    if vocabulary.cls_id is None:
        return RankTokenizer(vocabulary, max_length=max_length, prepend_cls=False)
    return GeneformerTokenizer(vocabulary, max_length=max_length)


def read_vocabulary(
    directory: Path, vocab_size: int, dictionaries: str | Path | None = None, *, reference: bool = False
) -> GeneVocabulary:
    """Read the dictionaries whose tokens are those of the model."""
    from sfm.genes import GeneVocabulary

    path = _token_dictionary(directory, vocab_size, dictionaries)
    tokens = _read_dictionary(path, "the token dictionary of Geneformer")
    medians = _read_dictionary(_companion(path, _MEDIANS), "the dictionary of gene medians of Geneformer")
    special = {key: int(value) for key, value in tokens.items() if key.startswith("<")}
    genes = [gene for gene in tokens if gene not in special]
    without = [gene for gene in genes if gene not in medians]
    if without:
        msg = f"{str(_companion(path, _MEDIANS))!r} lacks {len(without)} genes of {path.name!r}, such as {without[0]!r}. Use those of one version."
        raise ValueError(msg)
    aliases = _optional(path, _ALIASES)
    symbols = {gene: symbol for symbol, gene in _optional(path, _SYMBOLS).items()}
    return GeneVocabulary(
        genes,
        symbols=[symbols.get(gene, "") for gene in genes] if symbols else None,
        token_ids=[int(tokens[gene]) for gene in genes],
        special_tokens=special,
        medians=[float(medians[gene]) for gene in genes],
        aliases={alias: gene for alias, gene in aliases.items() if gene in tokens and alias not in tokens},
        matching="any_case" if reference else "all",
        species="human",
    )


def _token_dictionary(directory: Path, vocab_size: int, dictionaries: str | Path | None) -> Path:
    """Find the token dictionary with as many tokens as the model has rows."""
    folders = _folders(directory) if dictionaries is None else [Path(dictionaries).expanduser()]
    found = sorted({path for folder in folders for path in folder.glob(f"{_TOKENS}*.pkl")})
    if not found and dictionaries is not None:
        raise _no_dictionaries(dictionaries)
    if not found:
        msg = (
            f"Did not find '{_TOKENS}*.pkl' for {str(directory)!r}. Download the dictionaries from the folder 'geneformer' "
            "of the repository 'ctheodoris/Geneformer' (for V1, from 'geneformer/gene_dictionaries_30m') into the folder "
            "of the model, or pass dictionaries= to `sfm.load` with the folder that has them."
        )
        raise FileNotFoundError(msg)
    sizes = {path: 1 + max(map(int, _read_dictionary(path, "a token dictionary").values())) for path in found}
    fitting = [path for path in found if sizes[path] == vocab_size]
    if not fitting:
        others = ", ".join(f"{path.name!r} with {size}" for path, size in sizes.items())
        msg = (
            f"The model in {str(directory)!r} has {vocab_size} tokens, but the dictionaries found are {others}. Those of V1 "
            "end in 'gc30M', those of V2 in 'gc95M' and 'gc104M': download the ones of this model."
        )
        raise ValueError(msg)
    # The two of V2 have as many tokens; the older models say so in their folder's name.
    wanted = "gc95M" if "95M" in directory.name else "gc104M"
    return next((path for path in fitting if wanted in path.name), fitting[0])


def _no_dictionaries(folder: str | Path) -> FileNotFoundError:
    path = Path(folder).expanduser()
    why = "is a file" if path.is_file() else f"has no '{_TOKENS}*.pkl'" if path.is_dir() else "is not there"
    msg = f"dictionaries={str(folder)!r} {why}. Pass the folder that has the dictionaries of Geneformer, such as '{_TOKENS}_gc104M.pkl'."
    return FileNotFoundError(msg)


def _folders(directory: Path) -> list[Path]:
    bases = [directory, directory.parent, directory.parent.parent]
    inside = ["", "dicts", "geneformer", "geneformer/gene_dictionaries_30m"]
    return [base / folder for base in bases for folder in inside if (base / folder).is_dir()]


def _companion(tokens: Path, which: str) -> Path:
    return tokens.with_name(tokens.name.replace(_TOKENS, which))


def _optional(tokens: Path, which: str) -> dict[str, Any]:
    path = _companion(tokens, which)
    return _read_dictionary(path, f"the {which!r} of Geneformer") if path.is_file() else {}


def _read_dictionary(path: Path, what: str) -> dict[str, Any]:
    if not path.is_file():
        msg = f"Did not find {path.name!r} in {str(path.parent)!r}, which is {what}. Download it as well."
        raise FileNotFoundError(msg)
    content = read_pickle(path, what=what)
    if not isinstance(content, dict) or not content:
        msg = f"{str(path)!r} holds a {type(content).__name__}, not {what}. Download it again."
        raise ValueError(msg)
    return content


def _weights_path(directory: Path) -> Path:
    found = next((directory / name for name in _WEIGHTS if (directory / name).is_file()), None)
    if found is None:
        msg = f"Did not find {' or '.join(map(repr, _WEIGHTS))} in {str(directory)!r}, the weights of Geneformer. Download one of them as well."
        raise FileNotFoundError(msg)
    return found


def _read_weights(path: Path, *, trust_pickle: bool) -> dict[str, Tensor]:
    if path.name == _WEIGHTS[0]:
        return read_safetensors(path)
    weights: dict[str, Tensor] = read_torch_file(path, what="the weights of Geneformer", trust_pickle=trust_pickle)
    return weights


GENEFORMER = Family(
    name="geneformer",
    title="Geneformer",
    recognise=recognise,
    read=read,
    patterns=("config.json", *_WEIGHTS, *(f"{which}*.pkl" for which in (_TOKENS, _MEDIANS, _ALIASES, _SYMBOLS))),
    options={
        "dictionaries": "folder of the pickled dictionaries, if they are not with the model",
        "hidden_layer": "-2 (default) embeds cells with the second to last hidden state, -1 with the last",
        "reference": "True matches genes by id or the mapping dictionary alone, as the authors do",
    },
    layouts=((NeededFile(("config.json",), "its settings", decides=True), NeededFile(_WEIGHTS, "the weights")),),
)
