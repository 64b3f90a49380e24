"""The record of a search that Ray Tune drives, kept by Tune's callbacks."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import ray.tune
from optuna.distributions import CategoricalDistribution, json_to_distribution
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import HyperBandScheduler, PopulationBasedTraining

from tunesmith.folders import BRIEFS, step_of, take_over
from tunesmith.runners.tune import FAILURES, POINTER, Brief, flat
from tunesmith.study import Study
from tunesmith.trial import Report, Trial, TrialState, contains, signs

INHERITED = "inherited"  # an attribute of trials: from which trials they got weights, at which steps
PAUSING = (HyperBandScheduler, PopulationBasedTraining)  # they pause trials, and let them go on
SCOPES = ("last", "all", "avg", "last-5-avg", "last-10-avg")


class Keeper(ray.tune.Callback):  # type: ignore[misc]
    """Keeps the record of one `tune.run`. `loop` is what runs it; `scheduler` is Tune's, or None."""

    def __init__(self, loop: Any, *, scheduler: Any, scope: str) -> None:
        self.loop = loop
        self.study: Study = loop.study
        self.record = loop.record
        self.scheduler = scheduler
        self.scope = scope
        self.fatal: str | None = None
        self.ended_by_user: set[str] = set()
        self.numbers: dict[str, int] = {}  # of our trials, by Tune's names
        self._failures: dict[str, Mapping[str, Any]] = {}
        self._seen: dict[str, str] = {}  # the newest checkpoint of each of Tune's trials
        self._given: dict[str, dict[str, Any]] = {}  # those that Tune has given a trial, until it goes on
        self._folder = self.study.directory.absolute() / BRIEFS
        (self._folder / FAILURES).mkdir(parents=True, exist_ok=True)

    # -- what Tune calls -----------------------------------------------------------------------------------------

    def setup(self, *_args: Any, **_settings: Any) -> None:
        """Tune is about to begin."""
        self.loop.take_signals()

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **_: Any) -> None:  # noqa: ARG002
        """Take the failures that workers have told of: such a trial is not tried again, as one is whose worker was lost."""
        for place in (self._folder / FAILURES).iterdir():
            if place.suffix:
                continue  # not written to its end
            self._failures[place.name] = json.loads(place.read_text(encoding="utf-8"))
            for trial in trials:
                if trial.trial_id == place.name:
                    trial.max_failures = 0
            place.unlink()

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any) -> None:  # noqa: ARG002
        """A trial begins, or goes on: after a pause, with another one's weights, or in place of a lost worker."""
        number = self._number(trial.trial_id)
        known = self.record.trial(number)
        if known.state is TrialState.RUNNING:
            given = self._given.pop(trial.trial_id, None)
            if given is not None:
                self._inherit(number, given)
            self.record.requeue(number, TrialState.PAUSED, reason="paused by Ray Tune", count_attempt=False)
        started = self.record.start(number, offered=flat(trial.config))
        self._brief(started).write(self.study.directory.absolute(), trial.trial_id)
        if known.state is not TrialState.RUNNING:
            self.loop.notify("on_trial_start", started)

    def on_trial_result(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: Mapping[str, Any],
        **_: Any,
    ) -> None:
        """A trial has reported, or ended by itself."""
        own = result.get("tunesmith")
        if own is None:
            return
        number = self._number(trial.trial_id)
        self._take_told(self.record.trial(number), own)
        if "reported" in result:
            metrics = {k: v for k, v in result.items() if k.startswith("eval_") and isinstance(v, int | float)}
            report = Report(
                result["step"],
                tuple(map(float, result["reported"])),
                metrics,
                epoch=result["epoch"],
                examples=result["examples"],
                share=result["share"],
                time=time.time(),
            )
            self.record.add_report(number, report)
            self.loop.notify("on_report", self.record.trial(number))
        if own["checkpoint"] is not None:  # after the report, which would be missing when the trial goes on from there
            self.record.set_checkpoint(number, *own["checkpoint"])
        if isinstance(self.scheduler, PopulationBasedTraining):
            for other in trials:
                self._look_at_checkpoint(other)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any) -> None:  # noqa: ARG002
        """A trial has ended by itself, or Tune has ended it."""
        if trial.trial_id not in self.numbers:
            return  # Tune has many made that never begin
        known = self.record.trial(self.numbers[trial.trial_id])
        own = trial.last_result.get("tunesmith", {})
        metrics = known.reports[-1].metrics if known.reports else {}
        if "ended" in own:
            state = TrialState(own["ended"])
            values = self._values(known, trial) if state is TrialState.COMPLETE else None
            kept = own["kept_checkpoint"]
            path = None if kept is None else self.study.directory / kept
            self._end(known, state, values=values, reason=own["reason"], checkpoint=path, metrics=metrics)
        elif self.loop.stop_reason is not None:
            return  # it goes on at the next start
        elif known.reports and self._has_all(trial):
            saved = known.checkpoint_step == known.reports[-1].step
            path = self.study.checkpoint(known) if saved else None
            values = self._values(known, trial)
            self._end(known, TrialState.COMPLETE, values=values, checkpoint=path, metrics=metrics)
        else:
            self._end(known, TrialState.PRUNED, reason="pruned: stopped by Ray Tune", metrics=metrics)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any) -> None:  # noqa: ARG002
        """A trial has failed, or its worker was lost once more than it is tried again."""
        number = self._number(trial.trial_id)
        why = self._failures.pop(trial.trial_id, None)
        known = self.record.trial(number)
        if why is None:
            self._end(known, TrialState.FAILED, reason=_lost(trial), detail=str(trial.get_error()))
            return
        self._take_told(known, why)
        if why["fatal"]:
            self.fatal = why["reason"].removeprefix("error: ")
            self.loop.stop_reason = self.fatal
        self._end(known, TrialState.FAILED, reason=why["reason"], detail=why["detail"])

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any) -> None:  # noqa: ARG002
        """A trial's worker was lost: it is tried again, from its last checkpoint."""
        number = self._number(trial.trial_id)
        self.record.requeue(number, TrialState.WAITING, reason=_lost(trial), count_attempt=True)
        self.loop.notify("on_message", f"trial {number} is tried again: {_lost(trial)}")

    # -- trials --------------------------------------------------------------------------------------------------

    def _number(self, tune_id: str) -> int:
        """The number of one of Tune's trials, given when it first begins."""
        if tune_id not in self.numbers:
            self.numbers[tune_id] = self.record.add_waiting({})
        return self.numbers[tune_id]

    def _brief(self, trial: Trial) -> Brief:
        """What the worker of a trial is told, which begins at the checkpoint that the record knows."""
        path = None if trial.checkpoint_step is None else self.study.bring(trial)
        pauses = isinstance(self.scheduler, PAUSING)
        if path is None or trial.checkpoint_step is None:
            return Brief(trial.number, trial.attempt, pauses=pauses)
        last = trial.attrs.get(INHERITED, [{"step": -1, "iterations": 0}])[-1]
        own = sum(last["step"] < r.step <= trial.checkpoint_step for r in trial.reports)
        return Brief(
            trial.number,
            trial.attempt,
            str(path.absolute()),
            trial.checkpoint_step,
            iterations=last["iterations"] + own,
            inherited=last["step"] == trial.checkpoint_step,
            pauses=pauses,
        )

    def _has_all(self, trial: TuneTrial) -> bool:
        """Whether a trial that Tune has ended was given all that it was to have, by the user's words."""
        if trial.trial_id in self.ended_by_user:
            return True
        if isinstance(self.scheduler, HyperBandScheduler):
            bracket, _ = self.scheduler._trial_info[trial]  # noqa: SLF001  nowhere else is it known
            return bool(bracket.finished())
        most = getattr(self.scheduler, "_max_t", None)
        spent = trial.last_result.get(getattr(self.scheduler, "_time_attr", None) or "training_iteration", 0)
        return most is not None and spent >= most

    def _values(self, known: Trial, trial: TuneTrial) -> tuple[float, ...]:
        """The objective(s) of a trial by RAY_SCOPE; what was reported before the trial got other parameters is none of its."""
        since = known.attrs.get(INHERITED, [{"step": -1}])[-1]["step"]
        reported = [r.values for r in known.reports if r.step > since]
        if self.scope == "last" or not reported:
            names = ["objective", *(f"objective_{k}" for k in range(1, len(self.study.directions)))]
            return tuple(float(trial.last_result[n]) for n in names)
        if self.scope == "all":
            sign = signs(self.study.directions)[0]
            return min(reported, key=lambda values: sign * values[0])
        count = {"avg": len(reported), "last-5-avg": 5, "last-10-avg": 10}[self.scope]
        return tuple(map(fmean, zip(*reported[-count:], strict=True)))

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

    def _end(self, trial: Trial, state: TrialState, **how: Any) -> None:
        if trial.state in (TrialState.WAITING, TrialState.PAUSED):  # it ended before it began again
            self.record.start(trial.number)
        elif trial.state.finished:
            return
        self.loop.notify("on_trial_end", self.record.end(trial.number, state, **how))

    # -- population based training -------------------------------------------------------------------------------

    def _look_at_checkpoint(self, trial: TuneTrial) -> None:
        """Take over, at once, another trial's checkpoint that Tune has given a trial: the other may remove it soon."""
        checkpoint = trial.checkpoint
        if checkpoint is None or self._seen.get(trial.trial_id) == checkpoint.path:
            return
        self._seen[trial.trial_id] = checkpoint.path
        with checkpoint.as_directory() as directory:
            pointer = json.loads((Path(directory) / POINTER).read_text(encoding="utf-8"))
        number = self._number(trial.trial_id)
        if pointer["number"] == number:
            return
        taken = take_over(Path(pointer["path"]), self.study.run_directory(number).absolute())
        if taken is None:
            self.loop.notify(
                "on_message",
                f"trial {number} gets other parameters but not the weights of trial {pointer['number']}: the checkpoint "
                f"{pointer['path']} is gone",
            )
        step = pointer["step"] if taken is None or step_of(taken) < 0 else step_of(taken)
        self._given[trial.trial_id] = {**pointer, "path": None if taken is None else str(taken), "step": step}

    def _inherit(self, number: int, pointer: Mapping[str, Any]) -> None:
        """Record that a trial goes on with another one's weights, under parameters of its own."""
        known = self.record.trial(number)
        entry = {"from": pointer["number"], "step": pointer["step"], "iterations": pointer["iterations"]}
        if pointer["path"] is None:  # it goes on with its own
            own = self._brief(known)
            entry = {"from": number, "step": own.step, "iterations": own.iterations}
        else:
            self.record.set_checkpoint(number, pointer["path"], pointer["step"])
        entry["parameters_before"] = dict(known.params)
        self.record.annotate(number, INHERITED, [*known.attrs.get(INHERITED, []), entry])


