"""The record: a study's trials and reports in one SQLite file; a few atomic, durable steps and no policy.

Every method is one transaction (WAL, synchronous=FULL): when it returns, a power cut does not undo it. Values are
stored as JSON; nothing is ever unpickled. One driver writes; readers and enqueuers may share the file.
"""

from __future__ import annotations

import errno
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution

from tunesmith.errors import RecordReadOnlyError, SettingError
from tunesmith.masking import masked
from tunesmith.record_file import FILE, checksum, connect, damaged, dump, make, plain, text, translated
from tunesmith.record_lock import driving
from tunesmith.record_rows import (
    ADD_REPORT,
    ADD_TRIAL,
    READ_REPORTS,
    READ_TRIALS,
    WRITE_TRIAL,
    as_stored,
    params_of,
    report_row,
    trial_of,
    trial_row,
)
from tunesmith.trial import Report, Trial, TrialState

__all__ = ["FILE", "Record", "StudyInfo"]

_STRAY = "SELECT EXISTS (SELECT 1 FROM report WHERE number < 0 OR number >= ?) OR (SELECT COUNT(*) FROM trial) <> ?"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StudyInfo:
    """What is known of a study as a whole. `created` is Unix time in seconds, `settings` free JSON."""

    name: str
    directions: tuple[str, ...]
    seed: int
    created: float
    version: int
    settings: Mapping[str, Any]


