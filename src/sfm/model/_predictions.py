from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from sfm.annotation._network import refuse_untrained
from sfm.inference import classify_tokens, embed_tokens
from sfm.model._labelled import LabelledModel
from sfm.model._pairs import as_pairs
from sfm.model._samples import read_samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData


class LabelPredictions(LabelledModel):
    """What a classifier says about cells or samples."""

    def predict(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        soft: bool = False,
        batch_size: int | None = None,
    ) -> pd.Series | pd.DataFrame:
        """Predict labels of cells, or of samples where the model was set up with `sample_key`.

        The label of a cell depends on that cell alone, that of a sample on the cells of it that are given.

        Parameters
        ----------
        adata
            Data to predict, read with the layer and gene names that `setup_anndata` was given; it is not written to.
            Default: the data the model was set up with.
        indices
            Rows to predict, or a boolean mask. Default: all.
        soft
            Return probabilities of all labels instead of the best label.
        batch_size
            Cells per minibatch. Default: as many as fit a number of tokens.

        Returns
        -------
        Names of labels, or with `soft` a table of probabilities, float32, with a column per label, calibrated on the
        validation cells. The index holds the names of the cells, in the order of `indices`, or those of the samples.
        (scvi-tools returns labels as an array, which has no names.)

        Raises
        ------
        RuntimeError
            If the head has not been trained.
        """
        rows = self._rows(adata, indices)
        probabilities = self._probabilities(adata, rows, batch_size=batch_size)
        if soft:
            return probabilities
        best = np.array(self.labels, dtype=object)[probabilities.to_numpy().argmax(axis=1)]
        return pd.Series(best, index=probabilities.index, name=self.registry["setup_args"]["labels_key"])

    def predict_pairs(
        self,
        adata: AnnData | None,
        i: Sequence[int] | np.ndarray,
        j: Sequence[int] | np.ndarray,
        *,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Predict whether two cells have the same label.

        The sum over labels of the product of both cells' probabilities: the probability that two labels are the same
        if each is drawn from what is known about its cell. It is symmetric. Where the cells belong together for another
        reason than their label, train :class:`MaskedCellModel` with `objective="pairs"`.

        Parameters
        ----------
        adata
            Data with both cells of each pair, as for :meth:`predict`; `None` for the data the model was set up with.
        i
            Rows of the first cells, or of the first samples in the order that :meth:`predict` returns.
        j
            Rows of the second ones, as many.
        batch_size
            Cells per minibatch.

        Returns
        -------
        Probabilities, float32, one per pair.

        Raises
        ------
        ValueError
            If `i` and `j` differ in length, or are not numbers of rows.
        """
        first, second = as_pairs(i, j)
        if self.sample_key is not None:
            table = self._probabilities(adata, self._rows(adata, None), batch_size=batch_size).to_numpy()
            return (table[first] * table[second]).sum(axis=1)
        rows, positions = np.unique(np.concatenate([first, second]), return_inverse=True)
        table = self._probabilities(adata, rows, batch_size=batch_size).to_numpy()
        n = len(first)
        product: np.ndarray = (table[positions[:n]] * table[positions[n:]]).sum(axis=1)
        return product

    def cell_weights(
        self, adata: AnnData | None = None, indices: Sequence[int] | np.ndarray | None = None
    ) -> pd.Series:
        """Return how much each cell counts in its sample, for models that were set up with `sample_key`.

        Parameters
        ----------
        adata
            Data as for :meth:`predict`.
        indices
            Rows, or a boolean mask. Default: all.

        Returns
        -------
        Weights, float32, which sum to one over the cells of each sample, with names of cells as index.

        Raises
        ------
        ValueError
            If the labels are those of cells.
        """
        if self.sample_key is None:
            msg = "Labels of this model are those of cells. Weights of cells need setup_anndata(..., sample_key=)."
            raise ValueError(msg)
        refuse_untrained(self)
        rows = self._rows(adata, indices)
        _, weights, _ = self._pool(adata, rows, batch_size=None)
        return pd.Series(weights, index=self._data(adata).obs_names[rows], name="cell_weight")

    def _data(self, adata: AnnData | None) -> AnnData:
        if adata is None and self.adata is None:
            msg = "The model was loaded without data. Pass adata=."
            raise ValueError(msg)
        return self.adata if adata is None else adata

    def _rows(self, adata: AnnData | None, indices: Sequence[int] | np.ndarray | None) -> np.ndarray:
        every = np.arange(self._data(adata).n_obs)
        if indices is None:
            return every
        chosen = np.asarray(indices)
        return every[chosen if chosen.size else chosen.astype(np.int64)]

    def _probabilities(self, adata: AnnData | None, rows: np.ndarray, *, batch_size: int | None) -> pd.DataFrame:
        """Calibrated probabilities, one row per cell or sample."""
        refuse_untrained(self)
        logits, names = self._logits(adata, rows, batch_size=batch_size)
        scores = torch.from_numpy(logits) / float(self._network.temperature)  # type: ignore[arg-type]
        return pd.DataFrame(scores.softmax(dim=1).numpy(), index=names, columns=self.labels)

    def _logits(
        self, adata: AnnData | None, rows: np.ndarray, *, batch_size: int | None
    ) -> tuple[np.ndarray, pd.Index]:
        if self.sample_key is not None:
            logits, _, names = self._pool(adata, rows, batch_size=batch_size)
            return logits, names
        if not len(rows):
            return np.zeros((0, len(self.labels)), dtype=np.float32), self._data(adata).obs_names[rows]
        logits, _ = classify_tokens(self._network, self._cells(adata)[rows], **self._inference(batch_size))
        return logits, self._data(adata).obs_names[rows]

    def _pool(
        self, adata: AnnData | None, rows: np.ndarray, *, batch_size: int | None
    ) -> tuple[np.ndarray, np.ndarray, pd.Index]:
        """Logits of samples, weights of their cells, and names of samples."""
        samples = read_samples(self._data(adata), str(self.sample_key))[rows].remove_unused_categories()
        cells = self._cells(adata)[rows]
        vectors = embed_tokens(self._network, cells, **self._inference(batch_size))
        network = self._network
        with torch.inference_mode():
            index = torch.tensor(samples.codes, dtype=torch.long, device=self.device)
            pooled, weights = network.pool_samples(torch.from_numpy(vectors).to(self.device), index)
            logits: Any = network.output_layer(network.features(pooled)).logits
        return logits.cpu().numpy(), weights.cpu().numpy(), pd.Index(samples.categories)

    def _inference(self, batch_size: int | None) -> dict[str, Any]:
        return {"pad_id": self.vocabulary.pad_id, "batch_size": batch_size or "auto", "device": self.device}
