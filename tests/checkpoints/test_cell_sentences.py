"""Language models over cell sentences: tiny ones, made here in the layout of transformers."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import sfm
from sfm.checkpoints._entries import CATALOGUE
from sfm.sentences import annotate, cell_sentences

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:.*knows few of the genes:UserWarning")

_GENES = ["CD3E", "MS4A1", "TMSB4X", "MT-CO1", "ACTB", "CD19", "MT-CO3", "MT-CO2"]
_TEMPLATE = "{organism} {n_genes} : {sentence} type"
_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_MODELS: dict[str, dict[str, Any]] = {
    "gpt_neox": {"max_position_embeddings": 64, "tie_word_embeddings": False},
    "llama": {"max_position_embeddings": 64, "num_key_value_heads": 1, "tie_word_embeddings": True},
    "gemma2": {
        "max_position_embeddings": 64,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "final_logit_softcapping": 2.0,
        "sliding_window": 8,
    },
}


def _text_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<unk>", "<bos>", "<eos>", ":", "type", "Homo", "sapiens", "T", "B", "cell", *map(str, range(10)), *_GENES]
    splitter = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    splitter.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    splitter.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=splitter, unk_token="<unk>", bos_token="<bos>", eos_token="<eos>")


def _language_model(kind: str) -> Any:
    from transformers import AutoConfig

    torch.manual_seed(1)
    config = AutoConfig.for_model(
        kind, vocab_size=28, bos_token_id=1, eos_token_id=2, pad_token_id=0, **_SIZES, **_MODELS[kind]
    )
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():  # or all vectors would be much alike
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def _save(directory: Path, kind: str) -> Path:
    _language_model(kind).save_pretrained(directory)
    _text_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="module", params=list(_MODELS))
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def neox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("neox"), "gpt_neox")


@pytest.fixture
def adata() -> ad.AnnData:
    counts = np.random.default_rng(0).poisson(2.0, (12, len(_GENES))).astype(np.float32)
    counts[3] = 0
    counts[4] = 1
    adata = ad.AnnData(sparse.csr_matrix(counts))
    adata.var_names = _GENES
    return adata


@pytest.fixture
def full(adata: ad.AnnData) -> ad.AnnData:
    return adata[adata.X.sum(axis=1).A1 > 0].copy()


def _vectors(adata: ad.AnnData, model: Any, **options: Any) -> np.ndarray:
    sfm.tl.embed(adata, model, key_added="X", **options)
    return adata.obsm["X"]


def test_sentences_are_symbols_by_falling_count_and_then_by_name(adata: ad.AnnData) -> None:
    cell_sentences(adata)
    counts = adata.X.toarray()
    expected = [
        " ".join(sorted((g for g, c in zip(_GENES, row, strict=True) if c), key=lambda g: (-row[_GENES.index(g)], g)))
        for row in counts
    ]
    assert adata.obs["cell_sentence"].tolist() == expected
    assert adata.obs["cell_sentence"].iloc[3] == ""


def test_sentences_do_not_depend_on_the_order_of_genes_or_how_they_are_named(adata: ad.AnnData) -> None:
    cell_sentences(adata)
    ids = sfm.genes.gene_tables().human.ids
    other = adata[:, ::-1].copy()
    other.var_names = [ids[name] for name in other.var_names]
    cell_sentences(other, key_added="other")
    assert other.obs["other"].tolist() == adata.obs["cell_sentence"].tolist()


def test_sentences_are_cut_to_n_genes_and_written_to_a_copy(adata: ad.AnnData) -> None:
    copy = cell_sentences(adata, n_genes=3, copy=True)
    assert copy is not None
    assert max(len(text.split()) for text in copy.obs["cell_sentence"]) == 3
    assert "cell_sentence" not in adata.obs


@pytest.mark.parametrize(("options", "message"), [({"n_genes": 0}, "n_genes=0"), ({"species": "fly"}, "species='fly'")])
def test_sentences_refuse_what_they_cannot_do(adata: ad.AnnData, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cell_sentences(adata, **options)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_vectors_are_those_of_transformers_with_one_cell_at_a_time(
    directory: Path, full: ad.AnnData, pooling: str
) -> None:
    pretrained = sfm.load(directory, template=_TEMPLATE, pooling=pooling)
    cell_sentences(full)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(directory),
        PreTrainedTokenizerFast.from_pretrained(directory),
    )
    expected = []
    for sentence in full.obs["cell_sentence"]:
        text = _TEMPLATE.format(organism="Homo sapiens", n_genes=len(sentence.split()), sentence=sentence)
        tokens = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            hidden = model.base_model(**tokens).last_hidden_state[0]
        expected.append(hidden.mean(dim=0) if pooling == "mean" else hidden[-1])
    np.testing.assert_allclose(_vectors(full, pretrained), torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_a_cell_has_the_same_vector_whatever_it_is_run_with(directory: Path, full: ad.AnnData) -> None:
    pretrained = sfm.load(directory, template=_TEMPLATE)
    vectors = _vectors(full, pretrained, batch_size=1)
    order = np.random.default_rng(1).permutation(full.n_obs)
    shuffled = full[order].copy()[:, ::-1].copy()
    np.testing.assert_allclose(_vectors(shuffled, pretrained, batch_size=5), vectors[order], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(_vectors(full[2:4].copy(), pretrained), vectors[2:4], rtol=1e-4, atol=1e-5)
    assert np.ptp(vectors, axis=0).max() > 1e-3


def test_a_cell_without_genes_is_all_zero_and_reported(neox: Path, adata: ad.AnnData) -> None:
    with pytest.warns(UserWarning, match="1 of 12 cells"):
        vectors = _vectors(adata, sfm.load(neox))
    assert not vectors[3].any()
    assert vectors[4].any()


def test_saved_models_come_back_with_the_same_vectors_tokens_and_logits(
    directory: Path, full: ad.AnnData, tmp_path: Path
) -> None:
    pretrained = sfm.load(directory, template=_TEMPLATE, n_genes=5)
    pretrained.save_pretrained(tmp_path)
    again = sfm.load(tmp_path)
    np.testing.assert_array_equal(_vectors(full.copy(), again), _vectors(full, pretrained))
    assert again.tokenizer.params() == pretrained.tokenizer.params()
    tokens = torch.tensor([[1, 20, 21]])
    with torch.no_grad():
        ours, theirs = (p.model(tokens, torch.ones_like(tokens)).logits for p in (again, pretrained))
    torch.testing.assert_close(ours, theirs)
    assert ours.shape == (1, 3, 28)


def test_texts_that_are_too_long_lose_their_last_genes(neox: Path, full: ad.AnnData) -> None:
    pretrained = sfm.load(neox, template=_TEMPLATE, max_length=8)
    sfm.pp.tokenize(full, pretrained)
    tokens = sfm.TokenizedCells.from_obsm(full.obsm["tokens"])
    assert tokens.lengths.max() <= 8
    assert (tokens.input_ids[tokens.indptr[1:] - 1] == 4).all()  # "type", the end of the template
    with pytest.raises(ValueError, match="template alone"):
        sfm.pp.tokenize(full, sfm.load(neox, template=_TEMPLATE, max_length=4))


def test_one_gene_is_a_sentence(neox: Path, full: ad.AnnData) -> None:
    pretrained = sfm.load(neox, template="{sentence}", n_genes=1)
    sfm.pp.tokenize(full, pretrained)
    assert set(np.diff(full.obsm["tokens"].indptr)) == {2}  # after "<bos>"


def _teach(directory: Path, sentences: list[str], answers: list[str]) -> None:
    """Train until the model answers."""
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(directory),
        PreTrainedTokenizerFast.from_pretrained(directory),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    texts = [f"{sentence} type {answer} <eos>" for sentence, answer in zip(sentences, answers, strict=True)]
    minibatch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right", return_token_type_ids=False)
    labels = minibatch["input_ids"].masked_fill(minibatch["attention_mask"] == 0, -100)
    for _ in range(150):
        loss = model(**minibatch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(directory)


def test_generated_answers_become_labels(tmp_path: Path) -> None:
    directory = _save(tmp_path / "lm", "gpt_neox")
    tokenizer = _text_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<unk>"})
    tokenizer.save_pretrained(directory)
    _teach(
        directory, ["CD3E ACTB", "CD3E MT-CO1 ACTB", "MS4A1 ACTB", "MS4A1 CD19 ACTB"], ["T cell"] * 2 + ["B cell"] * 2
    )
    counts = np.zeros((5, len(_GENES)), dtype=np.float32)
    for row, genes in enumerate([["CD3E", "ACTB"], ["MS4A1", "ACTB"], [], ["MS4A1", "CD19", "ACTB"], ["CD3E", "ACTB"]]):
        for rank, gene in enumerate(genes):
            counts[row, _GENES.index(gene)] = 5 - rank
    adata = ad.AnnData(counts, var={"names": _GENES})
    labels = ["B Cell.", "t cell"]
    alone = annotate(
        adata, directory, labels, template="{sentence} type", gene_symbols="names", batch_size=1, copy=True
    )
    annotate(adata, directory, labels, template="{sentence} type", gene_symbols="names")
    expected = ["t cell", "B Cell.", "unknown", "B Cell.", "t cell"]
    assert adata.obs["sentence_label"].tolist() == expected
    assert adata.obs["sentence_label_answer"].tolist() == ["T cell", "B cell", "", "B cell", "T cell"]
    assert alone is not None
    assert alone.obs["sentence_label"].tolist() == expected
    annotate(adata, sfm.load(directory), ["a"], gene_symbols="names", key_added="none", template="{sentence} type")
    assert set(adata.obs["none"]) == {"unknown"}


def test_labels_that_are_the_same_and_other_models_are_refused(neox: Path, full: ad.AnnData) -> None:
    with pytest.raises(ValueError, match="differ by more than case"):
        annotate(full, neox, ["T cell", "t cell."])
    with pytest.raises(TypeError, match="no language model over cell sentences"):
        annotate(full, "sfm-mini", ["T cell"])
    assert not len(full.obs.columns)


@pytest.mark.parametrize("lora", [None, {}])
def test_classifiers_are_trained_on_language_models(neox: Path, full: ad.AnnData, lora: Any) -> None:
    full.obs["label"] = np.where(np.arange(full.n_obs) % 2, "a", "b")
    before = {name: tensor.clone() for name, tensor in sfm.load(neox).model.state_dict().items()}
    classifier = sfm.model.CellClassifier.from_pretrained(neox, full, labels_key="label", lora=lora)
    classifier.train(max_epochs=1, train_size=0.8, accelerator="cpu", batch_size=4)
    own = classifier.module.network.state_dict()
    changed = [n for n, t in before.items() if n.startswith("cell.backbone") and n in own and not own[n].equal(t)]
    assert bool(changed) == (lora is None)
    assert (lora is None) != any(".lora_A." in name for name in own)
    assert len(classifier.predict()) == full.n_obs


@pytest.mark.parametrize("kind", ["static", "contextual"])
def test_words_are_not_taken_for_genes(neox: Path, full: ad.AnnData, kind: Any) -> None:
    with pytest.raises(TypeError, match="vectors of words"):
        sfm.tl.embed_genes(full, neox, kind=kind)


def test_a_template_without_the_sentence_is_refused(neox: Path) -> None:
    for template in ("c2s-small", "{sentence} {labels}"):
        with pytest.raises(
            ValueError, match="needs '{sentence}'.*For that of a published model, pass 'c2s-scale' or 'c2s'"
        ):
            sfm.load(neox, template=template)


# As on the card of C2S-Scale-Gemma-2-2B, and in the format of pythia-160m-c2s.
_PUBLISHED = {
    "c2s-scale": (
        "The following is a list of 3 gene names ordered by descending expression level in a Homo sapiens cell. Your task is "
        "to give the cell type which this cell belongs to based on its gene expression.\n"
        "Cell sentence: ACTB CD19 CD3E.\n"
        "The cell type corresponding to these genes is:"
    ),
    "c2s": (
        "Identify the cell type most likely associated with these 3 highly expressed genes listed in descending order. "
        "ACTB CD19 CD3E This is the cell type corresponding to these genes: "
    ),
}


@pytest.mark.parametrize("name", _PUBLISHED)
def test_a_cell_is_read_in_the_words_of_the_published_model(neox: Path, name: str) -> None:
    pretrained = sfm.load(neox, template=name)
    counts = np.zeros((1, len(_GENES)))
    counts[0, [_GENES.index(gene) for gene in ("ACTB", "CD19", "CD3E")]] = [9, 5, 1]
    ids = sfm.genes.align_genes(_GENES, pretrained.vocabulary).token_ids
    tokens = pretrained.tokenizer(counts, ids).input_ids.tolist()
    assert tokens == PreTrainedTokenizerFast.from_pretrained(neox)(_PUBLISHED[name])["input_ids"]
    assert (
        pretrained.tokenizer.template.format(sentence="ACTB CD19 CD3E", organism="Homo sapiens", n_genes=3)
        == (_PUBLISHED[name])
    )


def test_the_default_is_that_of_c2s_scale_with_the_species_named_as_there(neox: Path) -> None:
    assert sfm.load(neox).tokenizer.to_dict() == sfm.load(neox, template="c2s-scale").tokenizer.to_dict()
    assert sfm.load(neox).tokenizer.organism == "Homo sapiens"
    assert sfm.load(neox, species="mouse").tokenizer.organism == "Mus musculus"


def test_the_older_model_of_the_catalogue_is_asked_in_its_own_words() -> None:
    options = {entry.name: entry.options for entry in CATALOGUE if entry.family == "cell_sentences"}
    assert options.pop("c2s-pythia-160m") == {"template": "c2s", "n_genes": 100}
    assert not any(options.values())


@pytest.mark.parametrize(("options", "message"), [({"pooling": "cls"}, "pooling='cls'"), ({"species": "fly"}, "'fly'")])
def test_unknown_options_are_refused(neox: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sfm.load(neox, **options)


def test_truncated_and_missing_weights_are_refused(neox: Path, tmp_path: Path) -> None:
    directory = tmp_path / "lm"
    shutil.copytree(neox, directory)
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read as a language model"):
        sfm.load(directory)
    config = json.loads((neox / "config.json").read_text())
    shutil.copy(neox / "model.safetensors", weights)
    (directory / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match="missing, unexpected or of another shape"):
        sfm.load(directory)
