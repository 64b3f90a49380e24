"""One W&B run for each trial, written to disk by W&B's client and sent by the uploader: nothing here waits for a network."""

from __future__ import annotations

import json
import os
import subprocess  # the uploader is ours
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tunesmith.backends import wandb_file, wandb_upload
from tunesmith.folders import UPLOAD_LOG
from tunesmith.trial import Report, Trial, TrialState

LIVE_AFTER = 1.0  # seconds from which a run is shown while it is under way; shorter ones are sent when they end
CLOSING = 30.0  # seconds that the last runs may take to arrive, where W&B can be reached
_ENDING = wandb_upload.LAST_TRY + 1.0  # seconds for the uploader's end
STOPPED = 255  # the exit code with which W&B's agent ends a run that the sweep stops


class Uploader:
    """The line to the uploader's process. `wait` is told by an event; without one, runs stay on disk."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[str] | None = None
        self._given: set[str] = set()
        self._sent: set[str] = set()
        self._news = threading.Condition()

    def start(self) -> None:
        """Start the process, and let it send what earlier starts of the study have left."""
        # with a service of W&B's own, for ours ends with this process
        environment = {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"}
        with (self._directory / UPLOAD_LOG).open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tunesmith.backends.wandb_upload"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is the search's business
                env={**environment, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        for path in sorted(self._directory.glob("wandb/offline-run-*/*.wandb")):
            if not wandb_upload.synced(path):
                self.send(path, "left")

    def send(self, path: Path, how: str) -> None:
        """Send a run file: "live", "whole" or "left" (see the uploader)."""
        if self._process is None or self._process.stdin is None:
            return
        self._given.add(str(path))
        try:
            self._process.stdin.write(json.dumps({"path": str(path), "how": how}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._process = None  # it was killed: the runs are on disk, and the next start sends them

    def wait(self, path: Path, seconds: float) -> bool:
        """Whether the run has been sent within so many seconds."""
        with self._news:
            return self._news.wait_for(lambda: str(path) in self._sent or self._process is None, seconds)

    def idle(self, seconds: float) -> bool:
        """Whether everything has been sent within so many seconds."""
        with self._news:
            return self._news.wait_for(lambda: self._process is None or self._given <= self._sent, seconds)

    def close(self) -> int:
        """End the process. Returns the number of runs that could not be sent."""
        if self._process is not None and self._process.stdin is not None:
            try:
                self._process.stdin.close()
                self._process.wait(_ENDING)
            except (BrokenPipeError, subprocess.TimeoutExpired):
                self._process.kill()
                self._process.wait()
            self._process = None
        return len(self._given - self._sent)

    def _listen(self, process: subprocess.Popen[str]) -> None:
        with process.stdout or nullcontext(()) as lines:
            for line in lines:
                with self._news:
                    self._sent.add(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._process = None if self._process is process else self._process
            self._news.notify_all()


@dataclass
class _Open:
    run: Any
    path: Path
    step: int  # of the last report that the run has
    began: float = field(default_factory=time.monotonic)
    live: bool = False
    configured: int = 0
    logged: dict[frozenset[str], int] = field(default_factory=dict)  # the last step of rows with these names
    repeats_to: dict[frozenset[str], int] = field(default_factory=dict)  # what earlier attempts have logged, likewise

    def has(self, step: int, names: Iterable[str]) -> bool:
        """Whether the run has a row of these names for a step; from now on it has."""
        kind = frozenset(names)
        if step <= self.repeats_to.get(kind, -1):
            return True
        self.logged[kind] = step
        return False

    def read(self, rows: Iterable[Mapping[str, Any]], metric: str) -> None:
        """Take up what an earlier process has got into the run's files."""
        for row in rows:
            if metric in row:
                self.step = max(self.step, row.get("trial/step", -1))
            elif (step := row.get("trial/step", row.get("train/global_step"))) is not None:
                self.logged[frozenset(row)] = step
        self.repeats_to = dict(self.logged)


