from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfm import _logging as logg
from sfm.checkpoints._files import CARD, CONFIG, TOKENIZER, VOCABULARY
from sfm.checkpoints._stand_in import refuse_stand_in

if TYPE_CHECKING:
    import torch

    from sfm.genes import GeneVocabulary
    from sfm.protocols import ModelProtocol
    from sfm.tokenizers import Tokenizer


@dataclass(frozen=True)
class PretrainedCells:
    """A model with the tokenizer and the vocabulary it was trained with.

    What :func:`sfm.load` returns, and what `model=` of every function resolves to.

    Parameters
    ----------
    model
        The model.
    tokenizer
        Its tokenizer, which holds its vocabulary.
    name
        How the model was asked for.
    revision
        Commit of a hub model, `None` for others.
    """

    model: ModelProtocol
    tokenizer: Tokenizer
    name: str
    revision: str | None = None

    @property
    def vocabulary(self) -> GeneVocabulary:
        """Gene vocabulary of the tokenizer."""
        return self.tokenizer.vocabulary

    def save_pretrained(
        self, directory: str | Path, *, card: str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Write configuration, weights (safetensors), vocabulary and tokenizer.

        Parameters
        ----------
        directory
            Where to write; made if missing. Files of the same names are replaced.
        card
            Text of the model card, written as `README.md`.
        dtype
            Type of the weights on disk, for example `torch.float16` to halve the size; float32 when loaded again.

        Raises
        ------
        TypeError
            If the model is not one of :mod:`sfm.nn`.
        """
        if not (hasattr(self.model, "config") and hasattr(self.model, "state_dict")):
            msg = f"A {type(self.model).__name__} cannot be saved: only the models of sfm.nn have a configuration to save."
            raise TypeError(msg)
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_model(self.model, directory, dtype=dtype)
        self.vocabulary.save(directory / VOCABULARY)
        (directory / TOKENIZER).write_text(json.dumps(self.tokenizer.to_dict(), indent=1) + "\n")
        if card is not None:
            (directory / CARD).write_text(card)

    def params(self) -> dict[str, Any]:
        """Provenance for `uns`: model, revision, hash of the weights, tokenizer, hash of the vocabulary."""
        from sfm.checkpoints._weights import weights_hash

        return {
            "model": self.name,
            "revision": self.revision,
            "weights_hash": weights_hash(self.model),
            **self.tokenizer.params(),
        }


def write_model(model: Any, directory: Path, *, dtype: torch.dtype | None) -> None:
    """Write configuration and weights, without the progress bars of transformers."""
    from safetensors.torch import save_file

    from sfm.checkpoints._files import WEIGHTS

    config = model.config
    config.architectures = [type(model).__name__]
    config.save_pretrained(directory)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    tensors = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


def read_pretrained(
    directory: Path, *, name: str, revision: str | None = None, trust_pickle: bool = False
) -> PretrainedCells:
    """Read a directory that :meth:`PretrainedCells.save_pretrained` wrote."""
    from sfm.genes import GeneVocabulary
    from sfm.tokenizers import Tokenizer

    refuse_other_directory(directory)
    model = read_model(directory, trust_pickle=trust_pickle)
    vocabulary = GeneVocabulary.load(directory / VOCABULARY)
    tokenizer = Tokenizer.from_dict(read_json(directory / TOKENIZER), vocabulary)
    if vocabulary.size > model.config.vocab_size:
        msg = (
            f"{str(directory / VOCABULARY)!r} has token ids up to {vocabulary.size - 1}, but the model has only "
            f"{model.config.vocab_size}. The vocabulary belongs to another model."
        )
        raise ValueError(msg)
    return PretrainedCells(model, tokenizer, name=name, revision=revision)


def is_model_directory(directory: Path) -> bool:
    """Whether a directory looks like one that :meth:`PretrainedCells.save_pretrained` wrote."""
    return (directory / VOCABULARY).exists() or (directory / TOKENIZER).exists()


def refuse_other_directory(directory: Path) -> None:
    """Raise unless the files of a model directory are there."""
    missing = [file for file in (CONFIG, VOCABULARY, TOKENIZER) if not (directory / file).exists()]
    if not missing:
        return
    found = sorted(path.name for path in directory.iterdir())[:5]
    msg = (
        f"{str(directory)!r} is not a model directory: {missing!r} missing, found {found!r}. A model directory is written "
        "by `save_pretrained`."
    )
    raise FileNotFoundError(msg)


def read_model(directory: Path, *, trust_pickle: bool) -> Any:
    """Read configuration and weights into the class that the configuration names."""
    from sfm import nn
    from sfm.checkpoints._weights import load_weights, read_weights

    config = nn.CellConfig.from_dict(read_json(directory / CONFIG))
    name = (config.architectures or ["CellModel"])[0]
    model_class = getattr(nn, name, None)
    if not (isinstance(model_class, type) and issubclass(model_class, nn.CellPreTrainedModel)):
        msg = f"{str(directory / CONFIG)!r} names the architecture {name!r}, which sfm.nn does not have."
        raise ValueError(msg)
    weights = read_weights(directory, trust_pickle=trust_pickle)
    config.dtype = None  # the dtype on disk; in memory weights are float32
    model = model_class(config)
    report = load_weights(model, weights, source=str(directory))
    logg.hint(f"weights of {str(directory)!r}: {report}")
    return model.eval()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, with an error that names the file."""
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        refuse_stand_in(path, what=repr(path.name), kind="JSON file", any_text=False)
        msg = f"{str(path)!r} is not valid JSON ({error}). It may be truncated: download or save it again."
        raise ValueError(msg) from error
    if not isinstance(content, dict):
        msg = f"{str(path)!r} holds a {type(content).__name__}, not a JSON object."
        raise ValueError(msg)
    return content
