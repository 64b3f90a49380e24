"""The Ray runner keeps the contract on one small cluster, and a fault of an actor or of a node stays where it is."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import ray
import worker_tasks as tasks
from rank_tasks import OneFaultEach, notes
from ray.cluster_utils import Cluster

import tunesmith
from tunesmith.errors import SettingError
from tunesmith.record import FILE
from tunesmith.runners.ray import RayRunner
from tunesmith.testing.runners import LIMIT, Driver, RunnerContract, next_ended, one, square
from tunesmith.trial import Assignment, TrialState

pytestmark = pytest.mark.filterwarnings("ignore:no worker has started")  # on a loaded machine


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One Ray for all tests of this file: a head that runs the driver, and one node for trials."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    settings = {"include_dashboard": False, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **settings})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def runner_of():
    """Make runners that are closed after the test."""
    made = []

    def make(task, **settings):
        made.append(RayRunner(task, **{"workers": 1, **settings}))
        return made[-1]

    yield make
    for runner in made:
        runner.close()


@pytest.fixture
def node(cluster):
    """A node of its own kind, so that what asks for a "seat" runs there."""
    added = cluster.add_node(num_cpus=1, resources={"seat": 1}, object_store_memory=80 * 2**20)
    yield added
    if added in cluster.worker_nodes:
        cluster.remove_node(added)


class TestRayRunner(RunnerContract):
    def make(self, task):
        return RayRunner(task, workers=1)


def serve_until(runner, driver, key):
    """Serve the running trials until one has told the driver `key`."""
    until = time.monotonic() + LIMIT
    while key not in driver.attrs and time.monotonic() < until:
        assert list(runner.events(0.05)) == []
    return driver.attrs[key]


def gone_in_time(pids):
    return not survivors(pids)


def survivors(pids):
    """The processes that have not gone in time."""
    until = time.monotonic() + LIMIT
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    return [" ".join(psutil.Process(pid).cmdline()) for pid in pids if alive(pid)]


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# -- faults of a trial -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [tasks.leave_at_once, tasks.segfault, tasks.kill_myself])
def test_a_trial_that_ends_its_process_is_lost_with_its_last_output_and_the_next_one_runs(runner_of, how):
    runner = runner_of(partial(tasks.last_words_then, how))
    for number in range(2):
        outcome = one(runner, assignment=Assignment(number))
        assert (outcome.state, outcome.reason) == (
            TrialState.FAILED,
            "lost: the worker died (it was killed, crashed, or out of memory)",
        )
        assert "my last words" in outcome.detail
    assert ("in segfault" in outcome.detail) == (how is tasks.segfault)


@pytest.mark.parametrize("task", [tasks.sleep_in_here, tasks.hold_the_gil])
def test_a_trial_that_takes_too_long_is_ended_with_its_stack(runner_of, task):
    outcome = one(runner_of(task, trial_timeout=0.5))
    assert (outcome.state, outcome.reason) == (TrialState.FAILED, "timeout: the trial took longer than 0.5 s")
    assert f"in {task.__name__}" in outcome.detail


def test_a_trial_in_time_is_not_ended_later(runner_of):
    runner = runner_of(tasks.remember, trial_timeout=0.5)
    assert one(runner).values == (1.0,)
    time.sleep(1.5)
    assert one(runner, assignment=Assignment(1)).values == (2.0,)


def test_a_stopped_trial_ends_with_the_reason_of_the_stop(runner_of):
    runner, driver = runner_of(tasks.sleep_in_here), Driver()
    runner.start(Assignment(4), driver)
    pid = serve_until(runner, driver, "pid")
    runner.stop(4, "interrupted: asked to")
    (ended,) = next_ended(runner)
    assert (ended.number, ended.outcome.state, ended.outcome.reason) == (4, TrialState.FAILED, "interrupted: asked to")
    assert gone_in_time([pid])


def test_a_trial_can_be_stopped_before_there_is_a_worker(runner_of):
    runner = runner_of(tasks.sleep_in_here)
    runner.start(Assignment(0), Driver())
    runner.stop(0, "interrupted: at once")
    (ended,) = next_ended(runner)
    assert ended.outcome.reason == "interrupted: at once"


def test_programs_that_a_trial_has_started_end_with_it(runner_of):
    runner, driver = runner_of(tasks.start_a_program), Driver()
    runner.start(Assignment(0), driver)
    pid = serve_until(runner, driver, "pid")
    runner.stop(0, "interrupted")
    next_ended(runner)
    assert gone_in_time([pid])


# -- faults of a worker or a node --------------------------------------------------------------------------------------


def test_an_idle_worker_that_is_killed_is_replaced(runner_of):
    runner, driver = runner_of(tasks.report_pid), Driver()
    one(runner, driver)
    os.kill(driver.attrs["pid"], signal.SIGKILL)
    assert gone_in_time([driver.attrs["pid"]])
    outcomes = [one(runner, assignment=Assignment(n)) for n in range(1, 4)]
    # the first may have been given to the dead worker before its death was known; then it is lost, and tried again
    assert [o.state for o in outcomes[1:]] == [TrialState.COMPLETE] * 2
    assert outcomes[0].state is TrialState.COMPLETE or outcomes[0].reason.startswith("lost")


def test_a_task_that_cannot_be_loaded_in_a_worker_ends_the_search_with_the_cause(runner_of):
    outcome = one(runner_of(tasks.LoadsNowhere()))
    assert isinstance(outcome.fatal, SettingError)
    assert "no such package here" in str(outcome.fatal)


def test_a_trial_on_a_node_that_is_lost_is_lost_and_runs_on_the_next_node(cluster, node, runner_of):
    runner, driver = runner_of(tasks.wait_to_be_killed, resources_per_trial={"cpu": 1, "seat": 1}), Driver()
    runner.start(Assignment(0), driver)
    serve_until(runner, driver, "pid")
    cluster.remove_node(node, allow_graceful=False)
    (ended,) = next_ended(runner)
    assert ended.outcome.reason.startswith("lost: the worker")
    runner.start(Assignment(1), Driver())
    assert list(runner.events(0.5)) == []
    another = cluster.add_node(num_cpus=1, resources={"seat": 1}, object_store_memory=80 * 2**20)
    try:
        (ended,) = next_ended(runner)
        assert ended.outcome.values == (1.0,)
    finally:
        cluster.remove_node(another)


def test_all_workers_are_asked_for_at_once_and_slots_follow_those_that_came(cluster, node, runner_of):
    runner = runner_of(tasks.wait_to_be_killed, workers=2, resources_per_trial={"seat": 1})
    assert runner.slots == 1
    drivers = Driver(), Driver()
    runner.start(Assignment(0), drivers[0])
    serve_until(runner, drivers[0], "pid")
    assert runner.slots == 1
    with pytest.raises(RuntimeError, match="at most 1 trials run at once, and trial 2 is one more"):
        runner.start(Assignment(2), drivers[1])
    another = cluster.add_node(num_cpus=1, resources={"seat": 1}, object_store_memory=80 * 2**20)
    try:
        until = time.monotonic() + LIMIT
        while runner.slots < 2 and time.monotonic() < until:
            assert list(runner.events(1.0)) == []
        runner.start(Assignment(2), drivers[1])
        assert serve_until(runner, drivers[1], "pid") != drivers[0].attrs["pid"]
    finally:
        runner.close()
        cluster.remove_node(another)


def test_as_many_workers_as_the_cluster_holds_by_default(node, runner_of):
    runner = runner_of(tasks.wait_to_be_killed, workers="auto", resources_per_trial={"seat": 0.5})
    runner.start(Assignment(0), Driver())
    until = time.monotonic() + LIMIT
    while runner.slots < 2 and time.monotonic() < until:
        assert list(runner.events(0.5)) == []
    assert runner.slots == 2
    runner.start(Assignment(1), Driver())
    assert next_ended(runner)[0].outcome.values == (1.0,)


# -- several ranks -----------------------------------------------------------------------------------------------------


def test_ranks_are_placed_together_or_not_at_all_and_a_fault_of_one_ends_the_trial_on_all(tmp_path):
    study = tunesmith.search(
        OneFaultEach(("none", "rank 1 fails", "rank 1 fails", "rank 1 is killed", "none again")),
        5,
        directory=tmp_path,
        runner="ray",
        workers=2,  # there is room for one, and half of the other's is never taken
        ranks_per_trial=2,
        resources_per_trial={"cpu": 1},
        max_failures=9,
        progress=False,
        seed=1,
    )
    fails, complete = [TrialState.FAILED] * 2, [TrialState.COMPLETE] * 2
    assert [t.state for t in study.trials] == [TrialState.COMPLETE, *fails, *complete]
    assert {t.reason for t in study.trials[1:3]} == {"error: ValueError: rank 1 fails (on rank 1 of 2)"}
    assert study.trials[3].attrs["failures"][0].startswith("lost: the worker lost rank 1 of 2, which died")
    both = [[(n["trial"], n["attempt"], n["step"], n["x"], n["value"]) for n in notes(tmp_path) if n["rank"] == rank]
            for rank in range(2)]  # fmt: skip
    assert both[0] == both[1]
    pids = {n["pid"] for n in notes(tmp_path)}
    assert len(pids) == 2 * 2  # Ray still reaches the ranks that a failure has freed from their group
    assert gone_in_time(pids)


# -- faults of the driver --------------------------------------------------------------------------------------------

DRIVER = """
import sys
sys.path.insert(0, {here!r})
import psutil, worker_tasks
from tunesmith.testing.runners import Driver
from tunesmith.record import FILE
from tunesmith.runners.ray import RayRunner
from tunesmith.trial import Assignment

