"""What is wrong with a study's directory, and how it is mended: damaged rows, trials of a dead driver, lost files."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import RecordCorruptError, RecordError
from tunesmith.record import Record
from tunesmith.record_file import FILE, checksum, damaged, fill, set_aside
from tunesmith.record_lock import driver_of
from tunesmith.trial import TrialState

_STALE = 3600.0  # seconds after which a file that was being made is nobody's any more


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, in one line; `mendable` when `repair` mends it."""

    text: str
    mendable: bool = True


def examine(directory: Path) -> list[Finding]:
    """Everything that is wrong with the study in `directory`, most important first."""
    found: list[Finding] = []
    try:
        record = Record.open(directory, read_only=True)
    except RecordCorruptError as error:
        found.append(
            Finding(f"the record cannot be opened: {error.strerror}", mendable=_study_row(directory) is not None)
        )
    except RecordError as error:
        found.append(Finding(str(error.strerror), mendable=False))
    else:
        with record:
            try:
                found += _examine_trials(record, directory)
            except RecordCorruptError as error:
                found.append(Finding(f"the record is damaged: {error.strerror}"))
    left = [p for p in directory.glob(".study-*.tmp") if time.time() - p.stat().st_mtime > _STALE]
    if left:
        found.append(Finding(f"{len(left)} file(s) of a study that was being made when its process died"))
    return found


def _examine_trials(record: Record, directory: Path) -> Iterator[Finding]:
    trials = record.trials()
    if driver_of(directory) is None:
        for t in trials:
            if t.state is TrialState.RUNNING:
                yield Finding(f"trial {t.number} is RUNNING, and nothing drives the study: its process was killed")
    for t in trials:
        if t.checkpoint is not None and not (directory / t.checkpoint).is_dir():
            again = "its run will begin anew" if not t.state.finished else "its model cannot be loaded"
            yield Finding(f"the checkpoint of trial {t.number} is gone ({t.checkpoint}): {again}", mendable=False)


def repair(directory: Path) -> list[str]:
    """Mend what can be mended, and say what was done. A damaged file is kept beside the new one.

    Raises RecordCorruptError when even the study's own row is lost.
    """
    done: list[str] = []
    try:
        with Record.open(directory) as record:
            record.trials()
    except RecordCorruptError:
        done.append(_salvage(directory))
    with Record.open(directory) as record:
        for number in record.interrupted():
            record.requeue(number, TrialState.WAITING, reason="lost: its process died", count_attempt=True)
            done.append(f"trial {number} waits, to go on from its last checkpoint")
    for path in directory.glob(".study-*.tmp"):
        if time.time() - path.stat().st_mtime > _STALE:
            path.unlink()
            done.append(f"removed {path.name}")
    return done


def _salvage(directory: Path) -> str:
    """Copy what is whole to a new file, and put it in the damaged one's place."""
    path = directory / FILE
    study = _study_row(directory)
    if study is None:
        raise damaged(path, "the study's own row")
    mended = path.with_name(f".mended-{FILE}")
    mended.unlink(missing_ok=True)
    fill(mended, study)
    lost = []
    with closing(sqlite3.connect(path, isolation_level=None)) as old, closing(sqlite3.connect(mended)) as new:
        count = max((n for n in _numbers(old)), default=-1) + 1
        for number in range(count):
            row = _whole(old, "SELECT * FROM trial WHERE number = ?", (number,), after=1)
            if not row:
                lost.append(number)
                row = [_lost_trial(number)]
            marks = ", ".join("?" * len(row[0]))
            new.execute(f"INSERT INTO trial VALUES ({marks})", row[0])  # noqa: S608  question marks
            reports = _whole(old, "SELECT * FROM report WHERE number = ? ORDER BY step", (number,), after=0)
            if number not in lost and reports:
                marks = ", ".join("?" * len(reports[0]))
                new.executemany(f"INSERT INTO report VALUES ({marks})", reports)  # noqa: S608
        new.commit()
    kept = set_aside(path)
    mended.rename(path)
    text = f"{count - len(lost)} of {count} trials saved; the damaged file is kept as {kept.name}"
    return text + (f"; lost: trials {', '.join(map(str, lost))}" if lost else "")


def _study_row(directory: Path) -> tuple[Any, ...] | None:
    """The study's own row, None when it is damaged."""
    try:
        with closing(sqlite3.connect(directory / FILE, isolation_level=None)) as db:
            rows = _whole(db, "SELECT name, directions, seed, created, settings, checksum FROM study", (), after=0)
    except sqlite3.Error:
        return None
    return rows[0][:-1] if rows else None


def _numbers(db: sqlite3.Connection) -> Iterator[int]:
    """The numbers of trials and of reports, read in every way that may still work."""
    for query in (
        "SELECT number FROM trial ORDER BY number",
        "SELECT number FROM trial ORDER BY number DESC",
        "SELECT number FROM report ORDER BY number DESC LIMIT 1",
    ):
        try:
            for (number,) in db.execute(query):
                if isinstance(number, int) and 0 <= number < 10_000_000:  # noqa: PLR2004  a damaged one may be anything
                    yield number
        except sqlite3.Error:  # noqa: PERF203  the next way may work
            continue


def _whole(db: sqlite3.Connection, query: str, values: tuple[Any, ...], *, after: int) -> list[tuple[Any, ...]]:
    """The rows of a query that can be read and are what was written."""
    rows = []
    try:
        for row in db.execute(query, values):
            if _sealed(row, after):
                rows.append(row)  # noqa: PERF401  what came before an error is kept
    except (sqlite3.Error, UnicodeDecodeError):
        return rows
    return rows


def _sealed(row: tuple[Any, ...], after: int) -> bool:
    """Whether a row is what was written: its checksum stands before its last `after` columns."""
    end = len(row) - after - 1
    return bool(checksum(row[:end]) == row[end])


def _lost_trial(number: int) -> tuple[Any, ...]:
    """A row in the place of one that is damaged: trials are numbered without gaps."""
    empty = "{}"
    reason = "lost: its row in the file was damaged"
    now = time.time()
    columns = (
        number, "FAILED", empty, empty, empty, None, 1, None, None, reason, None, empty, empty, empty, now, now,
    )  # fmt: skip
    return (*columns, checksum(columns), number + 1)
