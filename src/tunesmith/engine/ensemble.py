"""Two processes that disagree about what they have not seen: what neither of them rules out is worth a trial.

A process alone with long lengthscales takes detail it cannot follow for noise, and then asks for the same place again and
again; one with short lengthscales alone explores too long. Each is fitted under its own prior, and their log expected
improvements are averaged: the geometric mean asks for places that both find promising (a coarse form of the integration
over hyperparameters of Snoek et al. 2012, arXiv:1206.2944, section 3.2).

Of few trials the most likely hyperparameters are most likely wrong: some one parameter always explains them all, and the search
would follow it to its ends. Then each prior has several processes, with hyperparameters drawn from their posterior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from tunesmith.engine import gp, warp
from tunesmith.engine.acquire import log_improvement
from tunesmith.engine.encoding import Array, Index, Mask

PRIORS = (gp.Prior(trend=0.3), gp.Prior(length=0.0, noise=-8.0))  # smooth, noisy, with a trend; rugged and exact
FIT_ON, MODEL_ON = 100, 250  # at most so many observations for the hyperparameters, and for the model
_WORTH = 0.05  # of a standard deviation: a smaller gain than that is not worth a trial
_PENDING_ON = 150  # at most so many pending trials for the model
_EASY = 70  # a model of at most so many points is searched with full effort
_GROWTH = 1.1  # hyperparameters are fitted anew when the history has grown by a tenth


@dataclass(frozen=True)
class Ensemble:
    """Processes on the same `points` (n, columns), some of them with `losses`.

    `means` (members, n) are what the members expect at the points, `best` (members,) the values to improve on.
    """

    points: Array
    losses: Array
    members: tuple[gp.Posterior, ...]
    means: Array
    best: Array

    def believing(self, points: Array) -> Ensemble:
        """The ensemble given also that it is as expected at `points` (m, columns): there, nothing is to be gained.

        Of many points, those of the lowest means: what is expected to be bad attracts nobody anyway.
        """
        means = np.array([m.mean(points) for m in self.members])
        lowest = np.argsort(means.mean(0), kind="stable")[:_PENDING_ON]
        return replace(
            self,
            points=np.vstack([self.points, points[lowest]]),
            members=tuple(m.believing(points[lowest]) for m in self.members),
            means=np.hstack([self.means, means[:, lowest]]),
            best=np.minimum(self.best, means.min(1)),
        )

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Mean and variance of the mixture of the members at points (m, columns); shapes (m,)."""
        return gp.mixture(self.members, points)

    def leading(self, count: int) -> Array:
        """The `count` points whose means are lowest, lowest first."""
        return np.asarray(self.points[np.argsort(self.means.mean(0), kind="stable")[:count]])

    def gain(self, points: Array) -> Array:
        """The members' mean log expected improvement at points (m, columns); shape (m,)."""
        gains = [
            log_improvement(m, best - _WORTH, points) for m, best in zip(self.members, self.best.tolist(), strict=True)
        ]
        return np.asarray(np.mean(gains, axis=0))

    @property
    def effort(self) -> float:
        """The share of the usual candidates that a search of this model takes; a candidate costs the points' square."""
        return min(1.0, (_EASY / len(self.points)) ** 2)


def ensemble(points: Array, y: Array, group: Index, *, allowed: Mask, spread: Array) -> Ensemble:
    """The processes given losses `y` (n,) at `points` (n, columns), or given a choice of them when they are many.

    `spread` (n,) are the standard deviations of losses that are forecasts, 0 where they were seen. What is to be improved
    on are the `allowed` ones only: what trials broke a constraint to reach does not count.
    """
    rows = np.union1d(thinned(y, MODEL_ON), np.argmin(np.where(allowed, y, np.inf)))
    at, warped, doubt = points[rows], warp.half_rank(y[rows]), warp.half_rank_spread(y, spread) ** 2
    members = []
    for k, prior in enumerate(PRIORS):
        if len(y) <= gp.FEW:
            thetas = gp.draws(at, warped, group, gp.DRAWS, prior=prior, doubt=doubt[rows])
        else:
            learnt = thinned(y[: k + fitted_on(len(y) - k)], FIT_ON)  # shifted by k: no ask has to fit them all
            fitted = warp.half_rank(y[learnt])
            thetas = gp.mode(points[learnt], fitted, group, prior=prior, doubt=doubt[learnt])[None]
        members += [gp.condition(at, warped, group, theta, trend=prior.trend, doubt=doubt[rows]) for theta in thetas]
    means = np.array([m.mean(at) for m in members])
    return Ensemble(at, y[rows], tuple(members), means, means[:, allowed[rows]].min(1))


def thinned(y: Array, most: int) -> Index:
    """Indices of at most `most` observations: the best ones for one half, an even choice of the others by rank."""
    if len(y) <= most:
        return np.arange(len(y))
    order = np.argsort(y, kind="stable")
    best = most // 2
    others = np.linspace(best, len(y) - 1, most - best).round().astype(int)
    return np.sort(order[np.r_[:best, others]])


def fitted_on(count: int) -> int:
    """The last length of the history at which hyperparameters were due, so that most asks find them fitted."""
    due = 1
    while (following := max(due + 1, math.ceil(_GROWTH * due))) <= count:
        due = following
    return due
