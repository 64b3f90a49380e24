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
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Literal

from tunesmith.errors import SettingError
from tunesmith.runners import Ended, Outcome, Task
from tunesmith.runners.conversation import Conversation, Running, last_output
from tunesmith.runners.forkserver import ForkServer
from tunesmith.runners.joining import Gate, knock
from tunesmith.runners.pickling import dumps, dumps_task
from tunesmith.runners.slots import Slot, plan_slots
from tunesmith.runners.worker import DUMP_SIGNAL, OUTPUT, Setup
from tunesmith.runners.worker_ranks import ReservedPort, environment
from tunesmith.trial import Assignment, Link, TrialState

START_ALLOWANCE = 120.0  # seconds that a worker may take to load the task, on top of the first trial's timeout
_SHORT_LIFE = 1.0  # seconds: a worker lent to another process that ends sooner is not replaced, in circles
_DUMP_TIME = 1.0  # seconds for a worker to write its stack, before it is killed
_DUMP_APART = 0.05  # seconds between the stacks of its ranks, which go to one file


class WorkersRunner:
    """Runs trials in worker processes, one per slot, that live as long as the search.

    `task` is pickled once (functions and classes of `__main__` by value) and sent to each worker, which must not count
    on the driver's global state. `workers`, `threads_per_trial`, `gpus_per_trial` and `ranks_per_trial` make the slots,
    see `plan_slots`; a worker of several ranks is as many processes, each of which runs its part of the trial with the
    environment that torchrun would give it. `trial_timeout` is in seconds per attempt. `preload` names modules that are
    loaded once for all workers, such as "torch"; `bare` objects in the task of which a worker gets an empty instance,
    without their state. Each trial's output is appended to `output.log` in its directory.

    An attempt of which a process dies ends as FAILED, "lost: ..." with the exit code, one that takes too long or is
    stopped with its reason; the last lines of output, with the stack, are in `detail`. Its worker is replaced.

    Raises SettingError when the task cannot be pickled, naming the part, and when the slots cannot be.
    """

    def __init__(
        self,
        task: Task,
        *,
        workers: int | Literal["auto"] = "auto",
        threads_per_trial: int = 1,
        gpus_per_trial: float | None = None,
        ranks_per_trial: int = 1,
        trial_timeout: float | None = None,
        preload: Sequence[str] = (),
        bare: Sequence[object] = (),
    ) -> None:
        if not hasattr(os, "fork"):
            raise SettingError(f"worker processes need Linux or macOS, got {sys.platform}; search without workers")
        if trial_timeout is not None and not (math.isfinite(trial_timeout) and trial_timeout > 0):
            raise SettingError(f"trial_timeout must be above 0 seconds, got {trial_timeout!r}")
        slots = plan_slots(
            workers,
            threads_per_trial=threads_per_trial,
            gpus_per_trial=gpus_per_trial,
            ranks_per_trial=ranks_per_trial,
        )
        self.slots = len(slots)
        self.ranks = ranks_per_trial
        self._timeout = trial_timeout
        self._preload = preload
        self._directory = Path(tempfile.mkdtemp(prefix="tunesmith-"))
        self._task = self._directory / "task.pickle"
        self._ids = itertools.count(1)
        self._ended: deque[Ended] = deque()
        self._gate: Gate | None = None
        self._closed = False
        self._slots = slots
        self._workers: list[_Worker] = []
        self._server = self._start_server()
        try:
            self._task.write_bytes(dumps_task(task, bare=bare))  # while the server loads its modules
            self._workers += [self._start_worker(slot) for slot in slots]
        except BaseException:
            self.close()
            raise

    # -- workers of other processes ------------------------------------------------------------------------------

    def open_gate(self, directory: Path) -> None:
        """Take in workers of other processes, which find the way in the study's directory; `slots` grows with them."""
        self._gate = Gate(directory, self._directory)

    def lend(self, directory: Path) -> bool:
        """Lend the workers to the process that drives the study in `directory`, until it ends; False if it takes none.

        They are this runner's again afterwards.
        """
        for worker in self._workers:
            self._kill(worker)
            worker.close()
            worker.ready = False
        lent: dict[int, tuple[Slot, float]] = {}
        waiting, ever = list(self._slots), False
        while True:
            lent.update((i, (slot, time.monotonic())) for slot in waiting if (i := self._lend_one(directory, slot)))
            ever = ever or bool(lent)
            if not lent:
                return ever
            exited, waiting = self._server.exited(), []
            if exited is None:
                self._server.close()
                self._server = self._start_server()
                waiting, lent = [slot for slot, _ in lent.values()], {}
            elif exited[0] in lent:
                slot, since = lent.pop(exited[0])
                waiting = [slot] if time.monotonic() - since > _SHORT_LIFE else []

    def _lend_one(self, directory: Path, slot: Slot) -> int | None:
        connection = knock(directory, dumps(Setup(self._task, slot.environment, slot.threads)))
        if connection is None:
            return None
        worker_id = next(self._ids)
        with connection, suppress(OSError):  # a server that has died is noticed by who waits for it
            self._server.fork(worker_id, connection)
        return worker_id

    def _admit(self, gate: Gate) -> None:
        connection, setup = gate.arrived()
        worker = _Worker(connection)
        with suppress(OSError):
            connection.send_bytes(setup)
        self._workers.append(worker)
        self.slots += 1

    # -- the runner's protocol -----------------------------------------------------------------------------------

    def start(self, assignment: Assignment, link: Link) -> None:
        """Begin an attempt in a free worker, one that is ready if there is one."""
        if all(worker.attempt is None for worker in self._workers):  # who has died meanwhile, nobody has noticed
            while wait([self._server.fileno()], 0):
                self._reap()
        free = [i for i, worker in enumerate(self._workers) if worker.attempt is None]
        if not free:
            raise RuntimeError(f"at most {self.slots} trials run at once, and trial {assignment.number} is one more")
        index = next((i for i in free if self._workers[i].ready), free[0])
        if self._workers[index].gone:
            self._workers[index] = self._start_worker(self._workers[index].slot or self._slots[0])
        place = Path(assignment.directory) if assignment.directory else self._directory / f"run-{assignment.number}"
        attempt = Running(assignment, link, place / OUTPUT, self._timeout)
        if self._timeout is not None:
            attempt.deadline = time.monotonic() + self._timeout + START_ALLOWANCE
            if self._workers[index].slot is None:  # of another process: it writes its stack itself
                attempt.limit = self._timeout + _DUMP_TIME / 2
        self._workers[index].begin(attempt)

    def events(self, timeout: float | None) -> Iterator[Ended]:
        """Serve the running trials until at least one has ended or `timeout` seconds have passed; yield those ended."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        while not self._ended and any(worker.attempt is not None for worker in self._workers):
            next_check = min(self._check_times(), until)
            left = None if next_check == math.inf else max(0.0, next_check - time.monotonic())
            open_ones = {w.connection: w for w in self._workers if not w.gone and not w.hung_up}
            server, gate = self._server.fileno(), None if self._gate is None else self._gate.fileno()
            ready = wait([*open_ones, server, *([] if gate is None else [gate])], left)
            for source in ready:
                if isinstance(source, Connection):
                    self._receive(open_ones[source])
            if server in ready:
                self._reap()
            if self._gate is not None and gate in ready:
                self._admit(self._gate)
                break  # there is a slot to fill
            if not ready and time.monotonic() >= until:
                break
        while self._ended:
            yield self._ended.popleft()

    def stop(self, number: int, reason: str) -> None:
        """End an attempt by force; it becomes an `Ended` with state FAILED and this reason."""
        for worker in self._workers:
            if worker.attempt is not None and worker.attempt.assignment.number == number:
                worker.attempt.stopped = worker.attempt.stopped or reason
                self._kill(worker)
                break

    def close(self) -> None:
        """End all workers and remove what was temporary."""
        if self._closed:
            return
        self._closed = True
        if self._gate is not None:
            self._gate.close()
        self._server.close()
        for worker in self._workers:
            worker.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    # -- processes -----------------------------------------------------------------------------------------------

    def _start_server(self) -> ForkServer:
        # the threads are the same in all slots; the devices are set in each worker, before CUDA starts
        environment = dict(Slot(threads=self._slots[0].threads).environment)
        environment["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # a preloaded module that asks for CUDA must not start it
        log = self._directory / "workers.log"
        return ForkServer(preload=self._preload, environment=environment, log=log, scratch=self._directory)

    def _start_worker(self, slot: Slot) -> _Worker:
        pipes = [multiprocessing.Pipe() for _ in range(slot.ranks)]
        lines = [multiprocessing.Pipe() for _ in range(slot.ranks - 1)]  # from rank 0 to each of the others
        port = ReservedPort() if lines else None
        (ours, _), *others = pipes
        ids = [next(self._ids) for _ in pipes]
        worker = _Worker(ours, slot, ids, [end for end, _ in others], port)
        ends = [[end for end, _ in lines], *([end] for _, end in lines)]
        for rank, (end, theirs) in enumerate(pipes):
            place = {} if port is None else environment(rank, slot.ranks, port.number)
            setup = Setup(self._task, {**slot.environment, **place}, slot.threads, rank, slot.ranks)
            with theirs, suppress(OSError):  # a server that has died is noticed, and replaced, in `events`
                self._server.fork(worker.ids[rank], theirs, ends[rank])
                end.send_bytes(dumps(setup))
        for end in itertools.chain(*lines):
            end.close()
        return worker

    def _reap(self) -> None:
        exited = self._server.exited()
        if exited is None:
            self._server.close()
            self._server = self._start_server()
            for worker in [w for w in self._workers if w.slot is not None]:
                self._lose(worker, "the worker died with the fork server")
            return
        id_, code = exited
        for worker in [w for w in self._workers if id_ in w.left]:
            worker.loss = worker.loss or f"{worker.named(id_)} {_said(code)}"
            worker.left.remove(id_)
            if worker.left:
                self._kill(worker)
            else:
                self._lose(worker, worker.loss)

    def _kill(self, worker: _Worker) -> None:
        """End a worker's processes; one of another process ends itself when its connection does."""
        if worker.slot is None:
            self._lose(worker, "the worker was ended")
        for id_ in worker.left:
            self._server.signal(id_, signal.SIGKILL)

    def _lose(self, worker: _Worker, what: str) -> None:
        """The worker is gone: take what it still said, end its attempt, put another in its place."""
        with suppress(OSError, EOFError):
            while not worker.hung_up and worker.connection.poll():
                self._receive(worker)
        worker.close()
        attempt, was_ready = worker.attempt, worker.ready
        worker.ready = False
        if attempt is not None:
            reason = attempt.stopped or f"lost: {what}"
            places = (attempt.log, attempt.log_begin), (self._directory / "workers.log", 0)
            detail = last_output(*places, writers=max(1, len(worker.ids)))
            ended = worker.end(Outcome(TrialState.FAILED, reason=reason, detail=detail))
            self._ended.extend([] if ended is None else [ended])
        if worker.slot is None:
            self._workers.remove(worker)
            self.slots -= 1
        elif was_ready:  # one that never came to run is replaced when there is a trial for it, not in circles
            self._workers[self._workers.index(worker)] = self._start_worker(worker.slot)

    # -- messages ------------------------------------------------------------------------------------------------

    def _receive(self, worker: _Worker) -> None:
        try:
            ended = worker.receive()
        except (EOFError, OSError):
            worker.hung_up = True  # it is exiting, or of no use any more
            if worker.slot is None:
                self._lose(worker, "the worker of another process has gone")
            else:
                self._kill(worker)
            return
        if ended is not None:
            self._ended.append(ended)

    # -- time ----------------------------------------------------------------------------------------------------

    def _check_times(self) -> float:
        """Act on what is overdue; the time of the next look."""
        now, following = time.monotonic(), math.inf
        for worker in list(self._workers):
            attempt = worker.attempt
            if attempt is None:
                continue
            if now >= attempt.deadline and attempt.stopped is None:
                attempt.stopped = f"timeout: the trial took longer than {self._timeout:g} s"
                attempt.deadline = now + _DUMP_TIME
                if DUMP_SIGNAL is not None and worker.ready:
                    for index, id_ in enumerate(worker.left):
                        time.sleep(_DUMP_APART if index else 0)
                        self._server.signal(id_, DUMP_SIGNAL)
            elif now >= attempt.deadline:
                attempt.deadline = math.inf
                self._kill(worker)
            following = min(following, attempt.deadline)
        return following


class _Worker(Conversation):
    """A worker as the driver sees it; without a slot here, one that another process has lent.

    `ids` are those of its processes, by their ranks, of which the ones `left` have not exited; `loss` says how the
    first has. `others` are connections to the ranks but the first, which end with this process; torch may use the `port`.
    """

    def __init__(
        self,
        connection: Connection,
        slot: Slot | None = None,
        ids: Sequence[int] = (),
        others: Sequence[Connection] = (),
        port: ReservedPort | None = None,
    ) -> None:
        super().__init__(connection)
        self.slot = slot
        self.ids = ids
        self.left = [*ids]
        self.loss: str | None = None
        self.gone = False
        self._others = others
        self._port = port

    def named(self, id_: int) -> str:
        """A process of this worker, for users."""
        return "the worker" if len(self.ids) == 1 else f"rank {self.ids.index(id_)} of {len(self.ids)}"

    def close(self) -> None:
        """Close what it had here."""
        self.gone = True
        for connection in (self.connection, *self._others):
            connection.close()
        if self._port is not None:
            self._port.close()


def _said(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (by somebody, or by the system for want of memory)" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"
