"""The steps that every kind of search shares: a plan that is checked, a study that is opened, driven and reported."""

from __future__ import annotations

import os
import secrets
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import psutil
from optuna.distributions import BaseDistribution

from tunesmith.backends import Setting, backend_class, check_options
from tunesmith.errors import SettingError, StudyLockedError
from tunesmith.folders import REPORT
from tunesmith.function_identity import described, lasting
from tunesmith.loop import Budget, Loop
from tunesmith.opening import Resume, open_study
from tunesmith.places import Places
from tunesmith.record_lock import driver_of
from tunesmith.report.page import write_report
from tunesmith.report.progress import Progress
from tunesmith.runners import Runner, Task
from tunesmith.runners.workers import WorkersRunner
from tunesmith.storage import Storage
from tunesmith.study import Memory, Study
from tunesmith.trial import Space, contains

DIRECTIONS = ("minimize", "maximize")
EVENTS = ("on_search_start", "on_trial_start", "on_report", "on_trial_end", "on_message", "on_search_end")
_GATE_WAIT = 10.0  # seconds in which a driver that takes in others has opened its gate


@dataclass(frozen=True)
class Plan:
    """Everything that is decided about a search before it begins; checked, so that no bad input costs a trial."""

    directions: tuple[str, ...]
    backend: str = "tunesmith"
    options: Mapping[str, Any] = field(default_factory=dict)
    directory: Path = Path("tunesmith-studies")
    name: str | None = None
    resume: Resume = "auto"
    identity: Mapping[str, Any] = field(default_factory=dict)
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)  # of the user's, part of the identity
    seed: int | None = None
    space: Space | None = None
    enqueue: Sequence[Mapping[str, Any]] = ()
    budget: Budget = field(default_factory=Budget)
    callbacks: Sequence[Any] = ()
    progress: bool = True
    prune_metric: tuple[str, str] | None = None
    compare_at: str = "share"
    define: Callable[[Any], Any] | None = None
    written: Any = None
    join: bool = False
    storage_url: str | None = None

    def __post_init__(self) -> None:
        for direction in self.directions:
            if direction not in DIRECTIONS:
                raise SettingError(f'direction must be "minimize" or "maximize" (or a list of them), got {direction!r}')
        if not self.directions:
            raise SettingError("direction must name at least one objective, got an empty list")
        _check_budget(self.budget, objectives=len(self.directions))
        if self.compare_at not in ("share", "step", "epoch", "examples"):
            raise SettingError(f'compare_at must be "share", "step", "epoch" or "examples", got {self.compare_at!r}')
        for params in self.enqueue:
            if not isinstance(params, Mapping):
                raise SettingError(f"enqueue must be a list of dicts of parameters, got {params!r}")
        _check_functions(self.functions)
        _check_seed(self.seed)
        check_options(self.backend, self.options)
        if self.storage_url is not None:
            Storage(self.storage_url)


def _check_seed(seed: Any) -> None:
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, Integral)):
        raise SettingError(f"seed must be a whole number or None, got {seed!r}")


def _check_functions(functions: Mapping[str, Any]) -> None:
    for role, function in functions.items():
        if not callable(function):
            raise SettingError(f"{role} must be a function, got {function!r}")


def as_callbacks(callbacks: Any) -> list[Any]:
    """The user's observers as a list. Raises SettingError for one that would never be called."""
    if not isinstance(callbacks, list | tuple):
        raise SettingError(f"callbacks must be a list of objects, got {callbacks!r}; write [...] around it")
    for callback in callbacks:
        if isinstance(callback, type) or not any(hasattr(callback, event) for event in EVENTS):
            raise SettingError(
                f"callbacks must be objects with one of the methods {', '.join(EVENTS)}, got "
                f"{getattr(callback, '__name__', type(callback).__name__)!r}, which has none: it would never be called; "
                "callbacks of a Trainer go to its constructor"
            )
    return list(callbacks)


def check_enqueued(
    enqueue: Sequence[Mapping[str, Any]], space: Mapping[str, Sequence[BaseDistribution]], *, elsewhere: str = ""
) -> None:
    """Warn of enqueued parameters that no trial asks for, by the ranges of each name, or that lie in none of them.

    `elsewhere`: text that mentions further parameters.
    """
    for params in enqueue:
        unknown = sorted(name for name in params if name not in space and repr(name) not in elsewhere)
        if unknown:
            warnings.warn(
                f"enqueued parameters must be in the space, got {', '.join(unknown)}; known: {', '.join(sorted(space))}",
                UserWarning,
                stacklevel=4,
            )
        for name, value in params.items():
            if name in space and not any(contains(d, value) for d in space[name]):
                warnings.warn(
                    f"enqueued parameters must be within their range, got {name}={value!r}, which is not in "
                    f"{' or '.join(map(str, space[name]))}; another value is drawn",
                    UserWarning,
                    stacklevel=4,
                )


