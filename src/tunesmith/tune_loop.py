"""The loop of a search that Ray Tune drives, with its schedulers and search algorithms; the record is kept by callbacks."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
import ray.tune
from optuna.distributions import CategoricalDistribution, json_to_distribution
from ray.tune.search import BasicVariantGenerator

from tunesmith.errors import SearchFailedError, SettingError, UserFunctionError
from tunesmith.loop import Budget
from tunesmith.runners import Task
from tunesmith.runners.pickling import dumps_task
from tunesmith.runners.ray import connect, module_path
from tunesmith.runners.tune import NUMBERS, flat, train
from tunesmith.space import to_ray
from tunesmith.study import Study
from tunesmith.trial import Report, Space, Trial, TrialState, contains

SCOPES = ("last", "all", "avg", "last-5-avg", "last-10-avg")
_running: dict[str, TuneLoop] = {}  # by the study's directory: Tune copies what it is given, and copies look here


class TunePlace:
    """Stands where a runner would: Tune runs the trials of `task` in workers of its own, and drives the search."""

    slots = 1

    def __init__(
        self, task: Task, space: Space | None, *, workers: int | None, resources: Mapping[str, float] | None
    ) -> None:
        self._scope = os.environ.get("RAY_SCOPE", "last")
        if self._scope not in SCOPES:
            raise SettingError(f"RAY_SCOPE must be one of {', '.join(SCOPES)}, got {self._scope!r}")
        if space is None:
            raise SettingError("Ray Tune must know the space before the first trial, got none; pass it as a dict")
        self._pickled = dumps_task(task)
        self._space = to_ray(space)
        self._places = {"max_concurrent_trials": workers, "resources_per_trial": resources}
        self._disconnect = connect()

    def loop(self, study: Study, plan: Any, observers: Sequence[Any]) -> TuneLoop:
        """The loop that Tune drives, of a plan of search."""
        if study.trials:
            raise SettingError(
                f"a search that Ray Tune drives must begin a study, got {study.name!r} with {len(study.trials)} trials; "
                "pass resume=False to begin another, or leave out scheduler and search_alg to go on with this one"
            )
        places = {k: v for k, v in self._places.items() if v is not None}
        return TuneLoop(
            study,
            self._pickled,
            space=self._space,
            options={**plan.options, **places},
            budget=plan.budget,
            enqueue=plan.enqueue,
            scope=self._scope,
            observers=observers,
        )

    def close(self) -> None:
        """Leave Ray if this search has joined or started it."""
        if self._disconnect:
            ray.shutdown()


class TuneLoop:
    """Drives one start of a search by Tune. Made once, run once.

    `space` is Tune's: a dict of domains. `options` are arguments of `tune.run`. What Tune gives is in `study.analysis`.
    """

    def __init__(
        self,
        study: Study,
        pickled: bytes,
        *,
        space: Mapping[str, Any],
        options: Mapping[str, Any],
        budget: Budget,
        enqueue: Sequence[Mapping[str, Any]] = (),
        scope: str = "last",
        observers: Sequence[Any] = (),
    ) -> None:
        self.study = study
        self.record = study.record
        self.budget = budget
        self.stop_reason: str | None = None
        self.scope = scope
        self.deadline = math.inf if budget.timeout is None else time.monotonic() + budget.timeout
        self._pickled = pickled
        self._space = space
        self._options = options
        self._enqueue = enqueue
        self._observers = observers
        self._mode = study.directions[0][:3]
        self.ended_by_user: set[str] = set()
        self.numbers: dict[str, int] = {}
        self._key = str(study.directory.absolute())

    def notify(self, event: str, *details: Any) -> None:
        """Tell the observers that have a method of this name."""
        for observer in self._observers:
            method = getattr(observer, event, None)
            if method is not None:
                method(self.study, *details)

    def run(self) -> None:
        """Run Tune to its end. Raises SearchFailedError when all trials have failed, UserFunctionError for the user's bug."""
        self.record.update_settings(finished=False, n_trials=self.budget.n_trials, stop=None)
        storage = self.study.directory.absolute() / "ray"
        (self.study.directory / NUMBERS).mkdir(exist_ok=True)
        watch = _Watch(self)
        _running[self._key] = self
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the other one writes tables whatever `verbose` says
        self.notify("on_search_start", self.budget.n_trials)
        try:
            with _numpy_seeded(self.study.info.seed), _quiet(not self._options.get("verbose")):
                self.study.analysis = ray.tune.run(
                    self._trainable(),
                    config=dict(self._space),
                    num_samples=self.budget.n_trials or -1,
                    name="tune",
                    storage_path=str(storage),
                    raise_on_failed_trial=False,
                    **self._arguments(watch),
                )
        finally:
            del _running[self._key]
            for number in self.record.interrupted():
                self.record.requeue(
                    number, TrialState.PAUSED, reason=self.stop_reason or "interrupted", count_attempt=False
                )
            self.notify("on_search_end")
        begun = self.study.analysis.trials
        if self.stop_reason is None and not (begun and all(t.is_finished() for t in begun)):
            # Tune takes Ctrl-C for itself, and returns
            raise KeyboardInterrupt
        if watch.fatal is not None:
            raise UserFunctionError(watch.fatal)
        self._check_failures()
        self.record.update_settings(finished=self.stop_reason is None)

    def _trainable(self) -> Any:
        return ray.tune.with_parameters(
            train,
            task=np.frombuffer(self._pickled, dtype=np.uint8),
            path=module_path(),
            study=self._key,
            n_objectives=len(self.study.directions),
            seed=self.study.info.seed,
        )

    def _arguments(self, watch: _Watch) -> dict[str, Any]:
        given = dict(self._options)
        arguments: dict[str, Any] = {"verbose": 0, "reuse_actors": True, **given}
        arguments["callbacks"] = [watch]
        arguments["max_failures"] = self.budget.max_retries
        arguments["stop"] = _Stop(self._key, given.get("stop"))
        if "resources_per_trial" not in arguments:
            gpus = {"gpu": 1} if ray.cluster_resources().get("GPU", 0) >= 1 else {}
            arguments["resources_per_trial"] = {"cpu": 1, **gpus}
        if arguments.get("search_alg") is None:  # Tune's own draws from NumPy's global numbers, whoever has seeded them
            fitting = [p for p in self._enqueue if set(p) <= set(self._space)]
            arguments["search_alg"] = BasicVariantGenerator(
                points_to_evaluate=[dict(p) for p in fitting] or None, random_state=self.study.info.seed
            )
        arguments |= self._metric(arguments.get("scheduler"), arguments["search_alg"])
        return arguments

    def _metric(self, scheduler: Any, search_alg: Any) -> dict[str, str]:
        """Our objective as Tune's metric, unless the user's objects name one themselves."""
        named = [
            getattr(thing, "metric", None) or getattr(thing, "_metric", None)
            for thing in (scheduler, search_alg)
            if thing is not None and not isinstance(thing, BasicVariantGenerator)
        ]
        if not any(named):
            return {"metric": "objective", "mode": self._mode}
        if not all(named):
            raise SettingError(
                f"scheduler and search_alg must both name a metric, or neither, got {named}; without one they get the "
                "search's objective"
            )
        return {}

    def _check_failures(self) -> None:
        failed = [t for t in self.study.trials if t.state is TrialState.FAILED]
        if failed and len(failed) == sum(t.state.finished for t in self.study.trials):
            raise SearchFailedError(
                f"all {len(failed)} trials failed: {self.study.summary()}\nEverything is recorded in "
                f"{self.study.directory}; the traceback of the last one:\n{failed[-1].detail or '(none)'}"
            )

    # -- Tune's trials as ours -----------------------------------------------------------------------------------

    def number(self, tune_id: str) -> int:
        """The number of one of Tune's trials, given when it is first asked for; a file tells it to the worker."""
        if tune_id not in self.numbers:
            self.numbers[tune_id] = self.record.add_waiting({})
            (self.study.directory / NUMBERS / tune_id).write_text(str(self.numbers[tune_id]), encoding="utf-8")
        return self.numbers[tune_id]

    def has_all(self, trial: Any) -> bool:
        """Whether a trial that Tune has ended was given all that it was to have, by the user's words."""
        if "objective" not in trial.last_result:
            return False
        scheduler = self._options.get("scheduler")
        most = getattr(scheduler, "_max_t", None) or getattr(scheduler, "_max_t_attr", None)
        spent = trial.last_result.get(getattr(scheduler, "_time_attr", None) or "training_iteration", 0)
        return trial.trial_id in self.ended_by_user or (most is not None and spent >= most)

    def values(self, trial: Any) -> tuple[float, ...]:
        """The objective(s) of one of Tune's trials, the first in RAY_SCOPE."""
        last = trial.last_result
        others = [last[f"objective_{k}"] for k in range(1, len(self.study.directions))]
        key = {"all": self._mode}.get(self.scope, self.scope)
        first = last["objective"] if key == "last" else trial.metric_analysis["objective"][key]
        return (float(first), *map(float, others))


