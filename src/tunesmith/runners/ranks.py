"""The ranks runner: a trial on all ranks of a distributed job. Rank 0 drives; the others do as it does, step by step.

What a trial asks for is asked by rank 0 alone and its answers go to all, so that the same call on every rank gives the
same: parameters, decisions, and errors too. No exception crosses a collective alone: a rank that has failed says so on
the line between the ranks, the others are cut off wherever they are, all leave the broken process group, meet, and
make it anew for the next trial.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution

from tunesmith.errors import RankLostError, SettingError
from tunesmith.runners import Ended, Outcome, Runner, Task
from tunesmith.runners.collectives import Collective, join
from tunesmith.runners.follower import follow
from tunesmith.runners.group import Group, Peer
from tunesmith.runners.part import LAST_WORDS, CutOff, Part, closing, end_process, later, say
from tunesmith.runners.rank_messages import Answer, Begin, Cut, Done, Leave, Lost, Settled, Signalled, portable
from tunesmith.trial import CONTINUE, Assignment, Decision, Link, LiveTrial, Report, TrialState

T = TypeVar("T")

_DECIDE_EVERY = 0.2  # seconds: a trial may ask at each step
_MOST_SKIPPED = 15  # so many steps at most go by without asking, whatever the pace was
_GRACE = 0.2  # seconds for others to fail in the same way by themselves, before they are cut off
_ALONE_LIMIT = 5.0  # seconds for others to be pruned too, when it was the trial's own idea
_LATE = 5.0  # seconds after the timeout of a trial that asks for nothing, until it is cut off
_FORWARD_AFTER = 1.0  # seconds for rank 0 to get a signal itself


@dataclass(frozen=True)
class Ranks:
    """All ranks of a job, met for a search."""

    group: Group
    collective: Collective

    @classmethod
    def here(cls) -> Ranks | None:
        """The ranks that this process is one of, None when it is on its own. Raises RankLostError when some do not come."""
        joined = join()
        return None if joined is None else cls(*joined)

    def run(self, task: Task, search: Callable[[Runner], T], *, trial_timeout: float | None) -> T:
        """Run `search` on rank 0 with a runner for all ranks; all return what it returns, or raise what it raises."""
        if self.group.rank > 0:
            found: T = follow(self.group, self.collective, task)
            return found
        try:
            value = search(RanksRunner(self.group, self.collective, task, trial_timeout=trial_timeout))
        except RankLostError:
            self.group.close()
            raise
        except BaseException as error:
            self.group.leave(Leave(done=False, value=portable(error)))
            raise
        self.group.leave(Leave(done=True, value=value))
        return value


class RanksRunner:
    """Runs one trial at a time on all ranks; made on rank 0, while the others `follow`.

    `trial_timeout` is in seconds per attempt. A rank that dies ends the trial as FAILED, "lost: ...", and the search with
    RankLostError; this process is ended `patience` seconds later if it has not left by then.
    """

    slots = 1

    def __init__(
        self,
        group: Group,
        collective: Collective,
        task: Task,
        *,
        trial_timeout: float | None = None,
        patience: float = LAST_WORDS,
    ) -> None:
        if trial_timeout is not None and not (math.isfinite(trial_timeout) and trial_timeout > 0):
            raise SettingError(f"trial_timeout must be above 0 seconds, got {trial_timeout!r}")
        self._group = group
        self._collective = collective
        self._task = task
        self._timeout = trial_timeout
        self._patience = patience
        self._trial: _LeadTrial | None = None
        self._lost: RankLostError | None = None
        self._forwarded: set[int] = set()
        self._closed = False
        group.listen(self._on_message, self._on_loss)

    def start(self, assignment: Assignment, link: Link) -> None:
        """Send the trial to all ranks; this one runs its part at the next call of `events`."""
        if self._lost is not None:
            raise self._lost
        self._trial = _LeadTrial(self._group, self._collective, assignment, link, self._timeout)
        self._group.send(Begin(assignment))

    def events(self, timeout: float | None) -> Iterator[Ended]:  # noqa: ARG002  a trial in this thread cannot be cut off
        """Run this rank's part of the trial that was started, and wait for the others."""
        trial = self._trial
        if trial is None:
            return
        outcome = trial.run(self._task)
        self._trial = None
        yield Ended(trial.assignment.number, outcome)
        if self._lost is not None:
            raise self._lost

    def stop(self, number: int, reason: str) -> None:
        """Nothing to stop: between two calls of `events` no trial is running."""

    def close(self) -> None:
        """End what is still running on the other ranks."""
        self._closed = True
        if self._trial is not None and self._lost is None:
            self._group.send(Cut("interrupted"))
        self._trial = None

    # -- called by the reader's thread -----------------------------------------------------------------------------

    def _on_message(self, peer: Peer, message: Done | Signalled) -> None:
        if isinstance(message, Done):
            if self._trial is not None:
                self._trial.note(peer.rank, message)
        elif message.number not in self._forwarded:
            self._forwarded.add(message.number)
            later(_FORWARD_AFTER, self._forward, message.number)

    def _forward(self, number: int) -> None:
        if not self._closed:
            # as SIGTERM, for SIGINT twice means: leave everything as it is
            os.kill(os.getpid(), signal.SIGTERM if number == signal.SIGINT else number)

    def _on_loss(self, peer: Peer) -> None:
        message = peer.gone
        self._lost = RankLostError(f"{message}; start the job again to go on (torchrun --max-restarts does so itself)")
        self._group.send(Lost(message))
        say(message)
        later(self._patience, end_process, message)
        self._collective.forget()
        if self._trial is not None:
            self._trial.lose(peer, message)


