"""The remote runner: trials in workers on other machines, which a launcher brings up and which come to the driver."""

from __future__ import annotations

import itertools
import math
import queue
import selectors
import shutil
import socket
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from tunesmith.errors import SettingError
from tunesmith.runners import Ended, Outcome
from tunesmith.runners.conversation import Conversation, Running, last_output
from tunesmith.runners.reception import Invitation, Reception
from tunesmith.runners.worker import OUTPUT
from tunesmith.trial import Assignment, Link, TrialState

_COUNT_EVERY = 5.0  # seconds between looks at how much room there is
_WATCH_EVERY = 0.25  # seconds between looks at what is overdue
_LAST_WORDS = 1.0  # seconds for an overdue worker to write its stack, for one that hung up until its launcher knows why
_NOTICE_AFTER = 30.0  # seconds without any worker, after which it is said what is waited for
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds until a worker that could not start is tried again


@dataclass(frozen=True)
class Loss:
    """A worker is gone: how, as the end of "the worker ...", and what else is known.

    `with_place`: its place is gone, so that another worker may do better elsewhere.
    """

    how: str
    detail: str | None = None
    with_place: bool = False


class Launcher(Protocol):
    """Brings up workers, somewhere."""

    def room(self) -> int:
        """How many workers are wanted now."""

    def launch(self, invitations: Sequence[Invitation], lost: Callable[[int, Loss], None]) -> None:
        """Have a worker accept each invitation; `lost` is called with its number once it is gone, from any thread."""

    def kill(self, worker: int) -> None:
        """End a worker, which is then lost."""

    def waited_for(self) -> str:
        """What there is no place for yet, and what there is, as the end of "no worker has started: ..."."""

    def close(self) -> None:
        """End all workers."""


@dataclass(eq=False)
class _Worker(Conversation):
    """A worker that has come to the driver."""

    id: int = field(kw_only=True)
    given_up_at: float = math.inf


