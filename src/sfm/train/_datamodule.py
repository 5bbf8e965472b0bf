from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scvi import settings

from sfm._docs import INPUT, doc_params
from sfm.data._cache import TokenCache
from sfm.data._shards import CellShards
from sfm.train._block_data import BlockDataModule
from sfm.train._datamodule_input import is_cache, opened_cache, refuse_bad_settings, tokenizer_of_files
from sfm.train._registry import registry_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sfm.checkpoints import PretrainedCells
    from sfm.data._block_split import SplitBy
    from sfm.genes import GeneVocabulary
    from sfm.tokenizers import Tokenizer


@doc_params(input=INPUT)
class CellDataModule(BlockDataModule):
    """Cells for training that need not fit into memory: files of counts, or a token cache.

    In each epoch the blocks are put in random order, the cells of a few blocks at a time are mixed, and minibatches are
    made of cells of similar length. Every training cell comes once per epoch, in as many processes as there are. The
    order depends on the seed, the epoch and the number of processes, not on the number of workers, and a run that was
    interrupted goes on with the minibatches it had not seen. Memory grows with `block_size` times `mixed_blocks`.

    Parameters
    ----------
    cells
        Files `.h5ad` or directories `.zarr`, which may differ in their genes; one of them; or a
        :class:`sfm.data.TokenCache` or its path.
    tokenizer
        For files, as in :func:`sfm.pp.tokenize`; `"rank"`, `"bins"` and `"values"` need `vocabulary`.
    vocabulary
        For files, as in :func:`sfm.pp.tokenize`.
    max_length
        Longest token sequence, special tokens included.
    {input}
    batch_key
        Column of `obs` with the biological batch.
    labels_key
        Column of `obs` with the cell labels.
    cache_dir
        Tokenize the files once, into a token cache in this directory. A cache that is there is used if it is of the same
        files, which have not changed since, and of the same settings. By default cells are tokenized whenever they are
        read.
    batch_size
        Cells per minibatch, on each device.
    block_size
        Cells that stand one after the other and are read at once.
    mixed_blocks
        Blocks whose cells are mixed. The more, the nearer to a shuffle of all cells.
    validation_size
        Share of the cells to hold out.
    split_by
        Hold out `"cells"` of every block, or whole `"blocks"`, which are fewer to read.
    labeled_only
        Leave out cells without a label; :class:`sfm.model.CellClassifier` does so anyway.
    num_workers
        Processes that read; without any, a thread reads ahead. A token cache needs none. By default
        `scvi.settings.dl_num_workers`.
    pin_memory
        Put minibatches into memory that is faster to copy to a GPU.
    seed
        Seed of the split and of the order. By default `scvi.settings.seed`.

    Raises
    ------
    ValueError
        If a setting is out of range or does not go with the kind of `cells`.
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> import tempfile, sfm
    >>> from sfm.model import MaskedCellModel
    >>> from sfm.train import CellDataModule
    >>> folder = tempfile.TemporaryDirectory()
    >>> paths = [f"{folder.name}/{i}.h5ad" for i in range(2)]
    >>> for seed, path in enumerate(paths):
    ...     sfm.datasets.toy_cells(60, seed=seed).write_h5ad(path)
    >>> datamodule = CellDataModule(paths, max_length=64)
    >>> sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> model = MaskedCellModel(registry=datamodule.registry, **sizes)
    >>> model.train(max_epochs=1, datamodule=datamodule, accelerator="cpu", enable_progress_bar=False)
    >>> datamodule.close()
    >>> folder.cleanup()
    >>> model.get_latent_representation(sfm.datasets.toy_cells()).shape
    (100, 16)
    """

    def __init__(  # noqa: PLR0913
        self,
        cells: TokenCache | str | Path | Sequence[str | Path],
        *,
        tokenizer: str | Tokenizer | PretrainedCells | None = None,
        vocabulary: GeneVocabulary | None = None,
        max_length: int | None = None,
        layer: str | None = None,
        use_raw: bool = False,
        gene_symbols: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        cache_dir: str | Path | None = None,
        batch_size: int = 32,
        block_size: int = 1024,
        mixed_blocks: int = 16,
        validation_size: float = 0.1,
        split_by: SplitBy = "cells",
        labeled_only: bool = False,
        num_workers: int | None = None,
        pin_memory: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.block_size = block_size
        self.mixed_blocks = mixed_blocks
        self.validation_size = validation_size
        self.split_by: SplitBy = split_by
        self.num_workers = settings.dl_num_workers if num_workers is None else num_workers
        self.pin_memory = pin_memory
        self.seed = int(settings.seed or 0) if seed is None else seed
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        refuse_bad_settings(self)
        where: dict[str, Any] = {"layer": layer, "use_raw": use_raw, "gene_symbols": gene_symbols}
        keys: dict[str, Any] = {"batch_key": batch_key, "labels_key": labels_key}
        #: Where the cells are read from.
        self.source: TokenCache | CellShards
        if isinstance(cells, TokenCache) or is_cache(cells):
            asked = {"tokenizer": tokenizer, "vocabulary": vocabulary, "max_length": max_length, "cache_dir": cache_dir}
            self.source = opened_cache(cells, {**asked, **where, **keys})
        else:
            chosen = tokenizer_of_files(tokenizer, vocabulary, max_length)
            self.source = CellShards(cells, chosen, **where, **keys)
        #: The files, where there are any; kept when a token cache of them is read instead.
        self.files = self.source if isinstance(self.source, CellShards) else None
        self.labeled_only = labeled_only

    @property
    def registry(self) -> dict[str, Any]:
        """What a model is made of instead of an AnnData: `MaskedCellModel(registry=datamodule.registry)`."""
        source = self.source
        where = {name: source.settings.get(name) for name in ("layer", "use_raw", "gene_symbols")}
        counts = {
            name: np.bincount(source.columns[name][source.columns[name] >= 0], minlength=len(entry.names))
            for name, entry in source.categories.items()
        }
        return registry_of(
            self.tokenizer,
            where={**where, "use_raw": bool(where["use_raw"])},
            categories=source.categories,
            counts=counts,
        )

    def prepare_data(self) -> None:
        """Write the token cache, if one is asked for and not there; Lightning lets one process of a machine do so."""
        if self.cache_dir is None or isinstance(self.source, TokenCache):
            return
        if not self.cache_dir.exists():
            self.source.to_cache(self.cache_dir)
        self.source.refuse_other_cache(TokenCache(self.cache_dir))

    def setup(self, stage: str | None = None) -> None:
        """Read from the token cache from now on, if there is one.

        Parameters
        ----------
        stage
            Lightning's name of what begins.
        """
        if self.cache_dir is not None and isinstance(self.source, CellShards):
            cache = TokenCache(self.cache_dir)
            self.source.refuse_other_cache(cache)
            self.source.close()
            self.source = cache

    def close(self) -> None:
        """Close the files, which are opened again if they are needed."""
        if self.files is not None:
            self.files.close()
