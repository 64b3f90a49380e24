"""How much each parameter matters: Sobol indices of functions drawn from the model's posterior."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.engine import gp, warp
from tunesmith.engine.encoding import Array, Cube, Dimension, Index, Rng
from tunesmith.engine.sobol import sobol

FEWEST = 6  # trials below which every interval would span nearly everything
_MODEL_ON = 200
_FUNCTIONS, _FEATURES, _POINTS = 40, 384, 256
# Laplace's approximation is narrower than the posterior: so measured, by how often intervals hold the truth
_WIDENED = 1.15
SIGNAL_OR_NOISE = (gp.USUAL, gp.Prior(noise=0.0))
_LENGTH_PRECISION = 1.0 / 3.0  # of the lengthscales' prior: what is known in a direction that the data say nothing of


@dataclass(frozen=True)
class Importance:
    """The share of the objective's variance over the space that a parameter has a hand in, 0 to 1.

    `total` counts its interactions with others (so the totals may add up to more than 1), with its 90 % interval `low`
    to `high`; `main` is what it explains alone.
    """

    total: float
    low: float
    high: float
    main: float


def importances(
    space: Mapping[str, Dimension], rows: Sequence[Mapping[str, Any]], losses: Sequence[float], *, seed: int = 0
) -> dict[str, Importance]:
    """The importance of each parameter, the greatest first; a pure function of its arguments.

    `rows` are the parameters of trials, `losses` what they came to (lower is better; not finite: as the worst). Total
    and main effects (Sobol 1993; estimators of Jansen 1999) are computed for functions drawn from the posterior of a
    Gaussian process, whose hyperparameters are drawn too: the medians and the 90 % intervals over those draws are given.
    Variance is that of the half-rank-warped objective over the whole space, all values equally likely (a logarithmic
    range in its logarithm): so one diverged trial does not decide everything.
    """
    cube = Cube(space)
    rng = np.random.default_rng([seed, len(losses)])
    y = warp.impute(np.asarray(losses, float))
    if len(y) > _MODEL_ON:
        keep = np.sort(rng.choice(len(y), _MODEL_ON, replace=False))
        rows, y = [rows[i] for i in keep], y[keep]
    points, target = cube.encode(rows), warp.half_rank(y)
    thetas = hyperparameters(
        points, target, cube.group, count=_FUNCTIONS, rng=rng, priors=SIGNAL_OR_NOISE, widened=_WIDENED
    )
    drawn = []
    for theta in thetas:
        values = draw_function(points, target, _places(cube, rng), cube.group, theta=theta, rng=rng)
        drawn.append(warp.half_rank(values))  # anew: the trials' median was a guess at that of the space
    totals, mains = _indices(np.array(drawn).reshape(_FUNCTIONS, len(cube) + 2, _POINTS))
    # between these of 40 draws lie 90 % of further ones, between NumPy's default quantiles 85 %
    low, total, high = np.quantile(totals, [0.05, 0.5, 0.95], axis=0, method="weibull")
    main = np.median(mains, axis=0)
    found = {
        name: Importance(*(round(float(v[k]), 4) for v in (total, low, high, main)))
        for k, name in enumerate(cube.names)
    }
    return dict(sorted(found.items(), key=lambda item: -item[1].total))


def _places(cube: Cube, rng: Rng) -> Array:
    """Two samples of the space, and for each parameter the first with the second's values of it; (2 + d) * _POINTS rows.

    Each drawn function has its own, so that what they leave to chance is in the intervals.
    """
    uniform = sobol(_POINTS, 2 * len(cube), rng)
    first, second = cube.from_uniform(uniform[:, : len(cube)]), cube.from_uniform(uniform[:, len(cube) :])
    return np.vstack([first, second, *(np.where(cube.group == k, second, first) for k in range(len(cube)))])


def hyperparameters(
    points: Array,
    y: Array,
    group: Index,
    *,
    count: int,
    rng: Rng,
    priors: Sequence[gp.Prior] = (gp.USUAL,),
    widened: float = 1.0,
) -> Array:
    """Draws of (log lengthscales, log noise variance), shape (count, parameters + 1): Laplace's approximation.

    A normal distribution about the posterior mode, with the inverse of the Hessian there (from differences of gradients)
    as its covariance; MacKay 2003, chapter 27. Of several `priors` each has its own mode, and draws in proportion to its
    evidence (chapter 28): where one expects little but noise, noise is not explained by short lengthscales.
    `widened` times its deviations.
    """
    modes = [_laplace(points, y, group, prior) for prior in priors]
    evidence = np.array([e for _, _, e in modes])
    weights = np.exp(evidence - evidence.max())
    counts = rng.multinomial(count, weights / weights.sum())
    return np.vstack(
        [m + widened * rng.normal(size=(k, len(m))) @ spread.T for (m, spread, _), k in zip(modes, counts, strict=True)]
    )


def _laplace(points: Array, y: Array, group: Index, prior: gp.Prior) -> tuple[Array, Array, float]:
    """The posterior mode, a square root of the covariance about it, and the log evidence but for a constant."""
    theta = gp.mode(points, y, group, prior=prior)
    cost = gp.negative_log_posterior(points, y, group, prior=prior)
    step = 1e-2
    hessian = np.array([cost(theta + step * e)[1] - cost(theta - step * e)[1] for e in np.eye(len(theta))]) / (2 * step)
    values, vectors = np.linalg.eigh(0.5 * (hessian + hessian.T))
    precision = np.maximum(values, _LENGTH_PRECISION)
    return theta, vectors / np.sqrt(precision), -cost(theta)[0] - 0.5 * float(np.log(precision).sum())


def draw_function(points: Array, y: Array, at: Array, group: Index, *, theta: Array, rng: Rng) -> Array:
    """A function drawn from the posterior given `theta`, at places `at` (m, columns); shape (m,).

    Matheron's rule with random Fourier features of the Matérn 5/2 kernel, whose frequencies have a t distribution with
    5 degrees of freedom; Wilson et al. 2020 (arXiv:2002.09309), equation 13.
    """
    posterior = gp.condition(points, y, group, theta)
    shape = (at.shape[1], _FEATURES)
    frequency = rng.normal(size=shape) / np.sqrt(rng.chisquare(5.0, size=_FEATURES) / 5.0)
    phase = rng.uniform(0, 2 * math.pi, _FEATURES)
    weight = rng.normal(size=_FEATURES) * math.sqrt(2.0 / _FEATURES)
    scaled = at * posterior.inverse_lengths
    prior_there = np.cos(scaled @ frequency + phase) @ weight
    prior_here = np.cos((points * posterior.inverse_lengths) @ frequency + phase) @ weight
    noise = rng.normal(size=len(y)) * math.sqrt(posterior.noise)
    return np.asarray(prior_there + posterior.given(y - prior_here - noise).mean(at))


def _indices(values: Array) -> tuple[Array, Array]:
    """Total and main effects, shapes (functions, parameters); `values` (functions, 2 + parameters, points)."""
    first, second, mixed = values[:, :1], values[:, 1:2], values[:, 2:]
    variance = np.maximum(values[:, :2].reshape(len(values), -1).var(1), 1e-12)[:, None]
    total = 0.5 * ((first - mixed) ** 2).mean(2) / variance
    main = 1.0 - 0.5 * ((second - mixed) ** 2).mean(2) / variance
    return np.clip(total, 0.0, 1.0), np.clip(main, 0.0, 1.0)
