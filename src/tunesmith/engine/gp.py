"""A Gaussian process on the unit cube: Matérn 5/2, one lengthscale per parameter, fitted to its posterior mode.

A linear trend may be added (Rasmussen and Williams 2006, equation 4.1): without one the process falls back to the mean away
from the data, and the corners of the cube, which hold the best where ranges were chosen too narrow, look like any other place.

Lengthscale priors grow with the number of parameters d (Hvarfner et al. 2024, arXiv:2402.02229): log l ~ N(sqrt(2) +
log(d)/2, 3). Log noise variance ~ N(-4, 1) for outputs of variance 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.linalg import lapack, solve_triangular
from scipy.optimize import fmin_l_bfgs_b

from tunesmith.engine.encoding import Array, Index

_JITTER = 1e-6
_NOISE_SD = 1.0
_LENGTH_SD = math.sqrt(3.0)
_LENGTHS, _NOISES = (-4.0, 6.0), (-12.0, 1.0)  # the bounds of theta
_DRAWN = 512  # thetas drawn from the prior, to draw from again
FEW, DRAWS = 12, 4  # up to so many observations hyperparameters are drawn, so often


@dataclass(frozen=True)
class Posterior:
    """The process given the data at `points` (n, columns), `factor` the Cholesky factor of their covariance with noise."""

    inverse_lengths: Array
    noise: float
    points: Array
    factor: Array
    alpha: Array
    lengths: Array
    trend: float = 0.0

    def covariance(self, a: Array, b: Array) -> Array:
        """Prior covariance of points a (m, columns) and b (n, columns), shape (m, n)."""
        k = _matern(_squared_distances(a * self.inverse_lengths, b * self.inverse_lengths))
        return k + self.trend * _linear(a, b) if self.trend else k

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Mean and variance of the noise-free function at points (m, columns); shapes (m,)."""
        k = self.covariance(points, self.points)
        v = solve_triangular(self.factor, k.T, lower=True, check_finite=False)
        prior = 1.0 + self.trend * _linear_variance(points)
        return k @ self.alpha, np.maximum(prior - np.einsum("ij,ij->j", v, v), 1e-10)

    def joint(self, points: Array) -> tuple[Array, Array]:
        """Mean (m,) and covariance (m, m) of the noise-free function at points (m, columns)."""
        k = self.covariance(points, self.points)
        v = solve_triangular(self.factor, k.T, lower=True, check_finite=False)
        return k @ self.alpha, self.covariance(points, points) - v.T @ v

    def mean(self, points: Array) -> Array:
        """The mean alone, which is much cheaper."""
        return np.asarray(self.covariance(points, self.points) @ self.alpha)

    def given(self, y: Array) -> Posterior:
        """The same process with other outputs `y` (n,) at its points."""
        half = solve_triangular(self.factor, y, lower=True, check_finite=False)
        return replace(self, alpha=solve_triangular(self.factor.T, half, lower=False, check_finite=False))

    def believing(self, points: Array) -> Posterior:
        """The process given also results as expected at `points`, as noisy as any: there, little is left to learn.

        The kriging believer of Ginsbourger et al. (2010).
        """
        across = solve_triangular(self.factor, self.covariance(self.points, points), lower=True, check_finite=False)
        k = self.covariance(points, points) - across.T @ across
        k.flat[:: len(k) + 1] += self.noise + _JITTER
        n, m = len(self.points), len(points)
        factor = np.zeros((n + m, n + m))
        factor[:n, :n], factor[n:, :n], factor[n:, n:] = self.factor, across.T, np.linalg.cholesky(k)
        # what was expected changes no mean: the new points weigh nothing in it
        return replace(
            self, points=np.vstack([self.points, points]), factor=factor, alpha=np.r_[self.alpha, np.zeros(m)]
        )


@dataclass(frozen=True)
class Prior:
    """What is believed of the hyperparameters: log lengthscales ~ N(length, 3), log noise variance ~ N(noise, 1).

    `length` None: sqrt(2) + log(d)/2, as the module says. `trend`: the variance over the cube of the linear trend.
    """

    length: float | None = None
    noise: float = -4.0
    trend: float = 0.0

    def length_mean(self, d: int) -> float:
        """The mean log lengthscale for `d` parameters."""
        return math.sqrt(2.0) + 0.5 * math.log(d) if self.length is None else self.length


USUAL = Prior()


def fit(points: Array, y: Array, group: Index, *, prior: Prior = USUAL) -> Posterior:
    """The process of the most likely hyperparameters; arguments as of `mode`."""
    return condition(points, y, group, mode(points, y, group, prior=prior), trend=prior.trend)


