"""A worker process: receives the task once, then runs one trial after another, in touch with the driver by a connection.

Messages to a worker: Attempts (before them, to a local one, a Setup); the answers to its calls are (done, value or
exception). Messages from it: "ready", "begun", an Outcome, a Call of the trial's link, or what the trial has Logged.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import io
import os
import platform
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from optuna.distributions import BaseDistribution

from tunesmith.errors import SettingError, UserFunctionError
from tunesmith.record import FILE
from tunesmith.record_file import plain
from tunesmith.runners import Outcome, Task, execute
from tunesmith.runners.pickling import dumps, loads
from tunesmith.trial import CONTINUE, Assignment, Decision, Link, LiveTrial, Report, TrialState

DUMP_SIGNAL = getattr(signal, "SIGQUIT", None)  # as in Java and Go: print the stack of every thread
OUTPUT = "output.log"  # of a trial, in its directory
_STDOUT, _STDERR = 1, 2
_HANG_UP = getattr(select, "POLLRDHUP", 0)  # where there is none, only the end of both directions is reported
_DECIDE_EVERY = 0.2  # seconds: a trial may ask at each step, and an answer costs the driver's attention


@dataclass(frozen=True)
class Setup:
    """What a local worker begins with: the pickled task's file, its slot, and which of its ranks this process is."""

    task: Path
    environment: Mapping[str, str]
    threads: int
    rank: int = 0
    ranks: int = 1

    def load(self) -> Task:
        """The task, in the environment of the slot."""
        os.environ.update(self.environment)
        return load_task(lambda: loads(self.task.read_bytes()))


@dataclass(frozen=True)
class Attempt:
    """A trial to run, the file for its output, and the seconds after which the worker ends itself with its stack."""

    assignment: Assignment
    log: Path
    limit: float | None = None


@dataclass(frozen=True)
class Call:
    """A call of a trial's link, to be made in the driver."""

    method: Literal["suggest", "report", "decide", "checkpoint", "annotate"]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Logged:
    """What a trial logs between its reports; there is no answer to it."""

    step: int
    metrics: Mapping[str, float]


