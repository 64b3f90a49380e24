"""The trial: what is stored of one (`Trial`, `Report`), and what user code holds while it runs (`LiveTrial`)."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import BaseTrial

from tunesmith.errors import SpaceError
from tunesmith.scalars import floats, python_scalar
from tunesmith.storage import Storage, stores

Space = Mapping[str, BaseDistribution]
Params = Mapping[str, Any]

CONSTRAINT = "constraint:"  # a trial's attributes that begin so are the values of its constraints
GIVEN = "given"  # an attribute of trials: what hp_space has made of the suggested parameters, where that is not they
_EMPTY: Mapping[str, Any] = MappingProxyType({})


class TrialState(str, Enum):
    """Where a trial stands. WAITING and PAUSED trials will run (again); the last three are finished."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAILED = "FAILED"

    @property
    def finished(self) -> bool:
        """Whether the trial has ended for good."""
        return self in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED)


@dataclass(frozen=True, slots=True)
class Report:
    """What a trial reported at one step.

    `step` counts optimizer steps (or whatever the objective counts), `epoch` epochs and `examples` training examples
    seen; `share` is the part of the planned training that is done, 0 to 1. `time` is Unix time in seconds. What is not
    known is None.
    """

    step: int
    values: tuple[float, ...]
    metrics: Mapping[str, float] = field(default_factory=lambda: _EMPTY)
    epoch: float | None = None
    examples: int | None = None
    share: float | None = None
    time: float = 0.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One row of the record: everything that is known of a trial.

    `offered` holds the values that were decided before the trial began (by the backend, or by `enqueue`); `params` and
    `distributions` those that it asked for. `values` is one number per objective, None unless COMPLETE. `reason` says
    in one line why a trial did not complete, beginning with a word: `oom`, `nan`, `error`, `lost`, `timeout`,
    `pruned`, `interrupted`; `detail` holds the traceback or last output. `checkpoint` is the directory that holds the
    kept weights, relative to the study's directory, `checkpoint_step` the step of the newest whole one. `attempt`
    counts from 1. `why` is the backend's account of its suggestion. `started` and `ended` are Unix times in seconds.
    """

    number: int
    state: TrialState
    params: Params = field(default_factory=lambda: _EMPTY)
    distributions: Space = field(default_factory=lambda: _EMPTY)
    offered: Params = field(default_factory=lambda: _EMPTY)
    reports: tuple[Report, ...] = ()
    values: tuple[float, ...] | None = None
    attempt: int = 1
    checkpoint: str | None = None
    checkpoint_step: int | None = None
    reason: str | None = None
    detail: str | None = None
    metrics: Mapping[str, float] = field(default_factory=lambda: _EMPTY)
    attrs: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)
    why: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)
    started: float | None = None
    ended: float | None = None

    @property
    def value(self) -> float | None:
        """The objective of a completed trial with one objective."""
        return self.values[0] if self.values is not None and len(self.values) == 1 else None

    @property
    def constraints(self) -> dict[str, float]:
        """The values of the constraints that were set, by name; each is kept when it is at most 0."""
        return {k.removeprefix(CONSTRAINT): v for k, v in self.attrs.items() if k.startswith(CONSTRAINT)}

    @property
    def feasible(self) -> bool:
        """Whether the trial kept all its constraints."""
        return all(value <= 0 for value in self.constraints.values())

    @property
    def duration(self) -> float | None:
        """Seconds from start to end, over all attempts."""
        return self.ended - self.started if self.started is not None and self.ended is not None else None


@dataclass(frozen=True, slots=True)
class Decision:
    """What a running trial is told: go on, end as pruned, or pause (to be resumed by a later start)."""

    action: Literal["continue", "prune", "pause"] = "continue"
    reason: str = ""


CONTINUE = Decision()


class Link(Protocol):
    """A live trial's line to the driver: direct in this process, a pipe from a worker, a broadcast between ranks."""

    def suggest(self, name: str, distribution: BaseDistribution) -> Any:
        """The value for a parameter that the trial asks for; recorded durably before it is returned."""

    def report(self, report: Report) -> Decision:
        """Record the report durably and return what to do."""

    def decide(self) -> Decision:
        """What to do now, without a new report (a timeout, a signal)."""

    def checkpoint(self, path: str, step: int) -> None:
        """Record that a whole checkpoint of this step lies at `path`."""

    def annotate(self, key: str, value: Any) -> None:
        """Record a user attribute (JSON)."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hand metrics from between two reports to the backend, without waiting for it."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a runner needs to begin an attempt at a trial; it can be pickled.

    `params` and `distributions` are what an earlier attempt was given (they stay the same), `reports` what it reported
    up to the checkpoint `resume_from`. `directory` is where the trial's files go (it need not exist), in the study's
    own; both paths are absolute. `inherited`: the checkpoint is another trial's, trained with other parameters.
    `save_each_report`: every report must be followed by a checkpoint, for the trial may be paused there. `logs`: the
    backend keeps what the trial logs between its reports. `environment`: variables that are set while the trial runs.
    `storage`: a URL where checkpoints are copied to, and come from where the directory lacks them.
    """

    number: int
    n_objectives: int = 1
    attempt: int = 1
    params: Params = field(default_factory=dict)
    distributions: Space = field(default_factory=dict)
    reports: tuple[Report, ...] = ()
    resume_from: str | None = None
    directory: str = ""
    inherited: bool = False
    save_each_report: bool = False
    logs: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    storage: str | None = None