def explain(points: Array, y: Array, group: Index, *, prior: Prior = USUAL) -> tuple[Posterior, ...]:
    """Processes that explain the data: of few outputs several, their hyperparameters drawn, else `fit`'s alone."""
    if len(y) > FEW:
        return (fit(points, y, group, prior=prior),)
    thetas = draws(points, y, group, DRAWS, prior=prior)
    return tuple(condition(points, y, group, theta, trend=prior.trend) for theta in thetas)


def mixture(processes: Sequence[Posterior], points: Array) -> tuple[Array, Array]:
    """Mean and variance of equally likely processes together at points (m, columns); shapes (m,)."""
    means, variances = zip(*(p.predict(points) for p in processes), strict=True)
    return np.mean(means, axis=0), np.mean(variances, axis=0) + np.var(means, axis=0)


def mode(points: Array, y: Array, group: Index, *, prior: Prior = USUAL, doubt: Array | None = None) -> Array:
    """Theta (log lengthscales, log noise variance), the posterior mode found from one start by L-BFGS.

    `points` (n, columns), `y` (n,) of mean 0 and variance 1, `group` as in Cube, `doubt` (n,) known noise variances of
    single outputs beside the common one (none: 0). A pure function whose last results are remembered, since most asks
    come with the same fitted history.
    """
    own = np.zeros(len(y)) if doubt is None else doubt
    return np.array(_mode(points.tobytes(), y.tobytes(), group.tobytes(), points.shape[1], prior, own.tobytes()))


def draws(
    points: Array, y: Array, group: Index, count: int, *, prior: Prior = USUAL, doubt: Array | None = None
) -> Array:
    """Thetas (count, d + 1) drawn from their posterior; other arguments as of `mode`.

    Many draws from the prior, drawn from again by their likelihoods (sampling/importance resampling, Rubin 1988): for few points
    only, whose likelihood leaves enough of the prior's draws alive. A pure function: its random numbers are keyed by n.
    """
    n, d = len(y), int(group.max()) + 1
    normal = np.random.default_rng([n]).standard_normal((_DRAWN, d + 1))
    lengths = np.clip(prior.length_mean(d) + _LENGTH_SD * normal[:, :d], *_LENGTHS)
    noise = np.clip(prior.noise + _NOISE_SD * normal[:, d], *_NOISES)
    squares = _grouped_squares(points, group, d)
    k = _matern(np.tensordot(np.exp(-2.0 * lengths), squares, 1)) + prior.trend * _linear(points, points)
    k += (np.exp(noise) + _JITTER)[:, None, None] * np.eye(n)
    if doubt is not None:
        k += np.diag(doubt)
    factors = np.linalg.cholesky(k)
    half = np.linalg.solve(factors, np.broadcast_to(y[:, None], (_DRAWN, n, 1)))[:, :, 0]
    fits = -0.5 * (half**2).sum(1) - np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(1)
    shares = np.cumsum(np.exp(fits - fits.max()))
    chosen = np.searchsorted(shares, shares[-1] * (np.arange(count) + 0.5) / count)
    return np.asarray(np.column_stack([lengths, noise])[chosen])


@lru_cache(maxsize=32)
def _mode(points: bytes, y: bytes, group: bytes, columns: int, prior: Prior, doubt: bytes) -> tuple[float, ...]:
    at, groups = np.frombuffer(points).reshape(-1, columns), np.frombuffer(group, np.int64)
    d = int(groups.max()) + 1
    start = np.r_[np.full(d, min(prior.length_mean(d), 0.5)), prior.noise]
    bounds = [_LENGTHS] * d + [_NOISES]
    cost = negative_log_posterior(at, np.frombuffer(y), groups, prior=prior, doubt=np.frombuffer(doubt))
    theta, _, _ = fmin_l_bfgs_b(cost, start, bounds=bounds, maxiter=25, factr=1e9, pgtol=1e-3)
    return tuple(theta.tolist())


def negative_log_posterior(
    points: Array, y: Array, group: Index, *, prior: Prior = USUAL, doubt: Array | None = None
) -> Callable[[Array], tuple[float, Array]]:
    """The function of theta (log lengthscales, log noise variance) that `mode` minimises, with its gradient."""
    squares = _grouped_squares(points, group, int(group.max()) + 1)
    fixed = prior.trend * _linear(points, points)
    if doubt is not None:
        fixed.flat[:: len(y) + 1] += doubt
    return lambda theta: _negative_log_posterior(theta, squares, fixed, y, prior)


