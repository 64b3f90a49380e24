"""`tunesmith resume` of a search on several ranks: the launcher's command is run again, not one rank's."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import tunesmith
from tunesmith.trial import TrialState

sys.path.insert(0, str(Path(__file__).parents[1] / "runners"))
from launched import LIMIT, by_accelerate, command, notes, settings

SCRIPT = Path(__file__).with_name("resumed_script.py")


@pytest.mark.parametrize("launch", [command, by_accelerate], ids=["torchrun", "accelerate"])
def test_a_job_that_was_killed_in_the_middle_of_a_trial_is_finished_by_resume(tmp_path, launch):
    with subprocess.Popen(
        launch(SCRIPT), cwd=tmp_path, env=settings(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as job:
        ours = psutil.Process(job.pid)
        until = time.monotonic() + LIMIT
        while not all((tmp_path / f"at-{rank}").exists() for rank in range(2)):
            assert job.poll() is None and time.monotonic() < until, job.stdout.read()  # noqa: PT018  what it printed says why
            time.sleep(0.1)
        for process in [ours, *ours.children(recursive=True)]:
            process.kill()
        job.wait(LIMIT)
    (tmp_path / "killed").touch()
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith", "resume", str(tmp_path / "s")],
        cwd="/",
        env=settings(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    study = tunesmith.load_study(tmp_path / "s")
    assert [(t.state, t.attempt) for t in study.trials] == [
        (TrialState.COMPLETE, 1),
        (TrialState.COMPLETE, 2),
        (TrialState.COMPLETE, 1),
    ]
    again = [[n for n in notes(tmp_path, rank) if n["again"]] for rank in range(2)]
    assert again[0] == again[1]
    assert [n["step"] for n in again[0] if n.get("run") == "run-1"] == [5, 6, 7, 8]  # from its checkpoint
    assert again[0][-1] == {"again": True, "best": str(study.best_trial.number), "ranks": 2}
