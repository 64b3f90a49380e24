"""Commands that change a study."""

from __future__ import annotations

import io
import shutil
import sqlite3
import subprocess
import sys
import time

import pytest
from cli_tasks import objective

import tunesmith
from tunesmith.record import Record
from tunesmith.trial import TrialState

SCRIPT = """
import sys, time, optuna, tunesmith
def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    for step in range(1, 4000 if trial.number == 2 and trial.attempt == 1 else 3):
        trial.report(x, step)
        if trial.should_prune():
            raise optuna.TrialPruned
        time.sleep(0.01)
    return x
tunesmith.search(objective, 4, directory=sys.argv[1], seed=0, progress=False)
"""


@pytest.fixture
def running(tmp_path):
    """A search that hangs in its third trial."""
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen([sys.executable, "script.py", "s"], cwd=tmp_path)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        time.sleep(0.05)
        if (tmp_path / "s" / "study.sqlite").exists():
            with Record.open(tmp_path / "s") as record:
                if len(record.trials()) == 3 and record.trials()[2].reports:
                    break
    yield process
    process.kill()
    process.wait()


def test_a_running_search_is_stopped_and_resumed(run, running, tmp_path):
    study = tmp_path / "s"
    assert run("show", study, "--json").json["activity"] == "running"
    assert run("enqueue", study, "x=0.25").out == "trial 3 waits with {'x': 0.25}; it runs next\n"
    assert run("rm", study, "--yes").code == 4
    assert run("stop", study, "--json").json["pid"] == running.pid
    assert running.wait(timeout=60) == 0
    assert tunesmith.load_study(study).trials[2].state is TrialState.PAUSED
    with Record.open(study) as record:  # so that the script does not hang again
        record.start(2)
        record.requeue(2, TrialState.WAITING, reason="test", count_attempt=True)
    assert run("resume", study).code == 0
    trials = tunesmith.load_study(study).trials
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 4
    assert trials[3].params == {"x": 0.25}


def test_a_finished_study_is_resumed_after_a_retry_only(run, home):
    done = run("resume", "first")
    assert done.code == 1
    assert "study 'first' is finished: 13 complete, 2 failed" in done.err
    assert run("retry", 2, "first", "--json").json == {
        "study": "first",
        "trial": 2,
        "attempt": 2,
        "activity": "stopped",
    }
    assert not tunesmith.load_study("first").info.settings["finished"]


def test_only_failed_trials_are_tried_again(run, home):
    assert run("retry", 0, "first").err == "tunesmith: trial 0 must be FAILED, and it is COMPLETE\n"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("y=1", "study 'first' has no parameter 'y'; it has kind, x"),
        ("x=11", "x must lie in FloatDistribution(high=10.0, log=True, low=0.001, step=None), got 11"),
        ("kind=c", "kind must lie in CategoricalDistribution(choices=('a', 'b')), got 'c'"),
        ("x", "a parameter is given as NAME=VALUE, got 'x'"),
    ],
)
def test_a_trial_that_cannot_be_is_not_enqueued(run, home, assignment, message):
    done = run("enqueue", "first", assignment)
    assert (done.code, done.err) == (1, f"tunesmith: {message}\n")
    assert len(tunesmith.load_study("first").trials) == 15


def test_an_enqueued_trial_beyond_the_budget_is_said(run, home):
    done = run("enqueue", "first", "x=1", "kind=b")
    assert "trial 15 waits with {'x': 1.0, 'kind': 'b'}" in done.out
    assert "budget of 15 trials is spent" in done.out