class LiveTrial(BaseTrial):
    """The trial as user code holds it: an Optuna trial, so that existing spaces and checks work.

    `resume_from` is the directory of the last whole checkpoint when an interrupted trial goes on, else None;
    `attempt` counts from 1. `directory` is a place for the trial's files, in the study's directory; it need not exist.
    `inherited`: that checkpoint is another trial's, whose weights go on under this one's parameters (population based
    training). `save_each_report`: every report must come with a checkpoint. `logs`: what is logged is kept somewhere.
    `config` is what a space gave the trial, as nested dicts in Ray Tune's form; `trial["opt"]["name"]` reads it. It is empty
    where a function asks for parameters itself.
    """

    def __init__(self, assignment: Assignment, link: Link) -> None:
        self._number = assignment.number
        self._link = link
        self._params: dict[str, Any] = dict(assignment.params)
        self._distributions: dict[str, BaseDistribution] = dict(assignment.distributions)
        self._reports = list(assignment.reports)
        self._n_objectives = assignment.n_objectives
        self._decision = CONTINUE
        self._attrs: dict[str, Any] = {}
        self._started = dt.datetime.now()  # noqa: DTZ005  Optuna's trials carry naive local times
        self.directory = Path(assignment.directory)
        self.resume_from = assignment.resume_from
        self.attempt = assignment.attempt
        self.inherited = assignment.inherited
        self.save_each_report = assignment.save_each_report
        self.logs = assignment.logs
        self.environment = assignment.environment
        self.storage = assignment.storage
        self.config: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"LiveTrial(number={self._number}, params={self._params!r})"

    # -- identity ------------------------------------------------------------------------------------------------

    @property
    def number(self) -> int:
        """The trial's number in its study, from 0."""
        return self._number

    @property
    def params(self) -> dict[str, Any]:
        """The parameters suggested so far."""
        return dict(self._params)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The distributions of the parameters suggested so far."""
        return dict(self._distributions)

    @property
    def reports(self) -> tuple[Report, ...]:
        """The reports so far, those of the part before a resume included."""
        return tuple(self._reports)

    @property
    def user_attrs(self) -> dict[str, Any]:
        """What `set_user_attr` stored."""
        return dict(self._attrs)

    @property
    def datetime_start(self) -> dt.datetime | None:
        """When this attempt began (naive, local time, as in Optuna)."""
        return self._started

    # -- as the dict that Ray Tune gives ---------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        """A value of `config`."""
        return self.config[name]

    def __contains__(self, name: object) -> bool:
        return name in self.config

    def get(self, name: str, default: Any = None) -> Any:
        """A value of `config`, or the default."""
        return self.config.get(name, default)

    # -- suggestions ---------------------------------------------------------------------------------------------

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Suggest a float between `low` and `high`, both included."""
        return float(self._suggest(name, _checked(name, FloatDistribution, low, high, log=log, step=step)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Suggest an integer between `low` and `high`, both included."""
        return int(self._suggest(name, _checked(name, IntDistribution, low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Suggest one of `choices` (None, bool, int, float or str; NumPy's scalars count as Python's)."""
        if isinstance(choices, str):
            raise SpaceError(f'choices must be a list, got the text {choices!r} for "{name}"; write [{choices!r}]')
        plain = tuple(map(_plain, choices))
        for choice in plain:
            if not isinstance(choice, bool | int | float | str | list | tuple | dict | None):
                raise SpaceError(
                    f'a choice must be what JSON can hold (None, bool, number, string, list, dict), got {choice!r} for "{name}"; '
                    "suggest its name, and take what it stands for from a dict of your own"
                )
        return self._suggest(name, _checked(name, CategoricalDistribution, plain))

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        """Suggest a float (Optuna's old name; `suggest_float` is the new one)."""
        return self.suggest_float(name, low, high)

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        """Suggest a float in the log domain (Optuna's old name)."""
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        """Suggest a float on a grid (Optuna's old name)."""
        return self.suggest_float(name, low, high, step=q)

    def suggest(self, name: str, distribution: BaseDistribution) -> Any:
        """Suggest a value of an Optuna distribution."""
        if isinstance(distribution, CategoricalDistribution):
            return self.suggest_categorical(name, distribution.choices)
        return self._suggest(name, distribution)

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name in self._distributions:
            known = self._distributions[name]
            if known == distribution:
                return self._params[name]
            if type(known) is not type(distribution):
                raise SpaceError(
                    f"a parameter has one kind of distribution in a trial, got {distribution!r} after {known!r} "
                    f'for "{name}"; give the second one another name'
                )
            if contains(distribution, self._params[name]):
                return self._params[name]
            raise SpaceError(
                f"a parameter keeps its value within a trial, and {self._params[name]!r} is not in {distribution!r} "
                f'for "{name}"; give the second one another name'
            )
        value = self._link.suggest(name, distribution)
        self._params[name] = value
        self._distributions[name] = distribution
        return value

    # -- reports -------------------------------------------------------------------------------------------------

    def report(
        self,
        value: float | Sequence[float],
        step: int,
        *,
        metrics: Mapping[str, float] = _EMPTY,
        epoch: float | None = None,
        examples: int | None = None,
        share: float | None = None,
        checkpoint: str | None = None,
    ) -> None:
        """Report the objective (one number, or one per objective) after `step`.

        The report is durable when this returns. `checkpoint` names a directory from which the trial could go on at
        this step. `share` is the part of the planned training done (0 to 1): with it, pruners compare trials of
        different lengths at equal shares. Raises ValueError when the number of values is not that of the objectives.
        """
        values = tuple(float(v) for v in value) if isinstance(value, Sequence) else (float(value),)
        if len(values) != self._n_objectives:
            raise SpaceError(
                f"a report has one value per objective, got {len(values)} for {self._n_objectives} objective(s)"
            )
        if isinstance(step, bool) or int(step) != step or step < 0:
            raise SpaceError(f"step must be a whole number from 0, got {step!r}")
        if share is not None and not (math.isfinite(share) and share >= 0):
            raise SpaceError(f"share must be from 0 to 1, got {share!r}")
        now = dt.datetime.now(tz=dt.timezone.utc).timestamp()
        entry = Report(
            int(step), values, dict(metrics), epoch, examples, None if share is None else min(share, 1.0), now
        )
        self._reports.append(entry)
        self._decision = self._link.report(entry)
        if checkpoint is not None:  # after the report, which would be missing when the trial goes on from there
            self.save_checkpoint(str(checkpoint), step)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of `step` between two reports: a backend that keeps them (W&B's) shows them, the record does not."""
        if self.logs:
            self._link.log(int(step), floats(metrics))

    def save_checkpoint(self, path: str, step: int) -> None:
        """Tell the study that a whole checkpoint of `step` lies at `path`: an interrupted trial goes on from there."""
        if self.storage is not None and stores():
            Storage(self.storage).put(Path(path).absolute(), self.directory.parent)
        self._link.checkpoint(str(path), int(step))

    @property
    def decided(self) -> Decision:
        """What the study wanted when it was last asked, or was told a report."""
        return self._decision

    def decide(self) -> Decision:
        """What the study wants of this trial now, with its reason."""
        if self._decision.action == "continue":
            self._decision = self._link.decide()
        return self._decision

    def should_prune(self) -> bool:
        """Whether to stop now by raising `optuna.TrialPruned` (a bad trial, a timeout, or an interrupt)."""
        return self.decide().action != "continue"

    # -- the rest of Optuna's trial ------------------------------------------------------------------------------

    def set_user_attr(self, key: str, value: Any) -> None:
        """Store a JSON value with the trial."""
        self._link.annotate(key, value)
        self._attrs[key] = value

    def set_constraint(self, key: str, value: float) -> None:
        """Store a constraint's value; the trial is feasible when it is at most 0."""
        self._link.annotate(CONSTRAINT + key, float(value))
        self._attrs[CONSTRAINT + key] = float(value)

    @property
    def constraints(self) -> dict[str, float]:
        """The constraints set so far."""
        return {k.removeprefix(CONSTRAINT): v for k, v in self._attrs.items() if k.startswith(CONSTRAINT)}


def _checked(name: str, kind: type[BaseDistribution], *args: Any, **kwargs: Any) -> BaseDistribution:
    """Build a distribution; what Optuna refuses becomes an error with the parameter's name."""
    try:
        return kind(*args, **kwargs)
    except (ValueError, TypeError) as error:
        raise SpaceError(f'{error} (parameter "{name}")') from error


def signs(directions: Sequence[str]) -> list[float]:
    """What turns the values of each objective into losses: 1 to minimize, -1 to maximize."""
    return [1.0 if d == "minimize" else -1.0 for d in directions]


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether the distribution can give the value (1.0 for 1 included)."""
    if isinstance(distribution, CategoricalDistribution):
        return any(_same(c, value) for c in distribution.choices)
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))  # noqa: SLF001
    except (ValueError, TypeError):
        return False


def fitted(distribution: BaseDistribution, value: Any) -> Any:
    """The value in the distribution's own type."""
    if isinstance(distribution, CategoricalDistribution):
        return next(c for c in distribution.choices if _same(c, value))
    return distribution.to_external_repr(distribution.to_internal_repr(value))


def as_tuple(value: Any) -> Any:
    """A sequence as a tuple, one within another too: JSON gives a list back for either."""
    return tuple(map(as_tuple, value)) if isinstance(value, list | tuple) else value


def with_tuples(distribution: BaseDistribution) -> BaseDistribution:
    """The distribution, of choices that are lists with tuples instead: Optuna compares choices by value and type."""
    if isinstance(distribution, CategoricalDistribution) and list in map(type, distribution.choices):
        return CategoricalDistribution(as_tuple(distribution.choices))
    return distribution


def _plain(choice: Any) -> Any:
    """NumPy's scalar as Python's, also within a sequence."""
    if type(choice) in (list, tuple):
        return type(choice)(map(_plain, choice))
    return python_scalar(choice)


def _same(choice: Any, value: Any) -> bool:
    if isinstance(choice, bool) or isinstance(value, bool):
        return choice is value
    return bool(as_tuple(choice) == as_tuple(value))
