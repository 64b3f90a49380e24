"""The Gaussian process: its gradient, its predictions, the acquisition's tails."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import check_grad

from tunesmith.engine import warp
from tunesmith.engine.acquire import log_improvement
from tunesmith.engine.gp import (
    FEW,
    Posterior,
    Prior,
    _mode,
    condition,
    draws,
    explain,
    fit,
    mixture,
    mode,
    negative_log_posterior,
)

GROUP = np.array([0, 1, 1])


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    points = rng.random((25, 3))
    return points, warp.standard(np.sin(5 * points[:, 0]) + 0.05 * rng.normal(size=25))


def test_the_gradient_is_that_of_the_value() -> None:
    points, y = data()
    cost = negative_log_posterior(points, y, GROUP, prior=Prior(0.5, -5.0, trend=0.3))
    for theta in (np.array([0.1, 0.5, -3.0]), np.array([-1.0, 2.0, -6.0])):
        error = check_grad(lambda t: cost(t)[0], lambda t: cost(t)[1], theta)
        assert error < 1e-4


def test_the_fit_sees_which_parameter_matters_and_predicts() -> None:
    points, y = data()
    posterior = fit(points, y, GROUP)
    assert posterior.lengths[0] < posterior.lengths[1]
    mean, variance = posterior.predict(points)
    assert np.abs(mean - y).max() < 0.5
    assert posterior.predict(points + 5.0)[1].min() > variance.max()


def test_a_trend_carries_on_beyond_the_data() -> None:
    points = 0.3 + 0.4 * np.random.default_rng(0).random((12, 3))
    y = warp.standard(points @ np.array([1.0, 2.0, -1.0]))
    corner = np.array([[0.0, 0.0, 1.0]])
    plain, leaning = (fit(points, y, GROUP, prior=Prior(0.0, -8.0, trend=t)).predict(corner)[0] for t in (0.0, 0.3))
    assert leaning < y.min() < plain


def test_an_output_in_doubt_pulls_the_mean_less() -> None:
    points, y = data()
    y[3] += 3.0
    sure, unsure = (np.zeros(25), np.where(np.arange(25) == 3, 9.0, 0.0))
    theta = mode(points, y, GROUP, doubt=unsure)
    at_it = [condition(points, y, GROUP, theta, doubt=d).mean(points[3:4])[0] for d in (sure, unsure)]
    assert abs(at_it[1] - (y[3] - 3.0)) < 0.5 < abs(at_it[0] - (y[3] - 3.0))
    assert theta[-1] < mode(points, y, GROUP)[-1]  # the outlier is not taken for noise of all


def test_a_process_knows_its_own_variances() -> None:
    points, y = data()
    posterior = fit(points, y, GROUP, prior=Prior(trend=0.3))
    new = np.random.default_rng(3).random((4, 3))
    assert np.allclose(np.diag(posterior.joint(new)[1]), posterior.predict(new)[1])
    assert np.allclose(posterior.joint(new)[0], posterior.mean(new))


def at(mean: float, sd: float) -> Posterior:
    class Flat(Posterior):
        def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.full(len(points), mean), np.full(len(points), sd**2)

    points, y = data()
    known = condition(points, y, GROUP, np.zeros(3))
    return Flat(**vars(known))


@pytest.mark.parametrize("z", [-4.0, -1.5, -0.5, 0.0, 2.0])
def test_log_improvement_is_the_logarithm_of_the_integral(z: float) -> None:
    def density(u: float) -> float:
        return (z - u) * math.exp(-0.5 * u * u) / math.sqrt(2 * math.pi)

    integral = quad(density, -12, z, epsabs=1e-14)[0]
    found = log_improvement(at(-2.0 * z, 2.0), 0.0, np.zeros((1, 3)))[0]
    assert found == pytest.approx(math.log(2.0 * integral), abs=1e-4)


def test_log_improvement_stays_finite_and_ordered_far_out() -> None:
    values = [log_improvement(at(m, 1.0), 0.0, np.zeros((1, 3)))[0] for m in (5.0, 20.0, 39.0, 41.0, 200.0)]
    assert np.isfinite(values).all()
    assert values == sorted(values, reverse=True)


def test_warping_keeps_the_order_and_standardises() -> None:
    y = np.random.default_rng(1).lognormal(0, 3, 40)
    warped = warp.half_rank(y)
    assert (np.argsort(warped) == np.argsort(y)).all()
    assert warped.mean() == pytest.approx(0, abs=1e-9)
    assert warped.std() == pytest.approx(1)
    assert np.isfinite(warp.half_rank(np.ones(5))).all()


def test_a_process_that_believes_its_mean_keeps_it_and_is_sure_there() -> None:
    points, y = data()
    posterior = fit(points, y, GROUP)
    new, at = np.random.default_rng(3).random((2, 4, 3))
    believing = posterior.believing(new)
    assert np.allclose(believing.predict(at)[0], posterior.predict(at)[0])
    assert (believing.predict(at)[1] < posterior.predict(at)[1]).all()
    assert believing.predict(new)[1].max() < posterior.noise


def test_the_mode_does_not_depend_on_what_was_asked_before() -> None:
    points, y = data()
    first = mode(points, y, GROUP)
    _mode.cache_clear()
    assert (mode(points, y, GROUP) == first).all()


def test_where_two_parameters_explain_few_points_alike_the_draws_hold_both_explanations() -> None:
    at = np.array([0.05, 0.3, 0.5, 0.7, 0.95])
    points, y = np.column_stack([at, at]), np.array([1.0, -1.0, 0.9, -1.1, 0.2])
    thetas = draws(points, y - y.mean(), np.arange(2), 20)
    first = thetas[:, 0] < thetas[:, 1]
    assert 4 <= first.sum() <= 16


def test_draws_follow_the_data() -> None:
    points = np.random.default_rng(0).random((12, 2))
    thetas = draws(points, np.sin(9 * points[:, 1]), np.arange(2), 20)
    assert (thetas[:, 1] < thetas[:, 0]).mean() > 0.9


def test_few_outputs_are_explained_in_several_ways_which_are_less_sure_together() -> None:
    points = np.random.default_rng(0).random((FEW + 1, 3))
    y = warp.standard(np.sin(9 * points[:, 1]))
    assert len(explain(points, y, np.arange(3))) == 1
    several = explain(points[:5], y[:5] - y[:5].mean(), np.arange(3))
    assert len({p.lengths.tobytes() for p in several}) > 1
    mean, variance = mixture(several, points[-1:])
    means, variances = np.array([p.predict(points[-1:]) for p in several])[:, :, 0].T
    assert mean[0] == pytest.approx(means.mean())
    assert variance[0] > variances.mean()
