"""The unit cube: parameters as numbers between 0 and 1, and back.

A float or an integer takes one column (its logarithm when the distribution is logarithmic). A categorical of three or
more numbers is an ordered scale of one column; any other takes one column per choice. A parameter that a trial does
not have (a conditional space) stands in the middle, so that it is neither near nor far from any value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Array = NDArray[np.float64]
Rng = np.random.Generator
_HALF = math.sqrt(0.5)  # two different choices are 1 apart, as the two ends of a scale are
FINITE = 10_000  # a space of at most so many configurations is searched without repetition


class Scale:
    """A parameter with an order: one column."""

    width = 1

    def __init__(self, distribution: BaseDistribution) -> None:
        self.levels: list[Any] | None = None
        if isinstance(distribution, CategoricalDistribution):
            self.levels = sorted(distribution.choices)  # type: ignore[type-var]  all numbers, see `_column`
            low, high, self.log = self.levels[0], self.levels[-1], self.levels[0] > 0
            self.points = np.log(self.levels) if self.log else np.asarray(self.levels, float)
        else:
            low, high, self.log = distribution.low, distribution.high, distribution.log  # type: ignore[attr-defined]
            step = distribution.step  # type: ignore[attr-defined]
            count = None if step is None else round((high - low) / step) + 1
            self.points = np.empty(0)
            if count is not None and count <= FINITE:
                grid = low + step * np.arange(count)
                self.points = np.log(grid) if self.log else grid.astype(float)
        self.whole = isinstance(distribution, IntDistribution)
        self.low, self.high = low, high
        self.bottom = math.log(low) if self.log else float(low)
        self.span = (math.log(high) if self.log else float(high)) - self.bottom
        if len(self.points):
            self.points = (self.points - self.bottom) / self.span if self.span else np.zeros(1)
        self.count = len(self.points) if len(self.points) else math.inf

    def encode(self, value: Any) -> list[float]:
        number = math.log(value) if self.log and value > 0 else float(value)
        return [min(1.0, max(0.0, (number - self.bottom) / self.span)) if self.span else 0.0]

    def decode(self, columns: Array) -> Any:
        at = float(columns[0])
        if self.levels is not None:
            return self.levels[int(np.abs(self.points - at).argmin())]
        value = self.bottom + at * self.span
        value = min(self.high, max(self.low, math.exp(value) if self.log else value))
        return int(min(self.high, max(self.low, round(value)))) if self.whole else float(value)

    def from_uniform(self, u: Array) -> Array:
        if len(self.points):
            u = self.points[np.minimum((u * len(self.points)).astype(int), len(self.points) - 1)]
        return u[:, None]

    def snap(self, columns: Array) -> Array:
        at = np.clip(columns[:, 0], 0.0, 1.0)
        if len(self.points):
            upper = np.clip(np.searchsorted(self.points, at), 1, max(1, len(self.points) - 1))
            if len(self.points) == 1:
                return np.zeros_like(columns)
            lower = upper - 1
            nearer = np.where(at - self.points[lower] <= self.points[upper] - at, lower, upper)
            at = self.points[nearer]
        return at[:, None]

    def move(self, columns: Array, rng: Rng, scale: float) -> Array:
        """Gaussian steps of width `scale`, of at least one level where there are levels."""
        step = rng.normal(size=len(columns)) * scale
        at = columns[:, 0]
        if 1 < len(self.points):
            here = np.abs(self.points[None] - at[:, None]).argmin(1)
            there = np.abs(self.points[None] - (at + step)[:, None]).argmin(1)
            stuck = here == there
            there[stuck] = np.clip(here[stuck] + np.where(step[stuck] > 0, 1, -1), 0, len(self.points) - 1)
            return self.points[there][:, None]
        return (at + step)[:, None]


class Choice:
    """A parameter without an order: one column per choice."""

    log = False

    def __init__(self, distribution: CategoricalDistribution) -> None:
        self.choices = distribution.choices
        self.width = len(self.choices)
        self.count = self.width

    def encode(self, value: Any) -> list[float]:
        return [_HALF * (c is value or (c == value and type(c) is type(value))) for c in self.choices]

    def decode(self, columns: Array) -> Any:
        return self.choices[int(columns.argmax())]

    def from_uniform(self, u: Array) -> Array:
        return self._rows(np.minimum((u * self.width).astype(int), self.width - 1))

    def snap(self, columns: Array) -> Array:
        return self._rows(columns.argmax(1))

    def move(self, columns: Array, rng: Rng, scale: float) -> Array:  # noqa: ARG002  no distance between choices
        return self._rows(rng.integers(self.width, size=len(columns)))

    def _rows(self, index: NDArray[np.int64]) -> Array:
        rows = np.zeros((len(index), self.width))
        rows[np.arange(len(index)), index] = _HALF
        return rows


class Cube:
    """The unit cube of a space: `columns` numbers for its parameters, `group[j]` the parameter of column j."""

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self.names = list(space)
        self.scales: list[Scale | Choice] = [_column(d) for d in space.values()]
        widths = [s.width for s in self.scales]
        self.group = np.repeat(np.arange(len(widths)), widths)
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
        points = np.full((len(rows), self.columns), 0.5)
        for name, scale, part in zip(self.names, self.scales, self.slices(), strict=True):
            absent = [0.5] if isinstance(scale, Scale) else [0.0] * scale.width
            for i, params in enumerate(rows):
                points[i, part] = scale.encode(params[name]) if name in params else absent
        return points

    def decode(self, point: Array) -> dict[str, Any]:
        """A point as parameters."""
        parts = zip(self.names, self.scales, self.slices(), strict=True)
        return {name: scale.decode(point[part]) for name, scale, part in parts}

    def from_uniform(self, uniform: Array) -> Array:
        """Points from numbers in [0, 1), shape (n, parameters) -> (n, columns), each value equally likely."""
        return np.hstack([s.from_uniform(uniform[:, k]) for k, s in enumerate(self.scales)])

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


def _column(distribution: BaseDistribution) -> Scale | Choice:
    if isinstance(distribution, CategoricalDistribution):
        numbers = all(isinstance(c, int | float) and not isinstance(c, bool) for c in distribution.choices)
        if numbers and len(set(distribution.choices)) > 2:  # noqa: PLR2004  two choices have no order to speak of
            return Scale(distribution)
        return Choice(distribution)
    if isinstance(distribution, FloatDistribution | IntDistribution):
        return Scale(distribution)
    raise TypeError(f"the engine knows Optuna's float, int and categorical distributions, got {distribution!r}")