def test_rm_removes_the_study_and_nothing_else_of_the_directory(run, home):
    (home / "first" / "run-1" / "checkpoint-3").mkdir(parents=True)
    (home / "first" / "run-notes").mkdir()
    (home / "first" / "tune-trials" / "failed").mkdir(parents=True)
    (home / "first" / "logs").mkdir()
    for name in ("mine.txt", "study.gate", "logs/trial-0.log"):
        (home / "first" / name).touch()
    assert run("rm", "first", "--yes").code == 0
    assert sorted(p.name for p in (home / "first").iterdir()) == ["mine.txt", "run-notes"]
    assert run("rm", "second", "-y").code == 0
    assert not (home / "second").exists()


def test_rm_asks_first(run, home, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert run("rm", "first").code == 1
    assert (home / "first" / "study.sqlite").exists()


def test_resume_without_a_known_command_says_what_to_do(run, home):
    with Record.open("first") as record:
        record.update_settings(finished=False, launch=None)
    assert "run that script again" in run("resume", "first").err
    with Record.open("first") as record:
        record.update_settings(launch={"command": ["python", "x.py", "--hub_token", "secret-1"], "directory": "."})
    assert "held a secret, which is not kept; run it: python x.py --hub_token '***'" in run("resume", "first").err


def test_doctor_finds_a_sound_study_sound(run, home):
    assert run("doctor", "first").out == "first: sound\n"
    assert run("doctor", "first", "--json").json == {"findings": [], "repaired": []}


def test_doctor_finds_and_mends_trials_of_a_killed_search(run, home):
    with Record.open("first") as record:
        record.start(record.add_waiting({}))
    done = run("doctor", "first")
    assert done.code == 3
    assert "trial 15 is RUNNING, and nothing drives the study" in done.out
    assert run("doctor", "first", "--repair").code == 0
    assert tunesmith.load_study("first").trials[15].state is TrialState.WAITING


def test_doctor_finds_a_checkpoint_that_is_gone(run, home):
    with Record.open("first") as record:
        record.start(record.add_waiting({}))
        record.end(15, TrialState.COMPLETE, values=(0.0,), checkpoint=home / "first" / "run-15" / "checkpoint-1")
    done = run("doctor", "first", "--repair")
    assert done.code == 3
    assert "the checkpoint of trial 15 is gone (run-15/checkpoint-1): its model cannot be loaded" in done.out


def test_doctor_saves_what_is_whole_of_a_damaged_file_and_keeps_the_damaged_one(run, home):
    before = tunesmith.load_study("first").trials
    with sqlite3.connect(home / "first" / "study.sqlite") as db:
        db.execute("UPDATE trial SET params = '{\"x\": 666}' WHERE number = 4")
    db.close()
    assert run("show", "first").code == 3
    assert "trial 4 in first/study.sqlite is damaged" in run("doctor", "first").out
    done = run("doctor", "first", "--repair")
    assert done.code == 0
    assert "14 of 15 trials saved" in done.out
    after = tunesmith.load_study("first").trials
    assert [t for t in after if t.number != 4] == [t for t in before if t.number != 4]
    assert (after[4].state, after[4].reason) == (TrialState.FAILED, "lost: its row in the file was damaged")
    kept = [p for p in (home / "first").glob("study.sqlite.damaged-*") if not p.name.endswith(("-wal", "-shm"))]
    assert len(kept) == 1
    study = tunesmith.search(objective, 17, study="first", directory=home / "first", resume=True, progress=False)
    assert len(study.trials) == 17


def test_doctor_saves_what_it_can_of_a_file_with_overwritten_pages(run, home):
    path = home / "first" / "study.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'report'").fetchone()[0]
        size = db.execute("PRAGMA page_size").fetchone()[0]
    db.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    assert run("show", "first").code == 3
    assert run("doctor", "first", "--repair").code == 0
    assert len(tunesmith.load_study("first").completed()) == 13


def test_doctor_says_when_nothing_can_be_saved(run, home):
    shutil.copyfile("/bin/true", home / "first" / "study.sqlite")
    assert "is not a database" in run("doctor", "first").out
    done = run("doctor", "first", "--repair")
    assert done.code == 3
    assert "the study's own row" in done.err
