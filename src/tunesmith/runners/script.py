"""The script runner: each trial is an untouched script with other flags, in processes of its own.

A Trainer inside the script is tied to the search by `inject/sitecustomize.py`: its evaluations and checkpoints are
reported, it ends early, pauses and resumes. Of other scripts, lines of JSON with the metrics and a "step" are reports.
"""

from __future__ import annotations

import json
import os
import select
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tunesmith import guard
from tunesmith.errors import SettingError, UserFunctionError
from tunesmith.folders import LOGS
from tunesmith.runners import Ended, Outcome, checked, script_results
from tunesmith.runners.slots import Slot, plan_slots
from tunesmith.trial import CONTINUE, Assignment, Decision, Link, LiveTrial, Space, TrialState

STOP_TIME = 60.0  # seconds that a script which was told to stop may take for its last evaluation and its loggers
_TICK = 0.5
_LAST_LINES, _LAST_BYTES = 60, 16_000
_INJECT = Path(__file__).with_name("inject")


class ScriptRunner:
    """Runs `command` with a trial's parameters of `space` as flags, `workers` at a time; see `script_results.built`.

    `metrics` names the objectives among the metrics that the script prints as JSON, or writes to `all_results.json`.
    Each trial has the directory `run-<number>` in `directory`, which must be set before the first trial, and its
    output goes to `logs/trial-<number>.log`. `trial_timeout` is in seconds per attempt.

    Raises SettingError when the command cannot be run, or the slots cannot be.
    """

    def __init__(
        self,
        command: Sequence[str],
        space: Space,
        metrics: Sequence[str],
        *,
        workers: int | Literal["auto"] = 1,
        threads_per_trial: int = 1,
        gpus_per_trial: float | None = None,
        trial_timeout: float | None = None,
    ) -> None:
        if not command:
            raise SettingError("a command to tune is needed, such as: -- python train.py --output_dir out")
        if shutil.which(command[0]) is None:
            raise SettingError(f"the command to tune must be one that can be run, and {command[0]!r} is not found")
        if not hasattr(socket, "AF_UNIX"):
            raise SettingError("tuning a script needs Linux or macOS; search with tunesmith.search")
        if trial_timeout is not None and not trial_timeout > 0:
            raise SettingError(f"trial_timeout must be above 0 seconds, got {trial_timeout!r}")
        places = plan_slots(workers, threads_per_trial=threads_per_trial, gpus_per_trial=gpus_per_trial)
        self.slots = len(places)
        self.directory: Path | None = None
        self._command = list(command)
        self._space = space
        self._metrics = list(metrics)
        self._timeout = trial_timeout
        self._free = deque(places)
        self._running: dict[int, _Attempt] = {}
        self._ended: deque[Ended] = deque()
        self._selector = selectors.DefaultSelector()
        self._sockets = Path(tempfile.mkdtemp(prefix="tunesmith-"))  # a socket's path must be short

    # -- the runner's protocol -----------------------------------------------------------------------------------

    def start(self, assignment: Assignment, link: Link) -> None:
        """Begin an attempt in a free slot."""
        if self.directory is None:
            raise RuntimeError("the study's directory is set before the first trial")
        live = LiveTrial(assignment, link)
        for name, distribution in self._space.items():
            live.suggest(name, distribution)
        run, logs = self.directory / f"run-{assignment.number}", self.directory / LOGS
        run.mkdir(parents=True, exist_ok=True)
        logs.mkdir(exist_ok=True)
        log = logs / f"trial-{assignment.number}.log"
        slot = self._free.popleft()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self._sockets / f"{assignment.number}-{assignment.attempt}"))
        listener.listen()
        begin = log.stat().st_size if log.exists() else 0
        command = script_results.built(self._command, live.params, run.resolve())
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(  # noqa: S603  our own interpreter; the script is the user's own command
                guard.command(theirs.fileno(), log.resolve(), command),
                env=self._environment(slot, assignment, listener),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
            )
        attempt = _Attempt(live, slot, process, ours, listener, run, log, begin)
        if self._timeout is not None:
            attempt.deadline = time.monotonic() + self._timeout
        self._running[assignment.number] = attempt
        self._selector.register(listener, selectors.EVENT_READ, (attempt, self._accept))
        self._selector.register(ours, selectors.EVENT_READ, (attempt, self._gone))

    def events(self, timeout: float | None) -> Iterator[Ended]:
        """Serve the running scripts until at least one has ended or `timeout` seconds have passed; yield those ended."""
        until = None if timeout is None else time.monotonic() + timeout
        while not self._ended and self._running:
            left = _TICK if until is None else min(_TICK, until - time.monotonic())
            if left <= 0:
                break
            for key, _ in self._selector.select(left):
                attempt, receive = key.data
                receive(attempt, key.fileobj)
            for attempt in list(self._running.values()):
                self._check(attempt)
        while self._ended:
            yield self._ended.popleft()

    def stop(self, number: int, reason: str) -> None:
        """End an attempt by force; it becomes an `Ended` with state FAILED and this reason."""
        attempt = self._running.get(number)
        if attempt is not None and attempt.stopped is None:
            attempt.stopped = Outcome(TrialState.FAILED, reason=reason)
            attempt.end()

    def close(self) -> None:
        """End all scripts and remove what was temporary."""
        for attempt in self._running.values():
            attempt.end()
        for attempt in self._running.values():
            attempt.process.wait()
            self._release(attempt)
        self._running.clear()
        self._selector.close()
        shutil.rmtree(self._sockets, ignore_errors=True)

    # -- a script's life -----------------------------------------------------------------------------------------

    def _environment(self, slot: Slot, assignment: Assignment, listener: socket.socket) -> dict[str, str]:
        path = os.pathsep.join([str(_INJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
        changes = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "TUNESMITH_TRIAL": str(assignment.number)}
        changes["TUNESMITH_SOCKET"] = str(listener.getsockname())
        if assignment.resume_from is not None:
            changes["TUNESMITH_RESUME_FROM"] = assignment.resume_from
        if assignment.logs:
            changes["TUNESMITH_LOGS"] = "1"
        changes |= assignment.environment
        return {**os.environ, **slot.environment, **changes}

    def _check(self, attempt: _Attempt) -> None:
        """Notice the end, time that is up, and what a script without a Trainer has printed."""
        ended = attempt.process.poll() is not None
        if ended:
            self._hear_out(attempt)
        if not attempt.has_trainer:
            self._read_printed(attempt)
        now = time.monotonic()
        if ended:
            del self._running[attempt.live.number]
            outcome = self._outcome(attempt)
            self._release(attempt)
            self._ended.append(Ended(attempt.live.number, outcome))
        elif now >= attempt.deadline:
            if attempt.stopped is None:
                reason = f"timeout: the trial took longer than {self._timeout:g} s"
                attempt.stopped = Outcome(TrialState.FAILED, reason=reason)
            attempt.end()
        elif attempt.stopped is None and not attempt.has_trainer and now >= attempt.decide_at:
            attempt.decide_at = now + 1.0
            self._follow(attempt, attempt.live.decide(), at_once=True)

    def _follow(self, attempt: _Attempt, decision: Decision, *, at_once: bool) -> None:
        """Do what the study decided: a Trainer is told and ends by itself, within limits; others are ended."""
        if decision.action == "continue" or attempt.stopped is not None:
            return
        state = TrialState.PRUNED if decision.action == "prune" else TrialState.PAUSED
        attempt.stopped = Outcome(state, reason=decision.reason)
        attempt.deadline = min(attempt.deadline, time.monotonic() + STOP_TIME)
        if at_once:
            attempt.end()

    def _release(self, attempt: _Attempt) -> None:
        for source in (attempt.listener, attempt.control, *attempt.connections):
            if source in self._selector.get_map():
                self._selector.unregister(source)
            source.close()
        Path(self._sockets / f"{attempt.live.number}-{attempt.live.attempt}").unlink(missing_ok=True)
        self._free.append(attempt.slot)

    # -- a Trainer's messages ------------------------------------------------------------------------------------

    def _gone(self, attempt: _Attempt, control: socket.socket) -> None:
        """The guard has closed its end: it exits."""
        self._selector.unregister(control)
        attempt.process.wait()

    def _accept(self, attempt: _Attempt, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        attempt.connections[connection] = b""
        attempt.has_trainer = True
        self._selector.register(connection, selectors.EVENT_READ, (attempt, self._receive))

    def _hear_out(self, attempt: _Attempt) -> None:
        """Take what a script that has ended still said."""
        while select.select([attempt.listener], [], [], 0)[0]:
            self._accept(attempt, attempt.listener)
        for connection in list(attempt.connections):
            while connection in attempt.connections:
                self._receive(attempt, connection)

    def _receive(self, attempt: _Attempt, connection: socket.socket) -> None:
        try:
            chunk = connection.recv(65536)
        except OSError:
            chunk = b""
        if not chunk:  # the process has ended, or will be seen to
            self._selector.unregister(connection)
            del attempt.connections[connection]
            connection.close()
            return
        *lines, attempt.connections[connection] = (attempt.connections[connection] + chunk).split(b"\n")
        for line in lines:
            self._answer(attempt, connection, json.loads(line))

    def _answer(self, attempt: _Attempt, connection: socket.socket, message: dict[str, Any]) -> None:
        """Rank 0 speaks for all; the others are told the same in the same place, once that is known."""
        place, event = message["number"], message["event"]
        if message["rank"] == 0:
            attempt.answers[place] = self._decide(attempt, message)
        attempt.waiting.append((connection, place))
        for waiting in list(attempt.waiting):
            if waiting[1] in attempt.answers:
                attempt.waiting.remove(waiting)
                _send(waiting[0], attempt.answers[waiting[1]])
        if attempt.stopped is None or attempt.stopped.state is not TrialState.PAUSED:
            return
        saved = attempt.saved_by.setdefault(message["step"], set())
        if event == "saved":
            saved.add(message["rank"])
        if len(saved) == message["ranks"] or not message["saves"]:  # nothing more to wait for
            attempt.end()

    def _decide(self, attempt: _Attempt, message: dict[str, Any]) -> Decision:
        live, event, step = attempt.live, message["event"], int(message["step"])
        over = message["max_steps"] and step >= message["max_steps"]
        if event == "begin":
            self._check_directory(attempt, message)
        elif event == "log":
            live.log(message["metrics"], step)
            return CONTINUE
        elif event == "saved":
            live.save_checkpoint(message["path"], step)
        elif event == "evaluation":
            attempt.metrics.update(message["metrics"])
            values = [message["metrics"].get(m) for m in self._metrics]
            if all(v is not None for v in values) and attempt.stopped is None:
                share = min(step / message["max_steps"], 1.0) if message["max_steps"] else None
                live.report(
                    values if len(values) > 1 else values[0],
                    step,
                    metrics=message["metrics"],
                    epoch=message["epoch"],
                    examples=message["examples"],
                    share=share,
                )
        decision = live.decide() if not over and step > 0 else CONTINUE
        self._follow(attempt, decision, at_once=False)
        return decision

    def _check_directory(self, attempt: _Attempt, message: dict[str, Any]) -> None:
        written, own = Path(message["output_dir"]), attempt.run.resolve()
        if own == written.resolve() or own in written.resolve().parents:
            return
        error = UserFunctionError(
            f"each trial writes to a directory of its own, and the script writes to {written}: give it an --output_dir "
            "in the command, which is replaced for each trial, or use {output_dir} there"
        )
        attempt.stopped = Outcome(TrialState.FAILED, reason=f"error: {error}", fatal=error)
        attempt.end()

    # -- what a script gave --------------------------------------------------------------------------------------

    def _read_printed(self, attempt: _Attempt) -> None:
        """Report the lines of JSON with the metrics and a step that have come since the last look."""
        if not attempt.log.exists():
            return
        with attempt.log.open("rb") as file:
            file.seek(attempt.read_to)
            new = file.read()
        whole = new.rfind(b"\n") + 1
        attempt.read_to += whole
        for found in script_results.printed(new[:whole].decode(errors="replace").splitlines(), self._metrics):
            values = [float(found[m]) for m in self._metrics]
            step = found.get("step", found.get("global_step"))
            attempt.printed = script_results.numbers(found)
            if isinstance(step, int) and step >= 0 and attempt.stopped is None:
                metrics = script_results.numbers(found)
                attempt.live.report(values if len(values) > 1 else values[0], step, metrics=metrics)
                self._follow(attempt, attempt.live.decide(), at_once=True)

    def _outcome(self, attempt: _Attempt) -> Outcome:
        code = attempt.process.returncode
        lines = _last_lines(attempt)
        detail = "last output:\n" + "\n".join(lines)
        if attempt.stopped is not None:
            return replace(attempt.stopped, detail=detail if attempt.stopped.state is TrialState.FAILED else None)
        if code != 0:
            return Outcome(TrialState.FAILED, reason=_reason(code, lines), detail=detail)
        metrics = attempt.printed or self._from_log(attempt)
        metrics = metrics or script_results.from_files(attempt.run, self._metrics, since=attempt.began)
        if metrics is None and all(m in attempt.metrics for m in self._metrics):
            metrics = attempt.metrics
        if metrics is None:
            known = script_results.known_names(attempt.run, lines, since=attempt.began) or sorted(attempt.metrics)
            reason = (
                f"error: the script gave no {' and '.join(map(repr, self._metrics))}: print it in a line of JSON, or let "
                f"the Trainer evaluate; it gave {', '.join(known) or 'no metrics'}"
            )
            return Outcome(TrialState.FAILED, reason=reason, detail=detail)
        outcome = checked([metrics[m] for m in self._metrics], len(self._metrics))
        kept = script_results.weights(attempt.run)
        return Outcome(
            outcome.state,
            outcome.values,
            reason=outcome.reason,
            metrics={**attempt.metrics, **metrics},
            checkpoint=None if kept is None else str(kept.resolve()),
        )

    def _from_log(self, attempt: _Attempt) -> dict[str, float] | None:
        """The last JSON that a script with a Trainer printed."""
        found = script_results.printed(_last_lines(attempt, whole=True), self._metrics) if attempt.has_trainer else []
        return script_results.numbers(found[-1]) if found else None


@dataclass(eq=False)
class _Attempt:
    """A script under way; `stopped` is its outcome once the study has ended it."""

    live: LiveTrial
    slot: Slot
    process: subprocess.Popen[bytes]
    control: socket.socket
    listener: socket.socket
    run: Path
    log: Path
    log_begin: int
    began: float = field(default_factory=time.time)
    deadline: float = float("inf")
    decide_at: float = 0.0
    stopped: Outcome | None = None
    connections: dict[socket.socket, bytes] = field(default_factory=dict)
    has_trainer: bool = False
    told_to_end: bool = False
    answers: dict[int, Decision] = field(default_factory=dict)
    waiting: list[tuple[socket.socket, int]] = field(default_factory=list)
    saved_by: dict[int, set[int]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    printed: dict[str, float] | None = None
    read_to: int = -1

    def __post_init__(self) -> None:
        self.read_to = self.log_begin

    def end(self) -> None:
        """Let the guard end the script, with all its processes; it has some seconds for it."""
        if not self.told_to_end:
            self.told_to_end = True
            with suppress(OSError):  # it has ended
                self.control.send(b"t")


def _send(connection: socket.socket, decision: Decision) -> None:
    try:
        connection.sendall(json.dumps({"action": decision.action, "reason": decision.reason}).encode() + b"\n")
    except OSError:
        return  # the process has ended; that is seen when it is read from


def _last_lines(attempt: _Attempt, *, whole: bool = False) -> list[str]:
    if not attempt.log.exists():
        return []
    with attempt.log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(attempt.log_begin if whole else max(attempt.log_begin, size - _LAST_BYTES))
        text = file.read().decode(errors="replace")
    lines = [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n")]
    return lines if whole else [line for line in lines if line.strip()][-_LAST_LINES:]


def _reason(code: int, lines: Sequence[str]) -> str:
    """Why a script failed, in one line: with the last line of its output, where an exception's name stands."""
    last = lines[-1].strip()[:300] if lines else ""
    if any("out of memory" in line.lower() for line in lines[-20:]):
        return f"oom: {next(line.strip()[:300] for line in reversed(lines) if 'out of memory' in line.lower())}"
    number = -code if code < 0 else code - 128  # of the guard, with which its script dies; the shell's way to say it
    if number in {s.value for s in signal.Signals}:
        return f"lost: the script was killed by {signal.Signals(number).name}"
    return f"error: the script exited with code {code}: {last}"
