"""The lock that makes one process the driver of a study, and who holds it."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tunesmith.errors import StudyLockedError
from tunesmith.record_file import dump, translated

LOCK = "study.lock"
_PATIENCE = 0.2  # seconds: `driver_of` in another process holds the lock for a moment
_HELD: set[IO[str]] = set()  # lock files of this process; a forked child must not keep the lock alive


def _let_go() -> None:
    for file in _HELD:
        file.close()
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@dataclass(frozen=True)
class Driver:
    """The process that drives a study; `started` is Unix time in seconds. None: it has not said so yet."""

    pid: int | None = None
    host: str | None = None
    started: float | None = None

    def __str__(self) -> str:
        return "another process" if self.pid is None else f"process {self.pid} on {self.host}"


@contextmanager
def driving(directory: Path, name: str) -> Iterator[None]:
    """Be the driver of the study called `name`. Raises StudyLockedError with the host and process that is it now.

    The lock is the operating system's: it ends with the process, whatever way the process ends.
    """
    try:
        file = (directory / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise translated(error, directory / LOCK) from error
    with file:
        if not _locked(file, directory):
            raise StudyLockedError(
                f"one process at a time drives a study, and {name!r} in {directory} is driven by {_holder(file)}; "
                "wait for it or end it"
            )
        _HELD.add(file)
        try:
            file.truncate(0)
            file.write(dump({"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}))
            file.flush()
            yield
        finally:
            _HELD.discard(file)


def driver_of(directory: Path) -> Driver | None:
    """The process that drives the study in `directory` now, None when there is none."""
    import fcntl  # noqa: PLC0415  not on Windows, where reading must still work

    try:
        file = (directory / LOCK).open(encoding="utf-8")
    except OSError:
        return None
    with file:
        holder = _holder(file)
        if holder.host == socket.gethostname() and holder.pid is not None and not _alive(holder.pid):
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # let go when the file is closed, at once
        except OSError:
            return holder
    return None


def _locked(file: IO[str], directory: Path) -> bool:
    import fcntl  # noqa: PLC0415

    until = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # noqa: PERF203  that is the wait
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise translated(error, directory / LOCK) from error
            if time.monotonic() >= until:
                return False
            time.sleep(_PATIENCE / 10)
        else:
            return True


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _holder(file: IO[str]) -> Driver:
    file.seek(0)
    try:
        known = json.loads(file.read())
    except ValueError:
        return Driver()  # it has not written its name yet
    return Driver(known.get("pid"), known.get("host"), known.get("started"))
