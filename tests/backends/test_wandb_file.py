"""What a killed process has got to disk of a run is told from its file, and the rest is logged again."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest

from tunesmith.backends import wandb_file
from tunesmith.backends.wandb_runs import Runs
from tunesmith.trial import Report, Trial, TrialState

TRIAL = Trial(0, TrialState.RUNNING, started=1.0)
RUN = "abc-0"


def runs(directory):
    return Runs(
        str(directory), project="p", entity=None, group="g", metric="loss", names=["loss"], upload=False, alone=False
    )


def logged(directory, trial, steps, rows, text="") -> Path:
    """Log steps and the trial's reports as one start of a search does; the run's file, when all files have so many rows."""
    started = runs(directory)
    started.begin(trial, RUN, sweep=None, config={})
    for step in steps:
        started.log_between(0, step, {"rate": 1.0 / step, "note": text})
    started.log(trial)
    started.pause()
    until = time.monotonic() + 60.0
    while len(list(wandb_file.rows(directory, RUN))) < rows and time.monotonic() < until:
        time.sleep(0.05)  # W&B's client goes on writing after finish()
    return max(directory.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture(autouse=True)
def client(wandb_client):
    return wandb_client


def test_rows_come_back_whatever_their_size(tmp_path):
    text = "long enough for three blocks " * 3000
    logged(tmp_path, TRIAL, range(1, 5), 4, text)
    assert list(wandb_file.rows(tmp_path, RUN)) == [
        {"rate": 1.0 / step, "note": text, "trial/step": step} for step in range(1, 5)
    ]


def test_no_row_of_another_run_is_read(tmp_path):
    logged(tmp_path, TRIAL, [1], 1)
    assert list(wandb_file.rows(tmp_path, "abc")) == []


def test_what_a_kill_kept_from_the_file_is_logged_again_and_nothing_else(tmp_path):
    reports = (Report(2, (0.5,)), Report(4, (0.25,)))
    trial = dataclasses.replace(TRIAL, reports=reports)
    file = logged(tmp_path, trial, range(1, 5), 6)
    whole = file.read_bytes()
    kept = 0
    for size in range(len(whole), 0, -1):  # cut off within a row
        file.write_bytes(whole[:size])
        kept = len(list(wandb_file.rows(tmp_path, RUN)))
        if kept == 5:
            break
    assert kept == 5  # four steps and the first report: the second one is torn
    time.sleep(1.0)  # W&B names a start's folder by the second
    logged(tmp_path, trial, range(1, 6), 7)
    rows = list(wandb_file.rows(tmp_path, RUN))
    assert [row["trial/step"] for row in rows if "rate" in row] == [1, 2, 3, 4, 5]
    assert [row["loss"] for row in rows if "loss" in row] == [0.5, 0.25]


def test_a_file_that_is_none_of_wandbs_has_no_rows(tmp_path):
    directory = tmp_path / "wandb" / f"offline-run-1-{RUN}"
    directory.mkdir(parents=True)
    for content in (b"", b"x" * 5, b"\xff" * 70_000):
        (directory / f"run-{RUN}.wandb").write_bytes(content)
        assert list(wandb_file.rows(tmp_path, RUN)) == []
