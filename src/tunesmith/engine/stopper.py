"""Early stopping: the chance that a trial, from its curve so far and its configuration, still becomes the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from tunesmith.engine.encoding import Array, Cube, Dimension
from tunesmith.engine.gp import fit
from tunesmith.engine.warp import half_rank

FULL = 4  # no trial is judged before so many have been trained to their ends
_LEARN_FROM = 60  # at most so many full trials, the newest
_SLACK = 1.5
_GRID = 20
_SAME = 1e-9
_FARTHEST = 4.0  # a level is at most so many ranges of the full trials' levels above the lowest of them


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

    Two judgements, and the more hopeful one counts. First, what curves can do: where `_SLACK` times the greatest fall that
    any full trial made from the same share on would reach the best, the chance is 1. So trials live on where curves
    start slowly, or plunge in mid-run. Second, a Gaussian process over (configuration, level of the curve at this
    share), fitted to where the full trials ended, with the tails of a t distribution for their small number. The level
    is the lowest loss so far where the trials' ends are the lowest of their curves (the best checkpoint counts), else
    the newest.
    """
    lowest = _lowest_counts(full)
    share = float(running.shares[-1])
    level = running.level(share, lowest=lowest)
    known = [(c, c.level(share, lowest=lowest)) for c in full[-_LEARN_FROM:]]
    known = [(c, at) for c, at in known if math.isfinite(at)]
    if len(known) < FULL or not math.isfinite(level):
        return None
    levels, ends = np.array([at for _, at in known]), np.array([c.end for c, _ in known], float)
    best = float(min(c.end for c in full if c.end is not None))
    if level - _SLACK * float(np.max(levels - ends, initial=0.0)) <= best:
        return Outlook(1.0, best, len(known))
    cube = Cube(space)
    low, spread = float(levels.min()), float(np.ptp(levels)) or 1.0
    place = np.r_[levels, level]
    features = np.minimum((place - low) / spread, _FARTHEST)[:, None]
    points = np.hstack([cube.encode([*(c.params for c, _ in known), running.params]), features])
    target = half_rank(ends)
    posterior = fit(points[:-1], target, np.r_[cube.group, len(cube)])
    mean, variance = posterior.predict(points[-1:])
    n = len(known)
    deviation = math.sqrt((float(variance[0]) + posterior.noise) * (n + 1) / (n - 1))
    return Outlook(float(student.cdf((target.min() - float(mean[0])) / deviation, n - 1)), best, n)


def median_falls(full: Sequence[Curve]) -> Array:
    """How far the newest full trials fell from shares 0, 1/20 ... 1 to their ends, in the median; shape (21,)."""
    lowest = _lowest_counts(full)
    falls = []
    for share in np.linspace(0.0, 1.0, _GRID + 1):
        levels = [(c.level(share, lowest=lowest), c.end) for c in full[-_LEARN_FROM:]]
        known = [at - end for at, end in levels if end is not None and math.isfinite(at)]
        falls.append(float(np.median(known)) if known else 0.0)
    return np.array(falls)


def expected_end(falls: Array, stopped: Curve) -> float:
    """The loss that a stopped trial would have come to if it had gone on as the full trials did."""
    return float(stopped.losses[-1] - falls[int(stopped.shares[-1] * _GRID + _SAME)])


def _lowest_counts(full: Sequence[Curve]) -> bool:
    """Whether trials end as good as the best of their curves rather than the last."""
    return all(c.end is not None and c.end <= c.losses.min() + _SAME * (1 + abs(c.end)) for c in full)