class Record:
    """The store of one study, `study.sqlite` in the study's directory."""

    def __init__(self, path: Path, connection: sqlite3.Connection, *, read_only: bool) -> None:
        self.path = path
        self._db = connection
        self._read_only = read_only
        self._lock = threading.RLock()
        self._trials: list[Trial] = []  # by number: trials are never deleted
        self._unfinished: dict[int, Trial] = {}
        self._tuple: tuple[Trial, ...] | None = ()
        self._seen_version = -1
        self._seen_change = 0
        try:
            self.info = self._guard(self._read_info)
        except BaseException:
            connection.close()
            raise

    # -- opening -------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, directory: str | Path, *, name: str, directions: Sequence[str], seed: int, settings: Mapping[str, Any]
    ) -> Record:
        """Make a study's record in `directory`; when there is one already (a race), open it."""
        path = Path(directory) / FILE
        make(path, name=name, directions=directions, seed=seed, settings=masked(plain(dict(settings))))
        return cls(path, connect(path, read_only=False), read_only=False)

    @classmethod
    def open(cls, directory: str | Path, *, read_only: bool = False) -> Record:
        """Open the record in `directory`. Raises RecordError (or one of its kinds) saying what is wrong."""
        path = Path(directory) / FILE
        return cls(path, connect(path, read_only=read_only), read_only=read_only)

    def close(self) -> None:
        """Close the file; the record can be opened again."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Record:  # noqa: PYI034  typing.Self needs Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def lock(self) -> AbstractContextManager[None]:
        """Be the study's driver. Raises StudyLockedError with the host and process that is it now."""
        return driving(self.path.parent, self.info.name)

    # -- reading -------------------------------------------------------------------------------------------------

    def trials(self) -> tuple[Trial, ...]:
        """All trials in order of their numbers; cheap when nothing has changed."""
        with self._lock:
            self._look()
            if self._tuple is None:
                self._tuple = tuple(self._trials)
            return self._tuple

    def trial(self, number: int) -> Trial:
        """One trial. Raises SettingError when there is none of this number."""
        with self._lock:
            self._look()
            return self._known(number)

    def standing(self) -> tuple[int, tuple[Trial, ...]]:
        """How many trials have finished, and those that have not, in order of their numbers: cheap in a large study."""
        with self._lock:
            self._look()
            return len(self._trials) - len(self._unfinished), tuple(t for _, t in sorted(self._unfinished.items()))

    def stop_request(self) -> str | None:
        """Why another process wants the search to stop; None when none does."""
        with self._lock:
            self._look()
            return self.info.settings.get("stop")

    def interrupted(self) -> tuple[int, ...]:
        """The trials that are RUNNING: at the start of a search, those that a killed driver left."""
        return tuple(t.number for t in self.trials() if t.state is TrialState.RUNNING)

    # -- writing -------------------------------------------------------------------------------------------------

    def update_settings(self, **values: Any) -> None:
        """Change entries of the study's settings."""
        with self._transaction():
            info = self._read_info()
            info = replace(info, settings={**info.settings, **masked(plain(values))})
            encoded = dump(info.settings)
            row = (info.name, dump(info.directions), info.seed, info.created, encoded)
            self._db.execute("UPDATE study SET settings = ?, checksum = ?", (encoded, checksum(row)))
        self.info = info

    def add_waiting(self, params: Mapping[str, Any], *, attrs: Mapping[str, Any] | None = None) -> int:
        """Add a trial that waits, with values decided beforehand. Returns its number."""
        offered, noted = plain(dict(params)), plain(dict(attrs or {}))
        with self._lock:
            with self._transaction():
                trial = Trial(len(self._trials), TrialState.WAITING, offered=offered, attrs=noted)
                self._write(ADD_TRIAL, trial)
            return self._remember(trial, self._seen_change + 1).number

    def start(
        self, number: int, *, offered: Mapping[str, Any] | None = None, why: Mapping[str, Any] | None = None
    ) -> Trial:
        """Start a WAITING or PAUSED trial; reports after its checkpoint go, since that part is run again.

        Raises SettingError when it is neither: another process has taken it.
        """

        def change(trial: Trial) -> Trial:
            last = -1 if trial.checkpoint_step is None else trial.checkpoint_step
            self._db.execute("DELETE FROM report WHERE number = ? AND step > ?", (number, last))
            return replace(
                trial,
                state=TrialState.RUNNING,
                offered=trial.offered if offered is None else plain(dict(offered)),
                why=trial.why if why is None else plain(dict(why)),
                reports=tuple(r for r in trial.reports if r.step <= last),
                started=trial.started or time.time(),
                reason=None,
            )

        return self._change(number, change, TrialState.WAITING, TrialState.PAUSED)

    def add_params(self, number: int, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> None:
        """Store parameters that a running trial was given."""
        values = params_of(dump(dict(params)))
        self._change(
            number,
            lambda trial: replace(
                trial, params={**trial.params, **values}, distributions={**trial.distributions, **distributions}
            ),
            TrialState.RUNNING,
        )

    def add_report(self, number: int, report: Report) -> None:
        """Store a report; a second one of the same step takes the first one's place."""
        report = as_stored(report)
        row = report_row(report)
        with self._lock:
            with self._transaction():
                trial = self._known(number, TrialState.RUNNING)
                self._db.execute(ADD_REPORT, (number, *row, checksum((number, *row))))
                self._db.execute("UPDATE trial SET change = ? WHERE number = ?", (self._seen_change + 1, number))
            if trial.reports and trial.reports[-1].step >= report.step:
                kept = {r.step: r for r in trial.reports} | {report.step: report}
                reports = tuple(kept[s] for s in sorted(kept))
            else:
                reports = (*trial.reports, report)
            self._remember(replace(trial, reports=reports), self._seen_change + 1)

    def set_checkpoint(self, number: int, path: str | Path, step: int) -> None:
        """Store that a whole checkpoint of `step` lies at `path`."""
        where = self._relative(path)
        self._change(
            number, lambda trial: replace(trial, checkpoint=where, checkpoint_step=int(step)), TrialState.RUNNING
        )

    def annotate(self, number: int, key: str, value: Any) -> None:
        """Store a JSON value under a key of the trial."""
        entry = masked(plain({key: value}))
        self._change(number, lambda trial: replace(trial, attrs={**trial.attrs, **entry}), *TrialState)

    def end(
        self,
        number: int,
        state: TrialState,
        *,
        values: Sequence[float] | None = None,
        reason: str | None = None,
        detail: str | None = None,
        metrics: Mapping[str, float] | None = None,
        checkpoint: str | Path | None = None,
    ) -> Trial:
        """End a trial for good; `checkpoint` is the directory of the weights that its value belongs to."""
        if not state.finished:
            raise SettingError(f"a trial ends COMPLETE, PRUNED or FAILED, got {state.value}")
        changes: dict[str, Any] = {
            "values": None if values is None else tuple(map(float, values)),
            "metrics": plain(dict(metrics or {})),
            "checkpoint": None if checkpoint is None else self._relative(checkpoint),
            "ended": time.time(),
        }
        return self._change(
            number,
            lambda trial: replace(trial, state=state, reason=text(reason), detail=text(detail), **changes),
            TrialState.RUNNING,
        )

    def retry(self, number: int) -> Trial:
        """Let a FAILED trial wait again, with the same values, from its last checkpoint. Any process may ask."""
        return self._change(
            number,
            lambda trial: replace(
                trial,
                state=TrialState.WAITING,
                attempt=trial.attempt + 1,
                ended=None,
                attrs=_with_failure(trial, trial.reason),
            ),
            TrialState.FAILED,
        )

    def requeue(self, number: int, state: TrialState, *, reason: str, count_attempt: bool) -> Trial:
        """Let a running trial wait (WAITING) or pause (PAUSED), to go on from its checkpoint with the same values.

        `count_attempt`: an attempt has failed; its reason stays among the trial's `failures`.
        """
        if state not in (TrialState.WAITING, TrialState.PAUSED):
            raise SettingError(f"a trial is put back WAITING or PAUSED, got {state.value}")
        return self._change(
            number,
            lambda trial: replace(
                trial,
                state=state,
                reason=text(reason),
                attempt=trial.attempt + int(count_attempt),
                attrs=_with_failure(trial, text(reason)) if count_attempt else trial.attrs,
            ),
            TrialState.RUNNING,
        )

    # -- inside --------------------------------------------------------------------------------------------------

    def _read_info(self) -> StudyInfo:
        row = self._db.execute("SELECT name, directions, seed, created, settings, checksum FROM study").fetchone()
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if row is None or checksum(row[:-1]) != row[-1]:
            raise damaged(self.path, "the study's own row")
        return StudyInfo(row[0], tuple(json.loads(row[1])), row[2], row[3], version, json.loads(row[4]))

    def _look(self) -> None:
        """Take in what other processes have written since the last look."""
        version = self._guard(lambda: int(self._db.execute("PRAGMA data_version").fetchone()[0]))
        if version == self._seen_version:
            return
        if self._db.in_transaction:
            self._guard(self._refresh)
        else:
            self._guard(self._refresh_alone)
        self._seen_version = version

    def _refresh_alone(self) -> None:
        self._db.execute("BEGIN")
        try:
            self._refresh()
        finally:
            self._db.execute("COMMIT")

    def _refresh(self) -> None:
        seen = self._seen_change
        self.info = self._read_info()
        for row in self._db.execute(READ_TRIALS, (seen,)).fetchall():
            reports = self._db.execute(READ_REPORTS, (row[0],)).fetchall()
            if checksum(row[:-2]) != row[-2] or any(checksum((row[0], *r[:-1])) != r[-1] for r in reports):
                raise damaged(self.path, f"trial {row[0]}")
            if row[0] > len(self._trials):
                raise damaged(self.path, f"trial {len(self._trials)}")
            self._put(trial_of(row, reports))
            seen = max(seen, row[-1])
        if self._seen_change == 0 and self._db.execute(_STRAY, (len(self._trials),) * 2).fetchone()[0]:
            raise damaged(self.path, "a trial's or report's number")
        if seen != self._seen_change:
            self._seen_change = seen
            self._tuple = None

    def _known(self, number: int, *states: TrialState) -> Trial:
        if not 0 <= number < len(self._trials):
            raise SettingError(f"no trial {number} in study {self.info.name!r}: it has {len(self._trials)}")
        trial = self._trials[number]
        if states and trial.state not in states:
            wanted = " or ".join(s.value for s in states)
            raise SettingError(f"trial {number} must be {wanted}, and it is {trial.state.value}")
        return trial

    def _put(self, trial: Trial) -> None:
        self._trials[trial.number : trial.number + 1] = [trial]
        if trial.state.finished:
            self._unfinished.pop(trial.number, None)
        else:
            self._unfinished[trial.number] = trial

    def _remember(self, trial: Trial, change: int) -> Trial:
        self._put(trial)
        self._seen_change = change
        self._tuple = None
        return trial

    def _change(self, number: int, change: Callable[[Trial], Trial], *states: TrialState) -> Trial:
        """Read, check and write a trial in one transaction, so that of two processes only one succeeds."""
        with self._lock:
            with self._transaction():
                trial = change(self._known(number, *states))
                self._write(WRITE_TRIAL, trial)
            return self._remember(trial, self._seen_change + 1)

    def _write(self, statement: str, trial: Trial) -> None:
        columns = trial_row(trial)
        entry = checksum((trial.number, *columns))
        self._db.execute(statement, (*columns, entry, self._seen_change + 1, trial.number))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """One durable step that begins with what all others have written."""
        if self._read_only:
            raise RecordReadOnlyError(errno.EACCES, f"{self.path} was opened for reading; open it with read_only=False")
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    self._look()
                    yield
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise translated(error, self.path) from error

    def _guard(self, step: Callable[[], _T]) -> _T:
        try:
            return step()
        except (sqlite3.Error, ValueError, KeyError, TypeError, IndexError) as error:
            raise translated(error, self.path) from error

    def _relative(self, path: str | Path) -> str:
        """Relative to the study's directory where it lies inside, so that a study can be moved."""
        target, home = Path(path), self.path.parent
        if not target.is_absolute() and (home / target).exists():
            return str(target)
        try:
            return str(target.resolve().relative_to(home.resolve()))
        except ValueError:
            return str(target.resolve())


def _with_failure(trial: Trial, reason: str | None) -> dict[str, Any]:
    return {**trial.attrs, "failures": [*trial.attrs.get("failures", ()), reason]}
