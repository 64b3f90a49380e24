"""The backend "sigopt": SigOpt's optimiser in this process, or a SigOpt server that proposes and keeps the trials."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.backends import Proposal, Setting
from tunesmith.backends.known import drawn, seen_space
from tunesmith.backends.pruning import Judge
from tunesmith.backends.sigopt_lite import Observed, optimiser, suggest
from tunesmith.backends.sigopt_space import Coded
from tunesmith.errors import SettingError
from tunesmith.tracing import Traced, trace
from tunesmith.trial import CONTINUE, Decision, Params, Trial, TrialState

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

OPTIMIZED = 2  # SigOpt optimises two metrics at most
CONSTRAINED = 4  # and takes four with a threshold


class SigOptBackend:
    """Proposes by SigOpt.

    `mode` "lite" runs SigOpt's own optimiser here, without an account, from our record; "api" drives an experiment on
    the SigOpt server at SIGOPT_API_URL with SIGOPT_API_TOKEN. Default: "api" where that URL is set, else "lite".

    SigOpt optimises one or two objectives; further ones are stored. `metrics` are more metrics in SigOpt's form, each
    of strategy "constraint" (with its threshold) or "store", read from what the trials report. `pruner` is an Optuna
    pruner, compared at equal shares of training (default: none; SigOpt stops nothing).

    In api mode `project` (default SIGOPT_PROJECT, else "tunesmith") and the experiment, called `name`, are made where
    they do not exist; `experiment` is the id of one to go on with.

    Raises SettingError for options that cannot be, MissingDependencyError where a package is missing, ServiceError
    when the server refuses or cannot be reached.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        mode: str | None = None,
        project: str | None = None,
        experiment: str | int | None = None,
        name: str | None = None,
        metrics: Sequence[Mapping[str, Any]] = (),
        pruner: BasePruner | None = None,
    ) -> None:
        mode = mode or ("api" if os.environ.get("SIGOPT_API_URL") else "lite")
        if mode not in ("api", "lite"):
            raise SettingError(f'mode must be "api" or "lite", got {mode!r}')
        given = {"project": project, "experiment": experiment, "name": name}
        if mode == "lite" and (named := [k for k, v in given.items() if v is not None]):
            raise SettingError(
                f"{' and '.join(named)} belong to a SigOpt server, and none is known; set SIGOPT_API_URL and "
                "SIGOPT_API_TOKEN"
            )
        self._setting = setting
        self._metrics = _metrics(setting.directions, metrics)
        self._judge = None if pruner is None else Judge(pruner, setting)
        self._traced = Traced({}) if setting.define is None or setting.space is not None else trace(setting.define)
        self._missing: set[str] = set()
        self._server = None
        if mode == "lite":
            optimiser()
        else:
            from tunesmith.backends.sigopt_api import Server  # noqa: PLC0415  needs the client, lite does not

            self._server = Server(setting, self._metrics, project=project, experiment=experiment, name=name)

    def ask(self, number: int, fixed: Params) -> Proposal:
        """SigOpt's suggestion; a parameter that no trial has asked for yet is drawn at random."""
        trials = self._setting.history()
        before = [t for t in trials if t.number != number]
        coded = self._coded(before)
        draw = drawn(self._setting.seed, number)
        why: dict[str, Any] = {"sigopt": "random, for the space is not known before the first trial"}
        found: dict[str, Any] = {}
        if self._server is not None:
            known = next((t for t in trials if t.number == number), Trial(number, TrialState.WAITING))
            observed = {t.number: self._values(t) for t in before if t.state.finished}
            found, why = self._server.suggest(known, fixed, coded, [t for t in before if t.state.finished], observed)
        elif coded.names:
            found, by = suggest(
                coded,
                [m for m in self._metrics if m["strategy"] != "store"],
                [Observed(t.params, self._values(t)) for t in before if t.state.finished and t.params],
                [{**t.offered, **t.params} for t in before if not t.state.finished],
                budget=self._setting.n_trials,
                seed=int(np.random.default_rng([self._setting.seed, number]).integers(2**32)),
            )
            why = {"sigopt": by}
        return Proposal({**found, **fixed}, draw, why)

    def judge(self, trial: Trial) -> Decision:
        """What the pruner says, if there is one."""
        return CONTINUE if self._judge is None else self._judge.judge(trial)

    def tell(self, trial: Trial) -> None:
        """Tell the pruner, and the server."""
        if self._judge is not None:
            self._judge.tell(trial)
        if self._server is not None:
            self._server.observe(trial, self._values(trial))

    def close(self) -> None:
        """Send what could not be sent before."""
        if self._server is not None:
            finished = [t for t in self._setting.history() if t.state.finished]
            self._server.close(finished, {t.number: self._values(t) for t in finished})

    def _coded(self, trials: Sequence[Trial]) -> Coded:
        if self._setting.space is not None:
            return Coded(self._setting.space)
        return Coded({**self._traced.space, **seen_space(trials)}, self._traced.conditions)

    def _values(self, trial: Trial) -> dict[str, float] | None:
        """The trial's metrics by name; None when it failed, for SigOpt, too."""
        last = trial.reports[-1] if trial.reports else None
        values = trial.values if trial.state is TrialState.COMPLETE else None
        if trial.state is TrialState.PRUNED and last is not None:
            values = last.values
        if values is None:
            return None
        objectives = _objectives(self._setting.directions)
        found: dict[str, float] = dict(zip(objectives, values, strict=True))
        noted = trial.constraints
        reported = {**({} if last is None else last.metrics), **trial.metrics, **noted}
        for metric in self._metrics[len(objectives) :]:
            name = metric["name"]
            if name in reported:
                found[name] = float(reported[name])
            elif metric["strategy"] == "constraint" or self._server is not None:  # a server takes all or none
                self._warn_of(name, trial)
                return None
        return found if all(map(math.isfinite, found.values())) else None

    def _warn_of(self, name: str, trial: Trial) -> None:
        if name not in self._missing:
            self._missing.add(name)
            warnings.warn(
                f'each of `metrics` must be reported by each trial, and trial {trial.number} has no "{name}": '
                "SigOpt is told that it failed; return it from compute_metrics, or report(..., metrics={...})",
                stacklevel=3,
            )


