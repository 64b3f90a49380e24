"""The live view of a search in a terminal: one block at the bottom that updates in place, all other output above it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TextIO
from weakref import WeakSet

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tunesmith.report.summary import (
    Standing,
    best_text,
    duration,
    newest,
    number,
    numbers,
    plain,
    share,
)
from tunesmith.report.table import add_columns, trial_table
from tunesmith.trial import Trial

_ROWS, _COLUMNS = 8, 5  # running trials shown, and parameters of each
_BAR = 24
_TICK = 1.0  # seconds between updates when nothing happens: the clocks go on
_SOONEST = 1.0  # seconds between updates when much happens: a drawing takes some 10 ms from the training

_open: WeakSet[TerminalView] = WeakSet()


class TerminalView:
    """Draws a standing; what others write to stdout and stderr meanwhile appears above it, progress bars once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._standing: Standing | None = None
        self._drawn = 0.0
        self._over = threading.Event()
        self._kept = contextlib.ExitStack()
        self.lock = threading.RLock()

    def begin(self, standing: Standing, line: str) -> None:  # noqa: ARG002  every view gets the line
        """Start to draw."""
        self._standing = standing
        self._over.clear()
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            get_renderable=self._render,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start(refresh=True)
        self._kept.enter_context(_output_above(self._console))
        _open.add(self)
        threading.Thread(target=self._tick, name="tunesmith-progress", daemon=True).start()

    def show(self, standing: Standing, line: str, *, report_of: int | None = None) -> None:  # noqa: ARG002
        """Draw the standing, unless the last drawing is too recent: then the clock draws it."""
        self._standing = standing
        if time.monotonic() - self._drawn >= _SOONEST:
            self._refresh()

    def message(self, text: str) -> None:
        """Print a notice above."""
        with self.lock:
            self._console.print(Text(text), soft_wrap=True)

    def end(self, standing: Standing, line: str) -> None:  # noqa: ARG002
        """Draw the last standing, which stays, and give stdout and stderr back."""
        self._standing = standing
        self._over.set()
        _open.discard(self)
        with self.lock:
            try:
                self._kept.close()
            finally:  # the cursor is shown again whatever happens
                if self._live is not None:
                    self._live.stop()  # draws once more
                    self._live = None

    def leave_in_child(self) -> None:
        """After a fork: the child writes where it wrote before and draws nothing."""
        self._kept.close()
        self._live = None

    def _tick(self) -> None:
        while not self._over.wait(_TICK):
            self._refresh()

    def _refresh(self) -> None:
        with self.lock:
            if self._live is not None:
                self._live.refresh()
                self._drawn = time.monotonic()

    def _render(self) -> RenderableType:
        return Text("") if self._standing is None else standing_view(self._standing, time.time(), self._console.height)


def standing_view(standing: Standing, now: float, height: int = 25) -> RenderableType:
    """A search as a block: how far it is, the running trials, the best one, the objective so far, the failures."""
    parts: list[RenderableType] = [_first_line(standing, now)]
    running = standing.running
    rows = min(_ROWS, max(height - 8, 1))
    names = standing.names[:_COLUMNS]
    if running:
        parts.append(_running_table(running[:rows], names, standing, now))
        if len(running) > rows:
            parts.append(Text(f"and {len(running) - rows} more running", style="dim"))
    elif standing.trials:
        marked = {t.number for t in standing.best}
        parts.append(trial_table(standing.trials[-rows:], best=marked, names=names))
    if standing.best:
        parts.append(_best_line(standing.best, standing.names))
    if len(standing.curve) > 1:
        parts.append(Text(f"objective by trial  {standing.curve}"))
    if standing.failed:
        parts.append(Text(standing.failed, style="red"))
    return Group(*parts)


def _first_line(standing: Standing, now: float) -> RenderableType:
    total = standing.n_trials
    done = f"{standing.done}/{total} trials" if total is not None else f"{standing.done} trials"
    left = standing.seconds_left(now)
    time_left = f"{duration(now - standing.began)} so far" + ("" if left is None else f", about {duration(left)} left")
    line = Table.grid(padding=(0, 2))
    line.add_column(no_wrap=True, overflow="ellipsis")
    line.add_column(width=_BAR)
    line.add_column(no_wrap=True)
    line.add_column(no_wrap=True, overflow="ellipsis")
    bar = ProgressBar(total=max(total, 1), completed=min(standing.done, total), width=_BAR) if total is not None else ""
    line.add_row(Text(plain(standing.name), style="bold"), bar, Text(done), Text(time_left, style="dim"))
    return line


