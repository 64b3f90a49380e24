"""The chance that a trial succeeds is learned from failures and constraints, and steers the search."""

import math

import numpy as np

from tunesmith.engine import Number, Observation, suggest
from tunesmith.engine.encoding import Cube
from tunesmith.engine.feasible import limits

SPACE = {"batch": Number(1, 256, log=True, whole=True), "width": Number(64.0, 4096.0, log=True)}
MEMORY = 256 * 512  # what batch * width may take: half of the space


def fits(params: dict) -> bool:
    return params["batch"] * params["width"] <= MEMORY


def loss(params: dict) -> float:
    """Larger is better, without a batch that is too large: the best lies on the boundary."""
    return -math.log(params["width"]) + 0.3 * abs(math.log(params["batch"] / 64))


def run(trials: int, observe) -> list[Observation]:
    seen: list[Observation] = []
    for number in range(trials):
        params = suggest(SPACE, seen, [], seed=0, number=number).params
        seen.append(observe(params))
    return seen


def test_a_boundary_is_learned_from_few_trials() -> None:
    cube, rng = Cube(SPACE), np.random.default_rng(0)
    rows = [cube.decode(x) for x in cube.from_uniform(rng.random((20, 2)))]
    known = limits(cube.encode(rows), np.array([not fits(r) for r in rows]), [()] * 20, cube.group)
    tests = [cube.decode(x) for x in cube.from_uniform(rng.random((200, 2)))]
    right = (known.log_chance(cube.encode(tests)) > math.log(0.5)) == np.array([fits(r) for r in tests])
    assert right.mean() > 0.85


def test_between_a_success_and_a_failure_it_is_not_sure_of_either() -> None:
    points, group = np.array([[0.1, 0.5], [0.2, 0.3], [0.3, 0.6], [0.4, 0.5], [0.7, 0.5], [0.9, 0.4]]), np.arange(2)
    known = limits(points, np.array([False] * 4 + [True] * 2), [()] * 6, group)
    chance = np.exp(known.log_chance(np.array([[0.5, 0.5], [0.55, 0.5], [0.6, 0.5]])))
    assert (chance > 0.15).all()
    assert (chance < 0.85).all()


def test_nothing_is_learned_where_all_fail_or_none_does() -> None:
    points, group = np.random.default_rng(0).random((6, 2)), np.arange(2)
    for failed in (np.zeros(6, bool), np.ones(6, bool)):
        assert (limits(points, failed, [()] * 6, group).log_chance(points) == 0).all()


def test_failures_are_few_although_the_best_lies_at_the_boundary() -> None:
    seen = run(24, lambda p: Observation(p, (loss(p) if fits(p) else math.nan,)))
    failed = [not math.isfinite(o.losses[0]) for o in seen]
    assert sum(failed) <= 8
    assert min(o.losses[0] for o in seen if math.isfinite(o.losses[0])) < -6.3  # a width of 545


def test_the_best_that_keeps_a_constraint_is_found_although_what_breaks_it_is_better() -> None:
    most = MEMORY / 8  # the best of what keeps it, a batch of 4 and a width of 4,096, is -7.486
    seen = run(24, lambda p: Observation(p, (loss(p),), (math.log(p["batch"] * p["width"] / most),)))
    assert min(o.losses[0] for o in seen if o.constraints[0] <= 0) < -7.45


def test_where_no_trial_keeps_the_constraints_one_that_does_is_sought() -> None:
    seen = run(16, lambda p: Observation(p, (loss(p),), (math.log(p["batch"] * p["width"] / 300),)))
    assert any(o.constraints[0] <= 0 for o in seen)


def test_several_objectives_keep_away_from_failures_too() -> None:
    seen = run(20, lambda p: Observation(p, (loss(p), math.log(p["batch"])) if fits(p) else (math.nan,) * 2))
    assert sum(not math.isfinite(o.losses[0]) for o in seen[10:]) <= 4


def test_the_chance_is_told() -> None:
    seen = run(8, lambda p: Observation(p, (loss(p) if fits(p) else math.nan,)))
    assert 0.0 < suggest(SPACE, seen, [], seed=0, number=8).why["chance_to_succeed"] <= 1.0
