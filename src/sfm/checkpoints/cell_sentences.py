"""Language models of transformers that read cells as sentences (Cell2Sentence: Levine et al. 2024, ICML).

C2S-Scale (Rizvi et al. 2025, bioRxiv 2025.04.14.648850) is among them. A directory holds what `AutoModelForCausalLM` and
`AutoTokenizer` read: `config.json`, weights, and a fast tokenizer.
"""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cache
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from safetensors import SafetensorError

from sfm.checkpoints._family import Family
from sfm.checkpoints._files import VOCABULARY
from sfm.checkpoints._layout import NeededFile
from sfm.checkpoints._pretrained import PretrainedCells, read_json
from sfm.checkpoints._weights import load_weights

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from sfm.genes import GeneVocabulary
    from sfm.nn import CellConfig, CellForCausalLM

SentencePooling = Literal["mean", "last"]
Species = Literal["human", "mouse"]

# How species are called in what the published models were trained on.
_ORGANISMS: dict[Species, str] = {"human": "Homo sapiens", "mouse": "Mus musculus"}
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
# What other computation than that of the language model would exceed.
_TOLERANCE = 1e-3


def recognise(directory: Path) -> bool:
    """Whether `config.json` names a causal language model; reading says what else is missing."""
    config = directory / "config.json"
    if not config.is_file():
        return False
    settings = read_json(config)
    architectures = settings.get("architectures") or [""]
    # A model of sfm may have such a name as well.
    is_own = settings.get("model_type") == "sfm_cell"
    return not is_own and str(architectures[0]).endswith(("ForCausalLM", "LMHeadModel"))


def read(
    directory: Path,
    *,
    name: str,
    revision: str | None,
    trust_pickle: bool,
    template: str = "c2s-scale",
    n_genes: int = 200,
    species: Species = "human",
    pooling: SentencePooling = "mean",
    max_length: int | None = None,
) -> PretrainedCells:
    """Read a language model and put it under the cell interface.

    Parameters
    ----------
    directory
        Where the files are.
    name, revision, trust_pickle
        As in :func:`sfm.load`. Nothing but tensors is ever read, and no code of the directory is run.
    template
        Text that the model was trained to go on with: the name of a published one, `"c2s-scale"` or `"c2s"`, or a text
        with the field `{sentence}`, and if wanted `{organism}` and `{n_genes}`.
    n_genes
        Most genes of a sentence.
    species
        Species of the gene symbols.
    pooling
        `"mean"` of all tokens, or the `"last"` one.
    max_length
        Most tokens of a text. Default: as many as the model has positions for, or 4,096 if those are more.
    """
    from sfm.nn import CellForCausalLM
    from sfm.tokenizers.published._cell_sentences import SentenceTokenizer

    if pooling not in get_args(SentencePooling):
        msg = f"Unknown pooling={pooling!r}. Choose 'mean' or 'last'."
        raise ValueError(msg)
    vocabulary = symbol_vocabulary(species)
    text_tokenizer = read_text_tokenizer(directory)
    language_model = _read_language_model(directory)
    config = make_config(language_model.eval(), vocabulary, pooling=pooling)
    model = CellForCausalLM(config).eval()
    load_weights(model, _weights_of(language_model, config), source=str(directory))
    _refuse_other_logits(model, language_model)
    longest = getattr(language_model.config, "max_position_embeddings", 4096)
    tokenizer = SentenceTokenizer(
        vocabulary,
        text_tokenizer=text_tokenizer,
        template=template,
        organism=_ORGANISMS[species],
        n_genes=n_genes,
        max_length=max_length or min(longest, 4096),
    )
    return PretrainedCells(model, tokenizer, name=name, revision=revision)


@cache
def symbol_vocabulary(species: Species = "human") -> GeneVocabulary:
    """Return all genes of a species that have a symbol, in the order of symbols; token ids are numbers without meaning."""
    from sfm.genes import GeneVocabulary, gene_tables

    tables = gene_tables().of(species)
    if tables is None:
        msg = f"Unknown species={species!r}. Choose 'human' or 'mouse'."
        raise ValueError(msg)
    symbols = sorted(tables.ids)
    expected = _expected_expression()
    humans = symbols if species == "human" else [tables.orthologs.get(symbol, "") for symbol in symbols]
    return GeneVocabulary(
        [tables.ids[symbol] for symbol in symbols],
        symbols=symbols,
        special_tokens={},
        expression=[expected.get(symbol, 0.0) for symbol in humans],
        species=species,
    )


def _expected_expression() -> dict[str, float]:
    """Return shares of a human cell's counts by symbol, as the bundled model expects them."""
    from sfm.genes import GeneVocabulary

    with as_file(files("sfm").joinpath("resources/sfm_mini", VOCABULARY)) as path:
        bundled = GeneVocabulary.load(path)
    shares = np.zeros(len(bundled)) if bundled.expression is None else bundled.expression
    return dict(zip(bundled.symbols, shares.tolist(), strict=True))


