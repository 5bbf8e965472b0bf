"""STATE's state embedding in its published layout, against the reference's own tokens and vectors."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse

import sfm
from sfm.inference import embed_tokens
from sfm.tokenizers import TokenizedCells

GOLDEN = Path(__file__).parents[1] / "goldens" / "state_se"
FILES = GOLDEN / "checkpoint"
NAME = "se_tiny_epoch16.ckpt"
EMPTY = "ignore:.*have no count on a known gene"
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "expected.npz"))


def loaded(**options: object):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the licence excludes commercial use
        return sfm.load(FILES, **options)


@pytest.fixture(scope="module")
def state():
    return loaded()


@pytest.fixture(scope="module")
def reference():
    return loaded(reference=True)


@pytest.fixture
def adata() -> ad.AnnData:
    """All cells: counts, and some that are logarithms or negative."""
    return ad.read_h5ad(GOLDEN / "input.h5ad")


@pytest.fixture
def counts(adata: ad.AnnData) -> ad.AnnData:
    return adata[are_counts(adata)].copy()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FILES, tmp_path / "files"))


def are_counts(adata: ad.AnnData) -> np.ndarray:
    dense = adata.X.toarray()
    return ((dense >= 0) & (dense == np.rint(dense))).all(axis=1)


def embedded(adata: ad.AnnData, model: object, **options: object) -> np.ndarray:
    copy = adata.copy()
    sfm.tl.embed(copy, model, **options)
    return copy.obsm["X_sfm"]


def tokenized(adata: ad.AnnData, model: object) -> TokenizedCells:
    return model.tokenizer(adata.X, sfm.genes.align_genes(adata.var_names, model.vocabulary).token_ids)


def stored_cells(expected: dict[str, np.ndarray], model: object) -> TokenizedCells:
    special = model.vocabulary.special_tokens
    ids = expected["sentences"].copy()
    ids[:, 0] = special["<cls>"]
    ids = np.pad(ids, ((0, 0), (0, 1)), constant_values=special["<dataset>"])
    values = np.pad(expected["sentence_counts"], ((0, 0), (0, 1)))
    return TokenizedCells(ids.ravel(), np.arange(17) * 65, values=values.ravel(), max_length=65)


def test_vectors_of_stored_tokens_are_those_of_the_reference(state, expected):
    cells = stored_cells(expected, state)
    vectors = embed_tokens(state.model, cells, pad_id=state.vocabulary.pad_id)
    np.testing.assert_allclose(vectors, expected["X_state"], **CLOSE)
    without = sfm.load(FILES, dataset_dims=False)
    vectors = embed_tokens(without.model, cells, pad_id=state.vocabulary.pad_id)
    np.testing.assert_allclose(vectors, expected["cell_emb"], **CLOSE)
    assert vectors.shape[1] + expected["dataset_emb"].shape[1] == expected["X_state"].shape[1]


def test_in_reference_mode_what_is_not_random_is_that_of_the_reference(reference, adata, expected):
    cells = tokenized(adata, reference)
    tokens, values = cells.input_ids.reshape(16, 65), cells.values.reshape(16, 65)
    certain = expected["tokens_deterministic"]
    np.testing.assert_array_equal(tokens[certain, 1:-1], expected["sentences"][certain, 1:])
    # Chance decides which genes of equal values are there, and in which order, but not the values.
    np.testing.assert_allclose(values[:, :-1], expected["sentence_counts"], **CLOSE)
    vectors = embed_tokens(reference.model, cells, pad_id=reference.vocabulary.pad_id)
    np.testing.assert_allclose(vectors[certain], expected["X_state"][certain], **CLOSE)
    assert certain.sum() == 5
    for ours, theirs, of_values in zip(tokens, expected["sentences"], values, strict=True):
        # The lowest may have been chosen among equal ones.
        lowest = of_values[1:-1].min()
        clear = np.array([np.count_nonzero(of_values == value) == 1 and value > lowest for value in of_values[1:-1]])
        np.testing.assert_array_equal(ours[1:-1][clear], theirs[1:][clear])


def test_in_reference_mode_counts_are_guessed_cell_by_cell(reference, adata, expected):
    token_ids = sfm.genes.align_genes(adata.var_names, reference.vocabulary).token_ids
    values = tokenized(adata, reference).values.reshape(16, 65)
    for row, of_cell, is_raw in zip(adata.X.toarray(), values, expected["raw_count_detected"], strict=True):
        logs = np.maximum(row, 0)[token_ids >= 0]
        logs = np.log1p(logs) if is_raw else logs
        np.testing.assert_allclose(of_cell[1], 100 * logs.max() / logs.sum(), rtol=1e-4)
    assert 0 < expected["raw_count_detected"].sum() < 16


def test_in_reference_mode_seeds_decide_among_equal_genes(reference, counts):
    other = sfm.load(FILES, reference=True, seed=1)
    first, second, again = (tokenized(counts, model).input_ids for model in (reference, other, reference))
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()
    cells = tokenized(counts[:1], reference)  # three genes, and as many others as there is room for
    assert len(set(cells.input_ids)) == 65


def test_in_reference_mode_few_genes_are_repeated(reference, counts):
    panel = counts[:, sfm.genes.align_genes(counts.var_names, reference.vocabulary).token_ids >= 0][:, :20].copy()
    panel.X = panel.X.toarray()
    panel.X[0] = np.arange(20) < 3
    tokens = tokenized(panel[:1], reference).input_ids
    assert tokens.size == 65
    assert len(set(tokens)) <= 22
    no_more = panel[:1].copy()
    no_more.X = sparse.csr_matrix(np.ones((1, 20)))
    assert tokenized(no_more, reference).input_ids.size == 22


def test_by_default_cells_are_expressed_genes_and_filler(state, counts):
    cells = tokenized(counts, state)
    token_ids = sfm.genes.align_genes(counts.var_names, state.vocabulary).token_ids
    special = state.vocabulary.special_tokens
    fillers = []
    for i, row in enumerate(counts.X.toarray()):
        known = row[token_ids >= 0]
        ids, values = cells[i].input_ids.numpy(), cells[i].values.numpy()
        assert (ids[0], ids[-1], ids.size) == (special["<cls>"], special["<dataset>"], 65)
        assert len(set(ids)) == 65
        assert values[0] == values[-1] == 0
        n_genes = min(np.count_nonzero(known), 63)
        count_of = dict(zip(token_ids, row, strict=True))
        ranked = [(-count_of[token], token) for token in ids[1 : n_genes + 1]]
        assert ranked == sorted((-row[j], token_ids[j]) for j in np.flatnonzero((row > 0) & (token_ids >= 0)))[:63]
        np.testing.assert_allclose(
            values[1 : n_genes + 1], [100 * np.log1p(-c) / np.log1p(known).sum() for c, _ in ranked], rtol=1e-5
        )
        assert not values[n_genes + 1 :].any()
        fillers.append([*ids[n_genes + 1 : -1]])
        assert all(count_of.get(token, 0) == 0 for token in fillers[-1])
    # One order for all cells: without the genes that one of them expresses, two cells have the same filler.
    first, second = fillers[0], fillers[1]
    shared = [token for token in first if token in second]
    assert [token for token in second if token in first] == shared
    assert len(shared) > 30


@pytest.mark.filterwarnings("ignore:.*knows few of the genes")
def test_panels_are_filled_up_with_their_own_genes(counts):
    measured = sfm.load(FILES, filler="measured")
    token_ids = sfm.genes.align_genes(counts.var_names, measured.vocabulary).token_ids
    cells = tokenized(counts, measured)
    special = set(measured.vocabulary.special_tokens.values())
    assert set(cells.input_ids) - special <= set(token_ids)
    few = counts[:, token_ids >= 0][:, :30].copy()
    few = few[np.asarray(few.X.sum(axis=1)).ravel() > 0].copy()
    assert set(tokenized(few, measured).lengths) == {32}
    np.testing.assert_allclose(embedded(few, measured, batch_size=1), embedded(few, measured, batch_size=5), atol=1e-5)


def test_the_reference_is_met_up_to_the_value_of_the_first_token(state, counts, expected, adata):
    certain = expected["tokens_deterministic"][are_counts(adata)]
    theirs = expected["X_state"][are_counts(adata)]
    cells = tokenized(counts, state)
    cells.values[cells.indptr[:-1]] = expected["sentence_counts"][are_counts(adata), 0]
    vectors = embed_tokens(state.model, cells, pad_id=state.vocabulary.pad_id)
    np.testing.assert_allclose(vectors[certain], theirs[certain], **CLOSE)
    # The page of the model has these numbers: by the value of <cls> alone, and by the choice of filler and seeds.
    difference = np.abs(embedded(counts, state) - theirs).max(axis=1)
    assert round(float(difference[certain].max()), 3) == 0.007
    assert round(float(difference.max()), 1) == 1.0
    between_seeds = np.abs(expected["X_state_other_seed"] - expected["X_state"]).max()
    assert round(float(between_seeds), 1) == 1.1


def test_a_cell_depends_on_itself_alone(state, counts):
    whole, cells = embedded(counts, state), tokenized(counts, state)
    rows = np.random.default_rng(0).permutation(counts.n_obs)[:9]
    part = counts[rows, np.random.default_rng(1).permutation(counts.n_vars)].copy()
    found = tokenized(part, state)
    np.testing.assert_array_equal(found.input_ids, cells[rows].input_ids)
    np.testing.assert_array_equal(found.values, cells[rows].values)
    for batch_size in (1, 4):
        np.testing.assert_allclose(embedded(part, state, batch_size=batch_size), whole[rows], atol=1e-5)


@pytest.mark.parametrize("form", ["split columns", "no zero columns", "unknown columns", "csc", "dense", "integers"])
def test_the_form_of_the_counts_does_not_matter(state, counts, form):
    matrix, ids = counts.X.tocsr(), sfm.genes.align_genes(counts.var_names, state.vocabulary).token_ids
    matrix = matrix.multiply(sparse.csr_matrix(np.arange(matrix.shape[1]) % 3 > 0)).tocsr()
    expressed = np.asarray(matrix.sum(axis=0)).ravel() > 0
    other = {
        "csc": matrix.tocsc(),
        "dense": matrix.toarray(),
        "integers": matrix.astype(np.int64),
        "split columns": sparse.hstack([matrix - (matrix > 1), matrix > 1]).tocsr().astype(np.float32),
        "unknown columns": sparse.hstack([matrix, sparse.csr_matrix(np.full((matrix.shape[0], 1), 9.0))]).tocsr(),
        "no zero columns": matrix[:, expressed],
    }[form]
    other_ids = {
        "split columns": np.tile(ids, 2),
        "unknown columns": np.append(ids, -1),
        "no zero columns": ids[expressed],
    }.get(form, ids)
    found, wanted = state.tokenizer(other, other_ids), state.tokenizer(matrix, ids)
    np.testing.assert_array_equal(found.input_ids, wanted.input_ids)
    np.testing.assert_array_equal(found.values, wanted.values)


@pytest.mark.filterwarnings(EMPTY)
def test_empty_cells_are_two_tokens_and_have_a_vector(state, counts):
    counts.X = counts.X.toarray()
    counts.X[2] = 0
    assert tokenized(counts, state).lengths[2] == state.tokenizer.n_special == 2
    vectors = embedded(counts, state)
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors[:, :20], axis=1), 1, atol=1e-5)
    copy = counts.copy()
    sfm.tl.embed(copy, state)
    assert copy.uns["X_sfm"]["params"]["n_empty_cells"] == 1


@pytest.mark.filterwarnings("ignore:.*knows few of the genes")
def test_ids_of_another_style_change_nothing(state, counts):
    tables = sfm.genes.gene_tables().human.ids
    known = counts[:, [name in tables and name in state.vocabulary.gene_ids for name in counts.var_names]].copy()
    ensembl = known.copy()
    ensembl.var_names = [f"{tables[name]}.3" for name in known.var_names]
    assert known.n_vars > 100
    np.testing.assert_array_equal(embedded(ensembl, state), embedded(known, state))


def test_other_values_than_counts_are_refused(state, adata):
    with pytest.raises(ValueError, match="raw counts are needed"):
        sfm.tl.embed(adata, state)


@pytest.mark.parametrize("mode", ["state", "reference"])
def test_saving_in_our_layout_keeps_tokens_and_vectors(request, counts, tmp_path, mode):
    pretrained = request.getfixturevalue(mode)
    pretrained.save_pretrained(tmp_path)
    again = sfm.load(tmp_path)
    assert again.vocabulary == pretrained.vocabulary
    assert again.tokenizer.to_dict() == pretrained.tokenizer.to_dict()
    np.testing.assert_array_equal(tokenized(counts, again).input_ids, tokenized(counts, pretrained).input_ids)
    np.testing.assert_array_equal(embedded(counts, again), embedded(counts, pretrained))


def test_fewer_tokens_can_be_asked_for(counts):
    short = sfm.load(FILES, max_length=20)
    assert set(tokenized(counts, short).lengths) == {20}
    assert np.isfinite(embedded(counts, short)).all()


@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_it_is_fine_tuned_to_label_cells(state, counts, tmp_path, lora):
    counts.obs["kind"] = ["even", "odd"] * (counts.n_obs // 2)
    model = sfm.model.CellClassifier.from_pretrained(state, counts, labels_key="kind", lora=lora)
    before = {name: tensor.clone() for name, tensor in model.module.network.state_dict().items()}
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    after = model.module.network.state_dict()
    body = {name for name in before if name.startswith("cell.") and not torch.equal(before[name], after[name])}
    assert body
    assert "cell.embedder.genes.weight" not in body
    assert all(".lora_" in name for name in body) == (lora is not None)
    predicted = model.predict()
    assert set(predicted) <= {"even", "odd"}
    model.save_pretrained(tmp_path)
    again = sfm.model.CellClassifier.from_pretrained(tmp_path, counts, labels_key="kind")
    np.testing.assert_array_equal(again.predict(), predicted)


def test_gene_vectors_are_those_before_any_context(state, counts):
    sfm.tl.embed_genes(counts, state, key_added="genes")
    known = sfm.genes.align_genes(counts.var_names, state.vocabulary).token_ids >= 0
    assert np.isfinite(counts.varm["genes"][known]).all()
    assert np.isnan(counts.varm["genes"][~known]).all()


def rewritten(files: Path, **parts: object) -> None:
    """Write the checkpoint anew without its objects of omegaconf, with other parts."""
    from sfm.checkpoints._torch_archive import read_torch_archive

    content = read_torch_archive(files / NAME, what="a test", inert=("omegaconf", "typing"))
    settings = {key: value for key, value in content["hyper_parameters"].items() if key != "cfg"}
    state = {key: tensor.clone() for key, tensor in content["state_dict"].items()}
    torch.save({"state_dict": state, "hyper_parameters": settings, **parts}, files / NAME)


def weights_of(files: Path) -> dict[str, torch.Tensor]:
    from sfm.checkpoints._torch_archive import read_torch_archive

    content = read_torch_archive(files / NAME, what="a test", inert=("omegaconf", "typing"))
    return {key: tensor.clone() for key, tensor in content["state_dict"].items()}


def test_compiled_checkpoints_without_settings_are_read(files, expected):
    weights = weights_of(files)
    compiled = {key.replace("encoder.", "encoder._orig_mod.", 1): tensor for key, tensor in weights.items()}
    assert compiled.keys() != weights.keys()
    rewritten(files, state_dict=compiled | {"pe_embedding.weight": torch.zeros(3, 24)})
    again = sfm.load(files)
    assert again.tokenizer.max_length == 2049
    vectors = embed_tokens(again.model, stored_cells(expected, again), pad_id=again.vocabulary.pad_id)
    np.testing.assert_allclose(vectors, expected["X_state"], **CLOSE)


def test_protein_embeddings_may_be_in_the_checkpoint(files, expected):
    proteins = torch.load(files / "protein_embeddings.pt", weights_only=True)
    (files / "protein_embeddings.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"'protein_embeddings.pt'.*SE-600M"):
        sfm.load(files)
    rewritten(files, protein_embeds_dict=proteins)
    again = sfm.load(files)
    vectors = embed_tokens(again.model, stored_cells(expected, again), pad_id=again.vocabulary.pad_id)
    np.testing.assert_allclose(vectors, expected["X_state"], **CLOSE)


def test_the_last_of_several_epochs_is_read(files):
    shutil.copy(files / NAME, files / "se_tiny_epoch4.ckpt")
    rewritten(files)
    assert sfm.load(files).tokenizer.max_length == 2049  # of the rewritten one
    assert sfm.load(files, weights="se_tiny_epoch4.ckpt").tokenizer.max_length == 65


def test_proteins_of_another_width_are_refused(files):
    torch.save({"A1BG": torch.ones(5)}, files / "protein_embeddings.pt")
    with pytest.raises(ValueError, match=r"vectors of shape \[\(5,\)\], but the model reads protein embeddings of 24"):
        sfm.load(files)


def test_weights_that_are_not_whole_are_refused(files):
    weights = weights_of(files)
    rewritten(files, state_dict={key: weights[key] for key in weights if key != "decoder.1.bias"})
    with pytest.raises(ValueError, match=r"1 missing \(readout.output.bias\)"):
        sfm.load(files)
    rewritten(files, state_dict={key: weights[key] for key in weights if not key.startswith("dataset_")})
    with pytest.raises(ValueError, match="that reads counts and data sets: it has no 'dataset_token'"):
        sfm.load(files)
    rewritten(files, hyper_parameters={})
    with pytest.raises(ValueError, match="lacks 'state_dict', or the 'nhead'"):
        sfm.load(files)
    (files / NAME).write_bytes((FILES / NAME).read_bytes()[:5000])
    with pytest.raises(ValueError, match=f"{NAME}' cannot be read as a checkpoint of STATE"):
        sfm.load(files)


def test_malicious_checkpoints_are_not_executed(files, tmp_path):
    marker = tmp_path / "executed"

    class Malicious:
        def __reduce__(self):
            return Path.touch, (marker,)

    rewritten(files, callbacks={"run": Malicious()})
    with pytest.raises(ValueError, match="nothing was executed or loaded"):
        sfm.load(files)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"filler": "zeros"}, ValueError, "Unknown filler='zeros'. Choose 'vocabulary' or 'measured'"),
        ({"max_length": 2}, ValueError, "max_length=2, but each cell needs"),
        ({"weights": "other.ckpt"}, FileNotFoundError, "Did not find 'other.ckpt'"),
        ({"epoch": 4}, TypeError, "STATE's state embedding has no option 'epoch'"),
        ({"family": "uce"}, ValueError, "is not a checkpoint of UCE, but a checkpoint of STATE's state embedding"),
    ],
)
def test_options_that_cannot_be(options, error, message):
    with pytest.raises(error, match=message):
        sfm.load(FILES, **options)
