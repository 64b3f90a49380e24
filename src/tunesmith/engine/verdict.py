"""Is the best trial really the best? How the leading configurations compare once the noise is set against their margins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.engine import gp
from tunesmith.engine.encoding import Array, Dimension, Index, Rng
from tunesmith.engine.learnt import SMALL, learn
from tunesmith.engine.warp import unwarp

FEWEST = 6  # trials, and two for each parameter more, below which nothing is said
_MEASURED = 3  # degrees of freedom from which the noise is that of repeated configurations
_LEADERS = 24  # configurations that are compared
_MODELS, _DRAWS = 24, 64


@dataclass(frozen=True)
class Verdict:
    """The best configuration among those tried; losses are in their own units.

    `noise` is the standard deviation of a configuration's loss: that of `repeats` (its degrees of freedom) where there
    are enough of them, else (`repeats` 0) what the model takes it for. `chance` is how likely the first is truly the best
    of those tried, `rivals` are the others (index of the row, chance), most likely first, and `again` what training the
    first again would come to: the median, and a 90 % interval.
    """

    noise: float
    repeats: int
    chance: float
    rivals: tuple[tuple[int, float], ...]
    again: tuple[float, float, float]


def verdict(
    space: Mapping[str, Dimension], rows: Sequence[Mapping[str, Any]], losses: Sequence[float], *, seed: int
) -> Verdict | None:
    """Compare the leading configurations of trials with parameters `rows` and finite `losses`; None while they are few.

    The noise-free losses of the leaders are drawn jointly from the posterior of a Gaussian process, its hyperparameters
    drawn too. The best of many noisy results is better than it will be again: the model expects that (the optimiser's
    curse, Smith and Winkler 2006). A configuration that was run several times, with other seeds, is one configuration.
    """
    learnt = learn(space, rows, losses, fewest=FEWEST, draws=_MODELS, seed=seed)
    if learnt is None:
        return None
    points, y, target, rng = learnt.points, learnt.y, learnt.target, learnt.rng
    same = np.unique(points, axis=0, return_inverse=True)[1].reshape(-1)
    thetas, (repeats, variance) = learnt.thetas.copy(), _repeated(target, same)
    if repeats >= _MEASURED:
        thetas[:, -1] = math.log(max(variance, SMALL**2))
    else:
        repeats = 0
    order = np.argsort(y, kind="stable")
    leaders = np.array([k for n, k in enumerate(order) if same[k] not in same[order[:n]]][:_LEADERS])
    drawn = np.vstack([_joint(points, target, learnt.cube.group, theta, points[leaders], rng) for theta in thetas])
    chances = np.bincount(drawn.argmin(1), minlength=len(leaders)) / len(drawn)
    noise = np.repeat(np.exp(0.5 * thetas[:, -1]), _DRAWS)
    again = unwarp(np.quantile(drawn[:, 0] + noise * rng.normal(size=len(drawn)), [0.5, 0.05, 0.95]), y)
    unit = unwarp(np.array([target.min() - float(np.median(noise)), target.min()]), y)
    others = sorted(
        ((int(learnt.kept[leaders[k]]), float(chances[k])) for k in range(1, len(leaders))), key=lambda o: -o[1]
    )
    middle, low, high = map(float, again)
    return Verdict(float(unit[1] - unit[0]), repeats, float(chances[0]), tuple(others), (middle, low, high))


def _repeated(target: Array, same: Index) -> tuple[int, float]:
    """Degrees of freedom and variance of repeats in the better half, where the warped losses are proportional to losses.

    Repeats that came to exactly the same (the same seed) say nothing of what another seed would do.
    """
    better = target <= np.median(target)
    squares, free = 0.0, 0
    for group in np.unique(same):
        values = target[(same == group) & better]
        if len(set(values.tolist())) > 1:
            squares += float(((values - values.mean()) ** 2).sum())
            free += len(values) - 1
    return free, squares / free if free else 0.0


def _joint(points: Array, target: Array, group: Index, theta: Array, at: Array, rng: Rng) -> Array:
    """Draws (draws, m) of the noise-free function at `at` (m, columns), given hyperparameters."""
    posterior = gp.condition(points, target, group, theta)
    mean, covariance = posterior.joint(at)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return np.asarray(mean + rng.normal(size=(_DRAWS, len(at))) @ root.T)
