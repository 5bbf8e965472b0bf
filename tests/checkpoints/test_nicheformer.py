"""Nicheformer in its two published layouts, against the reference's own tokens and vectors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import sparse

import sfm
from sfm.inference import embed_tokens
from sfm.tokenizers import TokenizedCells

GOLDEN = Path(__file__).parents[1] / "goldens" / "nicheformer"
LIGHTNING, HUB = GOLDEN / "checkpoint", GOLDEN / "checkpoint_hf"
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
CONTEXT_LENGTH, N_CONTEXT, PAD = 40, 3, 1
COLUMNS = ["specie", "assay", "modality"]
RULES = ["nan", "clean", "rounded"]
# The second cell of the golden has no counts at all.
EMPTY = "ignore:1 of 16 cells have no count:UserWarning"
# peft asks transformers for an attribute that it has renamed
PEFT = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
TRAIN = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "expected.npz"))


@pytest.fixture
def adata() -> ad.AnnData:
    return ad.read_h5ad(GOLDEN / "input.h5ad")


@pytest.fixture(scope="module")
def sound():
    return sfm.load(LIGHTNING)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the checkpoint, to change."""
    return Path(shutil.copytree(LIGHTNING, tmp_path / "model"))


def tokens_of(pretrained, adata) -> TokenizedCells:
    copied = sfm.pp.tokenize(adata, pretrained, copy=True)
    return TokenizedCells.from_obsm(copied.obsm["tokens"])


def vectors_of(pretrained, adata, **options) -> np.ndarray:
    return sfm.tl.embed(adata, pretrained, copy=True, **options).obsm["X_sfm"]


def rectangle(cells: TokenizedCells) -> np.ndarray:
    assert (cells.lengths == CONTEXT_LENGTH).all()
    return cells.input_ids.reshape(-1, CONTEXT_LENGTH)


@pytest.mark.parametrize("rule", RULES)
def test_tokens_are_those_of_the_reference(expected, adata, rule):
    pretrained = sfm.load(LIGHTNING, reference=True, mean_rule=rule)
    ours = rectangle(tokens_of(pretrained, adata))
    np.testing.assert_array_equal(ours[:, :N_CONTEXT], adata.obs[COLUMNS])
    theirs = expected[f"{rule}mean_tokens"][:, : CONTEXT_LENGTH - N_CONTEXT]
    np.testing.assert_array_equal(ours[:, N_CONTEXT:], np.where(theirs == 0, PAD, theirs))


@pytest.mark.parametrize("rule", RULES)
def test_stored_tokens_give_the_vectors_of_the_reference(expected, adata, rule):
    pretrained = sfm.load(LIGHTNING, reference=True)
    genes = expected[f"{rule}mean_tokens"]
    ids = np.c_[adata.obs[COLUMNS], np.where(genes == 0, PAD, genes)][:, :CONTEXT_LENGTH]
    cells = TokenizedCells(ids.ravel(), np.arange(17) * CONTEXT_LENGTH, max_length=CONTEXT_LENGTH)
    ours = embed_tokens(pretrained.model, cells, pad_id=PAD, batch_size=5)
    np.testing.assert_allclose(ours, expected[f"{rule}mean_embeddings"], **CLOSE)


@pytest.mark.parametrize("rule", RULES)
def test_cells_give_the_vectors_of_the_reference(expected, adata, rule):
    ours = vectors_of(sfm.load(LIGHTNING, reference=True, mean_rule=rule), adata)
    np.testing.assert_allclose(ours, expected[f"{rule}mean_embeddings"], **CLOSE)
    first = sfm.load(LIGHTNING, reference=True, mean_rule=rule, hidden_layer=1, with_context=True)
    np.testing.assert_allclose(
        vectors_of(first, adata), expected[f"{rule}mean_embeddings_layer0_with_context"], **CLOSE
    )


@pytest.mark.filterwarnings("ignore:Found no means of a technology:UserWarning")
@pytest.mark.parametrize("pad_token", [None, 0])
def test_the_layout_of_the_hub_gives_its_tokens_and_vectors(expected, adata, pad_token):
    pretrained = sfm.load(HUB, reference=True, pad_token=pad_token)
    theirs = expected["hf_input_ids"]
    theirs = theirs if pad_token is None else np.where(theirs == PAD, 0, theirs)
    np.testing.assert_array_equal(rectangle(tokens_of(pretrained, adata)), theirs)
    name = "hf_embeddings" if pad_token is None else "hf_pad0_embeddings"
    np.testing.assert_allclose(vectors_of(pretrained, adata), expected[name], **CLOSE)


def test_both_layouts_are_the_same_model():
    first = sfm.load(LIGHTNING, technology_mean=None)
    second = sfm.load(HUB, technology_mean=None)
    assert first.params()["weights_hash"] == second.params()["weights_hash"]
    assert first.vocabulary == second.vocabulary


