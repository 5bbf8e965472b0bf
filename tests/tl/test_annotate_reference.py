"""Messages about the matrix of the reference name the argument that chooses it, and following them helps."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import scanpy as sc

import sfm

from .conftest import labels_of

if TYPE_CHECKING:
    import anndata as ad

    from sfm.checkpoints import PretrainedCells


def analysed(adata: ad.AnnData) -> ad.AnnData:
    """As scanpy users have it: log-normalised values in X, and counts in a layer and in raw."""
    adata.raw = adata.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.var["symbol"] = adata.var_names
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    return adata


def refused(query: ad.AnnData, labelled: ad.AnnData, **options: Any) -> str:
    with pytest.raises((KeyError, ValueError)) as error:
        sfm.tl.annotate(query, labelled, **options)
    message = str(error.value.args[0])
    assert message.startswith("The reference ")
    return message


@pytest.mark.parametrize(
    ("option", "lacking", "default"),
    [
        ({"layer": "counts"}, "Did not find adata.layers['counts']. Layers present: none.", "X"),
        ({"use_raw": True}, "use_raw=True, but adata.raw is None.", "X"),
        ({"gene_symbols": "symbol"}, "Did not find adata.var['symbol']. Columns present:", "var_names"),
    ],
)
@pytest.mark.parametrize("method", ["knn", "finetune"])
def test_what_the_query_alone_has_is_read_there_alone_with_reference_kwargs(
    option: dict[str, Any],
    lacking: str,
    default: str,
    method: Any,
    query: ad.AnnData,
    labelled: ad.AnnData,
    model: PretrainedCells,
) -> None:
    if "gene_symbols" in option:
        query.var["symbol"] = query.var_names
    else:
        query = analysed(query)
    message = refused(query, labelled, model=model, method=method, **option)
    assert lacking in message
    (name,) = option
    in_layer = "gene_symbols" if name == "gene_symbols" else "layer"
    assert message.endswith(
        f"`{name}` holds for both sides unless `reference_kwargs` is given: pass `reference_kwargs={{}}` to read its "
        f"{default}, or `reference_kwargs={{'{in_layer}': ...}}`."
    )
    if method == "knn":
        sfm.tl.annotate(query, labelled, model=model, method=method, **option, reference_kwargs={})
        assert query.obs["sfm_label"].notna().all()


@pytest.mark.parametrize(
    ("given", "fix"),
    [
        ({}, {"layer": "counts"}),
        ({"layer": "lognorm"}, {}),
        ({"layer": "nowhere"}, {}),
    ],
)
def test_the_argument_in_the_message_mends_the_reference(
    given: dict[str, Any], fix: dict[str, Any], query: ad.AnnData, labelled: ad.AnnData, model: PretrainedCells
) -> None:
    expected = sfm.tl.annotate(query, labelled, model=model, method="knn", copy=True)
    if not fix:  # counts are in X
        labelled.layers["lognorm"] = sc.pp.log1p(labelled.X, copy=True)
    else:
        labelled = analysed(labelled)
    message = refused(query, labelled, model=model, method="knn", reference_kwargs=given)
    assert f"pass `reference_kwargs={fix!r}`" in message
    assert not re.search(r"[Pp]ass (layer|use_raw|neither)", message)
    sfm.tl.annotate(query, labelled, model=model, method="knn", reference_kwargs=fix)
    assert (labels_of(query) == labels_of(expected)).all()


def test_a_reference_without_x_is_told_which_layers_it_has(
    query: ad.AnnData, labelled: ad.AnnData, model: PretrainedCells
) -> None:
    labelled.layers["counts"] = labelled.X
    labelled.X = None
    message = refused(query, labelled, model=model)
    assert "adata.X is None. Pass `reference_kwargs={'layer': ...}` with the name" in message
    assert "(present: 'counts')" in message


def test_gene_names_of_the_reference_are_chosen_by_reference_kwargs(
    query: ad.AnnData, labelled: ad.AnnData, model: PretrainedCells
) -> None:
    labelled.var_names = [f"gene {i}" for i in range(labelled.n_vars)]
    message = refused(query, labelled, model=model)
    assert "pass `reference_kwargs={'gene_symbols': ...}` with the column of var" in message


def test_messages_about_the_query_name_its_own_arguments(
    query: ad.AnnData, labelled: ad.AnnData, model: PretrainedCells
) -> None:
    query = analysed(query)
    with pytest.raises(ValueError, match=r"^The query: adata.X holds log1p.*pass layer='counts'\.$"):
        sfm.tl.annotate(query, labelled, model=model)
    with pytest.raises(KeyError, match=r"The query: Did not find adata.layers\['c'\].* Pass layer=None to use adata.X"):
        sfm.tl.annotate(query, labelled, model=model, layer="c")


def test_vectors_of_unknown_making_are_refused_in_a_sentence(query: ad.AnnData, labelled: ad.AnnData) -> None:
    for side in (query, labelled):
        side.obsm["X_other"] = side.X[:, :3].toarray()
    with pytest.raises(
        ValueError, match=r"neither the query nor the reference says in uns\['X_other'\]\['params'\] how"
    ):
        sfm.tl.annotate(query, labelled, use_rep="X_other")


def test_text_of_missing_values_is_no_label_of_the_reference(
    query: ad.AnnData, labelled: ad.AnnData, model: PretrainedCells
) -> None:
    labels = labelled.obs["cell_type"].astype(object)
    labels.iloc[::3] = None
    labelled.obs["cell_type"] = labels.map(str)
    with pytest.warns(UserWarning, match="50 cells of the reference are labelled 'None' in .* They are left out"):
        sfm.tl.annotate(query, labelled, model=model, method="knn")
    assert query.uns["sfm_label"]["params"]["labels"] == ["type 0", "type 1", "type 2"]
    assert query.uns["sfm_label"]["params"]["n_reference_cells"] == 100