class RemoteRunner:
    """Runs a trial in each worker that is there; `slots` follows their number, which may grow and shrink.

    `host` is the driver's address for workers. `trial_timeout` is in seconds per attempt. An attempt whose worker is
    lost ends as FAILED, "lost: ...", and another worker is launched.
    """

    def __init__(self, launcher: Launcher, *, host: str, trial_timeout: float | None = None) -> None:
        if trial_timeout is not None and not (math.isfinite(trial_timeout) and trial_timeout > 0):
            raise SettingError(f"trial_timeout must be above 0 seconds, got {trial_timeout!r}")
        self._launcher = launcher
        self._timeout = trial_timeout
        self._scratch = Path(tempfile.mkdtemp(prefix="tunesmith-"))
        self._ids = itertools.count()
        self._starting: set[int] = set()
        self._workers: dict[int, _Worker] = {}
        self._idle: dict[int, _Worker] = {}
        self._busy: dict[int, _Worker] = {}  # by the number of the trial
        self._leaving = 0  # workers that hung up, and of which it is not known yet why
        self._waiting: deque[Running] = deque()
        self._ended: deque[Ended] = deque()
        self._news: queue.SimpleQueue[tuple[int, Connection | Loss]] = queue.SimpleQueue()
        self._bell, self._ringer = socket.socketpair()
        self._ringer.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._count_at = self._watch_at = self._launch_at = 0.0
        self._room = 0
        self._failed_starts = 0
        self._notice_at = time.monotonic() + _NOTICE_AFTER
        self._closed = False
        self._reception = Reception(host, self._hear)
        self._tend()

    @property
    def slots(self) -> int:
        """As many as workers are ready; one when none is, for a trial that waits for the first."""
        return max(1, len(self._idle) + len(self._busy))

    @property
    def wanted(self) -> int:
        """The slots that there are once every worker that was asked for is there."""
        return max(self._room, self.slots)

    # -- the runner's protocol -----------------------------------------------------------------------------------

    def start(self, assignment: Assignment, link: Link) -> None:
        """Begin an attempt in a free worker; when there is none, in the first that is ready."""
        if len(self._busy) + len(self._waiting) >= self.slots:
            raise RuntimeError(f"at most {self.slots} trials run at once, and trial {assignment.number} is one more")
        directory = assignment.directory or self._scratch / f"run-{assignment.number}"
        limit = None if self._timeout is None else self._timeout + _LAST_WORDS / 2
        attempt = Running(assignment, link, Path(directory) / OUTPUT, self._timeout, limit)
        self._waiting.append(attempt)
        self._begin_waiting()

    def events(self, timeout: float | None) -> Iterator[Ended]:
        """Serve the running trials until one has ended, there are more slots, or `timeout` seconds have passed."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        slots = self.slots
        while not self._ended and (self._busy or self._waiting) and self.slots <= slots:
            left = min(self._tend(), until) - time.monotonic()
            for key, _ in self._selector.select(None if left == math.inf else max(0.0, left)):
                if key.data is None:
                    self._bell.recv(4096)
                else:
                    self._receive(key.data)
            while not self._news.empty():
                self._take(*self._news.get())
            if time.monotonic() >= until:
                break
        while self._ended:
            yield self._ended.popleft()

    def stop(self, number: int, reason: str) -> None:
        """End an attempt by force; it becomes an `Ended` with state FAILED and this reason."""
        for attempt in [a for a in self._waiting if a.assignment.number == number]:
            self._waiting.remove(attempt)
            self._ended.append(Ended(number, Outcome(TrialState.FAILED, reason=reason)))
        worker = self._busy.get(number)
        if worker is not None and worker.attempt is not None:
            worker.attempt.stopped = worker.attempt.stopped or reason
            self._launcher.kill(worker.id)

    def close(self) -> None:
        """End all workers and remove what was temporary."""
        if self._closed:
            return
        self._closed = True
        self._reception.close()
        self._launcher.close()  # before their connections, so that they end because they are told to
        until = time.monotonic() + _LAST_WORDS
        for worker in self._workers.values():
            with suppress(OSError, EOFError):  # it is gone
                while worker.connection.poll(max(0.0, until - time.monotonic())):
                    worker.connection.recv_bytes()
            worker.connection.close()
        self._selector.close()
        self._bell.close()
        self._ringer.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    # -- workers -------------------------------------------------------------------------------------------------

    def _tend(self) -> float:
        """Launch workers, act on what is overdue; the time of the next look."""
        now = time.monotonic()
        if now >= self._count_at:
            self._room, self._count_at = max(1, self._launcher.room()), now + _COUNT_EVERY
        missing = self._room - len(self._starting) - len(self._workers)
        if now >= self._launch_at and missing > 0:
            workers = [next(self._ids) for _ in range(missing)]
            self._starting.update(workers)
            self._launcher.launch([self._reception.invite(worker) for worker in workers], self._hear)
        if now >= self._notice_at and not self._workers:
            self._notice_at = math.inf
            warnings.warn(f"no worker has started: {self._launcher.waited_for()}", UserWarning, stacklevel=3)
        if now >= self._watch_at:
            self._watch(now)
            self._watch_at = now + _WATCH_EVERY
        if self._timeout is not None or self._leaving:
            return self._watch_at
        return min(self._count_at, self._launch_at) if self._launch_at > now else self._count_at

    def _watch(self, now: float) -> None:
        for worker in list(self._workers.values()):
            attempt = worker.attempt
            if now >= worker.given_up_at:
                self._lose(worker.id, Loss("hung up"))
            elif attempt is not None and now >= attempt.deadline:
                if attempt.stopped is None:
                    attempt.stopped = self._overdue()
                    attempt.deadline = now + _LAST_WORDS
                else:
                    self._launcher.kill(worker.id)
                    attempt.deadline = math.inf

    def _overdue(self) -> str:
        return f"timeout: the trial took longer than {self._timeout:g} s"

    def _hear(self, worker: int, news: Connection | Loss) -> None:
        """Called in other threads: the driver's takes it up in `events`."""
        self._news.put((worker, news))
        with suppress(OSError):  # it rings already, or nobody listens any more
            self._ringer.send(b"!")

    def _take(self, id_: int, news: Connection | Loss) -> None:
        if isinstance(news, Loss):
            self._lose(id_, news)
        elif id_ in self._starting:
            self._starting.remove(id_)
            worker = self._workers[id_] = _Worker(news, id=id_)
            self._selector.register(news, selectors.EVENT_READ, worker)
        else:
            news.close()

    def _lose(self, id_: int, loss: Loss) -> None:
        """A worker is gone, and with it what is left of it: take what it still said, and end its attempt."""
        self._launcher.kill(id_)
        worker = self._workers.get(id_)
        if worker is None:
            if id_ in self._starting:
                self._starting.remove(id_)
                self._fail_start(loss)
            return
        with suppress(OSError, EOFError):
            while not worker.hung_up and worker.connection.poll():
                self._receive(worker)
        self._part_with(worker)
        del self._workers[id_]
        self._leaving -= worker.hung_up
        attempt = worker.attempt
        if attempt is not None:
            del self._busy[attempt.assignment.number]
            if time.monotonic() >= attempt.deadline and attempt.stopped is None:
                attempt.stopped = self._overdue()
            detail = last_output((attempt.log, attempt.log_begin)) or loss.detail
            reason = attempt.stopped or f"lost: the worker {loss.how}"
            self._ended.append(
                Ended(attempt.assignment.number, Outcome(TrialState.FAILED, reason=reason, detail=detail))
            )
            worker.attempt = None
        elif not worker.ready:
            self._fail_start(loss)

    def _part_with(self, worker: _Worker) -> None:
        """Listen to a worker no more, and give it no trial."""
        self._idle.pop(worker.id, None)
        if not worker.connection.closed:
            self._selector.unregister(worker.connection)
            worker.connection.close()

    def _fail_start(self, loss: Loss) -> None:
        """A worker was lost before it was ready: try again later, and let no trial wait when there is no other."""
        pause = min(_FIRST_PAUSE * 2**self._failed_starts, _LONGEST_PAUSE)
        self._failed_starts += 1
        self._launch_at = time.monotonic() + pause
        while self._waiting and not (self._workers or self._starting or loss.with_place):
            attempt = self._waiting.popleft()
            outcome = Outcome(TrialState.FAILED, reason=f"lost: the worker {loss.how}", detail=loss.detail)
            self._ended.append(Ended(attempt.assignment.number, outcome))

    # -- messages ------------------------------------------------------------------------------------------------

    def _receive(self, worker: _Worker) -> None:
        attempt, was_ready = worker.attempt, worker.ready
        try:
            ended = worker.receive()
        except (EOFError, OSError):
            worker.hung_up = True
            worker.given_up_at = time.monotonic() + _LAST_WORDS
            self._leaving += 1
            self._part_with(worker)
            return
        if ended is not None and attempt is not None:
            self._ended.append(ended)
            del self._busy[attempt.assignment.number]
            self._idle[worker.id] = worker
        if worker.ready and not was_ready:
            self._failed_starts = 0
            self._idle[worker.id] = worker
        self._begin_waiting()

    def _begin_waiting(self) -> None:
        while self._waiting and self._idle:
            attempt = self._waiting.popleft()
            _, worker = self._idle.popitem()
            self._busy[attempt.assignment.number] = worker
            worker.begin(attempt)
