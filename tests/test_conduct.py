"""What is checked of a search before it begins, where its study lies, and what a script under torchrun may not ask for."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import EarlyStoppingCallback

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


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"seed": "a"}, "seed must be a whole number or None, got 'a'"),
        ({"objective": "f"}, "objective must be a function, got 'f'"),
        ({"callbacks": print}, "callbacks must be a list of objects, got <built-in function print>"),
        (
            {"callbacks": [EarlyStoppingCallback()]},
            "got 'EarlyStoppingCallback', which has none: .* callbacks of a Tr",
        ),
        ({"callbacks": [print]}, "got 'print', which has none"),
    ],
)
def test_what_would_be_of_no_use_is_refused_before_any_trial(tmp_path, settings, text):
    with pytest.raises(SettingError, match=text):
        tunesmith.search(
            **{"objective": lambda t: 1.0, "n_trials": 1, "directory": tmp_path, "progress": False, **settings}
        )
    assert not list(tmp_path.iterdir())