def _lost(trial: TuneTrial) -> str:
    error = trial.get_error()
    lines = str(error).strip().splitlines()
    return f"lost: the worker in Ray died ({lines[0] if lines else 'no reason is known'})"


class Stop(ray.tune.Stopper):  # type: ignore[misc]
    """Ends trials by the user's criterion, and the search when it was asked to stop or has failed too often."""

    def __init__(self, loop: Any, wanted: Any) -> None:
        self.loop = loop
        self.wanted = wanted

    def __deepcopy__(self, memo: object) -> Stop:
        """The same: Tune copies what it is given."""
        return self

    def __reduce__(self) -> tuple[type[ray.tune.Stopper], tuple[()]]:
        """Elsewhere it stops nothing."""
        return ray.tune.stopper.NoopStopper, ()

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Whether the user wants the trial to end."""
        if isinstance(self.wanted, Mapping):
            over = any(result.get(name, -math.inf) >= limit for name, limit in self.wanted.items())
        else:
            over = self.wanted is not None and bool(self.wanted(trial_id, result))
        if over:
            self.loop.keeper.ended_by_user.add(trial_id)
        return over

    def stop_all(self) -> bool:
        """Whether the search is to end."""
        users = self.wanted.stop_all() if isinstance(self.wanted, ray.tune.Stopper) else False
        return self.loop.is_to_end() or bool(users)
