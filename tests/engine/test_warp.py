"""Warped losses keep their order and can be turned back."""

import numpy as np
import pytest

from tunesmith.engine.warp import half_rank, half_rank_spread, unwarp

LOSSES = np.array([0.3, 0.1, 0.9, 0.5, 40.0])


def test_unwarping_turns_warped_losses_back() -> None:
    assert unwarp(half_rank(LOSSES), LOSSES) == pytest.approx(LOSSES)


def test_what_is_better_than_all_lies_on_the_line_of_the_better_half() -> None:
    warped = half_rank(LOSSES)
    slope = (warped[3] - warped[1]) / 0.4
    assert unwarp(warped[1:2] - slope, LOSSES) == pytest.approx([0.1 - 1.0])


def test_a_spread_is_as_wide_as_the_warping_makes_it() -> None:
    slope = (half_rank(LOSSES)[3] - half_rank(LOSSES)[1]) / 0.4
    found = half_rank_spread(LOSSES, np.array([0.1, 0.2, 0.0, 0.0, 0.1]))
    assert found[:2] == pytest.approx([0.1 * slope, 0.2 * slope])
    assert found[2:4] == pytest.approx([0.0, 0.0])
    assert 0 < found[4] < 0.01 * slope  # among outliers ranks count, and a tenth is nothing
