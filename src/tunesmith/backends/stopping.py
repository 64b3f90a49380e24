"""The engine's early stopping on our reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tunesmith.backends import Setting
from tunesmith.backends.known import seen_space
from tunesmith.dimensions import dimensions
from tunesmith.engine.stopper import FULL, Curve, expected_ends, outlook
from tunesmith.errors import SettingError
from tunesmith.trial import CONTINUE, Decision, Report, Trial, TrialState, signs

HOPELESS = 0.005  # a chance below this ends a trial, while few were ended
_TOLD = 0.001  # a chance below this is told as less than that
_NEARLY_DONE = 0.97  # a share from which stopping saves nothing


class Stopper:
    """Stops trials that have little chance to become the best; judged from the history alone.

    Trials are compared at `setting.compare_at` (equal shares of training; trials without shares by their steps). With
    several objectives nothing is stopped unless `setting.prune_metric` names a metric of the reports.
    """

    def __init__(self, setting: Setting) -> None:
        metric = setting.prune_metric
        direction = setting.directions[0] if metric is None else metric[1]
        if direction not in ("minimize", "maximize"):
            raise SettingError(f'prune_metric is (name, "minimize" or "maximize"), got {metric!r}')
        self._setting = setting
        self._metric = None if metric is None else metric[0]
        self._sign = signs([direction])[0]
        self._kept: dict[int, Curve | None] = {}  # of finished trials: they do not change
        self._active = metric is not None or len(setting.directions) == 1

    def judge(self, trial: Trial) -> Decision:
        """Whether the trial goes on, after its newest report."""
        if not self._active or not trial.reports:
            return CONTINUE
        history = self._setting.history()
        done = self._completed(history)
        if len(done) < FULL:
            return CONTINUE
        scale = self._scale(done)
        running = self._curve(trial, scale)
        if running is None or running.shares[-1] >= _NEARLY_DONE:
            return CONTINUE
        space = seen_space([*done, trial]) if self._setting.space is None else self._setting.space
        found = outlook(dimensions(space), self._full(done, scale), running)
        # full trials are those that were not stopped: the more were, the less is known of where such trials end
        stopped = sum(t.state is TrialState.PRUNED for t in history)
        if found is None or found.chance >= HOPELESS * len(done) / (len(done) + stopped):
            return CONTINUE
        what = "" if self._metric is None else f"{self._metric} "
        chance = f"{100 * found.chance:.1f} %" if found.chance >= _TOLD else f"less than {100 * _TOLD:g} %"
        return Decision(
            "prune",
            f"pruned: {chance} chance to beat {what}{self._sign * found.best:.6g} by the end, after "
            f"{running.shares[-1]:.0%} of training at {self._sign * running.losses[-1]:.6g} "
            f"(by {found.against} full trials)",
        )

    def expected(self, trials: Sequence[Trial]) -> dict[int, tuple[float, float]]:
        """By number, the objective that each pruned trial would have come to, and the standard deviation of that guess."""
        stopped = [t for t in trials if t.state is TrialState.PRUNED]
        done = self._completed(trials)
        if not (self._active and self._metric is None and stopped and done):
            return {}
        scale = self._scale(done)
        curves = {t.number: c for t in stopped if (c := self._curve(t, scale)) is not None}
        ends, spreads = expected_ends(self._full(done, scale), list(curves.values()))
        return {
            number: (self._sign * float(end), float(spread))
            for number, end, spread in zip(curves, ends, spreads, strict=True)
        }

    def _completed(self, trials: Sequence[Trial]) -> list[Trial]:
        done = [t for t in trials if t.state is TrialState.COMPLETE and t.params and t.reports and t.values is not None]
        return [t for t in done if self._rows(t) is not None]

    def _full(self, done: Sequence[Trial], scale: float) -> list[Curve]:
        return [c for t in done if (c := self._curve(t, scale)) is not None]

    def _curve(self, trial: Trial, scale: float) -> Curve | None:
        """A trial's curve, its places divided by `scale`; None when it has no finite report, or no finite end."""
        rows = self._rows(trial)
        if rows is None:
            return None
        # full trials that end at place 0 report once, at their end
        shares = np.minimum(rows.shares / scale, 1.0) if scale else np.ones_like(rows.shares)
        return replace(rows, shares=shares)

    def _rows(self, trial: Trial) -> Curve | None:
        if trial.state.finished and trial.number in self._kept:
            return self._kept[trial.number]
        rows = [(self._place(r), self._sign * self._value(r)) for r in trial.reports]
        rows = [(place, loss) for place, loss in rows if math.isfinite(loss)]
        curve = None
        if rows:
            places, losses = np.array(sorted(rows)).T
            end = None
            if trial.state is TrialState.COMPLETE and trial.values is not None:
                end = float(losses[-1]) if self._metric is not None else self._sign * trial.values[0]
            curve = Curve(trial.params, places, losses, end) if end is None or math.isfinite(end) else None
        if trial.state.finished:
            self._kept[trial.number] = curve
        return curve

    def _scale(self, done: Sequence[Trial]) -> float:
        """What places are divided by: 1 for shares, else the farthest place of a full trial (0 when each reports only at its start)."""
        if self._setting.compare_at == "share" and all(t.reports[-1].share is not None for t in done):
            return 1.0
        return max((float(c.shares[-1]) for t in done if (c := self._rows(t)) is not None), default=1.0)

    def _place(self, report: Report) -> float:
        at = self._setting.compare_at
        known = {"share": report.share, "epoch": report.epoch, "examples": report.examples}.get(at)
        return float(report.step if known is None else known)

    def _value(self, report: Report) -> float:
        if self._metric is None:
            return report.values[0]
        return float(report.metrics.get(self._metric, math.nan))
