"""UCE in its published layout, against the reference's own tokens and vectors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from scipy import sparse

import sfm
from sfm.inference import embed_tokens
from sfm.tokenizers import TokenizedCells

GOLDEN = Path(__file__).parents[1] / "goldens" / "uce"
FILES = GOLDEN / "model_files"
# What no file tells, in the sizes of the golden.
SIZES = {"n_heads": 4, "sample_size": 96, "max_length": 160}
REFERENCE = {**SIZES, "reference": True, "seed": 31, "batch_size": 5}
EMPTY = "ignore:.*have no count on a known gene"
MOUSE = "Mus_musculus.GRCm39.gene_symbol_to_embedding_ESM2.pt"
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "expected.npz"))


@pytest.fixture(scope="module")
def uce():
    return sfm.load(FILES, **SIZES)


@pytest.fixture(scope="module")
def reference():
    return sfm.load(FILES, **REFERENCE)


@pytest.fixture
def adata() -> ad.AnnData:
    return ad.read_h5ad(GOLDEN / "input.h5ad")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FILES, tmp_path / "files"))


def embedded(adata: ad.AnnData, model: object, **options: object) -> np.ndarray:
    copy = adata.copy()
    sfm.tl.embed(copy, model, **options)
    return copy.obsm["X_sfm"]


def tokens_of(adata: ad.AnnData, model: object) -> np.ndarray:
    copy = adata.copy()
    sfm.pp.tokenize(copy, model.tokenizer)
    return copy.obsm["tokens"].toarray()


def stored_cells(expected: dict[str, np.ndarray]) -> TokenizedCells:
    lengths = expected["nofilter_length"]
    rows = zip(expected["nofilter_tokens"], lengths, strict=True)
    ids = np.concatenate([row[:length] for row, length in rows])
    return TokenizedCells(ids, np.concatenate([[0], np.cumsum(lengths)]), max_length=160)


def test_genes_have_the_tokens_and_places_of_the_reference(uce, expected):
    offset = json.loads((GOLDEN / "meta.json").read_text())["CHROM_TOKEN_OFFSET"]
    genes = [name.upper() for name in expected["nofilter_genes"]]
    ours = dict(
        zip(
            uce.vocabulary.gene_ids,
            zip(uce.vocabulary.token_ids, uce.tokenizer.chromosomes, uce.tokenizer.starts, strict=True),
            strict=True,
        )
    )
    theirs = zip(
        expected["nofilter_gene_token"],
        expected["nofilter_gene_chrom_code"] + offset,
        expected["nofilter_gene_start"],
        strict=True,
    )
    assert [ours[gene] for gene in genes] == list(theirs)


@pytest.mark.parametrize("kind", ["nofilter", "filter"])
def test_in_reference_mode_tokens_and_vectors_are_those_of_the_reference(reference, adata, expected, kind):
    if kind == "filter":
        sc.pp.filter_genes(adata, min_cells=10)
        sc.pp.filter_cells(adata, min_genes=25)
    np.testing.assert_array_equal(tokens_of(adata, reference), expected[f"{kind}_tokens"])
    np.testing.assert_allclose(embedded(adata, reference), expected[f"{kind}_cell_emb"], **CLOSE)
    dense = adata.copy()
    dense.X = sparse.csc_matrix(dense.X).toarray()
    np.testing.assert_array_equal(tokens_of(dense, reference), expected[f"{kind}_tokens"])


def test_vectors_of_stored_tokens_are_those_of_the_reference(uce, reference, expected):
    cells = stored_cells(expected)
    alone = embed_tokens(uce.model, cells, pad_id=0)
    np.testing.assert_allclose(alone, expected["nofilter_cell_emb_unpadded"], **CLOSE)
    padded = embed_tokens(reference.model, cells, pad_id=0)
    np.testing.assert_allclose(padded, expected["nofilter_cell_emb"], **CLOSE)
    # The padding that the reference attends to; the page of the model says so.
    assert round(float(np.abs(padded - alone).max()), 2) == 0.21


def test_token_vectors_are_those_of_the_reference(uce, reference, expected):
    ids = torch.tensor(expected["nofilter_tokens"][:2, : len(expected["probe_gene_output"])])
    mask = (torch.arange(ids.shape[1]) < torch.tensor(expected["nofilter_length"][:2, None])).long()
    assert not torch.equal(mask, torch.ones_like(mask))
    with torch.inference_mode():
        found = uce.model.readout.decoder(uce.model(ids, mask).last_hidden_state)
        biased = reference.model.readout.decoder(reference.model(ids, mask).last_hidden_state)
    theirs = torch.tensor(expected["probe_gene_output"]).transpose(0, 1)
    torch.testing.assert_close(biased, theirs, rtol=1e-4, atol=1e-5)
    assert (found - biased)[mask.bool()].abs().max() > 1e-2


def test_cells_are_laid_out_along_their_chromosomes(uce, adata):
    tokenizer, vocabulary = uce.tokenizer, uce.vocabulary
    place = dict(zip(vocabulary.token_ids, zip(tokenizer.chromosomes, tokenizer.starts, strict=True), strict=True))
    genes = sfm.genes.align_genes(adata.var_names, vocabulary).token_ids
    for row, cell in zip(adata.X, tokens_of(adata, uce), strict=True):
        tokens = cell[cell > 0]
        drawn = [token for token in tokens if token in place]
        assert len(drawn) == SIZES["sample_size"]
        assert set(drawn) <= set(genes[row.indices])
        assert tokens[0] == vocabulary.cls_id
        parts = "".join("c" if token in tokenizer.chromosomes else "r" if token == 2 else "g" for token in tokens[1:])
        assert set(parts.replace("g", "").split("cr")) == {""}
        assert [place[token] for token in drawn] == sorted(place[token] for token in drawn)
        assert len(set(tokens) - set(drawn)) - 2 == len({place[token][0] for token in drawn})


def test_genes_are_drawn_in_proportion_to_log_counts():
    uce = sfm.load(FILES, n_heads=4, sample_size=1400, max_length=1536)
    counts = np.array([[1, 3, 10, 100, 0, 2] + [0] * 57])
    token_ids = uce.vocabulary.token_ids
    many = np.repeat(counts, 40, axis=0)
    many[:, 10] = np.arange(1, 41)  # another cell each
    cells = uce.tokenizer(many, token_ids)
    share = np.array([np.count_nonzero(cells.input_ids == token) for token in token_ids[:6]]) / (40 * 1400)
    weights = np.log1p(many)
    np.testing.assert_allclose(share, (weights[:, :6] / weights.sum(axis=1, keepdims=True)).mean(axis=0), atol=0.01)
    assert len({cells[i].input_ids.numpy().tobytes() for i in range(40)}) == 40


def test_a_cell_depends_on_itself_alone(uce, adata):
    whole = embedded(adata, uce)
    rows = np.random.default_rng(0).permutation(adata.n_obs)[:9]
    part = adata[rows, np.random.default_rng(1).permutation(adata.n_vars)].copy()
    np.testing.assert_array_equal(tokens_of(part, uce), tokens_of(adata, uce)[rows])
    for batch_size in (1, 4):
        np.testing.assert_allclose(embedded(part, uce, batch_size=batch_size), whole[rows], atol=1e-5)


def test_cells_are_the_same_among_many(uce, adata):
    token_ids = sfm.genes.align_genes(adata.var_names, uce.vocabulary).token_ids
    alone, many = uce.tokenizer(adata.X, token_ids), uce.tokenizer(sparse.vstack([adata.X] * 40).tocsr(), token_ids)
    np.testing.assert_array_equal(many.input_ids, np.tile(alone.input_ids, 40))
    np.testing.assert_array_equal(many.lengths, np.tile(alone.lengths, 40))


@pytest.mark.parametrize("form", ["split columns", "unknown columns", "csc", "dense", "integers", "stored zeros"])
def test_the_form_of_the_counts_does_not_matter(uce, adata, form):
    counts = sparse.csr_matrix(adata.X)
    names = adata.var_names.tolist()
    other = {
        "csc": counts.tocsc(),
        "dense": counts.toarray(),
        "integers": counts.astype(np.int32),
        "split columns": sparse.hstack([counts - (counts > 1), counts > 1]).tocsr().astype(np.float32),
        "unknown columns": sparse.hstack([counts, sparse.csr_matrix(np.full((16, 1), 9.0))]).tocsr(),
        "stored zeros": sparse.csr_matrix(
            (counts.toarray().ravel(), np.tile(np.arange(68), 16), np.arange(17) * 68), shape=counts.shape
        ),
    }[form]
    ids = sfm.genes.align_genes(names, uce.vocabulary).token_ids
    other_ids = {"split columns": np.tile(ids, 2), "unknown columns": np.append(ids, -1)}.get(form, ids)
    found, expected = uce.tokenizer(other, other_ids), uce.tokenizer(counts, ids)
    np.testing.assert_array_equal(found.input_ids, expected.input_ids)
    np.testing.assert_array_equal(found.indptr, expected.indptr)


@pytest.mark.filterwarnings(EMPTY)
@pytest.mark.parametrize("mode", ["uce", "reference"])
def test_empty_cells_are_their_first_token(request, adata, mode):
    adata.X[3] = 0
    pretrained = request.getfixturevalue(mode)
    assert (tokens_of(adata, pretrained)[3] > 0).sum() == 1
    vectors = embedded(adata, pretrained)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_by_default_vectors_differ_from_the_reference_as_its_own_do_between_seeds(uce, adata):
    def similarity(first: np.ndarray, second: np.ndarray) -> float:
        return float((first * second).sum(axis=1).mean())

    # Alone, so that padding makes no difference.
    theirs = [embedded(adata, sfm.load(FILES, **{**REFERENCE, "seed": seed, "batch_size": 1})) for seed in (31, 32, 33)]
    ours = embedded(adata, uce)
    to_ours = np.mean([similarity(ours, other) for other in theirs])
    among_them = np.mean([similarity(theirs[i], theirs[j]) for i, j in ((0, 1), (0, 2), (1, 2))])
    # The page of the model has these numbers.
    assert (round(to_ours, 1), round(among_them, 1)) == (0.9, 0.9)
    assert to_ours > among_them - 0.02


def test_in_reference_mode_neighbours_and_seeds_matter(reference, adata):
    first = embedded(adata, reference)
    for change in ({"seed": 1}, {"batch_size": 1}):
        assert np.abs(embedded(adata, sfm.load(FILES, **{**REFERENCE, **change})) - first).max() > 1e-3


def test_symbols_are_found_in_lower_case_and_by_ensembl_id(uce, adata):
    lower = adata.copy()
    lower.var_names = lower.var_names.str.lower()
    np.testing.assert_array_equal(tokens_of(lower, uce), tokens_of(adata, uce))
    ids = sfm.genes.gene_tables().human.ids
    ensembl = adata[:, [name.upper() in ids for name in adata.var_names]].copy()
    symbols = ensembl.copy()
    ensembl.var_names = [ids[name.upper()] for name in ensembl.var_names]
    np.testing.assert_array_equal(tokens_of(ensembl, uce), tokens_of(symbols, uce))


@pytest.mark.parametrize("mode", ["uce", "reference"])
def test_saving_in_our_layout_keeps_tokens_and_vectors(request, adata, tmp_path, mode):
    pretrained = request.getfixturevalue(mode)
    pretrained.save_pretrained(tmp_path)
    again = sfm.load(tmp_path)
    assert again.vocabulary == pretrained.vocabulary
    assert again.tokenizer.to_dict() == pretrained.tokenizer.to_dict()
    np.testing.assert_array_equal(tokens_of(adata, again), tokens_of(adata, pretrained))
    np.testing.assert_array_equal(embedded(adata, again), embedded(adata, pretrained))


def mouse_cells(adata: ad.AnnData) -> ad.AnnData:
    genes = pd.read_csv(FILES / "species_chrom.csv").query("species == 'mouse'")["gene_symbol"].tolist()
    cells = adata[:, [name.upper() in genes for name in adata.var_names]].copy()
    cells.var_names = [name.capitalize() for name in cells.var_names]
    return cells[np.asarray(cells.X.sum(axis=1)).ravel() > 0].copy()


def test_the_table_has_only_rows_of_the_species(uce):
    mouse = sfm.load(FILES, species="mouse", **SIZES)
    assert mouse.vocabulary.species == "mouse"
    assert uce.model.embedder.genes.weight.shape[0] == 4 + 63 + 31
    assert mouse.model.embedder.genes.weight.shape[0] == 4 + 10 + 31
    published = torch.load(FILES / "2layer_model.torch", weights_only=True)["pe_embedding.weight"]
    for pretrained in (uce, mouse):
        genes = pretrained.model.embedder.genes
        ids = torch.tensor([0, 1, 2, 3, *pretrained.vocabulary.token_ids, *range(136, 167)])
        torch.testing.assert_close(genes.weight[genes.rows(ids)], published[ids], rtol=0, atol=0)
        assert not genes.weight.requires_grad


def test_a_new_species_is_read_from_its_files(adata, files):
    cells = mouse_cells(adata)
    mouse = sfm.load(FILES, species="mouse", **SIZES)
    wanted = embedded(cells, mouse)
    # The same genes under another name, with the same vectors, are a new species whose cells are the same.
    places = pd.read_csv(files / "species_chrom.csv", dtype=str).query("species == 'mouse'").assign(species="vole")
    places.to_csv(files / "vole.csv", index=False)
    pd.DataFrame({"species": ["vole"], "path": [f"protein_embeddings/{MOUSE}"]}).to_csv(
        files / "new_species_protein_embeddings.csv", index=False
    )
    genes = mouse.model.embedder.genes
    chromosomes = sorted(set(mouse.tokenizer.chromosomes))
    tokens = torch.tensor([0, 1, 2, 3, *range(90, 100), *chromosomes])
    torch.save(genes.weight[genes.rows(tokens)].detach().clone(), files / "vole.torch_tokens")
    vole = sfm.load(
        files, species="vole", chromosomes=files / "vole.csv", token_file=files / "vole.torch_tokens", **SIZES
    )
    cells.var_names = cells.var_names.str.upper()
    np.testing.assert_allclose(embedded(cells, vole), wanted, atol=1e-5)
    drawn = sfm.load(files, species="vole", chromosomes=files / "vole.csv", taxonomy_id=10090, **SIZES)
    weight = drawn.model.embedder.genes.weight
    torch.manual_seed(10090)
    torch.testing.assert_close(weight[14:], torch.normal(0.0, 1.0, (len(chromosomes), 48)), rtol=0, atol=0)
    assert np.abs(embedded(cells, drawn) - wanted).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"species": "vole"}, ValueError, "does not know species='vole', only .*'human'.*proteins="),
        ({"species": "vole", "proteins": MOUSE}, ValueError, "has no genes of 'vole'. Pass chromosomes="),
        ({"species": "mouse", "proteins": MOUSE}, ValueError, "Pass token_file= .* or taxonomy_id="),
        (
            {"species": "mouse", "proteins": MOUSE, "token_file": "2layer"},
            ValueError,
            r"table of tokens for 'mouse' has shape \(3, 48\), but 4 special tokens, 10 proteins and 3 chromosomes",
        ),
        ({"species": "frog"}, FileNotFoundError, "Xenopus_tropicalis.*the protein embeddings of 'frog'"),
        ({"n_heads": 20}, ValueError, "n_heads=20 does not divide the width of this model, 32"),
        ({"weights": "33l.torch"}, FileNotFoundError, "Did not find '33l.torch'"),
        ({"layers": 4}, TypeError, "UCE has no option 'layers'"),
        ({"family": "geneformer"}, ValueError, "is not a checkpoint of Geneformer, but a checkpoint of UCE"),
    ],
)
def test_options_that_cannot_be(files, options, error, message):
    options = dict(options)
    if "proteins" in options:
        options["proteins"] = files / "protein_embeddings" / options["proteins"]
    if "token_file" in options:
        options["token_file"] = files / "tokens.pt"
        torch.save(torch.zeros(3, 48), options["token_file"])
    with pytest.raises(error, match=message):
        sfm.load(files, **{**SIZES, **options})


@pytest.mark.parametrize(
    "name",
    ["species_chrom.csv", "species_offsets.pkl", "Homo_sapiens.GRCh38.gene_symbol_to_embedding_ESM2.pt"],
)
def test_missing_files_are_named(files, name):
    next(files.rglob(name)).unlink()
    with pytest.raises(FileNotFoundError, match=f"Did not find '{name}'.*figshare"):
        sfm.load(files, **SIZES)


def test_files_of_different_versions_are_refused(files):
    places = pd.read_csv(files / "species_chrom.csv", dtype=str)
    more = places.iloc[[0]].assign(chromosome="new")
    pd.concat([places, more]).to_csv(files / "species_chrom.csv", index=False)
    with pytest.raises(
        ValueError, match="do not belong together: the model has 167 tokens, .* 32 chromosomes.*from token 123 to 135"
    ):
        sfm.load(files, **SIZES)
    places.drop(columns="start").to_csv(files / "species_chrom.csv", index=False)
    with pytest.raises(ValueError, match="has no column 'start'"):
        sfm.load(files, **SIZES)


def test_proteins_of_another_version_are_refused(files):
    path = next(files.rglob("Homo_sapiens*"))
    proteins = torch.load(path, weights_only=True)
    torch.save(dict(list(proteins.items())[:-1]), path)
    with pytest.raises(ValueError, match="do not belong together.*62 proteins from token 10 to 73"):
        sfm.load(files, **SIZES)


def test_one_of_several_models_is_chosen(files):
    shutil.copy(files / "2layer_model.torch", files / "33l_model.torch")
    with pytest.raises(
        ValueError, match="several models of UCE: '2layer_model.torch', '33l_model.torch'. Pass weights="
    ):
        sfm.load(files, **SIZES)
    assert sfm.load(files, weights="33l_model.torch", **SIZES).model.config.num_hidden_layers == 2


def test_weights_that_are_not_whole_are_refused(files):
    path = files / "2layer_model.torch"
    weights = torch.load(path, weights_only=True)
    torch.save({name: tensor for name, tensor in weights.items() if name != "decoder.1.0.bias"}, path)
    with pytest.raises(ValueError, match=r"1 missing \(readout.decoder.1.0.bias\)"):
        sfm.load(files, **SIZES)
    torch.save({"encoder.embedding.weight": torch.ones(2, 2)}, path)
    with pytest.raises(ValueError, match="does not hold the weights of UCE: it has no 'pe_embedding.weight'"):
        sfm.load(files, **SIZES)
    path.write_bytes((FILES / path.name).read_bytes()[:1000])
    with pytest.raises(ValueError, match="2layer_model.torch' cannot be read as the weights of UCE"):
        sfm.load(files, **SIZES)


def test_malicious_weights_are_not_executed(files, tmp_path):
    marker = tmp_path / "executed"

    class Malicious:
        def __reduce__(self):
            return Path.touch, (marker,)

    torch.save({"pe_embedding.weight": Malicious()}, files / "2layer_model.torch")
    with pytest.raises(ValueError, match="nothing was executed or loaded"):
        sfm.load(files, **SIZES)
    assert not marker.exists()


@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_it_is_fine_tuned_to_label_cells(uce, adata, tmp_path, lora):
    adata.obs["kind"] = ["even", "odd"] * (adata.n_obs // 2)
    model = sfm.model.CellClassifier.from_pretrained(uce, adata, labels_key="kind", lora=lora)
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
    again = sfm.model.CellClassifier.from_pretrained(tmp_path, adata, labels_key="kind")
    np.testing.assert_array_equal(again.predict(), predicted)


def test_gene_vectors_come_of_the_proteins(uce, adata):
    sfm.tl.embed_genes(adata, uce, key_added="genes")
    vectors = adata.varm["genes"]
    known = sfm.genes.align_genes(adata.var_names, uce.vocabulary).token_ids >= 0
    assert np.isfinite(vectors[known]).all()
    assert np.isnan(vectors[~known]).all()


@pytest.mark.parametrize(
    ("counts", "ids", "message"),
    [
        (np.ones((2, 1)), np.array([5]), "gene_ids holds 5, which is no gene of"),
        (np.ones((2, 1)), np.array([999]), "gene_ids holds 999, which is no gene of"),
        (-np.ones((2, 1)), np.array([10]), "counts holds -1.0"),
        (np.full((2, 1), np.nan), np.array([10]), "counts holds nan"),
        (np.ones((2, 2)), np.array([10]), "one integer for each of the 2 columns"),
    ],
)
@pytest.mark.parametrize("mode", ["uce", "reference"])
def test_what_the_tokenizer_cannot_read_is_named(request, counts, ids, message, mode):
    with pytest.raises(ValueError, match=message):
        request.getfixturevalue(mode).tokenizer(counts, ids)
