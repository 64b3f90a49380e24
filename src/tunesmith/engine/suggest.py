"""What to try next: a few Sobol points, then a Gaussian process with expected improvement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from scipy.stats import qmc

from tunesmith.engine import warp
from tunesmith.engine.acquire import maximise
from tunesmith.engine.encoding import Array, Cube, Rng
from tunesmith.engine.gp import Posterior, condition, fit

START = 4  # Sobol points before the first model
ENSEMBLE_FROM = 14  # observations from which models alternate from ask to ask
FIT_ON, MODEL_ON = 120, 400  # at most so many observations for the hyperparameters, and for the model

# warping, and the prior's mean log lengthscale (None: by the number of parameters)
_MODELS = ((warp.half_rank, None), (warp.log_gap, 0.0), (warp.power, None), (warp.half_rank, 0.0))


@dataclass(frozen=True)
class Observation:
    """A trial as the engine sees it: parameters and losses (one per objective, lower is better; NaN when it failed)."""

    params: Mapping[str, Any]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Suggestion:
    """Parameters to try, and why (JSON)."""

    params: dict[str, Any]
    why: dict[str, Any]


def suggest(
    space: Mapping[str, BaseDistribution],
    history: Sequence[Observation],
    pending: Sequence[Mapping[str, Any]],
    *,
    seed: int,
    number: int,
) -> Suggestion:
    """The parameters for trial `number`; a pure function of its arguments.

    `history` are finished trials in order, `pending` the parameters of those under way: they are taken to end as the
    model expects. Several objectives are joined by a random augmented Chebyshev scalarisation (ParEGO, Knowles 2006).
    """
    cube = Cube(space)
    rng = np.random.default_rng([seed, number])
    if not len(cube):
        return Suggestion({}, {"how": "empty"})
    known = cube.encode([o.params for o in history])
    waiting = cube.encode(list(pending))
    avoid = np.vstack([known, waiting]) if cube.size <= 1e6 else waiting  # noqa: PLR2004  else repeats are unlikely
    informative = sum(np.isfinite(o.losses).all() for o in history)
    if informative < START:
        return Suggestion(cube.decode(_start(cube, seed, number, avoid, rng)), {"how": "start"})
    y = _loss(np.array([o.losses for o in history], float), rng)
    rows = _thinned(y, MODEL_ON, rng)
    point, posterior, how = _improve(cube, known[rows], y[rows], waiting, avoid, rng, turn=len(history))
    return Suggestion(cube.decode(point), _account(posterior, point, how, y))


def draw(distribution: BaseDistribution, *, seed: int, number: int, name: str) -> Any:
    """A value at random, keyed by seed, trial and name: for a parameter that no earlier trial had."""
    cube = Cube({name: distribution})
    rng = np.random.default_rng([seed, number, *name.encode()])
    return cube.decode(cube.from_uniform(rng.random((1, 1)))[0])[name]


def _start(cube: Cube, seed: int, number: int, avoid: Array, rng: Rng) -> Array:
    """Scrambled Sobol points (Owen 1998) by trial number, the first that is new."""
    sobol = qmc.Sobol(len(cube), scramble=True, rng=np.random.default_rng([seed])).random_base2(4)
    tries = np.vstack([sobol[number % len(sobol)][None], rng.random((64, len(cube)))])
    for point in cube.from_uniform(tries):
        if not len(avoid) or ((avoid - point) ** 2).sum(1).min() > 1e-9:  # noqa: PLR2004
            return point
    return cube.from_uniform(tries[:1])[0]


def _loss(losses: Array, rng: Rng) -> Array:
    """One loss per trial, shape (n,); several objectives weighted at random after scaling to [0, 1]."""
    if losses.shape[1] == 1:
        return warp.impute(losses[:, 0])
    columns = np.column_stack([warp.half_rank(warp.impute(c)) for c in losses.T])
    scaled = (columns - columns.min(0)) / np.maximum(np.ptp(columns, axis=0), 1e-12)
    weights = rng.dirichlet(np.ones(losses.shape[1]))
    return np.asarray((weights * scaled).max(1) + 0.05 * scaled @ weights)


def _thinned(y: Array, most: int, rng: Rng) -> Array:
    """Indices of at most `most` observations: the better half of them the best ones, the rest at random."""
    if len(y) <= most:
        return np.arange(len(y))
    order = np.argsort(y, kind="stable")
    rest = rng.choice(order[most // 2 :], most - most // 2, replace=False)
    return np.sort(np.r_[order[: most // 2], rest])


def _improve(
    cube: Cube, known: Array, y: Array, waiting: Array, avoid: Array, rng: Rng, *, turn: int
) -> tuple[Array, Posterior, str]:
    warping, length_mean = _MODELS[turn % len(_MODELS)] if len(y) >= ENSEMBLE_FROM else _MODELS[0]
    target = warping(y)
    subset = _thinned(target, FIT_ON, rng) if len(y) > FIT_ON else None
    posterior = fit(known, target, cube.group, length_mean=length_mean, subset=subset)
    if len(waiting):  # kriging believer (Ginsbourger et al. 2010): pending trials end as expected
        expected, _ = posterior.predict(waiting)
        theta = np.r_[np.log(posterior.lengths), math.log(posterior.noise)]
        known = np.vstack([known, waiting])
        posterior = condition(known, np.r_[target, expected], cube.group, theta)
    point, _ = maximise(cube, posterior, known, avoid, rng)
    return point, posterior, warping.__name__


def _account(posterior: Posterior, point: Array, model: str, y: Array) -> dict[str, Any]:
    """Why this point: where the model expects it among the losses seen, and whether it explores."""
    mean, variance = posterior.predict(point[None])
    sd = math.sqrt(float(variance[0]))
    return {
        "how": "model",
        "model": model,
        "expected_sd_from_mean": round(float(mean[0]), 4),
        "uncertainty": round(sd, 4),
        "mode": "explore" if sd > abs(float(mean[0])) else "exploit",
        "observations": len(y),
    }
