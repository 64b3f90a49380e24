"""The part of one rank in a trial: it runs to its end, or is cut off when another rank has failed or time is over."""

from __future__ import annotations

import faulthandler
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import psutil

from tunesmith.runners import Outcome, Task, execute
from tunesmith.runners.collectives import Collective
from tunesmith.trial import LiveTrial, TrialState

CUT_SIGNAL = getattr(signal, "SIGURG", None)  # ignored by default, so that a late one does no harm
LAST_WORDS = 5.0  # seconds to record what is known, once a rank is lost
LEAVING_LIMIT = 60.0  # seconds that a cut trial may take to leave code that no signal interrupts and that is at work
IDLE_LIMIT = 10.0  # seconds, if it does nothing meanwhile: it is stuck
_TICK = 0.5  # seconds between two looks at whether a cut trial has left
_AT_WORK = 0.02  # share of a CPU from which a process does something


class CutOff(BaseException):
    """A rank must leave its trial, now. No Exception, for `except Exception` in a trial must not stop it."""


class Part:
    """One attempt at a trial on this rank. `was_cut`: it ended because it was told to, not by itself."""

    def __init__(self, collective: Collective) -> None:
        self.was_cut = False
        self.reason: str | None = None
        self._collective = collective
        self._inside = self._shielded = False
        self._thread = 0
        self._over = threading.Event()
        self._cutting = threading.Lock()

    def run(self, task: Task, live: LiveTrial, *, n_objectives: int) -> Outcome:
        """Run the task; only KeyboardInterrupt passes through."""
        try:
            try:
                with self._interruptible():
                    return execute(task, live, n_objectives=n_objectives)
            except CutOff as cut:
                self.was_cut = True
                return Outcome(TrialState.FAILED, reason=str(cut), detail=traceback.format_exc())
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  sys.exit() in a trial ends the trial, on all ranks
                reason = f"error: {type(error).__name__}: {error}".removesuffix(": ")
                return Outcome(TrialState.FAILED, reason=reason, detail=traceback.format_exc())
        finally:
            self._over.set()

    def cut(self, reason: str, *, limit: float = LEAVING_LIMIT) -> None:
        """Make this rank leave the trial, from any other thread; nothing when it has left.

        It is freed from its collective, and interrupted wherever Python code runs or waits. A process that has not
        left after `limit` seconds, or that is stuck, is ended: the other ranks must not wait for it for ever. With
        `limit` inf it is left to others to end it.
        """
        with self._cutting:
            if self._over.is_set() or self.reason is not None:
                return
            self.reason = reason
        threading.Thread(target=self._make_leave, args=(reason, limit), daemon=True).start()

    def check(self) -> None:
        """Leave the trial if it has been cut off."""
        if self.reason is not None:
            raise CutOff(self.reason)

    @contextmanager
    def shield(self) -> Iterator[None]:
        """What must not be interrupted half-way: the driver's bookkeeping."""
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False
        self.check()

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        if CUT_SIGNAL is None or threading.current_thread() is not threading.main_thread():
            yield  # it leaves at its next collective, or when it next asks for something
            return
        self._thread = threading.get_ident()
        before = signal.signal(CUT_SIGNAL, self._on_signal)
        try:
            self._inside = True
            self.check()
            yield
        finally:
            self._inside = False
            signal.signal(CUT_SIGNAL, before)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._inside and not self._shielded and not self._over.is_set():
            self.check()

    def _make_leave(self, reason: str, limit: float) -> None:
        began = idle_since = time.monotonic()
        self._collective.abort()
        cpu, others = time.process_time(), _cpu_of_children()
        while True:
            if CUT_SIGNAL is not None and self._inside:
                signal.pthread_kill(self._thread, CUT_SIGNAL)  # wakes it from whatever it waits for
            if self._over.wait(_TICK):
                return
            now, cpu_before, cpu = time.monotonic(), cpu, time.process_time()
            if cpu - cpu_before > _AT_WORK * _TICK or self._may_wait():
                idle_since = now
            if now - began > limit:
                end_process(_late(limit, reason))
            if limit < math.inf and now - idle_since > IDLE_LIMIT:
                others_before, others = others, _cpu_of_children()
                if others <= others_before:
                    end_process(_late(IDLE_LIMIT, reason))
                idle_since = now

    def _may_wait(self) -> bool:
        """Whether it may be at work without using a CPU: the driver's bookkeeping, what no signal reaches, a slow disk."""
        return self._shielded or not self._inside or psutil.Process().status() == psutil.STATUS_DISK_SLEEP


def _late(limit: float, reason: str) -> str:
    return f"a trial must be left within {limit:g} s of its end on another rank ({reason})"


def _cpu_of_children() -> float:
    """The CPU seconds of the programs that this process has started and that still run."""
    used = 0.0
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            used += sum(child.cpu_times()[:2])
    return used


def end_process(message: str) -> None:
    """End this process at once, with a message and the stack of every thread."""
    say(f"{message}; this rank is ended. Start again to go on")
    faulthandler.dump_traceback()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def closing(task: Task, close: Callable[[], None]) -> Task:
    """The task, with `close` called when it has returned or raised: what is asked later is not asked on all ranks."""

    def closed(trial: LiveTrial) -> Any:
        try:
            return task(trial)
        finally:
            close()

    return closed


def later(seconds: float, action: Callable[..., None], *arguments: Any) -> threading.Timer:
    """Call `action` after some time, in a thread of its own; it can be cancelled."""
    timer = threading.Timer(seconds, action, arguments)
    timer.daemon = True
    timer.start()
    return timer


def say(message: str) -> None:
    """Tell the user on this rank's error stream, which launchers show."""
    print(f"tunesmith: {message}", file=sys.stderr, flush=True)  # noqa: T201
