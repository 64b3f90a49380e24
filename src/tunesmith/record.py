"""The record: a study's trials and reports in one SQLite file; a few atomic, durable steps and no policy.

Every method is one transaction (WAL, synchronous=FULL): when it returns, a power cut does not undo it. Values are
stored as JSON; nothing is ever unpickled. One driver writes; readers and enqueuers may share the file.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution

from tunesmith.errors import (
    RecordCorruptError,
    RecordError,
    RecordFullError,
    RecordReadOnlyError,
    RecordVersionError,
    SettingError,
    StudyLockedError,
)
from tunesmith.trial import Report, Trial, TrialState

FILE = "study.sqlite"
LOCK = "study.lock"
VERSION = 1
_MAGIC = 0x74756E65  # "tune", SQLite's application_id
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "lustre", "gpfs", "beegfs"}
_SCHEMA = """
CREATE TABLE study (
    one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL, directions TEXT NOT NULL, seed INTEGER NOT NULL,
    created REAL NOT NULL, settings TEXT NOT NULL);
CREATE TABLE trial (
    number INTEGER PRIMARY KEY, state TEXT NOT NULL, params TEXT NOT NULL DEFAULT '{}',
    distributions TEXT NOT NULL DEFAULT '{}', offered TEXT NOT NULL DEFAULT '{}', value TEXT,
    attempt INTEGER NOT NULL DEFAULT 1, checkpoint TEXT, checkpoint_step INTEGER, reason TEXT, detail TEXT,
    metrics TEXT NOT NULL DEFAULT '{}', attrs TEXT NOT NULL DEFAULT '{}', why TEXT NOT NULL DEFAULT '{}',
    started REAL, ended REAL, change INTEGER NOT NULL);
CREATE INDEX trial_change ON trial (change);
CREATE TABLE report (
    number INTEGER NOT NULL REFERENCES trial, step INTEGER NOT NULL, value TEXT NOT NULL, metrics TEXT NOT NULL,
    epoch REAL, examples INTEGER, share REAL, time REAL NOT NULL, PRIMARY KEY (number, step)) WITHOUT ROWID;
