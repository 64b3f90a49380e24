"""Workers of several ranks keep the contract; whatever happens to one rank, the trial ends on all and others run."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import optuna
import psutil
import pytest
from rank_tasks import FAULTS, STEPS, OneFaultEach, PruneOne, notes, sleep_on_rank_1

sys.path.insert(0, str(Path(__file__).parent.parent / "faults"))
from soak import rounds

import tunesmith
from tunesmith.conduct import Plan, conduct
from tunesmith.errors import SettingError
from tunesmith.runners.workers import WorkersRunner
from tunesmith.testing.runners import LIMIT, RunnerContract, one
from tunesmith.trial import Assignment, TrialState

OUTCOMES = {
    "none": (TrialState.COMPLETE, None),
    "rank 0 fails": (TrialState.FAILED, "error: ValueError: rank 0 fails (on rank 0 of 2)"),
    "rank 1 fails": (TrialState.FAILED, "error: ValueError: rank 1 fails (on rank 1 of 2)"),
    "both fail": (TrialState.FAILED, "error: ValueError: both fail"),
    "the study prunes": (TrialState.PRUNED, "pruned"),
    "rank 1 is killed": (TrialState.COMPLETE, "lost: rank 1 of 2 was killed by SIGKILL"),
    "rank 0 is killed": (TrialState.COMPLETE, "lost: rank 0 of 2 was killed by SIGKILL"),
    "rank 1 exits": (TrialState.FAILED, "error: SystemExit: 3 (on rank 1 of 2)"),
    "none again": (TrialState.COMPLETE, None),
    "FSDP, and rank 1 fails": (
        TrialState.FAILED,
        "error: ValueError: FSDP, and rank 1 fails (on rank 1 of 2)",
    ),
    "FSDP": (TrialState.COMPLETE, None),
}


TRIALS = rounds(len(FAULTS), 110)


class TestWorkersOfTwoRanks(RunnerContract):
    def make(self, task):
        return WorkersRunner(task, workers=1, ranks_per_trial=2)


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(pids):
    until = time.monotonic() + LIMIT
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, pids))


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    study = tunesmith.search(
        OneFaultEach(),
        TRIALS,
        directory=folder,
        backend="optuna",
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=PruneOne(),
        max_failures=10**6,
        ranks_per_trial=2,
        workers=1,
        progress=False,
    )
    study.record.close()
    return folder


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_its_trial_on_both_ranks_and_the_next_one_runs(faults, fault):
    study = tunesmith.load_study(faults)
    trials = study.trials
    study.record.close()
    assert len(trials) == TRIALS
    state, reason = OUTCOMES[fault]
    for trial in trials[FAULTS.index(fault) :: len(FAULTS)]:
        assert trial.state is state
        said = trial.attrs["failures"][0] if trial.attempt > 1 else trial.reason or ""
        assert said.startswith(reason or "")


def test_both_ranks_have_the_same_parameters_and_took_the_same_steps(faults):
    both = [[(n["trial"], n["attempt"], n["step"], n["x"], n["value"]) for n in notes(faults) if n["rank"] == rank]
            for rank in range(2)]  # fmt: skip
    assert both[0] == both[1]
    assert len({x for _, _, _, x, _ in both[0]}) == TRIALS


def test_a_killed_rank_takes_both_processes_with_it_and_the_trial_goes_on_from_its_checkpoint(faults):
    found = notes(faults)
    killed = [n for n in range(TRIALS) if "killed" in FAULTS[n % len(FAULTS)]]
    for number in killed:
        own = [n for n in found if n["trial"] == number]
        first, second = ([n for n in own if n["attempt"] == attempt] for attempt in (1, 2))
        assert {n["step"] for n in first} == {0, 1, 2, 3}
        assert {n["step"] for n in second} in ({3, 4, 5}, {4, 5})  # rank 0 may have saved the fourth step
        assert not {n["pid"] for n in first} & {n["pid"] for n in second}
    assert len({n["pid"] for n in found}) == 2 * (1 + len(killed))  # no other fault has cost a process
    assert gone({n["pid"] for n in found})


def test_a_trial_that_takes_too_long_is_ended_with_the_stacks_of_both_ranks(tmp_path):
    with closing(WorkersRunner(sleep_on_rank_1, workers=1, ranks_per_trial=2, trial_timeout=0.5)) as runner:
        outcome = one(runner, assignment=Assignment(0, directory=str(tmp_path / "run-0")))
        assert (outcome.state, outcome.reason) == (TrialState.FAILED, "timeout: the trial took longer than 0.5 s")
        assert "in hang_in_here" in outcome.detail
        assert "in sleep_on_rank_1" in outcome.detail


SCRIPT = """
import sys
import tunesmith
from rank_tasks import OneFaultEach

study = tunesmith.search(OneFaultEach(["none"] * 2), 2, directory=sys.argv[1], seed=0,
                         ranks_per_trial=2, workers=1, progress=False)
"""


def start(folder, pause):
    """The search in a process of its own; both its ranks have taken a new step when this returns."""
    known = len(notes(folder)) if (folder / "notes").exists() else 0
    environment = {**os.environ, "PAUSE": str(pause)}
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    script = subprocess.Popen(command, cwd=Path(__file__).parent, env=environment)
    until = time.monotonic() + LIMIT
    while script.poll() is None and time.monotonic() < until:
        new = notes(folder)[known:] if (folder / "notes").exists() else []
        if len({n["rank"] for n in new}) == 2:
            return script, {n["pid"] for n in new}
        time.sleep(0.02)
    raise AssertionError(f"the search takes no step: {script.poll()}")


def test_ctrl_c_pauses_and_a_killed_driver_leaves_nobody_and_the_search_goes_on(tmp_path):
    script, pids = start(tmp_path, 0.5)
    script.send_signal(signal.SIGINT)
    script.wait(LIMIT)
    assert gone(pids)
    study = tunesmith.load_study(tmp_path)
    assert study.trials[0].state is TrialState.PAUSED
    study.record.close()
    script, pids = start(tmp_path, 300)
    script.kill()
    script.wait(LIMIT)
    assert gone(pids)
    script, pids = start(tmp_path, 0)
    assert script.wait(LIMIT) == 0
    study = tunesmith.load_study(tmp_path)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 2
    assert [[r.step for r in t.reports] for t in study.trials] == [[*range(STEPS)]] * 2
    study.record.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ranks_per_trial": 0}, "ranks_per_trial must be a whole number from 1 to 100, got 0"),
        ({"ranks_per_trial": 2, "runner": "inline"}, "ranks_per_trial cannot be with runner .inline."),
        ({"gpus_per_trial": 2}, "gpus_per_trial must be 0 or None without a GPU, got 2"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_trial(tmp_path, monkeypatch, settings, message):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SettingError, match=message):
        tunesmith.search(OneFaultEach(), 1, directory=tmp_path, progress=False, **settings)
    assert not (tmp_path / "study.sqlite").exists()


def test_ranks_are_not_lent_to_other_processes(tmp_path):
    plan = Plan(("minimize",), directory=tmp_path, join=True, progress=False)
    with pytest.raises(SettingError, match="join=True lends workers of one process each, got 2 ranks"):
        conduct(plan, WorkersRunner(sleep_on_rank_1, workers=1, ranks_per_trial=2))


def test_torchs_server_listens_at_the_port_that_was_kept_for_it(faults):
    ports = {n["port"] for n in notes(faults)}
    assert len(ports) > 1  # one for each pair of processes; a later pair may get that of an earlier one
    assert str(os.environ.get("MASTER_PORT", "29500")) not in ports
