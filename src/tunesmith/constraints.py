"""Constraints on a trial's metrics: computed once it has completed, stored with it, known to the backends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tunesmith.errors import UserFunctionError
from tunesmith.study import Study
from tunesmith.trial import CONSTRAINT, Trial, TrialState

Function = Callable[[Mapping[str, float]], float | Sequence[float]]


class Constraints:
    """An observer of the search: stores `function(metrics)`, one number or several that are to be at most 0.

    Metrics are those of the trial's result, and of its last report. Raises UserFunctionError when the function fails.
    """

    def __init__(self, function: Function) -> None:
        self._function = function

    def on_search_start(self, study: Study, _n_trials: int | None) -> None:
        """Catch up on trials that completed before (the driver was killed just then, or there were no constraints)."""
        for trial in study.completed():
            if not trial.constraints:
                self.on_trial_end(study, trial)

    def on_trial_end(self, study: Study, trial: Trial) -> None:
        """Compute and store them."""
        if trial.state is not TrialState.COMPLETE:
            return
        metrics = {**(trial.reports[-1].metrics if trial.reports else {}), **trial.metrics}
        try:
            found = self._function(metrics)
            values = [float(v) for v in found] if isinstance(found, Sequence) else [float(found)]
        except Exception as error:
            raise UserFunctionError(
                f"constraints(metrics) must give numbers, and raised {type(error).__name__}: {error}; the metrics of "
                f"trial {trial.number} are {', '.join(sorted(metrics)) or 'none (report them, or return an Outcome)'}"
            ) from error
        for k, value in enumerate(values):
            study.record.annotate(trial.number, f"{CONSTRAINT}{k}", value)
