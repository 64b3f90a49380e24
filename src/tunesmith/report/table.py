"""Trials as a table: in a terminal, and as HTML for notebooks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from tunesmith.report.summary import (
    best_text,
    failures,
    newest,
    number,
    numbers,
    plain,
    reason_text,
    share,
    telling_parameters,
    why_text,
)
from tunesmith.trial import Trial, TrialState

if TYPE_CHECKING:
    from tunesmith.study import Study

_STYLES = {
    TrialState.FAILED: "red",
    TrialState.PRUNED: "dim",
    TrialState.WAITING: "dim",
    TrialState.PAUSED: "yellow",
}
_IN_NOTEBOOK = 20
_NOTE = 44  # characters in a terminal
_CELL = "padding:2px 10px 2px 0;text-align:left;white-space:nowrap"


def trial_table(
    trials: Sequence[Trial],
    *,
    best: Collection[int] = (),
    names: Sequence[str] | None = None,
    columns: int = 6,
) -> Table:
    """A rich table of trials. `best` holds the numbers to mark, `names` the parameters shown (default: those that
    tell most, at most `columns`)."""  # noqa: D205, D209  one sentence and its arguments
    shown = telling_parameters(trials)[:columns] if names is None else list(names)
    rows = [[*values, _cut(text)] for *values, text in (cells(t, shown, best) for t in trials)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    add_columns(table, headings(shown), firm={"trial", "state", "objective"})
    for t, row in zip(trials, rows, strict=True):
        style = "bold green" if t.number in best else _STYLES.get(t.state)
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row), style=style)
    return table


def add_columns(table: Table, headings: Sequence[str], *, firm: Collection[str]) -> None:
    """Columns of which those that are not `firm` give way where the terminal is narrow, the widest first; no line wraps."""
    for heading in headings:
        text = Text(plain(heading), no_wrap=True, overflow="ellipsis")
        table.add_column(text, overflow="ellipsis", no_wrap=heading in firm)  # rich narrows what may wrap first


def _cut(text: str) -> str:
    """A long note gives way, not the numbers."""
    return text if len(text) <= _NOTE else f"{text[: _NOTE - 1]}…"


def trial_html(
    trials: Sequence[Trial], *, best: Collection[int] = (), names: Sequence[str] | None = None, columns: int = 8
) -> str:
    """The same table as HTML that takes its colours from the page around it."""
    shown = telling_parameters(trials)[:columns] if names is None else list(names)
    head = "".join(f'<th style="{_CELL}">{escape(plain(h))}</th>' for h in headings(shown))
    rows = []
    for t in trials:
        look = "font-weight:600" if t.number in best else ("opacity:.65" if t.state is not TrialState.COMPLETE else "")
        row = "".join(f'<td style="{_CELL}">{escape(cell)}</td>' for cell in cells(t, shown, best))
        rows.append(f'<tr style="{look}">{row}</tr>')
    return (
        '<div style="overflow-x:auto"><table style="border-collapse:collapse;font-variant-numeric:tabular-nums">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def study_html(study: Study) -> str:
    """A study as a notebook shows it: what `_repr_html_` returns."""
    trials, best = study.trials, study.best_trials
    marked = {t.number for t in best}
    done = sum(t.state.finished for t in trials)
    parts = [f"{done} trials finished", best_text(best) if best else "no trial has completed", failures(trials)]
    shown = list(best[:1]) + [t for t in trials if t.number not in marked][-(_IN_NOTEBOOK - 1) :]
    names = telling_parameters(trials)[:8]
    left_out = len(trials) - len(shown)
    more = f"<div>and {left_out} more: <code>study.to_dataframe()</code></div>" if left_out > 0 else ""
    text = " | ".join(p for p in parts if p)
    return (
        f"<div><div><strong>{escape(plain(study.name))}</strong> {escape(text)}</div>"
        f"{trial_html(shown, best=marked, names=names)}{more}</div>"
    )


def headings(names: Sequence[str]) -> list[str]:
    """The columns of a table with these parameters."""
    return ["trial", "state", "objective", *names, "note"]


def cells(trial: Trial, names: Sequence[str], best: Collection[int]) -> list[str]:
    """One row of the table."""
    done = share(trial)
    if trial.number in best:
        note = "best"
    elif trial.reason is None and done is not None and not trial.state.finished:
        note = f"{done:.0%}"
    else:
        note = reason_text(trial) or why_text(trial)
    values = [number(trial.params[n]) if n in trial.params else "" for n in names]
    return [str(trial.number), trial.state.value.lower(), numbers(newest(trial)), *values, note]
