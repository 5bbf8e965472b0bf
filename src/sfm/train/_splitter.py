from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS, settings
from scvi.dataloaders import DataSplitter

from sfm.data._loader import token_loader
from sfm.data._sampler import BucketSampler
from sfm.tokenizers import TokenizedCells
from sfm.train._stratified import stratified_split

if TYPE_CHECKING:
    from scvi.data import AnnDataManager

    from sfm.data._loader import TokenLoader

TOKENS_KEY = "tokens"
VALUES_KEY = "token_values"
SAMPLE_KEY = "sample"

_SPLIT = ("train_idx", "val_idx", "test_idx")
# Names in a minibatch of the categories that `setup_anndata` was given.
CATEGORIES = {
    "batch_index": REGISTRY_KEYS.BATCH_KEY,
    "label_index": REGISTRY_KEYS.LABELS_KEY,
    "sample_index": SAMPLE_KEY,
}


def registered_tokens(manager: AnnDataManager) -> TokenizedCells:
    """Return the tokens that `setup_anndata` registered, in obs order."""
    values = manager.get_from_registry(VALUES_KEY) if VALUES_KEY in manager.data_registry else None
    return TokenizedCells.from_obsm(manager.get_from_registry(TOKENS_KEY), values)


class TokenDataSplitter(DataSplitter):
    """scvi-tools' split into training, validation and test cells, read as length-bucketed minibatches.

    A minibatch also holds the rows of its cells in the data, `cell_index`, and the codes of the categories that were
    registered, `batch_index` and `label_index`.

    Parameters
    ----------
    adata_manager
        Manager of the registered data.
    pad_id
        Token id of padding; `None` if any will do.
    distributed_sampler
        Split the training cells over the processes of a distributed run; those of a Lightning trainer are found anyway.
    kwargs
        Whatever :class:`scvi.dataloaders.DataSplitter` takes.
    """

    def __init__(
        self, adata_manager: AnnDataManager, *, pad_id: int | None = 0, distributed_sampler: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(adata_manager, **kwargs)
        self.pad_id = pad_id
        self.distributed_sampler = distributed_sampler
        self.cells = registered_tokens(adata_manager)
        self.seed = settings.seed or 0

    @property
    def obs_names(self) -> np.ndarray:
        """Names of all cells."""
        names: np.ndarray = self.adata_manager.adata.obs_names.to_numpy()
        return names

    def token_counts(self, vocab_size: int) -> np.ndarray:
        """How often each token occurs in the training cells, shape `(vocab_size,)`."""
        return np.bincount(self.cells[self.train_idx].input_ids, minlength=vocab_size)

    def train_dataloader(self) -> TokenLoader:
        """Return shuffled minibatches of the training cells."""
        return self._loader(self.train_idx, shuffle=True, drop_last=self.drop_last)

    def val_dataloader(self) -> TokenLoader | None:
        """Return minibatches of the validation cells, in a fixed order; `None` if there are none."""
        return self._loader(self.val_idx) if len(self.val_idx) else None

    def test_dataloader(self) -> TokenLoader | None:
        """Return minibatches of the test cells, in a fixed order; `None` if there are none."""
        return self._loader(self.test_idx) if len(self.test_idx) else None

    def state_dict(self) -> dict[str, Any]:
        """Return which cells are trained on and in what order, for checkpoints."""
        split = {name: torch.from_numpy(np.asarray(getattr(self, name), dtype=np.int64)) for name in _SPLIT}
        return {"n_obs": len(self.cells), "seed": self.seed, **split}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the cells of the run that is resumed.

        Parameters
        ----------
        state_dict
            What `state_dict` returned.

        Raises
        ------
        ValueError
            If that run had another number of cells.
        """
        if state_dict["n_obs"] != len(self.cells):
            msg = (
                f"The checkpoint is of a run on {state_dict['n_obs']} cells, but adata has {len(self.cells)}. Set the "
                "model up with the same data, or pass resume=False."
            )
            raise ValueError(msg)
        self.seed = state_dict["seed"]
        for name in _SPLIT:
            setattr(self, name, state_dict[name].numpy())

    def _loader(self, indices: np.ndarray, *, shuffle: bool = False, drop_last: bool = False) -> TokenLoader:
        options = dict(self.data_loader_kwargs)
        indices = np.asarray(indices)
        cells = self.cells[indices]
        sampler = self._sampler(
            indices,
            batch_size=options.pop("batch_size", None) or settings.batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            distributed=self.distributed_sampler or getattr(self.trainer, "world_size", 1) > 1,
        )
        options.setdefault("num_workers", settings.dl_num_workers)
        options.setdefault("persistent_workers", settings.dl_persistent_workers)
        options["columns"] = {"cell_index": indices, **self._codes(indices)}
        return token_loader(cells, pad_id=self.pad_id, sampler=sampler, pin_memory=self.pin_memory, **options)

    def _sampler(
        self, indices: np.ndarray, *, batch_size: int, shuffle: bool, drop_last: bool, distributed: bool
    ) -> BucketSampler:
        options = {"shuffle": shuffle, "drop_last": drop_last, "distributed": distributed}
        return BucketSampler(self.cells[indices].lengths, batch_size, seed=self.seed, **options)

    def _codes(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        registered = {name: key for name, key in CATEGORIES.items() if key in self.adata_manager.data_registry}
        return {
            name: np.asarray(self.adata_manager.get_from_registry(key)).ravel()[indices].astype(np.int64)
            for name, key in registered.items()
        }


class LabeledDataSplitter(TokenDataSplitter):
    """A split of the labelled cells, each label in proportion and none of them held out as a whole.

    A label with a single cell is trained on. Cells without a label are in none of the three parts.

    Parameters
    ----------
    adata_manager
        Manager of the registered data, with labels.
    kwargs
        Arguments of :class:`TokenDataSplitter`. `train_size` and `validation_size` are shares of the labelled cells.
    """

    def __init__(self, adata_manager: AnnDataManager, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            # scvi-tools splits all cells here, and may move some of them.
            warnings.filterwarnings("ignore", message=".*(moved from training set|Last batch will have a small size)")
            super().__init__(adata_manager, **kwargs)
        self._split = self._split_labelled()
        self.n_train, self.n_val = len(self._split[0]), len(self._split[1])

    def setup(self, stage: str | None = None) -> None:
        """Take the split.

        Parameters
        ----------
        stage
            Lightning's name of what begins.
        """
        self.train_idx, self.val_idx, self.test_idx = self._split

    def _split_labelled(self) -> tuple[np.ndarray, ...]:
        codes = self._label_codes()
        if self.external_indexing is not None:
            given = [np.asarray(rows, dtype=np.int64) for rows in self.external_indexing]
            return tuple(rows[codes[rows] >= 0] for rows in given)
        return self._split_codes(codes)

    def _split_codes(self, codes: np.ndarray) -> tuple[np.ndarray, ...]:
        n = int((codes >= 0).sum())
        share = 1 - self.train_size if self.validation_size is None else self.validation_size
        return stratified_split(
            codes,
            n_held_out=round(n * (1 - self.train_size)),
            n_validation=round(n * share),
            seed=settings.seed,
            shuffle=self.shuffle_set_split,
        )

    def _label_codes(self) -> np.ndarray:
        """Label of each cell, -1 where there is none."""
        codes: np.ndarray = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel()
        return codes
