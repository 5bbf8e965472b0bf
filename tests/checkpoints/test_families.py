"""The promises that every published family keeps, and the table of them in the documentation.

`python tests/checkpoints/test_families.py` writes the table, `docs/models/families.md`.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import sfm
from sfm.checkpoints import _licence
from sfm.checkpoints._family import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
GOLDENS = ROOT / "tests" / "goldens"
TABLE = ROOT / "docs" / "models" / "families.md"
# Bounds that the table may state; a measured difference is stated as twice the next one, since processors differ.
BOUNDS = (1e-6, 2e-6, 5e-6, 1e-5)
TRAIN: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}


@dataclass(frozen=True)
class Golden:
    """A small checkpoint in a family's published layout, with what its reference made of some cells."""

    family: str
    folder: str
    """Folder of the golden."""
    checkpoint: str
    """Its checkpoint, inside the folder."""
    vectors: str
    """Field with the reference's vectors."""
    reference: dict[str, Any] = field(default_factory=dict)
    """Options with which the reference was run."""
    sizes: dict[str, Any] = field(default_factory=dict)
    """Options that tell what no file does."""
    gene_symbols: str | None = None
    tokens: Callable[[dict[str, np.ndarray]], list[np.ndarray]] | None = None
    """Function that returns the tokens of each cell that are clear."""
    context: int = 0
    """Tokens in front that the golden does not have."""
    tail: int = 0
    """Tokens at the end that it does not have."""
    clear: str | None = None
    """Field that says of which cells the tokens are clear; all without one."""
    rows: str | None = None
    """Field with the cells that the reference kept."""
    note: str = "exact"
    """What is said of tokens that are as they should be."""


def without(pad: int, name: str) -> Callable[[dict[str, np.ndarray]], list[np.ndarray]]:
    """Make a function that reads padded tokens."""
    return lambda expected: [row[row != pad] for row in expected[name]]


GOLDEN = {
    "Geneformer V1": Golden(
        "geneformer",
        "geneformer/A_v1",
        "model",
        "emb_cell_layer-1",
        gene_symbols="ensembl_id",
        tokens=without(-1, "input_ids"),
        clear="tie_free",
        rows="input_row",
        note="exact but for ties",
    ),
    "Geneformer V2": Golden(
        "geneformer",
        "geneformer/A_v2",
        "model",
        "emb_cls_layer-1",
        gene_symbols="ensembl_id",
        tokens=without(-1, "input_ids"),
        clear="tie_free",
        rows="input_row",
        note="exact but for ties",
    ),
    "scGPT": Golden(
        "scgpt",
        "scgpt",
        "model",
        "full_cell_emb",
        {"seed": 11, "max_length": 69},
        gene_symbols="feature_name",
        tokens=without(61, "full_gene_ids"),
    ),
    "Tahoe-x1": Golden(
        "tahoe_x1",
        "tahoe_x1",
        "70m-model",
        "cell_emb",
        {"max_length": 256},
        gene_symbols="ensembl_id",
        tokens=without(150, "gene"),
    ),
    "TranscriptFormer": Golden(
        "transcriptformer",
        "transcriptformer",
        "checkpoint",
        "embeddings",
        gene_symbols="ensembl_id",
        tokens=without(1, "gene_token_indices"),
        context=2,
    ),
    "Nicheformer": Golden(
        "nicheformer",
        "nicheformer",
        "checkpoint",
        "roundedmean_embeddings",
        tokens=lambda expected: [np.where(row == 0, 1, row)[:37] for row in expected["roundedmean_tokens"]],
        context=3,
    ),
    "UCE": Golden(
        "uce",
        "uce",
        "model_files",
        "nofilter_cell_emb",
        {"seed": 31, "batch_size": 5},
        {"n_heads": 4, "sample_size": 96, "max_length": 160},
        tokens=lambda expected: [
            row[:length] for row, length in zip(expected["nofilter_tokens"], expected["nofilter_length"], strict=True)
        ],
    ),
    "STATE SE": Golden(
        "state_se",
        "state_se",
        "checkpoint",
        "X_state",
        tokens=lambda expected: [row[1:] for row in expected["sentences"]],
        context=1,
        tail=1,
        clear="tokens_deterministic",
        note="exact where not random",
    ),
    "scFoundation": Golden("scfoundation", "scfoundation", "", "cell_all_t4", gene_symbols="gene_name"),
    "CellPLM": Golden("cellplm", "cellplm", "", "emb_batch0"),
}


