"""Spaces in SigOpt's terms and values to and fro: what SigOpt has no form for is coded in one that it has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tunesmith.backends.known import nearest
from tunesmith.trial import Params, Space, contains, fitted

GRID = 100  # values of a stepped range or of numeric choices that are listed; longer ranges are rounded
LABEL = 50  # letters of a choice, the most that a SigOpt server takes
_CUT = 40  # letters that are kept of a longer one


@dataclass(frozen=True)
class Coded:
    """A space as SigOpt knows it.

    Choices of numbers are a grid, other choices labels; a range of integers on a log scale is one of floats, rounded
    here, for SigOpt has none; a parameter with one value is left out. `conditions` (as of a traced space) become SigOpt's
    conditionals where a choice or a small integer decides, and where each of its values leaves a parameter to search.
    """

    space: Space
    conditions: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The parameters that SigOpt knows."""
        return [name for name, d in self.space.items() if not d.single()]

    @property
    def parents(self) -> list[str]:
        """The parameters that decide about others: SigOpt's conditionals."""
        names = self.names
        if all(name in self.conditions for name in names):
            return []  # some values might leave nothing to search, which SigOpt refuses
        deciding = {p for name in names for p in self.conditions.get(name, {}) if p in names and _listed(self.space[p])}
        free = [n for n in names if n not in deciding and n not in self.conditions]
        return [n for n in names if n in deciding and n not in self.conditions] if free else []

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """The `parameters` of an experiment."""
        parents = self.parents
        found = []
        for name in self.names:
            if name in parents:
                continue
            conditions = {
                parent: [_label(self.space[parent], v) for v in values]
                for parent, values in self.conditions.get(name, {}).items()
                if parent in parents
            }
            form = {"name": name, **_form(self.space[name])}
            found.append({**form, "conditions": conditions} if conditions else form)
        return found

    @property
    def conditionals(self) -> list[dict[str, Any]]:
        """The `conditionals` of an experiment."""
        return [
            {"name": name, "values": [_label(self.space[name], v) for v in _values(self.space[name])]}
            for name in self.parents
        ]

    def params(self, assignments: Mapping[str, Any]) -> dict[str, Any]:
        """SigOpt's assignments as our values; what is not a value of the parameter any more is left out."""
        parents = self.parents
        found = {}
        for name, given in assignments.items():
            d = self.space.get(name)
            value = None if d is None else _decoded(d, given, labelled=name in parents)
            if d is not None and contains(d, value):
                found[name] = fitted(d, value)
        return found

    def assignments(self, params: Params) -> dict[str, Any] | None:
        """Our values as SigOpt's assignments, None when a value is not in the space.

        Of a parameter that the trial did not ask for, the last value, unless a condition leaves the parameter out.
        """
        parents = self.parents
        found: dict[str, Any] = {}
        for name in self.names:
            d = self.space[name]
            if name in params and not contains(d, params[name]):
                return None
            wanted = all(
                p not in parents or p not in params or any(v == params[p] for v in values)
                for p, values in self.conditions.get(name, {}).items()
            )
            if wanted:
                found[name] = self.told(name, params.get(name, _last(d)))
        return found

    def told(self, name: str, value: Any) -> Any:
        """What SigOpt is told of a value."""
        d = self.space[name]
        return _label(d, fitted(d, value)) if name in self.parents else _encoded(d, fitted(d, value))


def _listed(d: BaseDistribution) -> bool:
    return isinstance(d, CategoricalDistribution) or (
        isinstance(d, IntDistribution) and (d.high - d.low) // d.step < GRID
    )


def _values(d: BaseDistribution) -> Sequence[Any]:
    if isinstance(d, CategoricalDistribution):
        return d.choices
    if isinstance(d, IntDistribution):
        return range(d.low, d.high + 1, d.step)
    if isinstance(d, FloatDistribution) and d.step is not None:
        return [d.low + k * d.step for k in range(round((d.high - d.low) / d.step) + 1)]
    return ()


def _last(d: BaseDistribution) -> Any:
    return d.choices[-1] if isinstance(d, CategoricalDistribution) else getattr(d, "high", None)


def _numeric(d: BaseDistribution) -> bool:
    """Whether these are choices of different numbers, which have an order."""
    if not isinstance(d, CategoricalDistribution) or len(d.choices) > GRID:
        return False
    numbers = {float(c) for c in d.choices if isinstance(c, int | float) and not isinstance(c, bool)}
    return len(numbers) == len(d.choices) and all(map(math.isfinite, numbers))


def _label(d: BaseDistribution, value: Any) -> str:
    labels = [v if isinstance(v, str) else repr(v) for v in _values(d)]
    index = next(i for i, v in enumerate(_values(d)) if v is value or (type(v) is type(value) and v == value))
    label = labels[index]
    return label if labels.count(label) == 1 and 0 < len(label) <= LABEL else f"{index}:{label[:_CUT]}"


def _form(d: BaseDistribution) -> dict[str, Any]:  # noqa: PLR0911  a table of forms
    if isinstance(d, CategoricalDistribution):
        if _numeric(d):
            whole = all(isinstance(c, int) for c in d.choices)
            return {"type": "int" if whole else "double", "grid": sorted(map(_number, d.choices))}
        return {"type": "categorical", "categorical_values": [_label(d, c) for c in d.choices]}
    if isinstance(d, IntDistribution):
        if d.log:
            return {"type": "double", "bounds": {"min": float(d.low), "max": float(d.high)}, "transformation": "log"}
        if d.step != 1 and len(_values(d)) <= GRID:
            return {"type": "int", "grid": list(_values(d))}
        return {"type": "int", "bounds": {"min": d.low, "max": d.high}}
    if isinstance(d, FloatDistribution):
        if d.step is not None and len(_values(d)) <= GRID:
            return {"type": "double", "grid": list(_values(d))}
        log = {"transformation": "log"} if d.log else {}
        return {"type": "double", "bounds": {"min": d.low, "max": d.high}, **log}
    raise TypeError(f"SigOpt has no form for {d!r}")


def _number(value: Any) -> Any:
    return value if isinstance(value, int) else float(value)


def _encoded(d: BaseDistribution, value: Any) -> Any:
    if isinstance(d, CategoricalDistribution):
        return _number(value) if _numeric(d) else _label(d, value)
    if isinstance(d, FloatDistribution) and d.step is not None and len(_values(d)) <= GRID:
        return min(_values(d), key=lambda v: abs(v - value))  # SigOpt takes the very numbers of its grid only
    return float(value) if isinstance(d, FloatDistribution) or (isinstance(d, IntDistribution) and d.log) else value


def _decoded(d: BaseDistribution, given: Any, *, labelled: bool) -> Any:
    if labelled or (isinstance(d, CategoricalDistribution) and not _numeric(d)):
        return next((v for v in _values(d) if _label(d, v) == given), None)
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None
    if isinstance(d, CategoricalDistribution):
        return min(d.choices, key=lambda c: abs(_number(c) - given))
    return nearest(d, given)
