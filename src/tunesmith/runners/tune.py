"""A trial inside Ray Tune: our task as Tune's trainable, which reports to Tune and is stopped by it."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from optuna.distributions import BaseDistribution, distribution_to_json

from tunesmith.dimensions import dimension
from tunesmith.engine import draw
from tunesmith.errors import TunesmithError
from tunesmith.runners import Outcome, Task, execute
from tunesmith.runners.pickling import loads
from tunesmith.runners.ray import see_modules
from tunesmith.trial import CONTINUE, Assignment, Decision, LiveTrial, Report, TrialState, contains, fitted

NUMBERS = "tune-trials"  # a folder in the study's: which of our trials is which of Tune's, and why some have failed
POINTER = "checkpoint.json"
_loaded: dict[str, Task] = {}  # by the study: an actor runs many trials of one search


class TrialFailedError(TunesmithError, RuntimeError):
    """A trial inside Ray Tune has failed."""


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration by dotted names; a choice between branches that Tune leaves unresolved is resolved."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        value = value.sample() if hasattr(value, "sample") and hasattr(value, "get_sampler") else value  # noqa: PLW2901
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value.item() if hasattr(value, "item") and hasattr(value, "dtype") else value
    return found


def train(
    config: Mapping[str, Any], *, task: Any, path: Sequence[str], study: str, n_objectives: int, seed: int
) -> None:
    """Tune's trainable: run our task with the values that Tune has chosen, and tell Tune what it reports."""
    if study not in _loaded:
        see_modules(path)
        _loaded[study] = loads(task)
    tune_id = ray.tune.get_context().get_trial_id()
    number = int((Path(study) / NUMBERS / tune_id).read_text(encoding="utf-8"))
    failed = Path(study) / NUMBERS / f"{tune_id}.failed"
    if failed.exists():  # Tune tries all failed trials again; a lost one leaves no such file
        raise TrialFailedError(json.loads(failed.read_text(encoding="utf-8"))["reason"])
    link = _TuneLink(number, flat(config), seed=seed)
    assignment = Assignment(
        number,
        n_objectives=n_objectives,
        resume_from=_kept_checkpoint(),
        directory=str(Path(study) / f"run-{number}"),
    )
    outcome = execute(_loaded[study], LiveTrial(assignment, link), n_objectives=n_objectives)
    link.flush()
    if outcome.state is TrialState.FAILED or (outcome.reason or "").startswith("nan"):
        fatal = outcome.fatal is not None
        why = {**link.told, "reason": outcome.reason, "detail": outcome.detail, "fatal": fatal}
        failed.write_text(json.dumps(why), encoding="utf-8")
        raise TrialFailedError(outcome.reason)
    link.end(outcome)


def _kept_checkpoint() -> str | None:
    """Where the checkpoint lies from which a trial that was lost, or paused by a scheduler, goes on."""
    checkpoint = ray.tune.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as directory:
        path: str = json.loads((Path(directory) / POINTER).read_text(encoding="utf-8"))["path"]
    return path


class _TuneLink:
    """A trial's line to Tune. What it reports waits for the checkpoint of the same step, which follows it."""

    def __init__(self, number: int, config: Mapping[str, Any], *, seed: int) -> None:
        self._number = number
        self._config = config
        self._seed = seed
        self._params: dict[str, Any] = {}
        self._distributions: dict[str, str] = {}
        self._attrs: dict[str, Any] = {}
        self._report: Report | None = None
        self._decision = CONTINUE
        self._checkpoint: tuple[str, int] | None = None

    def suggest(self, name: str, distribution: BaseDistribution) -> Any:
        """Tune's value, also one beyond the bounds; one drawn here when Tune has none."""
        if name not in self._config:
            value = draw(dimension(distribution), seed=self._seed, number=self._number, name=name)
        elif contains(distribution, self._config[name]):
            value = fitted(distribution, self._config[name])
        else:
            value = self._config[name]
        self._params[name] = value
        self._distributions[name] = distribution_to_json(distribution)
        return value

    def report(self, report: Report) -> Decision:
        """Keep the report until it is known whether a checkpoint follows."""
        self.flush()
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
        self._checkpoint = (path, step)
        self.flush()

    def annotate(self, key: str, value: Any) -> None:
        """Keep the attribute for the next report."""
        self._attrs[key] = value

    @property
    def told(self) -> dict[str, Any]:
        """What the trial was given, and has said of itself."""
        return {"params": self._params, "distributions": self._distributions, "attrs": self._attrs}

    def flush(self) -> None:
        """Tell Tune the report that waits. Raises SystemExit when Tune ends the trial."""
        report, self._report = self._report, None
        if report is not None:
            self._tell(
                report.values, {**report.metrics, "step": report.step, "epoch": report.epoch}, share=report.share
            )

    def end(self, outcome: Outcome) -> None:
        """Tell Tune how the trial ended by itself."""
        more = {"ended": outcome.state.value, "reason": outcome.reason, "kept_checkpoint": outcome.checkpoint}
        self._tell(outcome.values, dict(outcome.metrics), **more)

    def _tell(self, values: tuple[float, ...] | None, metrics: Mapping[str, Any], **more: Any) -> None:
        names = ["objective", *(f"objective_{k}" for k in range(1, len(values or ())))]
        checkpoint, self._checkpoint = self._checkpoint, None
        result = {
            **metrics,
            **dict(zip(names, values or (), strict=False)),
            "tunesmith": {**more, **self.told, "checkpoint": checkpoint},
        }
        if checkpoint is None:
            ray.tune.report(result)
            return
        with (
            tempfile.TemporaryDirectory() as directory
        ):  # Tune stores where the checkpoint lies, not a second copy of it
            (Path(directory) / POINTER).write_text(json.dumps({"path": checkpoint[0]}), encoding="utf-8")
            ray.tune.report(result, checkpoint=ray.tune.Checkpoint.from_directory(directory))
