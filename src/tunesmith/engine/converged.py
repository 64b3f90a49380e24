"""Is it enough? What further trials could still gain, drawn from the model's posterior, against the noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.engine.encoding import Array, Dimension
from tunesmith.engine.importance import draw_function
from tunesmith.engine.learnt import SMALL, learn
from tunesmith.engine.warp import unwarp

FEWEST = 12  # trials, and two for each parameter more, before which nothing is called converged
_FUNCTIONS, _RANDOM, _NEAR = 24, 400, 200


@dataclass(frozen=True)
class Remaining:
    """What the best of further trials could gain, in the losses' units: the median, and the value it is below with 90 %.

    `noise` is the standard deviation of the loss of one configuration, or twice what counts as too little to matter,
    whichever is greater; `stood` the number of trials since one first came as near to the best as what matters too little.
    """

    median: float
    high: float
    noise: float
    stood: int

    @property
    def converged(self) -> bool:
        """Whether no more than half the noise is left to gain, and as many trials as must be there at all have not gained it.

        The model takes detail that it cannot follow for noise, too, and is asked again after each trial.
        """
        return self.high <= 0.5 * self.noise and self.stood >= FEWEST


def remaining(
    space: Mapping[str, Dimension], rows: Sequence[Mapping[str, Any]], losses: Sequence[float], *, seed: int
) -> Remaining | None:
    """What is left to gain after trials with parameters `rows` and finite `losses`, in their order; None while they are few.

    Functions are drawn from the posterior of a Gaussian process (over its hyperparameters too); the gain of each is what
    its lowest point, among random ones and neighbours of the best, lies below its value at the trial that is best in
    the mean (a sampled form of the expected minimum of Hennig and Schuler 2012, Entropy search).
    """
    learnt = learn(space, rows, losses, fewest=FEWEST, draws=_FUNCTIONS, seed=seed)
    if learnt is None:
        return None
    cube, points, y, target, rng = learnt.cube, learnt.points, learnt.y, learnt.target, learnt.rng
    best = points[np.argsort(y, kind="stable")[:5]]
    near = [cube.move(np.repeat(cube.snap(best), _NEAR // 10, 0), rng, scale=s, share=0.5) for s in (0.15, 0.05)]
    at = np.vstack([points, cube.from_uniform(rng.random((_RANDOM, len(cube)))), *near])
    drawn = np.array([draw_function(points, target, at, cube.group, theta=t, rng=rng) for t in learnt.thetas])
    chosen = int(drawn[:, : len(points)].mean(0).argmin())
    gains = drawn[:, chosen] - drawn.min(1)
    noise = max(float(np.median(np.exp(0.5 * learnt.thetas[:, -1]))), 2.0 * SMALL)
    in_losses = [_in_losses(v, target, y) for v in (*map(float, np.quantile(gains, [0.5, 0.9])), noise, SMALL)]
    stood = len(losses) - 1 - int(np.argmax(np.asarray(losses) <= min(losses) + in_losses[3]))
    return Remaining(median=in_losses[0], high=in_losses[1], noise=in_losses[2], stood=stood)


def _in_losses(gain: float, target: Array, y: Array) -> float:
    """A gain in warped losses as one in losses: below the best both are proportional."""
    lowest = float(target.min())
    at = unwarp(np.array([lowest - gain, lowest]), y)
    return float(at[1] - at[0])