def condition(
    points: Array, y: Array, group: Index, theta: Array, *, trend: float = 0.0, doubt: Array | None = None
) -> Posterior:
    """The process with given hyperparameters (log lengthscales, log noise variance) on all the data; `doubt` as of `mode`."""
    inverse, noise, none = np.exp(-theta[:-1])[group], math.exp(theta[-1]), np.empty(0)
    empty = Posterior(inverse, noise, points, none, none, np.exp(theta[:-1]), trend)
    k = empty.covariance(points, points)
    k.flat[:: len(k) + 1] += noise + _JITTER + (0.0 if doubt is None else doubt)
    factor = np.asarray(np.linalg.cholesky(k), float)
    half = solve_triangular(factor, y, lower=True, check_finite=False)
    alpha = solve_triangular(factor.T, half, lower=False, check_finite=False)
    return replace(empty, factor=factor, alpha=alpha)


def _negative_log_posterior(theta: Array, squares: Array, fixed: Array, y: Array, prior: Prior) -> tuple[float, Array]:
    """Value and gradient; Rasmussen and Williams (2006), equations 5.8 and 5.9, and the log priors.

    `squares` (parameters, n, n) are squared differences, `fixed` (n, n) is the part of the covariance without theta.
    """
    d, n = len(squares), len(y)
    precision = np.exp(-2.0 * theta[:d])
    noise = math.exp(theta[d])
    s = np.tensordot(precision, squares, 1)
    s *= 5.0
    np.sqrt(s, out=s)
    decay = np.exp(-s)
    slope = (s + 1.0) * decay  # dk/dlog l_j = (5/3) * slope * precision_j * squares_j
    k = s * s
    k *= 1.0 / 3.0
    k *= decay
    k += slope
    k += fixed
    k.flat[:: n + 1] += noise + _JITTER
    factor, info = lapack.dpotrf(k, lower=1, clean=1)
    if info:
        return 1e10, np.zeros_like(theta)
    alpha, _ = lapack.dpotrs(factor, y, lower=1)
    inverse, _ = lapack.dpotri(factor, lower=1)  # its lower triangle, which alone counts twice where all is symmetric
    value = 0.5 * float(y @ alpha) + float(np.log(np.diag(factor)).sum())
    gradient = np.empty_like(theta)
    gradient[d] = 0.5 * (float(np.trace(inverse)) - float(alpha @ alpha)) * noise
    slope *= inverse - np.outer(0.5 * alpha, alpha)
    gradient[:d] = (5.0 / 3.0) * precision * squares.reshape(d, -1).dot(slope.ravel())
    z = (theta[:d] - prior.length_mean(d)) / _LENGTH_SD
    value += 0.5 * float(z @ z)
    gradient[:d] += z / _LENGTH_SD
    zn = (theta[d] - prior.noise) / _NOISE_SD
    gradient[d] += zn / _NOISE_SD
    return value + 0.5 * float(zn * zn), gradient


def _grouped_squares(points: Array, group: Index, d: int) -> Array:
    squares = np.zeros((d, len(points), len(points)))
    for j in range(points.shape[1]):
        squares[group[j]] += (points[:, j][:, None] - points[:, j][None]) ** 2
    return squares


def _linear(a: Array, b: Array) -> Array:
    """Covariance of a linear function about the cube's middle, of variance 1 in the mean over the cube; shape (m, n)."""
    return np.asarray((12.0 / a.shape[1]) * (a - 0.5) @ (b - 0.5).T)


def _linear_variance(points: Array) -> Array:
    """The diagonal of `_linear(points, points)`."""
    return np.asarray((12.0 / points.shape[1]) * ((points - 0.5) ** 2).sum(1))


def _squared_distances(a: Array, b: Array) -> Array:
    r2 = np.asarray((-2.0 * a) @ b.T)
    r2 += np.einsum("ij,ij->i", a, a)[:, None]
    r2 += np.einsum("ij,ij->i", b, b)
    return np.asarray(np.maximum(r2, 0.0, out=r2))


def _matern(r2: Array) -> Array:
    """(1 + s + s^2 / 3) exp(-s) with s = sqrt(5 r2), in place where it can be: this is where an ask spends its time."""
    s = np.sqrt(5.0 * r2)
    k = s * (1.0 / 3.0)
    k += 1.0
    k *= s
    k += 1.0
    np.negative(s, out=s)
    np.exp(s, out=s)
    k *= s
    return np.asarray(k)
