"""Faults of the process that drives a Trainer's search: it dies while saving, is asked to stop, or its disk is full."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import optuna
import pytest

import tunesmith
from tunesmith.errors import DiskFullError
from tunesmith.trial import TrialState

sys.path.insert(0, str(Path(__file__).parent))

from main_search import PLACES, TRIALS, search
from soak import rounds

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tunesmith.trainer_search"])


def start(directory, seed=0, **harm):
    """The search in a process of its own, and the lines it sends: after each step the trial's name and the step."""
    reading, writing = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=search, args=(str(directory), seed, writing), kwargs=harm)
    process.start()
    writing.close()
    return process, os.fdopen(os.dup(reading.fileno()), encoding="utf-8")


def finish(process, lines):
    with lines:
        sent = lines.read().splitlines()
    process.join(120)
    return sent


def results(directory):
    """The parameters and values of all trials, with their reports; all must have completed."""
    study = tunesmith.load_study(directory)
    trials = study.trials
    study.record.close()
    assert [t.state for t in trials] == [TrialState.COMPLETE] * TRIALS, [(t.state, t.reason, t.detail) for t in trials]
    return [(dict(t.params), t.values, [(r.step, r.values) for r in t.reports]) for t in trials]


@lru_cache
def uninterrupted(home, seed):
    process, lines = start(home / f"whole-{seed}", seed)
    finish(process, lines)
    assert process.exitcode == 0
    return results(home / f"whole-{seed}")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("searches")


def test_a_process_that_dies_while_saving_goes_on_from_the_last_whole_checkpoint(home):
    for k in range(rounds(2, 100)):
        place, step = PLACES[(k + 1) % len(PLACES)], 8 * (1 + (k + 1) % 3)
        directory = home / f"torn-{k}"
        process, lines = start(directory, place=place, step=step)
        finish(process, lines)
        assert process.exitcode == -signal.SIGKILL
        process, lines = start(directory)
        again = [line for line in finish(process, lines) if line.startswith("run-1")]
        assert process.exitcode == 0
        assert again[0] == f"run-1 {step - 8 + 1}"  # the checkpoint before the one that was torn
        assert results(directory) == uninterrupted(home, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_stop_pauses_the_trial_with_a_checkpoint_and_the_search_resumes(home, number):
    rng = random.Random(number)
    for k in range(rounds(1, 25)):
        directory = home / f"signal-{number}-{k}"
        process, lines = start(directory)
        for _ in range(rng.randint(1, 40)):
            lines.readline()
        os.kill(process.pid, number)
        finish(process, lines)
        assert process.exitcode == 128 + number
        study = tunesmith.load_study(directory)
        paused = [t for t in study.trials if t.state is TrialState.PAUSED]
        assert not [t for t in study.trials if t.state is TrialState.RUNNING]
        assert all(study.checkpoint(t) is not None for t in paused)
        study.record.close()
        process, lines = start(directory)
        finish(process, lines)
        assert process.exitcode == 0
        for (params, values, reports), whole in zip(results(directory), uninterrupted(home, 0), strict=True):
            assert (params, values) == whole[:2]
            assert set(whole[2]) <= set(reports)  # and the evaluation at the pause


def test_a_search_killed_at_random_has_the_trials_of_an_uninterrupted_one(home):
    rng = random.Random(0)
    for seed in range(rounds(1, 20)):
        directory = home / f"killed-{seed}"
        process, lines = start(directory, seed)
        for _ in range(rng.randint(1, 47)):
            lines.readline()
        process.kill()
        finish(process, lines)
        process, lines = start(directory, seed)
        finish(process, lines)
        assert results(directory) == uninterrupted(home, seed)


@contextmanager
def small_disk(path, kilobytes):
    """A disk of its own at `path`, with so little room."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(path)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_full_disk_ends_the_search_with_path_and_free_space_and_it_resumes_when_there_is_room(home):
    for k in range(rounds(2, 50)):
        directory = home / f"full-{k}"
        # from no room for the record to none for a late checkpoint
        with small_disk(directory, 180 + 4 * ((k * 17 + 34) % 50) if k else 130):
            process, lines = start(directory)
            sent = finish(process, lines)
            if process.exitcode == 7:
                assert sent[-1].startswith(("error RecordFullError", "error DiskFullError")), sent[-1]
                assert str(directory) in sent[-1]
                subprocess.run(["mount", "-o", "remount,size=20m", str(directory)], check=True)
                process, lines = start(directory)
                finish(process, lines)
            assert process.exitcode == 0
            assert results(directory) == uninterrupted(home, 0)


def test_a_full_disk_is_no_failure_of_the_trial(tmp_path):
    def objective(trial):
        trial.suggest_float("x", 0, 1)
        raise OSError(28, "No space left on device", str(tmp_path / "model.bin"))

    with pytest.raises(DiskFullError, match=r"model\.bin.* MB free .*the same call continues the study"):
        tunesmith.search(objective, 5, directory=tmp_path, progress=False)
    assert [t.state for t in tunesmith.load_study(tmp_path).trials] == [TrialState.PAUSED]


@pytest.mark.parametrize("backend", ["tunesmith", "optuna"])
def test_failed_trials_are_never_best_and_the_backend_is_told(tmp_path, backend):
    class Told(optuna.samplers.RandomSampler):
        def after_trial(self, study, trial, state, values):
            told.append((state.name, values))

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        if trial.number == 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return bad.get(trial.number, x)

    told, bad = [], {2: float("nan"), 4: float("inf"), 5: float("-inf")}
    settings = {"sampler": Told()} if backend == "optuna" else {}
    settings |= {"max_failures": 8, "seed": 0, "progress": False}
    study = tunesmith.search(objective, 8, directory=tmp_path, backend=backend, **settings)
    failed = {t.number: t.reason.partition(":")[0] for t in study.trials if t.state is TrialState.FAILED}
    assert failed == {1: "oom", 2: "nan", 4: "nan", 5: "nan"}
    assert study.best_trial.number in {0, 3, 6, 7}
    if backend == "optuna":
        assert [number for number, (state, _) in enumerate(told) if state == "FAIL"] == [1, 2, 4, 5]
