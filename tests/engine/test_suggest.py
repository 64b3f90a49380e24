"""What the engine suggests is a pure function of the history, and takes it into account."""

import math

import numpy as np
import pytest

from tunesmith.engine import Choice, Number, Observation, draw, middle, suggest
from tunesmith.engine.suggest import START

SPACE = {"x": Number(0.0, 1.0), "y": Number(0.0, 1.0)}


def loss(params: dict) -> float:
    return (params["x"] - 0.3) ** 2 + (params["y"] - 0.7) ** 2


def history(count: int, objective=lambda p: (loss(p),)) -> list[Observation]:
    rng = np.random.default_rng(7)
    rows = [dict(zip("xy", rng.random(2).tolist(), strict=True)) for _ in range(count)]
    return [Observation(row, objective(row)) for row in rows]


def test_the_same_arguments_give_the_same_suggestion() -> None:
    seen = history(20)
    assert suggest(SPACE, seen, [], seed=1, number=20) == suggest(SPACE, seen, [], seed=1, number=20)
    assert suggest(SPACE, seen, [], seed=1, number=20) != suggest(SPACE, seen, [], seed=2, number=20)


def test_the_start_fills_the_space_and_then_the_model_takes_over() -> None:
    pending: list = []
    for number in range(17):
        found = suggest(SPACE, [], pending, seed=0, number=number)
        assert found.why["how"] == "start"
        pending.append(found.params)
    assert pending[0] == {"x": 0.5, "y": 0.5}
    assert len({(p["x"] < 0.5, p["y"] < 0.5) for p in pending[4:8]}) == 4
    assert suggest(SPACE, history(START), [], seed=0, number=START).why["how"] == "model"


def test_the_model_goes_to_the_lowest_loss() -> None:
    found = [loss(suggest(SPACE, history(20), [], seed=s, number=20).params) for s in range(3)]
    assert max(found) < min(o.losses[0] for o in history(20))


def test_trials_asked_for_together_differ() -> None:
    pending: list = []
    for number in range(6, 14):
        pending.append(suggest(SPACE, history(6), pending, seed=0, number=number).params)
    assert len({(round(p["x"], 2), round(p["y"], 2)) for p in pending}) == 8


def test_fixed_values_are_kept() -> None:
    for seen in ([], history(20)):
        assert suggest(SPACE, seen, [], seed=0, number=20, fixed={"x": 0.9}).params["x"] == 0.9


def test_a_finite_space_is_tried_without_repetition() -> None:
    space = {"n": Number(1, 4, whole=True), "kind": Choice(("a", "b", "c"))}
    seen: list[Observation] = []
    for number in range(12):
        params = suggest(space, seen, [], seed=0, number=number).params
        seen.append(Observation(params, (params["n"] + 0.1 * number,)))
    assert len({(o.params["n"], o.params["kind"]) for o in seen}) == 12
    suggest(space, seen, [], seed=0, number=12)  # all tried: a repetition, not an error


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_region_that_fails_is_avoided(value: float) -> None:
    seen = history(24, lambda p: (value if p["x"] > 0.5 else loss(p),))
    assert suggest(SPACE, seen, [], seed=0, number=24).params["x"] < 0.6


def test_only_failures_leave_the_search_at_its_start() -> None:
    seen = history(10, lambda p: (math.nan,))
    assert suggest(SPACE, seen, [], seed=0, number=10).why["how"] == "start"


def test_equal_losses_and_repeated_points_are_no_trouble() -> None:
    same = [Observation({"x": 0.5, "y": 0.5}, (1.0,))] * 20
    assert set(suggest(SPACE, same, [], seed=0, number=20).params) == {"x", "y"}


@pytest.mark.parametrize("objectives", [2, 4])
def test_several_objectives_are_traded_off(objectives: int) -> None:
    seen = history(30, lambda p: (p["x"] ** 2 + p["y"], (p["x"] - 1) ** 2 + p["y"], p["y"], p["y"])[:objectives])
    found: list = []
    for number in range(30, 38):
        found.append(suggest(SPACE, seen, found, seed=0, number=number).params)
    assert np.median([p["y"] for p in found]) < 0.2
    assert np.ptp([p["x"] for p in found]) > 0.2


def test_parameters_that_only_some_trials_have_are_modelled() -> None:
    space = {"kind": Choice(("sgd", "adam")), "momentum": Number(0.0, 1.0)}
    rng = np.random.default_rng(0)
    seen = [Observation({"kind": "sgd", "momentum": m}, ((m - 0.9) ** 2,)) for m in rng.random(10).tolist()]
    seen += [Observation({"kind": "adam"}, (1.0 + 0.01 * k,)) for k in range(10)]
    assert suggest(space, seen, [], seed=0, number=20).params == {
        "kind": "sgd",
        "momentum": pytest.approx(0.9, abs=0.1),
    }


def test_draws_are_keyed_by_seed_trial_and_name() -> None:
    line = Number(0.0, 1.0)
    values = {draw(line, seed=s, number=n, name=k) for s in (0, 1) for n in (0, 1) for k in ("a", "b")}
    assert len(values) == 8
    assert draw(line, seed=0, number=0, name="a") in values


def test_the_middle_of_a_dimension_is_that_of_its_scale() -> None:
    assert middle(Number(1e-4, 1e-2, log=True)) == pytest.approx(1e-3)
    assert middle(Number(1, 9, whole=True)) == 5
    assert middle(Choice((4, 8, 16))) == 8
