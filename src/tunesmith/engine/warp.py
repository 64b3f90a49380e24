"""Output warping: losses as numbers that a Gaussian process can model, lower still being better."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri

from tunesmith.engine.encoding import Array

_TINY = 1e-12  # a spread below this is rounding, not information


def impute(losses: Array) -> Array:
    """Failed trials (NaN or inf) count as the worst finite loss: their region is avoided, the model is not bent."""
    finite = np.isfinite(losses)
    worst = losses[finite].max() if finite.any() else 0.0
    return np.where(finite, losses, worst)


def standard(y: Array) -> Array:
    """Mean 0, variance 1."""
    spread = y.std()
    return np.asarray((y - y.mean()) / (spread if spread > _TINY else 1.0))


def half_rank(y: Array) -> Array:
    """The better half as it is, the worse half by Gaussian ranks: outliers lose their pull, the good keep their order.

    After the half-rank warping of Vizier (Song et al. 2024, arXiv:2408.11527, section 3.2).
    """
    median = float(np.median(y))
    good = y <= median
    deviation = math.sqrt(float(np.mean((y[good] - median) ** 2)))
    scores = ndtri((_ranks(y) - 0.5) / len(y))
    unit = math.sqrt(float(np.mean(scores[good] ** 2))) or 1.0
    return standard(np.where(good, y, median + (deviation or 1e-9) * scores / unit))


def _ranks(y: Array) -> Array:
    """The ranks from 1, of equal values their mean."""
    _, which, counts = np.unique(y, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[which])


def half_rank_spread(y: Array, spread: Array) -> Array:
    """How far losses `y` (n,) come down in `half_rank(y)` when they are better by `spread` (n,)."""
    to, order = half_rank(y), np.argsort(y, kind="stable")
    below = y - spread
    return np.asarray(to - np.interp(below, y[order], to[order]) - _beyond(below, y, to))


def unwarp(warped: Array, y: Array) -> Array:
    """The losses that `half_rank` turns into `warped`, where it was made from losses `y`; the worst of them at most."""
    to, order = half_rank(y), np.argsort(y, kind="stable")
    return np.asarray(np.interp(warped, to[order], y[order]) + _beyond(warped, to, y))


def _beyond(at: Array, x: Array, y: Array) -> Array:
    """What is added to y(x) at `at` below the least x: the better half is a line, and so is what is better yet."""
    order = np.argsort(x, kind="stable")
    best, other = order[0], order[(len(x) - 1) // 2]
    slope = (y[other] - y[best]) / max(x[other] - x[best], _TINY)
    return np.asarray(np.minimum(at - x[best], 0.0) * slope)
