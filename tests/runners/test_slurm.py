"""The Slurm runner, with submitit's local executor in Slurm's place: real jobs, on this machine."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
import worker_tasks as tasks

import tunesmith
from tunesmith.errors import SettingError
from tunesmith.runners.slurm import SlurmRunner
from tunesmith.trial import TrialState

HERE = {"cluster": "local"}


def search(directory, objective, n_trials, **settings):
    return tunesmith.search(
        objective, n_trials, directory=directory / "study", seed=0, progress=False, runner="slurm",
        **{"workers": 2, "resources_per_trial": HERE, **settings},
    )  # fmt: skip


def left_behind(directory):
    """Files and processes of the jobs."""
    jobs = [p.pid for p in psutil.Process().children(recursive=True) if "submitit" in " ".join(p.cmdline())]
    return [*directory.glob(".tunesmith-slurm-*"), *jobs]


def test_trials_run_in_jobs_and_one_that_is_lost_or_preempted_is_run_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    me = os.getpid()

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        trial.set_user_attr("pid", os.getpid())
        trial.report(x, 1)
        if os.getpid() == me:
            raise RuntimeError("not in a job")
        if trial.number == 1 and trial.attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if trial.number == 2 and trial.attempt == 1:
            os.kill(os.getpid(), signal.SIGUSR2)  # as submitit's jobs are warned before they are preempted
            signal.pause()
        if trial.number == 3:
            raise ValueError("odd")
        return x

    trials = search(tmp_path, objective, 6).trials
    states = [t.state for t in trials]
    assert states.count(TrialState.COMPLETE) == 5
    assert (states[3], trials[3].reason) == (TrialState.FAILED, "error: ValueError: odd")
    assert [t.attempt for t in trials[:4]] == [1, 2, 2, 1]
    assert len({t.attrs["pid"] for t in trials}) >= 2
    assert left_behind(tmp_path) == []


def test_a_trial_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (trial,) = search(tmp_path, tasks.hold_the_gil, 1, workers=1, trial_timeout=0.5, max_failures=9).trials
    assert trial.reason == "timeout: the trial took longer than 0.5 s"
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"resources_per_trial": {}}, r"on a machine that has Slurm's commands, got \{\}"),
        ({"resources_per_trial": {**HERE, "gpus": 1}}, "what submitit takes"),
        ({"workers": "auto"}, "a whole number from 1 with Slurm, .* got 'auto'"),
        ({"workers": 0}, "got 0"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(tmp_path, monkeypatch, settings, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SettingError, match=said):
        SlurmRunner(tasks.remember, **{"workers": 1, "resources_per_trial": HERE, **settings})
    assert list(Path().iterdir()) == []
