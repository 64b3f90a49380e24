"""The acquisition: log expected improvement, and a search for the point of the space where it is greatest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, log_ndtr

from tunesmith.engine.encoding import Array, Cube, Mask, Rng
from tunesmith.engine.gp import Posterior

Gain = Callable[[Array], Array]

_RANDOM, _NEAR, _KEPT = 1500, 60, 10
_STEPS = (0.1, 0.04, 0.015, 0.006, 0.0025)  # widths of the steps around the most promising points, one round each
_SMALL = 2000  # a space of at most so many points is searched whole
_FAR = -40.0  # from here on phi(z) / z^2 is exact enough, and the full expression cancels
_ANY = -1.0  # stands for whatever value a column that does not matter has
_DIGITS = 5  # points that agree to so many decimals are one configuration
UNDER_WAY = 2  # and to so many, nobody would train a second one beside the first


class Taken:
    """Configurations that are not to be suggested again, told apart to so many decimals.

    Continuous spaces need this too: a coarse integer, or a parameter at its end, is often tried again.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, bytes], set[bytes]] = {}  # decimals, and which columns matter -> the points there

    def add(self, points: Array, matter: Mask, *, digits: int = _DIGITS) -> None:
        """Take points (n, columns), with what agrees to so many `digits`.

        `matter`, of the same shape, is False where a trial did not ask for the parameter.
        """
        rows = _rows(np.where(matter, _rounded(points, digits), _ANY))
        for columns, row in zip(_rows(matter), rows, strict=True):
            self._seen.setdefault((digits, columns), set()).add(row)

    def new(self, points: Array) -> Mask:
        """Which points (m, columns) differ from each that was taken in a column that mattered to it; shape (m,)."""
        found = np.ones(len(points), bool)
        for (digits, columns), seen in self._seen.items():
            there = np.where(np.frombuffer(columns, bool), _rounded(points, digits), _ANY)
            found &= np.array([row not in seen for row in _rows(there)], bool)
        return found

    def fresh(self, points: Array) -> Array:
        """The new ones of the points; all of them when nothing else is left."""
        new = self.new(points)
        return points[new] if new.any() else points


def _rows(table: NDArray[Any]) -> list[bytes]:
    """Each row as bytes."""
    whole, width = np.ascontiguousarray(table).tobytes(), table.shape[1] * table.itemsize
    return [whole[k : k + width] for k in range(0, len(whole), width)]


def _rounded(points: Array, digits: int) -> Array:
    return np.round(points, digits) + 0.0  # + 0.0: no negative zeros


def log_improvement(posterior: Posterior, best: float, points: Array) -> Array:
    """Log of the expected improvement on `best` (lower is better) at points (m, columns); Ament et al. 2023, eq. 9."""
    mean, variance = posterior.predict(points)
    sd = np.sqrt(variance)
    return np.asarray(log_h((best - mean) / sd) + np.log(sd))


def log_h(z: Array) -> Array:
    """log(phi(z) + z Phi(z)), stable for very negative z."""
    out = np.empty_like(z)
    high = z > -1.0
    a = z[high]
    out[high] = np.log(np.exp(-0.5 * a * a) / np.sqrt(2 * np.pi) + a * np.exp(log_ndtr(a)))
    b = z[~high]
    rest = 1.0 + b * np.sqrt(np.pi / 2) * erfcx(-b / np.sqrt(2))
    rest = np.where(b < _FAR, 1.0 / np.maximum(b * b, 1.0), np.maximum(rest, 1e-300))
    out[~high] = -0.5 * b * b - 0.5 * np.log(2 * np.pi) + np.log(rest)
    return out


def maximise(
    cube: Cube,
    gain: Gain,
    starts: Array,
    *,
    avoid: Taken,
    fixed: Mapping[str, Any],
    rng: Rng,
    effort: float = 1.0,
) -> Array:
    """The point found where `gain`, a function of points (m, columns), is greatest; shape (columns,).

    Candidates are random points and neighbours of `starts` (the best known points, best first), then five rounds of ever
    smaller steps around the most promising; a small finite space is searched whole. What `avoid` holds (finished or
    pending) is not suggested again while other points are left. `fixed` parameters keep their values. `effort`: the share of
    the usual number of candidates, for models that are slow to ask.
    """
    if cube.size <= _SMALL:
        points = avoid.fresh(cube.hold(cube.everything(), fixed))
        return np.asarray(points[int(np.argmax(gain(points)))])
    share = max(0.3, 1.5 / len(cube))
    anywhere, near, kept = (math.ceil(effort * count) for count in (_RANDOM, _NEAR, _KEPT))
    candidates = [cube.from_uniform(rng.random((anywhere, len(cube))))]
    starts = cube.snap(starts)
    candidates += [cube.move(np.repeat(starts, near, 0), rng, scale=scale, share=0.5) for scale in (0.3, 0.1, 0.03)]
    candidates.append(cube.move(np.repeat(starts[:2], 2 * near, 0), rng, scale=0.15, share=1.5 / len(cube)))
    points = avoid.fresh(cube.hold(np.vstack(candidates), fixed))
    gains = gain(points)
    for scale in _STEPS:
        order = np.argsort(-gains)[:kept]
        moved = cube.hold(cube.move(np.repeat(points[order], 16, 0), rng, scale=scale, share=share), fixed)
        points = np.vstack([points[order], moved[avoid.new(moved)]])
        gains = np.r_[gains[order], gain(points[len(order) :])]
    return np.asarray(points[int(np.argmax(gains))])
