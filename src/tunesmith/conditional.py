"""Conditional spaces as Ray Tune writes them: choices among dicts with domains of their own, and values computed from others."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from tunesmith.errors import SpaceError
from tunesmith.restoring import seeded
from tunesmith.scalars import python_scalar
from tunesmith.settings_text import nested
from tunesmith.space import as_function, is_domain, parse_space
from tunesmith.trial import Params, Space, contains, fitted

COMPUTED = "computed"  # an attribute of trials: the values of `sample_from`, by name


@dataclass(frozen=True)
class _Parameter:
    """What is suggested: `plain` is its path in the dict, `name` that with the labels of the choices it stands in."""

    plain: str
    name: str
    distribution: BaseDistribution


@dataclass(frozen=True)
class _Choice(_Parameter):
    """A parameter whose choices, in order, stand for `branches`."""

    branches: tuple[Any, ...]


@dataclass(frozen=True)
class _Computed:
    """A value that a function computes from the others."""

    function: Callable[..., Any]
    takes_config: bool

    def value(self, config: Mapping[str, Any], *, seed: int) -> Any:
        """The value; the function's random numbers are the trial's own."""
        with seeded(seed):
            return self.function(_Spec(config)) if self.takes_config else self.function()


@dataclass(frozen=True)
class _Fixed:
    """A plain value."""

    value: Any


@dataclass(frozen=True)
class Conditional:
    """A function of the trial: suggests what the choices lead to, and returns it all by dotted names.

    A parameter is called by its path in the dict. Where several choices have a parameter of that path with different
    ranges, the label of the choice stands in between: `opt.adam.lr` and `opt.sgd.lr`, both `opt.lr` in what is returned.
    """

    tree: Mapping[str, Any]

    @classmethod
    def of(cls, space: Any) -> Conditional | None:
        """The space, None where it is none of Ray Tune's or has no such choices. Raises SpaceError for what cannot be."""
        if not isinstance(space, Mapping) or not _needed(space):
            return None
        return cls(_tree(space, "", ""))

    @cached_property
    def every(self) -> Space:
        """All parameters that a trial may have, by name."""
        return {self._names[p.name]: p.distribution for p in _parameters(self.tree)}

    def described(self) -> dict[str, str]:
        """The space as text by name, plain values included: what makes two spaces the same."""
        return {**{n: str(d) for n, d in self.every.items()}, **_plain_values(self.tree, "")}

    def __call__(self, trial: Any) -> dict[str, Any]:
        """Suggest and compute a trial's values."""
        found: dict[str, Any] = {}
        computed: dict[str, _Computed] = {}
        self._suggest(self.tree, "", trial, found, computed)
        if computed:
            values = _values(computed, found, trial.number)
            trial.set_user_attr(COMPUTED, {n: v if _scalar(v) else repr(v) for n, v in values.items()})
            found |= values
        return found

    def point(self, given: Params) -> dict[str, Any]:
        """A trial's values by the names of parameters, whether they are given so or as the nested dict that Tune gives."""
        found = {n: v for n, v in given.items() if n in self.every}
        self._point(self.tree, {n: v for n, v in given.items() if n not in found}, found)
        return found

    def _suggest(self, node: Any, path: str, trial: Any, found: dict[str, Any], computed: dict[str, _Computed]) -> None:
        if isinstance(node, Mapping):
            for key, inner in node.items():
                self._suggest(inner, _join(path, key), trial, found, computed)
        elif isinstance(node, _Computed):
            computed[path] = node
        elif isinstance(node, _Fixed):
            found[path] = node.value
        else:
            name = self._names[node.name]
            value = as_function({name: node.distribution})(trial)[name]
            if isinstance(node, _Choice):
                self._suggest(_branch(node, value), path, trial, found, computed)
            else:
                found[path] = value

    def _point(self, node: Any, given: Any, found: dict[str, Any]) -> None:
        if isinstance(node, Mapping):
            for key, value in given.items() if isinstance(given, Mapping) else ():
                if key not in node:
                    found[key] = value  # to be told of as unknown
                else:
                    self._point(node[key], value, found)
        elif isinstance(node, _Choice):
            for label, branch in zip(_labels_of(node), node.branches, strict=True):
                if _leads_to(branch, given):
                    found[self._names[node.name]] = label
                    self._point(branch, given, found)
                    return
        elif isinstance(node, _Parameter):
            found[self._names[node.name]] = given

    @cached_property
    def _names(self) -> dict[str, str]:
        """What each parameter is recorded as."""
        ranges: dict[str, list[BaseDistribution]] = {}
        parameters = list(_parameters(self.tree))
        for p in parameters:
            known = ranges.setdefault(p.plain, [])
            if p.distribution not in known:
                known.append(p.distribution)
        return {p.name: p.plain if len(ranges[p.plain]) == 1 else p.name for p in parameters}


# -- the tree ----------------------------------------------------------------------------------------------------------


def _needed(value: Any) -> bool:
    """Whether there is what no static space can say."""
    if isinstance(value, Mapping):
        choices = _categories(value)
        return any(map(_needed, value.values())) if choices is None else not all(map(_scalar, choices))
    if not is_domain(value):
        return False
    choices = _categories(value)
    return type(value).__name__ == "Function" or (choices is not None and not all(map(_scalar, choices)))


def _categories(value: Any) -> list[Any] | None:
    """The values that are chosen from, None where it is no choice."""
    if isinstance(value, Mapping):
        return list(value["grid_search"]) if set(value) == {"grid_search"} else None
    return list(value.categories) if type(value).__name__ == "Categorical" else None


