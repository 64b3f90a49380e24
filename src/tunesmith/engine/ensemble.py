"""Two processes that disagree about what they have not seen: what neither of them rules out is worth a trial.

A process alone with long lengthscales takes detail it cannot follow for noise, and then asks for the same place again and
again; one with short lengthscales alone explores too long. Each is fitted under its own prior, and their log expected
improvements are averaged: the geometric mean asks for places that both find promising (a coarse form of the integration
over hyperparameters of Snoek et al. 2012, arXiv:1206.2944, section 3.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from tunesmith.engine import gp, warp
from tunesmith.engine.acquire import log_improvement
from tunesmith.engine.encoding import Array, Index

PRIORS = (gp.Prior(), gp.Prior(length=0.0, noise=-8.0))  # smooth and noisy; rugged and exact
FIT_ON, MODEL_ON = 100, 300  # at most so many observations for the hyperparameters, and for the model
_GROWTH = 1.1  # hyperparameters are fitted anew when the history has grown by a tenth


@dataclass(frozen=True)
class Ensemble:
    """Processes on the same `points` (n, columns) with `losses` (n,), and the best value (lowest mean) each is to beat."""

    points: Array
    losses: Array
    members: tuple[gp.Posterior, ...]
    best: tuple[float, ...]

    def believing(self, points: Array) -> Ensemble:
        """The ensemble given also that it is as expected at `points` (m, columns): there, nothing is to be gained."""
        best = tuple(min(b, float(m.mean(points).min())) for m, b in zip(self.members, self.best, strict=True))
        members = tuple(m.believing(points) for m in self.members)
        return Ensemble(np.vstack([self.points, points]), self.losses, members, best)

    def against(self, points: Array) -> Ensemble:
        """The same processes, to beat the best of `points` only: what trials broke a constraint to reach does not count."""
        return replace(self, best=tuple(float(m.mean(points).min()) for m in self.members))

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Mean and variance of the mixture of the members at points (m, columns); shapes (m,)."""
        means, variances = zip(*(m.predict(points) for m in self.members), strict=True)
        return np.mean(means, axis=0), np.mean(variances, axis=0) + np.var(means, axis=0)

    def leading(self, count: int) -> Array:
        """The `count` points whose means are lowest, lowest first."""
        means = np.sum([m.mean(self.points) for m in self.members], axis=0)
        return np.asarray(self.points[np.argsort(means, kind="stable")[:count]])

    def gain(self, points: Array) -> Array:
        """The members' mean log expected improvement at points (m, columns); shape (m,)."""
        gains = [log_improvement(m, best, points) for m, best in zip(self.members, self.best, strict=True)]
        return np.asarray(np.mean(gains, axis=0))


def ensemble(points: Array, y: Array, group: Index) -> Ensemble:
    """The processes given losses `y` (n,) at `points` (n, columns), or given a choice of them when they are many."""
    learnt = thinned(y[: _fitted_on(len(y))], FIT_ON)
    thetas = [gp.mode(points[learnt], warp.half_rank(y[learnt]), group, prior=prior) for prior in PRIORS]
    rows = thinned(y, MODEL_ON)
    at, warped = points[rows], warp.half_rank(y[rows])
    members = tuple(gp.condition(at, warped, group, theta) for theta in thetas)
    return Ensemble(at, y[rows], members, tuple(float(m.mean(at).min()) for m in members))


def thinned(y: Array, most: int) -> Index:
    """Indices of at most `most` observations: the best ones for one half, an even choice of the others by rank."""
    if len(y) <= most:
        return np.arange(len(y))
    order = np.argsort(y, kind="stable")
    best = most // 2
    others = np.linspace(best, len(y) - 1, most - best).round().astype(int)
    return np.sort(order[np.r_[:best, others]])


def _fitted_on(count: int) -> int:
    """The last length of the history at which hyperparameters were due, so that most asks find them fitted."""
    due = 1
    while (following := max(due + 1, math.ceil(_GROWTH * due))) <= count:
        due = following
    return due
