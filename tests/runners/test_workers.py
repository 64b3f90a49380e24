"""The workers runner keeps the contract, and a fault of a trial, a worker or the driver stays where it is."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import psutil
import pytest
import worker_tasks as tasks

from tunesmith.errors import SettingError
from tunesmith.runners.workers import WorkersRunner
from tunesmith.testing.runners import LIMIT, Driver, RunnerContract, next_ended, one, square
from tunesmith.trial import Assignment, TrialState

KILLS = int(os.environ.get("TUNESMITH_SOAK_ROUNDS", "20"))


class TestWorkersRunner(RunnerContract):
    def make(self, task):
        return WorkersRunner(task, workers=2)


@pytest.fixture
def runner_of():
    """Make runners that are closed after the test."""
    made = []

    def make(task, **settings):
        made.append(WorkersRunner(task, **{"workers": 1, **settings}))
        return made[-1]

    yield make
    for runner in made:
        runner.close()


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone_in_time(pids, limit=LIMIT):
    until = time.monotonic() + limit
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, pids))


def serve_until(runner, driver, key):
    """Serve the running trials until one has told the driver `key`."""
    until = time.monotonic() + LIMIT
    while key not in driver.attrs and time.monotonic() < until:
        assert list(runner.events(0.05)) == []
    return driver.attrs[key]


# -- faults of a trial -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (tasks.leave_at_once, "lost: the worker exited with code 7"),
        (tasks.segfault, "lost: the worker was killed by SIGSEGV"),
        (tasks.abort, "lost: the worker was killed by SIGABRT"),
        (
            tasks.kill_myself,
            "lost: the worker was killed by SIGKILL (by somebody, or by the system for want of memory)",
        ),
    ],
)
def test_a_trial_that_ends_its_process_is_lost_with_its_last_output_and_the_next_one_runs(runner_of, how, reason):
    runner = runner_of(partial(tasks.last_words_then, how))
    for number in range(2):
        outcome = one(runner, assignment=Assignment(number))
        assert (outcome.state, outcome.reason) == (TrialState.FAILED, reason)
        assert "my last words" in outcome.detail


def test_a_segfault_leaves_its_stack(runner_of):
    detail = one(runner_of(partial(tasks.last_words_then, tasks.segfault))).detail
    assert "Segmentation fault" in detail
    assert "in segfault" in detail


def test_sys_exit_fails_the_trial_and_not_the_worker(runner_of):
    outcome = one(runner_of(partial(tasks.last_words_then, tasks.leave_politely)))
    assert outcome.reason == "error: SystemExit: 3"


def test_a_worker_that_closes_its_connection_is_replaced(runner_of):
    outcome = one(runner_of(partial(tasks.last_words_then, tasks.close_everything)))
    assert outcome.reason.startswith("lost: the worker")


def test_a_trial_that_takes_too_long_is_ended_with_its_stack(runner_of):
    outcome = one(runner_of(tasks.sleep_in_here, trial_timeout=0.5))
    assert (outcome.state, outcome.reason) == (TrialState.FAILED, "timeout: the trial took longer than 0.5 s")
    assert "in sleep_in_here" in outcome.detail


def test_a_trial_that_holds_the_interpreter_for_ever_is_ended_with_its_stack(runner_of):
    outcome = one(runner_of(tasks.hold_the_gil, trial_timeout=0.5))
    assert outcome.reason.startswith("timeout")
    assert "in hold_the_gil" in outcome.detail


def test_each_trial_has_the_whole_time(runner_of):
    runner = runner_of(tasks.wait_to_be_killed, trial_timeout=0.7)
    outcomes = [one(runner, assignment=Assignment(number)) for number in range(3)]
    assert [o.state for o in outcomes] == [TrialState.FAILED, TrialState.COMPLETE, TrialState.FAILED]


def test_a_stopped_trial_ends_with_the_reason_of_the_stop(runner_of):
    runner, driver = runner_of(tasks.sleep_in_here), Driver()
    runner.start(Assignment(4), driver)
    pid = serve_until(runner, driver, "pid")
    runner.stop(4, "interrupted: asked to")
    (ended,) = next_ended(runner)
    assert (ended.number, ended.outcome.state, ended.outcome.reason) == (4, TrialState.FAILED, "interrupted: asked to")
    assert gone_in_time([pid])


def test_a_trial_can_be_stopped_before_its_worker_is_ready(runner_of):
    runner = runner_of(tasks.sleep_in_here)
    runner.start(Assignment(0), Driver())
    runner.stop(0, "interrupted: at once")
    (ended,) = next_ended(runner)
    assert ended.outcome.reason == "interrupted: at once"


def test_what_cannot_be_kept_with_a_trial_fails_that_trial_only(runner_of):
    outcome = one(runner_of(tasks.keep_an_exception))
    assert outcome.reason == "error: SettingError: only JSON values can be stored, got Untold: Untold('name')"


def test_signals_for_the_driver_do_not_end_a_trial(runner_of):
    assert one(runner_of(tasks.signal_myself)).values == (1.0,)


def test_programs_that_a_trial_has_started_end_with_it(runner_of):
    runner, driver = runner_of(tasks.start_a_program), Driver()
    runner.start(Assignment(0), driver)
    pid = serve_until(runner, driver, "pid")
    runner.stop(0, "interrupted")
    next_ended(runner)
    assert gone_in_time([pid])


# -- faults of a worker ----------------------------------------------------------------------------------------------


def test_killing_workers_loses_their_trials_and_no_others(runner_of):
    runner = runner_of(tasks.wait_to_be_killed, workers=2)
    lost = completed = 0
    for round_ in range(KILLS):
        driver = Driver()
        runner.start(Assignment(2 * round_), driver)
        pid = serve_until(runner, driver, "pid")
        runner.start(Assignment(2 * round_ + 1), Driver())
        os.kill(pid, signal.SIGKILL)
        ended = []
        while len(ended) < 2:
            ended += next_ended(runner)
        outcomes = {e.number: e.outcome for e in ended}
        lost += outcomes[2 * round_].reason.startswith("lost: the worker was killed by SIGKILL")
        completed += outcomes[2 * round_ + 1].values == (2.0 * round_ + 1,)
    assert (lost, completed) == (KILLS, KILLS)


def test_an_idle_worker_that_is_killed_is_replaced(runner_of):
    runner, driver = runner_of(tasks.report_pid), Driver()
    one(runner, driver)
    os.kill(driver.attrs["pid"], signal.SIGKILL)
    assert gone_in_time([driver.attrs["pid"]])
    outcomes = [one(runner, assignment=Assignment(n)) for n in range(1, 4)]
    # the first may have been given to the dead worker before its death was known; then it is lost, and tried again
    assert [o.state for o in outcomes[1:]] == [TrialState.COMPLETE] * 2
    assert outcomes[0].state is TrialState.COMPLETE or outcomes[0].reason.startswith("lost")


def test_when_the_fork_server_is_killed_the_trials_are_lost_and_the_next_ones_run(runner_of):
    runner, driver = runner_of(tasks.wait_to_be_killed), Driver()
    runner.start(Assignment(0), driver)
    pid = serve_until(runner, driver, "pid")
    os.kill(psutil.Process(pid).ppid(), signal.SIGKILL)
    (ended,) = next_ended(runner)
    assert ended.outcome.reason == "lost: the worker died with the fork server"
    assert gone_in_time([pid])
    assert one(runner, assignment=Assignment(1)).values == (1.0,)


def test_when_the_fork_server_is_killed_between_two_trials_none_is_lost(runner_of):
    runner, driver = runner_of(tasks.report_pid, workers=2), Driver()
    one(runner, driver)
    pid = driver.attrs["pid"]
    server = psutil.Process(pid).parent()
    server.kill()
    assert gone_in_time([server.pid, pid])
    assert one(runner, assignment=Assignment(1)).values == (0.0,)


def test_a_task_that_cannot_be_loaded_in_a_worker_ends_the_search_with_the_cause(runner_of):
    outcome = one(runner_of(tasks.LoadsNowhere()))
    assert isinstance(outcome.fatal, SettingError)
    assert "no such package here" in str(outcome.fatal)


# -- faults of the driver --------------------------------------------------------------------------------------------

DRIVER = """
import sys, time
sys.path.insert(0, {here!r})
import worker_tasks
from tunesmith.testing.runners import Driver
from tunesmith.runners.workers import WorkersRunner
from tunesmith.trial import Assignment