def _objectives(directions: Sequence[str]) -> list[str]:
    return ["objective"] if len(directions) == 1 else [f"objective_{k}" for k in range(len(directions))]


def _metrics(directions: Sequence[str], more: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The objectives, then the user's metrics, in SigOpt's form."""
    found: list[dict[str, Any]] = [
        {"name": name, "objective": direction, "strategy": "optimize" if k < OPTIMIZED else "store"}
        for k, (name, direction) in enumerate(zip(_objectives(directions), directions, strict=True))
    ]
    for metric in more:
        if metric.get("strategy") not in ("constraint", "store") or "name" not in metric:
            raise SettingError(
                'metrics have a name and the strategy "constraint" or "store" (what is optimised is the objective), '
                f"got {dict(metric)}"
            )
        if metric["strategy"] == "constraint" and not isinstance(metric.get("threshold"), int | float):
            raise SettingError(f"a metric of strategy constraint needs a threshold, a number, got {dict(metric)}")
        if metric["strategy"] == "store" and metric.get("threshold") is not None:
            raise SettingError(f"a metric of strategy store has no threshold, got {dict(metric)}; make it a constraint")
        if metric.get("objective", "minimize") not in ("minimize", "maximize"):
            raise SettingError(f'the objective of a metric must be "minimize" or "maximize", got {dict(metric)}')
        if unknown := sorted(set(metric) - {"name", "objective", "strategy", "threshold"}):
            raise SettingError(f"a metric has a name, objective, strategy and threshold, got {unknown[0]!r} too")
        if metric["name"] in [m["name"] for m in found]:
            raise SettingError(f'names of metrics must differ, got "{metric["name"]}" twice')
        found.append({"objective": "minimize", **metric})
    if sum(m["strategy"] == "constraint" for m in found) > CONSTRAINED:
        raise SettingError(f"SigOpt takes {CONSTRAINED} metrics of strategy constraint at most, got more")
    return found
