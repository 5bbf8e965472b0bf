from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from sfm import _logging as logg
from sfm.genes import align_genes
from sfm.model._base import TokenModel
from sfm.model._generated import PROFILE_CELLS, generated_cells, rank_profile
from sfm.model._network import Backbone, cell_config, plain_backbone
from sfm.train._causal import CausalCellModule
from sfm.train._splitter import registered_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData

    from sfm.nn._config import Pooling
    from sfm.tokenizers import TokenizedCells
    from sfm.train._freeze import Freeze

# Seconds before a progress bar appears.
_PROGRESS_DELAY = 2.0


class CausalCellModel(TokenModel):
    """Next-gene model: each gene is predicted from those that rank above it, and new cells can be generated.

    The order of genes is that of the tokenizer, highest first. The objective is that of GPT (Radford et al. 2018); for
    cells see TranscriptFormer (Pearce et al. 2025) and Cell2Sentence (Levine et al. 2024). A published model that predicts
    the count of each gene as well, such as TranscriptFormer, learns both.

    Parameters
    ----------
    adata
        Data that :meth:`setup_anndata` was called on.
    registry
        Registry of a saved model, when loading without data.
    backbone
        A model type of transformers that can be causal, see :func:`sfm.get.backbones`, or a whole configuration of one.
    hidden_size
        Width of the backbone, and of a cell's vector.
    num_hidden_layers
        Layers of the backbone.
    num_attention_heads
        Attention heads per layer.
    pooling
        How token vectors become the cell's vector.
    lora
        As for :class:`MaskedCellModel`.
    freeze
        As for :class:`MaskedCellModel`.
    config
        Dictionary of a complete :class:`sfm.nn.CellConfig`, instead of the sizes.
    backbone_kwargs
        Further settings of the backbone, for example `num_key_value_heads=2`.

    Examples
    --------
    >>> import sfm
    >>> adata = sfm.datasets.toy_cells()
    >>> sfm.model.CausalCellModel.setup_anndata(adata, max_length=32)
    >>> sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> model = sfm.model.CausalCellModel(adata, backbone="llama", **sizes)
    >>> model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    >>> model.generate_cells(5, prompt=["LYZ"]).shape
    (5, 300)
    """

    _module_cls = CausalCellModule

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        backbone: Backbone = "llama",
        hidden_size: int = 256,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 4,
        pooling: Pooling = "mean",
        lora: dict[str, Any] | None = None,
        freeze: Freeze | None = None,
        config: dict[str, Any] | None = None,
        **backbone_kwargs: Any,
    ) -> None:
        super().__init__(adata, registry)
        backbone = plain_backbone(backbone)
        sizes = {
            "hidden_size": hidden_size,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": num_attention_heads,
            **backbone_kwargs,
        }
        network = cell_config(self.tokenizer, backbone, sizes, config=config, is_causal=True, pooling=pooling)
        self._install(lambda: self._module_cls(network), lora=lora, freeze=freeze)
        self._model_summary_string = self._summary(network)
        self.rank_profile_: list[float] | None = None
        self.init_params_ = self._get_init_params(locals())

    def generate_cells(
        self,
        n: int,
        *,
        prompt: Sequence[str] = (),
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        max_genes: int | None = None,
        batch_size: int = 64,
        seed: int | None = 0,
    ) -> AnnData:
        """Generate cells, gene by gene from the highest rank down; each gene occurs at most once in a cell.

        Parameters
        ----------
        n
            How many cells.
        prompt
            Genes that rank highest in every cell, in this order, named in any way that the vocabulary knows.
        temperature
            Below 1 for likelier cells, above for more varied ones; 0 for the likeliest gene each time.
        top_k
            Draw from so many of the likeliest genes only.
        top_p
            Draw from the likeliest genes that have this probability together.
        max_genes
            Most genes of a cell. Default: as many as the tokenizer keeps.
        batch_size
            Cells generated together.
        seed
            Seed of the draws; `None` for others each time. The global random numbers are left alone.

        Returns
        -------
        An AnnData with one row per cell and one column per gene of the vocabulary. `X` is float32, sparse: the mean
        expression of that rank in the training cells (counts per ten thousand), scaled to the gene, so that tokenizing
        it gives the generated order again; these are not counts. `obsm['tokens']` holds the tokens, as
        :func:`sfm.pp.tokenize` writes them. `obs['n_genes']` counts the genes, and `obs['complete']` says whether
        the cell ended by itself. `uns['generated']['params']` holds the settings.

        Raises
        ------
        ValueError
            If the tokenizer has values, which are not generated; a gene of the prompt is not known; or `n` is below 1.
        """
        self._check_if_trained(warn=True)
        self._refuse_values()
        if n < 1:
            msg = f"n={n!r} cells cannot be generated. Pass 1 or more."
            raise ValueError(msg)
        start = self._prompt_tokens(prompt)
        longest = self.tokenizer.max_length if max_genes is None else self.tokenizer.prepend_cls + max_genes
        options: dict[str, Any] = {"max_length": min(longest, self.tokenizer.max_length), "do_sample": temperature > 0}
        if temperature > 0:
            options |= {"temperature": temperature, "top_k": top_k or 0, "top_p": 1.0 if top_p is None else top_p}
        sequences = list(self._generate(n, start, options, batch_size=batch_size, seed=seed))
        adata = generated_cells(sequences, self.tokenizer, self._rank_profile())
        params = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed, "prompt": list(prompt)}
        adata.uns["generated"] = {"params": {"model": type(self).__name__, **params}}
        return adata

    def _generate(
        self, n: int, start: torch.Tensor, options: dict[str, Any], *, batch_size: int, seed: int | None
    ) -> Iterator[np.ndarray]:
        network = self.module.network.eval()
        devices = [self.device] if self.device.type == "cuda" else []
        progress = tqdm(
            total=n, desc="Generating", unit="cell", delay=_PROGRESS_DELAY, disable=not logg.show_progress()
        )
        with progress, torch.random.fork_rng(devices=devices), torch.inference_mode():
            if seed is None:
                torch.seed()
            else:
                torch.manual_seed(seed)
            for first in range(0, n, batch_size):
                inputs = start.repeat(min(batch_size, n - first), 1).to(self.device)
                tokens = network.generate(inputs, attention_mask=torch.ones_like(inputs), **options)
                yield from tokens.cpu().numpy()
                progress.update(len(inputs))

    def _prompt_tokens(self, prompt: Sequence[str]) -> torch.Tensor:
        """Token ids that every cell starts with, shape `(1, tokens)`."""
        if isinstance(prompt, str):
            msg = f"prompt={prompt!r} is a string. Pass a list of genes, prompt=[{prompt!r}]."
            raise TypeError(msg)
        genes = align_genes(list(prompt), self.vocabulary).token_ids if len(prompt) else np.zeros(0, dtype=np.int64)
        unknown = [name for name, token in zip(prompt, genes, strict=True) if token < 0]
        if unknown:
            msg = f"The vocabulary does not know {', '.join(map(repr, unknown))} of prompt=. Leave them out."
            raise ValueError(msg)
        if len(set(genes.tolist())) < len(genes):
            msg = f"prompt={list(prompt)!r} names a gene twice, and a cell has each gene once."
            raise ValueError(msg)
        first = [self.vocabulary.cls_id] if self.tokenizer.prepend_cls else []
        if not first and not len(genes):
            msg = "The tokenizer prepends no <cls>, so a cell needs a first gene. Pass prompt=."
            raise ValueError(msg)
        return torch.tensor([[*first, *genes.tolist()]])

    def _refuse_values(self) -> None:
        if self.tokenizer.has_values:
            msg = (
                f"Tokens of the {self.tokenizer.name!r} tokenizer have values, which are not generated. Set the model up "
                "with tokenizer='rank'."
            )
            raise ValueError(msg)

    def train(self, max_epochs: int | None = None, **kwargs: Any) -> None:
        """Train the model; see :meth:`MaskedCellModel.train`.

        Parameters
        ----------
        max_epochs
            Passes over the training cells.
        kwargs
            Further arguments of :meth:`MaskedCellModel.train`.
        """
        super().train(max_epochs, **kwargs)
        if not self.tokenizer.has_values:
            self.rank_profile_ = self._profile_of_training(kwargs.get("datamodule"))

    def _rank_profile(self) -> np.ndarray:
        """Mean expression per rank, from the cells the model was trained on, or those it was loaded with."""
        if self.rank_profile_ is None:
            if self.adata is None:
                msg = "The model does not know the expression at each rank. Load it with adata=, or train it."
                raise ValueError(msg)
            self.rank_profile_ = self._profile_of(self.adata, registered_tokens(self.adata_manager))
        return np.asarray(self.rank_profile_)

    def _profile_of_training(self, datamodule: Any) -> list[float] | None:
        """Mean expression per rank; `None` where the counts are not known, as those of a token cache."""
        if datamodule is None:
            return self._profile_of(self.adata, registered_tokens(self.adata_manager))
        files = getattr(datamodule, "files", None)
        if files is None:
            return None
        first = files.adata(0)
        return self._profile_of(first, files[np.arange(min(first.n_obs, PROFILE_CELLS))])

    def _profile_of(self, adata: AnnData, cells: TokenizedCells) -> list[float]:
        args = self.registry["setup_args"]
        where = {name: args[name] for name in ("layer", "use_raw", "gene_symbols")}
        profile: list[float] = rank_profile(adata, cells, self.tokenizer, **where).tolist()
        return profile
