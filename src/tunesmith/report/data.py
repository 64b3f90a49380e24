"""What the report page shows of a study, as plain JSON: the page's script draws it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution

from tunesmith.report.hints import in_common
from tunesmith.report.summary import failures, is_number, telling_parameters, why_text
from tunesmith.settings_text import as_flags, as_python, as_yaml
from tunesmith.trial import Report, Trial, TrialState

if TYPE_CHECKING:
    from tunesmith.study import Study

_CURVES, _POINTS = 80, 60  # learning curves shown, and points of each
_GROUPS, _DETAIL = 20, 6000  # kinds of failures shown, and characters of the traceback of each
_REASON = 300


def report_data(study: Study, model: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A study as JSON; `model` is what `model_data` gave.

    Numbers have six digits, those of the best trial all; what is not finite is a string. Times are seconds since the
    first trial began.
    """
    trials = study.trials
    began = min((t.started for t in trials if t.started is not None), default=0.0)
    best = study.best_trials
    ranked = [i["name"] for i in model["importances"]] if model else []
    names = [*ranked, *(name for name in telling_parameters(trials) if name not in ranked)]
    parameters = [_parameter(name, trials) for name in names]
    return {
        "name": study.name,
        "directions": list(study.directions),
        "failed": failures(trials),
        "seconds": _rounded(sum(t.duration or 0.0 for t in trials)),
        "best": [t.number for t in best],
        "n_trials": study.info.settings.get("n_trials"),
        "settings": _settings(study, best[0]) if best else {},
        "checkpoint": best[0].checkpoint if best else None,
        "parameters": parameters,
        "trials": [_row(t, parameters, began) for t in trials],
        "notes": {t.number: str(t.attrs["note"])[:_REASON] for t in trials if t.attrs.get("note")},
        "model": model,
        "curves": _curves(trials, {t.number for t in best}),
        "failures": _failures(trials),
    }


def _settings(study: Study, trial: Trial) -> dict[str, str]:
    """What the trial was given as texts that can be pasted, by language."""
    arguments = study.info.settings.get("identity", {}).get("arguments")
    given = study.given(trial)
    return {"Python": as_python(given, arguments), "YAML": as_yaml(given), "Flags": as_flags(given)}


def _parameter(name: str, trials: Sequence[Trial]) -> dict[str, Any]:
    having = [t for t in trials if name in t.params]
    values = [t.params[name] for t in having]
    distributions = [t.distributions[name] for t in having if name in t.distributions]
    newest = distributions[-1] if distributions else None
    numeric = all(is_number(v) for v in values) and not isinstance(newest, CategoricalDistribution)
    log = numeric and bool(getattr(newest, "log", False)) and all(v > 0 for v in values)
    return {"name": name, "numeric": numeric, "log": log, "choices": [] if numeric else _choices(newest, values)}


def _choices(distribution: Any, values: Sequence[Any]) -> list[str]:
    known = distribution.choices if isinstance(distribution, CategoricalDistribution) else ()
    return list(dict.fromkeys([str(v) for v in known] + [str(v) for v in values]))


def _row(trial: Trial, parameters: Sequence[Mapping[str, Any]], began: float) -> list[Any]:
    """A trial as a list, since its keys would be most of the file."""
    last = trial.reports[-1].values if trial.reports else None
    params = [_cell(trial.params[p["name"]], p) if p["name"] in trial.params else None for p in parameters]
    start = None if trial.started is None else round(trial.started - began, 2)
    seconds = None if trial.duration is None else _rounded(trial.duration)
    state = trial.state.value.lower()
    return [
        trial.number,
        state,
        _all(trial.values),
        _all(last),
        params,
        start,
        seconds,
        _reason(trial) or why_text(trial)[:_REASON],
    ]


def _reason(trial: Trial) -> str:
    return (trial.reason or "")[:_REASON]


def _all(values: Sequence[float] | None) -> list[Any] | None:
    return None if values is None else [_rounded(v) for v in values]


def _cell(value: Any, parameter: Mapping[str, Any]) -> Any:
    """A number, or the place of a choice."""
    return _rounded(value) if parameter["numeric"] else parameter["choices"].index(str(value))


def _rounded(value: float) -> Any:
    if isinstance(value, int):
        return value if abs(value) < 2**53 else str(value)
    return float(f"{value:.6g}") if math.isfinite(value) else str(value)


def _curves(trials: Sequence[Trial], best: set[int]) -> dict[str, Any]:
    having = [t for t in trials if len(t.reports) > 1]
    first = [t for t in having if t.number in best][:_CURVES]
    shown = [*first, *[t for t in having if t.number not in best][-(_CURVES - len(first)) :]][:_CURVES]
    by_share = all(r.share is not None for t in shown for r in t.reports)
    curves = []
    for t in sorted(shown, key=lambda t: t.number):
        points = [[_rounded(_place(r, by_share=by_share)), _rounded(r.values[0])] for r in _thinned(t.reports)]
        curves.append({"trial": t.number, "state": t.state.value.lower(), "reason": _reason(t), "points": points})
    return {"by_share": by_share, "of": len(having), "shown": curves}


def _place(report: Report, *, by_share: bool) -> float:
    return 100 * report.share if by_share and report.share is not None else report.step


def _thinned(reports: Sequence[Report]) -> list[Report]:
    """At most `_POINTS` of the reports, evenly, the last one included."""
    n = len(reports)
    if n <= _POINTS:
        return list(reports)
    return [reports[round(k * (n - 1) / (_POINTS - 1))] for k in range(_POINTS)]


def _failures(trials: Sequence[Trial]) -> list[Mapping[str, Any]]:
    groups: dict[str, list[Trial]] = {}
    for t in trials:
        if t.state is TrialState.FAILED:
            groups.setdefault(_reason(t) or "unknown", []).append(t)
    common = sorted(groups.items(), key=lambda item: -len(item[1]))[:_GROUPS]
    return [
        {
            "reason": reason,
            "trials": [t.number for t in group],
            "common": in_common(group, trials),
            "detail": (group[-1].detail or "")[-_DETAIL:],
        }
        for reason, group in common
    ]
