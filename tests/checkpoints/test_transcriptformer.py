"""TranscriptFormer in its published layout, against the reference's own tokens, vectors and likelihoods."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import torch
from scipy import sparse

import sfm
from sfm.data._loader import collate
from sfm.inference import embed_tokens
from sfm.inference._loop import run_tokens
from sfm.nn.architectures import _transcriptformer_backbone
from sfm.nn.architectures._transcriptformer import negative_log_likelihood
from sfm.tokenizers import TokenizedCells

GOLDEN = Path(__file__).parents[1] / "goldens" / "transcriptformer"
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SEQ_LEN, N_ROWS, PAD, START = 31, 97, 1, 2
# The first cell of the golden has only genes that the model does not know.
EMPTY = "ignore:1 of 16 cells have no count:UserWarning"
# peft asks transformers for an attribute that it has renamed
PEFT = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
TRAIN = {"accelerator": "cpu", "enable_progress_bar": False}
# Some cells of the golden have an assay that its model does not know.
pytestmark = pytest.mark.filterwarnings("ignore:adata.obs.'assay'. has 'not-an-assay':UserWarning")


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "expected.npz"))


@pytest.fixture
def adata() -> ad.AnnData:
    adata = ad.read_h5ad(GOLDEN / "input.h5ad")
    adata.var_names = adata.var["ensembl_id"].to_numpy()
    return adata


@pytest.fixture(scope="module")
def sound():
    return sfm.load(GOLDEN / "checkpoint")


@pytest.fixture(scope="module")
def reference():
    return sfm.load(GOLDEN / "checkpoint", reference=True)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the model, to change."""
    return Path(shutil.copytree(GOLDEN / "checkpoint", tmp_path / "model"))


def tokens_of(pretrained, adata) -> TokenizedCells:
    copied = sfm.pp.tokenize(adata, pretrained, copy=True)
    return TokenizedCells.from_obsm(copied.obsm["tokens"], copied.obsm["tokens_values"])


def vectors_of(pretrained, adata, **options) -> np.ndarray:
    return sfm.tl.embed(adata, pretrained, copy=True, **options).obsm["X_sfm"]


def stored_tokens(expected) -> TokenizedCells:
    """The cells of the golden as sfm has them: assay, start, genes."""
    cells, counts = [], []
    for assay, ids, values in zip(
        expected["aux_token_indices"], expected["gene_token_indices"], expected["gene_counts"], strict=True
    ):
        n_genes = int((ids != PAD).sum())
        cells.append([N_ROWS + assay[0], START, *ids[:n_genes]])
        counts.append([1, 1, *values[:n_genes]])
    indptr = np.cumsum([0, *map(len, cells)])
    return TokenizedCells(np.concatenate(cells), indptr, values=np.concatenate(counts), max_length=SEQ_LEN + 2)


def run(pretrained, cells, function) -> np.ndarray:
    network = pretrained.model
    return run_tokens(network, lambda minibatch: (function(network, **minibatch),), cells, pad_id=PAD, doing="Testing")[
        0
    ]