class _Watch(ray.tune.Callback):  # type: ignore[misc]
    """Keeps the record."""

    def __init__(self, loop: TuneLoop) -> None:
        self.loop = loop
        self.record = loop.record
        self.fatal: str | None = None

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        number = self.loop.number(trial.trial_id)
        if self.record.trial(number).state in (TrialState.WAITING, TrialState.PAUSED):
            started = self.record.start(number, offered=flat(trial.config))
            self.loop.notify("on_trial_start", started)

    def on_trial_result(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Any],  # noqa: ARG002
        trial: Any,
        result: Mapping[str, Any],
        **_: Any,
    ) -> None:
        own = result.get("tunesmith")
        if own is None:
            return
        number = self.loop.number(trial.trial_id)
        self._take_told(self.record.trial(number), own)
        if own["checkpoint"] is not None:
            self.record.set_checkpoint(number, *own["checkpoint"])
        if "ended" in own or "objective" not in result:
            return
        names = ["objective", *(f"objective_{k}" for k in range(1, len(self.loop.study.directions)))]
        metrics = {k: v for k, v in result.items() if k.startswith("eval_") and isinstance(v, int | float)}
        report = Report(
            result["step"],
            tuple(float(result[n]) for n in names),
            metrics,
            epoch=result.get("epoch"),
            share=own.get("share"),
            time=time.time(),
        )
        self.record.add_report(number, report)
        self.loop.notify("on_report", self.record.trial(number))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        if trial.trial_id not in self.loop.numbers:
            return  # Tune has many made that never begin
        number = self.loop.number(trial.trial_id)
        own = trial.last_result.get("tunesmith", {})
        state, reason = TrialState(own.get("ended", "PRUNED")), own.get("reason")
        if "ended" not in own:
            reason = f"pruned: {self.loop.stop_reason or 'stopped by Ray Tune'}"
            if self.loop.has_all(trial):
                state, reason = TrialState.COMPLETE, None
        kept = own.get("kept_checkpoint")
        path = None if kept is None else self.loop.study.directory / kept
        values = self.loop.values(trial) if state is TrialState.COMPLETE else None
        self._end(number, state, values=values, reason=reason, checkpoint=path)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        number = self.loop.number(trial.trial_id)
        said = self.loop.study.directory / NUMBERS / f"{trial.trial_id}.failed"
        if said.exists():
            why = json.loads(said.read_text(encoding="utf-8"))
            said.unlink()
            self._take_told(self.record.trial(number), why)
            if why["fatal"]:
                self.fatal = why["reason"].removeprefix("error: ")
                self.loop.stop_reason = self.fatal
            self._end(number, TrialState.FAILED, reason=why["reason"], detail=why["detail"])
            return
        self._end(number, TrialState.FAILED, reason="lost: in Ray, see the detail", detail=str(trial.get_error()))

    def _take_told(self, known: Trial, own: Mapping[str, Any]) -> None:
        """The parameters that the trial asked for, and its attributes."""
        for key, value in own["attrs"].items():
            if known.attrs.get(key) != value:
                self.record.annotate(known.number, key, value)
        if dict(known.params) == own["params"]:
            return
        distributions = {n: json_to_distribution(d) for n, d in own["distributions"].items()}
        for name, value in own["params"].items():
            if not contains(distributions[name], value):
                distributions[name] = CategoricalDistribution((value,))
        self.record.add_params(known.number, own["params"], distributions)

    def _end(self, number: int, state: TrialState, **how: Any) -> None:
        trial = self.record.trial(number)
        if trial.state in (TrialState.WAITING, TrialState.PAUSED):  # it ended before it began
            self.record.start(number)
        elif trial.state.finished:
            return
        self.loop.notify("on_trial_end", self.record.end(number, state, **how))


