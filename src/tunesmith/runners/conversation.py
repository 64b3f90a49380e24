"""The driver's end of a worker's connection: a trial's calls are answered, its outcome is handed on."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from tunesmith.errors import TunesmithError
from tunesmith.runners import Ended, Outcome
from tunesmith.runners.pickling import dumps, loads
from tunesmith.runners.worker import Attempt, Call, Logged
from tunesmith.trial import Assignment, Link

_LAST_LINES, _LAST_BYTES = 60, 16_000


@dataclass
class Running:
    """An attempt under way.

    `timeout` is in seconds from when it has begun, `deadline` the time when it is overdue; `limit` is what the worker
    itself watches; `stopped` is the reason once it is to end by force.
    """

    assignment: Assignment
    link: Link
    log: Path
    timeout: float | None = None
    limit: float | None = None
    deadline: float = math.inf
    stopped: str | None = None
    log_begin: int = field(init=False)

    def __post_init__(self) -> None:
        self.log_begin = self.log.stat().st_size if self.log.exists() else 0


@dataclass(eq=False)
class Conversation:
    """A worker as the driver hears it: `ready` once it has loaded the task, `hung_up` when it says nothing any more."""

    connection: Connection = field(repr=False)
    ready: bool = False
    hung_up: bool = False
    attempt: Running | None = None

    def begin(self, attempt: Running) -> None:
        """Give the worker an attempt; it is sent once the worker is ready."""
        self.attempt = attempt
        if self.ready:
            self._send(dumps(Attempt(attempt.assignment, attempt.log.absolute(), attempt.limit)))

    def receive(self) -> Ended | None:
        """Take the worker's next message, and answer it; what ends its attempt is returned.

        Raises EOFError or OSError when there is nobody any more.
        """
        message = loads(self.connection.recv_bytes())
        if isinstance(message, Outcome):
            if message.fatal is not None and message.detail:
                message.fatal.__cause__ = TunesmithError(f"in the worker:\n{message.detail}")
            return self.end(message)
        attempt = self.attempt
        if isinstance(message, Call):
            if attempt is not None:
                self._send(_answer(attempt.link, message))
        elif isinstance(message, Logged):
            if attempt is not None:
                attempt.link.log(message.step, message.metrics)
        elif message == "begun":
            if attempt is not None and attempt.timeout is not None:
                attempt.deadline = time.monotonic() + attempt.timeout
        else:
            self.ready = True
            if attempt is not None:
                self.begin(attempt)
        return None

    def end(self, outcome: Outcome) -> Ended | None:
        """End the attempt, if there is one."""
        attempt, self.attempt = self.attempt, None
        return None if attempt is None else Ended(attempt.assignment.number, outcome)

    def _send(self, message: bytes) -> None:
        with suppress(OSError):  # gone: it is noticed, and why, where workers are watched
            self.connection.send_bytes(message)


def last_output(*places: tuple[Path, int], writers: int = 1) -> str | None:
    """The last lines in the first of some files, each read from a position on, that has any; of each of its writers as many."""
    for log, begin in places:
        if log.exists() and log.stat().st_size > begin:
            with log.open("rb") as file:
                file.seek(max(begin, log.stat().st_size - writers * _LAST_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
            return "last output:\n" + "\n".join(lines[-writers * _LAST_LINES :])
    return None


def _answer(link: Link, call: Call) -> bytes:
    try:
        return dumps((True, getattr(link, call.method)(*call.arguments)))
    except Exception as error:  # noqa: BLE001  it is the trial's, as in an inline trial
        return _raised(error)


def _raised(error: Exception) -> bytes:
    """The answer that raises `error` in the trial; of one that cannot travel, the text does."""
    try:
        message = dumps((False, error))
        loads(message)
    except Exception:  # noqa: BLE001  an exception may hold anything
        return dumps((False, TunesmithError(f"{type(error).__name__}: {error}")))
    return message
