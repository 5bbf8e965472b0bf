from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from anndata import AnnData

    from sfm.checkpoints import PretrainedCells

ROOT = Path(__file__).parents[1]

# No deadline: the first example pays for compilation. Derandomised, so that every run tests the same examples.
settings.register_profile("sfm", deadline=None, derandomize=True)
settings.load_profile("sfm")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first, so that no process begins one of them when the others have nothing left."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from looking, at the start of each training, at the million objects of imports."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real cells, beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data are not beside this checkout")
    return folder


@pytest.fixture
def toy() -> AnnData:
    """Sixty generated cells over 300 common human genes."""
    from sfm.datasets import toy_cells

    return toy_cells(60)


@pytest.fixture(scope="session", params=["rank", "bins", "values"])
def toy_pretrained(request: pytest.FixtureRequest) -> PretrainedCells:
    """A tiny random model per tokenizer."""
    from sfm.datasets import toy_model

    return toy_model(request.param)
