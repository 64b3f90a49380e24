"""The loop of a search: ask, run, report and decide, tell; budget, retries, interrupts and failures."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, Literal

from optuna.distributions import BaseDistribution

from tunesmith.backends import Backend, Halt, KeepsLogs, Proposal
from tunesmith.convergence import convergence
from tunesmith.coverage import Coverage
from tunesmith.errors import RecordError, SearchFailedError
from tunesmith.record import Record
from tunesmith.runners import Ended, Outcome, Runner
from tunesmith.study import Study
from tunesmith.trial import CONTINUE, Assignment, Decision, Report, Trial, TrialState, contains, fitted, with_tuples

IDENTICAL_FAILURES = 3  # so many first trials that fail in the same way are a bug, not bad luck


@dataclass(frozen=True)
class Budget:
    """How long a search goes on.

    `n_trials` is the total of the study over all starts (None: until `timeout`), `timeout` the seconds of this start.
    `max_failures` failed trials end the search (None: half of n_trials, at least 3; also when the first 3 fail in the
    same way). A trial whose worker was lost is tried again `max_retries` times. `stop_when="converged"` ends the search
    when no more is left to gain than what could be noise.
    """

    n_trials: int | None = 20
    timeout: float | None = None
    max_failures: int | None = None
    max_retries: int = 2
    stop_when: Literal["converged"] | None = None

    @property
    def failure_limit(self) -> int:
        """The number of failed trials at which the search ends."""
        if self.max_failures is not None:
            return self.max_failures
        return max(3, (self.n_trials or 20) // 2)


class Observed:
    """A search that is watched, and that signals pause. `stop_reason` says why it is to pause, None while it is not."""

    def __init__(self, study: Study, observers: Sequence[Any]) -> None:
        self.study = study
        self.stop_reason: str | None = None
        self._observers = observers
        self._signal: int | None = None
        self._notice = threading.Thread(target=self._say_interrupted, name="tunesmith-notice", daemon=True)
        self._handlers: dict[int, Any] = {}

    def notify(self, event: str, *details: Any) -> None:
        """Tell the observers that have a method of this name."""
        for observer in self._observers:
            method = getattr(observer, event, None)
            if method is not None:
                method(self.study, *details)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let signals pause the search, and give them back in the end."""
        if threading.current_thread() is threading.main_thread():  # Python lets no other handle signals
            wanted = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, n)]
            self._handlers = {number: signal.getsignal(number) for number in wanted}
        self.take_signals()
        try:
            yield
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def take_signals(self) -> None:
        """Take the signals, where another has taken them meanwhile."""
        for number in self._handlers:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal is not None:
            return  # Slurm, torchrun and other ranks repeat themselves
        self._signal = number
        self.stop_reason = f"interrupted: {signal.Signals(number).name}"
        self._notice.start()  # this thread may be in the middle of printing, which Python lets nobody do within

    def _say_interrupted(self) -> None:
        self.notify("on_message", f"{self.stop_reason}; finishing what must be recorded (Ctrl-C again: stop now)")

    def leave_if_interrupted(self) -> None:
        """Raise KeyboardInterrupt or SystemExit after a signal."""
        if self._signal is None:
            return
        self._notice.join()
        self.notify("on_message", f"stopped ({self.stop_reason}); run the same script again to go on")
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self._signal)


def recover(record: Record, *, max_retries: int) -> list[Trial]:
    """Let trials that a killed driver left RUNNING wait again, from their last checkpoint. Returns those that failed by it."""
    failed = []
    for number in record.interrupted():
        attempt = record.trial(number).attempt
        if attempt > max_retries:
            reason = f"lost: its process died in each of {attempt} attempts"
            failed.append(record.end(number, TrialState.FAILED, reason=reason))
        else:
            record.requeue(number, TrialState.WAITING, reason="lost: its process died", count_attempt=True)
    return failed