def test_genes_are_predicted_by_the_published_head(sound):
    weights = load_file(HUB / "model.safetensors")
    minibatch = {"input_ids": torch.tensor([[5, 11, 3, 40, 0]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
    with torch.inference_mode():
        output = sound.model(**minibatch)
    wanted = output.last_hidden_state @ weights["classifier_head.weight"].T + weights["classifier_head.bias"]
    torch.testing.assert_close(output.logits, wanted, **CLOSE)
    assert sound.model.config.mask_token_id == 0


def test_default_and_reference_differ_as_documented(expected, adata, sound):
    with pytest.warns(UserWarning, match="1 of 16 cells"):
        ours = vectors_of(sound, adata)
    difference = np.abs(ours - expected["roundedmean_embeddings"]).max(axis=1)
    assert (ours[1] == 0).all()  # no genes, while the reference gives the mean over padding
    others = np.delete(difference, 1)
    assert 0.60 < others.max() < 0.61
    assert 0.2 < np.median(others) < 0.25
    # Where the context is full, nothing is padding, and only equal genes may be in another order.
    cells, theirs = tokens_of(sound, adata), expected["roundedmean_tokens"]
    full = np.flatnonzero(cells.lengths == CONTEXT_LENGTH)
    assert full.size >= 3
    for i in range(16):
        own = cells[i].input_ids[N_CONTEXT:].numpy()
        if i not in full:
            assert sorted(own) == sorted(theirs[i][theirs[i] > 0][: CONTEXT_LENGTH - N_CONTEXT])


@pytest.mark.filterwarnings(EMPTY)
def test_by_default_a_vector_depends_on_the_cell_alone(adata, sound):
    vectors = vectors_of(sound, adata)
    order = np.random.default_rng(0).permutation(adata.n_vars)
    shuffled = adata[::-1, order].copy()
    np.testing.assert_allclose(vectors_of(sound, shuffled, batch_size=3)[::-1], vectors, atol=1e-5)
    np.testing.assert_allclose(vectors_of(sound, adata[4:6].copy(), batch_size=1), vectors[4:6], atol=1e-5)
    assert np.isfinite(vectors).all()


@pytest.mark.filterwarnings(EMPTY)
def test_by_default_padding_has_no_influence(adata, sound):
    cells = tokens_of(sound, adata)
    ours = embed_tokens(sound.model, cells, pad_id=PAD)
    ids = np.full((16, CONTEXT_LENGTH), PAD)
    mask = np.arange(CONTEXT_LENGTH) < cells.lengths[:, None]
    ids[mask] = cells.input_ids
    with torch.inference_mode():
        padded = sound.model.encode(torch.tensor(ids), torch.tensor(mask).long())
    np.testing.assert_allclose(padded, ours, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"reference": True, "mean_rule": "nan"}])
def test_the_type_of_the_matrix_does_not_matter(adata, options):
    tokenizer = sfm.load(LIGHTNING, **options).tokenizer
    token_ids = sfm.genes.align_genes(adata.var_names, tokenizer.vocabulary).token_ids
    first = tokenizer(adata.X, token_ids)
    dense = adata.X.toarray()
    with_zeros = sparse.csr_matrix(np.ones(adata.shape))
    with_zeros.data[:] = dense.ravel()
    backwards = adata.X[:, ::-1].tocsr()
    for counts in (dense, dense.astype(np.int64), adata.X.tocsc(), adata.X.astype(np.float32), with_zeros):
        cells = tokenizer(counts, token_ids)
        np.testing.assert_array_equal(cells.input_ids, first.input_ids)
        np.testing.assert_array_equal(cells.indptr, first.indptr)
    halves = np.c_[dense / 2, dense / 2]
    np.testing.assert_array_equal(tokenizer(halves, np.r_[token_ids, token_ids]).input_ids, first.input_ids)
    np.testing.assert_array_equal(tokenizer(backwards, token_ids[::-1]).input_ids, first.input_ids)
    assert len(tokenizer(dense[:0], token_ids)) == 0


def test_genes_are_ranked_by_count_over_mean_and_ties_by_token(sound):
    means = np.load(LIGHTNING / "technology_mean_script.npy")
    rounded = np.floor(np.where(np.isnan(means), 0, means) + 0.5)
    rounded[rounded < 1] = 1
    np.testing.assert_array_equal(sound.vocabulary.medians, rounded)
    counts = np.random.default_rng(0).integers(0, 5, size=(10, 90)).astype(float)
    cells = sound.tokenizer(counts, sound.vocabulary.token_ids)
    for i in range(10):
        genes = [gene for gene in range(90) if counts[i, gene] > 0]
        ranked = sorted(genes, key=lambda gene: (-counts[i, gene] / rounded[gene], gene))
        assert cells[i].input_ids.tolist() == [30 + gene for gene in ranked[: CONTEXT_LENGTH - N_CONTEXT]]


@pytest.mark.filterwarnings(EMPTY)
def test_context_is_read_as_names_or_numbers_or_given_for_all_cells(adata):
    vectors = vectors_of(sfm.load(LIGHTNING), adata)
    named = adata.copy()
    named.obs["specie"] = adata.obs["specie"].map({5: "Homo sapiens", 6: "mouse"}).astype("category")
    named.obs["assay"] = adata.obs["assay"].map({11: "10X 3' v3", 8: "CosMx", 7: "merfish", 18: "Smart-seq v4"})
    named.obs["modality"] = "dissociated"
    np.testing.assert_array_equal(vectors_of(sfm.load(LIGHTNING), named), vectors)
    del named.obs["modality"]
    given = sfm.load(LIGHTNING, modality="dissociated")
    np.testing.assert_array_equal(vectors_of(given, named), vectors)
    assert given.params()["modality"] == "dissociated"
    spatial = sfm.load(LIGHTNING, modality=4)
    assert np.abs(vectors_of(spatial, named) - vectors).max() > 0.01
    as_text = adata.copy()
    as_text.obs = adata.obs.astype(str)
    np.testing.assert_array_equal(vectors_of(sfm.load(LIGHTNING), as_text), vectors)


def test_missing_and_unknown_context_is_told_with_what_is_known(adata, sound):
    without = adata.copy()
    del without.obs["assay"]
    with pytest.raises(ValueError, match="no column 'assay'.*'merfish' .7.*pass assay= to `sfm.load`"):
        sfm.tl.embed(without, sound)
    assert "X_sfm" not in without.obsm
    adata.obs["specie"] = "zebrafish"
    with pytest.raises(ValueError, match="specie='zebrafish' is none of .*'human' .5."):
        sfm.tl.embed(adata, sound)
    adata.obs["specie"] = [np.nan, *[5.0] * 15]
    with pytest.raises(ValueError, match="specie=nan is none of"):
        sfm.tl.embed(adata, sound)
    with pytest.raises(ValueError, match="modality=5 is none of"):
        sfm.load(LIGHTNING, modality=5)


def test_mouse_genes_are_read_by_their_human_orthologs(sound):
    from sfm.genes import align_genes

    symbols = dict(zip(sound.vocabulary.gene_ids, sound.vocabulary.symbols, strict=True))
    mouse = {"ENSG00000026025": "Vim", "ENSG00000010932": "Fmo1"}
    assert all(symbols[gene].capitalize() == name for gene, name in mouse.items())
    found = align_genes([*mouse.values(), "Cd3e", "Actb", "Gapdh"], sound.vocabulary)
    assert found.fate["gene"].tolist()[:2] == list(mouse)


@pytest.mark.filterwarnings(EMPTY)
@pytest.mark.parametrize(
    "options",
    [{"modality": "spatial"}, {"reference": True, "mean_rule": "nan"}, {"hidden_layer": 1, "with_context": True}],
)
def test_saving_in_our_layout_keeps_tokens_and_vectors(adata, tmp_path, options):
    pretrained = sfm.load(LIGHTNING, **options)
    pretrained.save_pretrained(tmp_path)
    again = sfm.load(tmp_path)
    assert again.vocabulary == pretrained.vocabulary
    assert again.tokenizer.to_dict() == pretrained.tokenizer.to_dict()
    np.testing.assert_array_equal(tokens_of(again, adata).input_ids, tokens_of(pretrained, adata).input_ids)
    np.testing.assert_array_equal(vectors_of(again, adata), vectors_of(pretrained, adata))


@pytest.mark.filterwarnings(EMPTY, PEFT)
@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_it_is_fine_tuned_to_label_cells(adata, sound, lora):
    adata.obs["kind"] = ["even", "odd"] * 8
    model = sfm.model.CellClassifier.from_pretrained(sound, adata, labels_key="kind", lora=lora)
    before = {name: tensor.clone() for name, tensor in model.module.network.state_dict().items()}
    model.train(max_epochs=1, **TRAIN)
    after = model.module.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    body = {name for name in changed if "cell." in name}
    assert body
    assert all(".lora_" in name and ".attention." in name for name in body) == (lora is not None)
    assert set(model.predict()) <= {"even", "odd"}


@pytest.mark.filterwarnings(EMPTY)
def test_its_pretraining_goes_on(adata, sound):
    model = sfm.model.MaskedCellModel.from_pretrained(sound, adata)
    model.train(max_epochs=1, **TRAIN)
    assert type(model.module.network.head).__name__ == "LinearGeneHead"
    assert all(np.isfinite(values.to_numpy(dtype=float)).all() for values in model.history.values())


def test_means_of_technologies_are_chosen_by_name_or_path(folder, tmp_path):
    means = np.load(folder / "technology_mean_script.npy")
    (folder / "model_means").mkdir()
    (folder / "technology_mean_script.npy").rename(folder / "model_means" / "dissociated_mean_script.npy")
    dissociated = sfm.load(folder)  # the only one
    assert dissociated.vocabulary == sfm.load(LIGHTNING).vocabulary
    np.save(folder / "model_means" / "merfish_mean_script.npy", means * 3 - 10)
    with pytest.raises(ValueError, match="means of several technologies .*'dissociated', 'merfish'. Pass one as"):
        sfm.load(folder)
    assert sfm.load(folder, technology_mean="dissociated").vocabulary == dissociated.vocabulary
    merfish = sfm.load(folder, technology_mean="merfish")
    assert merfish.vocabulary != dissociated.vocabulary
    assert merfish.vocabulary.medians.min() == 1  # some means of the file are negative
    np.save(tmp_path / "own.npy", means * 3 - 10)
    assert sfm.load(folder, technology_mean=tmp_path / "own.npy").vocabulary == merfish.vocabulary
    assert sfm.load(folder, technology_mean=None).vocabulary.medians is None
    clean = sfm.load(folder, technology_mean="dissociated", mean_rule="clean").vocabulary.medians
    np.testing.assert_array_equal(clean, np.where(np.isnan(means), 1, means))
    with pytest.raises(FileNotFoundError, match="technology_mean='xenium' is neither a file nor one of .*'merfish'"):
        sfm.load(folder, technology_mean="xenium")
    np.save(tmp_path / "own.npy", means[:7])
    with pytest.raises(ValueError, match="means of shape .7,., but the model has 90 genes"):
        sfm.load(folder, technology_mean=tmp_path / "own.npy")


def test_a_model_without_means_says_so():
    with pytest.warns(UserWarning, match="ranked by counts alone"):
        sfm.load(HUB)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mean_rule": "nan"}, "mean_rule='nan' is how the reference implementation works"),
        ({"pad_token": 0}, "pad_token=0 is how the reference"),
        ({"mean_rule": "median"}, "Unknown mean_rule='median'"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        sfm.load(LIGHTNING, **options)


def test_a_missing_file_is_named(folder, tmp_path):
    (folder / "model.h5ad").unlink()
    with pytest.raises(FileNotFoundError, match="Did not find 'model.h5ad'.*theislab/nicheformer"):
        sfm.load(folder)
    hub = Path(shutil.copytree(HUB, tmp_path / "hub"))
    (hub / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="Did not find 'model.safetensors'"):
        sfm.load(hub)


@pytest.mark.parametrize("file", ["nicheformer.ckpt", "model.h5ad", "technology_mean_script.npy"])
def test_a_truncated_file_is_named(folder, file):
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{file}.*truncated"):
        sfm.load(folder)


def test_genes_of_another_model_are_refused(folder, tmp_path):
    genes = ad.read_h5ad(folder / "model.h5ad")
    genes[:, :50].copy().write_h5ad(folder / "model.h5ad")
    with pytest.raises(ValueError, match="has 90 genes, but the list of genes found with it has 50"):
        sfm.load(folder)
    hub = Path(shutil.copytree(HUB, tmp_path / "hub"))
    ids = json.loads((hub / "vocab.json").read_text())
    (hub / "vocab.json").write_text(json.dumps({name: i + 3 for name, i in ids.items()}))
    with pytest.raises(ValueError, match="does not number its genes from 30 on"):
        sfm.load(hub)


def test_a_partial_or_malicious_checkpoint_is_refused(folder, tmp_path):
    path = folder / "nicheformer.ckpt"
    content = torch.load(path, weights_only=True)
    del content["state_dict"]["encoder.layers.1.linear1.weight"]
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"1 missing \(cell.backbone.layers.1.up.weight\)"):
        sfm.load(folder)
    torch.save({"weights": 1}, path)
    with pytest.raises(ValueError, match="no 'state_dict' or 'hyper_parameters'"):
        sfm.load(folder)
    marker = tmp_path / "executed"

    class Malicious:
        def __reduce__(self):
            return Path.touch, (marker,)

    torch.save({"state_dict": Malicious()}, path)
    with pytest.raises(ValueError, match="nothing was executed or loaded"):
        sfm.load(folder)
    assert not marker.exists()


def test_unknown_options_and_other_families_are_named():
    with pytest.raises(TypeError, match="Nicheformer has no option 'layer'.*technology_mean"):
        sfm.load(HUB, layer=1)
    with pytest.raises(ValueError, match="a checkpoint of Nicheformer: pass family='nicheformer'"):
        sfm.load(HUB, family="geneformer")