"""
_COLUMNS = (
    "number, state, params, distributions, offered, value, attempt, checkpoint, checkpoint_step, reason, detail, "
    "metrics, attrs, why, started, ended"
)
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
        self._trials: dict[int, Trial] = {}
        self._tuple: tuple[Trial, ...] | None = None
        self._seen_version = -1
        self._seen_change = 0
        self.info = self._guard(self._read_info)

    # -- opening -------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, directory: str | Path, *, name: str, directions: Sequence[str], seed: int, settings: Mapping[str, Any]
    ) -> Record:
        """Make a study's record in `directory`; when another process has just made it, open that one."""
        path = Path(directory) / FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _translated(error, path) from error
        _refuse_network(path.parent)
        connection = _connect(path, read_only=False)

        def make() -> None:
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(
                    "INSERT INTO study VALUES (1, ?, ?, ?, ?, ?)",
                    (name, _dump(list(directions)), seed, time.time(), _dump(dict(settings))),
                )
                connection.execute(f"PRAGMA application_id = {_MAGIC}")
                connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("COMMIT")

        _guarded(make, path, connection)
        return cls(path, connection, read_only=False)

    @classmethod
    def open(cls, directory: str | Path, *, read_only: bool = False) -> Record:
        """Open the record in `directory`. Raises RecordError (or one of its kinds) saying what is wrong."""
        path = Path(directory) / FILE
        if not path.is_file():
            raise RecordError(errno.ENOENT, f"no study here: {path} does not exist; give the directory of a study")
        _refuse_network(path.parent)
        if not read_only and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
            raise RecordReadOnlyError(
                errno.EACCES, f"{path} or its directory may not be written; mend the permissions, or open it read-only"
            )
        connection = _connect(path, read_only=read_only)
        _guarded(lambda: _check(connection, path), path, connection)
        return cls(path, connection, read_only=read_only)

    def close(self) -> None:
        """Close the file; the record can be opened again."""
        self._db.close()

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the study's driver. Raises StudyLockedError with the host and process that is it now.

        The lock is the operating system's: it ends with the process, whatever way the process ends.
        """
        import fcntl  # noqa: PLC0415  not on Windows, where reading must still work

        with (self.path.parent / LOCK).open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                holder = _load(file.read() or "{}")
                raise StudyLockedError(
                    f"one process at a time drives a study, and {self.info.name!r} in {self.path.parent} is driven by "
                    f"process {holder.get('pid', '?')} on {holder.get('host', '?')}; wait for it or end it"
                ) from error
            file.truncate(0)
            file.write(_dump({"pid": os.getpid(), "host": socket.gethostname()}))
            file.flush()
            yield

    # -- reading -------------------------------------------------------------------------------------------------

    def trials(self) -> tuple[Trial, ...]:
        """All trials in order of their numbers; cheap when nothing has changed."""
        version = self._guard(lambda: int(self._db.execute("PRAGMA data_version").fetchone()[0]))
        if version != self._seen_version:
            self._guard(self._refresh)
            self._seen_version = version
        if self._tuple is None:
            self._tuple = tuple(self._trials[n] for n in sorted(self._trials))
        return self._tuple

    def trial(self, number: int) -> Trial:
        """One trial. Raises SettingError when there is none of this number."""
        self.trials()
        try:
            return self._trials[number]
        except KeyError:
            raise SettingError(f"no trial {number} in study {self.info.name!r}: it has {len(self._trials)}") from None

    def interrupted(self) -> tuple[int, ...]:
        """The trials that are RUNNING: at the start of a search, those that a killed driver left."""
        return tuple(t.number for t in self.trials() if t.state is TrialState.RUNNING)

    # -- writing -------------------------------------------------------------------------------------------------

    def update_settings(self, **values: Any) -> None:
        """Change entries of the study's settings."""
        settings = {**self.info.settings, **values}
        with self._transaction():
            self._db.execute("UPDATE study SET settings = ?", (_dump(settings),))
        self.info = replace(self.info, settings=settings)

    def add_waiting(self, params: Mapping[str, Any], *, attrs: Mapping[str, Any] | None = None) -> int:
        """Add a trial that waits, with values decided beforehand. Returns its number."""
        return self._add(TrialState.WAITING, params, attrs or {}, {}).number

    def start_new(self, *, offered: Mapping[str, Any], why: Mapping[str, Any] | None = None) -> Trial:
        """Add a trial that is RUNNING from now on."""
        return self._add(TrialState.RUNNING, offered, {}, why or {})

    def start(
        self, number: int, *, offered: Mapping[str, Any] | None = None, why: Mapping[str, Any] | None = None
    ) -> Trial:
        """Start a WAITING or PAUSED trial; reports after its checkpoint go, since that part is run again."""
        trial = self._expect(number, TrialState.WAITING, TrialState.PAUSED)
        last = -1 if trial.checkpoint_step is None else trial.checkpoint_step
        changed = replace(
            trial,
            state=TrialState.RUNNING,
            offered=dict(trial.offered if offered is None else offered),
            why=dict(trial.why if why is None else why),
            reports=tuple(r for r in trial.reports if r.step <= last),
            started=trial.started or time.time(),
            reason=None,
        )
        return self._save(changed, drop_reports_after=last)

    def add_params(
        self, number: int, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
    ) -> None:
        """Store parameters that a running trial was given."""
        trial = self._expect(number, TrialState.RUNNING)
        self._save(
            replace(
                trial, params={**trial.params, **params}, distributions={**trial.distributions, **distributions}
            )
        )

    def add_report(self, number: int, report: Report) -> None:
        """Store a report; a second one of the same step takes the first one's place."""
        trial = self._expect(number, TrialState.RUNNING)
        report = replace(report, values=tuple(map(float, report.values)), metrics=_load(_dump(dict(report.metrics))))
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO report VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    number,
                    report.step,
                    _dump(report.values),
                    _dump(report.metrics),
                    report.epoch,
                    report.examples,
                    report.share,
                    report.time,
                ),
            )
            self._touch(number)
        if trial.reports and trial.reports[-1].step >= report.step:
            kept = {r.step: r for r in trial.reports} | {report.step: report}
            reports = tuple(kept[s] for s in sorted(kept))
        else:
            reports = (*trial.reports, report)
        self._remember(replace(trial, reports=reports))

    def set_checkpoint(self, number: int, path: str | Path, step: int) -> None:
        """Store that a whole checkpoint of `step` lies at `path`."""
        trial = self._expect(number, TrialState.RUNNING)
        self._save(replace(trial, checkpoint=self._relative(path), checkpoint_step=step))

    def annotate(self, number: int, key: str, value: Any) -> None:
        """Store a JSON value under a key of the trial."""
        trial = self.trial(number)
        self._save(replace(trial, attrs={**trial.attrs, key: _load(_dump(value))}))

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
        trial = self._expect(number, TrialState.RUNNING)
        return self._save(
            replace(
                trial,
                state=state,
                values=None if values is None else tuple(map(float, values)),
                reason=reason,
                detail=detail,
                metrics=_load(_dump(dict(metrics or {}))),
                checkpoint=None if checkpoint is None else self._relative(checkpoint),
                ended=time.time(),
            )
        )

    def requeue(self, number: int, state: TrialState, *, reason: str, count_attempt: bool) -> Trial:
        """Let a running trial wait (WAITING) or pause (PAUSED), to go on from its checkpoint with the same values."""
        if state not in (TrialState.WAITING, TrialState.PAUSED):
            raise SettingError(f"a trial is put back WAITING or PAUSED, got {state.value}")
        trial = self._expect(number, TrialState.RUNNING)
        return self._save(replace(trial, state=state, reason=reason, attempt=trial.attempt + int(count_attempt)))

    # -- inside --------------------------------------------------------------------------------------------------

    def _read_info(self) -> StudyInfo:
        row = self._db.execute("SELECT name, directions, seed, created, settings FROM study").fetchone()
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if row is None:
            raise sqlite3.DatabaseError("the study's row is missing")
        return StudyInfo(row[0], tuple(_load(row[1])), row[2], row[3], version, _load(row[4]))

    def _refresh(self) -> None:
        """Read the trials that changed since the last look, here or in another process."""
        self._db.execute("BEGIN")
        try:
            rows = self._db.execute(
                f"SELECT {_COLUMNS}, change FROM trial WHERE change > ? ORDER BY number",  # noqa: S608  constants
                (self._seen_change,),
            ).fetchall()
            for row in rows:
                reports = self._db.execute(
                    "SELECT step, value, metrics, epoch, examples, share, time FROM report WHERE number = ? "
                    "ORDER BY step",
                    (row[0],),
                ).fetchall()
                self._remember(_trial(row, reports))
                self._seen_change = max(self._seen_change, row[-1])
        finally:
            self._db.execute("COMMIT")

    def _remember(self, trial: Trial) -> Trial:
        self._trials[trial.number] = trial
        self._tuple = None
        return trial

    def _expect(self, number: int, *states: TrialState) -> Trial:
        trial = self.trial(number)
        if trial.state not in states:
            wanted = " or ".join(s.value for s in states)
            raise SettingError(f"trial {number} must be {wanted}, and it is {trial.state.value}")
        return trial

    def _add(
        self, state: TrialState, offered: Mapping[str, Any], attrs: Mapping[str, Any], why: Mapping[str, Any]
    ) -> Trial:
        started = time.time() if state is TrialState.RUNNING else None
        with self._transaction():
            number = int(self._db.execute("SELECT COALESCE(MAX(number), -1) + 1 FROM trial").fetchone()[0])
            self._db.execute(
                "INSERT INTO trial (number, state, offered, attrs, why, started, change) VALUES (?, ?, ?, ?, ?, ?, "
                "(SELECT COALESCE(MAX(change), 0) + 1 FROM trial))",
                (number, state.value, _dump(dict(offered)), _dump(dict(attrs)), _dump(dict(why)), started),
            )
        self._seen_version = -1
        return self.trial(number)

    def _save(self, trial: Trial, *, drop_reports_after: int | None = None) -> Trial:
        columns = (
            trial.state.value,
            _dump(dict(trial.params)),
            _dump({n: distribution_to_json(d) for n, d in trial.distributions.items()}),
            _dump(dict(trial.offered)),
            None if trial.values is None else _dump(trial.values),
            trial.attempt,
            trial.checkpoint,
            trial.checkpoint_step,
            trial.reason,
            trial.detail,
            _dump(dict(trial.metrics)),
            _dump(dict(trial.attrs)),
            _dump(dict(trial.why)),
            trial.started,
            trial.ended,
        )
        with self._transaction():
            self._db.execute(
                "UPDATE trial SET state=?, params=?, distributions=?, offered=?, value=?, attempt=?, checkpoint=?, "
                "checkpoint_step=?, reason=?, detail=?, metrics=?, attrs=?, why=?, started=?, ended=? WHERE number=?",
                (*columns, trial.number),
            )
            self._touch(trial.number)
            if drop_reports_after is not None:
                self._db.execute(
                    "DELETE FROM report WHERE number = ? AND step > ?", (trial.number, drop_reports_after)
                )
        return self._remember(trial)

    def _touch(self, number: int) -> None:
        self._db.execute(
            "UPDATE trial SET change = (SELECT MAX(change) + 1 FROM trial) WHERE number = ?", (number,)
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if self._read_only:
            raise RecordReadOnlyError(errno.EACCES, f"{self.path} was opened for reading; open it with read_only=False")
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except (sqlite3.Error, OSError) as error:
            raise _translated(error, self.path) from error

    def _guard(self, step: Callable[[], _T]) -> _T:
        try:
            return step()
        except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
            raise _translated(error, self.path) from error

    def _relative(self, path: str | Path) -> str:
        """Relative to the study's directory where it lies inside, so that a study can be moved."""
        target, home = Path(path), self.path.parent
        if not target.is_absolute():
            inside = home / target
            return str(target) if inside.exists() else str(target.resolve())
        try:
            return str(target.resolve().relative_to(home.resolve()))
        except ValueError:
            return str(target)


def _trial(row: Sequence[Any], reports: Sequence[Sequence[Any]]) -> Trial:
    return Trial(
        number=row[0],
        state=TrialState(row[1]),
        params=_load(row[2]),
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


@lru_cache(maxsize=4096)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _plain(value: Any) -> Any:
    """numpy scalars and enums as the JSON values they stand for."""
    if hasattr(value, "item"):
        return value.item()
    if hasattr(value, "value"):
        return value.value
    raise TypeError(f"only JSON values can be stored, got {type(value).__name__}: {value!r}")


def _dump(value: Any) -> str:
    return json.dumps(value, default=_plain, separators=(",", ":"))


def _load(text: str) -> Any:
    return json.loads(text)


def _connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    def opened() -> sqlite3.Connection:
        uri = f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}"
        connection = sqlite3.connect(uri, uri=True, timeout=30.0, isolation_level=None, check_same_thread=False)
        if not read_only:
            _enter_wal(connection)
            connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    return _guarded(opened, path, None)


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Turn WAL on; SQLite does not wait for its own lock here when several processes begin at once."""
    deadline = time.monotonic() + 30.0
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _check(connection: sqlite3.Connection, path: Path) -> None:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        raise RecordVersionError(
            errno.EPROTONOSUPPORT,
            f"{path} has format {version}, and this tunesmith reads up to {VERSION}; upgrade: pip install -U tunesmith",
        )
    if version == 0 or int(connection.execute("PRAGMA application_id").fetchone()[0]) != _MAGIC:
        raise RecordCorruptError(errno.EINVAL, f"{path} is not a study of tunesmith; give the directory of one")
    result = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if result != "ok":
        raise sqlite3.DatabaseError(result)


def _guarded(step: Callable[[], _T], path: Path, connection: sqlite3.Connection | None) -> _T:
    try:
        return step()
    except RecordError:
        if connection is not None:
            connection.close()
        raise
    except (sqlite3.Error, OSError) as error:
        if connection is not None:
            connection.close()
        raise _translated(error, path) from error


def _translated(error: BaseException, path: Path) -> RecordError:
    """The error as one that says what is affected and what to do."""
    if isinstance(error, RecordError):
        return error
    text = str(error)
    code = getattr(error, "errno", None)
    if "full" in text or code == errno.ENOSPC or "disk I/O error" in text:
        return RecordFullError(
            errno.ENOSPC,
            f"{path} cannot grow ({text}): free some disk space and run again; everything before this step is kept",
        )
    if "readonly" in text or "read-only" in text or "unable to open" in text or code in (errno.EACCES, errno.EROFS):
        return RecordReadOnlyError(
            errno.EACCES, f"{path} or its directory may not be written ({text}); mend the permissions"
        )
    if "locked" in text:
        return RecordError(errno.EBUSY, f"{path} is held by another process for more than 30 s; end it and try again")
    return RecordCorruptError(
        errno.EIO,
        f"{path} is damaged ({text}). Copy the directory, then save what can be read with "
        f'`sqlite3 {FILE} .recover`, or restore a backup; checkpoints in run-* are not affected',
    )


def _refuse_network(directory: Path) -> None:
    """SQLite's WAL needs shared memory, which network file systems do not give: refuse before anything is lost."""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return  # not Linux
    home = str(directory.resolve())
    found = ("", "")
    for line in mounts:
        parts = line.split()
        point = parts[1].replace("\\040", " ")
        if (home == point or home.startswith(point.rstrip("/") + "/")) and len(point) >= len(found[0]):
            found = (point, parts[2])
    if found[1] in _NETWORK:
        raise RecordError(
            errno.ENOTSUP,
            f"a study's record must lie on a local disk, and {directory} is on {found[1]} ({found[0]}); pass a local "
            "`directory=` (checkpoints are saved there too; copy it when the search has ended)",
        )
