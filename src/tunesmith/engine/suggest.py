"""What to try next: the middle, a few Sobol points, then a Gaussian process with expected improvement."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.engine import pareto, warp
from tunesmith.engine.acquire import UNDER_WAY, Taken, maximise
from tunesmith.engine.encoding import Array, Cube, Dimension, Mask, Rng
from tunesmith.engine.ensemble import Ensemble, ensemble
from tunesmith.engine.feasible import Limits, limits
from tunesmith.engine.gp import mixture
from tunesmith.engine.sobol import sobol
from tunesmith.engine.why import account

START = 4  # trials begun before the first model is asked, the middle and Sobol points
_ENDED = 2  # trials ended before that: a model of so few knows at least where others are under way
_STARTS_NEAR = 5  # the best points known, near which the next is sought
_STARTS = 16  # Sobol points in all, for trials asked for while none has finished


@dataclass(frozen=True)
class Observation:
    """A trial as the engine sees it.

    `losses` are one per objective, lower is better, NaN when the parameters made it fail; `constraints` are to be at most
    0. `number` is how an account of a suggestion names the trial. `spread` is the standard deviation of a single
    objective's loss that is a forecast, since the trial was stopped.
    """

    params: Mapping[str, Any]
    losses: tuple[float, ...]
    constraints: tuple[float, ...] = ()
    number: int = -1
    spread: float = 0.0


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
    model expects. `fixed` values are kept, and the others chosen to go with them. A failed trial counts as one of median
    loss, and gains are weighted by the chance to succeed: without the former, trials would crowd the boundary. Two or three objectives are traded off
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
    ended = np.isfinite(losses).all(1)
    allowed = ended & np.array([all(c <= 0 for c in o.constraints) for o in history], bool)
    bounds = limits(known, ~ended, [o.constraints for o in history], cube.group)
    losses = np.where(ended[:, None], losses, np.median(losses[ended], axis=0)) if ended.any() else losses
    spread = np.array([o.spread for o in history], float)
    avoid = Taken()
    avoid.add(known, _matters(cube.asked([o.params for o in history]), ended))
    avoid.add(waiting, np.ones_like(waiting, bool), digits=UNDER_WAY)
    numbered = [o.number if o.number >= 0 else k for k, o in enumerate(history)]
    found: list[Suggestion] = []
    why: dict[str, Any]
    model: Ensemble | None = None
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        if ended.sum() < _ENDED or ended.sum() + len(waiting) < START:
            point = _start(cube, avoid, fixed, bounds, seed=seed, number=number)
            why = {"how": "start"}
        elif not allowed.any():
            starts = known[np.argsort(-bounds.log_chance(known))[:_STARTS_NEAR]]
            point = maximise(cube, bounds.log_chance, starts, avoid=avoid, fixed=fixed, rng=rng)
            why = {"how": "constraints"}
        elif 1 < losses.shape[1] <= pareto.MOST:
            point, processes, learnt = pareto.propose(
                cube, known, losses, waiting,
                allowed=allowed, limits=bounds, avoid=avoid, fixed=fixed, rng=rng,
            )  # fmt: skip
            predicted = [mixture(p, point[None]) for p in processes]
            why = account(predicted, learnt.T, known, numbered, point, processes[0][0].inverse_lengths)
        else:
            if model is None or losses.shape[1] > 1:
                loss = losses[:, 0] if losses.shape[1] == 1 else _joined(losses, rng)
                model = ensemble(known, loss, cube.group, allowed=allowed, spread=spread)
                model = model.believing(waiting) if len(waiting) else model
            gain, near = _weighted(model, bounds), model.leading(_STARTS_NEAR)
            point = maximise(cube, gain, near, avoid=avoid, fixed=fixed, rng=rng, effort=model.effort)
            predicted = [model.predict(point[None])] if losses.shape[1] == 1 else []
            why = account(predicted, [model.losses], known, numbered, point, model.members[0].inverse_lengths)
            model = model.believing(point[None])
        if bounds.processes:
            why["chance_to_succeed"] = round(math.exp(float(bounds.log_chance(point[None])[0])), 3)
        found.append(Suggestion({**cube.decode(point), **fixed}, why))
        waiting = np.vstack([waiting, point])
        avoid.add(point[None], np.ones((1, cube.columns), bool), digits=UNDER_WAY)
    return found


def _matters(asked: Mask, ended: Mask) -> Mask:
    """Which columns tell a trial from others, shape (n, columns).

    A trial that succeeded without a parameter that was known before it had no use for it: in a conditional space a point
    that differs only there is the same. One that failed may not have come to ask, and one before the first that asked
    may be of another space.
    """
    known_before = np.vstack([np.zeros((1, asked.shape[1]), bool), np.maximum.accumulate(asked, axis=0)[:-1]])
    return np.asarray(asked | ~known_before[: len(asked)] | ~ended[:, None])


def _weighted(model: Ensemble, bounds: Limits) -> Callable[[Array], Array]:
    """The gain, weighted by the chance that the trial succeeds."""
    if not bounds.processes:
        return model.gain
    return lambda points: model.gain(points) + bounds.log_weight(points)


def middle(dimension: Dimension) -> Any:
    """The middle value: for a parameter that no earlier trial had, as `suggest` starts in the middle of a space."""
    cube = Cube({"": dimension})
    return cube.decode(cube.from_uniform(np.array([[0.5]]))[0])[""]


def draw(dimension: Dimension, *, seed: int, number: int, name: str) -> Any:
    """A value at random, keyed by seed, trial and name: for a parameter that is in no space yet."""
    cube = Cube({name: dimension})
    rng = np.random.default_rng([seed, number, *name.encode()])
    return cube.decode(cube.from_uniform(rng.random((1, 1)))[0])[name]


def _start(cube: Cube, avoid: Taken, fixed: Mapping[str, Any], bounds: Limits, *, seed: int, number: int) -> Array:
    """The middle of the space, then scrambled Sobol points by trial number; the first that is new.

    People choose ranges around what they expect to be good: on the benchmark's problems the middle alone is worth
    several trials, and the model knows from it which ends of the ranges are too far out. Where trials have failed, the
    first point is taken whose chance to succeed is no less than most others'.
    """
    middle = np.full((1, len(cube)), 0.5)
    start = sobol(_STARTS, len(cube), np.random.default_rng([seed]))[number % _STARTS]
    spare = np.random.default_rng([seed, number]).random((64, len(cube)))
    tries = np.vstack([middle, start, spare])
    points = avoid.fresh(cube.hold(cube.from_uniform(tries), fixed))
    chances = bounds.log_chance(points)
    return np.asarray(points[int(np.argmax(chances >= np.median(chances)))])


def _joined(losses: Array, rng: Rng) -> Array:
    """One loss per trial, shape (n,): the objectives scaled to [0, 1] and weighted at random (ParEGO, Knowles 2006)."""
    columns = np.column_stack([warp.half_rank(c) for c in losses.T])
    scaled = (columns - columns.min(0)) / np.maximum(np.ptp(columns, axis=0), 1e-12)
    weights = rng.dirichlet(np.ones(losses.shape[1]))
    return np.asarray((weights * scaled).max(1) + 0.05 * scaled @ weights)
