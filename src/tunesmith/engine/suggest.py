"""What to try next: the middle, a few Sobol points, then a Gaussian process with expected improvement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import qmc

from tunesmith.engine import pareto, warp
from tunesmith.engine.acquire import fresh, maximise, rounded
from tunesmith.engine.encoding import Array, Cube, Dimension, Rng
from tunesmith.engine.ensemble import Ensemble, ensemble

START = 4  # Sobol points before the first model
_STARTS = 16  # Sobol points in all, for trials asked for while none has finished


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
    held = {} if fixed is None else fixed
    return suggest_many(space, history, pending, seed=seed, numbers=[number], fixed=held)[0]


def suggest_many(
    space: Mapping[str, Dimension],
    history: Sequence[Observation],
    pending: Sequence[Mapping[str, Any]],
    *,
    seed: int,
    numbers: Sequence[int],
    fixed: Mapping[str, Any],
) -> list[Suggestion]:
    """The parameters for the trials `numbers`, asked for together: as `suggest` one by one, each pending for the next."""
    cube = Cube(space)
    fixed = {name: value for name, value in fixed.items() if name in space}
    if not len(cube):
        return [Suggestion({}, {"how": "empty"}) for _ in numbers]
    known = cube.encode([o.params for o in history])
    waiting = cube.encode([p for p in pending if p])
    losses = np.array([o.losses for o in history], float) if history else np.empty((0, 1))
    started = np.isfinite(losses).all(1).sum() >= START
    losses = np.column_stack([warp.impute(column) for column in losses.T]) if started else losses
    found: list[Suggestion] = []
    why: dict[str, Any]
    model: Ensemble | None = None
    for number in numbers:
        rng, avoid = np.random.default_rng([seed, number]), np.vstack([known, waiting])
        if not started:
            point, why = _start(cube, avoid, fixed, seed=seed, number=number), {"how": "start"}
        elif 1 < losses.shape[1] <= pareto.MOST:
            point, _ = pareto.propose(cube, known, losses, waiting, avoid=avoid, fixed=fixed, rng=rng)
            why = {"how": "model", "model": "volume", "observations": len(losses)}
        else:
            if model is None or losses.shape[1] > 1:
                model = ensemble(known, losses[:, 0] if losses.shape[1] == 1 else _joined(losses, rng), cube.group)
                model = model.believing(waiting) if len(waiting) else model
            point = maximise(cube, model.gain, model.leading(5), avoid=avoid, fixed=fixed, rng=rng)
            why = _account(model, point, observations=len(losses))
            model = model.believing(point[None])
        found.append(Suggestion({**cube.decode(point), **fixed}, why))
        waiting = np.vstack([waiting, point])
    return found


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
    return np.asarray(fresh(cube.hold(cube.from_uniform(tries), fixed), rounded(avoid))[0])


def _joined(losses: Array, rng: Rng) -> Array:
    """One loss per trial, shape (n,): the objectives scaled to [0, 1] and weighted at random (ParEGO, Knowles 2006)."""
    columns = np.column_stack([warp.half_rank(c) for c in losses.T])
    scaled = (columns - columns.min(0)) / np.maximum(np.ptp(columns, axis=0), 1e-12)
    weights = rng.dirichlet(np.ones(losses.shape[1]))
    return np.asarray((weights * scaled).max(1) + 0.05 * scaled @ weights)


def _account(model: Ensemble, point: Array, *, observations: int) -> dict[str, Any]:
    """Why this point: where the model expects it among the losses seen, and whether it explores."""
    mean, variance = model.predict(point[None])
    sd = math.sqrt(float(variance[0]))
    return {
        "how": "model",
        "model": "improvement",
        "expected_sd_from_mean": round(float(mean[0]), 4),
        "uncertainty": round(sd, 4),
        "mode": "explore" if sd > abs(float(mean[0])) else "exploit",
        "observations": observations,
    }
