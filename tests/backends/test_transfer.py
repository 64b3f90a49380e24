"""The best configurations of earlier studies are tried first."""

from dataclasses import replace
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution

import tunesmith
from tunesmith.errors import RecordError, SettingError

SPACE = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}


def search(directory: Path, n: int = 6, space=SPACE, **settings) -> tunesmith.Study:
    def objective(trial: tunesmith.LiveTrial) -> float:
        return sum((v - 0.3) ** 2 for v in trial.params.values())

    return tunesmith.search(objective, n, space=space, directory=directory, progress=False, seed=1, **settings)


def test_the_first_trial_is_the_best_of_the_earlier_study(tmp_path: Path) -> None:
    earlier = search(tmp_path / "a")
    for k, given in enumerate((earlier, earlier.directory, str(earlier.directory / "study.sqlite"))):
        study = search(tmp_path / f"b{k}", 2, warm_start=[given])
        assert study.trials[0].params == earlier.best_trial.params
        assert study.trials[0].why["text"] == "the best configuration of an earlier study"
        assert study.trials[1].params != earlier.best_trial.params


def test_each_earlier_study_gives_one_the_newest_first(tmp_path: Path) -> None:
    first, second = search(tmp_path / "a", 3), search(tmp_path / "b", 6)
    study = search(tmp_path / "c", 2, warm_start=[first, second])
    assert [t.params for t in study.trials] == [second.best_trial.params, first.best_trial.params]


def test_parameters_that_only_one_of_the_studies_has_are_left_to_the_engine(tmp_path: Path) -> None:
    earlier = search(tmp_path / "a", space={**SPACE, "gone": FloatDistribution(0.0, 1.0)})
    study = search(tmp_path / "b", 1, warm_start=[earlier], space={"x": SPACE["x"], "new": FloatDistribution(5.0, 6.0)})
    assert study.trials[0].params["x"] == earlier.best_trial.params["x"]
    assert 5.0 <= study.trials[0].params["new"] <= 6.0


def test_enqueued_trials_come_as_they_are_and_then_the_earlier_studys(tmp_path: Path) -> None:
    earlier = search(tmp_path / "a")
    study = search(tmp_path / "b", 3, warm_start=[earlier], enqueue=[{"x": 0.9, "y": 0.9}])
    assert study.trials[0].params == {"x": 0.9, "y": 0.9}
    assert study.trials[1].params == earlier.best_trial.params != study.trials[2].params


def test_an_earlier_studys_best_that_was_tried_already_is_not_tried_again(tmp_path: Path) -> None:
    earlier = search(tmp_path / "a")
    study = search(tmp_path / "b", 3, warm_start=[earlier], enqueue=[dict(earlier.best_trial.params)])
    assert sum(t.params == earlier.best_trial.params for t in study.trials) == 1


@pytest.mark.parametrize(
    ("space", "direction", "message"),
    [
        ({"z": SPACE["x"]}, "minimize", "share parameters"),
        ({"x": FloatDistribution(5.0, 6.0)}, "minimize", "share parameters"),
        (SPACE, "maximize", "must have the directions"),
    ],
)
def test_a_study_that_does_not_fit_is_refused(tmp_path: Path, space, direction: str, message: str) -> None:
    earlier = search(tmp_path / "a")
    with pytest.raises(SettingError, match=message):
        search(tmp_path / "b", 2, space, warm_start=[earlier], direction=direction)


def test_a_study_without_a_completed_trial_or_a_missing_one_is_refused(tmp_path: Path) -> None:
    class Empty:
        directions = ("minimize",)
        trials = tuple(replace(t, values=None) for t in search(tmp_path / "a", 1).trials)

    with pytest.raises(SettingError, match="must have a completed trial"):
        search(tmp_path / "b", 2, warm_start=[Empty()])
    with pytest.raises(RecordError):
        search(tmp_path / "c", 2, warm_start=[tmp_path / "nowhere"])