drivers = [Driver(), Driver()]
runner = WorkersRunner(worker_tasks.{task}, workers=2)
for number, driver in enumerate(drivers):
    runner.start(Assignment(number), driver)
while not all("pid" in driver.attrs for driver in drivers):
    list(runner.events(0.05))
print(*[driver.attrs["pid"] for driver in drivers], flush=True)
while True:
    list(runner.events(1.0))
"""


@pytest.mark.parametrize("task", ["sleep_in_here", "hold_the_gil", "start_a_program"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_driver_that_is_killed(tmp_path, task, number):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER.format(here=str(Path(__file__).parent), task=task), encoding="utf-8")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    settings = {**os.environ, "TMPDIR": str(scratch)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=settings) as driver:
        pids = [int(pid) for pid in driver.stdout.readline().split()]
        pids += [child.pid for child in psutil.Process(driver.pid).children(recursive=True)]
        assert len(set(pids)) >= 3  # two workers and their server
        assert list(scratch.iterdir())
        driver.send_signal(number)
    assert gone_in_time(pids)
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_to_all_processes_of_a_job_does_not_end_workers_that_are_being_started(
    runner_of, tmp_path, monkeypatch, number
):
    begun, goes_on = tmp_path / "begun", tmp_path / "goes-on"
    (tmp_path / "slow_to_load.py").write_text(
        f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\n"
        f"while not pathlib.Path({str(goes_on)!r}).exists():\n    time.sleep(0.01)\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    before = psutil.Process().children()
    runner = runner_of(square, preload=["slow_to_load"])
    (server,) = set(psutil.Process().children()) - set(before)
    runner.start(Assignment(0), Driver(value=0.5))
    server.send_signal(number)  # it is hardly there
    until = time.monotonic() + LIMIT
    while not begun.exists() and time.monotonic() < until:
        time.sleep(0.01)
    server.send_signal(number)
    goes_on.touch()
    (ended,) = next_ended(runner)
    assert ended.outcome.values == (0.25,)


# -- what a worker gets ----------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from dataclasses import dataclass

sys.path.insert(0, {here!r})
print("imported", flush=True)

@dataclass
class Settings:
    scale: float = 2.0

SETTINGS = Settings(3.0)

def objective(trial):
    return helper(trial.suggest_float("x", 0, 1))

def helper(x):
    return x * SETTINGS.scale if isinstance(SETTINGS, Settings) else -1.0

from tunesmith.testing.runners import Driver, one
from tunesmith.runners.workers import WorkersRunner

runner = WorkersRunner(objective, workers=1)
print(one(runner, Driver(value=0.5)).values)
runner.close()
"""


