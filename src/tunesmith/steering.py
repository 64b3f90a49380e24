"""What people may ask of a study from outside its search: stop, retry, enqueue, note; and whether it runs.

Each is one transaction on the record, which a running search takes in between events: it stays the only one that runs,
judges and ends trials. So nothing is lost when either side dies, and nobody needs to reach the search's process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.errors import SettingError, TunesmithError
from tunesmith.record_lock import Driver, driver_of
from tunesmith.study import Study
from tunesmith.trial import Trial, contains, fitted

_NOTE = 2000


def activity(study: Study) -> str:
    """`running` when somebody drives the study now, else `finished` when its budget is spent, else `stopped`."""
    if driver_of(study.directory) is not None:
        return "running"
    return "finished" if study.info.settings.get("finished") else "stopped"


def stop(study: Study, by: str) -> Driver:
    """Ask the search to pause its trials at their next report or step. Raises TunesmithError when it does not run."""
    driver = driver_of(study.directory)
    if driver is None:
        raise TunesmithError(f"study {study.name!r} in {study.directory} is not running: nothing to stop")
    study.record.update_settings(stop=by)
    return driver


def retry(study: Study, number: int) -> Trial:
    """Let a failed trial run again, with the same values. Raises SettingError when there is no such failed trial."""
    trial = study.record.retry(number)
    study.record.update_settings(finished=False)
    return trial


def enqueue(study: Study, assignments: Sequence[str]) -> tuple[int, dict[str, Any]]:
    """Add a trial with these parameters (`NAME=VALUE` each); its number and their values.

    Raises SettingError, before anything is stored, for what no trial of the study could have.
    """
    params = _checked(study, dict(_assignment(text) for text in assignments))
    if not params:
        raise SettingError("a trial to try needs parameters, given as NAME=VALUE")
    return study.record.add_waiting(params, attrs={"enqueued": True}), params


def note(study: Study, number: int, text: str) -> None:
    """Keep a remark with a trial; an empty one removes it. Raises SettingError when there is no such trial."""
    if len(text) > _NOTE:
        raise SettingError(f"a note has at most {_NOTE} characters, got {len(text)}")
    study.record.annotate(number, "note", text)


def outlook(study: Study) -> str:
    """When a waiting trial will run."""
    total = study.info.settings.get("n_trials")
    done = sum(t.state.finished or t.state.value == "RUNNING" for t in study.trials)
    if total is not None and done >= total:
        return f"the study's budget of {total} trials is spent: start it with a larger n_trials"
    return "it runs next" if activity(study) == "running" else "it runs when the search goes on (tunesmith resume)"


def _assignment(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise SettingError(f"a parameter is given as NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, {"None": None, "True": True, "False": False}.get(value, value)


def _checked(study: Study, params: Mapping[str, Any]) -> dict[str, Any]:
    spaces: dict[str, list[Any]] = {}
    for t in study.trials:
        for name, distribution in t.distributions.items():
            if distribution not in spaces.setdefault(name, []):
                spaces[name].append(distribution)
    if not spaces:  # nothing has run yet: the search itself will say
        return dict(params)
    result = {}
    for name, value in params.items():
        if name not in spaces:
            raise SettingError(f"study {study.name!r} has no parameter {name!r}; it has {', '.join(sorted(spaces))}")
        fitting = [d for d in spaces[name] if contains(d, value)]
        if not fitting:
            raise SettingError(f"{name} must lie in {' or '.join(map(str, spaces[name]))}, got {value!r}")
        result[name] = fitted(fitting[-1], value)
    return result
