"""Where trials succeed: the chance that one neither fails nor breaks a constraint, learned from those that did.

A failure counts as the label 1 and a success as -1 (least-squares classification: Rasmussen and Williams 2006, section 6.5),
a constraint by its value, which must be at most 0; each gets a Gaussian process, and the chances are multiplied (Gardner et
al. 2014, Bayesian optimization with inequality constraints). Memory and divergence are monotone in most parameters' logarithms,
so that the labels' process has a linear trend. It takes labels for as noisy as they are spread: a label only says on which side of a
boundary the trial lay, and a process that passes through each of them is sure of success too near to a failure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr

from tunesmith.engine.encoding import Array, Index, Mask
from tunesmith.engine.gp import USUAL, Posterior, Prior, fit

_LEARN_FROM = 200  # at most so many trials, the newest
_TINY = 1e-12
_LABELS = Prior(noise=0.0, trend=1.0)
_SAFE, _CARE = 0.9, 4.0  # where the chance is below, it counts by so much more


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

    def log_weight(self, points: Array) -> Array:
        """What is added to the log of a gain at points (m, columns), shape (m,): the log chance, five times below 0.9.

        The chance alone would have trials fail until nothing else is worth one: a boundary that holds the best is met again and again.
        """
        chance = self.log_chance(points)
        return np.asarray(chance + _CARE * np.minimum(chance - math.log(_SAFE), 0.0))


def limits(points: Array, failed: Mask, constraints: Sequence[Sequence[float]], group: Index) -> Limits:
    """What is learned from trials at `points` (n, columns): which `failed` (n,), and each one's constraint values.

    Nothing is learned while all trials fail, or none does, nor from a constraint without a value.
    """
    columns = [np.where(failed, 1.0, -1.0)] if failed.any() and not failed.all() else []
    priors = [_LABELS] * len(columns)
    width = max(map(len, constraints), default=0)
    priors += [USUAL] * width
    columns += [_squashed(np.array([c[k] if k < len(c) else math.nan for c in constraints])) for k in range(width)]
    processes, thresholds = [], []
    for column, prior in zip(columns, priors, strict=True):
        rows = np.flatnonzero(np.isfinite(column))[-_LEARN_FROM:]
        if len(rows):
            mean, spread = float(column[rows].mean()), max(float(column[rows].std()), _TINY)
            if spread > _TINY:
                processes.append(fit(points[rows], (column[rows] - mean) / spread, group, prior=prior))
                thresholds.append(-mean / spread)
    return Limits(tuple(processes), tuple(thresholds))


def _squashed(values: Array) -> Array:
    """Values whose large ones are drawn in and whose zero stays where it is."""
    known = np.abs(values[np.isfinite(values)])
    scale = max(float(np.median(known)) if len(known) else 1.0, _TINY)
    return np.asarray(np.arcsinh(values / scale))
