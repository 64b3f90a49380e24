"""Progress as people see it, in a terminal and in a log."""

from __future__ import annotations

import io

from rich.console import Console

import tunesmith
from tunesmith.report.progress import Progress, sparkline


def watched(tmp_path, **console):
    out = io.StringIO()
    progress = Progress(Console(file=out, width=120, **console))

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        trial.report(x, 1, share=0.5)
        if trial.number == 1:
            raise ValueError("[bold]odd[/bold]")
        return x

    tunesmith.search(objective, 4, directory=tmp_path, seed=0, progress=False, callbacks=[progress])
    return out.getvalue()


def test_a_log_gets_one_plain_line_per_event(tmp_path):
    lines = watched(tmp_path, force_terminal=False).splitlines()
    assert all("tunesmith: " in line for line in lines)
    assert sum("started" in line for line in lines) == 4
    assert any("trial 1 failed: error: ValueError: [bold]odd[/bold]" in line for line in lines)
    assert "4/4 done" in lines[-1]
    assert "\x1b" not in "".join(lines)


def test_a_terminal_gets_a_table_that_ends_complete(tmp_path):
    out = watched(tmp_path, force_terminal=True)
    assert "\x1b[" in out
    assert "4/4 done" in out
    assert "failed 1 error" in out


def test_a_sparkline_goes_from_low_to_high():
    assert sparkline([0.0, 1.0]) == "▁█"
    assert sparkline([]) == ""
    assert len(sparkline([float(k) for k in range(100)])) == 30
