"""The runners that execute trials: the protocol, and how one trial is executed wherever it runs."""

from __future__ import annotations

import errno
import math
import os
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from optuna.exceptions import TrialPruned

from tunesmith.errors import DiskFullError, RecordError, UserFunctionError
from tunesmith.restoring import restored
from tunesmith.storage import Storage, stores
from tunesmith.trial import Assignment, Link, LiveTrial, TrialState

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FAILED_WRITES = ("write failed", "unexpected pos", "iostream error")  # all that torch says of a full disk
_ROOM = 2**20  # bytes free below which a failed write is put down to a full disk

Task = Callable[[LiveTrial], "Outcome | float | Sequence[float]"]


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a trial ended.

    State RUNNING is never an outcome; PAUSED means that the trial is to go on at a later start. `fatal` is an error of
    the search itself (a bug in `hp_space`): it ends the search and is raised to the user.
    """

    state: TrialState
    values: tuple[float, ...] | None = None
    reason: str | None = None
    detail: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    checkpoint: str | None = None
    fatal: BaseException | None = None


@dataclass(frozen=True)
class Ended:
    """The attempt at trial `number` has ended."""

    number: int
    outcome: Outcome


class Runner(Protocol):
    """Runs trials: `slots` at a time. The driver's thread is the only caller.

    A runner is made with the task. Where the trial lives in another process, the runner forwards each call of its
    `Link` to the `link` given to `start`, in the driver's thread, from within `events`.
    """

    @property
    def slots(self) -> int:
        """How many trials may be under way now; it may change with the workers that are there."""

    def start(self, assignment: Assignment, link: Link) -> None:
        """Begin an attempt; at most `slots` are under way at once."""

    def events(self, timeout: float | None) -> Iterator[Ended]:
        """Serve the running trials until at least one has ended or `timeout` seconds have passed; yield those ended."""

    def stop(self, number: int, reason: str) -> None:
        """End an attempt by force; it becomes an `Ended` with state FAILED and this reason."""

    def close(self) -> None:
        """End everything that is still running and release the slots."""


def execute(task: Task, live: LiveTrial, *, n_objectives: int) -> Outcome:
    """Run the task on a live trial and say how it ended; only KeyboardInterrupt and SystemExit pass through."""
    try:
        with restored(live.environment):
            os.environ.update(live.environment)
            if live.storage is not None and live.resume_from is not None:
                Storage(live.storage).bring(Path(live.resume_from), live.directory.parent)
            result = task(live)
            if live.storage is not None and stores():  # older checkpoints go after the newest is recorded
                Storage(live.storage).clear(live.directory, live.directory.parent)
    except TrialPruned as pruned:
        decision = live.decide()
        if decision.action == "pause":
            return Outcome(TrialState.PAUSED, reason=decision.reason)
        return Outcome(TrialState.PRUNED, reason=decision.reason or f"pruned: {pruned}".removesuffix(": "))
    except UserFunctionError as error:
        return Outcome(TrialState.FAILED, reason=f"error: {error}", detail=traceback.format_exc(), fatal=error)
    except RecordError as error:  # nothing that follows could be recorded
        return Outcome(TrialState.FAILED, reason=_reason(error), detail=traceback.format_exc(), fatal=error)
    except Exception as error:  # noqa: BLE001  any failure of a trial is recorded, and the search goes on
        full = disk_full(error, live.directory)
        reason = _reason(error) if full is None else "interrupted: the disk is full"
        return Outcome(TrialState.FAILED, reason=reason, detail=traceback.format_exc(), fatal=full)
    return result if isinstance(result, Outcome) else checked(result, n_objectives)


def checked(result: Any, n_objectives: int) -> Outcome:
    """The outcome of an objective's return value: COMPLETE, or FAILED when it is not finite or not numbers."""
    try:
        values = tuple(float(v) for v in result) if isinstance(result, Sequence) else (float(result),)
    except (TypeError, ValueError):
        return Outcome(TrialState.FAILED, reason=f"error: the objective must return a number, got {result!r}")
    if len(values) != n_objectives:
        return Outcome(
            TrialState.FAILED,
            reason=f"error: the objective must return {n_objectives} value(s), got {len(values)}",
        )
    if not all(math.isfinite(v) for v in values):
        return Outcome(TrialState.FAILED, reason=f"nan: the objective is not finite ({', '.join(map(str, values))})")
    return Outcome(TrialState.COMPLETE, values)


def disk_full(error: BaseException | None, directory: Path) -> DiskFullError | None:
    """The error as one that ends the search, when a full disk is its cause: all trials to come would fail alike.

    To be asked before room is made again, for some errors tell of a full disk only by there being no room.
    """
    home = next(p for p in (directory, *directory.parents) if p.exists())
    free = shutil.disk_usage(home).free
    while error is not None:
        if isinstance(error, DiskFullError):
            return error
        text = str(error)
        failed = any(words in text for words in _FAILED_WRITES)
        if getattr(error, "errno", None) in _FULL or "No space left" in text or (failed and free < _ROOM):
            where = getattr(error, "filename", None) or directory
            return DiskFullError(
                errno.ENOSPC,
                f"{where} cannot be written: its disk has {free / 1e6:.1f} MB free ({text.splitlines()[0][:200]}). Free "
                'some, or bound the checkpoints by keep_checkpoints="best"; the same call continues the study',
            )
        error = error.__cause__ or error.__context__
    return None


def _reason(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
    # torch.OutOfMemoryError cannot be imported here; its name and its message are stable
    memory = isinstance(error, MemoryError) or "out of memory" in str(error).lower()
    return f"{'oom' if memory else 'error'}: {text}"
