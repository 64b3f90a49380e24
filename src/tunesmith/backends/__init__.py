"""The backends that propose trials: the protocol, and the registry that finds them by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

from optuna.distributions import BaseDistribution

from tunesmith.errors import MissingDependencyError, SettingError, UnknownBackendError
from tunesmith.trial import Decision, Params, Space, Trial


@dataclass(frozen=True)
class Proposal:
    """What a backend offers for one trial.

    `params` are values decided beforehand, used when the trial asks for the name with a distribution that contains
    the value. `draw(name, distribution)` gives the value of any other name, when it is asked for. `why` is an account
    of the suggestion (JSON), stored with the trial and shown.
    """

    params: Params
    draw: Callable[[str, BaseDistribution], Any]
    why: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Halt:
    """What a backend answers when it has nothing more to propose; `resumable` when that may change by a later start."""

    reason: str
    resumable: bool


@dataclass(frozen=True)
class Setting:
    """What a backend may know of the study it serves.

    `seed` keys every draw together with the trial's number. `space` is the space when it is known beforehand (a dict),
    None when it is defined by run; `define` is then the function of the trial that defines it, where that does nothing
    else and so may be traced, and `written` the space as its user wrote it. `history()` gives all trials of the record in order of their numbers, running ones
    included; the backend must not keep state that cannot be rebuilt from it and from `memory`, a durable mapping (JSON)
    for what others call the study (a sweep's id). What they call a trial goes into its `Proposal.why`. `directory` is
    the study's folder, `n_trials` its budget, `slots` how many trials run at once. `prune_metric` names a metric with
    its direction for pruning; None: the first (only) objective.
    """

    directions: Sequence[str]
    seed: int
    history: Callable[[], Sequence[Trial]]
    space: Space | None = None
    directory: str = "."
    study_name: str = ""
    prune_metric: tuple[str, str] | None = None
    compare_at: str = "share"
    define: Callable[[Any], Any] | None = None
    written: Any = None
    memory: MutableMapping[str, Any] = field(default_factory=dict)
    n_trials: int | None = None
    slots: int = 1


class Backend(Protocol):
    """Proposes trials and judges them. Made anew at each start of a search, from the history alone."""

    def ask(self, number: int, fixed: Params) -> Proposal | Halt:
        """Propose the trial `number`; `fixed` values are given (an enqueued trial) and must be kept."""

    def judge(self, trial: Trial) -> Decision:
        """Whether a running trial goes on, after its newest report."""

    def tell(self, trial: Trial) -> None:
        """A trial has finished, whatever its state."""

    def close(self) -> None:
        """Release what the backend holds; the search has ended."""


@runtime_checkable
class KeepsLogs(Protocol):
    """A backend that also keeps what trials log between their reports."""

    def log(self, number: int, step: int, metrics: Mapping[str, float]) -> None:
        """What trial `number` logs at `step`; training must not wait for it."""


# name -> (module, class, what must be importable, what to install)
_BUILT_IN: dict[str, tuple[str, str, str | None, str]] = {
    "tunesmith": ("tunesmith.backends.engine", "EngineBackend", None, "tunesmith"),
    "optuna": ("tunesmith.backends.optuna", "OptunaBackend", "optuna", "tunesmith"),
    "wandb": ("tunesmith.backends.wandb", "WandbBackend", "wandb", "tunesmith[wandb]"),
    # SigOpt's two modes need different packages: the class says which
    "sigopt": ("tunesmith.backends.sigopt", "SigOptBackend", None, "tunesmith[sigopt]"),
    "ray": ("tunesmith.backends.ray", "RayBackend", "ray.tune", "tunesmith[ray]"),
}


def known_backends() -> list[str]:
    """The names of all backends: the built-in ones, then those of installed plugins (entry point `tunesmith.backends`)."""
    return [*_BUILT_IN, *sorted(e.name for e in entry_points(group="tunesmith.backends") if e.name not in _BUILT_IN)]


def backend_class(name: str) -> Callable[..., Backend]:
    """The class of the backend called `name`: it is called as `cls(setting, **options)`.

    Raises UnknownBackendError (a ValueError) for a name that is not known, MissingDependencyError (a RuntimeError)
    when the package it needs is not installed.
    """
    if name in _BUILT_IN:
        module, attribute, needs, install = _BUILT_IN[name]
        try:
            if needs is not None:
                import_module(needs)
        except ImportError as error:
            raise MissingDependencyError(f'backend "{name}" needs {needs}: pip install "{install}"') from error
        return getattr(import_module(module), attribute)  # type: ignore[no-any-return]
    for entry in entry_points(group="tunesmith.backends"):
        if entry.name == name:
            return entry.load()  # type: ignore[no-any-return]
    raise UnknownBackendError(f"unknown backend {name!r}: one of {', '.join(known_backends())}")


def preferred_runner(name: str) -> str | None:
    """The runner that trials of a backend run in where none is asked for."""
    return getattr(backend_class(name), "runner", None)


def leaves_loop(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a backend with these options brings a loop of its own, as Ray Tune does with its schedulers."""
    asked = getattr(backend_class(name), "leaves_loop", None)
    return asked is not None and bool(asked(options))


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise what `backend_class` raises, and SettingError for an option that the backend does not take."""
    made = backend_class(name)
    parameters = [*inspect.signature(made).parameters.values()][1:]
    takes = getattr(made, "takes", None)
    known = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD] if takes is None else takes(options)
    unknown = [o for o in options if o not in known]
    if unknown and (takes is not None or len(known) == len(parameters)):
        near = difflib.get_close_matches(unknown[0], known, n=1)
        raise SettingError(
            f"unknown setting {unknown[0]!r}: backend {name!r} takes {', '.join(known) or 'no options'}"
            + (f"; did you mean {near[0]!r}?" if near else "")
        )
