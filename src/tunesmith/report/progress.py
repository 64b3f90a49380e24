"""Live progress of a search: a table that updates in a terminal, timestamped lines elsewhere."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tunesmith.trial import Trial, TrialState

if TYPE_CHECKING:
    from tunesmith.study import Study

_BARS = "▁▂▃▄▅▆▇█"
_SHOWN = 8  # trials in the live table


class Progress:
    """An observer that shows a search. In a terminal one table updates in place; else one line per event."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self.live = self._console.is_terminal and not self._console.is_jupyter
        self._view: Live | None = None
        self._n_trials: int | None = None
        self._began = time.monotonic()
        self._done_before = 0

    def on_search_start(self, study: Study, n_trials: int | None) -> None:
        """Begin to show."""
        self._n_trials, self._began = n_trials, time.monotonic()
        self._done_before = sum(t.state.finished for t in study.trials)
        if self.live:
            self._view = Live(self._table(study), console=self._console, refresh_per_second=4, transient=False)
            self._view.start()
        else:
            self._line(f"study {study.name!r} in {study.directory}: {n_trials or 'any number of'} trials")

    def on_trial_start(self, study: Study, trial: Trial) -> None:
        """A trial begins."""
        again = f" (attempt {trial.attempt})" if trial.attempt > 1 else ""
        self._show(study, f"trial {trial.number} started{again}")

    def on_report(self, study: Study, trial: Trial) -> None:
        """A trial has reported."""
        report = trial.reports[-1]
        share = f" ({report.share:.0%})" if report.share is not None else ""
        self._show(study, f"trial {trial.number} step {report.step}{share}: {_numbers(report.values)}")

    def on_trial_end(self, study: Study, trial: Trial) -> None:
        """A trial has ended."""
        what = _numbers(trial.values) if trial.values is not None else (trial.reason or "")
        state = trial.state.value.lower()
        text = f"trial {trial.number} {state}: {what.removeprefix(f'{state}: ')}  {_params(trial)}"
        self._show(study, f"{text}  | {self._headline(study)}")

    def on_message(self, study: Study, text: str) -> None:  # noqa: ARG002  observers get the study
        """A notice of one line."""
        if self._view is not None:
            self._view.console.print(Text(text))
        else:
            self._line(text)

    def on_search_end(self, study: Study) -> None:
        """The search has ended."""
        if self._view is not None:
            self._view.update(self._table(study), refresh=True)
            self._view.stop()
            self._view = None
        else:
            self._line(f"ended: {study.summary()} | {self._headline(study)}")

    def _show(self, study: Study, line: str) -> None:
        if self._view is not None:
            self._view.update(self._table(study))
        else:
            self._line(line)

    def _line(self, text: str) -> None:
        self._console.print(Text(f"{time.strftime('%H:%M:%S')} tunesmith: {text}"), soft_wrap=True)

    def _headline(self, study: Study) -> str:
        done = [t for t in study.trials if t.state.finished]
        parts = [f"{len(done)}/{self._n_trials or '?'} done"]
        best = study.best_trials
        if best:
            parts.append(f"best {_numbers(best[0].values)} (trial {best[0].number})")
        failed = Counter((t.reason or "").partition(":")[0] for t in done if t.state is TrialState.FAILED)
        if failed:
            parts.append("failed " + ", ".join(f"{n} {reason}" for reason, n in failed.items()))
        left = self._left(len(done))
        return " | ".join([*parts, *([f"about {left} left"] if left else [])])

    def _left(self, done: int) -> str | None:
        new = done - self._done_before
        if self._n_trials is None or new < 1 or done >= self._n_trials:
            return None
        seconds = (time.monotonic() - self._began) / new * (self._n_trials - done)
        return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"  # noqa: PLR2004

    def _table(self, study: Study) -> Group:
        trials = study.trials
        table = trial_table(trials[-_SHOWN:], best={t.number for t in study.best_trials})
        curve = sparkline([t.values[0] for t in trials if t.values])
        return Group(table, Text(f"{study.name}: {self._headline(study)}  {curve}"))


def trial_table(trials: Any, *, best: set[int]) -> Table:
    """A rich table of trials: number, state, value, progress or reason, parameters that differ."""
    trials = list(trials)
    names = list(dict.fromkeys(n for t in trials for n in t.params))[:6]
    table = Table(box=None, pad_edge=False)
    for heading in ("trial", "state", "objective", *names, "note"):
        table.add_column(heading, overflow="ellipsis", no_wrap=True)
    for t in trials:
        newest = t.values if t.values is not None else (t.reports[-1].values if t.reports else None)
        share = t.reports[-1].share if t.reports else None
        running = f"{share:.0%}" if share is not None and not t.state.finished else ""
        row = [str(t.number), t.state.value.lower(), _numbers(newest), *(_short(t.params.get(n, "")) for n in names)]
        note = "best" if t.number in best else (t.reason or running)
        table.add_row(*(Text(cell) for cell in [*row, note]), style="bold green" if t.number in best else None)
    return table


def sparkline(values: list[float], width: int = 30) -> str:
    """The last values as a line of block characters."""
    shown = [v for v in values if math.isfinite(v)][-width:]
    if not shown:
        return ""
    low, span = min(shown), max(shown) - min(shown)
    return "".join(_BARS[int((v - low) / span * (len(_BARS) - 1)) if span else 0] for v in shown)


def _numbers(values: Any) -> str:
    return "" if values is None else ", ".join(f"{v:.5g}" for v in values)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _params(trial: Trial) -> str:
    return " ".join(f"{n}={_short(v)}" for n, v in trial.params.items())
