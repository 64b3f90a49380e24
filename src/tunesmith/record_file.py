"""The record's file: made whole or not at all, opened with checks; errors that say what is affected and what to do."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import tempfile
import time
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import (
    RecordCorruptError,
    RecordError,
    RecordFullError,
    RecordReadOnlyError,
    RecordVersionError,
    SettingError,
)
from tunesmith.masking import mask
from tunesmith.scalars import python_scalar

FILE = "study.sqlite"
VERSION = 1
_MAGIC = 0x74756E65  # "tune", SQLite's application_id
_WAIT = 30.0  # seconds to wait for another process's transaction
_CHECK = 0.5  # seconds that the check at opening may take; rows carry checksums besides
_REFUSED = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "afs", "ncpfs"})
_DOUBTED = frozenset({"lustre", "gpfs", "beegfs", "ceph", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.gcsfuse"})
_SCHEMA = (
    """CREATE TABLE study (
        one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL, directions TEXT NOT NULL, seed INTEGER NOT NULL,
        created REAL NOT NULL, settings TEXT NOT NULL, checksum INTEGER NOT NULL)""",
    """CREATE TABLE trial (
        number INTEGER PRIMARY KEY, state TEXT NOT NULL, params TEXT NOT NULL, distributions TEXT NOT NULL,
        offered TEXT NOT NULL, value TEXT, attempt INTEGER NOT NULL, checkpoint TEXT, checkpoint_step INTEGER,
        reason TEXT, detail TEXT, metrics TEXT NOT NULL, attrs TEXT NOT NULL, why TEXT NOT NULL, started REAL,
        ended REAL, checksum INTEGER NOT NULL, change INTEGER NOT NULL)""",
    "CREATE INDEX trial_change ON trial (change)",
    """CREATE TABLE report (
        number INTEGER NOT NULL REFERENCES trial, step INTEGER NOT NULL, value TEXT NOT NULL, metrics TEXT NOT NULL,
        epoch REAL, examples INTEGER, share REAL, time REAL NOT NULL, checksum INTEGER NOT NULL,
        PRIMARY KEY (number, step)) WITHOUT ROWID""",
)
_ADVICE = (
    "Nothing was changed. Copy the directory before anything else; then restore a backup, or save what is whole: "
    "`tunesmith doctor --repair DIRECTORY`; resume=False begins anew. Checkpoints are not affected"
)


def make(path: Path, *, name: str, directions: Sequence[str], seed: int, settings: Mapping[str, Any]) -> None:
    """Put a new, whole file at `path`, unless another process did it first: it is built aside and linked into place."""
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        refuse_network(path.parent)
        if path.exists():
            return
        handle, text = tempfile.mkstemp(prefix=".study-", suffix=".tmp", dir=path.parent)
        os.close(handle)
        aside = Path(text)
        aside.chmod(0o666 & ~_umask())
        fill(aside, (name, dump(list(directions)), int(seed), time.time(), dump(dict(settings))))
        _place(aside, path)
    except (sqlite3.Error, OSError) as error:
        raise translated(error, path) from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


def fill(path: Path, study: Sequence[Any]) -> None:
    """Write the tables, and the study's own row (without its checksum), to an empty file."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")  # kept in the file: who opens it needs no lock to turn it on
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN")
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("INSERT INTO study VALUES (1, ?, ?, ?, ?, ?, ?)", (*study, checksum(study)))
        connection.execute(f"PRAGMA application_id = {_MAGIC}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    finally:
        connection.close()


def _place(aside: Path, path: Path) -> None:
    try:
        os.link(aside, path)
    except FileExistsError:
        return  # another process was first
    except OSError:  # a file system without hard links
        if not path.exists():
            aside.replace(path)
    if os.name == "posix":
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open the file and check it. Raises RecordError, or one of its kinds, saying what is wrong."""
    if not path.is_file():
        raise RecordError(errno.ENOENT, f"no study here: {path} does not exist; give the directory of a study")
    refuse_network(path.parent)
    if not read_only and not (_writable(path) and _writable(path.parent)):
        raise RecordReadOnlyError(
            errno.EACCES, f"{path} or its directory may not be written; mend the permissions, or open it read-only"
        )
    mode = "ro" if read_only else "rw"
    if read_only and not _writable(path.parent) and not path.with_name(path.name + "-wal").exists():
        mode = "ro&immutable=1"  # SQLite reads a WAL file only where it may make its index beside it
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode={mode}",
            uri=True,
            timeout=_WAIT,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        _check(connection, path)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error | OSError):
            raise translated(error, path) from error
        raise
    return connection


def _writable(path: Path) -> bool:
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        raise RecordVersionError(
            errno.EPROTONOSUPPORT,
            f"{path} has format {version}, and this tunesmith reads up to {VERSION}; its trials are unharmed: "
            "pip install -U tunesmith",
        )
    if version < 1 or int(connection.execute("PRAGMA application_id").fetchone()[0]) != _MAGIC:
        raise RecordCorruptError(errno.EINVAL, f"{path} is not a study of tunesmith, or its head is damaged. {_ADVICE}")
    deadline = time.monotonic() + _CHECK
    connection.set_progress_handler(lambda: int(time.monotonic() > deadline), 20_000)
    try:
        result = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as error:
        if "interrupted" not in str(error):
            raise
        result = "ok"  # a very large file: the rest is checked row by row as it is read
    finally:
        connection.set_progress_handler(None, 0)
    if result != "ok":
        raise sqlite3.DatabaseError(result)


def translated(error: BaseException, path: Path) -> RecordError:  # noqa: PLR0911  one line of the table each
    """The error as one that says what is affected and what to do."""
    if isinstance(error, RecordError):
        return error
    text = str(error)
    name = getattr(error, "sqlite_errorname", "")  # Python 3.11
    code = getattr(error, "errno", None)
    kept = "every step before this one is kept, and the same call continues the study"
    if "database or disk is full" in text or code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return RecordFullError(errno.ENOSPC, f"{path} cannot grow ({text}): free some disk space; {kept}")
    if "disk I/O error" in text and not name.startswith("SQLITE_IOERR_READ"):
        return RecordFullError(
            errno.EIO,
            f"{path} cannot be written ({text} {name}): the disk is full, over quota or failing; mend that; {kept}",
        )
    if "disk I/O error" in text:
        return RecordError(errno.EIO, f"{path} cannot be read ({text} {name}): check the disk. {_ADVICE}")
    if "readonly" in text or "unable to open" in text or code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return RecordReadOnlyError(
            errno.EACCES, f"{path} or its directory may not be written ({text}); mend the permissions, or use another"
        )
    if "locked" in text:
        return RecordError(
            errno.EBUSY, f"{path} has been held by another process for {_WAIT:.0f} s; end it and try again"
        )
    if isinstance(error, OSError):
        return RecordError(error.errno or errno.EIO, f"{path} cannot be used: {text}")
    return RecordCorruptError(errno.EIO, f"{path} is damaged ({text}). {_ADVICE}")


def damaged(path: Path, what: str) -> RecordCorruptError:
    """The error for rows that are not what was written."""
    return RecordCorruptError(errno.EIO, f"{what} in {path} is damaged; what else it holds can be read. {_ADVICE}")


def set_aside(path: Path) -> Path:
    """Give a damaged file another name, in which it says since when, and its log with it. Returns that name."""
    kept = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    for extra in ("", "-wal", "-shm"):
        part = path.with_name(path.name + extra)
        if part.exists():
            part.rename(kept.with_name(kept.name + extra))
    return kept


def refuse_network(directory: Path, mounts: Path = Path("/proc/mounts")) -> None:
    """SQLite's WAL needs shared memory and true locks: refuse file systems without them, before anything is lost."""
    try:
        kind, point = filesystem(str(directory.resolve()), mounts.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return  # not Linux
    if kind in _REFUSED:
        raise RecordError(
            errno.ENOTSUP,
            f"a study's record must lie on a local disk, and {directory} is on {kind} ({point}), where it could be "
            "damaged; pass a `directory=` on a local disk and copy it when the search has ended",
        )
    if kind in _DOUBTED:
        warnings.warn(
            f"{directory} is on {kind} ({point}): use this study from one machine at a time, or pass a `directory=` on "
            "a local disk",
            stacklevel=2,
        )


def filesystem(directory: str, mounts: str) -> tuple[str, str]:
    """The kind of file system that holds an absolute path, and its mount point, by the lines of /proc/mounts."""
    found = ("", "")
    for line in mounts.splitlines():
        parts = line.split()
        if len(parts) < 3:  # noqa: PLR2004  device, point, kind
            continue
        point = parts[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        inside = directory == point or directory.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(found[1]):
            found = (parts[2], point)
    return found


# -- values ------------------------------------------------------------------------------------------------------


def dump(value: Any) -> str:
    """JSON text of a value; NaN and infinities survive, numpy scalars and enums become what they stand for."""
    return json.dumps(value, default=_plain, separators=(",", ":"))


def plain(value: Any) -> Any:
    """The value as it will be read back."""
    return json.loads(dump(value))


def text(value: str | None) -> str | None:
    """Text that can be stored: without secrets, and whole characters, of which a traceback may hold halves."""
    return None if value is None else mask(value.encode("utf-8", "backslashreplace").decode("utf-8"))


def checksum(columns: Sequence[Any]) -> int:
    """Of a row as SQLite gives it back."""
    return zlib.crc32(repr(tuple(columns)).encode("utf-8"))


def _plain(value: Any) -> Any:
    scalar = python_scalar(value)
    if scalar is not value:
        return scalar
    if hasattr(value, "value"):
        return value.value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise SettingError(f"only JSON values can be stored, got {type(value).__name__}: {value!r}")
