"""The unit cube: parameters as numbers between 0 and 1, and back.

A number takes one column (its logarithm when it is logarithmic). A choice among three or more numbers is an ordered
scale of one column; any other choice takes one column per option. A parameter that a trial does not have (a conditional
space), or whose value the space no longer knows, stands in the middle: neither near nor far from any value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]
Rng = np.random.Generator

_HALF = math.sqrt(0.5)  # two different options are 1 apart, as the two ends of a scale are
_LEAST = 1e-300  # what is not positive has no logarithm: it stands at the low end
_ABSENT = object()  # the value of a parameter that a trial does not have
_PLAIN = {int, float}
_GRID = 10_000  # at most so many levels are listed; a finer grid is treated as continuous and rounded at the end


@dataclass(frozen=True)
class Number:
    """A parameter from `low` to `high`, both included: `log` uniform in its logarithm, `step` a grid, `whole` integers."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False


@dataclass(frozen=True)
class Choice:
    """A parameter that is one of `options`."""

    options: tuple[Any, ...]


Dimension = Number | Choice


class Scale:
    """A parameter with an order: one column. `points` are the places of its levels, ascending; empty: continuous."""

    width = 1

    def __init__(self, dimension: Dimension) -> None:
        self.levels: list[Any] = []
        self.points: Array = np.empty(0)
        if isinstance(dimension, Choice):
            self.levels = sorted(set(dimension.options))
            low, high, self.log = self.levels[0], self.levels[-1], self.levels[0] > 0
            grid = np.asarray(self.levels, float)
            self.whole, self.even = False, True
        else:
            low, high, self.log = dimension.low, dimension.high, dimension.log
            grid = _levels(dimension)
            self.whole, self.even = dimension.whole, not dimension.log
        self.low, self.high, self.step = low, high, None if isinstance(dimension, Choice) else dimension.step
        self.bottom = math.log(low) if self.log else float(low)
        self.span = (math.log(high) if self.log else float(high)) - self.bottom
        if len(grid):
            places = np.log(grid) if self.log else grid
            self.points = (places - self.bottom) / self.span if self.span else np.zeros(1)
        self.count = len(self.points) or math.inf

    def encode(self, values: Sequence[Any]) -> Array:
        """The values' places; the middle for what is no number (absent, or the parameter was of another kind once)."""
        if not set(map(type, values)) <= _PLAIN:  # a look at all types at once: histories are long
            values = [v if isinstance(v, int | float) else math.nan for v in values]
        numbers = np.array(values, float)
        places = np.log(np.maximum(numbers, _LEAST)) if self.log else numbers
        places = np.clip((places - self.bottom) / self.span, 0.0, 1.0) if self.span else np.zeros(len(places))
        return np.where(np.isfinite(numbers), places, 0.5)[:, None]

    def decode(self, columns: Array) -> Any:
        """The value at the place."""
        at = float(columns[0])
        if self.levels:
            return self.levels[int(np.abs(self.points - at).argmin())]
        value = self.bottom + at * self.span
        value = math.exp(value) if self.log else value
        if self.step is not None:
            value = self.low + self.step * round((value - self.low) / self.step)
        value = min(self.high, max(self.low, value))
        return round(value) if self.whole else float(value)

    def from_uniform(self, u: Array) -> Array:
        """Places from numbers in [0, 1): levels are equally likely, those of a logarithmic grid by their share of it."""
        if len(self.points) and self.even:
            index = np.minimum((u * len(self.points)).astype(int), len(self.points) - 1)
            return np.asarray(self.points[index][:, None])
        return self.snap(u[:, None])

    def snap(self, columns: Array) -> Array:
        """The nearest places that the parameter has."""
        at = np.clip(columns[:, 0], 0.0, 1.0)
        return (self.points[self._nearest(at)] if len(self.points) else at)[:, None]

    def move(self, columns: Array, rng: Rng, scale: float) -> Array:
        """Gaussian steps of width `scale`, of at least one level where there are levels."""
        step = rng.normal(size=len(columns)) * scale
        at = columns[:, 0]
        if len(self.points) > 1:
            here, there = self._nearest(at), self._nearest(at + step)
            stuck = here == there
            there[stuck] = np.clip(here[stuck] + np.where(step[stuck] > 0, 1, -1), 0, len(self.points) - 1)
            return np.asarray(self.points[there][:, None])
        beyond = np.abs(at + step)  # reflected at the ends: clipped steps would crowd the corners
        return (1.0 - np.abs(1.0 - beyond))[:, None]

    def _nearest(self, at: Array) -> Index:
        if len(self.points) == 1:
            return np.zeros(len(at), np.int64)
        upper = np.clip(np.searchsorted(self.points, at), 1, len(self.points) - 1)
        return np.where(at - self.points[upper - 1] <= self.points[upper] - at, upper - 1, upper)


