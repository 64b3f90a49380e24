"""A trial inside Ray Tune: our task as Tune's trainable, which reports to Tune and is stopped by it."""

from __future__ import annotations

import gc
import json
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray
from optuna.distributions import BaseDistribution, distribution_to_json

from tunesmith.dimensions import dimension
from tunesmith.engine import draw
from tunesmith.errors import TunesmithError, UserFunctionError
from tunesmith.folders import BRIEFS
from tunesmith.runners import Outcome, Task, execute
from tunesmith.runners.pickling import loads
from tunesmith.runners.worker import see_modules
from tunesmith.scalars import python_scalar
from tunesmith.trial import CONTINUE, Assignment, Decision, LiveTrial, Report, TrialState, contains, fitted

FAILURES = "failed"  # a folder in that of the briefs: why trials have failed, until the driver has taken it
POINTER = "checkpoint.json"
_HEARD = 60.0  # seconds for the driver to take a failure
_LEAVE = "60"  # seconds for a trial that Tune has ended to leave the process that is to run the next one
_loaded: dict[str, Task] = {}  # by the study: an actor runs many trials of one search


class TrialFailedError(TunesmithError, RuntimeError):
    """A trial inside Ray Tune has failed."""


@dataclass(frozen=True)
class Brief:
    """What the driver tells a worker of a trial that begins, or goes on from the checkpoint `resume_from` of `step`.

    `inherited`: the checkpoint is another trial's. `iterations` is how many reports lie before it. `pauses`: the
    scheduler pauses trials, so that every report must come with a checkpoint.
    """

    number: int
    attempt: int = 1
    resume_from: str | None = None
    step: int = -1
    iterations: int = 0
    inherited: bool = False
    pauses: bool = False

    def write(self, study: Path, tune_id: str) -> None:
        """Leave it for the worker."""
        _write(study / BRIEFS / tune_id, asdict(self))

    @classmethod
    def read(cls, study: Path, tune_id: str) -> Brief:
        """What the driver has left."""
        return cls(**json.loads((study / BRIEFS / tune_id).read_text(encoding="utf-8")))


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that is whole as soon as it is there."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content), encoding="utf-8")
    part.replace(path)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration by dotted names."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = python_scalar(value)
    return found


def train(
    config: Mapping[str, Any],
    *,
    task: Any,
    path: Sequence[str],
    study: str,
    n_objectives: int,
    seed: int,
    storage: str | None,
) -> None:
    """Tune's trainable: run our task with the values that Tune has chosen, and tell Tune what it reports."""
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", _LEAVE)
    if study not in _loaded:
        see_modules(path)
        _loaded[study] = loads(task)
        gc.collect()
        gc.freeze()  # what all trials share is not for the collector to look through after each
    tune_id = ray.tune.get_context().get_trial_id()
    brief = Brief.read(Path(study), tune_id)
    link = _TuneLink(brief, flat(config), seed=seed)
    assignment = Assignment(
        brief.number,
        n_objectives=n_objectives,
        attempt=brief.attempt,
        resume_from=brief.resume_from,
        directory=str(Path(study) / f"run-{brief.number}"),
        inherited=brief.inherited,
        save_each_report=brief.pauses,
        storage=storage,
    )
    outcome = execute(_loaded[study], LiveTrial(assignment, link), n_objectives=n_objectives)
    if outcome.state is TrialState.FAILED or (outcome.reason or "").startswith("nan"):
        fatal = outcome.fatal is not None
        why = {**link.told, "reason": outcome.reason, "detail": outcome.detail, "fatal": fatal}
        _tell_failure(Path(study) / BRIEFS / FAILURES / tune_id, why)
        raise TrialFailedError(outcome.reason)
    link.end(outcome)


def _tell_failure(place: Path, why: Mapping[str, Any]) -> None:
    """Say why the trial has failed, and wait until the driver knows: Tune would try it again, as it does lost ones."""
    _write(place, why)
    until = time.monotonic() + _HEARD
    while place.exists() and time.monotonic() < until:
        time.sleep(0.02)


