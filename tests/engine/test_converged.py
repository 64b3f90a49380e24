"""Converged means that nothing that could be told from noise is left to gain."""

import numpy as np

from tunesmith.engine import Number, Observation, suggest
from tunesmith.engine.converged import FEWEST, Remaining, remaining

SPACE = {"x": Number(0.0, 1.0), "y": Number(0.0, 1.0)}


def searched(trials: int, noise: float = 0.0) -> tuple[list[dict], list[float]]:
    rng = np.random.default_rng(0)
    seen: list[Observation] = []
    for number in range(trials):
        params = suggest(SPACE, seen, [], seed=0, number=number).params
        loss = 10 + (params["x"] - 0.3) ** 2 + (params["y"] - 0.7) ** 2 + noise * rng.normal()
        seen.append(Observation(params, (loss,)))
    return [dict(o.params) for o in seen], [o.losses[0] for o in seen]


def test_too_few_trials_say_nothing() -> None:
    rows, losses = searched(4)
    assert FEWEST > 4
    assert remaining(SPACE, rows, losses, seed=0) is None


def test_a_search_that_has_found_the_best_has_converged() -> None:
    left = remaining(SPACE, *searched(24), seed=0)
    assert left is not None
    assert left.converged
    assert 0 <= left.median <= left.high < 0.02


def test_a_space_that_was_hardly_looked_at_has_not() -> None:
    rng = np.random.default_rng(0)
    space = {f"x{k}": Number(0.0, 1.0) for k in range(4)}
    rows = [dict(zip(space, rng.random(4).tolist(), strict=True)) for _ in range(20)]
    losses = [sum((v - 0.3) ** 2 for v in r.values()) for r in rows]
    left = remaining(space, rows, losses, seed=0)
    assert left is not None
    assert not left.converged
    assert left.high > 0.01


def test_the_same_trials_give_the_same_answer() -> None:
    rows, losses = searched(18, noise=0.01)
    assert remaining(SPACE, rows, losses, seed=0) == remaining(SPACE, rows, losses, seed=0)


def test_a_gain_of_more_than_half_the_noise_is_worth_going_on() -> None:
    assert not Remaining(median=0.2, high=0.6, noise=1.0, stood=20).converged
    assert Remaining(median=0.2, high=0.4, noise=1.0, stood=20).converged


def test_a_best_trial_that_is_new_is_not_the_last_word() -> None:
    rows, losses = searched(24)
    order = sorted(range(24), key=lambda k: -losses[k])
    worst_first = remaining(SPACE, [rows[k] for k in order], [losses[k] for k in order], seed=0)
    assert worst_first is not None
    assert worst_first.stood < FEWEST
    assert not worst_first.converged
