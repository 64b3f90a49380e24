"""What to try next: the middle, a few Sobol points, then a Gaussian process with expected improvement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import qmc

from tunesmith.engine import pareto, warp
from tunesmith.engine.acquire import fresh, log_improvement, maximise
from tunesmith.engine.encoding import Array, Cube, Dimension, Index, Rng
from tunesmith.engine.gp import Posterior, fit

START = 4  # Sobol points before the first model
_STARTS = 16  # Sobol points in all, for trials asked for while none has finished
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
    space: Mapping[str, Dimension],
    history: Sequence[Observation],
    pending: Sequence[Mapping[str, Any]],
    *,
    seed: int,
    number: int,
    fixed: Mapping[str, Any] | None = None,
) -> Suggestion:
    """The parameters for trial `number`; a pure function of its arguments.

    `history` are finished trials in order, `pending` the parameters of those under way: they are taken to end as the
    model expects. `fixed` values are kept, and the others chosen to go with them. Two or three objectives are traded off
    by the dominated volume, more by a random augmented Chebyshev scalarisation.
    """
    fixed = {} if fixed is None else {name: value for name, value in fixed.items() if name in space}
    cube = Cube(space)
    rng = np.random.default_rng([seed, number])
    if not len(cube):
        return Suggestion({}, {"how": "empty"})
    known = cube.encode([o.params for o in history])
    waiting = cube.encode([p for p in pending if p])
    avoid = np.vstack([known, waiting])
    informative = sum(np.isfinite(o.losses).all() for o in history)
    if informative < START:
        point = _start(cube, avoid, fixed, seed=seed, number=number)
        return Suggestion({**cube.decode(point), **fixed}, {"how": "start"})
    losses = np.column_stack([warp.impute(column) for column in np.array([o.losses for o in history], float).T])
    if 1 < losses.shape[1] <= pareto.MOST:
        point, _ = pareto.propose(cube, known, losses, waiting, avoid=avoid, fixed=fixed, rng=rng)
        why = {"how": "model", "model": "volume", "observations": len(losses)}
        return Suggestion({**cube.decode(point), **fixed}, why)
    y = losses[:, 0] if losses.shape[1] == 1 else _joined(losses, rng)
    rows = _thinned(y, MODEL_ON, rng)
    warping, length_mean = _MODELS[len(history) % len(_MODELS)] if len(y) >= ENSEMBLE_FROM else _MODELS[0]
    posterior = _model(cube, known[rows], warping(y[rows]), waiting, length_mean=length_mean, rng=rng)
    seen = np.vstack([known[rows], waiting])
    means = posterior.mean(seen)
    gain = partial(log_improvement, posterior, float(means.min()))
    point = maximise(cube, gain, seen[np.argsort(means)[:5]], avoid=avoid, fixed=fixed, rng=rng)
    why = _account(posterior, point, warping.__name__, observations=len(y))
    return Suggestion({**cube.decode(point), **fixed}, why)


def draw(dimension: Dimension, *, seed: int, number: int, name: str) -> Any:
    """A value at random, keyed by seed, trial and name: for a parameter that no earlier trial had."""
    cube = Cube({name: dimension})
    rng = np.random.default_rng([seed, number, *name.encode()])
    return cube.decode(cube.from_uniform(rng.random((1, 1)))[0])[name]


def _start(cube: Cube, avoid: Array, fixed: Mapping[str, Any], *, seed: int, number: int) -> Array:
    """The middle of the space, then scrambled Sobol points (Owen 1998) by trial number; the first that is new.

    People choose ranges around what they expect to be good: on the benchmark's problems the middle alone is worth
    several trials, and the model knows from it which ends of the ranges are too far out.
    """
    middle = np.full((1, len(cube)), 0.5)
    sobol = qmc.Sobol(len(cube), scramble=True, seed=np.random.default_rng([seed]))
    spare = np.random.default_rng([seed, number]).random((64, len(cube)))
    tries = np.vstack([middle, sobol.random(_STARTS)[number % _STARTS][None], spare])
    return np.asarray(fresh(cube.hold(cube.from_uniform(tries), fixed), avoid)[0])


def _joined(losses: Array, rng: Rng) -> Array:
    """One loss per trial, shape (n,): the objectives scaled to [0, 1] and weighted at random (ParEGO, Knowles 2006)."""
    columns = np.column_stack([warp.half_rank(c) for c in losses.T])
    scaled = (columns - columns.min(0)) / np.maximum(np.ptp(columns, axis=0), 1e-12)
    weights = rng.dirichlet(np.ones(losses.shape[1]))
    return np.asarray((weights * scaled).max(1) + 0.05 * scaled @ weights)


def _thinned(y: Array, most: int, rng: Rng) -> Index:
    """Indices of at most `most` observations: the better half of them the best ones, the rest at random."""
    if len(y) <= most:
        return np.arange(len(y))
    order = np.argsort(y, kind="stable")
    rest = rng.choice(order[most // 2 :], most - most // 2, replace=False)
    return np.sort(np.r_[order[: most // 2], rest])


def _model(
    cube: Cube, known: Array, target: Array, waiting: Array, *, length_mean: float | None, rng: Rng
) -> Posterior:
    """The process given the finished trials, and the pending ones as expected: there, nothing is to be gained."""
    subset = _thinned(target, FIT_ON, rng) if len(target) > FIT_ON else None
    posterior = fit(known, target, cube.group, length_mean=length_mean, subset=subset)
    return posterior.believing(waiting) if len(waiting) else posterior


def _account(posterior: Posterior, point: Array, model: str, *, observations: int) -> dict[str, Any]:
    """Why this point: where the model expects it among the losses seen, and whether it explores."""
    mean, variance = posterior.predict(point[None])
    sd = math.sqrt(float(variance[0]))
    return {
        "how": "model",
        "model": model,
        "expected_sd_from_mean": round(float(mean[0]), 4),
        "uncertainty": round(sd, 4),
        "mode": "explore" if sd > abs(float(mean[0])) else "exploit",
        "observations": observations,
    }
