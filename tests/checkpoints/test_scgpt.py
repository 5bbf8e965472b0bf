"""scGPT in its published layout, against the reference's own tokens, vectors and predictions."""

from __future__ import annotations

import json
import shutil
from itertools import combinations
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import sparse

import sfm
from sfm.data._loader import collate
from sfm.genes import align_genes
from sfm.inference import embed_tokens
from sfm.nn import mask_values
from sfm.tokenizers import BinTokenizer, TokenizedCells

GOLDEN = Path(__file__).parents[1] / "goldens" / "scgpt"
SYMBOLS = {"gene_symbols": "feature_name"}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
# Runs of the reference: its own limit of tokens, and one that cells exceed.
RUNS = {"full": 69, "sampled": 40}


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "expected.npz"))


@pytest.fixture
def adata() -> ad.AnnData:
    return ad.read_h5ad(GOLDEN / "input.h5ad")


@pytest.fixture
def counts(adata: ad.AnnData) -> ad.AnnData:
    """The cells with whole numbers only, as sfm wants them."""
    adata.X.data = np.maximum(np.rint(adata.X.data), 1)
    return adata


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the model, to damage."""
    shutil.copytree(GOLDEN / "model", tmp_path / "model")
    (tmp_path / "model" / "best_model.impl_layout.pt").unlink()
    return tmp_path / "model"


def tokens_of(pretrained, adata, X=None) -> TokenizedCells:
    token_ids = align_genes(adata.var["feature_name"].to_numpy(), pretrained.vocabulary).token_ids
    return pretrained.tokenizer(adata.X if X is None else X, token_ids)


def vectors_of(pretrained, cells, **options) -> np.ndarray:
    return embed_tokens(pretrained.model, cells, pad_id=pretrained.vocabulary.pad_id, **options)


def stored_tokens(expected, run) -> TokenizedCells:
    ids, values = expected[f"{run}_gene_ids"], expected[f"{run}_values"]
    known = ids != 61
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


def weights_of(folder) -> dict[str, torch.Tensor]:
    return torch.load(folder / "best_model.pt", weights_only=True)


@pytest.mark.parametrize("run", RUNS)
def test_tokens_and_random_bins_are_those_of_the_reference(expected, adata, run):
    pretrained = sfm.load(GOLDEN / "model", reference=True, seed=11, max_length=RUNS[run])
    ours, theirs = tokens_of(pretrained, adata), stored_tokens(expected, run)
    np.testing.assert_array_equal(ours.indptr, theirs.indptr)
    np.testing.assert_array_equal(ours.input_ids, theirs.input_ids)
    np.testing.assert_array_equal(ours.values, theirs.values)
    other = tokens_of(sfm.load(GOLDEN / "model", reference=True, seed=12, max_length=RUNS[run]), adata)
    assert not np.array_equal(ours.values, other.values)


@pytest.mark.parametrize("run", RUNS)
def test_vectors_are_those_of_the_reference(expected, run):
    pretrained, cells = sfm.load(GOLDEN / "model"), stored_tokens(expected, run)
    np.testing.assert_allclose(vectors_of(pretrained, cells), expected[f"{run}_cell_emb"], **CLOSE)
    np.testing.assert_allclose(vectors_of(pretrained, cells, pooling="cls"), expected[f"{run}_cls_raw"], **CLOSE)


@pytest.mark.parametrize("run", RUNS)
def test_cells_are_embedded_from_counts_as_by_the_reference(expected, adata, counts, run):
    whole = np.array([np.array_equal(row.data, np.rint(row.data)) for row in ad.read_h5ad(GOLDEN / "input.h5ad").X])
    sfm.tl.embed(counts, sfm.load(GOLDEN / "model", reference=True, seed=11, max_length=RUNS[run]), **SYMBOLS)
    np.testing.assert_allclose(counts.obsm["X_sfm"][whole], expected[f"{run}_cell_emb"][whole], **CLOSE)
    assert whole.sum() == 15


def test_values_and_hidden_states_are_those_of_the_reference(expected):
    model = sfm.load(GOLDEN / "model").model
    theirs = expected["probe_mlm_output"]
    ids, values = (torch.tensor(expected[f"full_{name}"][: len(theirs)]) for name in ("gene_ids", "values"))
    mask = (ids != 61).long()
    with torch.inference_mode():
        output = model(ids, mask, values)
    seen = mask.bool().numpy()
    np.testing.assert_allclose(output.logits.numpy()[seen], theirs[seen], **CLOSE)
    np.testing.assert_allclose(output.last_hidden_state.numpy()[seen], expected["probe_tokens_out"][seen], **CLOSE)


def test_by_default_each_bin_is_one_that_the_reference_could_draw(expected, adata):
    cells = tokens_of(sfm.load(GOLDEN / "model", max_length=69), adata)
    n_equal = 0
    for i, n_genes in enumerate(expected["n_genes"]):
        bins = dict(zip(cells[i].input_ids.tolist(), cells[i].values.tolist(), strict=True))
        ids = expected["full_gene_ids"][i, 1 : n_genes + 1]
        ours = np.array([bins[token] for token in ids.tolist()])
        low, high = expected["bin_low"][i, :n_genes], expected["bin_high"][i, :n_genes]
        assert len(bins) == n_genes + 1
        assert bins[62] == -2
        assert np.all((low <= ours) & (ours <= high))
        n_equal += np.count_nonzero(low == high)
    assert n_equal > 100


def test_the_default_differs_from_the_reference_by_no_more_than_is_documented(expected, adata):
    whole = vectors_of(*_with_tokens(adata, max_length=69))
    deterministic = expected["deterministic_bins"]
    np.testing.assert_allclose(whole[deterministic], expected["full_cell_emb"][deterministic], **CLOSE)
    assert deterministic.sum() == 6
    assert 2.3e-3 < np.abs(whole - expected["full_cell_emb"]).max() < 2.5e-3


def test_a_sample_of_the_default_is_as_near_to_the_reference_as_another_seed(adata):
    pretrained = sfm.load(GOLDEN / "model", max_length=40)
    ours = vectors_of(pretrained, tokens_of(pretrained, adata))
    drawn = [vectors_of(*_with_tokens(adata, max_length=40, reference=True, seed=seed)) for seed in range(4)]
    is_cut = tokens_of(sfm.load(GOLDEN / "model"), adata).lengths > 40
    among = np.mean([(a * b).sum(axis=1)[is_cut] for a, b in combinations(drawn, 2)])
    assert is_cut.sum() == 9
    assert 0.994 < among < 0.997
    assert abs(np.mean([(ours * a).sum(axis=1)[is_cut] for a in drawn]) - among) < 1e-3


def _with_tokens(adata, **options):
    pretrained = sfm.load(GOLDEN / "model", **options)
    return pretrained, tokens_of(pretrained, adata)


@pytest.mark.parametrize("max_length", RUNS.values())
def test_by_default_a_cell_has_its_tokens_in_any_order_of_cells_and_genes(adata, max_length):
    pretrained, cells = _with_tokens(adata, max_length=max_length)
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(adata.n_obs)[:11], rng.permutation(adata.n_vars)
    some = adata[rows, columns].copy()
    for X in (some.X, some.X.tocsc(), some.X.toarray()):
        again = tokens_of(pretrained, some, X)
        np.testing.assert_array_equal(again.input_ids, cells[rows].input_ids)
        np.testing.assert_array_equal(again.values, cells[rows].values)
    together, alone = vectors_of(pretrained, cells), vectors_of(pretrained, cells, batch_size=1)
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_by_default_columns_of_one_gene_are_summed_and_stored_zeros_are_nothing(counts):
    pretrained, cells = _with_tokens(counts, max_length=40)
    share = sparse.csr_matrix(counts.X.multiply(0.5))  # of which each column has one copy
    twice = sparse.hstack([share, share]).tocsr()
    dense = np.random.default_rng(0).random(twice.shape) < 0.3
    zeros = sparse.csr_matrix((np.zeros(dense.sum()), dense.nonzero()), shape=twice.shape)
    parts = sparse.coo_matrix(twice), sparse.coo_matrix(zeros)
    rows, columns = (np.concatenate([getattr(part, name) for part in parts]) for name in ("row", "col"))
    order = np.lexsort((columns, rows))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=twice.shape[0]))])
    data = np.concatenate([part.data for part in parts])
    with_zeros = sparse.csr_matrix((data[order], columns[order], indptr), shape=twice.shape)
    assert (with_zeros.data == 0).sum() == dense.sum()
    token_ids = align_genes(counts.var["feature_name"].to_numpy(), pretrained.vocabulary).token_ids
    summed = pretrained.tokenizer(with_zeros, np.concatenate([token_ids, token_ids]))
    np.testing.assert_array_equal(summed.input_ids, cells.input_ids)
    np.testing.assert_array_equal(summed.values, cells.values)


def test_long_cells_keep_a_sample_that_is_spread_over_all_genes():
    vocabulary = sfm.GeneVocabulary([f"g{i}" for i in range(400)])
    from sfm.tokenizers.published._scgpt import ScGPTTokenizer

    counts = np.random.default_rng(0).geometric(0.3, (200, 400)).astype(float)
    cells = ScGPTTokenizer(vocabulary, max_length=101)(counts, vocabulary.token_ids)
    whole = BinTokenizer(vocabulary, max_length=401)(counts, vocabulary.token_ids)
    assert np.all(cells.lengths == 101)
    times = np.bincount(cells.input_ids, minlength=vocabulary.size)[vocabulary.token_ids]
    assert 25 <= times.min() <= 50 <= times.max() <= 75  # 200 cells, a quarter of the genes
    for i in range(0, 200, 20):
        bins = dict(zip(whole[i].input_ids.tolist(), whole[i].values.tolist(), strict=True))
        assert all(
            bins[int(token)] == value for token, value in zip(cells[i].input_ids[1:], cells[i].values[1:], strict=True)
        )
    counts[1] = counts[0]
    again = ScGPTTokenizer(vocabulary, max_length=101)(counts[:2], vocabulary.token_ids)
    np.testing.assert_array_equal(again[0].input_ids, again[1].input_ids)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.filterwarnings("ignore:.*have no count on a known gene")
def test_a_cell_without_genes_is_cls_alone(counts, reference):
    counts.X = sparse.vstack([counts.X[:3], sparse.csr_matrix((1, counts.n_vars)), counts.X[4:]]).tocsr()
    sfm.tl.embed(counts, sfm.load(GOLDEN / "model", reference=reference), **SYMBOLS)
    np.testing.assert_allclose(np.linalg.norm(counts.obsm["X_sfm"], axis=1), 1, rtol=1e-6)


def test_the_three_layouts_of_attention_are_the_same_model(folder):
    hashes = {sfm.load(GOLDEN / "model").params()["weights_hash"]}
    weights = weights_of(folder)
    shutil.copy(GOLDEN / "model" / "best_model.impl_layout.pt", folder / "best_model.pt")
    hashes.add(sfm.load(folder).params()["weights_hash"])
    torch_layout = {f"module.{key.replace('.Wqkv.', '.in_proj_')}": tensor for key, tensor in weights.items()}
    torch.save({"model_state_dict": torch_layout}, folder / "best_model.pt")
    hashes.add(sfm.load(folder).params()["weights_hash"])
    (folder / "best_model.pt").unlink()
    needed = {key: tensor.contiguous() for key, tensor in weights.items() if not key.startswith(("mvc", "flag"))}
    save_file(needed, folder / "model.safetensors")
    hashes.add(sfm.load(folder).params()["weights_hash"])
    assert len(hashes) == 1


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norms_of_fine_tuning_are_applied_with_their_statistics(folder, expected, tmp_path, affine):
    weights = weights_of(folder)
    generator = torch.Generator().manual_seed(0)
    norms = []
    for k in range(2):
        norm = torch.nn.BatchNorm1d(32, eps=6.1e-5, affine=affine).eval()
        norm.load_state_dict(
            {
                key: torch.rand(value.shape, generator=generator) + 0.5 if value.ndim else value
                for key, value in norm.state_dict().items()
            }
        )
        norms.append(norm)
        prefix = "bn" if affine else f"dsbn.bns.{k}"
        weights |= {f"{prefix}.{key}": tensor for key, tensor in norm.state_dict().items()}
    weights["decoder.fc.0.weight"] = torch.zeros(32, 64)  # beside the gene it reads the domain
    weights["batch_encoder.embedding.weight"] = torch.zeros(2, 32)
    torch.save(weights, folder / "best_model.pt")
    if not affine:
        with pytest.raises(ValueError, match="batch norm for each of 2 domains.*from 0 to 1"):
            sfm.load(folder)
    pretrained = sfm.load(folder) if affine else sfm.load(folder, domain=1)
    assert type(pretrained.model).__name__ == "CellModel"
    plain = sfm.load(GOLDEN / "model").model.cell.embedder
    ids, values = (torch.tensor(expected[f"full_{name}"][:4]) for name in ("gene_ids", "values"))
    with torch.inference_mode():
        wanted = norms[1](plain(ids, values).mT).mT
        torch.testing.assert_close(pretrained.model.embedder(ids, values), wanted)
    pretrained.save_pretrained(tmp_path / "saved")
    assert sfm.load(tmp_path / "saved").params()["weights_hash"] == pretrained.params()["weights_hash"]


@pytest.mark.parametrize("options", [{}, {"reference": True, "seed": 3}], ids=["default", "reference"])
def test_saving_in_our_layout_keeps_tokens_and_vectors(counts, tmp_path, options):
    pretrained = sfm.load(GOLDEN / "model", max_length=40, **options)
    pretrained.save_pretrained(tmp_path)
    again = sfm.load(tmp_path)
    assert again.tokenizer.to_dict() == pretrained.tokenizer.to_dict()
    assert again.vocabulary == pretrained.vocabulary
    sfm.tl.embed(counts, pretrained, key_added="first", **SYMBOLS)
    sfm.tl.embed(counts, again, key_added="second", **SYMBOLS)
    np.testing.assert_array_equal(counts.obsm["first"], counts.obsm["second"])
    sfm.pp.tokenize(counts, again, **SYMBOLS)
    sfm.tl.embed(counts, again, tokens_key="tokens", key_added="third")
    np.testing.assert_array_equal(counts.obsm["first"], counts.obsm["third"])


@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_it_is_fine_tuned_to_label_cells(counts, lora):
    counts.obs["kind"] = ["even", "odd"] * (counts.n_obs // 2)
    model = sfm.model.CellClassifier.from_pretrained(
        sfm.load(GOLDEN / "model"), counts, labels_key="kind", lora=lora, **SYMBOLS
    )
    before = {name: tensor.clone() for name, tensor in model.module.network.state_dict().items()}
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    after = model.module.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    body = {name for name in changed if name.startswith("cell.")}
    assert body
    assert all(".lora_" in name for name in body) == (lora is not None)
    assert any(name.startswith("head.") for name in changed)
    assert set(model.predict()) <= {"even", "odd"}


def test_its_pretraining_goes_on_and_lowers_the_error(counts, tmp_path):
    model = sfm.model.MaskedCellModel.from_pretrained(sfm.load(GOLDEN / "model"), counts, **SYMBOLS)
    assert type(model.module.network.head).__name__ == "ValueDecoder"
    before = error_of(model, counts)
    model.train(max_epochs=15, accelerator="cpu", enable_progress_bar=False, plan_kwargs={"lr": 3e-3})
    assert error_of(model, counts) < 0.9 * before
    model.save_pretrained(tmp_path)
    np.testing.assert_allclose(
        vectors_of(sfm.load(tmp_path), tokens_of(sfm.load(tmp_path), counts)),
        model.get_latent_representation(),
        atol=1e-6,
    )


@pytest.mark.parametrize("missing", ["args.json", "vocab.json", "best_model.pt"])
def test_a_missing_file_is_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"Did not find '{missing}'"):
        sfm.load(folder)


def test_a_vocabulary_of_another_model_is_refused(folder):
    tokens = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(tokens | {"SPIB": 64}))
    with pytest.raises(ValueError, match=r"vocab.json' has 65 tokens, but the weights beside it have 64"):
        sfm.load(folder)
    del tokens["<cls>"]
    (folder / "vocab.json").write_text(json.dumps(tokens))
    with pytest.raises(ValueError, match=r"vocab.json' has no '<cls>'"):
        sfm.load(folder)
    (folder / "vocab.json").write_text(json.dumps({"A1BG": "first"}))
    with pytest.raises(ValueError, match="'first' as the token id of 'A1BG'"):
        sfm.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nlayers": 3}, "missing .*Nothing was loaded"),
        ({"embsize": 64}, "of another shape"),
        ({"nheads": None}, "does not say 'nheads'"),
        ({"nheads": 5}, "nheads=5, which does not divide"),
        ({"input_emb_style": "category"}, "input_emb_style='category'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder, change, message):
    args = json.loads((folder / "args.json").read_text()) | change
    (folder / "args.json").write_text(json.dumps({key: value for key, value in args.items() if value is not None}))
    with pytest.raises(ValueError, match=message):
        sfm.load(folder)


def test_malicious_and_truncated_weights_are_refused(folder):
    whole, marker = (folder / "best_model.pt").read_bytes(), folder / "executed"

    class Malicious:
        def __reduce__(self):
            return Path.touch, (marker,)

    torch.save({"encoder": Malicious()}, folder / "best_model.pt")
    with pytest.raises(ValueError, match="more than tensors and plain objects"):
        sfm.load(folder)
    assert not marker.exists()
    (folder / "best_model.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="may be truncated"):
        sfm.load(folder)
    torch.save({"weight": torch.zeros(2)}, folder / "best_model.pt")
    with pytest.raises(ValueError, match="does not hold the weights of scGPT"):
        sfm.load(folder)


@pytest.mark.parametrize("reference", [False, True])
def test_wrong_input_of_the_tokenizer_is_refused(adata, reference):
    tokenizer = sfm.load(GOLDEN / "model", reference=reference).tokenizer
    ids = np.arange(adata.n_vars) % 61
    with pytest.raises(ValueError, match="gene_ids holds 62, which is no gene"):
        tokenizer(adata.X, np.append(ids[1:], 62))
    with pytest.raises(ValueError, match="counts holds -1.0"):
        tokenizer(sparse.csr_matrix(-np.ones(adata.shape)), ids)
    with pytest.raises(ValueError, match="one integer for each of the 68 columns"):
        tokenizer(adata.X, ids[1:])


def test_other_options_and_families_are_named():
    with pytest.raises(TypeError, match="scGPT has no option 'layer'.*max_length"):
        sfm.load(GOLDEN / "model", layer=1)
    with pytest.raises(ValueError, match="has no batch norm for domains"):
        sfm.load(GOLDEN / "model", domain=0)
    with pytest.raises(
        ValueError, match="not a checkpoint of Tahoe-x1, but a checkpoint of scGPT: pass family='scgpt'"
    ):
        sfm.load(GOLDEN / "model", family="tahoe_x1")


def test_ensembl_ids_find_the_symbols_of_the_model(counts):
    pretrained = sfm.load(GOLDEN / "model")
    by_id = align_genes(counts.var_names.to_numpy(), pretrained.vocabulary).token_ids
    by_symbol = align_genes(counts.var["feature_name"].to_numpy(), pretrained.vocabulary).token_ids
    assert np.count_nonzero(by_id >= 0) >= 55
    assert np.all((by_id == by_symbol) | (by_id < 0))
    exact = sfm.load(GOLDEN / "model", reference=True).vocabulary
    assert not np.any(align_genes(counts.var_names.to_numpy(), exact).token_ids >= 0)
