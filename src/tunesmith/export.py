"""Trials in other forms: a DataFrame, an Optuna study, CSV, Parquet, a journal for optuna-dashboard, TensorBoard's HParams."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from tunesmith import export_tensorboard
from tunesmith.errors import MissingDependencyError, SettingError
from tunesmith.trial import Trial, TrialState, contains, fitted

if TYPE_CHECKING:
    import pandas as pd

_STATES = {
    TrialState.WAITING: OptunaState.WAITING,
    TrialState.PAUSED: OptunaState.WAITING,  # Optuna has no pause; both will run again
    TrialState.RUNNING: OptunaState.RUNNING,
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.PRUNED: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
}


def to_dataframe(trials: Sequence[Trial], directions: Sequence[str]) -> pd.DataFrame:
    """One row per trial: number, state, value(s), reason, attempt, steps, seconds, times, `params_*`, `metrics_*`."""
    try:
        import pandas as pd  # noqa: PLC0415  an optional package
    except ImportError as error:
        raise MissingDependencyError("to_dataframe needs pandas: pip install pandas") from error
    names = sorted({n for t in trials for n in t.params})
    metrics = sorted({n for t in trials for n in t.metrics})
    columns: dict[str, Any] = {
        "number": pd.array([t.number for t in trials], dtype="int64"),
        "state": pd.array([t.state.value for t in trials], dtype="string"),
    }
    for k in range(len(directions)):
        label = "value" if len(directions) == 1 else f"value_{k}"
        columns[label] = pd.array([math.nan if t.values is None else t.values[k] for t in trials], dtype="float64")
    columns["reason"] = pd.array([t.reason for t in trials], dtype="string")
    columns["attempt"] = pd.array([t.attempt for t in trials], dtype="int64")
    columns["last_step"] = pd.array([t.reports[-1].step if t.reports else None for t in trials], dtype="Int64")
    columns["seconds"] = pd.array([math.nan if t.duration is None else t.duration for t in trials], dtype="float64")
    for label in ("started", "ended"):
        columns[label] = pd.to_datetime([getattr(t, label) for t in trials], unit="s", utc=True)
    for name in names:
        columns[f"params_{name}"] = _column([t.params.get(name) for t in trials])
    for name in metrics:
        columns[f"metrics_{name}"] = pd.array([t.metrics.get(name, math.nan) for t in trials], dtype="float64")
    columns["checkpoint"] = pd.array([t.checkpoint for t in trials], dtype="string")
    return pd.DataFrame(columns)


def _column(values: Sequence[Any]) -> Any:
    """A column of one type that Parquet can hold."""
    import pandas as pd  # noqa: PLC0415

    kinds = {type(v) for v in values if v is not None}
    if kinds <= {bool}:
        return pd.array(values, dtype="boolean")
    if kinds <= {int}:
        return pd.array(values, dtype="Int64")
    if kinds <= {int, float}:
        return pd.array([math.nan if v is None else float(v) for v in values], dtype="float64")
    return pd.array([None if v is None else str(v) for v in values], dtype="string")


def to_frozen(trial: Trial) -> FrozenTrial:
    """The trial as Optuna's: reports at their own steps (the first objective), reason and metrics as user attributes."""
    finite = trial.values is not None and all(math.isfinite(v) for v in trial.values)
    state = _STATES[trial.state]
    attrs = {**trial.attrs, **({"metrics": dict(trial.metrics)} if trial.metrics else {})}
    if trial.reason is not None:
        attrs["reason"] = trial.reason
    distributions = dict(trial.distributions)
    frozen = create_trial(
        state=state if state is not OptunaState.COMPLETE or finite else OptunaState.FAIL,
        values=list(trial.values) if trial.values is not None and state is OptunaState.COMPLETE and finite else None,
        params={n: fitted(d, v) if contains(d := distributions[n], v) else v for n, v in trial.params.items()},
        distributions=distributions,
        user_attrs=attrs,
        intermediate_values={r.step: r.values[0] for r in trial.reports if len(r.values) == 1},
    )
    frozen.datetime_start = _when(trial.started) or (frozen.datetime_start if state.is_finished() else None)
    frozen.datetime_complete = _when(trial.ended) if state.is_finished() else None
    if state.is_finished() and frozen.datetime_complete is None:
        frozen.datetime_complete = frozen.datetime_start
    return frozen


def to_optuna(trials: Sequence[Trial], directions: Sequence[str], name: str) -> optuna.Study:
    """An in-memory Optuna study of the trials, for Optuna's importances, plots and analyses."""
    return _fill(optuna.storages.InMemoryStorage(), trials, directions, name)


def export(trials: Sequence[Trial], directions: Sequence[str], name: str, path: Path) -> Path:
    """Write the trials as .csv, .parquet, .log (a journal for optuna-dashboard) or .tensorboard (a folder for its HParams)."""
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet", ".log", ".journal", ".tensorboard"):
        raise SettingError(
            f"an export ends in .csv, .parquet, .log (Optuna journal) or .tensorboard (a folder), got {path.name!r}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".csv":
        to_dataframe(trials, directions).to_csv(path, index=False)
    elif suffix == ".parquet":
        to_dataframe(trials, directions).to_parquet(path, index=False)
    else:
        if path.exists():
            raise SettingError(f"this export is written to a new place, and {path} exists; remove it or name another")
        if suffix == ".tensorboard":
            export_tensorboard.write(trials, directions, path)
            return path
        from optuna.storages.journal import JournalFileBackend  # noqa: PLC0415

        _fill(optuna.storages.JournalStorage(JournalFileBackend(str(path))), trials, directions, name)
    return path


def quiet_study(**settings: Any) -> optuna.Study:
    """optuna.create_study without its log line: that a study was created in memory is news to nobody."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(**settings)
    finally:
        optuna.logging.set_verbosity(level)


def _fill(storage: Any, trials: Sequence[Trial], directions: Sequence[str], name: str) -> optuna.Study:
    study = quiet_study(storage=storage, directions=list(directions), study_name=name)
    for trial in trials:
        study.add_trial(to_frozen(trial))
    return study


def _when(seconds: float | None) -> dt.datetime | None:
    if seconds is None:
        return None
    return dt.datetime.fromtimestamp(seconds)  # noqa: DTZ006  Optuna's times are naive and local
