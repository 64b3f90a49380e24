"""Progress as people see it: in a terminal, in a log, in a notebook."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.console import Console

import tunesmith
from tunesmith.report.notebook import NotebookView
from tunesmith.report.progress import LogView, Progress
from tunesmith.report.summary import Standing, plain, sparkline
from tunesmith.trial import Report, Trial, TrialState

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d tunesmith: ")


def run(tmp_path, progress):
    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        trial.report(x, 1, share=0.5)
        trial.report(x, 2, share=1)
        if trial.number == 1:
            raise ValueError("[bold]odd[/bold] \x1b[31m & <b>")
        return x

    tunesmith.search(objective, 4, directory=tmp_path, seed=0, progress=False, callbacks=[progress])


def test_a_log_gets_one_plain_line_per_event(tmp_path):
    out = io.StringIO()
    progress = Progress(Console(file=out, width=40))
    assert not progress.live
    run(tmp_path, progress)
    lines = out.getvalue().splitlines()
    assert all(LINE.match(line) for line in lines)
    assert sum("started" in line for line in lines) == 4
    assert any("trial 1 failed: error: ValueError: [bold]odd[/bold]" in line for line in lines)
    assert "4/4 done" in lines[-1]
    assert "1 failed (1 error)" in lines[-1]
    assert "\x1b" not in out.getvalue()


def test_the_end_says_whether_the_best_can_be_trusted(tmp_path):
    out = io.StringIO()
    progress = Progress(Console(file=out, width=40))
    objective = lambda t: t.suggest_float("x", 0, 1)  # noqa: E731
    best = tunesmith.search(objective, 12, directory=tmp_path, seed=0, progress=False, callbacks=[progress]).best_trial
    *_, trusted, ended = out.getvalue().splitlines()
    assert f"tunesmith: trial {best.number}: trained again it would come to " in trusted
    assert "ended: " in ended


def test_ci_gets_lines_even_when_it_looks_like_a_terminal(monkeypatch):
    terminal = {"file": io.StringIO(), "force_terminal": True, "_environ": {"TERM": "xterm"}}
    monkeypatch.setenv("CI", "true")
    assert not Progress(Console(**terminal)).live
    monkeypatch.delenv("CI")
    assert Progress(Console(**terminal)).live


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    assert not Progress(Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})).live


def test_many_reports_of_one_trial_are_thinned_out_in_a_log():
    now = [0.0]
    out = io.StringIO()
    view = LogView(Console(file=out), report_every=10, clock=lambda: now[0])
    for _ in range(25):
        view.show(Standing("s", ()), "reported", report_of=3)
        now[0] += 1
    view.show(Standing("s", ()), "reported", report_of=4)
    view.show(Standing("s", ()), "ended")
    assert out.getvalue().count("reported") == 3 + 1
    assert out.getvalue().count("ended") == 1


class Handle:
    def __init__(self, shown):
        self.html = [shown._repr_html_()]

    def update(self, shown):
        self.html.append(shown._repr_html_())


def test_a_notebook_gets_one_output_that_ends_complete_and_escaped(tmp_path):
    handles = []

    def display(shown):
        handles.append(Handle(shown))
        return handles[-1]

    progress = Progress(view=NotebookView(display))
    assert progress.live
    run(tmp_path, progress)
    (handle,) = handles
    assert "4/4 done" in handle.html[-1]
    assert "&lt;b&gt;" in handle.html[-1]
    assert "<b>" not in handle.html[-1]
    assert len(handle.html) > 1


IN_TERMINAL = """
import logging, os, sys, warnings
import tunesmith
log = logging.getLogger("third.party"); log.addHandler(logging.StreamHandler())
logging.getLogger("asks.each.time").addHandler(logging.lastResort)
def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    print(f"printed by {trial.number}")
    log.warning("logged by %d", trial.number)
    for k in range(3):
        sys.stderr.write(f"\\rbar {trial.number} at {k}"); sys.stderr.flush()
    sys.stderr.write("\\n")
    child = os.fork()
    if child == 0:
        os._exit(0 if sys.stdout is sys.__stdout__ else 1)
    assert os.waitpid(child, 0)[1] == 0
    trial.report(x, 1, share=0.5)
    if trial.number == 1:
        raise ValueError("odd")
    return x