class _LeadTrial:
    """One attempt at a trial, as rank 0 sees it: its own part, and how all parts end."""

    def __init__(
        self, group: Group, collective: Collective, assignment: Assignment, link: Link, timeout: float | None
    ) -> None:
        self.assignment = assignment
        self._group = group
        self._collective = collective
        self._part = Part(collective)
        self._link = _LeadLink(group, self._part, link, timeout)
        self._timeout = timeout
        self._ends: list[tuple[int, Done]] = []  # in the order in which they came in
        self._lost: str | None = None
        self._cut: str | None = None
        self._changed = threading.Condition()
        self._timers: list[threading.Timer] = []

    def run(self, task: Task) -> Outcome:
        """Run this rank's part, wait for the others', and make the process group anew if one has failed."""
        try:
            return self._run(task)
        finally:
            for timer in self._timers:
                timer.cancel()

    def _run(self, task: Task) -> Outcome:
        self._collective.note()
        if self._timeout is not None:
            self._cut_later(self._timeout + _LATE, _overdue(self._timeout))
        live = LiveTrial(self.assignment, self._link)
        outcome = self._part.run(closing(task, self._link.close), live, n_objectives=self.assignment.n_objectives)
        self._collective.note()
        if outcome.state is TrialState.COMPLETE:  # who still asks is out of step; after a failure it is cut off
            self._group.send(Answer(("return", None), done=True, value=None))
        self.note(0, Done(outcome, self._part.was_cut, self._link.agreed, self._collective.terms))
        self._wait()
        if self._lost is not None:
            return Outcome(TrialState.FAILED, reason=f"lost: {self._lost}", detail=outcome.detail)
        ends = [end for _, end in self._ends]
        broken = any(end.outcome.state is TrialState.FAILED for end in ends)
        terms = next((end.terms for end in ends if end.terms is not None), None) if broken else None
        self._group.send(Settled(terms))
        if terms is not None:
            self._collective.renew(terms)
        return _settled(self._ends, self._group.size, self._cut)

    def note(self, rank: int, end: Done) -> None:
        """A rank's part has ended: the others may have to be cut off."""
        with self._changed:
            # what ends after the cut ends because of it, whatever it says
            self._ends.append((rank, end if self._cut is None else replace(end, was_cut=True)))
            self._changed.notify_all()
        if end.outcome.state is TrialState.FAILED:
            self._cut_later(_GRACE, f"error: rank {rank} has failed: {end.outcome.reason}")
        elif end.outcome.state is not TrialState.COMPLETE and not end.agreed:
            reason = (
                f"error: rank {rank} was pruned, and others were not within {_ALONE_LIMIT:g} s; "
                "all ranks must raise TrialPruned at the same step"
            )
            self._cut_later(_ALONE_LIMIT, reason)

    def lose(self, peer: Peer, message: str) -> None:
        """A rank is gone: this one leaves the trial to record that."""
        with self._changed:
            self._lost = message
            self._changed.notify_all()
        self._part.cut(f"lost: {peer} is gone", limit=math.inf)

    def _wait(self) -> None:
        """Until the trial has ended on all ranks."""
        left = False
        while True:
            with self._changed:
                if self._lost is not None or len(self._ends) == self._group.size:
                    return
                if self._cut is None or left:
                    self._changed.wait(1.0)  # wakes for signals
                    continue
            self._collective.leave()  # frees those who wait for this rank in a collective
            left = True

    def _cut_later(self, seconds: float, reason: str) -> None:
        self._timers.append(later(seconds, self._cut_all, reason))

    def _cut_all(self, reason: str) -> None:
        with self._changed:
            if self._cut is not None or self._lost is not None or len(self._ends) == self._group.size:
                return
            self._cut = reason
            self._changed.notify_all()
        self._group.send(Cut(reason))
        self._part.cut(reason)


