"""A Gaussian process on the unit cube: Matérn 5/2, one lengthscale per parameter, fitted to its posterior mode.

Lengthscale priors grow with the number of parameters d (Hvarfner et al. 2024, arXiv:2402.02229): log l ~ N(sqrt(2) +
log(d)/2, 3). Log noise variance ~ N(-4, 1) for outputs of variance 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import lapack, solve_triangular
from scipy.optimize import fmin_l_bfgs_b

from tunesmith.engine.encoding import Array, Index

_SQRT5 = math.sqrt(5.0)
_JITTER = 1e-6
_NOISE_MEAN, _NOISE_SD = -4.0, 1.0
_LENGTH_SD = math.sqrt(3.0)


@dataclass(frozen=True)
class Posterior:
    """The process given the data: `points` (n, columns) scaled by the lengthscales, `factor` the Cholesky factor."""

    inverse_lengths: Array
    noise: float
    points: Array
    factor: Array
    alpha: Array
    lengths: Array

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Mean and variance of the noise-free function at points (m, columns); shapes (m,)."""
        k = _matern(_squared_distances(points * self.inverse_lengths, self.points))
        v = solve_triangular(self.factor, k.T, lower=True, check_finite=False)
        return k @ self.alpha, np.maximum(1.0 - (v * v).sum(0), 1e-10)

    def mean(self, points: Array) -> Array:
        """The mean alone, which is much cheaper."""
        return np.asarray(_matern(_squared_distances(points * self.inverse_lengths, self.points)) @ self.alpha)

    def given(self, y: Array) -> Posterior:
        """The same process with other outputs `y` (n,) at its points."""
        half = solve_triangular(self.factor, y, lower=True, check_finite=False)
        return replace(self, alpha=solve_triangular(self.factor.T, half, lower=False, check_finite=False))

    def believing(self, points: Array) -> Posterior:
        """The process given also that it is as expected at `points`: there, nothing is left to learn.

        The kriging believer of Ginsbourger et al. (2010).
        """
        scaled = points * self.inverse_lengths
        new = np.vstack([self.points, scaled])
        y = np.r_[self.factor @ (self.factor.T @ self.alpha), self.mean(points)]
        k = _matern(_squared_distances(new, new))
        k.flat[:: len(k) + 1] += self.noise + _JITTER
        return replace(self, points=new, factor=np.asarray(np.linalg.cholesky(k), float)).given(y)


def fit(
    points: Array, y: Array, group: Index, *, length_mean: float | None = None, subset: Index | None = None
) -> Posterior:
    """Fit lengthscales and noise to `points` (n, columns), `y` (n,) of mean 0 and variance 1; `group` as in Cube.

    `subset`: indices on which the hyperparameters are fitted when there are many points. `length_mean` replaces the
    prior's mean log lengthscale.
    """
    d = int(group.max()) + 1
    mean = _length_mean(d) if length_mean is None else length_mean
    chosen, target = (points, y) if subset is None else (points[subset], y[subset])
    start = np.r_[np.full(d, min(mean, 0.5)), _NOISE_MEAN]
    bounds = [(-4.0, 6.0)] * d + [(-12.0, 1.0)]
    cost = negative_log_posterior(chosen, target, group, length_mean=mean)
    theta, _, _ = fmin_l_bfgs_b(cost, start, bounds=bounds, maxiter=25, factr=1e9, pgtol=1e-3)
    return condition(points, y, group, np.asarray(theta))


def negative_log_posterior(
    points: Array, y: Array, group: Index, *, length_mean: float | None = None
) -> Callable[[Array], tuple[float, Array]]:
    """The function of theta (log lengthscales, log noise variance) that `fit` minimises, with its gradient."""
    d = int(group.max()) + 1
    mean = _length_mean(d) if length_mean is None else length_mean
    squares = _grouped_squares(points, group, d)
    return lambda theta: _negative_log_posterior(theta, squares, y, mean)


def _length_mean(d: int) -> float:
    return math.sqrt(2.0) + 0.5 * math.log(d)


def condition(points: Array, y: Array, group: Index, theta: Array) -> Posterior:
    """The process with given hyperparameters (log lengthscales, log noise variance) on all the data."""
    inverse = np.exp(-theta[:-1])[group]
    scaled = points * inverse
    k = _matern(_squared_distances(scaled, scaled))
    noise = math.exp(theta[-1])
    k.flat[:: len(k) + 1] += noise + _JITTER
    factor = np.asarray(np.linalg.cholesky(k), float)
    half = solve_triangular(factor, y, lower=True, check_finite=False)
    alpha = solve_triangular(factor.T, half, lower=False, check_finite=False)
    return Posterior(inverse, noise, scaled, factor, alpha, np.exp(theta[:-1]))


def _negative_log_posterior(theta: Array, squares: Array, y: Array, length_mean: float) -> tuple[float, Array]:
    """Value and gradient; Rasmussen and Williams (2006), equations 5.8 and 5.9, and the log priors."""
    d, n = len(squares), len(y)
    precision = np.exp(-2.0 * theta[:d])
    noise = math.exp(theta[d])
    r2 = np.tensordot(precision, squares, 1)
    r = np.sqrt(r2)
    decay = np.exp(-_SQRT5 * r)
    k = (1.0 + _SQRT5 * r + (5.0 / 3.0) * r2) * decay
    k.flat[:: n + 1] += noise + _JITTER
    factor, info = lapack.dpotrf(k, lower=1, clean=1)
    if info:
        return 1e10, np.zeros_like(theta)
    alpha, _ = lapack.dpotrs(factor, y, lower=1)
    inverse, _ = lapack.dpotri(factor, lower=1)
    inverse = inverse + np.tril(inverse, -1).T
    weight = 0.5 * (inverse - np.outer(alpha, alpha))
    value = 0.5 * float(y @ alpha) + float(np.log(np.diag(factor)).sum())
    gradient = np.empty_like(theta)
    slope = weight * ((5.0 / 3.0) * (1.0 + _SQRT5 * r) * decay)  # dk/dlog l_j = slope * precision_j * squares_j
    gradient[:d] = precision * squares.reshape(d, -1).dot(slope.ravel())
    gradient[d] = float(np.trace(weight)) * noise
    z = (theta[:d] - length_mean) / _LENGTH_SD
    value += 0.5 * float(z @ z)
    gradient[:d] += z / _LENGTH_SD
    zn = (theta[d] - _NOISE_MEAN) / _NOISE_SD
    gradient[d] += zn / _NOISE_SD
    return value + 0.5 * float(zn * zn), gradient


def _grouped_squares(points: Array, group: Index, d: int) -> Array:
    squares = np.zeros((d, len(points), len(points)))
    for j in range(points.shape[1]):
        squares[group[j]] += (points[:, j][:, None] - points[:, j][None]) ** 2
    return squares


def _squared_distances(a: Array, b: Array) -> Array:
    return np.asarray(np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2.0 * a @ b.T, 0.0))


def _matern(r2: Array) -> Array:
    r = np.sqrt(r2)
    return np.asarray((1.0 + _SQRT5 * r + (5.0 / 3.0) * r2) * np.exp(-_SQRT5 * r))