class _Stop(ray.tune.Stopper):  # type: ignore[misc]
    """Ends trials by the user's criterion, and the search when it was asked to stop or has failed too often."""

    def __init__(self, key: str, wanted: Any) -> None:
        self.key = key
        self.wanted = wanted

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        if isinstance(self.wanted, Mapping):
            over = any(result.get(name, -math.inf) >= limit for name, limit in self.wanted.items())
        else:
            over = self.wanted is not None and bool(self.wanted(trial_id, result))
        if over:
            _running[self.key].ended_by_user.add(trial_id)
        return over

    def stop_all(self) -> bool:
        loop = _running[self.key]
        request = loop.record.stop_request()
        failed = sum(t.state is TrialState.FAILED for t in loop.study.trials)
        if loop.stop_reason is None and request is not None:
            loop.stop_reason = f"stopped: {request}"
        if loop.stop_reason is None and failed >= loop.budget.failure_limit:
            loop.stop_reason = f"{failed} trials failed"
        if loop.stop_reason is None and time.monotonic() > loop.deadline:
            loop.stop_reason = f"timeout: {loop.budget.timeout:g} s are over"
        users = self.wanted.stop_all() if isinstance(self.wanted, ray.tune.Stopper) else False
        return loop.stop_reason is not None or bool(users)


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """What draws from NumPy's global numbers draws by the search's seed, whatever a Trainer has seeded before."""
    before = np.random.get_state()  # noqa: NPY002  Tune's search algorithms use it
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


@contextmanager
def _quiet(wanted: bool) -> Iterator[None]:
    """Without Tune's own account of failed trials, which are recorded and shown as of any other search."""
    logger = logging.getLogger("ray.tune")
    before = logger.level
    if wanted:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
