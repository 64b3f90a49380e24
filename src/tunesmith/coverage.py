"""How much of a finite space has been tried: when every point has been, the search is over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tunesmith.trial import Trial, TrialState


@dataclass
class _Node:
    """The trials that agree up to here: the parameter they ask for next, and what follows each of its values."""

    name: str
    distribution: BaseDistribution
    below: dict[str, _Node | None] = field(default_factory=dict)  # None: nothing more is asked for
    firm: set[str] = field(default_factory=set)  # values after which a trial that succeeded asked for nothing more

    @property
    def complete(self) -> bool:
        size = _size(self.distribution)
        return len(self.below) >= size and all(node is None or node.complete for node in self.below.values())

    @property
    def points(self) -> int:
        return sum(1 if node is None else node.points for node in self.below.values())


class Coverage:
    """The tree of the points tried, by the order in which trials ask for parameters; conditional spaces are trees.

    A space is taken for infinite once a parameter is continuous, or when two trials that agree so far ask for different
    things (by their number, say). A trial without parameters says nothing.
    """

    def __init__(self, trials: Sequence[Trial] = ()) -> None:
        self._root: _Node | None = None
        self._infinite = False
        for trial in trials:
            if trial.state.finished:
                self.add(trial)

    @property
    def points(self) -> int | None:
        """The number of points of the space when all have been tried, else None."""
        if self._infinite or self._root is None or not self._root.complete:
            return None
        return self._root.points

    def add(self, trial: Trial) -> None:
        """Take in a trial; one that has not succeeded may have stopped before it asked for everything."""
        if self._infinite or not trial.params:
            return
        if any(math.isinf(_size(d)) for d in trial.distributions.values()):
            self._infinite = True
            return
        firm = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        path = [(name, trial.distributions[name], repr(value)) for name, value in trial.params.items()]
        if self._root is None:
            self._root = _Node(*path[0][:2])
        node = self._root
        for depth, (name, distribution, value) in enumerate(path):
            if (node.name, node.distribution) != (name, distribution):
                self._infinite = True
                return
            last = depth == len(path) - 1
            follows = node.below.get(value)
            if last:
                self._infinite |= firm and follows is not None
                node.below.setdefault(value, None)
                node.firm |= {value} if firm else set()
                return
            if value in node.firm:
                self._infinite = True
                return
            if follows is None:
                follows = node.below[value] = _Node(*path[depth + 1][:2])
            node = follows


def _size(distribution: BaseDistribution) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, IntDistribution | FloatDistribution):
        if distribution.step is None:
            return 1 if distribution.low == distribution.high else math.inf
        return round((distribution.high - distribution.low) / distribution.step) + 1
    return math.inf
