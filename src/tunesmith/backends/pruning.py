"""Optuna's pruners on our reports: like is compared with like."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import optuna
from optuna.pruners import MedianPruner, NopPruner, PatientPruner, PercentilePruner, ThresholdPruner, WilcoxonPruner
from optuna.trial import Trial as OptunaTrial
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from tunesmith.backends import Setting
from tunesmith.errors import SettingError
from tunesmith.export import quiet_study
from tunesmith.trial import CONTINUE, Decision, Report, Trial, TrialState

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

WHOLE = 100  # shares of training are compared in per cent


class Judge:
    """Asks an Optuna pruner. To it a step is a percentage of the planned training.

    So trials with other batch sizes or lengths are compared at equal shares, and a pruner's own settings
    (`n_warmup_steps`, `min_resource`) are percentages too. `setting.compare_at` "step", "epoch" (completed ones) or
    "examples" compares at those; so does a report without a share, by its step. The first report counts where several
    fall on one point. At shares, a finished trial is known at every point after its first report: its value there is
    the last one before, and a completed trial's last value holds to the end.

    With several objectives nothing is pruned unless `setting.prune_metric` names a metric of the reports; a report
    that lacks it, or is not finite, prunes nothing. Rebuilt from the history alone.
    """

    def __init__(self, pruner: BasePruner, setting: Setting) -> None:
        metric = setting.prune_metric
        direction = setting.directions[0] if metric is None else metric[1]
        if direction not in ("minimize", "maximize"):
            raise SettingError(f'prune_metric is (name, "minimize" or "maximize"), got {metric!r}')
        self._pruner = pruner
        self._setting = setting
        self._metric = None if metric is None else metric[0]
        self._active = metric is not None or len(setting.directions) == 1
        self._warned = False
        # the name comes from the seed, for Hyperband assigns its brackets by study name and trial number
        self._study = quiet_study(
            storage=optuna.storages.InMemoryStorage(),
            direction=direction,
            study_name=f"prune-{setting.seed}",
            sampler=optuna.samplers.RandomSampler(0),
            pruner=pruner,
        )
        self._asked: list[OptunaTrial | None] = []
        self._seen: dict[int, set[int]] = {}
        if not self._active:
            return
        remembers = not _forgetful(pruner)  # successive halving keeps its rungs in the trials: those are judged again
        for trial in setting.history():
            if not trial.state.finished:
                continue
            if not remembers and trial.number >= len(self._asked):
                self._make_room(trial.number)
                self._add(trial)
            else:
                self.tell(trial)

    def judge(self, trial: Trial) -> Decision:
        """Whether the trial goes on, after its newest report."""
        if not self._active or not trial.reports or not self._catch_up(trial):
            return CONTINUE
        report = trial.reports[-1]
        best = self._best_at(self._key(report))
        against = "" if best is None else f" (best of the others there: {best:.6g})"
        at_share = self._setting.compare_at == "share" and report.share is not None
        where = f"{round(WHOLE * (report.share or 0))} % of training" if at_share else f"step {report.step}"
        what = "" if self._metric is None else f"{self._metric} "
        name = type(self._pruner).__name__
        return Decision("prune", f"pruned: {what}{self._value(report):.6g} at {where}{against}, by {name}")

    def tell(self, trial: Trial) -> None:
        """The trial has finished: make its value known at every point."""
        if not self._active:
            return
        self._catch_up(trial)
        mine = self._trial(trial.number)
        if mine is None:
            return
        curve = self._curve(trial)
        seen = self._seen.pop(trial.number, set())
        self._asked[trial.number] = None
        for key, value in curve.items():
            if key not in seen:
                mine.report(value, key)
        state, value_at_end = self._end(trial, curve)
        self._study.tell(mine, value_at_end, state=None if value_at_end is not None else state)

    def _add(self, trial: Trial) -> None:
        """A finished trial from the history, without asking the pruner about it again."""
        curve = self._curve(trial)
        state, value = self._end(trial, curve)
        self._study.add_trial(create_trial(state=state, value=value, intermediate_values=curve))
        self._asked.append(None)

    def _end(self, trial: Trial, curve: dict[int, float]) -> tuple[OptunaState, float | None]:
        if trial.state is TrialState.COMPLETE:
            value = trial.value if self._metric is None else None
            if value is None and curve:
                value = curve[max(curve)]
            if value is not None and math.isfinite(value):
                return OptunaState.COMPLETE, value
        return (OptunaState.PRUNED if trial.state is TrialState.PRUNED else OptunaState.FAIL), None

    def _curve(self, trial: Trial) -> dict[int, float]:
        """The trial's finite values by key; at shares also between its reports."""
        curve: dict[int, float] = {}
        shares = []
        for report in trial.reports:
            value = self._value(report)
            if math.isfinite(value) and self._key(report) not in curve:
                curve[self._key(report)] = value
                shares += [self._key(report)] if report.share is not None else []
        if not shares or self._setting.compare_at != "share":
            return curve
        last = curve[min(shares)]
        end = WHOLE if trial.state is TrialState.COMPLETE else max(shares)
        for key in range(min(shares), end + 1):
            last = curve.setdefault(key, last)
        return curve

    def _catch_up(self, trial: Trial) -> bool:
        """Pass on the reports that the pruner has not seen; whether it would stop at the newest."""
        mine = self._trial(trial.number)
        if mine is None:
            return False
        seen = self._seen.setdefault(trial.number, set())
        stop = False
        for report in trial.reports:
            key, value = self._key(report), self._value(report)
            if key not in seen and math.isfinite(value):
                seen.add(key)
                self._warn_of_steps(report)
                mine.report(value, key)
                stop = mine.should_prune()
        return stop

    def _trial(self, number: int) -> OptunaTrial | None:
        """Optuna's trial of the same number; None when it has finished."""
        self._make_room(number + 1)
        return self._asked[number]

    def _make_room(self, size: int) -> None:
        while len(self._asked) < size:
            self._asked.append(self._study.ask())

    def _value(self, report: Report) -> float:
        if self._metric is None:
            return report.values[0]
        return float(report.metrics.get(self._metric, math.nan))

    def _key(self, report: Report) -> int:
        at = self._setting.compare_at
        if at == "share" and report.share is not None:
            return round(WHOLE * report.share)
        if at == "epoch" and report.epoch is not None:
            return math.floor(report.epoch + 1e-6)
        if at == "examples" and report.examples is not None:
            return report.examples
        return report.step

    def _best_at(self, key: int) -> float | None:
        done = self._study.get_trials(deepcopy=False, states=(OptunaState.COMPLETE,))
        values = [t.intermediate_values[key] for t in done if key in t.intermediate_values]
        if not values:
            return None
        return min(values) if self._study.direction == optuna.study.StudyDirection.MINIMIZE else max(values)

    def _warn_of_steps(self, report: Report) -> None:
        """A pruner that was set up for steps would never prune at percentages: say so once."""
        if self._warned or self._setting.compare_at != "share" or report.share is None:
            return
        self._warned = True
        for name in ("n_warmup_steps", "min_resource"):
            value = getattr(self._pruner, f"_{name}", None)
            if isinstance(value, int | float) and value >= WHOLE:
                warnings.warn(
                    f"{name} is a percentage of the training here, got {value}: nothing would be pruned; give a "
                    'percentage, or compare_at="step"',
                    UserWarning,
                    stacklevel=2,
                )


def _forgetful(pruner: BasePruner) -> bool:
    """Whether the pruner's answer depends on the trials' reports alone, not on what it answered before."""
    if isinstance(pruner, PatientPruner):
        wrapped = pruner._wrapped_pruner  # noqa: SLF001  it has no other way to be asked
        return wrapped is None or _forgetful(wrapped)
    return type(pruner) in (MedianPruner, PercentilePruner, ThresholdPruner, NopPruner, WilcoxonPruner)
