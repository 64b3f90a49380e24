"""Two processes that want to drive one study: the second is refused or joins; clocks do not matter."""

import os
import random
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
from fault_tasks import STEPS, attempts, learn, notes
from soak import rounds

import tunesmith
from tunesmith.errors import SettingError, StudyLockedError
from tunesmith.folders import GATE
from tunesmith.trial import TrialState

HERE = Path(__file__).parent
PATIENCE = 120.0


def start(directory, trials, *, join=False, clock=0):
    command = [
        sys.executable,
        HERE / "shared_search.py",
        directory,
        str(trials),
        "join" if join else "alone",
        str(clock),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition):
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def pids(directory):
    return {note[-1] for note in notes(directory)}


def assert_whole(directory, trials):
    study = tunesmith.load_study(directory)
    assert [t.number for t in study.trials] == list(range(trials))
    assert {t.state for t in study.trials} == {TrialState.COMPLETE}, study.summary()
    assert all([r.step for r in t.reports] == list(range(STEPS)) for t in study.trials)
    for number, known in attempts(directory).items():
        returned = [a for a in known if known[a][-1][0] == "returns"]
        assert max(known) in returned, f"trial {number}"


def test_a_second_driver_is_refused_with_the_firsts_host_and_process_whatever_the_clocks(tmp_path, monkeypatch):
    true_time = time.time
    with start(tmp_path, 10_000, clock=3600) as first:
        wait_for(lambda: notes(tmp_path))
        for round_ in range(rounds(6, 50)):
            off = (-3600, 0, 3600)[round_ % 3]
            monkeypatch.setattr(time, "time", lambda off=off: true_time() + off)
            with pytest.raises(StudyLockedError, match=f"process {first.pid} on {socket.gethostname()}"):
                tunesmith.search(partial(learn, pause=0.05), 10_000, study="shared", directory=tmp_path, progress=False)
        first.kill()
        monkeypatch.undo()
    begun = len(tunesmith.load_study(tmp_path).trials)
    with start(tmp_path, begun) as second:  # an hour earlier than the first
        out, _ = second.communicate(timeout=PATIENCE)
    assert f"{begun} complete" in out
    assert_whole(tmp_path, begun)


@pytest.mark.parametrize("victim", ["nobody", "the driver", "who has joined"])
def test_who_joins_lends_workers_and_the_study_is_whole_whoever_is_killed(tmp_path, victim):
    rng = random.Random(victim)
    for round_ in range(rounds(1, 20)):
        directory = tmp_path / str(round_)
        directory.mkdir()
        with start(directory, 30, join=True) as first:
            wait_for(lambda: notes(directory))  # noqa: B023
            with start(directory, 30, join=True, clock=-3600) as second:
                wait_for(lambda: len(pids(directory)) > 2)  # noqa: B023
                time.sleep(rng.uniform(0, 0.5))
                if victim != "nobody":
                    killed, other = (first, second) if victim == "the driver" else (second, first)
                    children = psutil.Process(killed.pid).children(recursive=True)
                    killed.kill()
                    killed.wait()
                    psutil.wait_procs(children, timeout=PATIENCE)
                    assert not any(c.is_running() for c in children)
                    out, _ = other.communicate(timeout=PATIENCE)
                    assert "30 complete" in out  # when the driver is killed, the other drives
                else:
                    assert all("30 complete" in p.communicate(timeout=PATIENCE)[0] for p in (first, second))
        assert_whole(directory, 30)
        assert not (directory / GATE).exists()


@pytest.mark.parametrize("settings", [{"workers": None}, {"workers": 1, "resume": False}])
def test_join_needs_workers_and_a_study_to_share(tmp_path, settings):
    with pytest.raises(SettingError, match="join=True lends workers"):
        tunesmith.search(learn, 1, directory=tmp_path, join=True, progress=False, **settings)
    assert os.listdir(tmp_path) == []  # noqa: PTH208