def _tree(value: Any, plain: str, name: str) -> Any:
    choices = _categories(value)
    if choices is not None and not all(map(_scalar, choices)):
        return _choice(choices, plain, name)
    if isinstance(value, Mapping) and choices is None:
        return {str(k): _tree(v, _join(plain, k), _join(name, k)) for k, v in value.items()}
    if type(value).__name__ == "Function" and is_domain(value):
        return _Computed(value.func, value.pass_config)
    if isinstance(value, list | tuple) and any(map(is_domain, value)):
        raise SpaceError(
            f'a list cannot hold domains, got {value!r} for "{name}"; write a dict, or a sample_from of others'
        )
    if choices is None and not is_domain(value):
        return _Fixed(value)
    return _Parameter(plain, name, parse_space({name: value})[name])


def _choice(choices: Sequence[Any], plain: str, name: str) -> _Choice:
    key = _naming_key(choices)
    labels = _labels(choices, key)
    branches = tuple(_tree(c, plain, f"{name}.{label}") for c, label in zip(choices, labels, strict=True))
    distribution = CategoricalDistribution(tuple(labels))
    return _Choice(_join(plain, key or ""), _join(name, key or ""), distribution, branches)


def _naming_key(choices: Sequence[Any]) -> str | None:
    """The first key under which each of the dicts has a plain value of its own."""
    if not all(isinstance(c, Mapping) and _categories(c) is None for c in choices):
        return None
    for key in choices[0]:
        values = [python_scalar(c.get(key)) for c in choices]
        if isinstance(key, str) and all(key in c for c in choices) and all(map(_scalar, values)) and _differ(values):
            return key
    return None


def _labels(choices: Sequence[Any], key: str | None) -> list[Any]:
    """What the choices are called: dicts by the value of `key` or by number, lists by text, functions by name.

    Plain values are called what they are. All go by number where names would not tell them apart.
    """
    if key is not None:
        return [python_scalar(c[key]) for c in choices]
    found: list[Any] = []
    for k, choice in enumerate(map(python_scalar, choices)):
        if isinstance(choice, list | tuple) or hasattr(choice, "__name__"):
            found.append(getattr(choice, "__name__", None) or str(choice))
        else:
            found.append(choice if _scalar(choice) else k)
    return found if _differ(found) else list(range(len(choices)))


def _labels_of(choice: _Choice) -> Sequence[Any]:
    distribution = choice.distribution
    return distribution.choices if isinstance(distribution, CategoricalDistribution) else ()


def _branch(choice: _Choice, label: Any) -> Any:
    return choice.branches[_labels_of(choice).index(fitted(choice.distribution, label))]


def _leads_to(branch: Any, given: Any) -> bool:
    """Whether values as Tune gives them may be of this branch."""
    if isinstance(branch, _Fixed):
        return bool(branch.value == given)
    if not isinstance(branch, Mapping):
        return not isinstance(branch, _Parameter) or contains(branch.distribution, given)
    return isinstance(given, Mapping) and all(
        key in branch and not (isinstance(branch[key], _Fixed) and branch[key].value != value)
        for key, value in given.items()
    )


def _parameters(node: Any) -> Iterator[_Parameter]:
    if isinstance(node, _Parameter):
        yield node
    inner = node.values() if isinstance(node, Mapping) else getattr(node, "branches", ())
    for child in inner:
        yield from _parameters(child)


def _plain_values(node: Any, path: str) -> dict[str, str]:
    if isinstance(node, _Fixed):
        return {path: str(node.value)}
    if isinstance(node, _Choice):
        children = [(f"{path}.{label}", b) for label, b in zip(_labels_of(node), node.branches, strict=True)]
    else:
        children = [(_join(path, k), v) for k, v in node.items()] if isinstance(node, Mapping) else []
    return {k: v for at, child in children for k, v in _plain_values(child, at).items()}


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path and key != "" else path or str(key)


def _scalar(value: Any) -> bool:
    return isinstance(python_scalar(value), bool | int | float | str | None)


def _differ(values: Sequence[Any]) -> bool:
    return len({(isinstance(v, bool), v) for v in values}) == len(values)


# -- computed values ---------------------------------------------------------------------------------------------------


class _Spec(dict[str, Any]):
    """A configuration as functions ask for it: `spec.config.x`, `spec["config"]["x"]`, `config["x"]`."""

    def __getitem__(self, key: str) -> Any:
        found = self if key == "config" and key not in self else super().__getitem__(key)
        return _Spec(found) if type(found) is dict else found

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


def _values(computed: Mapping[str, _Computed], known: Params, number: int) -> dict[str, Any]:
    """The computed values, those first that others are computed from."""
    found: dict[str, Any] = {}
    key = repr(sorted((n, repr(v)) for n, v in known.items()))
    while len(found) < len(computed):
        before, failure = len(found), None
        for path, node in computed.items():
            if path in found:
                continue
            try:
                seed = zlib.crc32(f"{number}/{path}/{key}".encode())
                found[path] = node.value(nested({**known, **found}), seed=seed)
            except (KeyError, AttributeError) as error:
                failure = failure or (path, error)
        if len(found) == before and failure is not None:
            raise SpaceError(
                f"sample_from must ask for what the space has, got {type(failure[1]).__name__}: {failure[1]} for "
                f'"{failure[0]}"; it has {", ".join({**known, **found})}'
            ) from failure[1]
    return found
