"""What a model learns from finished trials before it is asked a question about all of them: shared by verdict and converged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.engine.encoding import Array, Cube, Dimension, Index, Rng
from tunesmith.engine.importance import hyperparameters
from tunesmith.engine.warp import half_rank

LEARN_FROM = 150
SMALL = 0.03  # of a standard deviation: a gain that nobody would train another model for


@dataclass(frozen=True)
class Learnt:
    """The best trials, in their order, and draws of hyperparameters.

    `kept` (n,) are their indices among all trials, `points` (n, columns) and losses `y` (n,) theirs, `target` (n,) the
    losses warped, `thetas` (draws, parameters + 1) as from `hyperparameters`. `rng` goes on from those draws.
    """

    cube: Cube
    kept: Index
    points: Array
    y: Array
    target: Array
    thetas: Array
    rng: Rng


def learn(
    space: Mapping[str, Dimension],
    rows: Sequence[Mapping[str, Any]],
    losses: Sequence[float],
    *,
    fewest: int,
    draws: int,
    seed: int,
) -> Learnt | None:
    """Learn from trials with parameters `rows` and finite `losses`; None below `fewest` and two more for each parameter."""
    if len(losses) < fewest + 2 * len(space):
        return None
    cube, rng = Cube(space), np.random.default_rng([seed, len(losses)])
    kept = np.sort(np.argsort(losses, kind="stable")[:LEARN_FROM])
    points, y = cube.encode([rows[k] for k in kept]), np.asarray(losses, float)[kept]
    target = half_rank(y)
    thetas = hyperparameters(points, target, cube.group, count=draws, rng=rng)
    return Learnt(cube, kept, points, y, target, thetas, rng)
