"""A rank other than rank 0: it runs its part of each trial, with the answers that rank 0 has got."""

from __future__ import annotations

import math
import queue
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from optuna.distributions import BaseDistribution

from tunesmith.errors import RankLostError, UserFunctionError
from tunesmith.runners import Outcome, Task
from tunesmith.runners.collectives import Collective
from tunesmith.runners.group import Group, Peer
from tunesmith.runners.part import LAST_WORDS, Part, closing, end_process, later, say
from tunesmith.runners.rank_messages import Answer, Begin, Cut, Done, Leave, Lost, Settled, Signalled, called
from tunesmith.trial import CONTINUE, Assignment, Decision, LiveTrial, Report, TrialState


def follow(group: Group, collective: Collective, task: Task, *, patience: float = LAST_WORDS) -> Any:
    """Take part in the search that rank 0 leads, until it ends; returns or raises what rank 0 returns or raises.

    Raises RankLostError when a rank is gone; this process is ended `patience` seconds later if it has not left by then.
    """
    return _Follower(group, collective, task, patience).run()


class _Follower:
    def __init__(self, group: Group, collective: Collective, task: Task, patience: float) -> None:
        self._group = group
        self._collective = collective
        self._task = task
        self._patience = patience
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._trial: _FollowTrial | None = None
        self._left = False
        group.listen(self._on_message, self._on_loss)

    def run(self) -> Any:
        with self._signals():
            while True:
                message = self._inbox.get()
                if isinstance(message, _FollowTrial):
                    self._run(message)
                elif isinstance(message, Cut):
                    self._collective.leave()
                elif isinstance(message, Settled):
                    if message.terms is not None:
                        self._collective.renew(message.terms)
                elif isinstance(message, Lost):
                    self._group.close()
                    raise RankLostError(message.message)
                else:
                    break
        self._group.leave()
        if not message.done:
            raise message.value
        return message.value

    def _run(self, trial: _FollowTrial) -> None:
        self._collective.note()
        outcome = trial.run(self._task)
        self._collective.note()
        self._group.send(Done(outcome, trial.part.was_cut, trial.link.agreed, self._collective.terms))

    def _on_message(self, _peer: Peer, message: Any) -> None:
        """Called by the reader's thread."""
        trial = self._trial
        if isinstance(message, Begin):
            self._trial = trial = _FollowTrial(message.assignment, self._collective)
            self._inbox.put(trial)
        elif isinstance(message, Answer):
            if trial is not None:
                trial.link.answers.put(message)
        else:
            self._inbox.put(message)
            if trial is None or isinstance(message, Settled):
                return
            if isinstance(message, Cut):
                trial.part.cut(message.reason)
            elif isinstance(message, Leave):
                trial.part.cut("interrupted: the search has ended")
            elif isinstance(message, Lost):
                self._end_soon(message.message)

    def _on_loss(self, peer: Peer) -> None:
        message = peer.gone
        self._inbox.put(Lost(message))
        say(message)
        self._end_soon(message)
        self._collective.forget()

    def _end_soon(self, message: str) -> None:
        later(self._patience, end_process, message)
        if self._trial is not None:
            self._trial.part.cut(f"lost: {message}", limit=math.inf)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals are rank 0's to answer, for all ranks at the same step."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python lets only the main thread handle signals
            return
        wanted = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, n)]
        before = {number: signal.signal(number, self._on_signal) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # in a thread: this one may be in the middle of sending
        threading.Thread(target=self._group.send, args=(Signalled(number),), daemon=True).start()


class _FollowTrial:
    """One attempt at a trial on this rank."""

    def __init__(self, assignment: Assignment, collective: Collective) -> None:
        self.assignment = assignment
        self.part = Part(collective)
        self.link = _FollowLink(self.part)

    def run(self, task: Task) -> Outcome:
        live = LiveTrial(self.assignment, self.link)

        def valueless(trial: LiveTrial) -> Outcome:  # the objective is what it is on rank 0
            result = task(trial)
            return result if isinstance(result, Outcome) else Outcome(TrialState.COMPLETE)

        return self.part.run(closing(valueless, self.link.close), live, n_objectives=self.assignment.n_objectives)


class _FollowLink:
    """A follower's line: rank 0's answers to the same calls."""

    def __init__(self, part: Part) -> None:
        self.answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self.agreed = False
        self._part = part
        self._skip = 0
        self._over = False

    def suggest(self, name: str, distribution: BaseDistribution) -> Any:  # noqa: ARG002
        return self._answer(("suggest", name))

    def report(self, report: Report) -> Decision:
        return self._decision(("report", report.step))

    def decide(self) -> Decision:
        if self._over:
            return CONTINUE
        if self._skip > 0:
            self._skip -= 1
            return CONTINUE
        return self._decision(("decide", None))

    def checkpoint(self, path: str, step: int) -> None:
        """Rank 0 records it."""

    def annotate(self, key: str, value: Any) -> None:
        """Rank 0 records it."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Rank 0 logs it."""

    def close(self) -> None:
        """What is asked after the task has returned is not asked on all ranks."""
        self._over = True

    def _decision(self, call: tuple[str, Any]) -> Decision:
        decision: Decision = self._answer(call)
        self.agreed = self.agreed or decision.action != "continue"
        return decision

    def _answer(self, call: tuple[str, Any]) -> Any:
        answer = None
        while answer is None:
            self._part.check()
            try:
                answer = self.answers.get(timeout=1.0)
            except queue.Empty:
                continue
        if answer.call != call:
            raise UserFunctionError(
                "all ranks must ask a trial for the same things in the same order, and rank 0 has come to "
                f"{called(answer.call)} where another rank is at {called(call)}; suggest, report and should_prune "
                "belong outside of `if rank == 0`"
            )
        if answer.call[0] == "decide":
            self._skip = answer.skip
        if not answer.done:
            raise answer.value
        return answer.value