driver = Driver()
runner = RayRunner(worker_tasks.start_a_program, workers=1)
runner.start(Assignment(0), driver)
while "pid" not in driver.attrs:
    list(runner.events(0.05))
# Ray's two agents leave by themselves, but take a minute to notice that there is nobody to tell
children = [c for c in psutil.Process().children(recursive=True) if not c.cmdline()[0].split()[0].endswith("Agent")]
print(driver.attrs["pid"], *[child.pid for child in children], flush=True)
while True:
    list(runner.events(1.0))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_driver_that_is_killed(tmp_path, number):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER.format(here=str(Path(__file__).parent)), encoding="utf-8")
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as driver:
        pids = [int(pid) for pid in driver.stdout.readline().split()]
        assert len(pids) >= 4  # the trial's program, its worker, Ray's own
        driver.send_signal(number)
    assert survivors(pids) == []


# -- what a worker gets ----------------------------------------------------------------------------------------------


def test_a_worker_serves_many_trials(runner_of):
    runner, driver = runner_of(tasks.remember), Driver()
    assert [one(runner, driver, Assignment(n)).values for n in range(3)] == [(1.0,), (2.0,), (3.0,)]


def test_output_goes_to_the_file_of_its_trial(runner_of, tmp_path, capfd):
    runner = runner_of(tasks.say)
    for number in range(2):
        one(runner, assignment=Assignment(number, directory=str(tmp_path / f"run-{number}")))
    for number in range(2):
        text = (tmp_path / f"run-{number}" / "output.log").read_text(encoding="utf-8")
        assert sorted(text.splitlines()) == sorted(
            [f"out of trial {number}", f"err of trial {number}", "from a program"]
        )
    shown = capfd.readouterr()
    assert "of trial" not in shown.out + shown.err


