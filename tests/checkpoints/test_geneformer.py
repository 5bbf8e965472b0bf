"""Geneformer V1 and V2 in their published layout, against the reference's own tokens, vectors and logits."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch

import sfm
from sfm.inference import embed_tokens
from sfm.tokenizers import TokenizedCells

GOLDENS = Path(__file__).parents[1] / "goldens" / "geneformer"
IDS = {"gene_symbols": "ensembl_id"}
EMPTY = "ignore:.*have no count on a known gene"


@pytest.fixture(scope="module", params=["A_v1", "A_v2"])
def golden(request: pytest.FixtureRequest) -> Path:
    return GOLDENS / request.param


@pytest.fixture(scope="module")
def expected(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "expected.npz"))


@pytest.fixture
def adata(golden: Path) -> ad.AnnData:
    return ad.read_h5ad(golden / "input.h5ad")


def stored_tokens(expected: dict[str, np.ndarray]) -> TokenizedCells:
    ids = expected["input_ids"]
    return TokenizedCells(
        ids[ids >= 0], np.concatenate([[0], np.cumsum((ids >= 0).sum(axis=1))]), max_length=ids.shape[1]
    )


def test_tokens_are_those_of_the_reference_where_no_scores_tie(golden, expected, adata):
    sfm.pp.tokenize(adata, sfm.load(golden / "model", reference=True), **IDS)
    tokens = adata.obsm["tokens"][expected["input_row"]]
    for row, ids, scores, tie_free in zip(
        tokens, expected["input_ids"], expected["scores"], expected["tie_free"], strict=True
    ):
        theirs = ids[ids >= 0]
        assert row.nnz == theirs.size
        if tie_free:
            np.testing.assert_array_equal(row.data, theirs)
        elif row.nnz < ids.size:  # nothing was cut, so ties can only change the order
            assert sorted(row.data) == sorted(theirs)
        assert np.all(np.diff(scores[~np.isnan(scores)]) <= 0)
    assert expected["tie_free"].sum() >= 6


@pytest.mark.parametrize("hidden_layer", [-2, -1])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_those_of_the_reference(golden, expected, hidden_layer, pooling):
    name = f"emb_{'cell' if pooling == 'mean' else 'cls'}_layer{hidden_layer + 1}"
    if name not in expected:
        pytest.skip("V1 has no <cls>")
    pretrained = sfm.load(golden / "model", hidden_layer=hidden_layer)
    vectors = embed_tokens(pretrained.model, stored_tokens(expected), pad_id=0, pooling=pooling)
    np.testing.assert_allclose(vectors, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings(EMPTY)
def test_cells_are_embedded_as_recommended_from_counts(golden, expected, adata):
    sfm.tl.embed(adata, sfm.load(golden / "model", reference=True), **IDS)
    mode = "cls" if "emb_cls_layer-1" in expected else "cell"
    clear = expected["tie_free"]
    rows = expected["input_row"][clear]
    np.testing.assert_allclose(adata.obsm["X_sfm"][rows], expected[f"emb_{mode}_layer-1"][clear], rtol=1e-4, atol=1e-5)


def test_logits_and_hidden_states_are_those_of_the_reference(golden, expected):
    model = sfm.load(golden / "model").model
    ids, mask = torch.tensor(expected["probe_input_ids"]), torch.tensor(expected["probe_attention_mask"])
    with torch.inference_mode():
        output = model(ids, mask, output_hidden_states=True)
    seen = mask.bool().numpy()
    np.testing.assert_allclose(output.logits.numpy()[seen], expected["probe_mlm_logits"][seen], rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(output.hidden_states, expected["probe_hidden_states"], strict=True):
        np.testing.assert_allclose(ours.numpy()[seen], theirs[seen], rtol=1e-4, atol=1e-5)


def test_gene_vectors_are_means_over_the_cells_that_have_the_gene(golden, expected):
    pretrained = sfm.load(golden / "model")
    cells, token_of = (
        stored_tokens(expected),
        dict(zip(pretrained.vocabulary.gene_ids, pretrained.vocabulary.token_ids, strict=True)),
    )
    from sfm.inference._genes import _Means

    means = _Means(pretrained.vocabulary.size)
    with torch.inference_mode():
        for i in range(len(cells)):
            cell = cells[i]
            means.add(*pretrained.model.cell.gene_vectors(cell.input_ids[None], cell.attention_mask[None]))
    found = means.result()
    genes = [gene for gene in expected["gene_emb_ids"] if gene in token_of]
    ours = found.of(np.array([token_of[gene] for gene in genes]))
    theirs = expected["gene_emb_layer-1"][np.isin(expected["gene_emb_ids"], genes)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert len(genes) >= 60


@pytest.mark.filterwarnings(EMPTY)
def test_by_default_versions_and_previous_names_of_genes_change_nothing(golden, adata):
    pretrained = sfm.load(golden / "model")
    sfm.tl.embed(adata, pretrained, **IDS)
    renamed = adata.copy()
    renamed.var["ensembl_id"] = [f"{name.split('.')[0]}.7" for name in renamed.var["ensembl_id"]]
    shuffled = renamed[::-1, np.random.default_rng(0).permutation(renamed.n_vars)].copy()
    sfm.tl.embed(shuffled, pretrained, batch_size=3, **IDS)
    np.testing.assert_allclose(shuffled.obsm["X_sfm"][::-1], adata.obsm["X_sfm"], atol=1e-5)


@pytest.mark.filterwarnings(EMPTY)
def test_saving_in_our_layout_keeps_tokens_and_vectors(golden, adata, tmp_path):
    pretrained = sfm.load(golden / "model")
    pretrained.save_pretrained(tmp_path)
    again = sfm.load(tmp_path)
    assert again.vocabulary == pretrained.vocabulary
    sfm.tl.embed(adata, pretrained, key_added="first", **IDS)
    sfm.tl.embed(adata, again, key_added="second", **IDS)
    np.testing.assert_array_equal(adata.obsm["first"], adata.obsm["second"])
    sfm.pp.tokenize(adata, again, **IDS)
    sfm.tl.embed(adata, again, tokens_key="tokens", key_added="third")
    np.testing.assert_array_equal(adata.obsm["first"], adata.obsm["third"])


def test_pickled_weights_are_the_same_weights(tmp_path):
    golden = GOLDENS / "A_v1"
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "pytorch_model.bin"):
        shutil.copy(golden / "model" / name, folder)
    shutil.copytree(golden / "dicts", tmp_path / "dicts")
    first, second = sfm.load(folder), sfm.load(golden / "model")
    assert first.params()["weights_hash"] == second.params()["weights_hash"]


@pytest.mark.parametrize("kind", ["Sequence", "Token"])
def test_fine_tuned_classifiers_give_the_logits_of_transformers(golden, expected, tmp_path, kind):
    import transformers

    settings = json.loads((golden / "model" / "config.json").read_text())
    config = transformers.BertConfig(
        **{**settings, "id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    )
    torch.manual_seed(0)
    theirs = getattr(transformers, f"BertFor{kind}Classification")(config).eval()
    theirs.save_pretrained(tmp_path / "model")
    shutil.copytree(golden / "dicts", tmp_path / "dicts")
    ours = sfm.load(tmp_path / "model").model
    ids, mask = torch.tensor(expected["probe_input_ids"]), torch.tensor(expected["probe_attention_mask"])
    with torch.inference_mode():
        wanted, found = theirs(input_ids=ids, attention_mask=mask).logits, ours(ids, mask).logits
    keep = slice(None) if kind == "Sequence" else mask.bool()
    torch.testing.assert_close(found[keep], wanted[keep], rtol=1e-4, atol=1e-5)
    assert ours.config.id2label == {0: "a", 1: "b", 2: "c"}


@pytest.mark.filterwarnings(EMPTY)
def test_a_fine_tuned_classifier_is_trained_on_from_its_own_output_layer(golden, adata, tmp_path):
    import transformers

    settings = json.loads((golden / "model" / "config.json").read_text())
    names = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    transformers.BertForSequenceClassification(transformers.BertConfig(**settings | names)).save_pretrained(
        tmp_path / "model"
    )
    assert "problem_type" not in json.loads((tmp_path / "model" / "config.json").read_text())
    shutil.copytree(golden / "dicts", tmp_path / "dicts")
    pretrained = sfm.load(tmp_path / "model")
    adata.obs["kind"] = ["a", "c"] * (adata.n_obs // 2)
    model = sfm.model.CellClassifier.from_pretrained(pretrained, adata, labels_key="kind", gene_symbols="ensembl_id")
    own = model.module.network.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in pretrained.model.state_dict().items())


@pytest.mark.filterwarnings(EMPTY)
@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_it_is_fine_tuned_to_label_cells(golden, adata, lora):
    adata.obs["kind"] = ["even", "odd"] * (adata.n_obs // 2)
    pretrained = sfm.load(golden / "model")
    model = sfm.model.CellClassifier.from_pretrained(
        pretrained, adata, labels_key="kind", gene_symbols="ensembl_id", lora=lora
    )
    before = {name: tensor.clone() for name, tensor in model.module.network.state_dict().items()}
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    after = model.module.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    body = {name for name in changed if name.startswith("cell.")}
    assert body
    assert all(".lora_" in name for name in body) == (lora is not None)
    assert set(model.predict()) <= {"even", "odd"}


@pytest.mark.filterwarnings(EMPTY)
def test_its_pretraining_goes_on(adata, golden):
    model = sfm.model.MaskedCellModel.from_pretrained(sfm.load(golden / "model"), adata, gene_symbols="ensembl_id")
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    assert type(model.module.network.head).__name__ == "GeneformerHead"
    assert all(np.isfinite(values.to_numpy(dtype=float)).all() for values in model.history.values())


def test_dictionaries_of_another_version_are_refused(tmp_path):
    shutil.copytree(GOLDENS / "A_v1" / "model", tmp_path / "model")
    shutil.copytree(GOLDENS / "A_v2" / "dicts", tmp_path / "dicts")
    with pytest.raises(ValueError, match="has 64 tokens, but the dictionaries found are .*gc104M.pkl' with 66"):
        sfm.load(tmp_path / "model")


def test_missing_dictionaries_are_named(tmp_path):
    shutil.copytree(GOLDENS / "A_v1" / "model", tmp_path / "model")
    with pytest.raises(FileNotFoundError, match="token_dictionary.*ctheodoris/Geneformer"):
        sfm.load(tmp_path / "model")
    shutil.copytree(GOLDENS / "A_v1" / "dicts", tmp_path / "elsewhere")
    assert sfm.load(tmp_path / "model", dictionaries=tmp_path / "elsewhere").vocabulary.size == 64
    (tmp_path / "elsewhere" / "gene_median_dictionary_gc30M.pkl").unlink()
    with pytest.raises(FileNotFoundError, match="gene_median_dictionary_gc30M.pkl"):
        sfm.load(tmp_path / "model", dictionaries=tmp_path / "elsewhere")


def test_a_malicious_dictionary_is_not_executed(tmp_path):
    shutil.copytree(GOLDENS / "A_v1" / "model", tmp_path / "model")
    shutil.copytree(GOLDENS / "A_v1" / "dicts", tmp_path / "dicts")
    marker = tmp_path / "executed"

    class Malicious:
        def __reduce__(self):
            return Path.touch, (marker,)

    path = tmp_path / "dicts" / "token_dictionary_gc30M.pkl"
    path.write_bytes(pickle.dumps({"<pad>": 0, "ENSG00000000003": Malicious()}, protocol=4))
    with pytest.raises(ValueError, match="was not executed"):
        sfm.load(tmp_path / "model")
    assert not marker.exists()


def test_malicious_and_truncated_weights_are_refused(tmp_path):
    (tmp_path / "model").mkdir()
    shutil.copy(GOLDENS / "A_v1" / "model" / "config.json", tmp_path / "model")
    shutil.copytree(GOLDENS / "A_v1" / "dicts", tmp_path / "dicts")
    marker = tmp_path / "executed"

    class Malicious:
        def __reduce__(self):
            return Path.touch, (marker,)

    weights = tmp_path / "model" / "pytorch_model.bin"
    torch.save({"bert": Malicious()}, weights)
    with pytest.raises(ValueError, match="more than tensors and plain objects"):
        sfm.load(tmp_path / "model")
    assert not marker.exists()
    whole = (GOLDENS / "A_v1" / "model" / "pytorch_model.bin").read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="may be truncated"):
        sfm.load(tmp_path / "model")


def test_unknown_options_and_other_families_are_named():
    with pytest.raises(TypeError, match="Geneformer has no option 'layer'.*hidden_layer"):
        sfm.load(GOLDENS / "A_v1" / "model", layer=1)
    with pytest.raises(ValueError, match="Unknown checkpoint family 'bert'"):
        sfm.load(GOLDENS / "A_v1" / "model", family="bert")
