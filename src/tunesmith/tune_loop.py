"""The loop of a search that Ray Tune drives, with its schedulers and search algorithms."""

from __future__ import annotations

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
from ray.tune.search import BasicVariantGenerator

from tunesmith.errors import SearchFailedError, SettingError, UserFunctionError
from tunesmith.loop import Budget, Observed, recover
from tunesmith.restoring import seeded
from tunesmith.runners import Task
from tunesmith.runners.pickling import dumps_task
from tunesmith.runners.ray import connect
from tunesmith.runners.tune import train
from tunesmith.runners.worker import module_path
from tunesmith.space import to_ray
from tunesmith.study import Study
from tunesmith.trial import Space, TrialState
from tunesmith.tune_record import PAUSING, SCOPES, Keeper, Stop
from tunesmith.tune_resume import Rest, Told, searcher_of


class TunePlace:
    """Stands where a runner would: Tune runs the trials of `task` in workers of its own, and drives the search.

    `bare` is as in `WorkersRunner`.
    """

    slots = 1

    def __init__(
        self,
        task: Task,
        space: Space | None,
        *,
        scheduler: Any = None,
        workers: int | None,
        resources: Mapping[str, float] | None,
        bare: Sequence[object] = (),
    ) -> None:
        self._scope = os.environ.get("RAY_SCOPE", "last")
        if self._scope not in SCOPES:
            raise SettingError(f"RAY_SCOPE must be one of {', '.join(SCOPES)}, got {self._scope!r}")
        if not space:
            raise SettingError("Ray Tune must know the space before the first trial, got none; pass it as a dict")
        _check_mutations(scheduler, space)
        if workers is not None and isinstance(scheduler, PAUSING):
            raise SettingError(
                f"workers must be left out with {type(scheduler).__name__}, whose paused trials count as running to Ray Tune, "
                f"got {workers}; bound the trials at once by resources_per_trial"
            )
        self._pickled = dumps_task(task, bare=bare)
        self._space = to_ray(space)
        self._places = {"max_concurrent_trials": workers, "resources_per_trial": resources}
        self._disconnect = connect()

    def loop(self, study: Study, plan: Any, observers: Sequence[Any]) -> TuneLoop:
        """The loop that Tune drives, of a plan of search."""
        algorithm = plan.options.get("search_alg")
        if study.trials and algorithm is not None and searcher_of(algorithm) is None:
            raise SettingError(
                f"a search_alg must be one of Ray Tune's searchers to go on with a study, got {type(algorithm).__name__} for "
                f"{study.name!r} with {len(study.trials)} trials; leave search_alg out, or pass resume=False to begin another"
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


def _check_mutations(scheduler: Any, space: Space) -> None:
    """What population based training is to change must be in the space."""
    unknown = sorted(set(getattr(scheduler, "_hyperparam_mutations", {})) - set(space))
    if unknown:
        raise SettingError(
            f"the scheduler's hyperparameters must be in the space, got {', '.join(unknown)}; it has "
            f"{', '.join(sorted(space))}"
        )


class TuneLoop(Observed):
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
        super().__init__(study, [o for o in observers if not isinstance(o, ray.tune.Callback)])
        self.record = study.record
        self.budget = budget
        self._deadline = math.inf if budget.timeout is None else time.monotonic() + budget.timeout
        self._pickled = pickled
        self._space = space
        self._options = options
        self._enqueue = enqueue
        self._callbacks = [o for o in observers if isinstance(o, ray.tune.Callback)]
        self.keeper = Keeper(self, scheduler=options.get("scheduler"), scope=scope)

    def run(self) -> None:
        """Run Tune to its end.

        Raises SearchFailedError when all trials have failed, UserFunctionError for the user's bug, KeyboardInterrupt or
        SystemExit after an interrupt.
        """
        self.record.update_settings(finished=False, n_trials=self.budget.n_trials, stop=None)
        recover(self.record, max_retries=self.budget.max_retries)
        finished = sum(t.state.finished for t in self.study.trials)
        if self.budget.n_trials is not None and finished >= self.budget.n_trials:
            self.record.update_settings(finished=True)
            return
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the other one writes tables whatever `verbose` says
        os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a trial may end without an objective
        self.notify("on_search_start", self.budget.n_trials)
        try:
            with (
                seeded(self.study.info.seed),
                _quiet(not self._options.get("verbose")),
                self.interruptible(),
            ):
                self.study.analysis = ray.tune.run(
                    self._trainable(),
                    config=dict(self._space),
                    **self._arguments(),
                )
        finally:
            for number in self.record.interrupted():
                self.record.requeue(
                    number, TrialState.PAUSED, reason=self.stop_reason or "interrupted", count_attempt=False
                )
            self.notify("on_search_end")
        self.leave_if_interrupted()
        if self.keeper.fatal is not None:
            raise UserFunctionError(self.keeper.fatal)
        failed = [t for t in self.study.trials if t.state is TrialState.FAILED]
        if failed and len(failed) == sum(t.state.finished for t in self.study.trials):
            raise SearchFailedError(
                f"all {len(failed)} trials failed: {self.study.summary()}\nEverything is recorded in "
                f"{self.study.directory}; the traceback of the last one:\n{failed[-1].detail or '(none)'}"
            )
        self.record.update_settings(finished=self.stop_reason is None)

    def is_to_end(self) -> bool:
        """Whether somebody wants the search to end, it has failed too often, or its time is over."""
        request = self.record.stop_request()
        failed = sum(t.state is TrialState.FAILED for t in self.study.trials)
        if self.stop_reason is None and request is not None:
            self.stop_reason = f"stopped: {request}"
        if self.stop_reason is None and failed >= self.budget.failure_limit:
            self.stop_reason = f"{failed} trials failed"
        if self.stop_reason is None and time.monotonic() > self._deadline:
            self.stop_reason = f"timeout: {self.budget.timeout:g} s are over"
        return self.stop_reason is not None

    # -- what Tune is given --------------------------------------------------------------------------------------

    def _trainable(self) -> Any:
        return ray.tune.with_parameters(
            train,
            task=np.frombuffer(self._pickled, dtype=np.uint8),
            path=module_path(),
            study=str(self.study.directory.absolute()),
            n_objectives=len(self.study.directions),
            seed=self.study.info.seed,
            storage=self.study.storage,
        )

    def _arguments(self) -> dict[str, Any]:
        given = dict(self._options)
        storage = str(self.study.directory.absolute() / "ray")
        arguments: dict[str, Any] = {"verbose": 0, "reuse_actors": True, "storage_path": storage, **given}
        arguments["name"] = "tune"
        arguments["raise_on_failed_trial"] = False
        arguments["callbacks"] = [self.keeper, *self._callbacks]
        arguments["max_failures"] = self.budget.max_retries
        arguments["stop"] = Stop(self, given.get("stop"))
        if "resources_per_trial" not in arguments:
            gpus = {"gpu": 1} if ray.cluster_resources().get("GPU", 0) >= 1 else {}
            arguments["resources_per_trial"] = {"cpu": 1, **gpus}
        arguments["num_samples"] = self.budget.n_trials or -1
        searcher = searcher_of(arguments.get("search_alg"))
        if searcher is not None:
            arguments["search_alg"] = Told(searcher, self.keeper)
            if self.budget.n_trials is not None:
                arguments["num_samples"] -= sum(t.state.finished for t in self.study.trials)
        elif (
            arguments.get("search_alg") is None
        ):  # Tune's own draws from global random numbers, whoever has seeded them
            fitting = [p for p in self._enqueue if set(p) <= set(self._space)]
            arguments["search_alg"] = Rest(
                self.keeper,
                begun=len(self.study.trials),
                points_to_evaluate=[dict(p) for p in fitting] or None,
                max_concurrent=arguments.pop("max_concurrent_trials", 0),
                random_state=self.study.info.seed,
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
            return {"metric": "objective", "mode": self.study.directions[0][:3]}
        if not all(named):
            raise SettingError(
                f"scheduler and search_alg must both name a metric, or neither, got {named}; without one they get the "
                "search's objective"
            )
        return {}


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
