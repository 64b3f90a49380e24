"""A suggestion says what is expected there, in the losses' own units, and which trials it knows nearby."""

import numpy as np
import pytest

from tunesmith.engine import Number, Observation, suggest
from tunesmith.engine.warp import half_rank, unwarp

SPACE = {"x": Number(0.0, 1.0)}


def seen(count: int = 12) -> list[Observation]:
    return [
        Observation({"x": x}, (100 + 1000 * (x - 0.3) ** 2,), number=50 + k)
        for k, x in enumerate(np.linspace(0, 1, count).tolist())
    ]


def test_unwarping_gives_the_losses_back() -> None:
    y = np.random.default_rng(0).lognormal(size=31)
    assert unwarp(half_rank(y), y) == pytest.approx(y)


def test_unwarping_goes_on_below_the_best_and_ends_at_the_worst() -> None:
    y = np.arange(10.0)
    warped = half_rank(y)
    below = unwarp(np.array([warped.min() - (warped[1] - warped[0]), 9.0]), y)
    assert below == pytest.approx([-1.0, 9.0])


def test_equal_losses_are_no_trouble() -> None:
    assert np.isfinite(unwarp(np.array([-1.0, 0.0, 1.0]), np.ones(5))).all()


def test_the_expected_value_is_in_the_losses_units_with_its_interval() -> None:
    found = suggest(SPACE, seen(), [], seed=0, number=12)
    at, low, high = found.why["expected"][0]
    assert low <= at <= high
    assert at == pytest.approx(100 + 1000 * (found.params["x"] - 0.3) ** 2, abs=30)


def test_the_nearest_trials_are_named_by_their_numbers() -> None:
    found = suggest(SPACE, seen(), [], seed=0, number=12)
    nearest = [abs(o.params["x"] - found.params["x"]) for o in seen() if o.number in found.why["nearest"]]
    assert sorted(nearest) == pytest.approx(sorted(abs(o.params["x"] - found.params["x"]) for o in seen())[:3])


def test_it_explores_where_little_is_known_and_exploits_where_much_is() -> None:
    assert suggest(SPACE, seen(), [], seed=0, number=12).why["mode"] == "exploit"
    rng = np.random.default_rng(0)
    wild = [Observation({"x": x, "y": y}, (v,)) for x, y, v in rng.random((5, 3)).tolist()]
    assert suggest({"x": SPACE["x"], "y": SPACE["x"]}, wild, [], seed=0, number=5).why["mode"] == "explore"


def test_several_objectives_are_expected_each_in_its_unit() -> None:
    both = [Observation(o.params, (*o.losses, 1e-3 * o.params["x"])) for o in seen()]
    first, second = suggest(SPACE, both, [], seed=0, number=12).why["expected"]
    assert first[0] > 90
    assert -1e-4 < second[0] < 1.1e-3
