"""What other processes may ask of a running search: stop, try again, try this; and who drives it."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time

import pytest

import tunesmith
from tunesmith.errors import SettingError
from tunesmith.record import Record
from tunesmith.record_lock import LOCK, driver_of
from tunesmith.trial import TrialState

SEARCH = """
import sys, time, tunesmith
def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    for step in range(1, 1000):
        trial.report(x, step)
        if trial.should_prune():
            raise __import__("optuna").TrialPruned
        time.sleep(0.02)
tunesmith.search(objective, 3, directory=sys.argv[1], seed=0, progress=False)
print("ended well", flush=True)
"""


def begin(directory):
    process = subprocess.Popen([sys.executable, "-c", SEARCH, str(directory)], stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if (directory / "study.sqlite").exists():
            with Record.open(directory) as record:
                if any(t.reports for t in record.trials()):
                    return process
        time.sleep(0.05)
    process.kill()
    raise AssertionError("the search did not begin")


def test_a_running_search_stops_at_the_next_report_when_another_process_asks(tmp_path):
    process = begin(tmp_path)
    with Record.open(tmp_path) as record:
        record.update_settings(stop="asked by a test")
    assert process.communicate(timeout=60)[0] == "ended well\n"
    study = tunesmith.load_study(tmp_path)
    assert [(t.state, t.reason) for t in study.trials] == [(TrialState.PAUSED, "stopped: asked by a test")]
    assert not study.info.settings["finished"]


def test_a_stopped_search_goes_on_when_it_is_started_again(tmp_path):
    with Record.create(tmp_path, name="s", directions=("minimize",), seed=0, settings={"stop": "x"}) as record:
        assert record.stop_request() == "x"
    settings = {"identity": {"objective": f"{__name__}.objective", "space": None}, "finished": False}
    with Record.open(tmp_path) as record:
        record.update_settings(**settings)
    tunesmith.search(objective, 2, directory=tmp_path, progress=False)
    assert [t.state for t in tunesmith.load_study(tmp_path).trials] == [TrialState.COMPLETE] * 2


def objective(trial):
    return trial.suggest_float("x", 0, 1)


def test_the_driver_is_known_while_it_lives_and_no_longer(tmp_path):
    process = begin(tmp_path)
    driver = driver_of(tmp_path)
    assert (driver.pid, driver.started is not None) == (process.pid, True)
    process.kill()
    process.communicate()
    assert driver_of(tmp_path) is None


def test_a_pid_that_now_belongs_to_another_process_is_no_driver(tmp_path):
    host = os.uname().nodename
    (tmp_path / LOCK).write_text(json.dumps({"pid": os.getpid(), "host": host, "started": 1.0}))
    assert driver_of(tmp_path) is None


def look(directory, until):
    while time.monotonic() < until:
        driver_of(directory)


def test_looking_for_the_driver_never_keeps_one_from_starting(tmp_path):
    Record.create(tmp_path, name="s", directions=("minimize",), seed=0, settings={}).close()
    (tmp_path / LOCK).write_text("")  # nobody's name: each look takes the lock for a moment
    process = multiprocessing.get_context("spawn").Process(target=look, args=(tmp_path, time.monotonic() + 2))
    process.start()
    with Record.open(tmp_path) as record:
        while process.is_alive():
            with record.lock():
                pass
    process.join()


def test_a_failed_trial_is_tried_again_with_its_values_and_keeps_why_it_failed(tmp_path):
    broken = tmp_path / "broken"
    broken.touch()

    def fails_once(trial):
        x = trial.suggest_float("x", 0, 1)
        if broken.exists() and trial.number == 1:
            raise ValueError("no such luck")
        return x

    study = tunesmith.search(fails_once, 3, directory=tmp_path / "s", seed=0, progress=False)
    before = study.trials[1]
    assert before.state is TrialState.FAILED
    broken.unlink()
    with Record.open(tmp_path / "s") as record:
        record.retry(1)
    study = tunesmith.search(fails_once, 3, directory=tmp_path / "s", seed=0, progress=False, resume=True)
    after = study.trials[1]
    assert (after.state, after.attempt, after.params) == (TrialState.COMPLETE, 2, before.params)
    assert after.attrs["failures"] == ["error: ValueError: no such luck"]
    assert len(study.trials) == 3


def test_only_a_failed_trial_is_tried_again(tmp_path):
    tunesmith.search(objective, 1, directory=tmp_path, progress=False)
    with Record.open(tmp_path) as record, pytest.raises(SettingError, match="must be FAILED, and it is COMPLETE"):
        record.retry(0)
