"""Trials are stopped only when neither their curve nor their configuration leaves them much of a chance."""

import numpy as np
import pytest

from tunesmith.engine import Number
from tunesmith.engine.stopper import FULL, Curve, expected_ends, outlook

SPACE = {"x": Number(0.0, 1.0)}
SHARES = np.arange(1, 11) / 10


def curve(x: float, *, until: int = 10, shape=lambda x, s: x + np.exp(-4 * s)) -> Curve:
    losses = shape(x, SHARES)
    return Curve({"x": x}, SHARES[:until], losses[:until], float(losses[-1]) if until == 10 else None)


FULL_TRIALS = [curve(x) for x in (0.1, 0.3, 0.5, 0.7, 0.9)]


def chance(x: float, until: int, full=FULL_TRIALS, **kwargs) -> float:
    found = outlook(SPACE, full, curve(x, until=until, **kwargs))
    assert found is not None
    return found.chance


def test_a_trial_far_above_the_others_has_little_chance() -> None:
    assert chance(3.0, 5) < 0.03


def test_a_trial_below_the_others_has_every_chance() -> None:
    assert chance(0.0, 5) > 0.5


def test_nothing_is_said_before_enough_full_trials() -> None:
    assert outlook(SPACE, FULL_TRIALS[: FULL - 1], curve(3.0, until=5)) is None


def test_full_trials_that_reported_only_later_say_nothing() -> None:
    late = [Curve(c.params, c.shares[5:], c.losses[5:], c.end) for c in FULL_TRIALS]
    assert outlook(SPACE, late, curve(3.0, until=3)) is None


def test_curves_that_plunge_in_mid_run_let_a_high_trial_live_until_then() -> None:
    def plunge(x, s):
        return x + np.where(s < 0.65, 5.0 - x, 0.0)

    full = [curve(x, shape=plunge) for x in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert chance(0.2, 6, full, shape=lambda x, s: plunge(x, s) + 0.5) > 0.05
    assert chance(3.0, 8, full, shape=plunge) < 0.03


def test_the_lowest_point_counts_where_trials_end_at_the_best_of_their_curves() -> None:
    def valley(x, s):
        return x + (s - 0.5) ** 2

    full = [
        Curve(c.params, c.shares, c.losses, float(c.losses.min()))
        for x in (0.1, 0.3, 0.5, 0.7)
        for c in [curve(x, shape=valley)]
    ]
    best_so_far = curve(0.05, until=9, shape=valley)
    found = outlook(SPACE, full, best_so_far)
    assert found is not None
    assert found.chance > 0.2  # its lowest is below the others' lowest, although it rises again


def test_the_configuration_counts_beside_the_curve() -> None:
    rng = np.random.default_rng(0)
    full = []
    for x in np.linspace(0, 1, 12):
        losses = np.r_[rng.normal(1.0, 0.01, 9), 0.9 * x]
        full.append(Curve({"x": float(x)}, SHARES, losses, float(losses[-1])))
    level = np.full(3, 1.6)
    bad, good = (outlook(SPACE, full, Curve({"x": x}, SHARES[:3], level)) for x in (0.95, 0.02))
    assert bad is not None
    assert good is not None
    assert bad.chance < good.chance


def test_a_stopped_trial_is_taken_to_end_as_others_did_that_stood_there() -> None:
    full = [curve(x) for x in np.linspace(0.1, 0.9, 9)]
    stopped = [curve(0.6, until=4), curve(0.2, until=4), curve(0.4, until=7)]
    ends, spread = expected_ends(full, stopped)
    assert ends == pytest.approx([curve(x).end for x in (0.6, 0.2, 0.4)], abs=0.05)
    assert spread.max() < 0.05


def test_the_less_levels_say_of_ends_the_less_sure_is_what_a_stopped_trial_would_have_come_to() -> None:
    rng = np.random.default_rng(0)
    spreads = []
    for noise in (0.01, 0.3):
        full = [
            Curve({"x": float(x)}, SHARES, np.r_[x + noise * rng.normal(size=9), x], float(x))
            for x in np.linspace(0, 1, 12)
        ]
        spreads.append(expected_ends(full, [curve(0.6, until=4)])[1][0])
    assert spreads[0] < 0.1 < spreads[1]


def test_a_stopped_trial_is_taken_at_its_newest_loss_where_no_full_one_had_reported() -> None:
    late = [Curve(c.params, c.shares[5:], c.losses[5:], c.end) for c in FULL_TRIALS]
    stopped = curve(0.6, until=2)
    ends, spread = expected_ends(late, [stopped])
    assert ends == pytest.approx([stopped.losses[-1]])
    assert spread == pytest.approx([np.std([c.end for c in late])])


def test_a_configuration_beyond_all_full_trials_lives_on_where_it_keeps_up_with_them() -> None:
    """A real search of BERTs: accuracies of full trials by log10 of the learning rate; the higher rates end higher."""
    space = {"rate": Number(-6.0, -2.0)}
    shares = np.arange(1, 7) / 6
    known = {
        -4.00: (0.249, 0.229, 0.293, 0.278, 0.280, 0.282),
        -3.72: (0.262, 0.258, 0.356, 0.391, 0.404, 0.407),
        -3.62: (0.371, 0.427, 0.420, 0.500, 0.507, 0.520),
        -3.44: (0.364, 0.416, 0.418, 0.460, 0.513, 0.533),
        -3.52: (0.333, 0.427, 0.418, 0.496, 0.527, 0.538),
        -5.00: (0.150, 0.150, 0.160, 0.160, 0.150, 0.150),
        -5.50: (0.180, 0.180, 0.180, 0.180, 0.180, 0.180),
        -2.10: (0.180, 0.160, 0.180, 0.180, 0.180, 0.180),
        -3.20: (0.378, 0.478, 0.513, 0.604, 0.627, 0.660),
    }
    full = [Curve({"rate": rate}, shares, -np.array(c), -c[-1]) for rate, c in known.items()]
    for rate, accuracy in ((-2.9, 0.37), (-2.8, 0.36)):
        found = outlook(space, full, Curve({"rate": rate}, shares[:1], np.array([-accuracy])))
        assert found is not None
        assert found.chance > 0.1


def test_levels_that_say_nothing_of_ends_leave_every_trial_its_chance() -> None:
    rng = np.random.default_rng(0)
    full = [
        Curve({"x": float(x)}, SHARES, rng.normal(1.0, 0.1, 10), float(rng.normal(0.5, 0.1))) for x in rng.random(8)
    ]
    found = outlook(SPACE, full, Curve({"x": 0.5}, SHARES[:3], np.full(3, 1.3)))
    assert found is not None
    assert found.chance > 0.03
