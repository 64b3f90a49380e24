"""A search as it stands, read from its record by any process."""

from __future__ import annotations

import time

from tunesmith.record_lock import driver_of
from tunesmith.report.summary import Standing, telling_parameters
from tunesmith.study import Study


def standing_of(study: Study) -> Standing:
    """The search as the live view shows it."""
    driver, trials = driver_of(study.directory), study.trials
    first = min((t.started for t in trials if t.started is not None), default=time.time())
    began = driver.started if driver is not None and driver.started is not None else first
    return Standing(
        name=study.name,
        directions=study.directions,
        trials=trials,
        best=study.best_trials,
        names=tuple(telling_parameters(trials)),
        n_trials=study.info.settings.get("n_trials"),
        began=began,
        done_before=sum(t.state.finished and (t.ended or 0.0) < began for t in trials),
        since={t.number: max(t.started or began, began) for t in trials if not t.state.finished},
    )