def read_text_tokenizer(directory: Path) -> dict[str, Any]:
    """Read the fast tokenizer of a directory, in the format of the `tokenizers` library."""
    from transformers import AutoTokenizer

    if not any((directory / name).is_file() for name in _TOKENIZERS):
        msg = f"Did not find {_TOKENIZERS[0]!r} in {str(directory)!r}, which splits text into tokens. Download it as well."
        raise FileNotFoundError(msg)
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        msg = f"{str(directory)!r} has no fast tokenizer ('tokenizer.json'). Save one with `AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained`."
        raise ValueError(msg)
    settings: dict[str, Any] = json.loads(backend.to_str())
    return settings


def _read_language_model(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    options: Any = {"local_files_only": True, "trust_remote_code": False, "dtype": torch.float32}
    try:
        read: Any = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True, **options)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        msg = (
            f"{str(directory)!r} cannot be read as a language model ({error}). It may be truncated: download it again."
        )
        raise ValueError(msg) from error
    language_model, report = read
    wrong = sorted(map(str, [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]))
    if wrong:
        msg = (
            f"The weights in {str(directory)!r} do not fit its 'config.json': {len(wrong)} missing, unexpected or of another "
            f"shape, such as {wrong[0]!r}. Download both again."
        )
        raise ValueError(msg)
    return language_model


def make_config(language_model: Any, vocabulary: GeneVocabulary, *, pooling: SentencePooling) -> CellConfig:
    """Make the configuration of a language model under the cell interface."""
    from sfm.nn import CellConfig

    words, output = language_model.get_input_embeddings(), language_model.get_output_embeddings()
    backbone = deepcopy(language_model.config)
    backbone.vocab_size, backbone.pad_token_id, backbone.architectures, backbone.dtype = 1, 0, None, None
    ends = language_model.generation_config.eos_token_id
    return CellConfig(
        # Saved models must have a row for each token of their vocabulary, here of genes.
        vocab_size=max(words.num_embeddings, vocabulary.size),
        backbone_config=backbone,
        architecture="cell_sentences",
        architecture_settings={
            "n_words": output.out_features,
            "tied": output.weight is words.weight,
            "embedding_scale": float(getattr(words, "scalar_embed_scale", 1.0)),
            "softcap": getattr(language_model.config, "final_logit_softcapping", None),
            "end_ids": [ends] if isinstance(ends, int) else list(ends or []),
        },
        pooling=pooling,
        pad_token_id=None,
        mask_token_id=None,
        cls_token_id=None,
        attn_implementation=language_model.config._attn_implementation,
    )


def _weights_of(language_model: Any, config: CellConfig) -> dict[str, Tensor]:
    words = language_model.get_input_embeddings()
    table = words.weight.detach()
    rows = table.new_zeros(config.vocab_size - len(table), table.shape[1])
    own = {id(words.weight)}
    weights = {"cell.embedder.genes.weight": torch.cat([table, rows])}
    for name, tensor in language_model.base_model.state_dict(keep_vars=True).items():
        if id(tensor) not in own:
            weights[f"cell.backbone.{name}"] = tensor.detach()
    if not config.architecture_settings["tied"]:
        weights["head.words.weight"] = language_model.get_output_embeddings().weight.detach()
    return weights


@torch.no_grad()
def _refuse_other_logits(model: CellForCausalLM, language_model: Any) -> None:
    """Raise if a language model computes something on the way that is not known here, such as another scale."""
    input_ids = torch.arange(6).unsqueeze(0) % language_model.get_input_embeddings().num_embeddings
    ours = model(input_ids, torch.ones_like(input_ids)).logits
    theirs = language_model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).logits
    difference = (ours - theirs).abs().max().item()
    if not difference <= _TOLERANCE * max(1.0, theirs.abs().max().item()):
        msg = (
            f"Language models of type {language_model.config.model_type!r} do not compute the same under the cell interface "
            f"(logits differ by {difference:.2g}). Choose one of another type, such as GPT-NeoX, Llama or Gemma 2."
        )
        raise ValueError(msg)


CELL_SENTENCES = Family(
    name="cell_sentences",
    title="a language model over cell sentences",
    recognise=recognise,
    read=read,
    patterns=(
        "config.json",
        "generation_config.json",
        "model*.safetensors",
        "model.safetensors.index.json",
        "tokenizer*",
        "special_tokens_map.json",
        "vocab.json",
        "merges.txt",
    ),
    options={
        "template": (
            "'c2s-scale' (default) or 'c2s', as the models of these names were trained with, or a text with the field "
            "{sentence}, and if wanted {organism} and {n_genes}"
        ),
        "n_genes": "most genes of a sentence (default 200)",
        "species": "'human' (default) or 'mouse', species of the symbols",
        "pooling": "'mean' (default) of all tokens, or the 'last' one",
        "max_length": "most tokens of a text",
    },
    layouts=(
        (
            NeededFile(("config.json",), "its settings", decides=True),
            NeededFile(_TOKENIZERS, "the tokenizer of text"),
            NeededFile(("model*.safetensors",), "the weights"),
        ),
    ),
)
