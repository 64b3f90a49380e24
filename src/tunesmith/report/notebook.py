"""The live view of a search in a notebook: one HTML output that updates in place."""

from __future__ import annotations

import time
from collections.abc import Callable
from html import escape
from importlib import import_module
from typing import Any

from tunesmith.report.summary import Standing, plain
from tunesmith.report.table import trial_html

_ROWS, _COLUMNS = 10, 8
_SOONEST = 0.5  # seconds between updates: each one is stored and sent by the kernel
_MESSAGES = 3


class NotebookView:
    """Draws a standing through a display handle; `display` (tests) makes the handle."""

    def __init__(self, display: Callable[[Any], Any] | None = None) -> None:
        self._display = display or _display
        self._handle: Any = None
        self._drawn = 0.0
        self._messages: list[str] = []
        self._standing: Standing | None = None

    def begin(self, standing: Standing, line: str) -> None:  # noqa: ARG002  every view gets the line
        """Make the output."""
        self._standing = standing
        self._handle = self._display(_Html(self._html()))

    def show(self, standing: Standing, line: str, *, report_of: int | None = None) -> None:  # noqa: ARG002
        """Update the output, unless that was done a moment ago."""
        self._standing = standing
        if time.monotonic() - self._drawn >= _SOONEST:
            self._update()

    def message(self, text: str) -> None:
        """Add a notice; the last ones are shown."""
        self._messages = [*self._messages, text][-_MESSAGES:]
        if self._handle is not None:
            self._update()

    def end(self, standing: Standing, line: str) -> None:  # noqa: ARG002
        """Show the last standing, which stays."""
        self._standing = standing
        self._update()

    def _update(self) -> None:
        self._handle.update(_Html(self._html()))
        self._drawn = time.monotonic()

    def _html(self) -> str:
        return "" if self._standing is None else standing_html(self._standing, time.time(), self._messages)


def standing_html(standing: Standing, now: float, messages: list[str]) -> str:
    """A search as HTML that takes its colours from the notebook."""
    names = standing.names[:_COLUMNS]
    bar = ""
    if standing.n_trials:
        bar = f'<progress style="width:16em" max="{standing.n_trials}" value="{min(standing.done, standing.n_trials)}">'
        bar += "</progress> "
    notes = "".join(f"<div>{escape(plain(text))}</div>" for text in messages)
    marked = {t.number for t in standing.best}
    recent = standing.trials[-_ROWS:]
    shown = [*(t for t in standing.best[:1] if t not in recent), *recent]
    return (
        f"<div><div><strong>{escape(plain(standing.name))}</strong> {bar}"
        f"{escape(standing.headline(now))} <code>{standing.curve}</code></div>"
        f"{trial_html(shown, best=marked, names=names)}{notes}</div>"
    )


class _Html:
    """What IPython displays as HTML, and shows as a word where it cannot."""

    def __init__(self, html: str) -> None:
        self._html = html

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return "tunesmith search"


def _display(shown: Any) -> Any:
    return import_module("IPython.display").display(shown, display_id=True)  # in a notebook there is IPython
