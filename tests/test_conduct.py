"""Where the study of a search lies."""

from __future__ import annotations

from pathlib import Path

import pytest

import tunesmith


def test_a_study_stays_where_it_began_when_a_trial_changes_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)

    def objective(trial: tunesmith.LiveTrial) -> float:
        trial.directory.mkdir()
        monkeypatch.chdir(tmp_path / "other")
        return trial.suggest_float("x", 0, 1)

    study = tunesmith.search(objective, n_trials=2, directory="here", progress=False)
    assert not any((tmp_path / "other").iterdir())
    assert {"report.html", "run-0", "run-1", "study.sqlite"} <= {p.name for p in (tmp_path / "here").iterdir()}
    assert study.run_directory(1).is_dir()
