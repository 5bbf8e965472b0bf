from __future__ import annotations

import pytest

from sfm.datasets import toy_cells, toy_model


def test_warnings_point_at_the_caller() -> None:
    import sfm

    view = toy_cells(10)[:5]
    with pytest.warns(UserWarning, match="view") as caught:
        sfm.tl.embed(view, toy_model())
    assert [warning.filename for warning in caught] == [__file__]
