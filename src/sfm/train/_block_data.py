from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import LightningDataModule

from sfm.data._block_loader import BlockLoader
from sfm.data._block_sampler import BlockSampler
from sfm.data._block_split import BlockSplit
from sfm.train._datamodule_input import Places

if TYPE_CHECKING:
    from sfm.data._block_split import Part, SplitBy
    from sfm.data._cache import TokenCache
    from sfm.data._shards import CellShards
    from sfm.tokenizers import TokenizedCells, Tokenizer

# Cells whose tokens say how often genes occur.
_SAMPLE = 20_000
# What the order of the cells depends on, besides the seed.
_ORDER = ("batch_size", "block_size", "mixed_blocks", "validation_size", "split_by", "labeled_only")


class BlockDataModule(LightningDataModule):
    """Minibatches of cells that are read by blocks: which ones, in which order, and from where on."""

    source: TokenCache | CellShards
    batch_size: int
    block_size: int
    mixed_blocks: int
    validation_size: float
    split_by: SplitBy
    num_workers: int
    pin_memory: bool
    seed: int

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, with its vocabulary."""
        return self.source.tokenizer

    @property
    def n_obs(self) -> int:
        """Cells."""
        return len(self.source)

    @property
    def n_train(self) -> int:
        """Cells to train on."""
        return int(self.split.sizes("train").sum())

    @property
    def n_val(self) -> int:
        """Cells that are held out."""
        return int(self.split.sizes("validation").sum())

    @property
    def labeled_only(self) -> bool:
        """Whether cells without a label are left out."""
        return self._labeled_only

    @labeled_only.setter
    def labeled_only(self, labeled_only: bool) -> None:
        if labeled_only and "label_index" not in self.source.columns:
            msg = "labeled_only=True needs labels. Pass labels_key= with a column of obs."
            raise ValueError(msg)
        self._labeled_only = labeled_only
        self.__dict__.pop("split", None)

    @cached_property
    def split(self) -> BlockSplit:
        """Which cells of each block are trained on, and which are held out."""
        split = BlockSplit(
            self.source.block_bounds(self.block_size),
            validation_size=self.validation_size,
            by=self.split_by,
            seed=self.seed,
            usable=self.source.columns["label_index"] >= 0 if self.labeled_only else None,
        )
        if not split.sizes("train").any():
            msg = f"No cell is left to train on: of {len(self.source)} cells, {split.sizes('validation').sum()} are held out."
            raise ValueError(msg)
        return split

    def train_dataloader(self) -> BlockLoader:
        """Return shuffled minibatches of the training cells."""
        return self._loader("train")

    def val_dataloader(self) -> BlockLoader | None:
        """Return minibatches of the validation cells, in a fixed order; `None` if there are none."""
        return self._loader("validation") if self.n_val else None

    def _loader(self, part: Part) -> BlockLoader:
        sampler = BlockSampler(
            self.split,
            part,
            batch_size=self.batch_size,
            pool_size=self.block_size * self.mixed_blocks,
            shuffle=part == "train",
            seed=self.seed,
            distributed=getattr(self.trainer, "world_size", 1) > 1,
        )
        pad_id = self.tokenizer.vocabulary.pad_id
        return BlockLoader(
            self.source, sampler, pad_id=pad_id, num_workers=self.num_workers, pin_memory=self.pin_memory
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what the split and the order depend on, for checkpoints."""
        return {"n_obs": self.n_obs, "seed": self.seed, **{name: getattr(self, name) for name in _ORDER}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the cells of the run that is resumed.

        Parameters
        ----------
        state_dict
            What `state_dict` returned.

        Raises
        ------
        ValueError
            If that run had other cells, or put them into another order.
        """
        own = self.state_dict()
        others = [name for name in ("n_obs", *_ORDER) if state_dict[name] != own[name]]
        if others:
            shown = ", ".join(f"{name}={state_dict[name]!r} instead of {own[name]!r}" for name in others)
            msg = (
                f"The checkpoint is of a run with {shown}, so that it cannot go on with the same cells. Make the "
                "datamodule as it was, or pass resume=False."
            )
            raise ValueError(msg)
        self.seed = state_dict["seed"]
        self.__dict__.pop("split", None)

    @property
    def obs_names(self) -> Places:
        """Where each cell is, by its number."""
        return Places(self.source)

    def sample(self, part: Part, n: int) -> tuple[TokenizedCells, np.ndarray]:
        """Read cells of some blocks, the same each time.

        Parameters
        ----------
        part
            `"train"` or `"validation"`.
        n
            How many cells; fewer, if there are not so many.

        Returns
        -------
        Their tokens, and their numbers among all cells, ascending.
        """
        sizes = self.split.sizes(part)
        order = np.random.default_rng([self.seed, 3]).permutation(np.flatnonzero(sizes))
        chosen = order[np.cumsum(sizes[order]) - sizes[order] < n]
        rows = [self.split.rows(int(block), part) for block in chosen]
        drawn = np.sort(np.concatenate([np.empty(0, dtype=np.int64), *rows])[:n])
        return self.source[drawn], drawn

    def token_counts(self, vocab_size: int) -> np.ndarray:
        """Count how often each token occurs in some of the training cells, up to 20,000.

        Parameters
        ----------
        vocab_size
            Number of tokens.

        Returns
        -------
        Counts, int64, shape `(vocab_size,)`.
        """
        return np.bincount(self.sample("train", _SAMPLE)[0].input_ids, minlength=vocab_size)
