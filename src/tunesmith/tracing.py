"""A define-by-run function traced into a static space: which names it asks for, and under which values of which others."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tunesmith.trial import CONTINUE, Assignment, Decision, LiveTrial, Params, Report, Space, contains, fitted

BRANCHES = 400  # so many different calls of the function show what it branches on
SMALL = 16  # every value of an integer range up to this size is tried


@dataclass(frozen=True)
class Traced:
    """A static space; `conditions[name]` maps another name to the values under which `name` is asked for.

    A name without conditions is asked for always, or in a way that no condition on one parameter describes.
    """

    space: Space
    conditions: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)


def trace(define: Callable[[Any], Any]) -> Traced:
    """Call the function with every choice, every small integer, and the ends and middles of ranges, breadth first.

    Sees every branch on up to two choices or small integers, where BRANCHES calls suffice for that; what was missed is
    drawn when a trial asks for it. Where the range of a name depends on others, the widest one is taken. A name with
    several kinds of values is left out, and a UserWarning says so.
    """
    found: dict[str, BaseDistribution] = {}
    mixed: set[str] = set()
    calls: list[Params] = []
    seen: set[str] = set()
    waiting: deque[dict[str, Any]] = deque([{}])
    while waiting and len(calls) < BRANCHES:
        forced = waiting.popleft()
        trial = LiveTrial(Assignment(0), ProbeLink(partial(_forced, forced)))
        define(trial)
        key = repr(sorted(trial.params.items(), key=lambda item: item[0]))
        if key in seen:
            continue
        seen.add(key)
        calls.append(trial.params)
        for name, distribution in trial.distributions.items():
            wider = _union(found.get(name, distribution), distribution)
            if wider is None:
                mixed.add(name)
            else:
                found[name] = wider
            waiting.extend({**forced, name: v} for v in _probes(distribution) if v != trial.params[name])
    for name in mixed:
        found.pop(name, None)
        warnings.warn(f'"{name}" has several kinds of values in this space: it is drawn at random', stacklevel=2)
    return Traced(found, {n: c for n in found if (c := _conditions(n, found, calls))})


class ProbeLink:
    """The line of a trial that is only a probe: it is given what `give(name, distribution)` says, and nothing is recorded."""

    def __init__(self, give: Callable[[str, BaseDistribution], Any]) -> None:
        self._give = give

    def suggest(self, name: str, distribution: BaseDistribution) -> Any:
        """The value that is given."""
        return self._give(name, distribution)

    def report(self, report: Report) -> Decision:  # noqa: ARG002
        """A probe goes on."""
        return CONTINUE

    def decide(self) -> Decision:
        """A probe goes on."""
        return CONTINUE

    def checkpoint(self, path: str, step: int) -> None:
        """A probe keeps nothing."""

    def annotate(self, key: str, value: Any) -> None:
        """A probe keeps nothing."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """A probe keeps nothing."""


def _forced(values: Params, name: str, distribution: BaseDistribution) -> Any:
    """The value that is told, else the middle of the range."""
    if name in values and contains(distribution, values[name]):
        return fitted(distribution, values[name])
    return _probes(distribution)[0]


def _probes(d: BaseDistribution) -> list[Any]:
    if isinstance(d, CategoricalDistribution):
        return list(d.choices)
    if isinstance(d, IntDistribution):
        values = range(d.low, d.high + 1, d.step)
        return list(values) if len(values) <= SMALL else [values[len(values) // 2], d.low, d.high]
    if isinstance(d, FloatDistribution):
        middle = (d.low * d.high) ** 0.5 if d.log else (d.low + d.high) / 2
        if d.step is not None:
            middle = d.low + round((middle - d.low) / d.step) * d.step
        return [middle, d.low, d.high]
    return []


def _union(a: BaseDistribution, b: BaseDistribution) -> BaseDistribution | None:
    """The narrowest distribution that holds both; None when they are of different kinds."""
    if a == b:
        return a
    if isinstance(a, CategoricalDistribution) and isinstance(b, CategoricalDistribution):
        return CategoricalDistribution((*a.choices, *(c for c in b.choices if not contains(a, c))))
    if isinstance(a, FloatDistribution) and isinstance(b, FloatDistribution):
        low, high = min(a.low, b.low), max(a.high, b.high)
        return FloatDistribution(low, high, log=a.log and b.log)
    if isinstance(a, IntDistribution) and isinstance(b, IntDistribution):
        return IntDistribution(min(a.low, b.low), max(a.high, b.high), log=a.log and b.log)
    return None


def _conditions(name: str, space: Space, calls: Sequence[Params]) -> dict[str, list[Any]]:
    """For a name that some calls lack: each always present parameter whose value decides it."""
    without = [params for params in calls if name not in params]
    if not without:
        return {}
    with_it = [params for params in calls if name in params]
    found = {}
    for other, distribution in space.items():
        # a branch on a float cannot be written as a list of values
        if isinstance(distribution, FloatDistribution) or any(other not in params for params in calls):
            continue
        values = {repr(params[other]): params[other] for params in with_it}
        if values.keys().isdisjoint({repr(params[other]) for params in without}):
            found[other] = list(values.values())
    return found