def _check_budget(budget: Budget, *, objectives: int) -> None:
    n, timeout = budget.n_trials, budget.timeout
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
        raise SettingError(f"n_trials must be a whole number from 1, or None with a timeout, got {n!r}")
    if timeout is not None and not timeout > 0:
        raise SettingError(f"timeout must be a positive number of seconds, got {timeout!r}")
    if n is None and timeout is None:
        raise SettingError("n_trials=None needs a timeout, got timeout=None; give either")
    if budget.stop_when not in (None, "converged"):
        raise SettingError(f'stop_when must be "converged" or None, got {budget.stop_when!r}')
    if budget.stop_when is not None and objectives > 1:
        raise SettingError(f"stop_when needs one objective, got {objectives}; leave it out")


@runtime_checkable
class OwnLoop(Protocol):
    """Runs trials and drives the search itself, in place of a runner and our loop."""

    def loop(self, study: Study, plan: Plan, observers: Sequence[Any]) -> Any:
        """What has `run()` and `notify(event, ...)` as our loop has."""

    def close(self) -> None:
        """Release what is held; the search has ended."""


def conduct(plan: Plan, runner: Runner | OwnLoop, *, prepare: Callable[[Study], None] | None = None) -> Study:
    """Open or begin the study that `plan` describes, run it to the end of its budget and write its report.

    `prepare(study)` is called once the study is open and locked, before the first trial. The runner is closed in the end.
    With `plan.join`, while another process drives the study its workers are ours; should it be killed, this one drives.
    """
    seed = secrets.randbits(31) if plan.seed is None else plan.seed
    with closing(runner), ExitStack() as held:  # closed also when no trial is run
        if plan.join and (plan.resume is False or not isinstance(runner, WorkersRunner)):
            raise SettingError(
                "join=True lends workers to the process that drives a study, so it must come with workers=1 or more, and "
                "without resume=False, which starts a study of its own"
            )
        if plan.join and isinstance(runner, WorkersRunner) and runner.ranks > 1:
            raise SettingError(
                f"join=True lends workers of one process each, got {runner.ranks} ranks per trial; leave join out"
            )
        functions = _described(plan)
        study, notice = open_study(
            plan.directory,
            name=plan.name,
            directions=plan.directions,
            seed=seed,
            identity={**plan.identity, "functions": functions},
            resume=plan.resume,
        )
        study.storage_url = plan.storage_url
        if isinstance(runner, WorkersRunner) and plan.join:
            if not _drives(study, runner, held):
                if prepare is not None:
                    prepare(study)
                return study
        else:
            held.enter_context(study.record.lock())
        observers = [*([Progress()] if plan.progress else []), *plan.callbacks]
        if isinstance(runner, OwnLoop):
            loop = runner.loop(study, plan, observers)
        else:
            loop = _loop(study, plan, runner, observers)
        study.record.update_settings(launch=launch(), storage=plan.storage_url)
        _note_functions(study, functions)
        if prepare is not None:
            prepare(study)
        if notice is not None:
            loop.notify("on_message", notice)
        try:
            loop.run()
        except BaseException:
            with suppress(OSError):  # a full disk; why the search ended says more
                write_report(study, study.directory / REPORT)
            raise
        finally:
            with suppress(OSError):
                _note_functions(study, _described(plan))
        write_report(study, study.directory / REPORT)
    return study


def _described(plan: Plan) -> dict[str, Any]:
    """What the plan's functions are known by as they are now."""
    return {role: described(function) for role, function in plan.functions.items()}


def _note_functions(study: Study, now: Mapping[str, Any]) -> None:
    """Store what the functions are known by: not by values that have changed, for those are changed by trials."""
    known = study.info.settings["identity"]
    before = known.get("functions", {})
    kept = {role: lasting(now[role], before.get(role, now[role])) for role in now}
    if kept != before:
        study.record.update_settings(identity={**known, "functions": kept})


def _drives(study: Study, runner: WorkersRunner, held: ExitStack) -> bool:
    """Become the study's driver, with the gate open to others; or lend the workers to who is, until its end: False."""
    until = time.monotonic() + _GATE_WAIT
    while True:
        with suppress(StudyLockedError):
            held.enter_context(study.record.lock())
            runner.open_gate(study.directory)
            return True
        if runner.lend(study.directory):
            if not study.record.interrupted():
                return False  # it has ended in order
            until = time.monotonic() + _GATE_WAIT
        elif time.monotonic() > until:
            raise StudyLockedError(
                f"only a driver that was started with join=True takes in others, and {study.name!r} in "
                f"{study.directory} is driven by {driver_of(study.directory)}; wait for it, or end it"
            )
        time.sleep(0.1)


