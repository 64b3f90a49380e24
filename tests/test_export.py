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
    with pytest.raises(SettingError, match="new place"):
        study.export(path)
    with pytest.raises(SettingError, match=r"\.csv, \.parquet, \.log"):
        study.export(tmp_path / "t.xlsx")


def test_tensorboard_gets_a_run_for_each_trial_with_its_parameters_reports_and_end(study, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import api_pb2, metadata

    def read(folder):
        found = EventAccumulator(str(folder)).Reload()
        return found, found.summary_metadata

    path = study.export(tmp_path / "t.tensorboard")
    _, about = read(path)
    experiment = metadata.parse_experiment_plugin_data(about[metadata.EXPERIMENT_TAG].plugin_data.content)
    assert [h.name for h in experiment.hparam_infos] == ["kind", "x"]
    assert [m.name.tag for m in experiment.metric_infos] == ["objective"]
    for trial in study.trials:
        run, about = read(path / f"trial-{trial.number}")
        begun = metadata.parse_session_start_info_plugin_data(
            about[metadata.SESSION_START_INFO_TAG].plugin_data.content
        )
        ended = metadata.parse_session_end_info_plugin_data(about[metadata.SESSION_END_INFO_TAG].plugin_data.content)
        assert begun.group_name == f"trial {trial.number}"
        assert begun.hparams["x"].number_value == trial.params["x"]
        failed = trial.state is TrialState.FAILED
        assert ended.status == (api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS)
        values = [trial.reports[0].values[0], *(trial.values or ())]
        assert [e.value for e in run.Scalars("objective")] == pytest.approx(values)
    with pytest.raises(SettingError, match="new place"):
        study.export(path)


def test_optunas_figures_draw_any_study(study):
    plots = pytest.importorskip("optuna.visualization")
    pytest.importorskip("plotly")
    other = study.to_optuna()
    for draw in (
        plots.plot_optimization_history,
        plots.plot_slice,
        plots.plot_parallel_coordinate,
        plots.plot_timeline,
    ):
        assert draw(other).data, draw.__name__
