"""Labels of samples, each of which is many cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from scvi.module.base import LossOutput
from torch.utils.checkpoint import checkpoint

from sfm.data._sampler import BucketSampler
from sfm.nn._masking import IGNORED
from sfm.train._classification import ClassificationModule
from sfm.train._parts import example_parts
from sfm.train._sharding import is_sharded
from sfm.train._splitter import SAMPLE_KEY, LabeledDataSplitter

if TYPE_CHECKING:
    from scvi.data import AnnDataManager
    from torch import Tensor

# Tokens encoded at once where whole minibatches would be too many.
_MAX_TOKENS = 32_768


class SampleClassificationModule(ClassificationModule):
    """Labels of samples.

    Cells are encoded some at a time, and again in the backward pass, so that memory does not grow with the samples.
    """

    # The loss of a sample needs all its cells.
    by_cell: ClassVar[bool] = False

    def make_example(self, minibatch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Number the samples of the minibatch, and take the label of each; see :meth:`CellModule.make_example`."""
        samples, sample_index = minibatch["sample_index"].unique(return_inverse=True)
        labels = torch.full_like(samples, -1).scatter_reduce(0, sample_index, minibatch["label_index"], "amax")
        labels = labels.masked_fill(labels < 0, IGNORED)
        return {**self.inputs(minibatch), "sample_index": sample_index, "labels": labels}

    def forward(self, tensors: dict[str, Tensor], **_: Any) -> tuple[dict[str, Any], dict[str, Any], LossOutput]:
        """Return the loss, and in evaluation mode the logits and labels as well; see :meth:`CellModule.forward`."""
        example = self.make_example(tensors)
        labels, sample_index = example.pop("labels"), example.pop("sample_index")
        vectors = torch.cat([self._encode(part) for part in example_parts(example, max_tokens=self.max_tokens)])
        network: Any = self.network
        pooled, _weights = network.pool_samples(vectors, sample_index)
        output = network.output_layer(network.features(pooled), labels)
        predicted = {} if self.training else {"logits": output.logits, "labels": labels}
        known = (labels != IGNORED).long()
        return (
            {},
            predicted,
            LossOutput(loss=output.loss, reconstruction_loss=output.loss.detach() * known, n_obs_minibatch=len(labels)),
        )

    def _encode(self, part: dict[str, Tensor]) -> Tensor:
        network: Any = self.network
        if not torch.is_grad_enabled():
            return network.encode(**part)
        return checkpoint(lambda: network.encode(**part), use_reentrant=False)

    @property
    def max_tokens(self) -> int | None:
        """Most tokens to compute at once, padding included; see :meth:`CellModule.max_tokens`."""
        return super().max_tokens or (None if is_sharded(self.network) else _MAX_TOKENS)


class SampleSampler(BucketSampler):
    """Yield lists of cells, those of a few samples at a time, samples in a new random order each epoch.

    Parameters
    ----------
    samples
        Sample of each cell.
    batch_size
        Samples in a minibatch.
    lengths
        Tokens of each cell; cells of similar length are put side by side.
    cells_per_sample
        Most cells of a sample, drawn anew each epoch; `None` for all of them.
    kwargs
        Arguments of :class:`sfm.data._sampler.BucketSampler`.
    """

    def __init__(
        self, samples: np.ndarray, batch_size: int, *, lengths: np.ndarray, cells_per_sample: int | None, **kwargs: Any
    ) -> None:
        _, codes, sizes = np.unique(samples, return_inverse=True, return_counts=True)
        super().__init__(np.ones(len(sizes)), batch_size, **kwargs)
        self.rows = np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes)[:-1])
        self.cell_lengths = lengths
        self.cells_per_sample = cells_per_sample

    def _minibatches(self) -> list[np.ndarray]:
        rng = np.random.default_rng([self.seed, self.epoch, 1])
        drawn = [np.concatenate([self._cells(i, rng) for i in samples]) for samples in super()._minibatches()]
        return [rows[np.argsort(self.cell_lengths[rows], kind="stable")] for rows in drawn]

    def _cells(self, sample: int, rng: np.random.Generator) -> np.ndarray:
        rows = self.rows[sample]
        if self.cells_per_sample is None or len(rows) <= self.cells_per_sample:
            return rows
        return rng.choice(rows, self.cells_per_sample, replace=False)


class SampleDataSplitter(LabeledDataSplitter):
    """A split of the labelled samples, whose cells stay together; minibatches of some cells from each of a few samples.

    Parameters
    ----------
    adata_manager
        Manager of the registered data, with labels and samples.
    cells_per_sample
        Most cells of a sample in a training minibatch, drawn anew in each epoch. In validation there are all of them.
    kwargs
        Arguments of :class:`LabeledDataSplitter`. `batch_size` counts samples.
    """

    def __init__(self, adata_manager: AnnDataManager, *, cells_per_sample: int = 256, **kwargs: Any) -> None:
        if cells_per_sample < 1:
            msg = f"cells_per_sample={cells_per_sample!r} is not a positive number of cells."
            raise ValueError(msg)
        self.cells_per_sample = cells_per_sample
        super().__init__(adata_manager, **kwargs)

    def _split_labelled(self) -> tuple[np.ndarray, ...]:
        samples, labels = self._sample_codes(), self._label_codes()
        of_samples = np.full(samples.max() + 1, -1)
        np.maximum.at(of_samples, samples, labels)
        if self.external_indexing is None:
            parts = self._split_codes(of_samples)
            return tuple(np.flatnonzero(np.isin(samples, part)) for part in parts)
        given = [np.asarray(rows, dtype=np.int64) for rows in self.external_indexing]
        self._refuse_divided_samples([samples[rows] for rows in given])
        return tuple(rows[of_samples[samples[rows]] >= 0] for rows in given)

    def _refuse_divided_samples(self, parts: list[np.ndarray]) -> None:
        shared = np.intersect1d(parts[0], np.concatenate(parts[1:]))
        if len(shared):
            names = self.adata_manager.get_state_registry(SAMPLE_KEY)["categorical_mapping"]
            msg = (
                f"external_indexing= has cells of the sample {str(names[shared[0]])!r} both in training and outside of "
                "it. Keep each sample on one side."
            )
            raise ValueError(msg)

    def _sample_codes(self) -> np.ndarray:
        codes: np.ndarray = np.asarray(self.adata_manager.get_from_registry(SAMPLE_KEY)).ravel()
        return codes

    def _sampler(
        self, indices: np.ndarray, *, batch_size: int, shuffle: bool, drop_last: bool, distributed: bool
    ) -> SampleSampler:
        return SampleSampler(
            self._sample_codes()[indices],
            batch_size,
            lengths=self.cells.lengths[indices],
            cells_per_sample=self.cells_per_sample if shuffle else None,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=self.seed,
            distributed=distributed,
        )
