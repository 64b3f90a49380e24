"""Parameters become points of the unit cube and come back unchanged."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.engine import Choice, Dimension, Number
from tunesmith.engine.encoding import Cube

SPACE = {
    "rate": Number(1e-5, 1.0, log=True),
    "drop": Number(0.0, 0.5, step=0.1),
    "depth": Number(1, 5, whole=True),
    "units": Number(16, 512, log=True, whole=True),
    "steps": Number(0, 10**6, step=7, whole=True),
    "batch": Choice((32, 8, 16)),
    "kind": Choice(("a", None, True, 1)),
    "only": Number(3, 3, whole=True),
}


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=len(SPACE), max_size=len(SPACE)))
def test_a_point_survives_decoding_and_encoding(uniform: list[float]) -> None:
    cube = Cube(SPACE)
    params = cube.decode(cube.from_uniform(np.array([uniform]))[0])
    again = cube.decode(cube.encode([params])[0])
    assert again["rate"] == pytest.approx(params["rate"])
    assert {**again, "rate": 0} == {**params, "rate": 0}
    assert type(again["kind"]) is type(params["kind"])


@given(st.integers(0, 2**32 - 1))
def test_neighbours_lie_in_the_space(seed: int) -> None:
    cube, rng = Cube(SPACE), np.random.default_rng(seed)
    for point in cube.move(cube.from_uniform(rng.random((8, len(SPACE)))), rng, scale=0.3, share=0.5):
        params = cube.decode(point)
        assert 1e-5 <= params["rate"] <= 1.0
        assert params["steps"] % 7 == 0
        assert params["batch"] in (8, 16, 32)
        assert params["depth"] in range(1, 6)


@pytest.mark.parametrize("dimension", [Number(16, 512, log=True, whole=True), Number(16.0, 512.0, log=True)])
def test_log_scales_are_drawn_evenly_in_the_logarithm(dimension: Dimension) -> None:
    cube = Cube({"x": dimension})
    points = cube.from_uniform(np.linspace(0, 1, 999, endpoint=False)[:, None])
    middle = math.sqrt(16 * 512)
    below = np.mean([cube.decode(p)["x"] < middle for p in points])
    assert below == pytest.approx(0.5, abs=0.02)


def test_what_a_trial_lacks_stands_in_the_middle() -> None:
    cube = Cube({"x": Number(0.0, 1.0), "kind": Choice(("a", "b"))})
    ends = cube.encode([{"x": 0.0, "kind": "a"}, {"x": 1.0, "kind": "b"}])
    absent = cube.encode([{}])
    assert np.ptp(((ends - absent) ** 2).sum(1)) == pytest.approx(0.0)
    assert (cube.encode([{"x": "was a word", "kind": "gone"}]) == absent).all()
    assert len(cube.encode([])) == 0


def test_all_points_of_a_small_space_are_listed() -> None:
    cube = Cube({"n": Number(1, 3, whole=True), "kind": Choice(("a", "b")), "batch": Choice((8, 16, 64))})
    listed = {tuple(cube.decode(p).values()) for p in cube.everything()}
    assert len(listed) == cube.size == 3 * 2 * 3
