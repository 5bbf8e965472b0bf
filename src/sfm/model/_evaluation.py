from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from sfm import _logging as logg
from sfm.annotation._calibration import Temperature
from sfm.inference import classify_tokens, embed_tokens
from sfm.metrics import expected_calibration_error
from sfm.model._labels import read_labels
from sfm.model._predictions import LabelPredictions
from sfm.model._samples import labels_of_samples
from sfm.tokenizers import TokenizedCells
from sfm.train._splitter import registered_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

# Training cells that the network remembers the place of; more would not move class means or quantiles.
_MAX_REFERENCE = 20_000
# Validation cells from which quantiles of distances are taken; training cells are nearer to each other than new ones.
_ENOUGH_HELD_OUT = 20


class LabelEvaluation(LabelPredictions):
    """How good predictions are, and how sure one can be of them."""

    cells_hash_: str | None

    def classification_report(
        self, adata: AnnData | None = None, indices: Sequence[int] | np.ndarray | None = None
    ) -> pd.DataFrame:
        """Compare predictions with labels.

        Parameters
        ----------
        adata
            Data with labels in the column that `setup_anndata` was given. Default: the data the model was set up with.
        indices
            Rows to compare, or a boolean mask. Default: the validation cells, or all cells of other data. Unlabelled
            cells are left out.

        Returns
        -------
        A row per label that occurs or is predicted, with `precision`, `recall`, `f1` and `support`. `attrs` holds
        `accuracy`, `macro_f1` (the unweighted mean over these labels), `calibration_error` (the expected one, in 15
        bins) and `n`, the number of cells or samples.

        Raises
        ------
        ValueError
            If there is no labelled cell among them.
        """
        if adata is None and indices is None:
            indices = self._validation_rows()
        rows = self._rows(adata, indices)
        probabilities = self._probabilities(adata, rows, batch_size=None)
        truth = self._truth(adata, rows)
        truth = truth if self.sample_key is None else truth.reindex(probabilities.index)
        known = truth.notna().to_numpy()
        if not known.any():
            key = self.registry["setup_args"]["labels_key"]
            msg = (
                f"None of these {len(known)} cells has a label in adata.obs[{key!r}], so that nothing can be compared."
            )
            raise ValueError(msg)
        return _report(truth.to_numpy()[known], probabilities.to_numpy()[known], self.labels)

    def _truth(self, adata: AnnData | None, rows: np.ndarray) -> pd.Series:
        """Labels in the data, with names of cells or samples as index."""
        data, args = self._data(adata), self.registry["setup_args"]
        labels = read_labels(data, args["labels_key"], unlabeled_category=args["unlabeled_category"])
        if self.sample_key is not None:
            return labels_of_samples(data, labels, self.sample_key).astype(object)
        return pd.Series(labels[rows], index=data.obs_names[rows]).astype(object)

    def _validation_rows(self) -> np.ndarray:
        rows = self.validation_indices
        if rows is None or not len(rows):
            msg = "The model has no validation cells. Pass indices=, or adata= with labelled cells."
            raise ValueError(msg)
        if self.cells_hash_ != _hash_of(self._data(None)):
            msg = "The model was trained on other cells than it was loaded with. Pass indices=, or adata=."
            raise ValueError(msg)
        return np.asarray(rows)

    def _fit_confidence(self, datamodule: Any = None) -> None:
        """Calibrate the probabilities on the validation cells, and learn where the training cells are."""
        self.cells_hash_ = None if self.adata is None else _hash_of(self.adata)
        network = self._network
        logits, codes = self._logits_of_validation(datamodule)
        if not len(logits):
            logg.info("no cells were held out: probabilities are not calibrated (temperature 1)")
        temperature = Temperature().fit(logits, codes).value if len(logits) else 1.0
        network.temperature.fill_(temperature)  # type: ignore[union-attr]
        logg.hint(
            f"temperature {temperature:.2f} from {len(logits)} held-out {'cells' if self.sample_key is None else 'samples'}"
        )
        if self.sample_key is None:  # the place of single cells says little about samples
            self._fit_distance(datamodule)

    def _logits_of_validation(self, datamodule: Any) -> tuple[np.ndarray, np.ndarray]:
        """Logits and numbers of labels of the validation cells or samples."""
        if datamodule is not None:
            cells, codes = self._sampled(datamodule, "validation")
            if not len(cells):
                return np.zeros((0, len(self.labels)), dtype=np.float32), codes
            return classify_tokens(self._network, cells, **self._inference(None))[0], codes
        rows = np.asarray(self.validation_indices)
        logits, names = self._logits(None, rows, batch_size=None)
        return logits, self._codes(rows, names)

    def _fit_distance(self, datamodule: Any) -> None:
        if datamodule is not None:
            cells, codes = self._sampled(datamodule, "train")
            held_out, _ = self._sampled(datamodule, "validation")
        else:
            rng = np.random.default_rng(0)
            train = np.asarray(self.train_indices)
            train = rng.permutation(train)[:_MAX_REFERENCE] if len(train) > _MAX_REFERENCE else train
            registered, codes = registered_tokens(self.adata_manager), self._codes(train, self.adata.obs_names[train])
            cells, held_out = registered[train], registered[np.asarray(self.validation_indices, dtype=np.int64)]
        enough = len(held_out) >= _ENOUGH_HELD_OUT
        both = TokenizedCells.concatenate([cells, held_out]) if enough else cells
        vectors = torch.from_numpy(embed_tokens(self._network, both, **self._inference(None)))
        parts = vectors.split([len(cells), len(vectors) - len(cells)])
        self._network.distance.fit(parts[0], codes, held_out=parts[1] if enough else None)  # type: ignore[union-attr]

    def _sampled(self, datamodule: Any, part: str) -> tuple[TokenizedCells, np.ndarray]:
        """Some cells of a datamodule, and the numbers of their labels."""
        cells, rows = datamodule.sample(part, _MAX_REFERENCE)
        return cells, datamodule.source.columns["label_index"][rows].astype(np.int64)

    def _codes(self, rows: np.ndarray, names: pd.Index) -> np.ndarray:
        """Numbers of the labels of these rows, or of the samples with these names."""
        truth = self._truth(None, rows)
        truth = truth if self.sample_key is None else truth.reindex(names)
        return pd.Index(self.labels).get_indexer(truth)


def _hash_of(adata: AnnData) -> str:
    """Which cells these are, in which order."""
    return hashlib.sha256("\n".join(map(str, adata.obs_names)).encode()).hexdigest()


def _report(truth: np.ndarray, probabilities: np.ndarray, labels: list[str]) -> pd.DataFrame:
    from sklearn.metrics import precision_recall_fscore_support

    best = probabilities.argmax(axis=1)
    predicted = np.array(labels, dtype=object)[best]
    unknown = sorted(set(truth) - set(labels))  # which can only be missed
    occurring = [name for name in [*labels, *unknown] if name in set(truth) | set(predicted)]
    columns = precision_recall_fscore_support(truth, predicted, labels=occurring, zero_division=0.0)
    table = pd.DataFrame(dict(zip(["precision", "recall", "f1", "support"], columns, strict=True)), index=occurring)
    right = predicted == truth
    table.attrs = {
        "accuracy": float(right.mean()),
        "macro_f1": float(table["f1"].mean()),
        "calibration_error": expected_calibration_error(probabilities.max(axis=1), right),
        "n": len(truth),
    }
    return table