class _TuneLink:
    """A trial's line to Tune. What it reports waits for the checkpoint of the same step, which follows it.

    The last report, at the end of the planned training, waits for the trial's end: a scheduler that changes parameters
    could do so after it, and the trial would end with a value that was not trained with them.
    """

    def __init__(self, brief: Brief, config: Mapping[str, Any], *, seed: int) -> None:
        self._brief = brief
        self._config = config
        self._seed = seed
        self._params: dict[str, Any] = {}
        self._distributions: dict[str, str] = {}
        self._attrs: dict[str, Any] = {}
        self._report: Report | None = None
        self._decision = CONTINUE
        self._checkpoint: tuple[str, int] | None = None
        self._iterations = brief.iterations
        self._trained = False

    def suggest(self, name: str, distribution: BaseDistribution) -> Any:
        """Tune's value, also one beyond the bounds; one drawn here when Tune has none."""
        if name not in self._config:
            value = draw(dimension(distribution), seed=self._seed, number=self._brief.number, name=name)
        elif contains(distribution, self._config[name]):
            value = fitted(distribution, self._config[name])
        else:
            value = self._config[name]
        self._params[name] = value
        self._distributions[name] = distribution_to_json(distribution)
        return value

    def report(self, report: Report) -> Decision:
        """Keep the report until it is known whether a checkpoint follows."""
        self.flush(more=True)
        self._trained = self._trained or report.step > self._brief.step
        if not all(map(math.isfinite, report.values)):  # Tune's schedulers would let it run on
            self._decision = Decision("prune", f"nan: the objective is {report.values[0]} at step {report.step}")
        else:
            self._report = report
        return self._decision

    def decide(self) -> Decision:
        """What Tune wants, it does: it ends the trial from within a report."""
        self.flush()
        return self._decision

    def checkpoint(self, path: str, step: int) -> None:
        """Take the checkpoint along with the report."""
        self._checkpoint = (str(Path(path).absolute()), step)
        self.flush()

    def annotate(self, key: str, value: Any) -> None:
        """Keep the attribute for the next report."""
        self._attrs[key] = value

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tune takes whole results only."""

    @property
    def told(self) -> dict[str, Any]:
        """What the trial was given, and has said of itself."""
        return {"params": self._params, "distributions": self._distributions, "attrs": self._attrs}

    def flush(self, *, more: bool = False) -> None:
        """Tell Tune the report that waits; the trial's last one only when `more` follow. SystemExit is Tune's end of it."""
        report = self._report
        if report is None or (report.share == 1.0 and not more):
            return
        if self._brief.pauses and self._checkpoint is None:
            raise UserFunctionError(
                f"Ray Tune's scheduler pauses trials, so each report must come with a checkpoint, got none at step "
                f"{report.step}; pass trial.report(..., checkpoint=directory), before should_prune() is asked"
            )
        self._tell(report.values, self._of(report))

    def end(self, outcome: Outcome) -> None:
        """Tell Tune how the trial ended by itself."""
        if self._brief.inherited and outcome.state is TrialState.COMPLETE and not self._trained:
            reason = "pruned: Ray Tune gave it another trial's weights when nothing was left to train"
            outcome = replace(outcome, state=TrialState.PRUNED, values=None, reason=reason)
        last = {} if self._report is None else self._of(self._report)
        values = outcome.values or (None if self._report is None else self._report.values)
        more = {"ended": outcome.state.value, "reason": outcome.reason, "kept_checkpoint": outcome.checkpoint}
        self._tell(values, {**last, **outcome.metrics, "done": True}, **more)

    @staticmethod
    def _of(report: Report) -> dict[str, Any]:
        return {
            **report.metrics, "step": report.step, "epoch": report.epoch, "examples": report.examples,
            "share": report.share, "reported": list(report.values),
        }  # fmt: skip

    def _tell(self, values: tuple[float, ...] | None, metrics: Mapping[str, Any], **more: Any) -> None:
        names = ["objective", *(f"objective_{k}" for k in range(1, len(values or ())))]
        checkpoint, self._checkpoint = self._checkpoint, None
        self._iterations += self._report is not None
        self._report = None
        result = {
            **metrics,
            **dict(zip(names, values or (), strict=False)),
            "training_iteration": max(1, self._iterations),
            "tunesmith": {**more, **self.told, "checkpoint": checkpoint},
        }
        if checkpoint is None:
            ray.tune.report(result)
            return
        pointer = {"path": checkpoint[0], "step": checkpoint[1], "number": self._brief.number}
        with (
            tempfile.TemporaryDirectory() as directory
        ):  # Tune stores where the checkpoint lies, not a second copy of it
            content = {**pointer, "iterations": self._iterations}
            (Path(directory) / POINTER).write_text(json.dumps(content), encoding="utf-8")
            ray.tune.report(result, checkpoint=ray.tune.Checkpoint.from_directory(directory))
