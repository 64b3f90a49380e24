"""The dominated volume, what is left of it, and what a trial is expected to add to it."""

import numpy as np
import pytest

from tunesmith.engine import Number, Observation, gp, suggest
from tunesmith.engine.pareto import boxes, hypervolume, log_volume_gain, nondominated, thinned

SPACE = {"x": Number(0.0, 1.0), "y": Number(0.0, 1.0)}


def test_the_front_is_what_nothing_dominates_and_holds_equals_once() -> None:
    losses = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5]])
    assert nondominated(losses).tolist() == [True, True, False, False, True]


@pytest.mark.parametrize("objectives", [2, 3, 4])
@pytest.mark.parametrize("digits", [1, 9])
def test_the_volume_is_the_share_of_random_points_that_are_dominated(objectives: int, digits: int) -> None:
    rng = np.random.default_rng(objectives)
    losses = np.round(rng.random((12, objectives)), digits)
    reference = np.full(objectives, 0.9)
    points = rng.random((40_000, objectives)) * 0.9
    share = (losses[None] <= points[:, None]).all(2).any(1).mean()
    assert hypervolume(losses[nondominated(losses)], reference) == pytest.approx(share * 0.9**objectives, abs=0.01)


def test_nothing_below_the_reference_is_no_volume() -> None:
    assert hypervolume(np.array([[2.0, 0.0]]), np.ones(2)) == 0.0


def test_boxes_hold_each_undominated_point_once_and_no_dominated_one() -> None:
    rng = np.random.default_rng(0)
    losses = rng.random((15, 3))
    front = losses[nondominated(losses)]
    edges, lower, upper = boxes(front, np.ones(3))
    points, columns = rng.random((500, 3)), np.arange(3)
    inside = ((edges[lower, columns][None] < points[:, None]) & (points[:, None] <= edges[upper, columns][None])).all(2)
    dominated = (front[None] <= points[:, None]).all(2).any(1)
    assert (inside.sum(1) == ~dominated).all()


@pytest.mark.parametrize("objectives", [2, 3])
def test_the_expected_gain_is_the_mean_gain_of_draws(objectives: int) -> None:
    rng = np.random.default_rng(1)
    points, group = rng.random((8, 2)), np.arange(2)
    losses = np.column_stack([np.sin(3 * points[:, 0] + k) + k * points[:, 1] for k in range(objectives)])
    losses = (losses - losses.mean(0)) / losses.std(0)
    models = [gp.condition(points, c, group, np.log([0.7, 0.7, 0.3])) for c in losses.T]
    front, reference = losses[nondominated(losses)], losses.max(0) + 0.1
    at = rng.random((1, 2))
    mean, variance = np.array([m.predict(at) for m in models])[:, :, 0].T
    before = hypervolume(front, reference)
    draws = mean + variance**0.5 * rng.normal(size=(1000, objectives))
    gains = [hypervolume(np.vstack([front, d])[nondominated(np.vstack([front, d]))], reference) - before for d in draws]
    error = 4 * np.std(gains) / 1000**0.5
    assert np.exp(log_volume_gain(models, front, reference, at)[0]) == pytest.approx(np.mean(gains), abs=error)


@pytest.mark.parametrize("objectives", [2, 3])
def test_the_search_spreads_over_the_front(objectives: int) -> None:
    centres = np.array([[0.2, 0.2], [0.8, 0.2], [0.5, 0.8]])[:objectives]
    seen: list[Observation] = []
    for number in range(20):
        params = suggest(SPACE, seen, [], seed=0, number=number).params
        at = np.array([params["x"], params["y"]])
        seen.append(Observation(params, tuple(((at - centres) ** 2).sum(1).tolist())))
    losses = np.array([o.losses for o in seen])
    random = ((np.random.default_rng(0).random((20, 1, 2)) - centres) ** 2).sum(2)
    reference = np.full(objectives, 0.5)
    ours, theirs = (hypervolume(v[nondominated(v)], reference) for v in (losses, random))
    assert ours > 1.1 * theirs


def test_long_histories_are_thinned_and_keep_the_front() -> None:
    losses = np.random.default_rng(0).random((600, 2))
    rows = thinned(losses, np.ones(600, bool), np.random.default_rng(0))
    assert len(rows) < 200
    assert set(np.flatnonzero(nondominated(losses))) <= set(rows.tolist())


def test_pending_trials_of_several_objectives_are_accounted_for() -> None:
    rng = np.random.default_rng(0)
    seen = [Observation({"x": a, "y": b}, (a, 1 - a + b)) for a, b in rng.random((12, 2)).tolist()]
    first = suggest(SPACE, seen, [], seed=0, number=12).params
    second = suggest(SPACE, seen, [first], seed=0, number=12).params
    assert np.hypot(first["x"] - second["x"], first["y"] - second["y"]) > 0.02


def test_a_trend_of_the_objectives_is_followed_to_the_end_of_a_range() -> None:
    rows = (0.3 + 0.4 * np.random.default_rng(0).random((14, 2))).tolist()
    seen = [Observation({"x": a, "y": b}, (a + 0.3 * b, a - 0.3 * b)) for a, b in rows]
    assert min(suggest(SPACE, seen, [], seed=0, number=14).params.values()) < 0.01
