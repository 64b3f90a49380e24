"""Early stopping: the chance that a trial, from its curve so far and its configuration, still becomes the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtr

from tunesmith.engine.encoding import Array, Cube, Dimension, Index
from tunesmith.engine.gp import Prior, fit
from tunesmith.engine.warp import half_rank, unwarp

FULL = 4  # no trial is judged before so many have been trained to their ends
_LEARN_FROM = 60  # at most so many full trials, the newest
_GRID = 20  # stopped trials are compared at so many shares of training
_SAME = 1e-9
_RIDGE = 0.25  # the precision of the line's prior, in units of one trial: it keeps few trials from deciding it
_COEFFICIENTS = 2  # of the line
_RUGGED = Prior(length=0.0, noise=-8.0)  # smooth ones are sure of configurations that are far from all full trials
_EXACT = 1e-6  # a sum of squares below this is rounding: no line is believed to fit better


@dataclass(frozen=True)
class Curve:
    """A trial's losses (lower is better) at ascending shares of its training, 0 to 1; both of shape (reports,).

    `end` is the loss that it came to, None while it runs.
    """

    params: Mapping[str, Any]
    shares: Array
    losses: Array
    end: float | None = None

    def level(self, share: float, *, lowest: bool) -> float:
        """The loss reported last up to `share`, or the lowest of those; NaN before the first report."""
        known = self.losses[self.shares <= share + _SAME]
        if not len(known):
            return math.nan
        return float(known.min() if lowest else known[-1])


@dataclass(frozen=True)
class Outlook:
    """What a running trial may come to: the `chance` that it ends below `best`, `against` so many full trials."""

    chance: float
    best: float
    against: int


def outlook(space: Mapping[str, Dimension], full: Sequence[Curve], running: Curve) -> Outlook | None:
    """How likely the running trial is to become the best; None when too few full trials say anything.

    Full trials tell where trials end that stood at such a level at this share of their training. Two forecasts are made
    of that, each with the tails of a t distribution for their small number, and the mean of the chances that they leave
    counts: a trial goes on while either gives it one. Where curves start slowly, cross or plunge in mid-run, levels say
    little about ends, the forecasts are wide, and trials live on; so do configurations far from those of all full trials.
    The level is the lowest loss so far where the trials' ends are the lowest of their curves (the best checkpoint counts),
    else the newest.
    """
    lowest = _lowest_counts(full)
    share = float(running.shares[-1])
    level = running.level(share, lowest=lowest)
    known = [(c, c.level(share, lowest=lowest)) for c in full[-_LEARN_FROM:]]
    known = [(c, at) for c, at in known if math.isfinite(at)]
    if len(known) < FULL or not math.isfinite(level):
        return None
    cube = Cube(space)
    points = cube.encode([*(c.params for c, _ in known), running.params])
    levels = np.array([*(at for _, at in known), level])
    target = half_rank(np.array([c.end for c, _ in known], float))
    forecasts = [_by_process(points, levels, target, cube.group), _by_line(points, levels, target, cube.group)]
    best = float(min(c.end for c in full if c.end is not None))
    return Outlook(float(np.mean([f.below(float(target.min())) for f in forecasts])), best, len(known))


@dataclass(frozen=True)
class _Forecast:
    """Where the last of some points ends, in warped losses: Student's t distribution about `mean`."""

    mean: float
    deviation: float
    freedom: int

    def below(self, value: float) -> float:
        """The chance that it ends below `value`."""
        return float(stdtr(self.freedom, (value - self.mean) / self.deviation))


def _by_process(points: Array, levels: Array, target: Array, group: Index) -> _Forecast:
    """By a Gaussian process over (configuration, level): levels may tell anything about ends, or nothing.

    `points` (n + 1, columns) and `levels` (n + 1,) end with those of the running trial, `target` (n,) are the full
    trials' warped ends.
    """
    n, known = len(target), levels[:-1]
    place = (levels - known.min()) / (float(np.ptp(known)) or 1.0)
    features = np.hstack([points, np.minimum(place, 1.0)[:, None]])  # beyond the worst known, nothing would be known
    posterior = fit(features[:-1], target, np.r_[group, group.max() + 1], prior=_RUGGED)
    mean, variance = posterior.predict(features[-1:])
    return _Forecast(float(mean[0]), math.sqrt((float(variance[0]) + posterior.noise) * (n + 1) / (n - 1)), n - 1)


