"""`tunesmith run` over scripts with a real Trainer inside, alone and under torchrun."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

import tunesmith
from tunesmith.trial import TrialState

SCRIPT = str(Path(__file__).with_name("trainer_script.py"))
FLAGS = [
    "--output_dir",
    "out",
    "--eval_strategy",
    "steps",
    "--eval_steps",
    "5",
    "--save_strategy",
    "steps",
    "--save_steps",
    "5",
    "--max_steps",
    "40",
    "--use_cpu",
    "--report_to",
    "none",
    "--disable_tqdm",
    "True",
    "--learning_rate",
    "0.001",
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text("learning_rate: {values: [1e-3, 1e-2]}\nhidden: {values: [4, 8]}\n")
    return tmp_path


def options(n, *launcher, slow=0.5):
    return [
        "run",
        "--directory",
        "s",
        "--space",
        "space.yaml",
        "--n-trials",
        str(n),
        "--seed",
        "0",
        "--",
        *launcher,
        SCRIPT,
        *FLAGS,
        "--slow",
        str(slow),
    ]


def begin(n, *launcher, slow=0.5):
    """A search whose first trial takes so many seconds for each step after the tenth, as a process."""
    Path("slow").touch()
    driver = subprocess.Popen([sys.executable, "-m", "tunesmith", *options(n, *launcher, slow=slow)])
    until = time.monotonic() + 240
    while not Path("at").exists() and time.monotonic() < until:
        time.sleep(0.1)
    return driver


def output(number):
    return Path("s", "logs", f"trial-{number}.log").read_text()


def test_a_trainer_reports_is_killed_and_goes_on_from_its_checkpoint(run, place):
    driver = begin(1, sys.executable, slow=1000)
    while tunesmith.load_study("s").trials[0].checkpoint_step != 10:  # the script has told it, and waits at step 11
        time.sleep(0.1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    killed = tunesmith.load_study("s").trials[0]
    assert killed.state is TrialState.RUNNING
    assert killed.checkpoint_step == 10
    Path("slow").unlink()
    assert run(*options(1, sys.executable, slow=1000)).code == 0
    trial = tunesmith.load_study("s").trials[0]
    assert (trial.state, trial.attempt) == (TrialState.COMPLETE, 2)
    assert [r.step for r in trial.reports] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert trial.reports[-1].share == 1
    assert re.findall(r"begins at step (\d+)", output(0)) == ["0", "10"]
    assert trial.values == (trial.metrics["eval_loss"],)
    assert run("best", "s", "--checkpoint").out == "s/run-0\n"


def test_all_ranks_of_torchrun_pause_at_one_step_and_go_on(run, place):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    driver = begin(1, *launcher)
    assert run("stop", "s").code == 0
    assert driver.wait(timeout=240) == 0
    paused = tunesmith.load_study("s").trials[0]
    assert (paused.state, paused.reason) == (TrialState.PAUSED, "stopped: asked on the command line")
    ends = set(re.findall(r"ends at step (\d+)", output(0)))
    assert ends <= {str(paused.checkpoint_step)}
    assert 10 < paused.checkpoint_step < 40
    if version("transformers").startswith("4."):
        return  # which cannot load an optimiser's state again on ranks without a GPU ("tagged with cpu:0")
    Path("slow").unlink()
    assert run(*options(1, *launcher)).code == 0
    trial = tunesmith.load_study("s").trials[0]
    assert (trial.state, trial.attempt, trial.reports[-1].step) == (TrialState.COMPLETE, 1, 40)
    assert output(0).count(f"begins at step {paused.checkpoint_step}") == 2
