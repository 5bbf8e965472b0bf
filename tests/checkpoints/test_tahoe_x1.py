"""Tahoe-x1 in its published layout, against the reference's own tokens, vectors and predictions."""

from __future__ import annotations

import json
import shutil
from itertools import combinations
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from scipy import sparse

import sfm
from sfm.data._loader import collate
from sfm.genes import align_genes
from sfm.inference import embed_tokens
from sfm.nn import mask_values
from sfm.tokenizers import TokenizedCells
from sfm.tokenizers.published._quantiles import bucketized

GOLDEN = Path(__file__).parents[1] / "goldens" / "tahoe_x1"
IDS = {"gene_symbols": "ensembl_id"}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
EMPTY = "ignore:.*have no count on a known gene"
# Options that gave the stored results of the reference, by the prefix of their names.
RUNS = {"": {"max_length": 256}, "sampled40_": {"max_length": 40, "seed": 123}}


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "expected.npz"))


@pytest.fixture
def adata() -> ad.AnnData:
    return ad.read_h5ad(GOLDEN / "input.h5ad")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the model, to damage."""
    return Path(shutil.copytree(GOLDEN / "70m-model", tmp_path / "70m-model"))


def change_yaml(path, **changes) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def tokens_of(pretrained, adata, X=None) -> TokenizedCells:
    token_ids = align_genes(adata.var["ensembl_id"].to_numpy(), pretrained.vocabulary).token_ids
    return pretrained.tokenizer(adata.X if X is None else X, token_ids)


def vectors_of(pretrained, cells, **options) -> np.ndarray:
    return embed_tokens(pretrained.model, cells, pad_id=pretrained.vocabulary.pad_id, **options)


def stored_tokens(expected, run) -> TokenizedCells:
    ids, values = expected[f"{run}gene"], expected[f"{run}expr"]
    known = ids != 150
    indptr = np.concatenate([[0], np.cumsum(known.sum(axis=1))])
    return TokenizedCells(ids[known], indptr, values=values[known], max_length=ids.shape[1])


def error_of(model, adata) -> float:
    """Squared error on values that are always the same."""
    rows = np.arange(adata.n_obs)
    cells = collate(tokens_of(model.as_pretrained(), adata), rows, pad_id=model.tokenizer.vocabulary.pad_id)
    generator = torch.Generator().manual_seed(0)
    special = model.module.network.config.special_token_ids
    hidden = mask_values(**cells, special_token_ids=special, generator=generator)
    with torch.inference_mode():
        return float(model.module.network(cells["input_ids"], cells["attention_mask"], *hidden).loss)


@pytest.mark.parametrize("run", RUNS)
def test_tokens_and_values_are_those_of_the_reference(expected, adata, run):
    ours = tokens_of(sfm.load(GOLDEN / "70m-model", reference=True, **RUNS[run]), adata)
    theirs = stored_tokens(expected, run)
    np.testing.assert_array_equal(ours.indptr, theirs.indptr)
    np.testing.assert_array_equal(ours.input_ids, theirs.input_ids)
    np.testing.assert_array_equal(ours.values, theirs.values)


@pytest.mark.parametrize("run", RUNS)
def test_vectors_are_those_of_the_reference(expected, run):
    pretrained, cells = sfm.load(GOLDEN / "70m-model"), stored_tokens(expected, run)
    np.testing.assert_allclose(vectors_of(pretrained, cells), expected[f"{run}cell_emb"], **CLOSE)
    np.testing.assert_allclose(vectors_of(pretrained, cells, pooling="cls"), expected[f"{run}cell_emb_raw"], **CLOSE)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.filterwarnings(EMPTY)
def test_cells_are_embedded_from_counts_as_by_the_reference(expected, adata, run):
    sfm.tl.embed(adata, sfm.load(GOLDEN / "70m-model", reference=True, **RUNS[run]), **IDS)
    np.testing.assert_allclose(adata.obsm["X_sfm"], expected[f"{run}cell_emb"], **CLOSE)


def test_values_and_gene_vectors_are_those_of_the_reference(expected):
    model = sfm.load(GOLDEN / "70m-model").model
    ids, values = torch.tensor(expected["gene"]), torch.tensor(expected["expr"])
    mask = (ids != 150).long()
    with torch.inference_mode():
        output = model(ids, mask, values)
    seen = mask.bool()
    np.testing.assert_allclose(output.logits[seen].numpy(), expected["expr_preds"][seen.numpy()], **CLOSE)
    sums = torch.zeros(153, 32).index_add(0, ids[seen], output.last_hidden_state[seen])
    means = sums / torch.bincount(ids[seen], minlength=153).unsqueeze(1)  # NaN where no cell has the gene
    np.testing.assert_allclose(means.numpy(), expected["gene_embeddings_by_vocab_order"], **CLOSE)


@pytest.mark.filterwarnings(EMPTY)
def test_the_default_differs_from_the_reference_where_zeros_are_stored(expected, adata):
    with_zeros = np.array([np.any(row.data == 0) for row in adata.X])
    sfm.tl.embed(adata, sfm.load(GOLDEN / "70m-model", max_length=256), **IDS)
    vectors = adata.obsm["X_sfm"]
    np.testing.assert_allclose(vectors[~with_zeros], expected["cell_emb"][~with_zeros], **CLOSE)
    assert with_zeros.sum() == 1
    assert 0.03 < np.abs(vectors - expected["cell_emb"])[with_zeros].max() < 0.031
    adata.X.eliminate_zeros()
    sfm.tl.embed(adata, sfm.load(GOLDEN / "70m-model", max_length=256, reference=True), key_added="clean", **IDS)
    np.testing.assert_allclose(adata.obsm["clean"], vectors, **CLOSE)


def test_a_sample_of_the_default_is_as_near_to_the_reference_as_another_seed(adata):
    def vectors(**options):
        pretrained = sfm.load(GOLDEN / "70m-model", max_length=40, **options)
        return vectors_of(pretrained, tokens_of(pretrained, adata))

    ours, drawn = vectors(), [vectors(reference=True, seed=seed) for seed in range(4)]
    is_cut = tokens_of(sfm.load(GOLDEN / "70m-model"), adata).lengths > 40
    among = np.mean([(a * b).sum(axis=1)[is_cut] for a, b in combinations(drawn, 2)])
    assert is_cut.sum() == 6
    assert 0.96 < among < 0.98
    assert abs(np.mean([(ours * a).sum(axis=1)[is_cut] for a in drawn]) - among) < 0.01


@pytest.mark.parametrize("right", [False, True])
def test_bins_are_those_of_torch_in_single_precision(right):
    rng = np.random.default_rng(0)
    draws = {
        "few": lambda size: rng.geometric(0.4, size),
        "many": lambda size: rng.poisson(rng.gamma(0.3, 30, size)) + 1,
        "huge": lambda size: rng.integers(1, 10**6, size),
        "fractions": lambda size: rng.gamma(0.5, 3, size) + 1e-3,
    }
    rows = [
        -np.sort(-draw(int(size)).astype(np.float32)) for draw in draws.values() for size in rng.integers(1, 3000, 60)
    ]
    indptr = np.cumsum([0, *map(len, rows)])
    ours = bucketized(np.concatenate(rows).astype(np.float64), indptr, 51, right=right)
    probabilities = torch.linspace(0, 1, 50)
    theirs = [
        torch.bucketize(torch.tensor(row), torch.quantile(torch.tensor(row), probabilities), right=right) + (not right)
        for row in rows
    ]
    np.testing.assert_array_equal(ours, torch.cat(theirs).numpy())


@pytest.mark.parametrize("max_length", [256, 40])
def test_by_default_a_cell_has_its_tokens_in_any_order_of_cells_and_genes(adata, max_length):
    pretrained = sfm.load(GOLDEN / "70m-model", max_length=max_length)
    cells = tokens_of(pretrained, adata)
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(adata.n_obs)[:11], rng.permutation(adata.n_vars)
    some = adata[rows, columns].copy()
    for X in (some.X, some.X.tocsc(), some.X.toarray()):
        again = tokens_of(pretrained, some, X)
        np.testing.assert_array_equal(again.input_ids, cells[rows].input_ids)
        np.testing.assert_array_equal(again.values, cells[rows].values)
    together, alone = vectors_of(pretrained, cells), vectors_of(pretrained, cells, batch_size=1)
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_by_default_columns_of_one_gene_are_summed(adata):
    pretrained = sfm.load(GOLDEN / "70m-model", max_length=40)
    token_ids = align_genes(adata.var["ensembl_id"].to_numpy(), pretrained.vocabulary).token_ids
    share = adata.X.multiply(0.5).tocsr()
    summed = pretrained.tokenizer(sparse.hstack([share, share]).tocsr(), np.concatenate([token_ids, token_ids]))
    cells = pretrained.tokenizer(adata.X, token_ids)
    np.testing.assert_array_equal(summed.input_ids, cells.input_ids)
    np.testing.assert_array_equal(summed.values, cells.values)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.filterwarnings(EMPTY)
def test_a_cell_without_genes_is_cls_alone(adata, reference):
    adata.X = sparse.vstack([adata.X[:3], sparse.csr_matrix((1, adata.n_vars)), adata.X[4:]]).tocsr()
    sfm.tl.embed(adata, sfm.load(GOLDEN / "70m-model", reference=reference), **IDS)
    np.testing.assert_allclose(np.linalg.norm(adata.obsm["X_sfm"], axis=1), 1, rtol=1e-6)


def as_3b(folder) -> Path:
    """Turn a model into one that was made to read drugs."""
    change_yaml(folder / "collator_config.yml", use_chem_token=True, keep_first_n_tokens=2, max_length=2048)
    drugs = {"embedding.weight": (9, 16), "fc.weight": (32, 16), "fc.bias": (32,), "norm.weight": (32,)}
    chemistry = {f"model.chem_encoder.{name}": torch.zeros(shape) for name, shape in drugs.items()}
    save_file(load_file(folder / "model.safetensors") | chemistry, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("max_length", [256, 40])
def test_models_for_drugs_leave_the_count_of_the_first_gene_in_reference_mode_alone(folder, adata, max_length):
    whole = tokens_of(sfm.load(GOLDEN / "70m-model", max_length=max_length), adata)
    default = tokens_of(sfm.load(as_3b(folder), max_length=max_length), adata)
    np.testing.assert_array_equal(default.values, whole.values)
    pretrained = sfm.load(folder, reference=True, max_length=max_length)
    cells = tokens_of(pretrained, adata)
    token_ids = align_genes(adata.var["ensembl_id"].to_numpy(), pretrained.vocabulary).token_ids
    n_long = 0
    for i, row in enumerate(adata.X):
        known = token_ids[row.indices] >= 0
        counts, ids = torch.tensor(row.data[known]), token_ids[row.indices][known]
        positive = counts[1:][counts[1:] > 0]
        bins = counts.clone()
        if len(positive):
            bins[1:] = torch.bucketize(counts[1:], torch.quantile(positive, torch.linspace(0, 1, 50))) + 1.0
        wanted = dict(zip(ids.tolist(), bins.tolist(), strict=True))
        found = dict(zip(cells[i].input_ids[1:].tolist(), cells[i].values[1:].tolist(), strict=True))
        assert found.items() <= wanted.items()
        assert len(found) == min(len(wanted), max_length - 1)
        assert not len(ids) or list(found)[0] == ids[0]
        n_long += len(wanted) > len(found)
    assert (n_long > 0) == (max_length == 40)


def test_the_count_of_the_first_gene_matters_most_in_the_smallest_cells(folder, adata):
    adata.X.eliminate_zeros()
    models = [sfm.load(as_3b(folder), max_length=256, reference=reference) for reference in (False, True)]
    ours, theirs = (vectors_of(pretrained, tokens_of(pretrained, adata)) for pretrained in models)
    n_genes = tokens_of(models[0], adata).lengths - 1
    assert 0.059 < np.abs(ours - theirs)[n_genes == 1].max() < 0.061
    assert (ours * theirs).sum(axis=1)[n_genes > 1].min() > 0.9998


@pytest.mark.parametrize("options", [{}, {"reference": True, "seed": 3}], ids=["default", "reference"])
@pytest.mark.filterwarnings(EMPTY)
def test_saving_in_our_layout_keeps_tokens_and_vectors(folder, adata, tmp_path, options):
    pretrained = sfm.load(as_3b(folder), max_length=40, **options)
    pretrained.save_pretrained(tmp_path / "saved")
    again = sfm.load(tmp_path / "saved")
    assert again.tokenizer.to_dict() == pretrained.tokenizer.to_dict()
    assert again.vocabulary == pretrained.vocabulary
    sfm.tl.embed(adata, pretrained, key_added="first", **IDS)
    sfm.tl.embed(adata, again, key_added="second", **IDS)
    np.testing.assert_array_equal(adata.obsm["first"], adata.obsm["second"])


@pytest.mark.parametrize("lora", [None, {"r": 2}])
@pytest.mark.filterwarnings(EMPTY)
def test_it_is_fine_tuned_to_label_cells(adata, lora):
    model = sfm.model.CellClassifier.from_pretrained(
        sfm.load(GOLDEN / "70m-model"), adata, labels_key="cell_type", lora=lora, **IDS
    )
    before = {name: tensor.clone() for name, tensor in model.module.network.state_dict().items()}
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    after = model.module.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    body = {name for name in changed if name.startswith("cell.")}
    assert body
    assert all(".lora_" in name for name in body) == (lora is not None)
    assert any(name.startswith("head.") for name in changed)
    assert set(model.predict()) <= set(adata.obs["cell_type"])


@pytest.mark.filterwarnings(EMPTY)
def test_its_pretraining_goes_on_and_lowers_the_error(adata):
    model = sfm.model.MaskedCellModel.from_pretrained(sfm.load(GOLDEN / "70m-model"), adata, **IDS)
    assert type(model.module.network.head).__name__ == "ValueDecoder"
    before = error_of(model, adata)
    model.train(max_epochs=15, accelerator="cpu", enable_progress_bar=False, plan_kwargs={"lr": 3e-3})
    assert error_of(model, adata) < 0.9 * before


@pytest.mark.parametrize("missing", ["model_config.yml", "collator_config.yml", "vocab.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"Did not find '{missing}'"):
        sfm.load(folder)


def test_a_vocabulary_of_another_model_is_refused(folder):
    tokens = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(tokens | {"<drug>": 153}))
    with pytest.raises(ValueError, match=r"vocab.json' has 154 tokens, but the weights beside it have 153"):
        sfm.load(folder)
    few = {"<pad>": 0, "<cls>": 1, "ENSG00000000003": 2}
    (folder / "vocab.json").write_text(json.dumps(few))
    with pytest.raises(ValueError, match=r"vocab.json' has 3 tokens, but the weights beside it have 153"):
        sfm.load(folder)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("model_config.yml", {"use_glu": True}, "use_glu=True; only False"),
        ("model_config.yml", {"norm_scheme": "post"}, "norm_scheme='post'"),
        ("model_config.yml", {"gene_encoder": {"use_norm": False}}, "gene_encoder.use_norm=False"),
        ("model_config.yml", {"attn_config": {"kv_n_heads": 2}}, "attn_config.kv_n_heads=2; only 4"),
        ("model_config.yml", {"n_layers": 3}, "missing .*Nothing was loaded"),
        ("model_config.yml", {"vocab_size": 160}, "of another shape"),
        ("collator_config.yml", {"do_binning": False}, "do_binning=False"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder, file, change, message):
    change_yaml(folder / file, **change)
    with pytest.raises(ValueError, match=message):
        sfm.load(folder)


def test_damaged_files_are_refused(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="may be truncated"):
        sfm.load(folder)
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="does not hold the weights of Tahoe-x1"):
        sfm.load(folder)
    (folder / "model_config.yml").write_text("d_model: [1, 2")
    with pytest.raises(ValueError, match="not valid YAML"):
        sfm.load(folder)
    (folder / "model_config.yml").write_text("!!python/object/apply:os.system ['false']")
    with pytest.raises(ValueError, match="not valid YAML"):
        sfm.load(folder)
    (folder / "model_config.yml").write_text("n_layers: 2")
    with pytest.raises(ValueError, match="does not say 'd_model'"):
        sfm.load(folder)


def test_other_options_and_families_are_named():
    with pytest.raises(TypeError, match="Tahoe-x1 has no option 'domain'.*max_length"):
        sfm.load(GOLDEN / "70m-model", domain=1)
    with pytest.raises(ValueError, match="not a checkpoint of scGPT, but a checkpoint of Tahoe-x1"):
        sfm.load(GOLDEN / "70m-model", family="scgpt")


def test_symbols_find_the_ids_of_the_model_by_default_alone():
    assert align_genes(
        ["TSPAN6", "ENSG00000000003.9"], sfm.load(GOLDEN / "70m-model").vocabulary
    ).token_ids.tolist() == [0, 0]
    exact = sfm.load(GOLDEN / "70m-model", reference=True).vocabulary
    assert align_genes(["TSPAN6", "ENSG00000000003.9"], exact).token_ids.tolist() == [-1, -1]
