"""What all plots have in common: the data stay as they are, and scanpy's arguments."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scanpy as sc
from anndata.tests.helpers import assert_equal
from matplotlib.figure import Figure

from sfm.pl import annotation_confusion, confidence, reliability, risk_coverage

if TYPE_CHECKING:
    from anndata import AnnData

PLOTS = {
    "annotation_confusion": lambda adata, **options: annotation_confusion(adata, "truth", **options),
    "confidence": lambda adata, **options: confidence(adata, **options),
    "confidence by group": lambda adata, **options: confidence(adata, groupby="truth", **options),
    "reliability": lambda adata, **options: reliability(adata, "truth", **options),
    "risk_coverage": lambda adata, **options: risk_coverage(adata, "truth", **options),
}
UNUSED = {"annotation_confusion": ["sfm_label_confidence"], "confidence": ["truth"]}
Plot = "Callable[..., Any]"


@pytest.fixture(params=PLOTS)
def plot(request: pytest.FixtureRequest) -> Plot:
    return PLOTS[request.param]


def test_the_data_stay_as_they_are(plot: Plot, annotated: AnnData) -> None:
    annotated.obs.loc[annotated.obs_names[:5], "truth"] = np.nan
    before = annotated.copy()
    plot(annotated, show=False)
    assert_equal(annotated, before, exact=True)


@pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning")  # anndata says which format is next
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_what_was_read_from_a_file_is_drawn(plot: Plot, annotated: AnnData, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"annotated.{suffix}"
    getattr(annotated, f"write_{suffix}")(path)
    plot(getattr(ad, f"read_{suffix}")(path), show=False)


def test_axes_of_the_caller_are_drawn_into(plot: Plot, annotated: AnnData) -> None:
    figure, (left, right) = plt.subplots(1, 2)
    drawn = plot(annotated, ax=right)
    assert drawn is right
    assert plt.get_fignums() == [figure.number]
    assert right.has_data()
    assert not left.has_data()
    figure.draw_without_rendering()


def test_axes_put_on_the_figure_by_hand_are_drawn_into(plot: Plot, annotated: AnnData) -> None:
    axes = plt.figure().add_axes((0.2, 0.3, 0.6, 0.6))
    assert plot(annotated, ax=axes) is axes


def test_scanpys_style_leaves_no_grid(plot: Plot, annotated: AnnData) -> None:
    with plt.rc_context({"axes.grid": True}):
        axes = plot(annotated, show=False)
    assert not any(line.get_visible() for line in [*axes.get_xgridlines(), *axes.get_ygridlines()])


def test_return_fig_returns_the_figure(plot: Plot, annotated: AnnData) -> None:
    figure = plot(annotated, return_fig=True)
    assert isinstance(figure, Figure)
    assert plt.get_fignums() == [figure.number]


@pytest.mark.parametrize(("show", "autoshow"), [(True, False), (None, True), (None, False), (False, True)])
def test_what_is_shown_is_not_returned(
    plot: Plot, annotated: AnnData, show: bool | None, autoshow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.get_fignums()))
    sc.settings.autoshow = autoshow
    drawn = plot(annotated, show=show)
    if show is True or (show is None and autoshow):
        assert drawn is None
        assert len(shown) == 1
    else:
        assert drawn.has_data()
        assert shown == []


@pytest.mark.parametrize(
    ("save", "expected"),
    [(True, "{name}.pdf"), ("_pbmc.png", "{name}_pbmc.png"), ("_pbmc", "{name}_pbmc.pdf")],
)
@pytest.mark.parametrize("name", PLOTS)
def test_save_writes_into_scanpys_folder(
    name: str, annotated: AnnData, save: bool | str, expected: str, tmp_path: Path
) -> None:
    sc.settings.figdir = tmp_path / "figures"
    PLOTS[name](annotated, show=False, save=save)
    (written,) = (tmp_path / "figures").iterdir()
    assert written.name == expected.format(name=name.split()[0])
    assert written.stat().st_size > 1000
    assert plt.get_fignums() == []


@pytest.mark.parametrize("kind", [str, Path])
def test_save_takes_a_path(plot: Plot, annotated: AnnData, kind: type, tmp_path: Path) -> None:
    target = tmp_path / "new" / "plot.png"
    plot(annotated, show=False, save=kind(target))
    assert target.stat().st_size > 1000


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("sfm_label", r"Did not find adata.obs\['sfm_label'\]. Run `sfm.tl.annotate\(adata, reference\)` first"),
        ("sfm_label_confidence", r"Did not find adata.obs\['sfm_label_confidence'\]. Run `sfm.tl.annotate"),
        ("truth", r"Did not find adata.obs\['truth'\]. Pass as (labels_key|groupby)= a column"),
    ],
)
@pytest.mark.parametrize("name", PLOTS)
def test_missing_slots_are_named(name: str, annotated: AnnData, missing: str, message: str) -> None:
    del annotated.obs[missing]
    if missing in UNUSED.get(name, ()):
        assert PLOTS[name](annotated, show=False).has_data()
        return
    with pytest.raises(KeyError, match=message):
        PLOTS[name](annotated, show=False)
    assert plt.get_fignums() == []


def test_another_key_is_named_in_the_call(annotated: AnnData) -> None:
    with pytest.raises(KeyError, match=r"sfm.tl.annotate\(adata, reference, key_added='mine'\)"):
        confidence(annotated, key="mine")


@pytest.mark.parametrize("name", ["annotation_confusion", "reliability", "risk_coverage"])
def test_cells_without_truth_are_left_out_and_counted(name: str, annotated: AnnData) -> None:
    sc.settings.verbosity, sc.settings.logfile = 2, StringIO()
    known = annotated[7:].copy()
    annotated.obs.loc[annotated.obs_names[:7], "truth"] = np.nan
    full, partial = (PLOTS[name](adata, show=False) for adata in (known, annotated))
    assert [text.get_text() for text in full.texts] == [text.get_text() for text in partial.texts]
    for one, other in zip(full.lines, partial.lines, strict=True):
        np.testing.assert_array_equal(one.get_xydata(), other.get_xydata())
    assert "7 of 200 cells are left out: adata.obs['truth'] is missing" in sc.settings.logfile.getvalue()


@pytest.mark.parametrize("name", ["annotation_confusion", "reliability", "risk_coverage"])
def test_truth_that_is_missing_everywhere_is_refused(name: str, annotated: AnnData) -> None:
    annotated.obs["truth"] = np.nan
    with pytest.raises(ValueError, match=r"adata.obs\['truth'\] is missing for all cells"):
        PLOTS[name](annotated, show=False)


@pytest.mark.parametrize("name", ["reliability", "risk_coverage"])
def test_rejected_cells_need_their_probabilities(name: str, annotated: AnnData) -> None:
    del annotated.obsm["sfm_label_probabilities"]
    n_rejected = int((annotated.obs["sfm_label"] == "unknown").sum())
    with pytest.raises(KeyError, match=rf"'sfm_label_probabilities'\].* of the {n_rejected} rejected cells"):
        PLOTS[name](annotated, show=False)
    kept = annotated[annotated.obs["sfm_label"] != "unknown"]
    assert PLOTS[name](kept, show=False).has_data()
