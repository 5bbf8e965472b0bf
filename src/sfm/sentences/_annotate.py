from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import pandas as pd
from natsort import natsorted

from sfm import _logging as logg
from sfm._docs import COPY, INPUT, doc_params
from sfm._keys import slot_name
from sfm._views import own_data, refuse_copy_of_file
from sfm.annotation._labels import UNKNOWN
from sfm.checkpoints._resolve import resolve_model
from sfm.data import encode_cells

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from anndata import AnnData

    from sfm.checkpoints import PretrainedCells
    from sfm.tokenizers import TokenizedCells

_CLOSE = 0.8


@doc_params(input=INPUT, copy=COPY)
def annotate(  # noqa: PLR0913
    adata: AnnData,
    model: str | Path | PretrainedCells,
    labels: Sequence[str],
    *,
    template: str | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_symbols: str | None = None,
    max_new_tokens: int = 24,
    batch_size: int = 8,
    device: str | torch.device = "auto",
    key_added: str = "sentence_label",
    copy: bool = False,
) -> AnnData | None:
    """Let a language model say what each cell is (Levine et al. 2024, ICML), and match the answer to labels.

    The model goes on with the text of each cell, always with the likeliest next token. The first line of its answer is
    compared with the labels, regardless of case and final dots: first as a whole, then for the longest label within it,
    then for a label that is spelled almost the same.

    Parameters
    ----------
    adata
        Annotated data matrix with raw counts.
    model
        Directory or hub id of a causal language model of transformers, or what :func:`sfm.load` returned for one.
    labels
        What a cell can be.
    template
        Text with the field `{sentence}`, and if wanted `{organism}` and `{n_genes}`, that the label continues, or the name
        of a published one, `"c2s-scale"` or `"c2s"`. Default: that which the model was loaded with.
    {input}
    max_new_tokens
        Most tokens of an answer.
    batch_size
        Cells per minibatch.
    device
        Torch device; `"auto"` takes CUDA, then MPS, then the CPU.
    key_added
        Column to write.
    {copy}

    Returns
    -------
    Returns `None` if `copy=False`, else returns an `AnnData` object. Sets the following fields:

    `adata.obs['sentence_label' | key_added]` : :class:`pandas.Categorical`
        The label, `"unknown"` where the answer matches none and for cells without genes.
    `adata.obs['sentence_label_answer' | key_added + '_answer']` : :class:`pandas.Series` (dtype `object`)
        The first line of the answer.

    Raises
    ------
    TypeError
        If `model` is no language model.
    ValueError
        If there are no labels, two are the same but for case, or the values are not raw counts.
    """
    from sfm.inference._precision import choose_device

    key = slot_name(key_added, "sentence_label")
    known = _labels_by_name(labels)
    refuse_copy_of_file(adata, copy=copy)
    pretrained = _with_template(resolve_model(model), template)
    start = logg.info(f"annotating cells ({pretrained.name})")
    cells = encode_cells(
        adata,
        pretrained.tokenizer,
        layer=layer,
        use_raw=use_raw,
        gene_symbols=gene_symbols,
        model_name=f"Model {pretrained.name!r}",
    ).cells
    answers = _answers(pretrained, cells, max_new_tokens, batch_size, choose_device(device))
    names = [_match(answer, known) for answer in answers]
    adata = own_data(adata, copy=copy)
    adata.obs[key] = pd.Categorical(names, categories=natsorted(set(names)))
    adata.obs[f"{key}_answer"] = pd.Series(answers, index=adata.obs_names, dtype=object)
    logg.info("    finished", time=start, deep=f"added\n    {key!r}, labels (adata.obs)")
    return adata if copy else None


def _with_template(pretrained: PretrainedCells, template: str | None) -> PretrainedCells:
    from sfm.nn import CellForCausalLM
    from sfm.tokenizers.published._cell_sentences import SentenceTokenizer

    tokenizer = pretrained.tokenizer
    if not isinstance(tokenizer, SentenceTokenizer) or not isinstance(pretrained.model, CellForCausalLM):
        msg = f"Model {pretrained.name!r} is no language model over cell sentences. Pass the directory or hub id of a causal language model of transformers, or use `sfm.tl.annotate`."
        raise TypeError(msg)
    return pretrained if template is None else replace(pretrained, tokenizer=tokenizer.with_template(template))


def _answers(
    pretrained: PretrainedCells, cells: TokenizedCells, max_new_tokens: int, batch_size: int, device: torch.device
) -> list[str]:
    """Return the first line of what the model goes on with; empty for cells without tokens."""
    from transformers import GenerationMixin

    from sfm.inference._loop import cell_bar
    from sfm.inference._prepare import prepared

    model, splitter = pretrained.model, pretrained.tokenizer.splitter  # type: ignore[attr-defined]
    ends = model.config.architecture_settings["end_ids"]  # type: ignore[attr-defined]
    order = sorted((row for row in range(len(cells)) if cells.lengths[row]), key=lambda row: int(cells.lengths[row]))
    answers = [""] * len(cells)
    with prepared(model, device, "fp32"), cell_bar(None, len(order), "Annotating") as bar:
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            prompts = _left_padded(cells, rows)
            options: dict[str, Any] = {
                **{name: tensor.to(device) for name, tensor in prompts.items()},
                "do_sample": False,
                "max_new_tokens": max_new_tokens,
                "eos_token_id": ends or None,
                "pad_token_id": ends[0] if ends else 0,
            }
            # The model's own generate() makes cells, in which no gene occurs twice.
            longer: Any = GenerationMixin.generate(model, **options)  # type: ignore[arg-type]
            texts = splitter.decode_batch(longer[:, prompts["input_ids"].shape[1] :].tolist(), skip_special_tokens=True)
            for row, text in zip(rows, texts, strict=True):
                answers[row] = text.strip().split("\n")[0].strip()
            bar.update(len(rows))
    return answers


def _left_padded(cells: TokenizedCells, rows: list[int]) -> dict[str, torch.Tensor]:
    """Text goes on at the right, so padding is on the left."""
    import torch
    from torch.nn.functional import pad

    tokens = [cells[row].input_ids for row in rows]
    longest = max(map(len, tokens))
    padded = [pad(ids, (longest - len(ids), 0)) for ids in tokens]
    masks = [pad(torch.ones_like(ids), (longest - len(ids), 0)) for ids in tokens]
    return {"input_ids": torch.stack(padded), "attention_mask": torch.stack(masks)}


def _labels_by_name(labels: Sequence[str]) -> dict[str, str]:
    names = [str(label) for label in labels]
    by_name = {_plain(name): name for name in names}
    if not names or len(by_name) != len(names):
        msg = f"labels={names!r} must be at least one, and differ by more than case and final dots."
        raise ValueError(msg)
    return by_name


def _match(answer: str, known: dict[str, str]) -> str:
    plain = _plain(answer)
    if plain in known:
        return known[plain]
    within = [name for name in known if name and name in plain]
    close = [max(within, key=len)] if within else get_close_matches(plain, known, n=1, cutoff=_CLOSE)
    return known[close[0]] if close else UNKNOWN


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(". ")
