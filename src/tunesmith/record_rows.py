"""Trials and reports as rows of the record's tables, and back: columns, statements, what SQLite makes of values."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution

from tunesmith.record_file import dump, plain
from tunesmith.trial import Report, Trial, TrialState, as_tuple, with_tuples

_TRIAL = (
    "state",
    "params",
    "distributions",
    "offered",
    "value",
    "attempt",
    "checkpoint",
    "checkpoint_step",
    "reason",
    "detail",
    "metrics",
    "attrs",
    "why",
    "started",
    "ended",
)
_REPORT = ("step", "value", "metrics", "epoch", "examples", "share", "time")
# a row ends with its checksum, a trial's as it is read with its change too; what is written is followed by its number
READ_TRIALS = f"SELECT number, {', '.join(_TRIAL)}, checksum, change FROM trial WHERE change > ? ORDER BY number"  # noqa: S608  constants
READ_REPORTS = f"SELECT {', '.join(_REPORT)}, checksum FROM report WHERE number = ? ORDER BY step"  # noqa: S608  constants
WRITE_TRIAL = f"UPDATE trial SET {', '.join(f'{c} = ?' for c in _TRIAL)}, checksum = ?, change = ? WHERE number = ?"  # noqa: S608  constants
ADD_TRIAL = f"INSERT INTO trial ({', '.join(_TRIAL)}, checksum, change, number) VALUES ({', '.join('?' * 18)})"  # noqa: S608  constants
ADD_REPORT = "INSERT OR REPLACE INTO report VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DECODE = json.JSONDecoder().raw_decode


def trial_row(trial: Trial) -> tuple[Any, ...]:
    """The columns of a trial, without its number; its reports are rows of their own."""
    return (
        trial.state.value,
        dump(dict(trial.params)),
        dump({n: distribution_to_json(d) for n, d in trial.distributions.items()}),
        dump(dict(trial.offered)),
        None if trial.values is None else dump(trial.values),
        trial.attempt,
        trial.checkpoint,
        trial.checkpoint_step,
        trial.reason,
        trial.detail,
        dump(dict(trial.metrics)),
        dump(dict(trial.attrs)),
        dump(dict(trial.why)),
        trial.started,
        trial.ended,
    )


def trial_of(row: Sequence[Any], reports: Sequence[Sequence[Any]]) -> Trial:
    """The trial of a row as `READ_TRIALS` gives it, and of those of its reports."""
    return Trial(
        number=row[0],
        state=TrialState(row[1]),
        params=params_of(row[2]),
        distributions={n: _distribution(d) for n, d in _load(row[3]).items()},
        offered=_load(row[4]),
        reports=tuple(Report(r[0], tuple(_load(r[1])), _load(r[2]), r[3], r[4], r[5], r[6]) for r in reports),
        values=None if row[5] is None else tuple(_load(row[5])),
        attempt=row[6],
        checkpoint=row[7],
        checkpoint_step=row[8],
        reason=row[9],
        detail=row[10],
        metrics=_load(row[11]),
        attrs=_load(row[12]),
        why=_load(row[13]),
        started=row[14],
        ended=row[15],
    )


def params_of(encoded: str) -> dict[str, Any]:
    """Parameters as they are read back: a choice that is a sequence is a tuple."""
    return {name: as_tuple(value) for name, value in _load(encoded).items()}


def report_row(report: Report) -> tuple[Any, ...]:
    """The columns of a report, without its trial's number."""
    return (
        report.step, dump(report.values), dump(report.metrics), report.epoch, report.examples, report.share, report.time,
    )  # fmt: skip


def as_stored(report: Report) -> Report:
    """The report as it will be read back: plain numbers; SQLite makes NULL of NaN and 0 of -0 in its own columns."""

    def number(value: float | None) -> float | None:
        return None if value is None or math.isnan(value) else float(value) + 0.0

    return Report(
        int(report.step),
        tuple(map(float, report.values)),
        plain(dict(report.metrics)),
        number(report.epoch),
        None if report.examples is None else int(report.examples),
        number(report.share),
        float(report.time) + 0.0,
    )


def _load(encoded: str) -> Any:
    """What `dump` wrote: json.loads without its look for white space, since a large study holds many small values."""
    return {} if encoded == "{}" else _DECODE(encoded)[0]


@lru_cache(maxsize=4096)
def _distribution(encoded: str) -> BaseDistribution:
    """What `distribution_to_json` wrote; of choices that are sequences JSON has made lists."""
    return with_tuples(json_to_distribution(encoded))
