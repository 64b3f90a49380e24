"""Searches on Ray: what is killed goes on, with the record's trials and the rest of the budget."""

import signal
import subprocess
import sys
import time

import pytest

from tunesmith import load_study, search
from tunesmith.errors import SettingError, UnknownBackendError
from tunesmith.trial import TrialState

LIMIT = 120.0
SCRIPT = """
import sys, time
import tunesmith

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    start = int(open(trial.resume_from + "/step").read()) if trial.resume_from else 0
    for step in range(start + 1, 5):
        time.sleep({pause})
        place = trial.directory / f"checkpoint-{{step}}"
        place.mkdir(parents=True, exist_ok=True)
        (place / "step").write_text(str(step))
        trial.report(x, step, checkpoint=str(place))
    return x

study = tunesmith.search(objective, 4, directory={directory!r}, seed=1, runner="ray", workers=1, progress=False)
print(*[trial.state.value for trial in study.trials])
"""


def start(tmp_path, *, pause):
    """Start a search in a process of its own."""
    script = SCRIPT.format(directory=str(tmp_path / "study"), pause=pause)
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def wait_for_reports(tmp_path, count):
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        time.sleep(0.1)
        if (tmp_path / "study" / "study.sqlite").exists():
            found = sum(len(trial.reports) for trial in load_study(tmp_path / "study").trials)
            if found >= count:
                return
    raise AssertionError(f"no {count} reports within {LIMIT} s")


def test_a_search_whose_driver_is_killed_goes_on_from_its_checkpoints(tmp_path):
    with start(tmp_path, pause=0.4) as driver:
        wait_for_reports(tmp_path, 6)
        driver.send_signal(signal.SIGKILL)  # as Ray does when it has lost its head for a minute
    before = load_study(tmp_path / "study").trials
    assert before[1].state is TrialState.RUNNING
    with start(tmp_path, pause=0) as driver:
        assert driver.stdout.read().split() == ["COMPLETE"] * 4
    after = load_study(tmp_path / "study").trials
    assert after[0] == before[0]
    assert after[1].params == before[1].params
    assert [r.step for r in after[1].reports] == [1, 2, 3, 4]
    assert after[1].reports[0] == before[1].reports[0]


def test_an_unknown_runner_is_refused():
    with pytest.raises(UnknownBackendError, match="unknown runner 'spark': one of inline, workers, ray, slurm"):
        search(lambda trial: 0.0, 1, runner="spark")


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"runner": "ray", "gpus_per_trial": 1}, 'gpus_per_trial cannot be with runner "ray": say it as resources_per'),
        ({"resources_per_trial": {"cpu": 1}}, 'resources_per_trial cannot be with runner "inline"'),
        ({"workers": 1, "resources_per_trial": {"cpu": 1}}, 'cannot be with runner "workers"'),
    ],
)
def test_arguments_of_another_runner_are_refused(arguments, rule):
    with pytest.raises(SettingError, match=rule):
        search(lambda trial: 0.0, 1, **arguments)