def test_threads_are_the_cpus_of_a_trial(runner_of):
    driver = Driver()
    one(runner_of(tasks.environment, resources_per_trial={"CPU": 2}), driver)
    assert driver.attrs["torch threads"] == 2


def test_a_checkpoint_where_only_its_node_sees_it_is_refused(runner_of, tmp_path):
    runner = runner_of(tasks.save)
    outcome = one(runner, assignment=Assignment(0, directory=str(tmp_path / "run-0")))
    assert "on storage that all nodes share" in outcome.reason
    (tmp_path / FILE).touch()  # as on storage that this node shares with the driver
    assert one(runner, assignment=Assignment(1, directory=str(tmp_path / "run-1"))).state is TrialState.COMPLETE


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resources", "rule"),
    [
        ({}, "must be a dict such as"),
        (2, "must be a dict such as"),
        ({"cpu": -1}, "must be numbers from 0, got -1 for 'cpu'"),
        ({"cpu": "1"}, "must be numbers from 0, got '1' for 'cpu'"),
        ({"cpu": float("nan")}, "must be numbers from 0"),
        ({"gpu": 1.5}, "may share one GPU or take whole ones, got 1.5"),
        ({"cpu": 0}, "must ask for something"),
    ],
)
def test_resources_that_cannot_be_are_refused(resources, rule):
    with pytest.raises(SettingError, match=rule):
        RayRunner(square, resources_per_trial=resources)


@pytest.mark.parametrize("workers", [0, -1, True, 1.5, "many"])
def test_a_number_of_workers_that_cannot_be_is_refused(workers):
    with pytest.raises(SettingError, match="workers must be a whole number from 1"):
        RayRunner(square, workers=workers)


def test_ray_that_cannot_be_started_says_what_it_needs(tmp_path):
    (tmp_path / "home").touch()  # no directory, so that nothing can be written below
    script = "from tunesmith.runners.ray import RayRunner; RayRunner(len)"
    settings = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    settings["HOME"] = str(tmp_path / "home")
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, env=settings, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 1
    assert "SettingError: Ray cannot be started here" in done.stderr
    assert "let HOME be writable, or set RAY_AUTH_TOKEN" in done.stderr


def test_resources_that_do_not_fit_this_machine_are_refused():
    script = "from tunesmith.runners.ray import RayRunner; RayRunner(len, resources_per_trial={'seats': 1})"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=LIMIT)
    assert "SettingError: resources_per_trial must fit a node, got 1 seats, and there is 0 seats" in done.stderr


def test_a_driver_outside_of_the_cluster_is_refused(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:10001")
    with pytest.raises(SettingError, match="the driver must run inside Ray's cluster"):
        RayRunner(square)