def _loop(study: Study, plan: Plan, runner: Runner, observers: Sequence[Any]) -> Loop:
    setting = Setting(
        directions=study.directions,
        seed=study.info.seed,
        history=study.record.trials,
        space=plan.space,
        directory=str(study.directory),
        study_name=study.name,
        prune_metric=plan.prune_metric,
        compare_at=plan.compare_at,
        define=plan.define,
        written=plan.written,
        memory=Memory(study.record),
        n_trials=plan.budget.n_trials,
        slots=getattr(runner, "wanted", runner.slots),  # workers that come later count
    )
    backend = backend_class(plan.backend)(setting, **plan.options)
    if not study.trials:
        for params in plan.enqueue:
            study.record.add_waiting(dict(params), attrs={"enqueued": True})
    return Loop(study, backend, runner, budget=plan.budget, observers=observers)


def launch() -> dict[str, Any]:
    """How this process was started (JSON), so that `tunesmith resume` can start it again."""
    interactive = hasattr(sys, "ps1") or "ipykernel" in sys.modules
    ranks = os.environ.get("WORLD_SIZE", "1")
    # torchrun and accelerate are the parent of all ranks of their host, and their command starts them all
    launched = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("LOCAL_WORLD_SIZE") == ranks
    if launched and not interactive:
        launcher = psutil.Process(os.getppid())
        return {"command": launcher.cmdline(), "directory": launcher.cwd(), "interactive": False}
    return {
        "command": list(sys.orig_argv),
        "directory": str(Path.cwd()),
        "interactive": interactive or ranks != "1",
    }


def as_directions(direction: str | Sequence[str]) -> tuple[str, ...]:
    """One direction or several as a tuple."""
    return (direction,) if isinstance(direction, str) else tuple(direction)


def check_launched(ranks: int, *, tuned: bool, **given: Any) -> None:
    """Raise SettingError in a script that torchrun has started, for settings of workers and where Ray Tune drives (`tuned`)."""
    if tuned:
        raise SettingError("Ray Tune starts its own workers, got a script under torchrun; start it without torchrun")
    for name, value in given.items():
        if value is not None:
            raise SettingError(
                f"{name} must be None under torchrun, got {value!r}: a trial runs on all {ranks} ranks; start the script "
                "without torchrun to have workers"
            )


def tune_place(plan: Plan, places: Places, task: Task, *, space: Space | None, bare: Sequence[object] = ()) -> OwnLoop:
    """Where Ray Tune runs the trials of a task and drives the search; `bare` is as in `WorkersRunner`.

    Raises SettingError for a setting that Tune's objects do not keep to.
    """
    from tunesmith.tune_loop import TunePlace  # noqa: PLC0415  an optional package

    _check_left(plan, places)
    return TunePlace(
        task,
        space,
        scheduler=plan.options.get("scheduler"),
        workers=None if places.workers == "auto" else places.workers,
        resources=places.resources_per_trial,
        bare=bare,
    )


def _check_left(plan: Plan, places: Places) -> None:
    """Raise SettingError for a setting of our loop's where the backend brings its own."""
    given = {
        "stop_when": plan.budget.stop_when,
        "prune_metric": plan.prune_metric,
        "compare_at": None if plan.compare_at == "share" else plan.compare_at,
        "trial_timeout": places.trial_timeout,
        "runner": None if places.name == "ray" else places.name,
        "enqueue": list(plan.enqueue) if plan.options.get("search_alg") is not None else None,
    }
    if places.ranks != 1:
        raise SettingError(
            f"ranks_per_trial must be 1 where Ray Tune's scheduler or search_alg drives the search, got {places.ranks}; leave those "
            'objects out, and Ray reserves the places of all ranks of a trial at once (with backend="optuna" a pruner such as '
            "optuna.pruners.HyperbandPruner stops trials early)"
        )
    for name, value in given.items():
        if value:
            raise SettingError(
                f"{name} must be left out where Ray Tune's scheduler or search_alg drives the search, got {value!r}; say it "
                "to those objects, or leave them out"
            )


def describe(space: Space | None) -> dict[str, str] | None:
    """The space as text by name: what makes two spaces the same."""
    return None if space is None else {name: str(d) for name, d in sorted(space.items())}