warnings.simplefilter("ignore")
tunesmith.search(objective, 4, directory=sys.argv[1], seed=0)
assert sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__ and log.handlers[0].stream is sys.__stderr__
"""


@pytest.fixture(scope="module")
def in_terminal(tmp_path_factory):
    """What a search writes to a real (pseudo) terminal."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("CI", "NO_COLOR")} | {"TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, str(tmp_path_factory.mktemp("search") / "study")],
        stdin=follower, stdout=follower, stderr=follower, env=env,
    )  # fmt: skip
    os.close(follower)
    out = b""
    while select.select([leader], [], [], 300)[0]:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other side has closed
            break
        if not part:
            break
        out += part
    assert process.wait(timeout=60) == 0, out.decode()
    os.close(leader)
    return out.decode()


def screen(out: str) -> list[str]:
    """The lines that are left of the output of one who only moves up and erases lines, as rich does."""
    lines, row = [""], 0
    for token in re.findall(r"\x1b\[\??[\d;]*[a-zA-Z]|\r\n|\r|\n|[^\x1b\r\n]+", out):
        if token == "\r\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif token.endswith("A") and token.startswith("\x1b["):
            row -= int(token[2:-1] or 1)
        elif token == "\x1b[2K":
            lines[row] = ""
        elif not token.startswith("\x1b") and token != "\r":
            lines[row] += token
    return [line.rstrip() for line in lines]


def test_a_terminal_ends_with_the_whole_block_once(in_terminal):
    lines = screen(in_terminal)
    assert [line for line in lines if "4/4 trials" in line]
    assert sum("trials  " in line and "━" in line for line in lines) == 1
    assert any(line == "1 failed (1 error)" for line in lines)
    assert any(line.startswith("best ") for line in lines)
    assert any("objective by trial" in line for line in lines)


def test_what_others_print_stands_above_the_block_whole(in_terminal):
    lines = screen(in_terminal)
    block = next(k for k, line in enumerate(lines) if "4/4 trials" in line)
    for k in range(4):
        for text in (f"printed by {k}", f"logged by {k}", f"bar {k} at 2"):
            assert lines.count(text) == 1
            assert lines.index(text) < block
    assert not any("at 0" in line or "at 1" in line for line in lines)


def test_time_left_counts_what_this_run_did_and_the_parts_of_running_trials():
    done = [Trial(k, TrialState.COMPLETE, values=(1.0,)) for k in range(3)]
    half = Trial(3, TrialState.RUNNING, reports=(Report(1, (1.0,), share=0.5),))
    standing = Standing("s", ("minimize",), (*done, half), n_trials=6, began=100.0, done_before=2)
    assert standing.seconds_left(103.0) == pytest.approx(3.0 / 1.5 * 2.5)
    assert standing.seconds_left(100.0) is None
    assert Standing("s", ("minimize",), tuple(done), n_trials=3, began=0).seconds_left(9.0) is None


def test_a_sparkline_goes_from_low_to_high_and_bears_outliers():
    assert sparkline([0.0, 1.0]) == "▁█"
    assert sparkline([]) == ""
    assert sparkline([float("nan"), 2.0]) == "▁"
    assert len(sparkline([float(k) for k in range(100)])) == 30
    assert len(set(sparkline([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1e9]))) > 3


def test_control_characters_do_not_reach_the_terminal():
    assert plain("a\x1b[2Jb\r\n\x9b\u202ec") == "a [2Jb    c"


def test_nothing_of_the_view_is_left_when_the_module_is_only_imported():
    code = "import sys; before = sys.stdout; import tunesmith.report.progress; sys.exit(sys.stdout is not before)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path.cwd()).returncode == 0
