from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scvi import settings
from scvi.dataloaders import DataSplitter

from sfm.data._loader import token_loader
from sfm.data._sampler import BucketSampler
from sfm.tokenizers import TokenizedCells

if TYPE_CHECKING:
    from scvi.data import AnnDataManager
    from torch import Tensor
    from torch.utils.data import DataLoader

TOKENS_KEY = "tokens"
VALUES_KEY = "token_values"


def registered_tokens(manager: AnnDataManager) -> TokenizedCells:
    """Return the tokens that `setup_anndata` registered, in obs order."""
    values = manager.get_from_registry(VALUES_KEY) if VALUES_KEY in manager.data_registry else None
    return TokenizedCells.from_obsm(manager.get_from_registry(TOKENS_KEY), values)


class TokenDataSplitter(DataSplitter):
    """scvi-tools' split into training, validation and test cells, read as length-bucketed minibatches.

    Parameters
    ----------
    adata_manager
        Manager of the registered data.
    pad_id
        Token id of padding; `None` if any will do.
    distributed_sampler
        Split the training cells over the processes of a distributed run.
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

    def token_counts(self, vocab_size: int) -> np.ndarray:
        """How often each token occurs in the training cells, shape `(vocab_size,)`."""
        return np.bincount(self.cells[self.train_idx].input_ids, minlength=vocab_size)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return shuffled minibatches of the training cells."""
        return self._loader(self.train_idx, shuffle=True, drop_last=self.drop_last)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]] | None:
        """Return minibatches of the validation cells, in a fixed order; `None` if there are none."""
        return self._loader(self.val_idx) if len(self.val_idx) else None

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]] | None:
        """Return minibatches of the test cells, in a fixed order; `None` if there are none."""
        return self._loader(self.test_idx) if len(self.test_idx) else None

    def _loader(
        self, indices: np.ndarray, *, shuffle: bool = False, drop_last: bool = False
    ) -> DataLoader[dict[str, Tensor]]:
        options = dict(self.data_loader_kwargs)
        cells = self.cells[np.asarray(indices)]
        sampler = BucketSampler(
            cells.lengths,
            options.pop("batch_size", None) or settings.batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=settings.seed or 0,
            distributed=self.distributed_sampler,
        )
        options.setdefault("num_workers", settings.dl_num_workers)
        options.setdefault("persistent_workers", settings.dl_persistent_workers)
        return token_loader(cells, pad_id=self.pad_id, sampler=sampler, pin_memory=self.pin_memory, **options)