def _by_line(points: Array, levels: Array, target: Array, group: Index) -> _Forecast:
    """By a line from warped levels to warped ends, and a Gaussian process over configurations for what it leaves.

    Bayesian linear regression (Bishop 2006, section 3.3); arguments as of `_by_process`. Where ends go by levels, this is
    sure sooner than the process, whose prior knows no parameter that matters more than others.
    """
    n = len(target)
    freedom = n - _COEFFICIENTS
    rows, line, covariance = _line(levels, target)
    left = target - rows[:n] @ line
    squares = max(float(left @ left), _EXACT)
    scale = squares / n
    posterior = fit(points[:-1], left / math.sqrt(scale), group, prior=_RUGGED)
    mean, variance = posterior.predict(points[-1:])
    unsure = float(rows[-1] @ covariance @ rows[-1]) + float(variance[0]) + posterior.noise
    return _Forecast(
        float(rows[-1] @ line) + math.sqrt(scale) * float(mean[0]), math.sqrt(squares / freedom * unsure), freedom
    )


def _line(levels: Array, target: Array) -> tuple[Array, Array, Array]:
    """The line from warped `levels` (n + m,) to warped ends `target` (n,) of the first n, by ridge regression.

    Gives its design, shape (n + m, 2), its coefficients (2,), and their covariance (2, 2) in units of the noise.
    """
    n = len(target)
    rows = np.column_stack([np.ones(len(levels)), half_rank(levels)])
    covariance = np.linalg.inv(rows[:n].T @ rows[:n] + _RIDGE * np.eye(_COEFFICIENTS))
    return rows, covariance @ rows[:n].T @ target, covariance


def expected_ends(full: Sequence[Curve], stopped: Sequence[Curve]) -> tuple[Array, Array]:
    """The losses that stopped trials would have come to, as the full trials' ends go by their levels; and how sure that is.

    Means and standard deviations of shape (stopped,), by the line of those that stopped at about the same share. Where no
    full trial had reported by then, the newest loss, and the spread of the full trials' ends.
    """
    lowest = _lowest_counts(full)
    found = np.array([c.losses[-1] for c in stopped])
    spread = np.full(len(stopped), float(np.std(np.array([c.end for c in full], float))))
    ticks = np.array([math.ceil(c.shares[-1] * _GRID - _SAME) for c in stopped])
    for tick in np.unique(ticks):
        known = [(c.level(tick / _GRID, lowest=lowest), c.end) for c in full[-_LEARN_FROM:]]
        levels, ends = np.array([k for k in known if math.isfinite(k[0])], float).reshape(-1, 2).T
        if len(ends):
            here = ticks == tick
            theirs = [c.level(1.0, lowest=lowest) for c, at in zip(stopped, ticks, strict=True) if at == tick]
            target = half_rank(ends)
            rows, line, covariance = _line(np.r_[levels, theirs], target)
            left, rows = target - rows[: len(ends)] @ line, rows[len(ends) :]
            unsure = 1.0 + np.einsum("ij,jk,ik->i", rows, covariance, rows)
            deviation = np.sqrt(unsure * max(float(left @ left), _EXACT) / max(len(ends) - _COEFFICIENTS, 1))
            found[here] = unwarp(rows @ line, ends)
            spread[here] = found[here] - unwarp(rows @ line - deviation, ends)
    return found, spread


def _lowest_counts(full: Sequence[Curve]) -> bool:
    """Whether trials end as good as the best of their curves rather than the last."""
    return all(c.end is not None and c.end <= c.losses.min() + _SAME * (1 + abs(c.end)) for c in full)
