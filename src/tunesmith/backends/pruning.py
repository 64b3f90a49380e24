"""Optuna's pruners on our reports: like is compared with like."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import optuna
from optuna.trial import Trial as OptunaTrial
from optuna.trial import TrialState as OptunaState

from tunesmith.backends import Setting
from tunesmith.export import quiet_study
from tunesmith.trial import CONTINUE, Decision, Report, Trial, TrialState

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

_STATES = {TrialState.PRUNED: OptunaState.PRUNED, TrialState.FAILED: OptunaState.FAIL}


class Judge:
    """Asks an Optuna pruner. To it a step is a percentage of the planned training (or step, epoch, examples).

    A finished trial is known at every point where another was judged: its value there is the last one before. So
    trials with other batch sizes or lengths are compared at equal shares. With several objectives nothing is pruned
    unless `setting.prune_metric` names a metric of the reports. Rebuilt from the history by replaying it in order.
    """

    def __init__(self, pruner: BasePruner, setting: Setting) -> None:
        self._pruner = pruner
        self._setting = setting
        metric = setting.prune_metric
        self._metric = None if metric is None else metric[0]
        direction = setting.directions[0] if metric is None else metric[1]
        self._active = metric is not None or len(setting.directions) == 1
        # a name from the seed: Hyperband assigns its brackets by study name and trial number
        self._study = quiet_study(
            storage=optuna.storages.InMemoryStorage(), direction=direction, study_name=f"prune-{setting.seed}"
        )
        self._trials: dict[int, OptunaTrial] = {}
        self._judged: dict[int, int] = {}
        for trial in setting.history():
            if trial.state.finished:
                self._catch_up(trial)
                self.tell(trial)

    def judge(self, trial: Trial) -> Decision:
        """Whether the trial goes on, after its newest report."""
        if not self._active:
            return CONTINUE
        stop = self._catch_up(trial)
        if not stop:
            return CONTINUE
        report = trial.reports[-1]
        best = self._best_at(self._key(report))
        against = "" if best is None else f" (best of the others there: {best:.6g})"
        where = f"{round(100 * report.share)} % of training" if report.share is not None else f"step {report.step}"
        name = type(self._pruner).__name__
        return Decision("prune", f"pruned: {self._value(report):.6g} at {where}{against}, by {name}")

    def tell(self, trial: Trial) -> None:
        """The trial has finished: make its value known at every point."""
        if not self._active:
            return
        mine = self._trials.pop(trial.number, None)
        if mine is None:
            return
        self._judged.pop(trial.number, None)
        values = {self._key(r): self._value(r) for r in trial.reports if math.isfinite(self._value(r))}
        if values and self._setting.compare_at == "share":
            last = max(values)
            for key in range(min(values), last + 1):  # the value last known before each point
                if key not in values:
                    values[key] = values[max(k for k in values if k < key)]
                    mine.report(values[key], key)
        if trial.state is TrialState.COMPLETE and values:
            self._study.tell(mine, values[max(values)])
        elif trial.state is TrialState.PRUNED:
            self._study.tell(mine, state=OptunaState.PRUNED)
        else:
            self._study.tell(mine, state=OptunaState.FAIL)

    def _catch_up(self, trial: Trial) -> bool:
        """Pass on the reports that the pruner has not seen; whether it would stop at the newest."""
        if not self._active:
            return False
        mine = self._trials.get(trial.number)
        if mine is None:
            mine = self._trials[trial.number] = self._study.ask()
        stop = False
        for report in trial.reports[self._judged.get(trial.number, 0) :]:
            if math.isfinite(self._value(report)):
                mine.report(self._value(report), self._key(report))
                stop = self._ask(mine)
        self._judged[trial.number] = len(trial.reports)
        return stop

    def _ask(self, mine: OptunaTrial) -> bool:
        frozen = next(t for t in reversed(self._study.get_trials(deepcopy=False)) if t.number == mine.number)
        return bool(self._pruner.prune(self._study, frozen))

    def _value(self, report: Report) -> float:
        if self._metric is None:
            return report.values[0]
        return float(report.metrics.get(self._metric, math.nan))

    def _key(self, report: Report) -> int:
        at = self._setting.compare_at
        if at == "share" and report.share is not None:
            return round(100 * report.share)
        if at == "epoch" and report.epoch is not None:
            return round(report.epoch)
        if at == "examples" and report.examples is not None:
            return report.examples
        return report.step

    def _best_at(self, key: int) -> float | None:
        done = self._study.get_trials(deepcopy=False, states=(OptunaState.COMPLETE,))
        values = [t.intermediate_values[key] for t in done if key in t.intermediate_values]
        if not values:
            return None
        return min(values) if self._study.direction == optuna.study.StudyDirection.MINIMIZE else max(values)