class Corners:
    """A parameter without an order: one column per option."""

    def __init__(self, dimension: Choice) -> None:
        self.options = dimension.options
        self.width = self.count = len(self.options)

    def encode(self, values: Sequence[Any]) -> Array:
        """One column set; none (equally far from every option) for what is absent or no option."""
        rows = [[o is v or (o == v and type(o) is type(v)) for o in self.options] for v in values]
        return _HALF * np.array(rows, float).reshape(len(values), self.width)

    def decode(self, columns: Array) -> Any:
        """The option whose column is the greatest."""
        return self.options[int(columns.argmax())]

    def from_uniform(self, u: Array) -> Array:
        """Options from numbers in [0, 1), equally likely."""
        return self._rows(np.minimum((u * self.width).astype(int), self.width - 1))

    def snap(self, columns: Array) -> Array:
        """The option whose column is the greatest, for each row."""
        return self._rows(columns.argmax(1))

    def move(self, columns: Array, rng: Rng, scale: float) -> Array:  # noqa: ARG002  options have no distances
        """Any option."""
        return self._rows(rng.integers(self.width, size=len(columns)))

    def _rows(self, index: Index) -> Array:
        rows = np.zeros((len(index), self.width))
        rows[np.arange(len(index)), index] = _HALF
        return rows


class Cube:
    """The unit cube of a space: `columns` numbers for its parameters, `group[j]` the parameter of column j."""

    def __init__(self, space: Mapping[str, Dimension]) -> None:
        self.names = list(space)
        self.scales: list[Scale | Corners] = [_column(d) for d in space.values()]
        widths = [s.width for s in self.scales]
        self.group: Index = np.repeat(np.arange(len(widths)), widths)
        self._ends = np.cumsum(widths)
        self.columns = int(self._ends[-1]) if widths else 0
        self.size = math.prod(s.count for s in self.scales)

    def __len__(self) -> int:
        return len(self.names)

    def slices(self) -> list[slice]:
        """The columns of each parameter."""
        return [slice(int(e) - s.width, int(e)) for e, s in zip(self._ends, self.scales, strict=True)]

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> Array:
        """Parameters as points, shape (n, columns)."""
        columns = [
            s.encode([row.get(name, _ABSENT) for row in rows]) for name, s in zip(self.names, self.scales, strict=True)
        ]
        return np.hstack(columns) if columns else np.empty((len(rows), 0))

    def asked(self, rows: Sequence[Mapping[str, Any]]) -> Mask:
        """Which columns belong to parameters that the rows have, shape (n, columns)."""
        every = dict.fromkeys(self.names).keys()
        having = [[True] * len(self) if row.keys() >= every else [n in row for n in self.names] for row in rows]
        return np.array(having, bool).reshape(-1, len(self))[:, self.group]

    def decode(self, point: Array) -> dict[str, Any]:
        """A point as parameters."""
        parts = zip(self.names, self.scales, self.slices(), strict=True)
        return {name: scale.decode(point[part]) for name, scale, part in parts}

    def everything(self) -> Array:
        """All points of a finite space, shape (size, columns)."""
        ones = [
            s.from_uniform((np.arange(s.count) + 0.5) / s.count) if isinstance(s, Corners) else s.points[:, None]
            for s in self.scales
        ]
        index = np.array(list(product(*(range(len(o)) for o in ones))))
        return np.hstack([o[index[:, k]] for k, o in enumerate(ones)])

    def from_uniform(self, uniform: Array) -> Array:
        """Points from numbers in [0, 1), shape (n, parameters) -> (n, columns), each value equally likely."""
        return np.hstack([s.from_uniform(uniform[:, k]) for k, s in enumerate(self.scales)])

    def hold(self, points: Array, fixed: Mapping[str, Any]) -> Array:
        """The points with the `fixed` parameters at their values."""
        if fixed:
            points = points.copy()
            for name, scale, part in zip(self.names, self.scales, self.slices(), strict=True):
                if name in fixed:
                    points[:, part] = scale.encode([fixed[name]])
        return points

    def snap(self, points: Array) -> Array:
        """The nearest points that the space contains."""
        return np.hstack([s.snap(points[:, part]) for s, part in zip(self.scales, self.slices(), strict=True)])

    def move(self, points: Array, rng: Rng, *, scale: float, share: float) -> Array:
        """Neighbours: each parameter moves with probability `share`, at least one does."""
        moved = points.copy()
        which = rng.random((len(points), len(self))) < share
        none = ~which.any(1)
        which[none, rng.integers(len(self), size=int(none.sum()))] = True
        for k, (s, part) in enumerate(zip(self.scales, self.slices(), strict=True)):
            rows = which[:, k]
            if rows.any():
                moved[rows, part] = s.move(points[rows, part], rng, scale)
        return self.snap(moved)


def _column(dimension: Dimension) -> Scale | Corners:
    if isinstance(dimension, Number):
        return Scale(dimension)
    numbers = all(
        isinstance(o, int | float) and not isinstance(o, bool) and math.isfinite(o) for o in dimension.options
    )
    ordered = numbers and len(set(dimension.options)) > 2  # noqa: PLR2004  two options have no order to speak of
    return Scale(dimension) if ordered else Corners(dimension)


def _levels(number: Number) -> Array:
    """The values of a grid, if it has one that is worth listing."""
    step = 1.0 if number.whole and number.step is None else number.step
    count = math.inf if step is None else round((number.high - number.low) / step) + 1
    return number.low + float(step or 0) * np.arange(count) if count <= _GRID else np.empty(0)