class Runs:
    """The W&B runs of a study's trials."""

    def __init__(
        self,
        directory: str,
        *,
        project: str,
        entity: str | None,
        group: str,
        metric: str,
        names: list[str],
        upload: bool,
        alone: bool,
    ) -> None:
        self._directory = Path(directory).resolve()
        self._settings = {"project": project, "entity": entity, "group": group}
        self._metric = metric
        self._names = names
        self._alone = alone
        self._open: dict[int, _Open] = {}
        self.live_after = LIVE_AFTER
        self.uploader = Uploader(self._directory)
        if upload:
            self.uploader.start()

    def begin(self, trial: Trial, run_id: str, *, sweep: str | None, config: Mapping[str, Any]) -> None:
        """Open the run of a trial, or go on with it."""
        number = trial.number
        if number in self._open:  # tried again, from its last checkpoint: what it logs anew is there
            self._open[number].repeats_to = dict(self._open[number].logged)
            return
        with self._survives(number):
            self._open[number] = self._begun(trial, run_id, sweep=sweep, config=config)

    def _begun(self, trial: Trial, run_id: str, *, sweep: str | None, config: Mapping[str, Any]) -> _Open:
        import wandb  # noqa: PLC0415  an optional package

        run = wandb.init(
            **self._settings,
            id=run_id,
            name=f"trial-{trial.number}",
            config={**config, "trial": trial.number},
            dir=str(self._directory),
            mode="offline",
            # where trials run one at a time, the run is the one of `wandb.log` and of a Trainer's own WandbCallback
            reinit="finish_previous" if self._alone else "create_new",
            resume="allow" if trial.started is not None else None,
            settings=wandb.Settings(
                sweep_id=sweep,
                silent=True,
                console="off",
                x_disable_stats=True,
                x_disable_meta=True,
                x_save_requirements=False,
                disable_code=True,
                disable_git=True,
                x_transaction_log_flush_interval=0.1,
            ),
        )
        run.define_metric("trial/step")
        run.define_metric("*", step_metric="trial/step", step_sync=True)
        run.finish = _leave_open  # the WandbCallback of a search begins with wandb.finish()
        mine = _Open(run, Path(run.settings.sync_file), -1)
        if trial.started is not None:
            mine.read(wandb_file.rows(self._directory, run_id), self._metric)
        if self._alone:  # until the run ends
            wandb.log = partial(_log_once, mine)
        return mine

    def log(self, trial: Trial) -> None:
        """Write the trial's new reports."""
        mine = self._open.get(trial.number)
        if mine is None:
            return
        with self._survives(trial.number):
            self._write(mine, trial)
            self._show(mine)

    def log_between(self, number: int, step: int, metrics: Mapping[str, float]) -> None:
        """Write what the trial logs between its reports; the objectives' names are theirs."""
        mine = self._open.get(number)
        if mine is None:
            return
        objectives = {self._metric, *self._names}
        row = {**{k: v for k, v in metrics.items() if k not in objectives}, "trial/step": step}
        if mine.has(step, row):
            return
        with self._survives(number):
            mine.run.log(row)
            self._show(mine)

    def _show(self, mine: _Open) -> None:
        if not mine.live and time.monotonic() - mine.began >= self.live_after:
            mine.live = True
            self.uploader.send(mine.path, "live")

    def end(self, trial: Trial, *, stopped: bool) -> Path | None:
        """Close the run: summary, state and reason. Returns its file."""
        mine = self._open.get(trial.number)
        if mine is None:
            return None
        with self._survives(trial.number):
            self._write_end(mine, trial, stopped=stopped)
            self.uploader.send(mine.path, "whole")
        return None if self._open.pop(trial.number, None) is None else mine.path

    def _write_end(self, mine: _Open, trial: Trial, *, stopped: bool) -> None:
        self._write(mine, trial)
        last = trial.reports[-1].values if trial.reports else None
        values = trial.values if trial.values is not None else (last if trial.state is TrialState.PRUNED else None)
        summary = {**_plain(trial.metrics), "state": trial.state.value.lower(), "reason": trial.reason or ""}
        mine.run.summary.update({**summary, **({} if values is None else self._values(values))})
        code = {TrialState.COMPLETE: 0, TrialState.PRUNED: STOPPED if stopped else 0}.get(trial.state, 1)
        _finish(mine.run, code)

    def pause(self) -> None:
        """Close the runs of trials that will go on at another start."""
        for number, mine in list(self._open.items()):
            with self._survives(number):
                _finish(mine.run, 1)
                self.uploader.send(mine.path, "whole")
        self._open.clear()

    @contextmanager
    def _survives(self, number: int) -> Iterator[None]:
        """W&B's service is a process, which may be killed: that costs runs their ends, and no trial."""
        import wandb  # noqa: PLC0415  an optional package

        try:
            yield
        except Exception as error:
            if not (isinstance(error, OSError) or "wandb" in type(error).__module__):
                raise
            self._open.pop(number, None)
            with suppress(Exception):  # the next run gets a new service
                wandb.teardown()
            warnings.warn(
                f"W&B's client has failed in the run of trial {number} ({type(error).__name__}: {error}): the trial goes "
                "on, and its run ends there",
                stacklevel=5,
            )

    def _write(self, mine: _Open, trial: Trial) -> None:
        if len(trial.params) > mine.configured:
            mine.configured = len(trial.params)
            mine.run.config.update(dict(trial.params), allow_val_change=True)
        for report in trial.reports:
            if report.step > mine.step:
                # the objective comes last: it is what the sweep sees, whatever metric has the same name
                mine.run.log({**_plain(report.metrics), **self._values(report.values), **_progress(report)})
                mine.step = report.step

    def _values(self, values: tuple[float, ...]) -> dict[str, float]:
        return {self._metric: values[0], **dict(zip(self._names[1:], values[1:], strict=True))}


def _log_once(mine: _Open, data: Mapping[str, Any], *args: Any, **settings: Any) -> None:
    """What `wandb.log` is while the trial runs, for a Trainer's own callback: a trial that goes on logs no step twice."""
    step = data.get("train/global_step")
    if not isinstance(step, int) or not mine.has(step, data):
        mine.run.log(data, *args, **settings)


def _leave_open(*_: Any, **__: Any) -> None:
    """What `run.finish` is while the trial runs: the run ends when the study knows how the trial did."""


def _finish(run: Any, code: int) -> None:
    del run.finish
    run.finish(exit_code=code)


def _plain(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in metrics.items() if isinstance(v, int | float)}


def _progress(report: Report) -> dict[str, Any]:
    known = {"step": report.step, "epoch": report.epoch, "examples": report.examples, "share": report.share}
    return {f"trial/{k}": v for k, v in known.items() if v is not None}
