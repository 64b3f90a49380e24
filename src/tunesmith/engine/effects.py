"""What the model expects of the objective along one parameter, and over two, the others being as trials had them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.engine import warp
from tunesmith.engine.encoding import Array, Cube, Dimension, Number, Rng
from tunesmith.engine.importance import SIGNAL_OR_NOISE, draw_function, hyperparameters

_MODEL_ON = 150
_FUNCTIONS, _OTHERS = 16, 24  # functions drawn, and settings of the other parameters that are averaged over
_ALONG, _ACROSS = 21, 13  # places along one parameter, and on each side of a map


@dataclass(frozen=True)
class Effect:
    """The expected loss at `values` of a parameter (a choice's options), averaged over the others, with its 90 % interval."""

    values: tuple[Any, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Map:
    """The expected loss at `x` by `y`, `mean[j][i]` at `(x[i], y[j])`, averaged over the other parameters."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    mean: tuple[tuple[float, ...], ...]


def effects(
    space: Mapping[str, Dimension],
    rows: Sequence[Mapping[str, Any]],
    losses: Sequence[float],
    *,
    names: Sequence[str],
    pairs: Sequence[tuple[str, str]] = (),
    seed: int = 0,
) -> tuple[dict[str, Effect], list[Map]]:
    """The effects of parameters `names`, and the maps of `pairs` of numbers; a pure function of its arguments.

    Partial dependence (Friedman 2001) of functions drawn from the posterior of a Gaussian process, its hyperparameters
    drawn too: medians and 90 % intervals over those draws. The process models the half-rank-warped losses, which are
    not told apart well in their worse half; the results are losses again.
    """
    cube = Cube(space)
    rng = np.random.default_rng([seed, len(losses)])
    y = warp.impute(np.asarray(losses, float))
    if len(y) > _MODEL_ON:
        best = np.argsort(y, kind="stable")[: _MODEL_ON // 2]
        rest = rng.choice(np.setdiff1d(np.arange(len(y)), best), _MODEL_ON - len(best), replace=False)
        keep = np.sort(np.r_[best, rest])
        rows, y = [rows[i] for i in keep], y[keep]
    points, target = cube.encode(rows), warp.half_rank(y)
    others = [rows[i] for i in rng.choice(len(rows), _OTHERS)]
    grids = {name: _grid(space[name], _ALONG) for name in names}
    places: list[Mapping[str, Any]] = [{**o, name: v} for name in names for v in grids[name] for o in others]
    few = others[: _OTHERS // 3]
    over = [(_grid(space[x], _ACROSS), _grid(space[y], _ACROSS)) for x, y in pairs]
    places += [
        {**o, x: v, y: w} for (x, y), (xs, ys) in zip(pairs, over, strict=True) for w in ys for v in xs for o in few
    ]
    drawn = _drawn(cube, points, target, cube.encode(places), rng)
    order = np.argsort(y, kind="stable")
    expected = np.interp(drawn, target[order], y[order])
    found, along = {}, 0
    for name, grid in grids.items():
        each = expected[:, along : along + len(grid) * _OTHERS].reshape(_FUNCTIONS, len(grid), _OTHERS).mean(2)
        low, mean, high = (tuple(map(float, q)) for q in np.quantile(each, [0.05, 0.5, 0.95], axis=0))
        found[name] = Effect(tuple(grid), mean, low, high)
        along += len(grid) * _OTHERS
    maps = []
    for xs, ys in over:
        size = len(xs) * len(ys) * len(few)
        each = expected[:, along : along + size].reshape(_FUNCTIONS, len(ys), len(xs), len(few)).mean(3)
        plane = np.median(each, axis=0)
        maps.append(Map(tuple(xs), tuple(ys), tuple(tuple(map(float, row)) for row in plane)))
        along += size
    return found, maps


def _drawn(cube: Cube, points: Array, target: Array, at: Array, rng: Rng) -> Array:
    thetas = hyperparameters(points, target, cube.group, count=_FUNCTIONS, rng=rng, priors=SIGNAL_OR_NOISE)
    return np.array([draw_function(points, target, at, cube.group, theta=t, rng=rng) for t in thetas])


def _grid(dimension: Dimension, count: int) -> list[Any]:
    """Evenly spaced values of a number, in its logarithm where it is logarithmic; the options of a choice."""
    if not isinstance(dimension, Number):
        return list(dimension.options)
    low, high = float(dimension.low), float(dimension.high)
    if dimension.log:
        return [float(v) for v in np.exp(np.linspace(math.log(low), math.log(high), count))]
    return [float(v) for v in np.linspace(low, high, count)]
