"""`hp_space` in every form a Trainer user may give it, and what can be learned of it before the first trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution

from tunesmith.conditional import Conditional
from tunesmith.dimensions import dimension
from tunesmith.engine import draw
from tunesmith.errors import TunesmithError, UserFunctionError
from tunesmith.settings_text import as_json, nested
from tunesmith.space import as_function, is_domain, parse_space
from tunesmith.tracing import ProbeLink
from tunesmith.trial import GIVEN, Assignment, LiveTrial, Space, Trial

PROBES = 8  # so many draws see each branch of a space with a few branches


@dataclass(frozen=True)
class SpaceFunction:
    """Hyperparameters of a trial: `function(trial)` suggests and returns them.

    `static` is the space where it is fixed, `conditional` where it is one of choices among dicts; `written` what the user
    gave for it. `fields` are the arguments: what stands in a dict that is none of them counts by its own name.
    """

    function: Callable[[Any], Any]
    static: Space | None = None
    conditional: Conditional | None = None
    written: Any = None
    fields: frozenset[str] = frozenset()

    def __call__(self, trial: LiveTrial) -> dict[str, Any]:
        """Suggest the trial's hyperparameters. What the user's function raises becomes UserFunctionError."""
        values = self._values(trial)
        trial.config = nested(values)
        found: dict[str, Any] = {}
        for name, value in values.items():
            own = _own_name(name, self.fields)
            if own in found or (own != name and own in values):
                raise UserFunctionError(f"hp_space must give one value for each hyperparameter, got two for {own!r}")
            found[own] = value
        return found

    def _values(self, trial: LiveTrial) -> dict[str, Any]:
        try:
            values = self.function(trial)
        except TunesmithError:
            raise
        except Exception as error:
            raise UserFunctionError(f"hp_space failed: {type(error).__name__}: {error}") from error
        if values is None:
            return trial.params
        if _is_space(values):  # a function that returns Ray Tune domains, a W&B config or a SigOpt list
            return (Conditional.of(values) or as_function(parse_space(values)))(trial)
        if not isinstance(values, Mapping):
            raise UserFunctionError(
                f"hp_space must return a dict of hyperparameters, got {type(values).__name__}: {values!r}"
            )
        return dict(values)


def as_space_function(hp_space: Any, fields: frozenset[str] = frozenset()) -> SpaceFunction:
    """Any form of `hp_space` as a function of the trial; `fields` are the arguments. Raises SpaceError for what is none.

    A function that suggests nothing and returns a space in a service's own form is that space.
    """
    if callable(hp_space):
        trial = LiveTrial(Assignment(0), _draws(0))
        try:
            values = hp_space(trial)
        except Exception:  # noqa: BLE001  it will be raised again, with its name
            return SpaceFunction(hp_space, fields=fields)
        if trial.params or not _is_space(values):
            return SpaceFunction(hp_space, fields=fields)
        hp_space = values
    conditional = Conditional.of(hp_space)
    if conditional is not None:
        return SpaceFunction(conditional, conditional=conditional, fields=fields)
    static = parse_space(hp_space)
    return SpaceFunction(as_function(static), static, written=hp_space, fields=fields)


def default_space(trial: Any) -> dict[str, Any]:
    """The hyperparameters that transformers searches when no hp_space is given."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-4, log=True),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 5),
        "seed": trial.suggest_int("seed", 1, 40),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [4, 8, 16, 32, 64]),
    }


@dataclass(frozen=True)
class Probe:
    """What a few draws of a space show: each name's distributions in order of appearance, and the values returned."""

    distributions: Mapping[str, Sequence[BaseDistribution]]
    values: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, function: SpaceFunction) -> Probe:
        """Draw from the space with fixed seeds. Raises what a bug in it raises, before any trial."""
        known_before = {} if function.conditional is None else function.conditional.every
        distributions: dict[str, list[BaseDistribution]] = {n: [d] for n, d in known_before.items()}
        values = []
        for k in range(PROBES):
            trial = LiveTrial(Assignment(k), _draws(k))
            values.append(function(trial))
            for name, distribution in trial.distributions.items():
                known = distributions.setdefault(name, [])
                if distribution not in known:
                    known.append(distribution)
        return cls(distributions, values)

    @property
    def names(self) -> list[str]:
        """The names of the hyperparameters returned."""
        return list(dict.fromkeys(name for values in self.values for name in values))


def replay(trial: Trial, function: SpaceFunction) -> LiveTrial:
    """A trial that gives the values of an earlier one of the space again; nothing it does is recorded."""
    again = LiveTrial(
        Assignment(trial.number, params=trial.params, distributions=trial.distributions), _draws(trial.number)
    )
    function(again)
    return again


def note_given(trial: LiveTrial, values: Mapping[str, Any]) -> None:
    """Keep with the trial what training is given, where the suggested parameters do not say it."""
    suggested = trial.params
    plain = {n: as_json(v) for n, v in values.items()}
    if any(n not in suggested or as_json(suggested[n]) != v for n, v in plain.items()):
        trial.set_user_attr(GIVEN, plain)


def _draws(number: int) -> ProbeLink:
    """Values at random, the same at each call."""
    return ProbeLink(lambda name, distribution: draw(dimension(distribution), seed=0, number=number, name=name))


def _is_space(values: Any) -> bool:
    if isinstance(values, list | tuple):
        return True
    if not isinstance(values, Mapping):
        return False
    if "parameters" in values and isinstance(values["parameters"], Mapping):
        return True
    return _has_domain(values)


def _has_domain(values: Mapping[str, Any]) -> bool:
    found = any(is_domain(v) or (isinstance(v, Mapping) and _has_domain(v)) for v in values.values())
    return found or set(values) == {"grid_search"}


def _own_name(name: str, fields: frozenset[str]) -> str:
    """A dotted name without the dicts around it, down to an argument; as it is where there is none."""
    rest = name
    while "." in rest and rest.partition(".")[0] not in fields:
        rest = rest.partition(".")[2]
    return rest if rest.partition(".")[0] in fields else name
