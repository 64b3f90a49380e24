"""Where the study of a search lies, and what a script that torchrun has started may not ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

import tunesmith
from tunesmith.conduct import check_launched
from tunesmith.errors import SettingError


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


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"tuned": True}, "Ray Tune starts its own workers, got a script under torchrun"),
        ({"tuned": False, "workers": 2}, "workers must be None under torchrun, got 2: a trial runs on all 4 ranks"),
    ],
)
def test_what_starts_workers_is_refused_in_a_script_that_torchrun_has_started(
    given: dict[str, object], text: str
) -> None:
    with pytest.raises(SettingError, match=text):
        check_launched(4, **given)
