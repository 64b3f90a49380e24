"""Trials and studies as a command prints them: JSON, and text for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tunesmith.report.summary import plain
from tunesmith.steering import activity
from tunesmith.study import Study
from tunesmith.trial import Trial


def print_json(value: Any) -> None:
    """JSON that every reader takes: what is not finite is null."""
    typer.echo(json.dumps(_strict(value), indent=2, ensure_ascii=False, default=str))


def print_rich(*parts: RenderableType) -> None:
    """A renderable; in a pipe as wide as it needs to be."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, Text))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Texts in columns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(Text(heading), overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    print_rich(table)


def trial_json(trial: Trial, *, reports: bool = True) -> dict[str, Any]:
    """All that is known of a trial."""
    known = {
        "number": trial.number,
        "state": trial.state.value.lower(),
        "values": None if trial.values is None else list(trial.values),
        "params": dict(trial.params),
        "attempt": trial.attempt,
        "reason": trial.reason,
        "detail": trial.detail,
        "metrics": dict(trial.metrics),
        "attrs": dict(trial.attrs),
        "why": dict(trial.why),
        "checkpoint": trial.checkpoint,
        "started": trial.started,
        "ended": trial.ended,
        "seconds": trial.duration,
    }
    if reports:
        known["reports"] = [
            {"step": r.step, "values": list(r.values), "epoch": r.epoch, "share": r.share, "time": r.time}
            for r in trial.reports
        ]
    return known


def study_json(study: Study) -> dict[str, Any]:
    """What is known of a study as a whole."""
    trials, best = study.trials, study.best_trials
    states: dict[str, int] = {}
    for t in trials:
        states[t.state.value.lower()] = states.get(t.state.value.lower(), 0) + 1
    return {
        "name": study.name,
        "directory": str(study.directory.resolve()),
        "directions": list(study.directions),
        "activity": activity(study),
        "created": study.info.created,
        "n_trials": study.info.settings.get("n_trials"),
        "states": states,
        "best": [trial_json(t, reports=False) for t in best],
    }


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    return value
