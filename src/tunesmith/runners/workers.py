"""The workers runner: trials in worker processes, one per slot; a fault of one leaves the others and the driver alone."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Literal

from tunesmith.errors import SettingError
from tunesmith.runners import Ended, Outcome, Task
from tunesmith.runners.conversation import Conversation, Running, last_output
from tunesmith.runners.forkserver import ForkServer
from tunesmith.runners.pickling import dumps, dumps_task
from tunesmith.runners.slots import Slot, plan_slots
from tunesmith.runners.worker import DUMP_SIGNAL, Setup
from tunesmith.trial import Assignment, Link, TrialState

START_ALLOWANCE = 120.0  # seconds that a worker may take to load the task, on top of the first trial's timeout
_DUMP_TIME = 1.0  # seconds for a worker to write its stack, before it is killed


class WorkersRunner:
    """Runs trials in worker processes, one per slot, that live as long as the search.

    `task` is pickled once (functions and classes of `__main__` by value) and sent to each worker, which must not count
    on the driver's global state. `workers`, `threads_per_trial` and `gpus_per_trial` make the slots, see `plan_slots`;
    with `gpus_per_trial=2` a trial's process sees two devices. `trial_timeout` is in seconds per attempt. `preload`
    names modules that are loaded once for all workers, such as "torch"; `bare` objects in the task of which a worker
    gets an empty instance, without their state. Each trial's output is appended to `output.log` in its directory.

    An attempt whose process dies ends as FAILED, "lost: ..." with the exit code, one that takes too long or is stopped
    with its reason; the last lines of output, with the stack, are in `detail`. Its worker is replaced.

    Raises SettingError when the task cannot be pickled, naming the part, and when the slots cannot be.
    """

    def __init__(
        self,
        task: Task,
        *,
        workers: int | Literal["auto"] = "auto",
        threads_per_trial: int = 1,
        gpus_per_trial: float | None = None,
        trial_timeout: float | None = None,
        preload: Sequence[str] = (),
        bare: Sequence[object] = (),
    ) -> None:
        if not hasattr(os, "fork"):
            raise SettingError(f"worker processes need Linux or macOS, got {sys.platform}; search without workers")
        if trial_timeout is not None and not (math.isfinite(trial_timeout) and trial_timeout > 0):
            raise SettingError(f"trial_timeout must be above 0 seconds, got {trial_timeout!r}")
        slots = plan_slots(workers, threads_per_trial=threads_per_trial, gpus_per_trial=gpus_per_trial)
        pickled = dumps_task(task, bare=bare)
        self.slots = len(slots)
        self._timeout = trial_timeout
        self._preload = preload
        self._directory = Path(tempfile.mkdtemp(prefix="tunesmith-"))
        self._task = self._directory / "task.pickle"
        self._task.write_bytes(pickled)
        self._ids = itertools.count()
        self._ended: deque[Ended] = deque()
        self._closed = False
        self._server = self._start_server(slots)
        self._workers = [self._start_worker(slot) for slot in slots]

    # -- the runner's protocol -----------------------------------------------------------------------------------

    def start(self, assignment: Assignment, link: Link) -> None:
        """Begin an attempt in a free worker, one that is ready if there is one."""
        free = [i for i, worker in enumerate(self._workers) if worker.attempt is None]
        if not free:
            raise RuntimeError(f"at most {self.slots} trials run at once, and trial {assignment.number} is one more")
        index = next((i for i in free if self._workers[i].ready), free[0])
        if self._workers[index].gone:
            self._workers[index] = self._start_worker(self._workers[index].slot)
        place = Path(assignment.directory) if assignment.directory else self._directory / f"run-{assignment.number}"
        attempt = Running(assignment, link, place / "output.log", self._timeout)
        if self._timeout is not None:
            attempt.deadline = time.monotonic() + self._timeout + START_ALLOWANCE
        self._workers[index].begin(attempt)

    def events(self, timeout: float | None) -> Iterator[Ended]:
        """Serve the running trials until at least one has ended or `timeout` seconds have passed; yield those ended."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        while not self._ended and any(worker.attempt is not None for worker in self._workers):
            next_check = min(self._check_times(), until)
            left = None if next_check == math.inf else max(0.0, next_check - time.monotonic())
            open_ones = {w.connection: w for w in self._workers if not w.gone and not w.hung_up}
            ready = wait([*open_ones, self._server.fileno()], left)
            for source in ready:
                if isinstance(source, Connection):
                    self._receive(open_ones[source])
            if self._server.fileno() in ready:
                self._reap()
            if not ready and time.monotonic() >= until:
                break
        while self._ended:
            yield self._ended.popleft()

    def stop(self, number: int, reason: str) -> None:
        """End an attempt by force; it becomes an `Ended` with state FAILED and this reason."""
        for worker in self._workers:
            if worker.attempt is not None and worker.attempt.assignment.number == number:
                worker.attempt.stopped = worker.attempt.stopped or reason
                self._server.signal(worker.id, signal.SIGKILL)

    def close(self) -> None:
        """End all workers and remove what was temporary."""
        if self._closed:
            return
        self._closed = True
        self._server.close()
        for worker in self._workers:
            worker.connection.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    # -- processes -----------------------------------------------------------------------------------------------

    def _start_server(self, slots: Sequence[Slot]) -> ForkServer:
        # the threads are the same in all slots; the devices are set in each worker, before CUDA starts
        environment = {k: v for k, v in slots[0].environment.items() if k != "CUDA_VISIBLE_DEVICES"}
        environment["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # a preloaded module that asks for CUDA must not start it
        log = self._directory / "workers.log"
        return ForkServer(preload=self._preload, environment=environment, log=log, scratch=self._directory)

    def _start_worker(self, slot: Slot) -> _Worker:
        ours, theirs = multiprocessing.Pipe()
        worker = _Worker(ours, id=next(self._ids), slot=slot)
        with theirs, suppress(OSError):  # a server that has died is noticed, and replaced, in `events`
            self._server.fork(worker.id, theirs)
            ours.send_bytes(dumps(Setup(self._task, slot.environment, slot.threads)))
        return worker

    def _reap(self) -> None:
        exited = self._server.exited()
        if exited is None:
            self._server.close()
            self._server = self._start_server([worker.slot for worker in self._workers])
            for worker in self._workers:
                self._lose(worker, "died with the fork server")
            return
        for worker in self._workers:
            if worker.id == exited[0]:
                self._lose(worker, _said(exited[1]))

    def _lose(self, worker: _Worker, how: str) -> None:
        """The worker is gone: take what it still said, end its attempt, put another in its place."""
        with suppress(OSError, EOFError):
            while not worker.hung_up and worker.connection.poll():
                self._receive(worker)
        worker.connection.close()
        worker.gone = True
        attempt, was_ready = worker.attempt, worker.ready
        worker.ready = False
        if attempt is not None:
            reason = attempt.stopped or f"lost: the worker {how}"
            detail = last_output((attempt.log, attempt.log_begin), (self._directory / "workers.log", 0))
            ended = worker.end(Outcome(TrialState.FAILED, reason=reason, detail=detail))
            self._ended.extend([] if ended is None else [ended])
        if was_ready:  # one that never came to run is replaced when there is a trial for it, not in circles
            self._workers[self._workers.index(worker)] = self._start_worker(worker.slot)

    # -- messages ------------------------------------------------------------------------------------------------

    def _receive(self, worker: _Worker) -> None:
        try:
            ended = worker.receive()
        except (EOFError, OSError):
            worker.hung_up = True
            self._server.signal(worker.id, signal.SIGKILL)  # it is exiting, or of no use any more
            return
        if ended is not None:
            self._ended.append(ended)

    # -- time ----------------------------------------------------------------------------------------------------

    def _check_times(self) -> float:
        """Act on what is overdue; the time of the next look."""
        now, following = time.monotonic(), math.inf
        for worker in self._workers:
            attempt = worker.attempt
            if attempt is None:
                continue
            if now >= attempt.deadline and attempt.stopped is None:
                attempt.stopped = f"timeout: the trial took longer than {self._timeout:g} s"
                attempt.deadline = now + _DUMP_TIME
                if DUMP_SIGNAL is not None and worker.ready:
                    self._server.signal(worker.id, DUMP_SIGNAL)
            elif now >= attempt.deadline:
                self._server.signal(worker.id, signal.SIGKILL)
                attempt.deadline = math.inf
            following = min(following, attempt.deadline)
        return following


@dataclass(eq=False)
class _Worker(Conversation):
    """A worker process as the driver sees it."""

    id: int = field(kw_only=True)
    slot: Slot = field(kw_only=True)
    gone: bool = False


def _said(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (by somebody, or by the system for want of memory)" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"