def directory_of(golden: Golden, folder: Path) -> Path:
    """Directory of the checkpoint; scFoundation's list of genes is made up as that of the golden was."""
    directory = GOLDENS / golden.folder / golden.checkpoint
    if golden.family != "scfoundation":
        return directory
    shutil.copytree(directory, folder / "scfoundation")
    named = {int(i): name for i, name in json.loads((directory / "named_genes.json").read_text()).items()}
    genes = pd.DataFrame({"gene_name": [named.get(i, f"G{i}") for i in range(19_264)], "index": range(19_264)})
    genes.to_csv(folder / "scfoundation" / "OS_scRNA_gene_index.19264.tsv", sep="\t", index=False)
    return folder / "scfoundation"


def read_cells(golden: Golden) -> ad.AnnData:
    """Cells of a golden, as whole numbers."""
    adata = ad.read_h5ad(GOLDENS / golden.folder / "input.h5ad")
    adata.var_names_make_unique()
    return adata


def is_whole(adata: ad.AnnData) -> np.ndarray:
    """Which cells have whole numbers."""
    counts = adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)
    return (counts == np.rint(counts)).all(axis=1) & (counts >= 0).all(axis=1)


def make_whole(adata: ad.AnnData) -> None:
    """Round all values, and leave zeros that are stored where they are."""
    adata.X = adata.X.astype(np.float64)
    values = adata.X.data if sparse.issparse(adata.X) else adata.X
    values[...] = np.rint(np.abs(values))


def compare(golden: Golden, directory: Path) -> tuple[bool | None, float]:
    """Compare tokens, and vectors of cells with clear tokens, in reference mode; return equality and difference."""
    expected = dict(np.load(GOLDENS / golden.folder / "expected.npz"))
    pretrained = sfm.load(directory, reference=True, **golden.reference, **golden.sizes)
    adata = read_cells(golden)
    rows = expected[golden.rows] if golden.rows else np.arange(adata.n_obs)
    clear = expected[golden.clear] if golden.clear else np.ones(rows.size, dtype=bool)
    clear = clear & is_whole(adata)[rows]
    make_whole(adata)
    equal = None
    if golden.tokens is not None:
        sfm.pp.tokenize(adata, pretrained, gene_symbols=golden.gene_symbols)
        cells = sfm.TokenizedCells.from_obsm(adata.obsm["tokens"])
        pairs = zip(
            rows[clear], [ids for ids, one in zip(golden.tokens(expected), clear, strict=True) if one], strict=True
        )
        ours = {int(row): cells[int(row)].input_ids.numpy()[golden.context :] for row in rows[clear]}
        equal = all(np.array_equal(ours[int(row)][: ours[int(row)].size - golden.tail], ids) for row, ids in pairs)
    sfm.tl.embed(adata, pretrained, gene_symbols=golden.gene_symbols)
    difference = np.abs(adata.obsm["X_sfm"][rows] - expected[golden.vectors])[clear].max()
    return equal, float(difference)


def stands_alone(golden: Golden, directory: Path) -> bool:
    """Whether cells have the same vectors with others, alone, in another order, and with genes in another order."""
    pretrained = sfm.load(directory, **golden.sizes)
    adata = whole_cells(golden)
    rng = np.random.default_rng(0)
    sfm.tl.embed(adata, pretrained, gene_symbols=golden.gene_symbols, batch_size=1)
    some = rng.permutation(adata.n_obs)[:9]
    other = adata[some].copy()[:, rng.permutation(adata.n_vars)].copy()
    sfm.tl.embed(other, pretrained, gene_symbols=golden.gene_symbols, batch_size=4)
    return np.allclose(other.obsm["X_sfm"], adata.obsm["X_sfm"][some], rtol=1e-4, atol=1e-5)


