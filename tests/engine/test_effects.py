"""What the model expects along parameters."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.engine import Choice, Number
from tunesmith.engine.effects import effects

SPACE = {"x": Number(0.0, 1.0), "lr": Number(1e-4, 1.0, log=True), "kind": Choice(("a", "b"))}


def data(n):
    rng = np.random.default_rng(0)
    rows = [
        {"x": float(rng.random()), "lr": float(10 ** rng.uniform(-4, 0)), "kind": "ab"[rng.integers(2)]}
        for _ in range(n)
    ]
    losses = [(r["x"] - 0.7) ** 2 + 0.1 * (np.log10(r["lr"]) + 2) ** 2 + (r["kind"] == "a") for r in rows]
    return rows, losses


@pytest.mark.parametrize("n", [40, 300])
def test_the_curves_are_lowest_where_the_objective_is(n):
    rows, losses = data(n)
    found, (other, plane) = effects(SPACE, rows, losses, names=["x", "lr"], pairs=[("lr", "x"), ("x", "lr")])
    assert abs(found["x"].values[int(np.argmin(found["x"].mean))] - 0.7) < 0.16
    assert abs(np.log10(found["lr"].values[int(np.argmin(found["lr"].mean))]) + 2) < 0.6
    assert (other.x, other.y) == (plane.y, plane.x)
    j, i = np.unravel_index(np.argmin(plane.mean), np.shape(plane.mean))
    assert abs(plane.x[i] - 0.7) < 0.26
    assert abs(np.log10(plane.y[j]) + 2) < 1.1


def test_a_choice_has_an_effect_for_each_option():
    found, _ = effects(SPACE, *data(40), names=["x", "kind", "lr"])
    assert found["kind"].values == ("a", "b")
    assert found["kind"].low[0] > found["kind"].high[1]
    assert len(found["lr"].mean) == len(found["x"].mean)


def test_intervals_hold_the_median_and_shrink_with_more_trials():
    widths = []
    for n in (12, 150):
        found, maps = effects(SPACE, *data(n), names=["x"])
        assert maps == []
        x = found["x"]
        assert all(low <= mean <= high for low, mean, high in zip(x.low, x.mean, x.high, strict=True))
        widths.append(np.mean(np.subtract(x.high, x.low)))
    assert widths[1] < 0.7 * widths[0]


def test_the_same_trials_give_the_same_curves():
    assert effects(SPACE, *data(30), names=["x"], seed=1) == effects(SPACE, *data(30), names=["x"], seed=1)


def test_equal_and_failed_losses_are_no_trouble():
    rows, _ = data(20)
    found, _ = effects(SPACE, rows, [1.0] * 19 + [float("nan")], names=["x"])
    assert set(found["x"].mean) == {1.0}