class Loop(Observed):
    """Drives one start of a search. Made once, run once."""

    def __init__(
        self,
        study: Study,
        backend: Backend,
        runner: Runner,
        *,
        budget: Budget,
        observers: Sequence[Any] = (),
    ) -> None:
        super().__init__(study, observers)
        self.record = study.record
        self.backend = backend
        self.runner = runner
        self.budget = budget
        self._deadline = None if budget.timeout is None else time.monotonic() + budget.timeout
        self._running: dict[int, _DriverLink] = {}
        self._coverage = Coverage(study.trials)
        self._exhausted = False
        self._enough, self._judged_after = False, 0
        self._failures: list[Trial] = [t for t in study.trials if t.state is TrialState.FAILED]

    # -- the search ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until the budget is spent, every point has been tried, the timeout is over, or somebody asks to stop.

        Raises SearchFailedError when the search is hopeless, KeyboardInterrupt or SystemExit after an interrupt (with
        everything recorded), and what a bug in the user's own functions raised.
        """
        self.record.update_settings(finished=False, n_trials=self.budget.n_trials, stop=None, ended=None)
        for trial in recover(self.record, max_retries=self.budget.max_retries):
            self.backend.tell(trial)
        self.notify("on_search_start", self.budget.n_trials)
        try:
            with self.interruptible():
                self._run_trials()
        finally:
            self.backend.close()
            self.notify("on_search_end")
        self.leave_if_interrupted()

    def _run_trials(self) -> None:
        try:
            while True:
                while len(self._running) < self.runner.slots and self._start_next():
                    pass
                if not self._running:
                    break
                for ended in self.runner.events(1.0):
                    self._finish(ended)
            if self.stop_reason is None:
                self.record.update_settings(finished=True)
        finally:
            for number in list(self._running):  # an error or a second Ctrl-C: nothing stays RUNNING
                self._finish_paused(number, self.stop_reason or "interrupted")

    # -- starting ------------------------------------------------------------------------------------------------

    def _start_next(self) -> bool:
        if self._exhausted or self._decision().action != "continue":
            return False
        finished, others = self.record.standing()
        if self.budget.n_trials is not None and finished + len(self._running) >= self.budget.n_trials:
            return False
        ready = next((t for t in others if t.state in (TrialState.PAUSED, TrialState.WAITING)), None)
        if ready is None and (self._nothing_new() or self._converged()):
            return False
        number = ready.number if ready is not None else self.record.add_waiting({})
        self._failures = [t for t in self._failures if t.number != number]  # tried again, by somebody's request
        trial = ready if ready is not None else self.record.trial(number)
        fixed = {**trial.offered, **trial.params}
        proposal = self.backend.ask(number, fixed)
        if isinstance(proposal, Halt):
            self._end(proposal.reason)
            self._exhausted = True
            if proposal.resumable:
                self.stop_reason = proposal.reason
            return False
        offered = {**proposal.params, **fixed}
        trial = self.record.start(number, offered=offered, why={**trial.why, **proposal.why})
        link = _DriverLink(self, number, Proposal(offered, proposal.draw))
        resume_from = None
        if trial.checkpoint is not None and trial.checkpoint_step is not None:
            path = self.study.bring(trial)
            resume_from = None if path is None else str(path.resolve())
        self._running[number] = link
        self.notify("on_trial_start", trial)
        self.runner.start(
            Assignment(
                number,
                n_objectives=len(self.study.directions),
                attempt=trial.attempt,
                params=dict(trial.params),
                distributions=dict(trial.distributions),
                reports=trial.reports if resume_from else (),
                resume_from=resume_from,
                directory=str(self.study.run_directory(number).absolute()),
                storage=self.study.storage,
                logs=isinstance(self.backend, KeepsLogs),
                environment=getattr(self.backend, "environment", {}),
            ),
            link,
        )
        return True

    def _nothing_new(self) -> bool:
        """Whether every point of a finite space has been tried, or is being tried."""
        for number in self._running:
            self._coverage.add(self.record.trial(number))
        points = self._coverage.points
        if points is not None and not self._running:
            self._end(f"all {points} points of its space have been tried")
        return points is not None

    def _converged(self) -> bool:
        """Whether too little is left to gain, where the search is to end then; judged once a completed trial."""
        if self.budget.stop_when != "converged" or self._enough:
            return self._enough
        trials = self.study.trials
        completed = sum(t.state is TrialState.COMPLETE for t in trials)
        if completed > self._judged_after:
            self._judged_after = completed
            reason = convergence(trials, self.study.directions, seed=self.study.info.seed)
            if reason is not None:
                self._enough = True
                self._end(reason)
        return self._enough

    def _end(self, reason: str) -> None:
        """Say and record why the search ends before its budget."""
        self.record.update_settings(ended=reason)
        self.notify("on_message", f"the search ends: {reason}")

    # -- ending --------------------------------------------------------------------------------------------------

    def _finish(self, ended: Ended) -> None:
        outcome = ended.outcome
        if outcome.state is TrialState.PAUSED:
            self._finish_paused(ended.number, outcome.reason or "interrupted")
            return
        if outcome.fatal is not None:
            try:
                self._finish_paused(ended.number, outcome.reason or "interrupted")
            except RecordError as error:  # on the same full disk; the next start finds the trial
                raise outcome.fatal from error
            raise outcome.fatal
        link = self._running.pop(ended.number)
        link.flush()
        attempt = self.record.trial(ended.number).attempt
        if outcome.reason is not None and outcome.reason.startswith("lost") and attempt <= self.budget.max_retries:
            self.record.requeue(ended.number, TrialState.WAITING, reason=outcome.reason, count_attempt=True)
            self.notify("on_message", f"trial {ended.number} is tried again: {outcome.reason}")
            return
        outcome = _settled(outcome)
        trial = self.record.end(
            ended.number,
            outcome.state,
            values=outcome.values,
            reason=outcome.reason,
            detail=outcome.detail,
            metrics=outcome.metrics,
            checkpoint=outcome.checkpoint,
        )
        self.backend.tell(trial)
        self._coverage.add(trial)
        self.notify("on_trial_end", trial)
        if trial.state is TrialState.COMPLETE and not trial.params and self.record.standing()[0] == 1:
            self.notify(
                "on_message",
                f"trial {trial.number} asked for no parameter, so all trials are the same: ask for values by "
                "trial.suggest_float(...) or another suggest_..., or pass space=",
            )
        if trial.state is TrialState.FAILED:
            self._failures.append(trial)
            self._check_failures()

    def _finish_paused(self, number: int, reason: str) -> None:
        self._running.pop(number).flush()
        self.record.requeue(number, TrialState.PAUSED, reason=reason, count_attempt=False)

    def _check_failures(self) -> None:
        finished = [t for t in self.study.trials if t.state.finished]
        reasons = Counter(t.reason for t in self._failures)
        same_from_start = (
            self.budget.max_failures is None
            and len(finished) == len(self._failures) >= IDENTICAL_FAILURES
            and len(reasons) == 1
        )
        if len(self._failures) >= self.budget.failure_limit or same_from_start:
            listed = "".join(f"\n  {n} x {reason}" for reason, n in reasons.most_common(5))
            raise SearchFailedError(
                f"the search was ended: {len(self._failures)} of {len(finished)} trials failed:{listed}\n"
                f"Everything is recorded in {self.study.directory}; the traceback of the last one:\n"
                f"{self._failures[-1].detail or '(none)'}\n"
                "Mend the cause and run again to go on, or allow more with max_failures"
            )

    # -- stopping ------------------------------------------------------------------------------------------------

    def _decision(self) -> Decision:
        if self.stop_reason is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self.stop_reason = f"timeout: {self.budget.timeout:g} s are over"
        if self.stop_reason is None and (request := self.record.stop_request()) is not None:
            self.stop_reason = f"stopped: {request}"
            self.notify("on_message", self.stop_reason)
        return CONTINUE if self.stop_reason is None else Decision("pause", self.stop_reason)


class _DriverLink:
    """A trial's line to the driver, in the driver's process."""

    def __init__(self, loop: Loop, number: int, proposal: Proposal) -> None:
        self._loop = loop
        self._number = number
        self._proposal = proposal
        self._unsaved: tuple[dict[str, Any], dict[str, BaseDistribution]] = ({}, {})

    def flush(self) -> None:
        """Make the parameters that were asked for durable (their values are so already, as offered ones)."""
        params, distributions = self._unsaved
        if params:
            self._loop.record.add_params(self._number, params, distributions)
            self._unsaved = ({}, {})

    def suggest(self, name: str, distribution: BaseDistribution) -> Any:
        offered, known = self._proposal.params, with_tuples(distribution)
        if name in offered and contains(known, offered[name]):
            value = fitted(known, offered[name])
            self._unsaved[0][name], self._unsaved[1][name] = value, known
            return fitted(distribution, value)
        if name in offered:
            self._loop.notify(
                "on_message",
                f"trial {self._number}: {name}={offered[name]!r} is not in {distribution}; another value is drawn",
            )
        value = self._proposal.draw(name, known)
        self._unsaved[0][name], self._unsaved[1][name] = value, known
        self.flush()
        return value if known is distribution else fitted(distribution, value)

    def report(self, report: Report) -> Decision:
        self.flush()
        self._loop.record.add_report(self._number, report)
        trial = self._loop.record.trial(self._number)
        self._loop.notify("on_report", trial)
        stop = self._loop._decision()  # noqa: SLF001  the link is the loop's other half
        if stop.action != "continue":
            return stop
        if not all(map(math.isfinite, report.values)):
            return Decision("prune", f"nan: the objective is {report.values[0]} at step {report.step}")
        return self._loop.backend.judge(trial)

    def decide(self) -> Decision:
        return self._loop._decision()  # noqa: SLF001

    def checkpoint(self, path: str, step: int) -> None:
        self.flush()
        self._loop.record.set_checkpoint(self._number, path, step)

    def annotate(self, key: str, value: Any) -> None:
        self._loop.record.annotate(self._number, key, value)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        backend = self._loop.backend
        if isinstance(backend, KeepsLogs):
            backend.log(self._number, step, metrics)


def _settled(outcome: Outcome) -> Outcome:
    """A trial that was stopped because its objective is not finite has failed; it was not merely pruned."""
    if outcome.state is TrialState.PRUNED and (outcome.reason or "").startswith("nan"):
        return replace(outcome, state=TrialState.FAILED)
    return outcome