@pytest.mark.parametrize("kind", ["script without a main guard", "python -c", "python -m", "standard input"])
def test_functions_and_classes_of_main_work_and_main_runs_once(tmp_path, kind):
    text = SCRIPT.format(here=str(Path(__file__).parent))
    (tmp_path / "a_script.py").write_text(text, encoding="utf-8")
    command, given = {
        "script without a main guard": (["a_script.py"], None),
        "python -c": (["-c", text], None),
        "python -m": (["-m", "a_script"], None),
        "standard input": (["-"], text),
    }[kind]
    done = subprocess.run(
        [sys.executable, *command], input=given, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=LIMIT
    )
    assert done.stdout.splitlines() == ["imported", "(1.5,)"]


def test_what_cannot_be_pickled_is_named_and_no_process_is_left():
    before = psutil.Process().children()
    task = partial(square, callbacks=[None, threading.Lock()])
    with pytest.raises(SettingError, match=re.escape("callbacks[1] (_thread.lock)")):
        WorkersRunner(task, workers=1)
    assert psutil.Process().children() == before


def test_a_task_that_cannot_be_pickled_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SettingError, match="must be picklable"):
        WorkersRunner(threading.Lock(), workers=1)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_serves_many_trials(runner_of):
    runner, driver = runner_of(tasks.remember), Driver()
    assert [one(runner, driver, Assignment(n)).values for n in range(3)] == [(1.0,), (2.0,), (3.0,)]


def test_trials_run_at_the_same_time_in_different_processes(runner_of):
    runner = runner_of(tasks.wait_to_be_killed, workers=2)
    drivers = Driver(), Driver()
    for number, driver in zip((0, 2), drivers, strict=True):
        runner.start(Assignment(number), driver)
    assert len({serve_until(runner, driver, "pid") for driver in drivers}) == 2


def test_threads_and_devices_are_those_of_the_slot(runner_of):
    runner, driver = runner_of(tasks.environment, threads_per_trial=2, gpus_per_trial=0), Driver()
    one(runner, driver)
    assert driver.attrs["environment"] == {
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "2",
        "CUDA_VISIBLE_DEVICES": "",
    }
    assert driver.attrs["torch threads"] == 2


def test_modules_to_preload_are_loaded_and_those_that_are_not_there_do_no_harm(runner_of):
    driver = Driver()
    one(runner_of(tasks.which_modules, preload=("antigravity_of_none", "colorsys")), driver)
    assert driver.attrs["loaded"] == ["colorsys"]


def test_output_goes_to_a_file_in_the_trials_directory(runner_of, tmp_path, capfd):
    runner = runner_of(tasks.say)
    for number in range(2):
        one(runner, assignment=Assignment(number, directory=str(tmp_path / f"run-{number}")))
    for number in range(2):
        text = (tmp_path / f"run-{number}" / "output.log").read_text(encoding="utf-8")
        assert sorted(text.splitlines()) == sorted(
            [f"out of trial {number}", f"err of trial {number}", "from a program"]
        )
    assert capfd.readouterr() == ("", "")


def test_closing_ends_workers_in_the_middle_of_a_trial():
    driver = Driver()
    with closing(WorkersRunner(tasks.sleep_in_here, workers=1)) as runner:
        runner.start(Assignment(0), driver)
        pid = serve_until(runner, driver, "pid")
    assert gone_in_time([pid])


def test_more_trials_than_slots_are_refused(runner_of):
    runner = runner_of(tasks.sleep_in_here)
    runner.start(Assignment(0), Driver())
    with pytest.raises(RuntimeError, match="at most 1 trials run at once, and trial 1 is one more"):
        runner.start(Assignment(1), Driver())


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_is_above_zero(timeout):
    with pytest.raises(SettingError, match="trial_timeout must be above 0 seconds"):
        WorkersRunner(square, workers=1, trial_timeout=timeout)