def write_table(path, genes, *, size=24, seed=0) -> np.ndarray:
    """Write a table of proteins, and return it."""
    proteins = np.random.default_rng(seed).normal(size=(len(genes), size)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file["keys"] = [gene.encode() for gene in genes]
        for gene, protein in zip(genes, proteins, strict=True):
            file[f"arrays/{gene}"] = protein
    return proteins


def plain_vector(weights, assay, tokens, counts, *, seq_len, n_heads, start=START, table=None) -> torch.Tensor:
    """One cell at the full length, as the paper's network is written down: no blocks, no cropping."""
    w = dict(weights)
    table = w["gene_embeddings.embedding.weight"] if table is None else table
    tokens = torch.tensor([start, *tokens, *[PAD] * seq_len])[:seq_len]
    counts = torch.tensor([1.0, *map(float, counts), *[0.0] * seq_len])[:seq_len]
    norm = torch.nn.functional.layer_norm
    mlp, size = "gene_embeddings.mlp.layers.", w["aux_embeddings.assay.weight"].shape[1]
    x = torch.relu(table[tokens] @ w[f"{mlp}0.weight"].T + w[f"{mlp}0.bias"])
    x = norm(x, (size,), w[f"{mlp}2.weight"], w[f"{mlp}2.bias"]) @ w[f"{mlp}4.weight"].T + w[f"{mlp}4.bias"]
    x = torch.cat([w["aux_embeddings.assay.weight"][[assay]], x])
    valid = torch.cat([torch.tensor([assay != 0]), tokens != PAD])
    bias = torch.log(1 + torch.cat([torch.ones(1), counts]) + 1e-6)
    allowed = valid & torch.ones(seq_len + 1, seq_len + 1).tril().bool()
    i = 0
    while f"transformer_encoder.encoder_layers.{i}.norm1.weight" in w:
        of = {k.split(f"layers.{i}.")[1]: v for k, v in w.items() if f"encoder_layers.{i}." in k}
        x = norm(x, (size,), of["norm1.weight"], of["norm1.bias"])
        q, k, v = ((x @ of[f"self_attn.linears.{j}.weight"].T).view(-1, n_heads, size // n_heads).mT for j in range(3))
        scores = torch.einsum("qdh,kdh->hqk", q, k) / math.sqrt(size // n_heads) + bias
        weight = (10 * torch.tanh(scores / 10)).masked_fill(~allowed, -torch.inf).softmax(-1).nan_to_num()
        mixed = torch.einsum("hqk,kdh->qhd", weight, v).reshape(-1, size)
        x = x + mixed @ of["self_attn.linears.3.weight"].T
        x = norm(x, (size,), of["norm2.weight"], of["norm2.bias"])
        x = x + torch.nn.functional.gelu(x @ of["linear1.weight"].T) @ of["linear2.weight"].T
        i += 1
    return x[1:][tokens != PAD].sum(0) / seq_len


def weights_of(folder) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model_weights.pt", weights_only=True)


def two_species(folder) -> list[str]:
    """Make the model one of two species, and return the genes of the second."""
    mouse = ["ENSMUSG00000032093", "ENSMUSG00000053977", "ENSMUSG00000026395"]  # Cd3e, Cd8a, Ptprc
    proteins = torch.tensor(write_table(folder / "vocabs" / "mus_musculus_gene.h5", mouse))
    config = json.loads((folder / "config.json").read_text())
    config["model"]["data_config"]["esm2_mappings"].append("mus_musculus_gene.h5")
    (folder / "config.json").write_text(json.dumps(config))
    weights = weights_of(folder)
    weights["gene_embeddings.embedding.weight"] = torch.cat([weights["gene_embeddings.embedding.weight"], proteins])
    for name in ("mu.gene_embedding.weight", "gene_id_head.layers.4.weight", "gene_id_head.layers.4.bias"):
        weights[name] = torch.cat([weights[name], torch.ones_like(weights[name][:3])])
    torch.save(weights, folder / "model_weights.pt")
    return mouse


def test_tokens_and_counts_are_those_of_the_reference(expected, adata, reference):
    ours, theirs = tokens_of(reference, adata), stored_tokens(expected)
    np.testing.assert_array_equal(ours.indptr, theirs.indptr)
    np.testing.assert_array_equal(ours.input_ids, theirs.input_ids)
    np.testing.assert_array_equal(ours.values, theirs.values)
    assert ours.lengths.max() == SEQ_LEN + 2  # some cells have more genes than fit


def test_stored_tokens_give_the_vectors_of_the_reference(expected, sound):
    ours = embed_tokens(sound.model, stored_tokens(expected), pad_id=PAD)
    np.testing.assert_allclose(ours, expected["embeddings"], **CLOSE)


@pytest.mark.filterwarnings(EMPTY)
@pytest.mark.parametrize("batch_size", [1, 5, "auto"])
def test_cells_give_the_vectors_of_the_reference(expected, adata, reference, batch_size):
    np.testing.assert_allclose(vectors_of(reference, adata, batch_size=batch_size), expected["embeddings"], **CLOSE)


@pytest.mark.filterwarnings(EMPTY)
def test_the_mean_of_proteins_is_that_of_the_reference(expected, adata):
    baseline = sfm.load(GOLDEN / "checkpoint", kind="esm2ce", reference=True)
    del adata.obs["assay"]  # of which it has no use
    np.testing.assert_allclose(vectors_of(baseline, adata), expected["esm2ce_embeddings"], **CLOSE)


def test_likelihoods_are_those_of_the_reference(expected, reference, adata):
    ours = run(reference, tokens_of(reference, adata), negative_log_likelihood)
    np.testing.assert_allclose(ours, expected["llh"], **CLOSE)
    assert np.isnan(ours).tolist() == [True] + [False] * 15  # as theirs, a cell without genes has none


def test_contextual_gene_embeddings_are_those_of_the_reference(expected, adata, reference):
    cells = tokens_of(reference, adata)
    names = dict(zip(reference.vocabulary.token_ids.tolist(), reference.vocabulary.gene_ids, strict=True))
    of_cell = expected["cge_cell_indices"]
    with torch.inference_mode():
        for i in range(len(cells)):
            one = cells[i]
            vectors, genes = reference.model.gene_vectors(
                one.input_ids[None], one.attention_mask[None], one.values[None]
            )
            np.testing.assert_allclose(vectors, expected["cge_embeddings"][of_cell == i], **CLOSE)
            wanted = [name.decode() for name in expected["cge_gene_names"][of_cell == i]]
            assert [names[gene] for gene in genes.tolist()] == wanted


def test_genes_are_embedded_in_context_and_before_any(adata, sound):
    sfm.tl.embed_genes(adata, sound)
    known = np.isfinite(adata.varm["X_sfm_genes"]).all(axis=1)
    assert 80 < known.sum() <= 90
    sfm.tl.embed_genes(adata, sound, kind="static")
    w = weights_of(GOLDEN / "checkpoint")
    row = sound.vocabulary.token_ids[sound.vocabulary.gene_ids.index(adata.var_names[1])]
    mlp = "gene_embeddings.mlp.layers."
    x = torch.relu(w["gene_embeddings.embedding.weight"][row] @ w[f"{mlp}0.weight"].T + w[f"{mlp}0.bias"])
    x = torch.nn.functional.layer_norm(x, (32,), w[f"{mlp}2.weight"], w[f"{mlp}2.bias"])
    np.testing.assert_allclose(adata.varm["X_sfm_genes"][1], x @ w[f"{mlp}4.weight"].T + w[f"{mlp}4.bias"], **CLOSE)


@pytest.mark.filterwarnings(EMPTY)
def test_default_and_reference_differ_as_documented(expected, adata, sound):
    difference = np.abs(vectors_of(sound, adata) - expected["embeddings"]).max(axis=1)
    few = (expected["gene_token_indices"] != PAD).sum(axis=1) < 2
    assert difference[few].max() < 1e-5  # one gene has one order
    assert 2.0 < difference.max() < 2.1
    assert 1.0 < np.median(difference[~few]) < 1.05
    # With columns in the order of the tokens, only cells with more genes than fit differ.
    ordered = adata[:, np.argsort([name.split(".")[0] for name in adata.var_names])].copy()
    theirs = vectors_of(sfm.load(GOLDEN / "checkpoint", reference=True), ordered)
    difference = np.abs(vectors_of(sound, ordered) - theirs).max(axis=1)
    full = tokens_of(sound, adata).lengths == SEQ_LEN + 2
    assert difference[~full].max() < 1e-6
    assert 1.1 < difference[full].max() < 1.2


@pytest.mark.filterwarnings(EMPTY)
def test_by_default_a_vector_depends_on_the_cell_alone(adata, sound):
    vectors = vectors_of(sound, adata)
    order = np.random.default_rng(0).permutation(adata.n_vars)
    shuffled = adata[::-1, order].copy()
    np.testing.assert_allclose(vectors_of(sound, shuffled, batch_size=3)[::-1], vectors, atol=1e-5)
    np.testing.assert_allclose(vectors_of(sound, adata[4:6].copy(), batch_size=1), vectors[4:6], atol=1e-5)
    assert np.isfinite(vectors).all()
    assert np.abs(vectors[0]).max() > 0  # the token at the start alone


@pytest.mark.parametrize("keep_order", [False, True])
def test_the_type_of_the_matrix_does_not_matter(adata, sound, reference, keep_order):
    tokenizer = (reference if keep_order else sound).tokenizer
    token_ids = sfm.genes.align_genes(adata.var_names, sound.vocabulary).token_ids
    first = tokenizer(adata.X, token_ids)
    with_zeros = adata.X.tocoo()
    rows, columns = np.divmod(np.arange(16 * 105), 105)
    with_zeros = sparse.csr_matrix(
        (np.r_[with_zeros.data, np.zeros(rows.size)], (np.r_[with_zeros.row, rows], np.r_[with_zeros.col, columns])),
        shape=adata.shape,
    )
    unsorted = adata.X.copy()
    for row in range(16):
        own = slice(*unsorted.indptr[row : row + 2])
        unsorted.indices[own], unsorted.data[own] = unsorted.indices[own][::-1].copy(), unsorted.data[own][::-1].copy()
    unsorted.has_sorted_indices = False
    dense = adata.X.toarray()
    for counts in (dense, dense.astype(np.int64), adata.X.tocsc(), adata.X.astype(np.float64), with_zeros, unsorted):
        cells = tokenizer(counts, token_ids)
        np.testing.assert_array_equal(cells.input_ids, first.input_ids)
        np.testing.assert_array_equal(cells.values, first.values)
        np.testing.assert_array_equal(cells.indptr, first.indptr)
    assert len(tokenizer(dense[:0], token_ids)) == 0


def test_columns_of_one_gene_are_summed_before_clipping(sound):
    token_ids = sound.vocabulary.token_ids[[5, 2, 5]]
    cells = sound.tokenizer(np.array([[20.0, 1.0, 15.0]]), token_ids)
    assert cells.input_ids.tolist() == [START, token_ids[1], token_ids[0]]
    assert cells.values.tolist() == [1, 1, 30]


def test_full_cells_keep_the_highest_counts_in_the_order_of_tokens(sound):
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 4, size=(20, 90)).astype(float)
    token_ids = rng.permutation(sound.vocabulary.token_ids)
    cells = sound.tokenizer(counts, token_ids)
    for i in range(20):
        kept = cells[i].input_ids[1:].numpy()
        count_of = dict(zip(token_ids.tolist(), counts[i].tolist(), strict=True))
        ranked = sorted(
            (token for token in count_of if count_of[token] > 0), key=lambda token: (-count_of[token], token)
        )
        assert kept.tolist() == sorted(ranked[:SEQ_LEN])
        assert cells[i].values[1:].tolist() == [count_of[token] for token in kept.tolist()]


@pytest.mark.parametrize("n_scores", [1, 1 << 30])
def test_attention_in_blocks_is_that_of_the_whole(folder, monkeypatch, n_scores):
    monkeypatch.setitem(_transcriptformer_backbone._MAX_SCORES, "cpu", n_scores)
    config = json.loads((folder / "config.json").read_text())
    config["model"]["model_config"]["seq_len"] = 80
    (folder / "config.json").write_text(json.dumps(config))
    pretrained = sfm.load(folder)
    rng = np.random.default_rng(2)
    genes = [np.sort(rng.choice(np.arange(7, N_ROWS), size=n, replace=False)) for n in (60, 1, 80, 17)]
    counts = [rng.integers(1, 31, size=len(ids)).astype(float) for ids in genes]
    ids = np.concatenate([[N_ROWS + 2 * (i % 2), START, *ids] for i, ids in enumerate(genes)])
    values = np.concatenate([[1, 1, *of_cell] for of_cell in counts])
    cells = TokenizedCells(ids, np.cumsum([0, *(len(i) + 2 for i in genes)]), values=values, max_length=82)
    ours = embed_tokens(pretrained.model, cells, pad_id=PAD, batch_size=4)
    for i, (of_cell, of_counts) in enumerate(zip(genes, counts, strict=True)):
        plain = plain_vector(weights_of(folder), 2 * (i % 2), of_cell, of_counts, seq_len=80, n_heads=4)
        np.testing.assert_allclose(ours[i], plain, **CLOSE)


@pytest.mark.filterwarnings(EMPTY)
def test_an_assay_that_is_not_known_is_like_none(adata, sound):
    vectors = vectors_of(sound, adata)
    unknown = adata.copy()
    unknown.obs["assay"] = "unknown"
    without = vectors_of(sound, unknown)
    np.testing.assert_allclose(without[3:5], vectors[3:5], atol=1e-6)  # neither is listed
    assert np.abs(without[1] - vectors[1]).max() > 0.01
    missing = adata.copy()
    missing.obs["assay"] = missing.obs["assay"].astype("category").cat.set_categories(["Drop-seq"])
    np.testing.assert_allclose(vectors_of(sound, missing)[1], without[1], atol=1e-6)


@pytest.mark.filterwarnings("default:adata.obs:UserWarning", EMPTY)
def test_a_missing_or_unlisted_assay_is_reported_once_and_unknown_is_not(adata, recwarn):
    def reports() -> list[str]:
        found = [str(warning.message) for warning in recwarn.list if "assay" in str(warning.message)]
        recwarn.clear()
        return found

    unlisted = sfm.load(GOLDEN / "checkpoint")
    tokens_of(unlisted, adata)
    (report,) = reports()
    assert "adata.obs['assay'] has 'not-an-assay', which is not known" in report
    without = adata.copy()
    del without.obs["assay"]
    pretrained = sfm.load(GOLDEN / "checkpoint")
    vectors = vectors_of(pretrained, without, batch_size=3)
    (report,) = reports()
    assert "adata.obs has no column 'assay'" in report
    assert """Set it to a name that the model knows, for example adata.obs['assay'] = "10x 3' v3",""" in report
    vectors_of(pretrained, without)
    without.obs["assay"] = "unknown"
    fresh = sfm.load(GOLDEN / "checkpoint")
    np.testing.assert_allclose(vectors_of(fresh, without), vectors, atol=1e-6)
    without.obs["assay"] = np.nan
    np.testing.assert_allclose(vectors_of(fresh, without), vectors, atol=1e-6)
    assert reports() == []


@pytest.mark.filterwarnings(EMPTY)
@pytest.mark.parametrize("options", [{}, {"reference": True}, {"kind": "esm2ce"}])
def test_saving_in_our_layout_keeps_tokens_and_vectors(adata, tmp_path, options):
    pretrained = sfm.load(GOLDEN / "checkpoint", **options)
    pretrained.save_pretrained(tmp_path)
    again = sfm.load(tmp_path)
    assert again.vocabulary == pretrained.vocabulary
    np.testing.assert_array_equal(tokens_of(again, adata).input_ids, tokens_of(pretrained, adata).input_ids)
    np.testing.assert_array_equal(vectors_of(again, adata), vectors_of(pretrained, adata))
    if "kind" not in options:
        cells = tokens_of(again, adata)
        likelihoods = [run(model, cells, negative_log_likelihood) for model in (again, pretrained)]
        np.testing.assert_array_equal(*likelihoods)


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
    assert not any("embedder.genes" in name for name in changed)  # the proteins are never trained
    assert set(model.predict()) <= {"even", "odd"}


@pytest.mark.filterwarnings(EMPTY)
def test_the_next_gene_is_predicted_by_the_published_head(adata, sound, tmp_path):
    pretrained = sfm.load(GOLDEN / "checkpoint", gene_head=True)
    np.testing.assert_array_equal(vectors_of(pretrained, adata), vectors_of(sound, adata))
    cell = tokens_of(sound, adata)[5]
    minibatch = [cell.input_ids[None], cell.attention_mask[None], cell.values[None]]
    with torch.inference_mode():
        output = pretrained.model(*minibatch)
    w = weights_of(GOLDEN / "checkpoint")
    x = torch.relu(output.last_hidden_state @ w["gene_id_head.layers.0.weight"].T + w["gene_id_head.layers.0.bias"])
    x = torch.nn.functional.layer_norm(x, (32,), w["gene_id_head.layers.2.weight"], w["gene_id_head.layers.2.bias"])
    logits = x @ w["gene_id_head.layers.4.weight"].T + w["gene_id_head.layers.4.bias"]
    torch.testing.assert_close(output.logits, 10 * torch.tanh(logits / 10), **CLOSE)
    model = sfm.model.CausalCellModel.from_pretrained(pretrained, adata)
    started = model.module.network.head.project[4].weight
    torch.testing.assert_close(started, w["gene_id_head.layers.4.weight"])
    model.train(max_epochs=1, **TRAIN)
    assert all(np.isfinite(values.to_numpy(dtype=float)).all() for values in model.history.values())


def joint_loss(module, cells, rows) -> tuple[float, float, float]:
    """Loss of the module on some cells, and its two parts worked out from the head's logits and the log-likelihood."""
    minibatch = collate(cells, rows, pad_id=PAD)
    network = module.network.eval()
    example = module.make_example(minibatch)
    with torch.inference_mode():
        plain = network(**{**example, "labels": None})
        likelihood = negative_log_likelihood(network.cell, **minibatch)
        n_genes = network.cell.is_gene(minibatch["input_ids"], minibatch["attention_mask"]).sum(dim=1)
        of_genes = n_targets = 0.0
        for i, length in enumerate(example["attention_mask"].sum(dim=1).tolist()):
            targets = example["input_ids"][i, 2:length]  # after the assay and the start: genes, and the end
            logits = plain.logits[i, 1 : length - 1]
            of_genes += torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
            n_targets += length - 2
        of_counts = (likelihood.nan_to_num() * n_genes).sum() / n_targets
        whole = module.eval()(minibatch)[2].loss
    return float(whole), float(of_counts), float(of_genes / n_targets)


@pytest.mark.filterwarnings(EMPTY)
@pytest.mark.parametrize("weight", [1.0, 0.25])
@pytest.mark.parametrize("max_tokens", [None, 40], ids=["at once", "in parts"])
def test_training_minimises_counts_and_genes_with_the_weight_of_the_checkpoint(
    folder, adata, weight, max_tokens, monkeypatch
):
    config = json.loads((folder / "config.json").read_text())
    config["model"]["loss_config"] = {"gene_id_loss_weight": weight, "softplus_approx": True}
    (folder / "config.json").write_text(json.dumps(config))
    model = sfm.model.CausalCellModel.from_pretrained(sfm.load(folder, gene_head=True), adata)
    monkeypatch.setattr(type(model.module), "max_tokens", max_tokens)
    loss, of_counts, of_genes = joint_loss(model.module, tokens_of(model.as_pretrained(), adata), np.arange(16))
    assert loss == pytest.approx(of_counts + weight * of_genes, rel=1e-5)
    assert min(abs(of_counts), of_genes) > 0.1


@pytest.mark.filterwarnings(EMPTY)
def test_one_cell_has_minus_its_log_likelihood_in_the_loss(adata):
    pretrained = sfm.load(GOLDEN / "checkpoint", gene_head=True)
    model = sfm.model.CausalCellModel.from_pretrained(pretrained, adata)
    cells = tokens_of(pretrained, adata)
    likelihoods = run(sfm.load(GOLDEN / "checkpoint"), cells, negative_log_likelihood)
    for row in (5, 9):
        loss, _, of_genes = joint_loss(model.module, cells, np.array([row]))
        n_genes = cells.lengths[row] - 2
        # One target of each cell, its end, has no count.
        assert (loss - of_genes) * (n_genes + 1) / n_genes == pytest.approx(likelihoods[row], rel=1e-4)


@pytest.mark.filterwarnings(EMPTY, PEFT)
@pytest.mark.parametrize("lora", [None, {"r": 4}], ids=["all weights", "lora"])
def test_training_lowers_the_loss_of_counts_and_that_of_genes(adata, tmp_path, lora):
    pretrained = sfm.load(GOLDEN / "checkpoint", gene_head=True)
    model = sfm.model.CausalCellModel.from_pretrained(pretrained, adata, lora=lora)
    cells = tokens_of(pretrained, adata)
    before = joint_loss(model.module, cells, np.arange(16))
    model.train(max_epochs=15, plan_kwargs={"lr": 1e-2 if lora else 3e-3}, **TRAIN)
    after = joint_loss(model.module, cells, np.arange(16))
    assert all(low < high - 0.02 for low, high in zip(after, before, strict=True)), (before, after)
    weights = model.module.network.state_dict()
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    proteins = next(tensor for name, tensor in weights.items() if "embedder.genes" in name)
    torch.testing.assert_close(proteins, weights_of(GOLDEN / "checkpoint")["gene_embeddings.embedding.weight"])
    model.save_pretrained(tmp_path)
    again = sfm.model.CausalCellModel.from_pretrained(tmp_path, adata)
    assert joint_loss(again.module, cells, np.arange(16)) == pytest.approx(after, rel=1e-4)


def test_models_without_counts_learn_genes_alone():
    adata = sfm.datasets.toy_cells()
    sfm.model.CausalCellModel.setup_anndata(adata, max_length=16)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    module = sfm.model.CausalCellModel(adata, **sizes).module
    assert not module.network._forward_hooks


def test_one_species_of_several_is_known_by_symbols(folder, adata):
    mouse = two_species(folder)
    both = sfm.load(folder)
    assert both.vocabulary.species is None
    assert len(both.vocabulary) == 93
    only = sfm.load(folder, species="mouse")
    assert only.vocabulary.gene_ids == tuple(mouse)
    assert only.vocabulary.species == "mouse"
    cells = ad.AnnData(np.array([[3.0, 1.0, 2.0, 1.0], [0.0, 1.0, 5.0, 0.0]], dtype=np.float32))
    cells.var_names, cells.obs["assay"] = [*mouse, "ENSMUSG99999999999"], "Drop-seq"
    by_symbol = cells.copy()
    by_symbol.var_names = ["Cd3e", "Cd8a", "Ptprc", "unheard-of"]
    np.testing.assert_allclose(vectors_of(only, cells), vectors_of(both, cells), atol=1e-6)
    np.testing.assert_allclose(vectors_of(only, by_symbol), vectors_of(both, cells), atol=1e-6)
    likelihoods = [run(model, tokens_of(model, cells), negative_log_likelihood) for model in (only, both)]
    np.testing.assert_allclose(*likelihoods, atol=1e-6)
    human = sfm.load(folder, species="homo_sapiens")
    assert human.vocabulary == sfm.load(GOLDEN / "checkpoint").vocabulary
    with pytest.raises(ValueError, match="species='zebrafish', but this model knows 'homo_sapiens', 'mus_musculus'"):
        sfm.load(folder, species="zebrafish")


@pytest.mark.parametrize("numbering", ["consistent", "published"])
def test_a_new_species_is_read_with_either_numbering(tmp_path, numbering):
    genes = [f"ENSDARG{i:011d}" for i in range(1, 21)]
    proteins = write_table(tmp_path / "danio_rerio_gene.h5", genes, seed=3)
    published = numbering == "published"
    pretrained = sfm.load(
        GOLDEN / "checkpoint", species_embeddings=tmp_path / "danio_rerio_gene.h5", reference=published
    )
    counts = np.zeros((3, 20), dtype=np.float32)
    counts[0, [3, 7, 11]], counts[1, 5] = [2, 40, 1], 3
    cells = ad.AnnData(counts)
    cells.var_names, cells.obs["assay"] = genes, ["Drop-seq", "unknown", "Drop-seq"]
    with pytest.warns(UserWarning, match="1 of 3 cells") if not published else np.errstate():
        ours = vectors_of(pretrained, cells)
    weights = weights_of(GOLDEN / "checkpoint")
    special = weights["gene_embeddings.embedding.weight"][:7]
    # The authors write [START], [END], ..., [PAD] as 1, 2, ..., 5, and their model hides 1 and starts with 2.
    rows = special[[0, 2, 3, 4, 5, 1, 6]] if published else special
    table = torch.cat([rows, torch.tensor(proteins)])
    tokens = [[10, 14, 18], [12], []]
    values = [[2.0, 30.0, 1.0], [3.0], []]
    filled = [[*ids, *[5] * (SEQ_LEN - len(ids))] for ids in tokens] if published else tokens
    padded = [[*of_cell, *[0.0] * (len(ids) - len(of_cell))] for ids, of_cell in zip(filled, values, strict=True)]
    for i, assay in enumerate([4, 0, 4]):
        plain = plain_vector(weights, assay, filled[i], padded[i], seq_len=SEQ_LEN, n_heads=4, table=table)
        np.testing.assert_allclose(ours[i], plain, **CLOSE)
    pretrained.save_pretrained(tmp_path / "saved")
    with pytest.warns(UserWarning, match="1 of 3 cells") if not published else np.errstate():
        np.testing.assert_array_equal(vectors_of(sfm.load(tmp_path / "saved"), cells), ours)


def test_tables_of_another_protein_model_are_refused(tmp_path):
    write_table(tmp_path / "danio_rerio_gene.h5", ["ENSDARG00000000001"], size=12)
    with pytest.raises(ValueError, match="embeddings of 12 dims, the model reads 24"):
        sfm.load(GOLDEN / "checkpoint", species_embeddings=tmp_path / "danio_rerio_gene.h5")
    with pytest.raises(FileNotFoundError, match=r"Did not find 'elsewhere.h5'"):
        sfm.load(GOLDEN / "checkpoint", species_embeddings=tmp_path / "elsewhere.h5")


@pytest.mark.parametrize(
    ("file", "match"),
    [
        ("model_weights.pt", "Did not find 'model_weights.pt'"),
        ("vocabs/homo_sapiens_gene.h5", "Did not find 'homo_sapiens_gene.h5'"),
        ("vocabs/assay_vocab.json", "Did not find 'assay_vocab.json'.*values of 'assay'"),
    ],
)
def test_a_missing_file_is_named(folder, file, match):
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=match):
        sfm.load(folder)


@pytest.mark.parametrize("file", ["model_weights.pt", "vocabs/homo_sapiens_gene.h5", "vocabs/assay_vocab.json"])
def test_a_truncated_file_is_named(folder, file):
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{Path(file).name}.*truncated"):
        sfm.load(folder)


def test_genes_of_another_model_are_refused(folder):
    write_table(folder / "vocabs" / "homo_sapiens_gene.h5", ["ENSG00000000003", "ENSG00000001629"])
    with pytest.raises(ValueError, match="has rows for 97 genes and special tokens, but the tables .* have 9"):
        sfm.load(folder)


def test_a_partial_checkpoint_is_refused(folder):
    weights = weights_of(folder)
    del weights["transformer_encoder.encoder_layers.1.linear1.weight"]
    torch.save(weights, folder / "model_weights.pt")
    with pytest.raises(ValueError, match=r"1 missing \(backbone.layers.1.up.weight\)"):
        sfm.load(folder)


def test_malicious_weights_are_not_executed(folder, tmp_path):
    marker = tmp_path / "executed"

    class Malicious:
        def __reduce__(self):
            return Path.touch, (marker,)

    torch.save({"mu": Malicious()}, folder / "model_weights.pt")
    with pytest.raises(ValueError, match="nothing was executed or loaded"):
        sfm.load(folder)
    assert not marker.exists()


def test_unknown_options_and_other_families_are_named(sound):
    with pytest.raises(TypeError, match="TranscriptFormer has no option 'layer'.*species_embeddings"):
        sfm.load(GOLDEN / "checkpoint", layer=1)
    with pytest.raises(ValueError, match="predicts no genes"):
        sfm.load(GOLDEN / "checkpoint", kind="esm2ce", gene_head=True)
    with pytest.raises(ValueError, match="Unknown kind='esm3'"):
        sfm.load(GOLDEN / "checkpoint", kind="esm3")
    with pytest.raises(ValueError, match="a checkpoint of TranscriptFormer: pass family='transcriptformer'"):
        sfm.load(GOLDEN / "checkpoint", family="geneformer")
    with pytest.raises(ValueError, match="reads tokens with their counts"):
        sound.model(torch.tensor([[START, 8]]), torch.ones(1, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="gene_ids holds 3, which is no gene"):
        sound.tokenizer(np.ones((1, 1)), np.array([3]))


@pytest.mark.filterwarnings(EMPTY)
def test_likelihoods_of_cells_are_written_to_obs(expected, adata, reference):
    sfm.tl.log_likelihood(adata, reference)
    np.testing.assert_allclose(adata.obs["sfm_llh"], expected["llh"], **CLOSE)
    assert adata.uns["sfm_llh"]["params"]["model"] == str(GOLDEN / "checkpoint")
    with pytest.raises(TypeError, match="has no likelihood of counts"):
        sfm.tl.log_likelihood(adata, "sfm-mini")
