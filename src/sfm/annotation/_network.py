from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from scipy.special import softmax

from sfm.annotation._embed import SharedGenes
from sfm.annotation._reference import Prediction
from sfm.data import stream_cells
from sfm.inference import classify_tokens
from sfm.inference._cells import compute_params, is_empty
from sfm.inference._precision import choose_precision
from sfm.inference._windows import over_windows

if TYPE_CHECKING:
    from anndata import AnnData

    from sfm.checkpoints import PretrainedCells
    from sfm.inference._precision import Precision
    from sfm.tokenizers import TokenizedCells


class NetworkReference:
    """A classifier network as a reference; it knows its labels, its temperature, and where its training cells are.

    Parameters
    ----------
    pretrained
        The network, a :class:`sfm.nn.CellForSequenceClassification`, with its tokenizer.
    genes
        Token ids of the genes that it is shown, `None` for all.

    Raises
    ------
    ValueError
        If it is another network, or one whose labels are not those of single cells, of which each has one.
    """

    def __init__(self, pretrained: PretrainedCells, *, genes: np.ndarray | None = None) -> None:
        _refuse_other_networks(pretrained)
        self.pretrained = pretrained
        self.genes = genes
        self.network = cast("Any", pretrained.model)
        names = self.network.config.id2label
        self.labels: tuple[str, ...] = tuple(str(names[i]) for i in sorted(names, key=int))

    def predict(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        use_raw: bool = False,
        gene_symbols: str | None = None,
        batch_size: int | Literal["auto"] = "auto",
        device: str | torch.device = "auto",
        precision: Precision = "auto",
    ) -> Prediction:
        """Annotate cells, as :meth:`sfm.annotation.Reference.predict` says; tokens are made window by window."""
        where: dict[str, Any] = {"layer": layer, "use_raw": use_raw, "gene_symbols": gene_symbols}
        in_precision = choose_precision(precision, device)
        tokenizer: Any = SharedGenes(self.pretrained.tokenizer, self.genes)
        stream = stream_cells(adata, tokenizer, **where, model_name=f"Model {self.pretrained.name!r}")
        run = partial(classify_tokens, self.network, pad_id=self.pretrained.vocabulary.pad_id, precision=in_precision)
        windows = over_windows(run, self.network, stream, doing="Annotating", batch_size=batch_size, device=device)
        found: dict[str, Any] = {}
        for rows, cells, outputs in windows:
            for name, part in self._classified(cells, *outputs).items():
                if name not in found:
                    found[name] = np.empty((stream.n_obs, *part.shape[1:]), dtype=part.dtype)
                found[name][rows] = part
        ran = compute_params(self.pretrained, device=device, precision=in_precision)
        return Prediction(**found, params={**stream.params(), "precision": ran["precision"], "device": ran["device"]})

    def _classified(self, cells: TokenizedCells, logits: np.ndarray, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """What a :class:`Prediction` says of some cells."""
        novelty = self._novelty(vectors)
        return {
            "probabilities": softmax(logits.astype(np.float64) / self.temperature, axis=1).astype(np.float32),
            "vectors": vectors,
            "codes": logits.argmax(axis=1),
            "is_empty": is_empty(cells, self.pretrained.tokenizer),
            **({} if novelty is None else {"novelty": novelty}),
        }

    @property
    def temperature(self) -> float:
        """What logits are divided by."""
        return float(getattr(self.network, "temperature", 1.0))

    def _novelty(self, vectors: np.ndarray) -> np.ndarray | None:
        distance = getattr(self.network, "distance", None)
        if distance is None or not distance.is_fitted:
            return None
        with torch.inference_mode():
            return distance(torch.from_numpy(vectors).to(distance.means.device)).float().cpu().numpy()

    def params(self) -> dict[str, Any]:
        """Provenance for `uns`."""
        # Last, since tokenizers of published models have a setting of this name.
        return {**self.pretrained.params(), "temperature": self.temperature, "reference": "classifier"}


def refuse_untrained(model: object) -> None:
    """Raise if a model is a classifier, of cells or of genes, whose head is still random."""
    if not getattr(model, "head_is_trained_", True):
        msg = f"The head of this {type(model).__name__} is new, and its labels would be random. Call `train` first."
        raise RuntimeError(msg)


def is_classifier(network: object) -> bool:
    """Whether a network predicts labels of cells."""
    from sfm.nn import CellForSequenceClassification

    return isinstance(network, CellForSequenceClassification)


def _refuse_other_networks(pretrained: PretrainedCells) -> None:
    network: Any = pretrained.model
    how = (
        "Pass labelled cells as reference and this model as model=, or train a classifier: "
        "`sfm.model.CellClassifier.from_pretrained(model, labelled, labels_key=...)`."
    )
    if not is_classifier(network):
        msg = f"reference={pretrained.name!r} is a {type(network).__name__}, which has no labels. {how}"
        raise ValueError(msg)
    config = network.config
    if config.problem_type in ("regression", "multi_label_classification") or (config.num_labels or 0) < 2:
        msg = (
            f"reference={pretrained.name!r} has problem_type={config.problem_type!r} and {config.num_labels} labels, but "
            f"cells are annotated with one of several labels. {how}"
        )
        raise ValueError(msg)
    if getattr(config, "sample_pooling", None) is not None:
        msg = (
            f"reference={pretrained.name!r} labels samples, not cells. Use `predict` of `sfm.model.CellClassifier` for "
            "the labels of samples."
        )
        raise ValueError(msg)
