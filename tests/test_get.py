from __future__ import annotations

import inspect

import pytest
import transformers
from transformers import AutoConfig

import sfm
from sfm.datasets import toy_cells


def test_tables_name_what_can_be_used() -> None:
    assert {"rank", "bins", "values"} <= set(sfm.get.tokenizers().index)
    assert "sfm-mini" in sfm.list_models().index
    for name in sfm.get.backbones().index:
        AutoConfig.for_model(name)


def test_objectives_are_those_of_the_models() -> None:
    table = sfm.get.objectives()
    models = [getattr(sfm.nn, name) for name in sfm.nn.__all__ if name.startswith("CellFor")]
    assert set(table["model"]) == {model.__name__ for model in models}
    for model, labels in zip(table["model"], table["labels"], strict=True):
        assert set(labels.split(", ")) <= set(inspect.signature(getattr(sfm.nn, model).forward).parameters)
    for name in table["auto_class"].dropna():
        assert hasattr(transformers, name)


def test_gene_fate_has_a_row_per_gene_in_order() -> None:
    adata = toy_cells(20)
    adata.var_names = [*adata.var_names[:100], *adata.var["ensembl_id"][100:200], *(f"no gene {i}" for i in range(100))]
    fate = sfm.get.gene_fate(adata)
    assert fate.index.tolist() == adata.var_names.tolist()
    assert (fate["fate"][:100] == "via_symbol").all()
    assert (fate["fate"][100:200] == "exact").all()
    assert (fate["fate"][200:] == "unknown").all()
    assert (fate["token_id"][200:] == -1).all()


def test_gene_fate_takes_a_vocabulary() -> None:
    adata = toy_cells(20)
    fate = sfm.get.gene_fate(adata, sfm.GeneVocabulary(list(adata.var_names[:3])))
    assert fate["fate"].tolist() == ["exact"] * 3 + ["unknown"] * (adata.n_vars - 3)


def test_unknown_names_raise() -> None:
    with pytest.raises(ValueError, match="Unknown tokenizer 'ranks'. Known: 'bins', 'rank', 'values'"):
        sfm.tokenizers.get_tokenizer("ranks")
    with pytest.raises(AttributeError, match="no attribute 'pk'"):
        sfm.pk  # noqa: B018
