"""What the ranks of a job say to one another.

Messages from rank 0: Begin, Answer, Cut, Settled, Lost, Leave. Messages to it: Done, Signalled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tunesmith.errors import TunesmithError
from tunesmith.runners import Outcome
from tunesmith.runners.collectives import Terms
from tunesmith.runners.pickling import dumps, loads
from tunesmith.trial import Assignment


@dataclass(frozen=True)
class Begin:
    """A trial to run."""

    assignment: Assignment


@dataclass(frozen=True)
class Answer:
    """What rank 0 was answered: a value, or an exception when not `done`. `skip` decisions are then not asked for."""

    call: tuple[str, Any]
    done: bool
    value: Any
    skip: int = 0


@dataclass(frozen=True)
class Cut:
    """Leave the trial."""

    reason: str


@dataclass(frozen=True)
class Settled:
    """The trial has ended on all ranks; with `terms`, the process group is made anew."""

    terms: Terms | None


@dataclass(frozen=True)
class Lost:
    """A rank is gone."""

    message: str


@dataclass(frozen=True)
class Leave:
    """The search has ended: with a value, or an exception when not `done`."""

    done: bool
    value: Any


@dataclass(frozen=True)
class Done:
    """How the trial ended on this rank; `agreed` if the others must have ended alike."""

    outcome: Outcome
    was_cut: bool
    agreed: bool
    terms: Terms | None


@dataclass(frozen=True)
class Signalled:
    """A follower has got a signal that is rank 0's to answer."""

    number: int


def called(call: tuple[str, Any]) -> str:
    """A call of a trial as the user has written it."""
    name, argument = call
    words = {"decide": "should_prune()", "return": "the end of the trial", "report": f"report(step={argument})"}
    return words.get(name, f"suggest({argument!r})")


def portable(error: BaseException) -> BaseException:
    """The exception if it can travel, else one with its text."""
    try:
        loads(dumps(error))
    except Exception:  # noqa: BLE001  an exception may hold anything
        return TunesmithError(f"{type(error).__name__}: {error}")
    return error