class _LeadLink:
    """Rank 0's line to the driver: what it answers goes to all ranks."""

    def __init__(self, group: Group, part: Part, driver: Link, timeout: float | None) -> None:
        self.agreed = False
        self._group = group
        self._part = part
        self._driver = driver
        self._timeout = timeout
        self._began = self._asked = time.monotonic()
        self._skip = self._skipped = 0
        self._over = False

    def suggest(self, name: str, distribution: BaseDistribution) -> Any:
        return self._answer(("suggest", name), lambda: self._driver.suggest(name, distribution))

    def report(self, report: Report) -> Decision:
        return self._decision(("report", report.step), lambda: self._driver.report(report))

    def decide(self) -> Decision:
        if self._over:
            return CONTINUE
        if self._skip > 0:
            self._skip -= 1
            return CONTINUE
        self._pace()
        return self._decision(("decide", None), self._driver.decide)

    def checkpoint(self, path: str, step: int) -> None:
        with self._part.shield():
            self._driver.checkpoint(path, step)

    def annotate(self, key: str, value: Any) -> None:
        with self._part.shield():
            self._driver.annotate(key, value)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        with self._part.shield():
            self._driver.log(step, metrics)

    def close(self) -> None:
        """What is asked after the task has returned is not asked on all ranks."""
        self._over = True

    def _decision(self, call: tuple[str, Any], ask: Callable[[], Decision]) -> Decision:
        decision = self._answer(call, ask)
        self.agreed = self.agreed or decision.action != "continue"
        return decision

    def _answer(self, call: tuple[str, Any], ask: Callable[[], T]) -> T:
        self._part.check()
        try:
            self._check_time()
            with self._part.shield():
                value = ask()
        except (Exception, CutOff) as error:
            self._group.send(Answer(call, done=False, value=portable(error)))
            raise
        self._group.send(Answer(call, done=True, value=value, skip=self._skip))
        return value

    def _check_time(self) -> None:
        if self._timeout is not None and time.monotonic() - self._began > self._timeout:
            raise CutOff(_overdue(self._timeout))

    def _pace(self) -> None:
        """How many decisions are not asked for next: as many as the trial asks for in a fifth of a second."""
        now = time.monotonic()
        each = (now - self._asked) / (self._skipped + 1)
        self._asked = now
        wanted = _MOST_SKIPPED if each <= 0 else int(_DECIDE_EVERY / each)
        self._skip = self._skipped = min(wanted, 2 * self._skipped + 1, _MOST_SKIPPED)


def _settled(ends: Sequence[tuple[int, Done]], size: int, cut: str | None) -> Outcome:
    """The outcome of a trial from its parts: rank 0's, unless a rank has failed by itself; then that of the first."""
    own = next(end.outcome for rank, end in ends if rank == 0)
    fatal = next((end.outcome for _, end in ends if end.outcome.fatal is not None), None)
    if fatal is not None:
        return fatal
    failed = [(rank, end.outcome) for rank, end in ends if end.outcome.state is TrialState.FAILED and not end.was_cut]
    if not failed and cut is not None:
        return Outcome(TrialState.FAILED, reason=cut, detail=own.detail)
    if not failed or (len(failed) == size and len({outcome.reason for _, outcome in failed}) == 1):
        return own
    rank, outcome = failed[0]
    return replace(outcome, reason=f"{outcome.reason} (on rank {rank} of {size})")


def _overdue(timeout: float) -> str:
    return f"timeout: the trial took longer than {timeout:g} s"