def whole_cells(golden: Golden) -> ad.AnnData:
    """Cells of a golden as counts, with labels."""
    adata = read_cells(golden)
    make_whole(adata)
    adata.obs["label"] = ["first", "second"] * (adata.n_obs // 2)
    return adata


def fine_tunes(golden: Golden, directory: Path, lora: dict[str, Any] | None = None) -> bool:
    """Whether a classifier made of it learns: its body or its adapters move, and it predicts; and is saved whole."""
    adata = whole_cells(golden)
    options: dict[str, Any] = {"labels_key": "label", "gene_symbols": golden.gene_symbols, "lora": lora}
    torch.manual_seed(0)
    model = sfm.model.CellClassifier.from_pretrained(sfm.load(directory, **golden.sizes), adata, **options)
    before = {name: tensor.clone() for name, tensor in model.module.network.state_dict().items()}
    model.train(**TRAIN)
    after = model.module.network.state_dict()
    moved = {
        name for name in before if name.startswith("cell.backbone.") and not torch.equal(before[name], after[name])
    }
    right = bool(moved) and all(".lora_" in name for name in moved) == (lora is not None)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        sfm.tl.annotate(adata, folder, gene_symbols=golden.gene_symbols)
    ours = model.predict(soft=True)
    return right and np.allclose(adata.obsm["sfm_label_probabilities"], ours, atol=1e-5)


def licence_of(family: str) -> str:
    """Licence of the models of a family, as the catalogue says."""
    models = sfm.list_models()
    return ", ".join(sorted({licence or "not stated" for licence in models.loc[models["family"] == family, "licence"]}))


def row_of(name: str, folder: Path) -> dict[str, str]:
    """Measure a row of the table."""
    golden = GOLDEN[name]
    directory = directory_of(golden, folder)
    equal, difference = compare(golden, directory)
    bound = next((bound for bound in BOUNDS if 2 * difference <= bound), BOUNDS[-1])
    yes = {True: "yes", False: "NO"}
    return {
        "family": name,
        "tokens": {None: "no tokens: values as they are", True: golden.note, False: "DIFFERENT"}[equal],
        "largest difference": f"{bound:.0e}" if difference <= bound else f"{difference:.0e}",
        "a cell alone (default mode)": yes[stands_alone(golden, directory)],
        "fine-tuning": yes[fine_tunes(golden, directory)],
        "LoRA": yes[fine_tunes(golden, directory, {"r": 2})],
        "licence": licence_of(golden.family),
    }


def table(rows: list[dict[str, str]]) -> str:
    """Write rows as a Markdown table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row.values()) + " |" for row in rows)]) + "\n"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", GOLDEN)
def test_the_table_of_the_documentation_is_what_comes_out(name: str, tmp_path: Path) -> None:
    row = row_of(name, tmp_path)
    assert "NO" not in row.values()
    assert float(row["largest difference"]) <= BOUNDS[-1]
    stated = next(line for line in TABLE.read_text().splitlines() if line.startswith(f"| {name} |"))
    cells = [cell.strip() for cell in stated.strip("|").split("|")]
    ours = dict(zip(row, cells, strict=True))
    # What comes out is twice the difference, rounded up.
    assert float(row.pop("largest difference")) / 2 <= float(ours.pop("largest difference"))
    assert ours == row


@pytest.mark.filterwarnings("ignore")
def test_models_that_never_hid_genes_say_so() -> None:
    golden = GOLDEN["UCE"]
    with pytest.raises(ValueError, match="token '<mask>', which the vocabulary lacks.*CellClassifier"):
        sfm.model.MaskedCellModel.from_pretrained(
            sfm.load(directory_of(golden, ROOT), **golden.sizes), whole_cells(golden)
        )


def test_a_licence_goes_with_weights_that_are_saved_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = GOLDEN["STATE SE"]
    sfm.load(directory_of(golden, tmp_path)).save_pretrained(tmp_path / "ours")
    monkeypatch.setattr(_licence, "_shown", set())
    with pytest.warns(sfm.NonCommercialWarning, match="excludes commercial use"):
        sfm.load(tmp_path / "ours")


def test_every_family_has_a_row() -> None:
    # The other two are ways to read what others train, and are compared with transformers and torch themselves.
    others = {"cell_sentences", "scmodelforge"}
    assert {golden.family for golden in GOLDEN.values()} == set(FAMILIES.names()) - others


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable()
    measured = []
    for family in GOLDEN:
        with tempfile.TemporaryDirectory() as temporary:
            measured.append(row_of(family, Path(temporary)))
    TABLE.write_text(table(measured))