class PipeLink:
    """A trial's line to the driver, in the worker. `shared`: what it saves can be read on every node."""

    def __init__(self, connection: Connection, *, shared: bool = True) -> None:
        self._connection = connection
        self._shared = shared
        self._lock = threading.Lock()
        self._asked = 0.0

    def suggest(self, name: str, distribution: BaseDistribution) -> Any:
        """Ask the driver for a value."""
        return self._call("suggest", name, distribution)

    def report(self, report: Report) -> Decision:
        """Have the driver record the report."""
        decision: Decision = self._call("report", report)
        self._asked = time.monotonic()
        return decision

    def decide(self) -> Decision:
        """Ask the driver, five times a second at most: "continue" holds that long."""
        if time.monotonic() - self._asked < _DECIDE_EVERY:
            return CONTINUE
        decision: Decision = self._call("decide")
        if decision.action == "continue":
            self._asked = time.monotonic()
        return decision

    def checkpoint(self, path: str, step: int) -> None:
        """Have the driver record a checkpoint; a relative path is one of this process."""
        if not self._shared:
            raise SettingError(
                f"a checkpoint must lie where every node can read it, got {path!r} on {platform.node()}, which does not "
                "see the study's directory; put it (directory=...) on storage that all nodes share, or pass a storage_url"
            )
        self._call("checkpoint", str(Path(path).absolute()), step)

    def annotate(self, key: str, value: Any) -> None:
        """Have the driver record an attribute. Raises SettingError here for what is no JSON: the driver may fail to unpickle it."""
        self._call("annotate", key, plain(value))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send it to the driver, and go on."""
        message = dumps(Logged(step, metrics))
        with self._lock:
            self._connection.send_bytes(message)

    def _call(self, method: Any, *arguments: Any) -> Any:
        message = dumps(Call(method, arguments))
        with self._lock:
            self._connection.send_bytes(message)
            done, value = loads(self._connection.recv_bytes())
        if not done:
            raise value
        return value


def serve(connection: Connection) -> None:
    """Be a local worker: get the setup, then run trials until the driver closes the connection."""
    prepare_process(connection)
    with contextlib.suppress(EOFError, ConnectionError):
        setup: Setup = loads(connection.recv_bytes())
        run_trials(connection, partial(run_alone, setup.load()), threads=setup.threads)


def run_trials(connection: Connection, run: Callable[[Assignment, Link], Outcome], *, threads: int) -> None:
    """Run the trials that the driver sends. Raises EOFError or ConnectionError when it is gone."""
    gc.collect()
    gc.freeze()  # what all trials share is not for the collector to look through after each
    connection.send_bytes(dumps("ready"))
    while True:
        attempt: Attempt = loads(connection.recv_bytes())
        redirect_output(attempt.log)
        limit_threads(threads)
        connection.send_bytes(dumps("begun"))
        # a directory of the same name, with which a trial may begin on a node of its own, holds no record
        place = attempt.assignment.directory
        reached = attempt.assignment.storage is not None or not place
        link = PipeLink(connection, shared=reached or (Path(place).parent / FILE).is_file())
        with _at_most(attempt.limit):
            message = _portable(run(attempt.assignment, link))
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send_bytes(message)
        del attempt, message, link
        free_memory()


def load_task(load: Callable[[], Task]) -> Task:
    """The task, or one that says so in every trial when it cannot be loaded here."""
    try:
        return load()
    except Exception as error:  # noqa: BLE001  loading runs the user's code
        reason = f"a task must be loadable in a worker process, got {type(error).__name__}: {error}"
        fatal = SettingError(f"{reason}; can the worker import the same modules as the script?")
        outcome = Outcome(TrialState.FAILED, reason=f"error: {reason}", detail=traceback.format_exc(), fatal=fatal)
        return lambda _: outcome


def run_alone(task: Task, assignment: Assignment, link: Link) -> Outcome:
    """Run a trial in this process."""
    try:
        return execute(task, LiveTrial(assignment, link), n_objectives=assignment.n_objectives)
    except BaseException as error:  # noqa: BLE001  sys.exit() in a trial ends the trial, not the worker
        reason = f"error: {type(error).__name__}: {error}".removesuffix(": ")
        return Outcome(TrialState.FAILED, reason=reason, detail=traceback.format_exc())


def _portable(outcome: Outcome) -> bytes:
    """The outcome pickled; an error that cannot be becomes one that can, with its text."""
    try:
        message = dumps(outcome)
        loads(message)
    except Exception:  # noqa: BLE001  the user's exceptions may hold anything
        fatal = None if outcome.fatal is None else UserFunctionError(str(outcome.fatal))
        return dumps(replace(outcome, fatal=fatal, metrics={k: float(v) for k, v in outcome.metrics.items()}))
    return message


def module_path() -> list[str]:
    """Where the driver looks for modules, by absolute paths."""
    return [str(Path(entry).absolute()) for entry in sys.path]


def see_modules(path: Sequence[str]) -> None:
    """Let this process import what the driver can, where it lies here too."""
    sys.path += [entry for entry in path if entry not in sys.path and Path(entry).exists()]


def prepare_process(connection: Connection) -> None:
    """Make this process a worker: its faults leave their stack, it draws its own random numbers, it dies with the driver."""
    threading.Thread(target=_die_with_driver, args=(connection.fileno(),), daemon=True).start()
    faulthandler.enable(_STDERR, all_threads=True)  # a segfault's stack is among the last lines of output
    if DUMP_SIGNAL is not None:
        faulthandler.register(DUMP_SIGNAL, _STDERR, all_threads=True)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()  # forked siblings would draw the same numbers


def redirect_output(log: Path) -> None:
    """Send what this process and its programs print to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        os.dup2(output.fileno(), _STDOUT)
        os.dup2(output.fileno(), _STDERR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")


@contextlib.contextmanager
def _at_most(seconds: float | None) -> Iterator[None]:
    """End this process, with the stack of every thread, when the time is over; also one that holds the interpreter."""
    if seconds is None:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True, file=_STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def limit_threads(threads: int) -> None:
    """Keep torch to so many threads."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def free_memory() -> None:
    """Free what the last trial has left, on GPUs too."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _die_with_driver(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, _HANG_UP)  # what arrives is the main thread's
    poll.poll()
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with the programs that a trial has started
    os._exit(1)
