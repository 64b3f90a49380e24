"""Where trials succeed: the chance that one neither fails nor breaks a constraint, learned from those that did.

A failure counts as the label 1 and a success as -1 (least-squares classification: Rasmussen and Williams 2006, section 6.5),
a constraint by its value, which must be at most 0; each gets a Gaussian process, and the chances are multiplied (Gardner et
al. 2014, Bayesian optimization with inequality constraints).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr

from tunesmith.engine.encoding import Array, Index, Mask
from tunesmith.engine.gp import Posterior, fit

_LEARN_FROM = 200  # at most so many trials, the newest
_TINY = 1e-12


@dataclass(frozen=True)
class Limits:
    """What trials must stay within: processes, and for each the value that its outcome must not exceed."""

    processes: tuple[Posterior, ...] = ()
    thresholds: tuple[float, ...] = ()

    def log_chance(self, points: Array) -> Array:
        """Log of the chance that a trial at points (m, columns) succeeds; shape (m,)."""
        total = np.zeros(len(points))
        for process, threshold in zip(self.processes, self.thresholds, strict=True):
            mean, variance = process.predict(points)
            total += log_ndtr((threshold - mean) / np.sqrt(variance + process.noise))
        return total


def limits(points: Array, failed: Mask, constraints: Sequence[Sequence[float]], group: Index) -> Limits:
    """What is learned from trials at `points` (n, columns): which `failed` (n,), and each one's constraint values.

    Nothing is learned while all trials fail, or none does, nor from a constraint without a value.
    """
    columns = [np.where(failed, 1.0, -1.0)] if failed.any() and not failed.all() else []
    width = max(map(len, constraints), default=0)
    columns += [_squashed(np.array([c[k] if k < len(c) else math.nan for c in constraints])) for k in range(width)]
    processes, thresholds = [], []
    for column in columns:
        rows = np.flatnonzero(np.isfinite(column))[-_LEARN_FROM:]
        if len(rows):
            mean, spread = float(column[rows].mean()), max(float(column[rows].std()), _TINY)
            if spread > _TINY:
                processes.append(fit(points[rows], (column[rows] - mean) / spread, group))
                thresholds.append(-mean / spread)
    return Limits(tuple(processes), tuple(thresholds))


def _squashed(values: Array) -> Array:
    """Values whose large ones are drawn in and whose zero stays where it is."""
    known = np.abs(values[np.isfinite(values)])
    scale = max(float(np.median(known)) if len(known) else 1.0, _TINY)
    return np.asarray(np.arcsinh(values / scale))