def _running_table(running: Sequence[Trial], names: Sequence[str], standing: Standing, now: float) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    firm = ("trial", "state", "objective", "progress", "time")
    add_columns(table, [*firm[:3], *names, *firm[3:]], firm=firm)
    for t in running:
        part = share(t)
        bar: RenderableType = Text(f"step {t.reports[-1].step}" if t.reports else "")
        if part is not None:
            bar = ProgressBar(total=1.0, completed=part, width=10)
        since = standing.since.get(t.number)
        state = "running" if t.attempt == 1 else f"running, attempt {t.attempt}"
        values = [Text(number(t.params[n]) if n in t.params else "", no_wrap=True, overflow="ellipsis") for n in names]
        clock = Text("" if since is None else duration(now - since))
        table.add_row(Text(str(t.number)), Text(state), Text(numbers(newest(t))), *values, bar, clock)
    return table


def _best_line(best: tuple[Trial, ...], names: Sequence[str]) -> Text:
    first = best[0]
    settings = "  ".join(f"{plain(n)}={number(first.params[n])}" for n in names if n in first.params)
    line = Text(best_text(best), style="bold green", no_wrap=True, overflow="ellipsis")
    if len(best) == 1:
        line.append(f"  {settings}", style="default not bold")
    return line


@contextlib.contextmanager
def _output_above(console: Console) -> Iterator[None]:
    """Send stdout, stderr and the loggers that write to them through `console`, above the live block."""
    before = sys.stdout, sys.stderr
    above = _Above(console, before[0]), _Above(console, before[1])
    loggers = [
        logging.getLogger(),
        *(x for x in logging.root.manager.loggerDict.values() if isinstance(x, logging.Logger)),
    ]
    handlers = {h for logger in loggers for h in logger.handlers if isinstance(h, logging.StreamHandler)}
    # a handler that asks for sys.stderr at each line (logging's of last resort) has no stream of its own
    moved = [(h, h.stream) for h in handlers if "stream" in vars(h) and h.stream in before]
    sys.stdout, sys.stderr = above
    for handler, stream in moved:
        handler.setStream(above[before.index(stream)])
    try:
        yield
    finally:
        for stream in above:
            stream.finish()
        for handler, stream in moved:
            if handler.stream in above:
                handler.setStream(stream)
        if sys.stdout is above[0]:
            sys.stdout = before[0]
        if sys.stderr is above[1]:
            sys.stderr = before[1]


class _Above(io.TextIOBase):
    """A text stream whose whole lines are printed above the block; of a line that was rewritten, the last state."""

    def __init__(self, console: Console, stream: TextIO) -> None:
        self._console = console
        self._stream = stream
        self._rest = ""

    @property
    def rich_proxied_file(self) -> TextIO:
        return self._stream  # where rich itself writes, instead of here again

    @property
    def encoding(self) -> str:  # type: ignore[override]  # TextIOBase declares an attribute
        return self._stream.encoding

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._print(line)
        self._rest = _last_state(self._rest)
        return len(text)

    def finish(self) -> None:
        """Print what has no end of line."""
        if self._rest.strip():
            self._print(self._rest)
        self._rest = ""

    def _print(self, line: str) -> None:
        self._console.print(Text.from_ansi(_last_state(line)), soft_wrap=True)


def _last_state(line: str) -> str:
    r"""What a terminal shows of a line with returns: `"10%\r20%"` is `"20%"`. A return at the end rewrites nothing yet."""
    return next((part for part in reversed(line.split("\r")) if part), "")


def _before_fork() -> None:
    for view in list(_open):
        view.lock.acquire()


def _after_fork_in_parent() -> None:
    for view in list(_open):
        view.lock.release()


def _after_fork_in_child() -> None:
    for view in list(_open):
        view.leave_in_child()
        view.lock.release()


if hasattr(os, "register_at_fork"):  # a child forked in the middle of a drawing would inherit rich's locks, taken
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
