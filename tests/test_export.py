"""Trials in other forms."""

from __future__ import annotations

import optuna
import pandas as pd
import pytest

import tunesmith
from tunesmith.errors import SettingError
from tunesmith.trial import TrialState


@pytest.fixture
def study(tmp_path):
    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        kind = trial.suggest_categorical("kind", ["a", None, 3])
        trial.report(x, 10)
        trial.set_user_attr("note", "n")
        if trial.number == 1:
            raise ValueError("odd")
        return x + (kind == "a")

    return tunesmith.search(objective, 6, directory=tmp_path, seed=1, progress=False)


def test_the_dataframe_has_a_row_per_trial(study):
    frame = study.to_dataframe()
    assert list(frame["number"]) == list(range(6))
    assert frame["value"].isna().tolist() == [t.state is TrialState.FAILED for t in study.trials]
    assert frame["params_x"].tolist() == [t.params["x"] for t in study.trials]
    assert frame["reason"][1] == "error: ValueError: odd"


def test_csv_and_parquet_can_be_read_again(study, tmp_path):
    study.export(tmp_path / "t.csv")
    study.export(tmp_path / "t.parquet")
    assert pd.read_csv(tmp_path / "t.csv")["params_x"].tolist() == pytest.approx(study.to_dataframe()["params_x"])
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), study.to_dataframe())


def test_the_optuna_study_says_the_same(study):
    other = study.to_optuna()
    assert other.best_value == study.best_trial.value
    assert [t.params for t in other.trials] == [dict(t.params) for t in study.trials]
    assert other.trials[1].state == optuna.trial.TrialState.FAIL
    assert other.trials[0].intermediate_values == {10: study.trials[0].params["x"]}
    assert other.trials[0].user_attrs["note"] == "n"


def test_the_journal_opens_in_optuna(study, tmp_path):
    path = study.export(tmp_path / "journal.log")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    assert len(optuna.load_study(study_name=study.name, storage=storage).trials) == 6
    with pytest.raises(SettingError, match="new file"):
        study.export(path)
    with pytest.raises(SettingError, match=r"\.csv, \.parquet or \.log"):
        study.export(tmp_path / "t.xlsx")
