"""Live progress of a search: an observer that draws in a terminal or a notebook, and writes lines elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.text import Text

from tunesmith.report.notebook import NotebookView
from tunesmith.report.summary import Standing, number, numbers, plain, reason_text, telling_parameters
from tunesmith.report.terminal import TerminalView
from tunesmith.trial import Trial

if TYPE_CHECKING:
    from tunesmith.study import Study

_RANKED = 200  # the newest trials by which parameters are ordered: with all of them it would cost too much


class View(Protocol):
    """How a search is shown. `line` says what just happened, for views that write rather than draw."""

    def begin(self, standing: Standing, line: str) -> None:
        """The search begins."""

    def show(self, standing: Standing, line: str, *, report_of: int | None = None) -> None:
        """Something happened; `report_of` is the trial when it is no more than a report."""

    def message(self, text: str) -> None:
        """A notice of one line."""

    def end(self, standing: Standing, line: str) -> None:
        """The search has ended."""


class Progress:
    """An observer that shows a search.

    In a terminal (`console`, default: stdout) one block updates in place, in a notebook one output; in logs and where
    the variable CI is set, there is one line with the time for each event. `live` says whether something updates in
    place: then bars of others should be off while the search runs.
    """

    def __init__(self, console: Console | None = None, *, view: View | None = None) -> None:
        self._view = view or _view_for(console or Console())
        self.live = not isinstance(self._view, LogView)
        self._standing = Standing("", ())
        self._shown = False

    def on_search_start(self, study: Study, n_trials: int | None) -> None:
        """Begin to show."""
        trials = study.trials
        self._standing = Standing(
            name=study.name,
            directions=tuple(study.directions),
            trials=trials,
            best=study.best_trials,
            names=self._names(trials),
            n_trials=n_trials,
            began=time.time(),
            done_before=sum(t.state.finished for t in trials),
        )
        total = "any number of" if n_trials is None else str(n_trials)
        self._shown = True
        self._view.begin(self._standing, f"study {study.name!r} in {study.directory}: {total} trials")

    def on_trial_start(self, study: Study, trial: Trial) -> None:
        """A trial begins."""
        again = f" (attempt {trial.attempt})" if trial.attempt > 1 else ""
        since = {**self._standing.since, trial.number: time.time()}
        self._show(study, f"trial {trial.number} started{again}", since=since)

    def on_report(self, study: Study, trial: Trial) -> None:
        """A trial has reported."""
        report = trial.reports[-1]
        part = f" ({report.share:.0%})" if report.share is not None else ""
        line = f"trial {trial.number} step {report.step}{part}: {numbers(report.values)}"
        self._show(study, line, report_of=trial.number)

    def on_trial_end(self, study: Study, trial: Trial) -> None:
        """A trial has ended."""
        what = numbers(trial.values) if trial.values is not None else reason_text(trial)
        params = " ".join(f"{plain(n)}={number(v)}" for n, v in trial.params.items())
        since = {n: at for n, at in self._standing.since.items() if n != trial.number}
        self._show(
            study, f"trial {trial.number} {trial.state.value.lower()}: {what}  {params}", since=since, ended=True
        )

    def on_message(self, study: Study, text: str) -> None:  # noqa: ARG002  observers get the study
        """A notice of one line."""
        self._view.message(plain(text))

    def on_search_end(self, study: Study) -> None:
        """The search has ended."""
        if self._shown:
            self._shown = False
            self._look(study, ended=True)
            known = study.trust()
            if known is not None:
                self._view.message(f"trial {known.best}: {'; '.join(known.sentences)}")
            self._view.end(self._standing, f"ended: {study.name!r}: {self._standing.headline(time.time())}")

    def _show(
        self,
        study: Study,
        line: str,
        *,
        since: dict[int, float] | None = None,
        report_of: int | None = None,
        ended: bool = False,
    ) -> None:
        self._look(study, since=since, ended=ended)
        if ended:
            line = f"{line}  | {self._standing.headline(time.time())}"
        self._view.show(self._standing, line, report_of=report_of)

    def _look(self, study: Study, *, since: dict[int, float] | None = None, ended: bool) -> None:
        old, trials = self._standing, study.trials
        fresh = ended or not old.names  # what takes long among many trials is looked for when one has ended
        self._standing = Standing(
            name=old.name,
            directions=old.directions,
            trials=trials,
            best=study.best_trials if ended else old.best,
            names=self._names(trials) if fresh else old.names,
            n_trials=old.n_trials,
            began=old.began,
            done_before=old.done_before,
            since=old.since if since is None else since,
        )

    def _names(self, trials: Sequence[Trial]) -> tuple[str, ...]:
        return tuple(telling_parameters(trials[-_RANKED:])) if self.live else ()


class LogView:
    """One line with the time for each event; of one trial's reports at most one in `report_every` seconds."""

    def __init__(
        self, console: Console, *, report_every: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._report_every = report_every
        self._clock = clock
        self._reported: dict[int, float] = {}

    def begin(self, standing: Standing, line: str) -> None:  # noqa: ARG002  every view gets the standing
        """Write the line."""
        self.message(line)

    def show(self, standing: Standing, line: str, *, report_of: int | None = None) -> None:  # noqa: ARG002
        """Write the line, unless it is a report too many."""
        if report_of is not None:
            now = self._clock()
            if now - self._reported.get(report_of, float("-inf")) < self._report_every:
                return
            self._reported[report_of] = now
        self.message(line)

    def message(self, text: str) -> None:
        """Write the text after the time."""
        self._console.print(Text(f"{time.strftime('%Y-%m-%d %H:%M:%S')} tunesmith: {text}"), soft_wrap=True)

    def end(self, standing: Standing, line: str) -> None:  # noqa: ARG002
        """Write the line."""
        self.message(line)


def _view_for(console: Console) -> View:
    if console.is_jupyter:
        return NotebookView()
    if console.is_terminal and not console.is_dumb_terminal and os.environ.get("CI", "").lower() in ("", "0", "false"):
        return TerminalView(console)
    return LogView(console)
