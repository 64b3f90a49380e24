"""The fork server: a process that has loaded the heavy modules once and forks the workers.

`multiprocessing` has one too; this one differs where a search needs it: `__main__` is never imported a second time, each
worker leads a process group that dies with it (data loaders included), all die with the driver, and the exit code of
each worker reaches the driver.

Requests are (worker, signal number): 0 asks for a new worker on the connection that comes along, and, for a rank, the
lines to the others. Answers are (worker, exit code), negative for a signal as in `subprocess`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from tunesmith.runners import worker, worker_ranks
from tunesmith.runners.slots import MOST_RANKS

_MESSAGE = struct.Struct("qq")
_PR_SET_PDEATHSIG = 1
_DRIVER_CHECK = 1.0  # seconds between looks at whether the driver is still there
_START = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[4]); from tunesmith.runners.forkserver import main; main()"
)
# the driver decides what they mean, also for its workers; Windows, which has no workers, lacks one
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class ForkServer:
    """The driver's end. The folder `scratch` is removed when the driver dies and cannot do it."""

    def __init__(self, *, preload: Sequence[str], environment: Mapping[str, str], log: Path, scratch: Path) -> None:
        self._control, theirs = socket.socketpair()
        with theirs, log.open("ab") as output:
            flags = [f"-W{option}" for option in sys.warnoptions]
            command = [
                sys.executable,
                *flags,
                "-c",
                _START,
                str(theirs.fileno()),
                json.dumps(list(preload)),
                str(scratch),
            ]
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until it handles them
            try:
                self._process = subprocess.Popen(  # noqa: S603  our own interpreter
                    [*command, json.dumps(sys.path)],
                    env={**os.environ, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def fileno(self) -> int:
        """For `select` and `multiprocessing.connection.wait`: readable when a worker has exited, or the server has."""
        return self._control.fileno()

    def fork(self, worker_id: int, connection: Connection, lines: Sequence[Connection] = ()) -> None:
        """Ask for a worker at the other end of `connection`, a rank with `lines` to others; raises OSError when the server is gone."""
        descriptors = [each.fileno() for each in (connection, *lines)]
        socket.send_fds(self._control, [_MESSAGE.pack(worker_id, 0)], descriptors)

    def signal(self, worker_id: int, number: int) -> None:
        """Signal a worker (SIGKILL: its whole process group); nothing when it is gone."""
        with contextlib.suppress(OSError):
            self._control.sendall(_MESSAGE.pack(worker_id, number))

    def exited(self) -> tuple[int, int] | None:
        """The next worker that has exited, and its exit code; None when the server itself is gone. Blocks."""
        try:
            message = self._control.recv(_MESSAGE.size, socket.MSG_WAITALL)
        except ConnectionError:
            return None
        if len(message) < _MESSAGE.size:
            return None
        worker_id, code = _MESSAGE.unpack(message)
        return worker_id, code

    def close(self) -> None:
        """End the server and all workers, and wait for it."""
        self.signal(-1, signal.SIGKILL)
        self._process.send_signal(signal.SIGHUP)  # while it loads its modules it hears nothing else
        self._control.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main() -> None:
    """Serve until the driver is gone."""
    control = socket.socket(fileno=int(sys.argv[1]))
    driver = os.getppid()
    for number in (signal.SIGCHLD, *_SIGNALS):
        signal.signal(number, _ignored)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # until it can hear the driver, this ends it
    gc.disable()  # modules load little garbage, and looking for it takes an eighth of the time
    for module in json.loads(sys.argv[2]):
        _preload(module)
    gc.freeze()  # what all workers share is not for their collectors to look through
    gc.enable()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGHUP, _ignored)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    workers: dict[int, int] = {}  # pid -> worker
    try:
        while os.getppid() == driver:
            ready, _, _ = select.select([control.fileno(), wake_read], [], [], _DRIVER_CHECK)
            if wake_read in ready:
                os.read(wake_read, 4096)
            _reap(workers, control)
            if control.fileno() in ready and not _serve(workers, control, [wake_read, wake_write]):
                return
    except ConnectionError:
        pass  # the driver is gone
    finally:
        for pid in workers:
            _kill(pid)
    shutil.rmtree(sys.argv[3], ignore_errors=True)


def _preload(module: str) -> None:
    try:
        importlib.import_module(module)
    except Exception:  # noqa: BLE001  a preload saves time, no more; what needs the module will say so
        traceback.print_exc()


def _ignored(_number: int, _frame: object) -> None:
    """Not SIG_IGN, which the programs that a trial starts would inherit."""


def _reap(workers: dict[int, int], control: socket.socket) -> None:
    for pid, worker_id in list(workers.items()):
        # the group is killed while the dead leader still holds its number
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            continue
        _kill(pid)
        _, status = os.waitpid(pid, 0)
        del workers[pid]
        control.sendall(_MESSAGE.pack(worker_id, os.waitstatus_to_exitcode(status)))


def _serve(workers: dict[int, int], control: socket.socket, wake: Sequence[int]) -> bool:
    """Do what the driver asks next; False when it asks to end."""
    message, descriptors, _, _ = socket.recv_fds(control, _MESSAGE.size, MOST_RANKS)
    if len(message) < _MESSAGE.size:
        raise ConnectionResetError("the driver has closed its end")
    worker_id, number = _MESSAGE.unpack(message)
    if worker_id < 0:
        return False
    if number != 0:
        pid = next((p for p, w in workers.items() if w == worker_id), None)
        if pid is not None and number == signal.SIGKILL:
            _kill(pid)
        elif pid is not None:
            os.kill(pid, number)
        return True
    server = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 and later: threads that a preloaded module has started
        try:
            pid = os.fork()
        except OSError:  # no memory, or too many processes: this worker is lost, the others go on
            traceback.print_exc()
            _close(descriptors)
            control.sendall(_MESSAGE.pack(worker_id, os.EX_OSERR))
            return True
    if pid == 0:
        _become_worker(descriptors, server, [control.detach(), *wake])
    _close(descriptors)
    workers[pid] = worker_id
    return True


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # a worker that was just forked leads no group yet
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _become_worker(descriptors: Sequence[int], server: int, unused: Sequence[int]) -> NoReturn:
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _close(unused)
        os.setsid()
        if sys.platform == "linux":  # the kernel ends the worker with the server, even one that holds the GIL for ever
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == server:
            connection = Connection(descriptors[0])
            lines = [Connection(each) for each in descriptors[1:]]
            if lines:
                worker_ranks.serve(connection, lines)
            else:
                worker.serve(connection)
            code = 0
    except BaseException:  # noqa: BLE001  the server's frames are below: nothing may return into them
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
