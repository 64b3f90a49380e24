"""Faults of drivers and workers: real processes, real signals."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from soak import rounds

import tunesmith
from tunesmith.trial import TrialState

HERE = Path(__file__).parent
STANDSTILL = 300.0  # seconds without another kill, after which a program hangs


def counts_of(program, log, *, kills):
    """What a program in this folder counts over so many kills; it fails when something is not as it must be."""
    command = [sys.executable, str(HERE / program), "--rounds", str(kills)]
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as ran:
        said, since = 0, time.monotonic()
        while ran.poll() is None:  # however long it takes, as long as it goes on
            time.sleep(0.1)
            if said != (said := log.stat().st_size):
                since = time.monotonic()
            elif time.monotonic() - since > STANDSTILL:
                ran.kill()
    assert ran.returncode == 0, log.read_text()
    counts = next(line for line in reversed(log.read_text().splitlines()) if line.startswith('{"kills"'))
    print(counts)  # shown by pytest -s
    return json.loads(counts)


def test_a_driver_killed_at_any_moment_loses_nothing_and_leaves_nobody(tmp_path):
    counts = counts_of("kill_driver.py", tmp_path / "log", kills=rounds(6, 200))
    assert counts["kills"] >= rounds(6, 200)
    # the record has all eight ends of each study; a kill may come before the driver has said one
    assert 8 * counts["studies"] - counts["kills"] <= counts["ends"] <= 8 * counts["studies"]


def test_a_driver_killed_while_trainers_train_loses_nothing_and_changes_no_result(tmp_path):
    counts = counts_of("kill_trainer.py", tmp_path / "log", kills=rounds(1, 20))
    assert counts["kills"] >= rounds(1, 20)


def test_a_worker_killed_at_any_moment_loses_its_own_trials_attempt_only(tmp_path):
    counts = counts_of("kill_worker.py", tmp_path / "log", kills=rounds(15, 200))
    assert counts["lost attempts"] == counts["kills"] >= rounds(15, 200)


def always_dies(trial):
    print("about to die", flush=True)
    os._exit(3)


def test_a_trial_whose_worker_always_dies_fails_after_max_retries_with_its_reasons(tmp_path):
    study = tunesmith.search(
        always_dies, 1, directory=tmp_path, workers=1, max_retries=2, max_failures=5, progress=False
    )
    (trial,) = study.trials
    assert (trial.state, trial.attempt) == (TrialState.FAILED, 3)
    assert trial.reason == "lost: the worker exited with code 3"
    assert trial.attrs["failures"] == [trial.reason] * 2
    assert "about to die" in trial.detail


def goes_wrong(trial):
    x = trial.suggest_float("x", 0, 1)
    if trial.number % 2:
        return 1 + x
    kind = trial.number // 2 % 6
    if kind == 0:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
    if kind == 1:
        raise MemoryError("no room")
    value = {2: float("nan"), 3: float("inf"), 4: float("-inf")}.get(kind)
    if value is not None:
        return value
    trial.report(float("nan"), 1)
    assert trial.should_prune()
    raise optuna.TrialPruned


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_no_fault_is_ever_best_and_the_next_trial_runs(tmp_path, direction):
    n = rounds(12, 200)
    study = tunesmith.search(
        goes_wrong,
        n,
        direction=direction,
        directory=tmp_path,
        workers=2,
        max_failures=n,
        seed=0,
        progress=False,
    )
    reasons = ("oom: RuntimeError: CUDA out of memory", "oom: MemoryError", "nan", "nan", "nan", "nan")
    for trial in study.trials:
        if trial.number % 2:
            assert trial.state is TrialState.COMPLETE
        else:
            assert trial.state is TrialState.FAILED
            assert trial.reason.startswith(reasons[trial.number // 2 % 6])
            assert trial.values is None
    assert len(study.trials) == n
    assert study.best_trial.number % 2 == 1
